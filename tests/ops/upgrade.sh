# shellcheck shell=bash disable=SC2154 # what deb.sh, which this is a part of, has set
# From the package of a former commit, as somebody used it, to the new one: in the tree of deb.sh, on loopback.

etc=$root/etc/portcullis
state=$root/var/lib/portcullis
toml=$etc/portcullis.toml
read -r udp dtls admin metrics broker < <(python3 - <<'PY'
import socket
kinds = [socket.SOCK_DGRAM] * 2 + [socket.SOCK_STREAM] * 3
held = [socket.socket(socket.AF_INET, kind) for kind in kinds]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PY
)
secret=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
deep=$(printf 'l%s/' {1..40})leaf

# What a start and a stop do: nothing else runs in the tree.
serve() {
    # No function, whose process would be one between.
    chroot "$root" setpriv --reuid=portcullis --regid=portcullis --clear-groups \
        portcullis run --config /etc/portcullis/portcullis.toml >>"$work/served" 2>&1 &
    serving=$!
    for _ in {1..300}; do
        if curl -sf "http://127.0.0.1:$metrics/healthz" >/dev/null; then return 0; fi
        kill -0 "$serving" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/served"
    fail "it does not serve"
}
halt() {
    kill "$serving"
    wait "$serving" || fail "it ended with $?: $(cat "$work/served")"
    serving=
}
# The clients say in words what they get, and end with 0 whatever that is. That of libcoap shortens what it shows of long paths.
heard() { grep -v ' WARN URI path will be truncated' || true; }
by_udp() { # METHOD PATH [PAYLOAD]
    local joint='?'
    case $2 in *\?*) joint='&' ;; esac
    coap-client-notls -m "$1" ${3:+-e "$3"} "coap://127.0.0.1:$udp/$2${joint}u=alice&p=$secret" 2>&1 | heard
}
by_dtls() { # METHOD PATH [PAYLOAD]
    coap-client-openssl -u meter-1 -k "$key" -m "$1" ${3:+-e "$3"} "coaps://127.0.0.1:$dtls/$2" 2>&1 | heard
}
is() { # WHAT EXPECTED FOUND
    [ "$3" = "$2" ] || { cat "$work/served"; fail "$1: '$2' was expected, and there is '$3'"; }
}
status() { # TOKEN METHOD PATH
    curl -s -o /dev/null -w '%{http_code}' -X "$2" -H "Authorization: Bearer $1" "http://127.0.0.1:$admin/api/v1/$3"
}
sums() { (cd "$root" && find etc/portcullis var/lib/portcullis -type f -print0 | sort -z | xargs -0 sha256sum); }

step "a former version: configured, with keys, users, tokens and rights"
inside apt-get purge -y -qq portcullis >/dev/null 2>&1
rm -rf "$state"
cp "$former" "$root/tmp/former.deb"
inside apt-get install -y -qq --no-install-recommends /tmp/former.deb >"$work/log" 2>&1 || { cat "$work/log"; fail "install $former"; }
inside portcullis certs dev --dir /etc/portcullis >/dev/null
key=$(inside portcullis psk add meter-1 --config /etc/portcullis/portcullis.toml | sed -n 's/.*-k \([^ ]*\).*/\1/p' | head -1)
[ -n "$key" ] || fail "no key of the former version"
printf '%s\n' "$secret" | inside portcullis user add alice --users-file /etc/portcullis/users.txt >/dev/null
printf 'admin:%s\nreadonly:%s\n' "${secret}a" "${secret}r" >"$etc/tokens"
printf 'user alice\ntopic readwrite plant/#\ntopic readwrite l1/#\npattern readwrite dev/%%c/#\n' >"$etc/acl.txt"
chown --reference="$etc" "$etc"/*
chmod 600 "$etc"/tokens "$etc"/users.txt
sed -i -e '/^name = /s/"portcullis"/"plant-7"/' \
    -e "/^\[listeners.udp.default\]/,/^bind/s/^bind.*/bind = \"127.0.0.1:$udp\"/" \
    -e "/^\[listeners.dtls.default\]/,/^bind/s/^bind.*/bind = \"127.0.0.1:$dtls\"/" \
    -e "/^\[metrics\]/,/^bind/s/^bind.*/bind = \"127.0.0.1:$metrics\"/" \
    -e "/^\[admin\]/,/^bind/s/^bind.*/bind = \"127.0.0.1:$admin\"/" \
    -e 's/^identity = "none"/identity = "clientid"/' -e 's/^backend = "none"/backend = "file"/' \
    -e 's/^acl_file = ""/acl_file = "acl.txt"/' -e 's/^token_file = ""/token_file = "tokens"/' \
    -e 's/^# authentication = false .*/authentication = false # a key will do/' "$toml"
