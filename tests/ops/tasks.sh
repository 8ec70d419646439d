#!/usr/bin/env bash
# Does what docs/tasks.md says, one task after the other, with the binary $1 and the packaged configuration $3. $2 is a directory with the
# blocks of the page, TASK-BLOCK.sh. Before each block the scene is set, after it is looked at what came of it; what is done in between
# stands on the page alone. /etc/portcullis and /var/lib/portcullis stand for directories of this run, and systemctl, journalctl and
# apt-get for what they do to a gateway.
set -euo pipefail

# Mounts of its own too, for a disk that can be full.
namespaces=m
. "$(dirname "$0")/../support/own_network.sh"
binary=$1 blocks=$2 packaged=$3

work=$(mktemp -d)
etc=$work/etc/portcullis state=$work/state toml=$work/etc/portcullis/portcullis.toml
mosquitto=
finish() {
    systemctl stop portcullis 2>/dev/null || true
    [ -z "$mosquitto" ] || kill "$mosquitto" 2>/dev/null || true
    ! mountpoint -q "$state" || umount "$state"
    rm -rf "$work"
}
trap finish EXIT
mkdir -p "$etc" "$state" "$work/bin" "$work/desk"
small=
! mount -t tmpfs -o size=16m,mode=700 tmpfs "$state" 2>/dev/null || small=yes
ln -s "$binary" "$work/bin/portcullis"
export PATH=$work/bin:$PATH
here() { sed -e "s#/etc/portcullis#$etc#g" -e "s#/var/lib/portcullis#$state#g" "$1"; }

cat >"$work/bin/systemctl" <<END
#!/usr/bin/env bash
pid=\$(cat "$work/pid" 2>/dev/null)
case \$1 in
start)
    setsid portcullis run --config "$toml" >>"$work/log" 2>&1 </dev/null &
    echo \$! >"$work/pid"
    for _ in {1..600}; do
        ! curl -fs -o /dev/null http://127.0.0.1:9683/readyz || exit 0
        kill -0 \$! 2>/dev/null || exit 1
        sleep 0.1
    done
    exit 1 ;;
stop)
    [ -n "\$pid" ] || exit 0
    kill "\$pid" 2>/dev/null
    for _ in {1..600}; do kill -0 "\$pid" 2>/dev/null || { rm "$work/pid"; exit 0; }; sleep 0.1; done
    exit 1 ;;
restart) "\$0" stop portcullis && "\$0" start portcullis ;;
*) exit 64 ;;
esac
END
printf '#!/bin/sh\ncat "%s"\n' "$work/log" >"$work/bin/journalctl"
cat >"$work/bin/apt-get" <<END
#!/bin/sh
[ "\$1" = install ] && [ -e "\$2" ] || exit 1
cp "$binary" "$work/bin/newer" && mv "$work/bin/newer" "$work/bin/portcullis"
portcullis check-config --config "$toml" && systemctl restart portcullis
END
chmod +x "$work"/bin/{systemctl,journalctl,apt-get}

fail() {
    echo "FAILED: task ${task:-?}, block ${block:-?}: $*"
    cat "$work/block" "$work/said" 2>/dev/null || true
    tail -30 "$work/log"
    exit 1
}
trap 'fail "line $LINENO"' ERR
set -E
# What must come, however long this machine takes.
until_it_works() {
    for _ in {1..600}; do ! "$@" || return 0; sleep 0.1; done
    fail "in vain: $*"
}
said() { grep -qE -- "$1" "$work/said" || fail "not said: $1"; }
key_of() { sed -n 's/^key as text: //p' "$work/desk/$1"; }
# The client says in words what it gets, and ends with 0 whatever that is.
device() { # IDENTITY KEY METHOD PATH [PAYLOAD]
    timeout 60 coap-client-openssl -u "$1" -k "$2" -m "$3" ${5:+-e "$5"} "coaps://127.0.0.1/$4" 2>&1
}
publishes() { [ -z "$(device "$1" "$2" put "$3" "$4")" ]; }
is_refused() { device "$1" "$2" put ps/demo/hello no | grep -q 'alert decrypt error'; }

before_1_1() { install -m 600 /dev/null "$etc/users.txt"; }
after_1_1() { said 'key in hexadecimal'; }
after_1_2() { said '^hello$|hello' && said ' connected +lamp-1'; }

