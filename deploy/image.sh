#!/usr/bin/env bash
# Makes an OCI image of the release binary without a daemon: a layout in target/image/oci, and the same as one file for
# `podman load`, `docker load` and `skopeo copy oci-archive:`.
#
#   image.sh BINARY     as root; SUITE is the Debian that it was built on
#
# Its one layer holds the binary, the libraries that it is linked with, the authorities that Debian trusts, time zones, and a user
# without a name for a shell. The same packages and the same commit give the same bytes.
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
version=$("$binary" --version | awk 'NR == 1 { print $2 }')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
home=target/image
rm -rf --one-file-system "$home"
mkdir -p "$home"
root=$home/root

# Unpacked and not configured: no shell, no package manager, nothing that runs.
mmdebstrap --quiet --mode=root --variant=extract --include=base-files,libc6,libgcc-s1,libssl3,netbase,tzdata "$suite" "$home/unpacked"
install -d "$root"/{etc/ssl/certs,etc/portcullis,usr/bin,var/lib,run,tmp}
mkdir -p "$home/ca"
(cd "$home/ca" && apt-get download -qq ca-certificates && dpkg-deb -x ./*.deb . && cat usr/share/ca-certificates/mozilla/*.crt) \
    >"$root/etc/ssl/certs/ca-certificates.crt"
install -m 755 "$binary" "$root/usr/bin/portcullis"
keep() { # PATH... of the unpacked packages
    (cd "$home/unpacked" && tar -c "$@") | tar -x -C "$root"
}
# As Debian has it now, all of /lib is in /usr; not every package knows.
ln -s usr/lib usr/lib64 "$root"
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    library=${library#/usr}
    for from in "$home/unpacked/usr$library" "$home/unpacked$library"; do
        if [ -e "$from" ]; then install -D "$(realpath "$from")" "$root/usr$library"; fi
    done
done
modules=$(cd "$home/unpacked" && find usr/lib -type d -name ossl-modules)
keep usr/share/zoneinfo etc/os-release usr/lib/os-release etc/protocols etc/services "$modules"
ln -s /usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/nonexistent\nportcullis:x:10001:10001::/var/lib/portcullis:/nonexistent\n' >"$root/etc/passwd"
printf 'root:x:0:\nportcullis:x:10001:\n' >"$root/etc/group"
install -d -o 10001 -g 10001 -m 700 "$root/var/lib/portcullis" "$root/run/portcullis"
chmod 1777 "$root/tmp"

deploy/oci.py "$root" "$home" "$version" "$(dpkg --print-architecture)"
rm -rf --one-file-system "$home/unpacked" "$home/ca" "$root"
ls -l "$home"
