#!/usr/bin/env bash
# Puts together what is released, of what build.sh has built: a tarball, the Debian package, the bill of materials, and their checksums,
# in SOURCE/target/dist. The same source gives the same bytes.
#
#   dist.sh [SOURCE]     ARCH=arm64 for what was cross-built
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "${1:-$here/../..}" && pwd)
cd "$source"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
native=$(dpkg --print-architecture)
arch=${ARCH:-$native}
built=target/package
[ "$arch" = "$native" ] || built=target/package/aarch64-unknown-linux-gnu
version=$(sed -n '/^\[workspace.package\]/,/^version/s/^version = "\(.*\)"/\1/p' Cargo.toml)
name=portcullis-$version-linux-$arch
dist=target/dist
mkdir -p "$dist"

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
umask 022
install -D "$built/release/portcullis" "$tree/$name/bin/portcullis"
mkdir -p "$tree/$name"/share/{man,completions,doc,portcullis,systemd}
for page in target/deb/man/*.[15]; do
    install -D -m 644 "$page" "$tree/$name/share/man/man${page##*.}/${page##*/}"
done
cp target/deb/completions/* "$tree/$name/share/completions"
cp -r README.md docs certs "$tree/$name/share/doc"
cp -r config/. "$tree/$name/share/portcullis"
cp systemd/portcullis.service systemd/portcullis.sysusers.conf "$tree/$name/share/systemd"
cp -r deploy/compose deploy/kubernetes "$tree/$name/share/portcullis"
cp docs/LICENSE-APACHE docs/LICENSE-MIT "$tree/$name"
chmod -R u=rwX,go=rX "$tree"
tar -C "$tree" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu -c "$name" |
    gzip -9n >"$dist/$name.tar.gz"

cp "$built"/debian/portcullis_"$version"-*_"$arch".deb "$dist"
"$here/sbom.sh" "$source" "$arch" "$dist/$name.cdx.json"
(cd "$dist" && sha256sum -- *"$arch".deb "$name".tar.gz "$name".cdx.json >"$name.sha256")
cat "$dist/$name.sha256"