after_2_1() {
    # With a key exchange beside the key one of the two is tried, and at the next handshake the other.
    until_it_works publishes lamp-1 "$(key_of lamp-1.txt)" ps/demo/hello old
    until_it_works publishes lamp-1 "$(key_of lamp-1-new.txt)" ps/demo/hello new
}
after_2_2() {
    said '"last_used":"2'
    publishes lamp-1 "$(key_of lamp-1-new.txt)" ps/demo/hello new || fail "the new key went too"
    is_refused lamp-1 "$(key_of lamp-1.txt)" || fail "the older key still counts"
}

broker_starts() {
    mosquitto -c "$work/mosquitto.conf" >>"$work/mosquitto.log" 2>&1 &
    mosquitto=$!
}
before_3_1() {
    portcullis certs dev --dir "$work/theirs" --host localhost >/dev/null
    portcullis certs dev --dir "$work/strangers" >/dev/null
    cp "$work/theirs/ca.pem" "$work/desk/broker-authority.pem"
    cp "$work/strangers/ca.pem" "$etc/broker-ca.pem"
    printf 'listener 8883 127.0.0.1\ncafile %s\ncertfile %s\nkeyfile %s\nallow_anonymous true\nuser %s\n' \
        "$work/theirs/ca.pem" "$work/theirs/server.pem" "$work/theirs/server.key" "$(id -un)" >"$work/mosquitto.conf"
    broker_starts
    sed -i -e 's#^url = "embedded:"#url = "mqtts://localhost:8883"#' -e '/^\[broker\]/,/^ca_file/s/^ca_file = ""/ca_file = "broker-ca.pem"/' "$toml"
    systemctl restart portcullis
    key=$(key_of lamp-1-new.txt)
    publishes lamp-1 "$key" 'ps/demo/waiting?qos=1' patience || fail "the spool does not take it"
    until_it_works grep -q 'is not trusted by broker.ca_file' "$work/log"
}
after_3_1() {
    said 'broker +disconnected' && said 'problem +broker +.*broker.ca_file'
    ! grep -E 'retry_in=[0-9.]+[0-9]{4}' "$work/log" || fail "a log of nanoseconds"
}
before_3_2() {
    # It has the session before the gateway comes, so that it misses nothing.
    mosquitto_sub -h localhost -p 8883 --cafile "$work/theirs/ca.pem" -q 1 -t demo/waiting -C 1 -W 120 >"$work/heard" 2>&1 &
    heard=$!
    sleep 1
}
after_3_2() { wait "$heard" && grep -q patience "$work/heard" || fail "what waited did not come: $(cat "$work/heard")"; }

before_4_1() {
    portcullis psk add meter-3 --config "$toml" >"$work/desk/meter-3-key.txt"
    portcullis reload --config "$toml" >/dev/null
    publishes meter-3 "$(key_of meter-3-key.txt)" ps/meters/3 21.5 || fail "the device does not get in"
    is_refused meter-3 "a key from elsewhere" || fail "a wrong key lets in"
}
after_4_1() { said ' connected .*meter-3' && said 'disconnected .*meter-3' && said 'handshake failed .*reason="?wrong_key'; }

before_5_1() {
    kill "$mosquitto" && wait "$mosquitto" 2>/dev/null || true
    mosquitto=
    dd if=/dev/zero of="$state/core.dump" bs=64k 2>/dev/null || true
    until_it_works is_5_03
}
is_5_03() { device lamp-1 "$key" put 'ps/demo/full?qos=1' x | grep -q '^5.03'; }
after_5_1() { said 'disk +.* are refused \(5.03\)' && said '^portcullis_spool_full_total [1-9]'; }
after_5_2() {
    ! grep -q 'problem *disk' "$work/said" || fail "doctor does not see the room"
    until_it_works publishes lamp-1 "$key" 'ps/demo/full?qos=1' room
}

before_6_1() { sed -i '/^\[coap\]/,/^heartbeat/s/^heartbeat = "30s"/heartbeet = "45s"/' "$toml"; }
after_6_1() {
    said 'refused: 78' && said ':[0-9]+:1: .*did you mean .heartbeat' && said 'state +serving'
    grep -q 'not reloaded, .* line [0-9]*, column 1: .*heartbeet' "$work/log" || fail "the log does not say it on one line"
}
after_6_2() { said 'heartbeat = "45s"'; }

after_7_1() { said '^ann +readonly'; }
after_7_2() { said '"token":"ann"' && said 'for reading only'; }

