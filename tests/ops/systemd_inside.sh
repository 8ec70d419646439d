#!/usr/bin/env bash
# What is tried with the unit under a booted systemd; started there by systemd.sh.
set -euo pipefail
config=/etc/portcullis/portcullis.toml
unit=portcullis.service

step() { echo "== $*"; }
fail() {
    echo "FAILED: $*"
    systemctl status --no-pager -l $unit || true
    journalctl --no-pager -u $unit -n 40 -o cat || true
    exit 1
}
show() { systemctl show --value -p "$1" $unit; }
metric() { curl -fsS http://127.0.0.1:9683/metrics | awk -v name="$1" '$1 == name { print $2 }'; }
becomes() { # SECONDS COMMAND...: until it succeeds
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.1
    done
}
ready() { curl -fsS -o /dev/null http://127.0.0.1:9683/readyz 2>/dev/null; }
coap() { coap-client-openssl -v 4 -B 5 "$@"; }
key_of() { sed -n "s/^$1://p" /etc/portcullis/psk.txt | xxd_text; }
xxd_text() { python3 -c 'import sys; print(bytes.fromhex(sys.stdin.read().strip()).decode())'; }
said() { # PATTERN: the last line of the log that has it
    journalctl --no-pager -u $unit -o cat >/test/log
    grep -- "$1" /test/log | tail -1
    grep -q -- "$1" /test/log
}
publish_and_read() {
    local key
    key=$(key_of device-1)
    coap -m put -e "$1" "coap://127.0.0.1/ps/state?retain=1"
    [ "$(coap -m get -u device-1 -k "$key" coaps://127.0.0.1/ps/state)" = "$1" ] || fail "read over DTLS"
}

step "keys, as the package's words after installing say"
systemd-sysusers portcullis.sysusers.conf
chown -R portcullis:portcullis /etc/portcullis
chmod 750 /etc/portcullis
if systemctl start $unit 2>/dev/null; then fail "started without keys"; fi
sleep 1.5
[ "$(show ActiveState) $(show ExecMainStatus) $(show NRestarts)" = "failed 78 0" ] || fail "it is tried again and again"
echo "without keys: $(show ActiveState), exit code $(show ExecMainStatus), not tried again"
portcullis certs dev --dir /etc/portcullis >/dev/null
portcullis psk add device-1 --config $config >/dev/null
# What is tried here is the unit: whoever comes is let in.
sed -i -e 's/^workers = 0 /workers = 2 /' -e 's/^backend = "file" /backend = "none" /' $config

step "start: back when it serves"
systemctl reset-failed $unit
systemctl start $unit || fail "start"
ready || fail "READY before it serves"
echo "$(show ActiveState), status: $(show StatusText)"
[[ $(show StatusText) == "serving 2 listeners with 2 workers; broker: "* ]] || fail "status text"
publish_and_read first
if [ -s /test/documents.sh ]; then
    step "the commands of the documents"
    bash -euo pipefail -c 'PAGER=cat SYSTEMD_PAGER=cat; export PAGER SYSTEMD_PAGER; . /test/documents.sh' >/test/documents.out 2>&1 ||
        { cat /test/documents.out; fail "a command of the documents"; }
    wc -l </test/documents.out | sed 's/$/ lines of output/'
    becomes 10 ready || fail "not ready after the commands of the documents"
fi

step "hardening, from inside"
pid=$(show MainPID)
grep -E '^(CapEff|NoNewPrivs|Seccomp):' "/proc/$pid/status" | tr '\n' ' '; echo
grep -qE '^CapEff:\s0+$' "/proc/$pid/status" || fail capabilities
grep -qE '^NoNewPrivs:\s1$' "/proc/$pid/status" || fail NoNewPrivs
grep -qE '^Seccomp:\s2$' "/proc/$pid/status" || fail seccomp
[ "$(stat -c %U "/proc/$pid")" = portcullis ] || fail user
# The same unit with another program in it says what is possible there.
sed -e 's|^Type=.*|Type=oneshot|' -e '/^ExecReload=/d' -e '/^WatchdogSec=/d' -e '/^Restart/d' -e '/^FileDescriptorStoreMax=/d' -e '/^RuntimeDirectory/d' \
    -e 's|^ExecStart=.*|ExecStart=/usr/bin/python3 /usr/lib/probe.py|' -e 's|^\(ExecPaths=.*\)|\1 /usr/bin/python3.11 /usr/bin/python3|' \
    /lib/systemd/system/$unit >/run/systemd/system/probe.service
ln -sf "$(readlink -f /usr/bin/python3)" /usr/bin/python3.11 2>/dev/null || true
cp /test/systemd_probe.py /usr/lib/probe.py
systemctl daemon-reload
systemctl start probe.service || { journalctl --no-pager -u probe -o cat; fail probe; }
journalctl --no-pager -u probe -o cat _COMM=python3 | grep -v '^$' || journalctl --no-pager -u probe -o cat
systemd-analyze security --no-pager --threshold=11 $unit | tail -1 || fail "exposure"

step "the socket: a member of the group administers and is named, a stranger is not let in"
socket=/run/portcullis/admin.sock
[ "$(stat -c '%U %G %a' $socket)" = "portcullis portcullis 660" ] || fail "owner and mode of $socket"
[ "$(stat -c '%G %a' /run/portcullis)" = "portcullis 750" ] || fail "mode of /run/portcullis"
as() { setpriv --reuid=4711 --regid=4711 "$@"; }
as --groups="$(id -g portcullis)" portcullis status --config $config | head -3 || fail "a member"
as --groups="$(id -g portcullis)" portcullis clients kick nobody --config $config 2>/dev/null && fail "kicked nobody"
said 'token="socket" peer=group:portcullis/pid:'
if as --clear-groups portcullis status 2>/test/stranger; then fail "a stranger"; fi
if as --clear-groups python3 -c "import socket; socket.socket(socket.AF_UNIX).connect('$socket')" 2>>/test/stranger; then fail "a stranger"; fi
[ "$(stat -c '%U %a' /var/lib/portcullis/admin.token)" = "portcullis 600" ] || fail "the token of the first start"
code() { curl -s -o /dev/null -w '%{http_code}' "$@" http://127.0.0.1:8683/api/v1/status; }
[ "$(code) $(code -H "Authorization: Bearer $(cat /var/lib/portcullis/admin.token)")" = "401 200" ] || fail "tokens on loopback"

step "reload: a new key counts, what runs goes on"
portcullis psk add device-2 --config $config >/dev/null
systemctl reload $unit
new_key_works() { [ "$(coap -m get -u device-2 -k "$(key_of device-2)" coaps://127.0.0.1/ps/state 2>/dev/null)" = first ]; }
becomes 5 new_key_works || fail "the new key"
[ "$(show MainPID)" = "$pid" ] || fail "another process"

step "reload of a broken file: refused, told, the old in force"
cp $config /test/good.toml
sed -i 's/^max_sessions = .*/max_session = 3/' $config
systemctl reload $unit
refused() { [ "$(metric portcullis_config_last_reload_successful)" = 0 ]; }
becomes 5 refused || fail "the metric of the reload"
said 'max_session'
journalctl --no-pager -u $unit -p err -o cat | grep -q 'unknown key `max_session`' || fail "it is no error to the journal"
journalctl --no-pager -u $unit -p err -o cat | grep -q INFO && fail "it is an error to the journal"
publish_and_read second
cat /test/good.toml >$config
systemctl reload $unit
accepted() { [ "$(metric portcullis_config_last_reload_successful)" = 1 ]; }
becomes 5 accepted || fail "the good file again"

step "restart under load: every datagram is answered"
python3 /test/systemd_peer.py 5683 600 5 >/test/peer.out 2>&1 &
peer=$!
sleep 1
systemctl restart $unit
wait $peer || { cat /test/peer.out; fail "datagrams were lost"; }
cat /test/peer.out
[ "$(show NRestarts)" = 0 ] || fail "it restarted by itself"
publish_and_read third

step "SIGKILL: the sockets stay, the next process takes them"
pid=$(show MainPID)
kill -KILL "$pid"
python3 /test/systemd_peer.py 5683 200 10 || fail "datagrams were lost"
[ "$(show MainPID)" != "$pid" ] || fail "the same process"
echo "restarts: $(show NRestarts), descriptors in store: $(show NFileDescriptorStore)"

step "watchdog: one worker that stands still"
mkdir -p /run/systemd/system/$unit.d
printf '[Service]\nWatchdogSec=9s\n' >/run/systemd/system/$unit.d/watchdog.conf
systemctl daemon-reload
systemctl restart $unit
pid=$(show MainPID)
worker=$(grep -l '^worker' /proc/"$pid"/task/*/comm | head -1 | cut -d/ -f5)
[ -n "$worker" ] || { cat /proc/"$pid"/task/*/comm; fail "no thread of a worker"; }
before=$(show NRestarts)
python3 /test/systemd_peer.py stop-thread "$worker" &
tracer=$!
restarted() { [ "$(show NRestarts)" -gt "$before" ] && ready; }
from=$(date +%s%N)
becomes 40 restarted || fail "no restart"
echo "thread $worker of $pid stopped; new process $(show MainPID) serves after $((($(date +%s%N) - from) / 1000000)) ms"
kill $tracer 2>/dev/null || true
said 'Watchdog timeout' || fail 'no watchdog in the log'
said 'workers are stuck' || fail "the log does not name the worker"
publish_and_read fourth

step "a key that only the service manager can read"
mv /etc/portcullis/server.key /root/server.key
chown root:root /root/server.key
printf '[Service]\nLoadCredential=server.key:/root/server.key\n' >/run/systemd/system/$unit.d/credential.conf
systemctl daemon-reload
systemctl restart $unit || fail "start with a credential"
publish_and_read credential
systemctl reload $unit
becomes 5 accepted || fail "reload with a credential"

step "another number of workers: sockets that do not fit are closed, it serves"
sed -i 's/^workers = 2 /workers = 1 /' $config
systemctl restart $unit || fail "restart with one worker"
said 'do not fit' || fail 'the log does not name the sockets'
publish_and_read fifth

step "a port below 1024, with the drop-in of the document"
cp $config /test/config
sed -i 's/^bind = "\[::\]:5683"/bind = "[::]:683"/' $config
systemctl restart $unit 2>/dev/null && fail "a low port without the drop-in"
cp /test/low_ports.conf /run/systemd/system/$unit.d/
systemctl daemon-reload
systemctl restart $unit || fail "no low port with the drop-in"
coap -m put -e low coap://127.0.0.1:683/ps/state
sed -n '/^Cap\(Eff\|Bnd\)/p' "/proc/$(show MainPID)/status"
rm /run/systemd/system/$unit.d/low_ports.conf
cp /test/config $config
systemctl daemon-reload
systemctl restart $unit || fail "restart with the ports as before"

step "MemoryHigh: a session that stands is served while the process is held there"
group=/sys/fs/cgroup/system.slice/$unit
if [ -e $group/memory.high ]; then
    [ "$(show OOMPolicy) $(cat $group/memory.oom.group)" = "kill 1" ] || fail "OOMPolicy"
    [ "$(cat $group/memory.high)" -lt "$(cat $group/memory.max)" ] || fail "MemoryHigh is not below MemoryMax"
    key=$(sed -n 's/^device-1://p' /etc/portcullis/psk.txt)
    python3 /test/systemd_peer.py session "$key" >/test/session.out 2>&1 &
    peer=$!
    becomes 20 eval '[ "$(metric "portcullis_sessions{listener=\"default\",transport=\"dtls\"}")" != 0 ]' || fail "no session"
    events() { awk '$1 == "high" { print $2 }' $group/memory.events; }
    before=$(events)
    # The gateway knows the limit that it was started with, and so does nothing about this one: the kernel is alone with it.
    systemctl set-property --runtime $unit MemoryHigh=$(($(cat $group/memory.current) + (1 << 18)))
    held() { python3 /test/systemd_peer.py fill 3 && [ "$(events)" -gt "$before" ]; }
    becomes 60 held || fail "it was not held at MemoryHigh"
    python3 /test/systemd_peer.py fill 10 || fail "publishes were not answered at MemoryHigh"
    now=$(cat $group/memory.current)
    high=$(cat $group/memory.high)
    echo "$(($(events) - before)) times above MemoryHigh; $now bytes, the limit being $high"
    [ "$now" -gt $((high * 9 / 10)) ] || fail "it does not stay at MemoryHigh"
    kill $peer
    wait $peer || { cat /test/session.out; fail "the session was not served"; }
    cat /test/session.out
    [ "$(show NRestarts)" = 0 ] || fail "it was restarted"
    systemctl set-property --runtime $unit MemoryHigh=70%
else
    echo "not tried: the memory controller of this kernel is not in cgroup version 2"
fi

step "SIGKILL: a DTLS session goes on in the next process; drain: its device is told, the process ends by itself"
key=$(sed -n 's/^device-1://p' /etc/portcullis/psk.txt)
mkfifo /test/open
(sleep 30 >/test/open & echo $! >/test/sleeper)
openssl s_client -dtls1_2 -connect 127.0.0.1:5684 -psk_identity device-1 -psk "$key" -cipher PSK -quiet </test/open >/test/s_client 2>&1 &
client=$!
session() { [ "$(metric 'portcullis_sessions{listener="default",transport="dtls"}')" != 0 ]; }
becomes 5 session || { cat /test/s_client; fail "no session"; }
kill -KILL "$(show MainPID)"
restored() { [ "$(metric 'portcullis_sessions_restored_total{how="memory",result="ok"}')" = 1 ]; }
becomes 15 restored || fail "the session did not outlive the process"
[ "$(metric 'portcullis_dtls_handshakes_total{listener="default",result="ok"}')" = 0 ] || fail "a handshake"
from=$(date +%s%N)
portcullis drain --config $config
ended() { [ "$(show ActiveState)" = inactive ]; }
becomes 15 ended || fail "it did not end"
took=$((($(date +%s%N) - from) / 1000000))
told() { ! kill -0 $client 2>/dev/null; }
becomes 3 told || fail "the client was not told"
kill "$(cat /test/sleeper)" 2>/dev/null || true
[ "$(show Result)" = success ] || fail "ended with $(show Result)"
said '^ *INFO daemon: stopped' || fail "no word of the end"
echo "drained in $took ms, result $(show Result); the DTLS client got close_notify of the next process and ended"
echo "all is well"
