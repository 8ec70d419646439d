#!/usr/bin/env bash
# CoAP and DTLS clients that no package has, under target/interop: aiocoap with tinydtls and WebSockets from PyPI (venv/), node-dtls-client
# from npm (node/), and small clients over Debian's wolfSSL and Mbed TLS (wolfssl_client, mbedtls_client).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home="${CARGO_TARGET_DIR:-$here/../../target}/interop"
mkdir -p "$home"
home=$(cd "$home" && pwd)
exec 9>"$home/lock"
flock 9

# Once for each version of these lists.
python=(aiocoap==0.4.17 DTLSSocket==0.2.3 websockets==17.4)
if [ "$(cat "$home/venv/wanted" 2>/dev/null)" != "${python[*]}" ]; then
    rm -rf "$home/venv"
    python3 -m venv "$home/venv"
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check "${python[@]}"
    echo "${python[*]}" >"$home/venv/wanted"
fi

node=(node-dtls-client@2.0.3)
if [ "$(cat "$home/node/wanted" 2>/dev/null)" != "${node[*]}" ]; then
    rm -rf "$home/node"
    mkdir "$home/node"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$home/node" "${node[@]}"
    echo "${node[*]}" >"$home/node/wanted"
fi

compiled() { # CLIENT LIBRARIES
    local client=$1
    shift
    [ ! "$here/$client.c" -nt "$home/$client" ] || "${CC:-cc}" -O1 -Wall -Werror -o "$home/$client" "$here/$client.c" "$@"
}
compiled wolfssl_client -lwolfssl
compiled mbedtls_client -lmbedtls -lmbedx509 -lmbedcrypto