install -d -m 700 "$state"
chown --reference="$etc" "$state"
as_service portcullis check-config

step "it keeps retained messages, and with its broker away a spool"
serve
by_udp put 'ps/plant/temp?retain=1&qos=1' 21.5 >>"$work/said"
by_udp put "ps/$deep?retain=1" deep >>"$work/said"
by_dtls put 'ps/dev/meter-1/état?retain=1' "l'été" >>"$work/said"
is "a retained message" 21.5 "$(by_udp get ps/plant/temp)"
is "a deep one" deep "$(by_udp get "ps/$deep")"
halt
sed -i "s,^url = \"embedded:\",url = \"mqtt://127.0.0.1:$broker\"," "$toml"
serve
for number in {1..20}; do by_udp post 'ps/plant/count?qos=1' "$number" >>"$work/said"; done
is "what the requests were answered" "" "$(cat "$work/said")"
halt

step "the upgrade touches none of it, and says what changed with the line to write"
before=$(sums)
rebuild 99.1.0-1
inside apt-get install -y -qq /tmp/newer.deb >"$work/log" 2>&1 || { cat "$work/log"; fail upgrade; }
is "version" 99.1.0-1 "$(version_of)"
is "configuration and state" "$before" "$(sums)"
grep -q 'NOT restarted' "$work/log" && { cat "$work/log"; fail "it refuses the configuration"; }
as_service portcullis check-config >"$work/notes" 2>&1 || { cat "$work/notes"; fail "it refuses the configuration"; }
for line in 'topic_levels = 0' 'per_identity = { sessions' 'topic read $portcullis/#'; do
    grep -qF "$line" "$work/notes" || { cat "$work/notes"; fail "no word of: $line"; }
    grep -qF "$line" "$work/log" || { cat "$work/log"; fail "the package has no word of: $line"; }
done

step "the new version sends what waited, once and in its order, and knows keys, users, tokens and rights"
sed -i 's/^\[limits\].*/&\ntopic_levels = 0/' "$toml"
printf 'listener %s 127.0.0.1\nallow_anonymous true\n' "$broker" >"$work/mosquitto.conf"
mosquitto -c "$work/mosquitto.conf" >/dev/null 2>&1 &
mosquitto=$!
for _ in {1..100}; do mosquitto_pub -h 127.0.0.1 -p "$broker" -t up -n 2>/dev/null && break; sleep 0.1; done
timeout 60 mosquitto_sub -h 127.0.0.1 -p "$broker" -q 1 -t plant/count -C 21 >"$work/sent" &
sent=$!
# Whoever listens must be there before the gateway.
sleep 1
serve
as_service portcullis check-config >"$work/notes" 2>&1
grep -q 'changed since' "$work/notes" && { cat "$work/notes"; fail "it says again what it said before the start"; }
for _ in {1..300}; do curl -sf "http://127.0.0.1:$metrics/readyz" >/dev/null && break; sleep 0.1; done
for _ in {1..300}; do [ "$(wc -l <"$work/sent")" -ge 20 ] && break; sleep 0.1; done
is "a publish" "" "$(by_udp post 'ps/plant/count?qos=1' 21)"
wait "$sent" || fail "not all of it came: $(cat "$work/sent" "$work/served")"
is "the spool" "$(seq 21)" "$(cat "$work/sent")"
is "a device with its key" "" "$(by_dtls put ps/dev/meter-1/t 5)"
is "without the right to" "4.01 not authorised" "$(by_dtls put ps/dev/meter-2/t 5 | grep -o '4.01 .*')"
is "a wrong password" 4.01 "$(secret=wrong by_udp put ps/plant/temp 1 | grep -o '^4.01')"
is "an admin" 200 "$(status "${secret}a" GET users)"
is "a reader" 200 "$(status "${secret}r" GET status)"
is "a reader that changes" 403 "$(status "${secret}r" POST reload)"
is "a stranger" 401 "$(status "${secret}x" GET status)"
halt
kill "$mosquitto"
wait "$mosquitto" || true
mosquitto=
sed -i "s,^url = \"mqtt:.*\",url = \"embedded:\"," "$toml"
serve
is "a retained message" 21.5 "$(by_udp get ps/plant/temp)"
is "a deep one" deep "$(by_udp get "ps/$deep")"
is "one of a device" "l'été" "$(by_dtls get 'ps/dev/meter-1/état')"
halt
