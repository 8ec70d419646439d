#!/usr/bin/env bash
# Hours in the life of a gateway in front of mosquitto: devices that come and go over UDP and DTLS, observers, storms of handshakes,
# reloads, a broker that restarts, and in the first half of the time a SIGKILL now and then, with kept state.
#
#   soak.sh BINARY MINUTES
#
# At the end every publish that was answered has reached the broker, at QoS 2 and so none of them twice but at kills, each notification
# came, and in the last quarter neither memory nor descriptors grew.
set -euo pipefail
binary=$(realpath "$1")
minutes=$2
((minutes >= 8)) || { echo "at least 8 minutes, a quarter of them for what grows" >&2; exit 64; }
work=$(mktemp -d)
gateway= broker= listener=
end() {
    kill -9 $gateway $broker $listener 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
say() { echo "$(date +%T) $*"; }
fail() { echo "FAILED: $*" >&2; tail -n 20 "$work/gateway.log" >&2; exit 1; }
until_true() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < end)) || fail "$what"
        sleep 0.2
    done
}

read -r mqtt udp dtls metrics < <(python3 - <<'PY'
import socket
kinds = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_DGRAM, socket.SOCK_STREAM]
held = [socket.socket(socket.AF_INET, kind) for kind in kinds]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PY
)
mkdir "$work/state" "$work/broker"
printf 'soak:%s\n' "$(openssl rand -hex 16)" >"$work/psk.txt"
chmod 600 "$work/psk.txt"
cat >"$work/mosquitto.conf" <<CONF
listener $mqtt 127.0.0.1
allow_anonymous true
persistence true
persistence_location $work/broker/
max_queued_messages 0
max_inflight_messages 1000
user root
CONF
cat >"$work/portcullis.toml" <<CONF
[node]
name = "soak"
state_dir = "$work/state"
[coap]
notify_type = "con"
[listeners.udp.default]
bind = "127.0.0.1:$udp"
[listeners.dtls.default]
bind = "127.0.0.1:$dtls"
psk_file = "psk.txt"
[broker]
url = "mqtt://127.0.0.1:$mqtt"
[metrics]
bind = "127.0.0.1:$metrics"
[admin]
bind = ""
[limits]
handshakes_per_second = 0
[log]
level = "warn"
CONF

metric() { curl -s "http://127.0.0.1:$metrics/metrics" | awk -v name="portcullis_$1" 'index($1, name) == 1 { sum += $2 } END { printf "%d", sum }'; }
is_ready() { curl -sf "http://127.0.0.1:$metrics/readyz" >"$work/ready"; }
start_broker() { mosquitto -c "$work/mosquitto.conf" >>"$work/broker.log" 2>&1 & broker=$!; }
start_gateway() { "$binary" run --config "$work/portcullis.toml" 2>>"$work/gateway.log" & gateway=$!; }
can_be_reached() { (exec 3<>"/dev/tcp/127.0.0.1/$mqtt") 2>/dev/null; }

start_broker
until_true 30 "the broker does not start" can_be_reached
mosquitto_sub -p "$mqtt" -i counter -c -q 2 -t 'soak/#' -F '%t %x' >"$work/received" &
listener=$!
start_gateway
until_true 30 "the gateway does not start" is_ready

devices() { # NAME SCHEME PORT MORE...
    local name=$1 url="$2://127.0.0.1:$3"
    shift 3
    "$binary" bench "$url" --key-file "$work/psk.txt" --identity soak --topic "soak/$name" --qos 2 --json "$@" >"$work/$name.json" ||
        fail "no device of $name was served"
    jq -r '[.answers["2.04"] // 0, .lost, .notifications.expected, .notifications.received] | @tsv' "$work/$name.json" >>"$work/answers"
}
rss() { awk '/^VmRSS/ { print $2 }' "/proc/$gateway/status"; }
descriptors() { ls "/proc/$gateway/fd" | wc -l; }

kills=0
base= base_descriptors=
for minute in $(seq "$minutes"); do
    devices "udp-$minute" coap "$udp" --clients 60 --observers 20 --rate 300 --duration 40s &
    one=$!
    devices "dtls-$minute" coaps "$dtls" --clients 60 --observers 20 --rate 300 --duration 40s &
    two=$!
    sleep 15
    case $((minute % 4)) in
    0)
        if ((minute <= minutes / 2)); then
            kill -9 "$gateway"
            wait "$gateway" 2>/dev/null || true
            start_gateway
            kills=$((kills + 1))
            until_true 30 "the gateway does not start again" is_ready
        fi ;;
    1) for _ in 1 2 3 4 5; do kill -HUP "$gateway"; sleep 1; done ;;
    2)
        kill "$broker"
        wait "$broker" || true
        sleep 5
        start_broker ;;
    3) "$binary" bench "coaps://127.0.0.1:$dtls" --key-file "$work/psk.txt" --identity soak --topic "storm/$minute" --clients 300 --duration 1s >"$work/storm" ||
        fail "nobody of a storm was served" ;;
    esac
    wait "$one"
    wait "$two"
    until_true 120 "the spool does not drain" eval '[ "$(metric spool_messages)" = 0 ]'
    say "minute $minute: $(rss) KiB, $(descriptors) descriptors, $(metric 'sessions{') sessions, $(metric subscriptions) observations"
    if ((minute == minutes - minutes / 4)); then
        base=$(rss) base_descriptors=$(descriptors)
    fi
done

arrived() { [ "$(sort -u "$work/received" | wc -l)" -ge "$(awk '{ sum += $1 } END { print sum }' "$work/answers")" ]; }
until_true 60 "of $(awk '{ sum += $1 } END { print sum }' "$work/answers") answered publishes only $(sort -u "$work/received" | wc -l) arrived" arrived
read -r answered lost expected notified < <(awk '{ a += $1; b += $2; c += $3; d += $4 } END { print a, b, c, d }' "$work/answers")
doubled=$(($(wc -l <"$work/received") - $(sort -u "$work/received" | wc -l)))
say "$answered publishes answered, $lost not; $doubled doubled over $kills kills; $notified of $expected notifications"
say "memory $base to $(rss) KiB, descriptors $base_descriptors to $(descriptors)"
((doubled <= kills * $(nproc))) || fail "$doubled publishes were doubled"
((notified == expected)) || fail "notifications were lost"
# What is remembered of handled messages grows for some minutes behind a start, to 131,072 of them.
(($(rss) <= base + base / 20 + 16384)) || fail "memory grew"
(($(descriptors) <= base_descriptors)) || fail "descriptors grew"