before_8_1() {
    mkdir -p "$work/desk/authority/issued"
    (
        cd "$work/desk/authority"
        cp "$(dirname "$packaged")"/../certs/*.cnf .
        touch index.txt
        echo 01 >crlnumber
        openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp384r1 -out ca.key
        openssl req -x509 -config ca.cnf -key ca.key -subj "/O=Example/CN=Example CA" -days 3650 -out ca.pem
        openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out server.key
        openssl req -new -config server.cnf -key server.key -subj "/CN=gateway.example.net" -out server.csr
        SAN=DNS:gateway.example.net openssl ca -batch -notext -config ca.cnf -extfile server.cnf -extensions extensions \
            -days 9 -in server.csr -out server.pem
        install -m 600 server.key "$etc/server.key"
        cp server.pem ca.pem "$etc"
    ) >"$work/said" 2>&1 || fail "no certificate to replace"
    portcullis reload --config "$toml" >"$work/said" || fail "the certificate is not taken"
}
after_8_1() { said 'ends in [89] days'; }
after_8_2() {
    said 'certificates +the first ends in (89|90) days'
    openssl s_client -dtls1_2 -connect 127.0.0.1:5684 -CAfile "$work/desk/authority/ca.pem" -verify_return_error </dev/null 2>&1 |
        openssl x509 -noout -checkend $((60 * 86400)) >/dev/null || fail "the old certificate is served"
}

before_9_1() {
    sed -i -e 's#^url = "mqtts://localhost:8883"#url = "embedded:"#' -e 's/^ca_file = "broker-ca.pem"/ca_file = ""/' "$toml"
    systemctl restart portcullis
    publishes lamp-1 "$key" 'ps/demo/kept?retain=1' kept || fail "nothing is retained"
    touch "$work/desk/portcullis_0.1.0-1_$(dpkg --print-architecture 2>/dev/null || uname -m).deb"
}
after_9_1() {
    said 'state +serving'
    [ "$(device lamp-1 "$key" get ps/demo/kept)" = kept ] || fail "what was retained is gone"
    publishes lamp-1 "$key" 'ps/demo/kept?retain=1' newer || fail "nothing is retained"
}
after_9_2() { [ "$(device lamp-1 "$key" get ps/demo/kept)" = kept ] || fail "the copy was not put in place"; }

before_10_1() {
    cat >"$work/desk/emqx.conf" <<'END'
gateway.coap {
  mountpoint = "site-7/"
  heartbeat = 45s
  listeners.udp.default { bind = "127.0.0.1:5683" }
  listeners.dtls.default { bind = "127.0.0.1:5684" }
  authentication { mechanism = password_based, backend = built_in_database }
}
psk_authentication { enable = true, init_file = "emqx.psk" }
END
    echo 'meter-10:a-key-from-before' >"$work/desk/emqx.psk"
    hash=$(printf 'saltbefore-it-moved' | sha256sum | cut -d' ' -f1)
    printf 'user_id,password_hash,salt,is_superuser\nmeter-10,%s,salt,false\n' "$hash" >"$work/desk/users.csv"
}
after_10_1() {
    said 'users are not in this file'
    # Where this run has its state.
    printf '\n[node]\nstate_dir = "%s"\n' "$state" >>"$work/desk/moved/portcullis.toml"
}
after_10_2() {
    publishes meter-10 a-key-from-before 'ps/meter/10?retain=1&u=meter-10&p=before-it-moved' moved || fail "its devices do not get in"
    portcullis sub 'site-7/#' --count 1 --config "$toml" >"$work/said" 2>&1 || fail "no message"
    said moved
}

here "$packaged" >"$toml"
cd "$work/desk"
done_tasks=()
for file in $(cd "$blocks" && ls | sort -V); do
    block=${file%.sh} task=${file%%-*}
    scene=${block//-/_}
    if [ "$task" = 5 ] && [ -z "$small" ]; then
        echo "NOT RUN: task 5, for which a file system of its own has to be mounted"
        continue
    fi
    : >"$work/said"
    ! declare -F "before_$scene" >/dev/null || "before_$scene"
    here "$blocks/$file" >"$work/block"
    timeout 300 bash -eu "$work/block" >"$work/said" 2>&1 || fail "it ended with $?"
    ! declare -F "after_$scene" >/dev/null || "after_$scene"
    case " ${done_tasks[*]} " in *" $task "*) ;; *) done_tasks+=("$task") ;; esac
done
echo "${#done_tasks[@]} tasks done"
