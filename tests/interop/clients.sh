#!/usr/bin/env bash
# CoAP and DTLS clients that no package has: aiocoap with tinydtls from PyPI, in target/interop/venv.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
home="${CARGO_TARGET_DIR:-$root/target}/interop"
mkdir -p "$home"
exec 9>"$home/lock"
flock 9

# Once for each version of this list.
wanted="aiocoap==0.4.17 DTLSSocket==0.2.3"
if [ "$(cat "$home/venv/wanted" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$home/venv"
    python3 -m venv "$home/venv"
    # shellcheck disable=SC2086
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check $wanted
    echo "$wanted" >"$home/venv/wanted"
fi
