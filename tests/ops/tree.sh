#!/usr/bin/env bash
# Runs a command inside a minimal Debian tree, which is the root of a mount and process namespace of its own; the network is the
# machine's, and so are the certificates that its package registries are trusted by.
#
#   tree.sh make TREE SUITE PACKAGE,... [released]         as root; once, and again only when its packages change. A released
#                                                         one has the suite as it came out, without updates
#   tree.sh run TREE USER [--bind FROM TO]... COMMAND...  as root
set -euo pipefail

make() { # TREE SUITE PACKAGES [released]
    local wanted="$*" options=(--quiet --mode=root --variant=minbase --dpkgopt=force-unsafe-io --include="$3")
    # shellcheck disable=SC2016 # mmdebstrap's own $1
    [ -z "${4:-}" ] || options+=('--setup-hook=sed -i "/-security\|-updates/d" "$1"/etc/apt/sources.list')
    if [ -d "$1" ] && [ "$(cat "$1.wanted" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    rm -rf --one-file-system "$1" "$1.wanted"
    mkdir -p "$(dirname "$1")"
    mmdebstrap "${options[@]}" "$2" "$1"
    # No service of the tree's may start on the machine's network.
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
    chmod +x "$1/usr/sbin/policy-rc.d"
    echo "127.0.0.1 localhost" >"$1/etc/hosts"
    echo "$wanted" >"$1.wanted"
}

run() { # TREE USER [--bind FROM TO]... COMMAND...
    local tree=$1 user=$2 binds=()
    shift 2
    while [ "$1" = --bind ]; do
        binds+=("$2" "$3")
        shift 3
    done
    cp /etc/resolv.conf "$tree/etc/resolv.conf"
    exec unshare --mount --pid --ipc --fork --kill-child --propagation private \
        bash "$0" enter "$tree" "$user" "${#binds[@]}" "${binds[@]}" "$@"
}

enter() { # TREE USER COUNT BINDS... COMMAND...
    local tree=$1 user=$2 count=$3 home
    shift 3
    mount --bind "$tree" "$tree"
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    mount --rbind /sys "$tree/sys"
    mount -t tmpfs -o mode=755 tmpfs "$tree/run"
    for (( ; count > 0; count -= 2)); do
        if [ -d "$1" ]; then mkdir -p "$tree$2"; else touch "$tree$2"; fi
        mount --bind "$1" "$tree$2"
        shift 2
    done
    # The tests of all trees share the ports of one network.
    local ports=/tmp/portcullis-test-ports
    mkdir -p "$ports" "$tree$ports"
    mount --bind "$ports" "$tree$ports"
    local trusted=/etc/ssl/certs/ca-certificates.crt
    cp "$trusted" "$tree/run/trusted.pem"
    cd "$tree"
    mkdir -p mnt
    pivot_root . mnt
    umount -l /mnt
    home=$(awk -F: -v user="$user" '$1 == user { print $6 }' /etc/passwd)
    cd "$home"
    exec setpriv --reuid="$user" --regid="$user" --init-groups env -i HOME="$home" USER="$user" LC_ALL=C.UTF-8 \
        PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        SSL_CERT_FILE=/run/trusted.pem CARGO_HTTP_CAINFO=/run/trusted.pem PIP_CERT=/run/trusted.pem \
        NODE_EXTRA_CA_CERTS=/run/trusted.pem DEBIAN_FRONTEND=noninteractive \
        bash -c '"$@"; exit $?' init "$@" # the first process, which has orphans to reap
}

"$@"
