#!/usr/bin/env bash
# Writes the software bill of materials (CycloneDX 1.5, JSON) to target/sbom: every crate that is built in, and OpenSSL, which
# is linked and which no crate list names.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename portcullis.cdx
mkdir -p target/sbom
openssl=$(openssl version | cut -d' ' -f2)
jq --arg version "$openssl" '.components += [{
    "type": "library", "bom-ref": "openssl", "name": "openssl", "version": $version,
    "description": "linked dynamically; the version is that of the machine that built",
    "cpe": ("cpe:2.3:a:openssl:openssl:" + $version + ":*:*:*:*:*:*:*"),
    "licenses": [{ "license": { "id": "Apache-2.0" } }]
}]' portcullis.cdx.json >target/sbom/portcullis.cdx.json
rm portcullis.cdx.json
jq -r '"\(.bomFormat) \(.specVersion), \(.components | length) components"' target/sbom/portcullis.cdx.json
