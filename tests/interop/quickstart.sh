#!/usr/bin/env bash
# Starts the quick start of the binary $1 and runs the coap-client lines that it prints, as printed and with the GnuTLS build.
set -euo pipefail

. "$(dirname "$0")/../support/own_network.sh"

work=$(mktemp -d)
"$1" run >"$work/out" 2>"$work/err" &
gateway=$!
trap 'kill $gateway 2>/dev/null; wait $gateway 2>/dev/null; rm -rf "$work"' EXIT

# Waits until the command succeeds, for far longer than it takes.
until_it_works() {
    for _ in $(seq 600); do
        "$@" && return
        kill -0 $gateway || { cat "$work/out" "$work/err"; exit 1; }
        sleep 0.05
    done
    echo "in vain: $*"
    exit 1
}
# By the shell alone: a machine on which nothing but the gateway is to run has no curl.
fetch() (
    exec 3<>/dev/tcp/127.0.0.1/9683 || exit 1
    printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
    cat <&3
) 2>/dev/null
ready() { grep -q '^HTTP/1.[01] 200 ' <<<"$(fetch /readyz)"; }
printed() { sed -n 's/^[[:space:]$]*\(coap-client.*\)/\1/p' "$work/out" "$work/err"; }
all_printed() { [ "$(printed | wc -l)" -ge 6 ]; }
observes() { grep -qx 'portcullis_subscriptions [1-9].*' <<<"$(fetch /metrics)"; }
idle() { ! observes; }

until_it_works ready
until_it_works all_printed
mapfile -t lines < <(printed)
count=0
for build in openssl gnutls; do
    observer=
    for line in "${lines[@]}"; do
        line=${line/coap-client-openssl/coap-client-$build}
        if [[ $line == *" -s "* ]]; then
            # An observer runs on until it has shown the message.
            until_it_works idle
            timeout -s INT 60 stdbuf -oL bash -c "exec $line" >"$work/seen" 2>&1 &
            observer=$!
            until_it_works observes
        else
            said=$(timeout 60 bash -c "$line" 2>&1) || { echo "failed: $line: $said"; exit 1; }
            [ -z "$said" ] || { echo "said something: $line: $said"; exit 1; }
            if [ -n "$observer" ]; then
                payload=$(sed -n "s/.* -e \(\"[^\"]*\"\|'[^']*'\|[^ ]*\) .*/\1/p" <<<"$line" | tr -d "\"'")
                until_it_works grep -qF -- "$payload" "$work/seen"
                kill -s INT $observer
                wait $observer || true
                observer=
            fi
        fi
        count=$((count + 1))
    done
done
echo "$count lines worked"
grep -qE '^Dashboard: http://127\.0\.0\.1:8683/#token=[0-9a-f]{32}$' "$work/out" || { cat "$work/out"; exit 1; }

# A key of this machine's own, for its owner only, that a second start finds again.
state=$HOME/.local/state/portcullis
[ "$(stat -c %a "$state/psk.txt")" = 600 ] || { echo "psk.txt is readable"; exit 1; }
[ "$(stat -c %a "$state/admin.token")" = 600 ] || { echo "admin.token is readable"; exit 1; }
key=$(cat "$state/psk.txt")
kill $gateway
wait $gateway
"$1" run >"$work/out" 2>"$work/err" &
gateway=$!
until_it_works ready
[ "$(cat "$state/psk.txt")" = "$key" ] || { echo "another key"; exit 1; }
