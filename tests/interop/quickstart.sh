#!/usr/bin/env bash
# Starts the quick start of the binary $1 and runs the coap-client lines that it prints, as printed and with the GnuTLS build.
set -euo pipefail

# A network of its own, where the fixed ports are free; not everyone may make one.
if [ -z "${PORTCULLIS_OWN_NETWORK:-}" ] && unshare -rn true 2>/dev/null; then
    PORTCULLIS_OWN_NETWORK=1 exec unshare -rn "$BASH" "$0" "$@"
fi
[ -z "${PORTCULLIS_OWN_NETWORK:-}" ] || ip link set lo up

work=$(mktemp -d)
"$1" run >"$work/out" 2>"$work/err" &
gateway=$!
trap 'kill $gateway 2>/dev/null; wait $gateway 2>/dev/null; rm -rf "$work"' EXIT

for _ in $(seq 200); do
    curl -fs -o /dev/null http://127.0.0.1:9683/readyz && break
    kill -0 $gateway || { cat "$work/out" "$work/err"; exit 1; }
    sleep 0.05
done

mapfile -t lines < <(cat "$work/out" "$work/err" | sed -n 's/^[[:space:]$]*\(coap-client.*\)/\1/p')
count=0
for build in openssl gnutls; do
    observer=
    for line in "${lines[@]}"; do
        line=${line/coap-client-openssl/coap-client-$build}
        if [[ $line == *" -s "* ]]; then
            # An observer runs on; it has shown the message when it is stopped.
            timeout -s INT 3 bash -c "exec $line" >"$work/seen" 2>&1 &
            observer=$!
            sleep 0.7
        else
            said=$(timeout 10 bash -c "$line" 2>&1) || { echo "failed: $line: $said"; exit 1; }
            [ -z "$said" ] || { echo "said something: $line: $said"; exit 1; }
            if [ -n "$observer" ]; then
                wait $observer || true
                payload=$(sed -n "s/.* -e \(\"[^\"]*\"\|'[^']*'\|[^ ]*\) .*/\1/p" <<<"$line" | tr -d "\"'")
                grep -qF -- "$payload" "$work/seen" || { echo "not seen: $payload: $(cat "$work/seen")"; exit 1; }
                observer=
            fi
        fi
        count=$((count + 1))
    done
done
echo "$count lines worked"

# A key of this machine's own, for its owner only, that a second start finds again.
state=$HOME/.local/state/portcullis
[ "$(stat -c %a "$state/psk.txt")" = 600 ] || { echo "psk.txt is readable"; exit 1; }
key=$(cat "$state/psk.txt")
kill $gateway
wait $gateway
"$1" run >"$work/out" 2>"$work/err" &
gateway=$!
sleep 1
[ "$(cat "$state/psk.txt")" = "$key" ] || { echo "another key"; exit 1; }
