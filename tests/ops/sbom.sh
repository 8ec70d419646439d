#!/usr/bin/env bash
# Writes the software bill of materials (CycloneDX 1.5, JSON): every crate that is built in, and OpenSSL, which is linked and which no
# crate list names. It holds no time and no place of the machine that made it.
#
#   sbom.sh [SOURCE [ARCH [FILE]]]     FILE is SOURCE/target/sbom/portcullis.cdx.json unless said otherwise
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "${1:-$here/../..}" && pwd)
cd "$source"
native=$(dpkg --print-architecture)
arch=${2:-$native}
file=${3:-target/sbom/portcullis.cdx.json}
mkdir -p "$(dirname "$file")"
case $arch in
amd64) triple=x86_64-unknown-linux-gnu ;;
arm64) triple=aarch64-unknown-linux-gnu ;;
*) triple=all ;;
esac
cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$triple" --override-filename portcullis.cdx
# That of Debian, whose corrections its revision counts; for another architecture that of the libraries it was linked with.
if [ "$arch" = "$native" ]; then
    openssl=$(dpkg-query -W -f '${Version}' libssl-dev)
else
    libraries=$("$here/sysroot.sh" target/sysroot "$arch")
    openssl=$(zcat "$libraries/usr/share/doc/libssl-dev/changelog.Debian.gz" | sed -n '1s/^openssl (\(.*\)) .*/\1/p')
fi
time=$(date -u -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}" +%Y-%m-%dT%H:%M:%SZ)
jq --sort-keys --arg version "${openssl%%-*}" --arg package "$openssl" --arg time "$time" 'del(.serialNumber) | .metadata.timestamp = $time
    | .components += [{
    "type": "library", "bom-ref": "openssl", "name": "openssl", "version": $version,
    "description": ("linked dynamically; built with libssl-dev " + $package),
    "cpe": ("cpe:2.3:a:openssl:openssl:" + $version + ":*:*:*:*:*:*:*"),
    "licenses": [{ "license": { "id": "Apache-2.0" } }]
}]' portcullis.cdx.json | sed "s#$source#/build#g" >"$file"
find . -name portcullis.cdx.json -not -path './target/*' -delete
jq -r '"\(.bomFormat) \(.specVersion), \(.components | length) components"' "$file" >&2
