#!/usr/bin/env bash
# Starts the binary $1 with the packaged configuration $3 and runs every command block in the directory $2; $4 is a Python with
# aiocoap. /etc/portcullis and /var/lib/portcullis stand for directories of this run.
set -euo pipefail

. "$(dirname "$0")/../support/own_network.sh"
binary=$1 blocks=$2 packaged=$3 python=$4

work=$(mktemp -d)
gateway=
trap '[ -z "$gateway" ] || { kill $gateway; wait $gateway; } 2>/dev/null; rm -rf "$work"' EXIT
etc=$work/etc/portcullis
mkdir -p "$etc" "$work/state" "$work/bin"
ln -s "$binary" "$work/bin/portcullis"
PATH=$work/bin:$PATH
profiles=$(cd "$(dirname "$packaged")/../certs" && pwd)
here() {
    sed -e "s#/etc/portcullis#$etc#g" -e "s#/var/lib/portcullis#$work/state#g" -e "s#/usr/share/doc/portcullis/certs#$profiles#g" "$1"
}

# What the pages presume: keys, and that on this loopback nobody logs in.
here "$packaged" | sed -e 's/^backend = "file" /backend = "none" /' -e 's/^identity = "username" /identity = "none" /' \
    -e 's/^acl_file = "" /acl_file = "acl.txt" /' >"$etc/portcullis.toml"
portcullis certs dev --dir "$etc" >/dev/null
portcullis psk add device-1 --config "$etc/portcullis.toml" >/dev/null
KEY=$(sed -n 's/^device-1://p' "$etc/psk.txt" | "$python" -c 'import sys; print(bytes.fromhex(sys.stdin.read().strip()).decode())')
export KEY
printf 'topic readwrite #\ntopic read $portcullis/#\nuser alice\ntopic readwrite sensors/alice/#\n' >"$etc/acl.txt"
# What an ACME client leaves and says.
export RENEWED_LINEAGE=$work/live
portcullis certs dev --dir "$work/acme" --host gateway.example.net >/dev/null
mkdir "$RENEWED_LINEAGE"
cat "$work/acme/server.pem" "$work/acme/ca.pem" >"$RENEWED_LINEAGE/fullchain.pem"
cp "$work/acme/server.key" "$RENEWED_LINEAGE/privkey.pem"

portcullis run --config "$etc/portcullis.toml" >"$work/log" 2>&1 &
gateway=$!
# A reload, and no success before it is one.
cat >"$work/bin/systemctl" <<EOF
#!/bin/sh
[ "\$*" = "reload portcullis" ] || exit 1
kill -HUP $gateway
sleep 1
curl -fsS http://127.0.0.1:9683/metrics | grep -q '^portcullis_config_last_reload_successful 1'
EOF
chmod +x "$work/bin/systemctl"
for _ in $(seq 200); do
    curl -fs -o /dev/null http://127.0.0.1:9683/readyz && break
    kill -0 $gateway || { cat "$work/log"; exit 1; }
    sleep 0.05
done

cd "$work"
count=0
for block in "$blocks"/*; do
    here "$block" >"$work/block"
    case $block in
    *.sh) run=(bash -euo pipefail "$work/block") ;;
    *.py) run=("$python" "$work/block") ;;
    esac
    # coap-client ends with 0 whatever the answer was; it shows error answers on standard error.
    if ! timeout 30 "${run[@]}" >"$work/said" 2>&1 || grep -E '^[45]\.[0-9]{2}' "$work/said"; then
        echo "FAILED: $(basename "$block")"
        cat "$block" "$work/said"
        tail -20 "$work/log"
        exit 1
    fi
    count=$((count + 1))
done
echo "$count blocks worked"
