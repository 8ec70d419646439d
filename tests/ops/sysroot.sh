#!/usr/bin/env bash
# Unpacks what a cross build links and runs with, once, and prints where it lies. Nothing of it is installed on this machine.
#
#   sysroot.sh DIRECTORY ARCHITECTURE     SUITE is the Debian to take it from, else that of this machine
set -euo pipefail
suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
home=$(realpath -m "$1")/$suite-$2
if [ ! -e "$home.whole" ]; then
    rm -rf --one-file-system "$home"
    mkdir -p "$(dirname "$home")"
    mode=unshare
    [ "$(id -u)" != 0 ] || mode=root
    # Unpacked and not configured: nothing that is for another processor runs.
    mmdebstrap --quiet --mode=$mode --architectures="$2" --variant=extract --include=libc6,libgcc-s1,libssl-dev "$suite" "$home" >&2
    touch "$home.whole"
fi
echo "$home"
