#!/usr/bin/env bash
# Runs the bridge of docs/recipes.md: mosquitto with the configuration $2 between the binary $1 with the configuration $3 and another
# mosquitto in the place of headquarters. Ports, names and certificates of the page are replaced by those of this run.
set -euo pipefail
binary=$1 mosquitto=$2 toml=$3
work=$(mktemp -d)
processes=()
trap '[ ${#processes[@]} = 0 ] || kill "${processes[@]}" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; tail -20 "$work"/*.log; exit 1; }
until_it_works() { for _ in {1..600}; do ! "$@" || return 0; sleep 0.1; done; fail "in vain: $*"; }
read -r site headquarters dtls < <(python3 - <<'PY'
import socket
kinds = [socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM]
held = [socket.socket(socket.AF_INET, kind) for kind in kinds]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PY
)
cd "$work"
"$binary" certs dev --dir hq --host localhost >/dev/null
printf 'listener %s 127.0.0.1\nallow_anonymous true\ncafile %s\ncertfile %s\nkeyfile %s\nuser %s\n' \
    "$headquarters" "$work/hq/ca.pem" "$work/hq/server.pem" "$work/hq/server.key" "$(id -un)" >hq.conf
{
    sed -e "s/^listener 1883 /listener $site /" -e "s/hq.example.net:8883/localhost:$headquarters/" -e "s#/etc/mosquitto/certs/hq-ca.pem#$work/hq/ca.pem#" "$mosquitto"
    printf 'persistence_location %s/\nuser %s\n' "$work" "$(id -un)"
} >site.conf
grep -q "localhost:$headquarters" site.conf && grep -q "^listener $site" site.conf || fail "the page says something else"
sed -e "s/\[::\]:5684/127.0.0.1:$dtls/" -e "s/127.0.0.1:1883/127.0.0.1:$site/" -e "s#^\[node\]#&\nstate_dir = \"$work/state\"#" "$toml" >portcullis.toml
printf '[metrics]\nbind = ""\n[admin]\nbind = ""\n' >>portcullis.toml
key=$("$binary" psk add lamp-1 --config portcullis.toml | sed -n 's/^key as text: //p')

up=(-h localhost -p "$headquarters" --cafile "$work/hq/ca.pem" -V mqttv5)
mosquitto -c site.conf >site.log 2>&1 & processes+=($!)
"$binary" run --config portcullis.toml >gateway.log 2>&1 & processes+=($!)
device() { timeout 60 coap-client-openssl -u lamp-1 -k "$key" "$@" 2>&1; }
publishes() { [ -z "$(device -m put -e 21.5 "coaps://127.0.0.1:$dtls/ps/hall/temperature?qos=1&retain=true")" ]; }
# Headquarters is away, and what is published meanwhile waits for it.
until_it_works publishes
mosquitto -c hq.conf >hq.log 2>&1 & processes+=($!)
heard() { timeout 5 mosquitto_sub "${up[@]}" -t site-7/hall/temperature -C 1 >heard.log 2>&1 && grep -qx 21.5 heard.log; }
until_it_works heard

observe() { device -m get -s 30 -w "coaps://127.0.0.1:$dtls/ps/commands/lamp-1" >command.log; }
observe & observer=$!
commanded() {
    mosquitto_pub "${up[@]}" -q 1 -t site-7/commands/lamp-1 -m 'switch on'
    grep -q 'switch on' command.log
}
until_it_works commanded
kill $observer 2>/dev/null || true
echo "both ways"
