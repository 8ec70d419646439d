#!/usr/bin/env bash
# Runs the image as deploy/ has it run: unpacked by umoci, which checks every digest, under runc with a read-only root, no
# capability, no new privileges and a user that is not root; on the loopback of this machine.
#
#   image.sh LAYOUT     as root; runc must be able to make namespaces and cgroups
set -euo pipefail
layout=$(realpath "$1")
cd "$(dirname "$0")/../.."
work=$(mktemp -d /tmp/portcullis-image.XXXXXX)
container=portcullis-image-$$
runtime=(runc --root "$work/run")
trap '[ -z "${KEEP:-}" ] || exit; "${runtime[@]}" delete --force "$container" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT

step() { echo "== $*"; }
fail() { echo "FAILED: $*" >&2; cat "$work/said" 2>/dev/null >&2 || true; exit 1; }
is() { [ "$3" = "$2" ] || fail "$1: '$2' was expected, and there is '$3'"; }

step "the layout is whole"
version=$(jq -er '.manifests[0].annotations["org.opencontainers.image.ref.name"]' "$layout/index.json")
find "$layout/blobs/sha256" -type f -printf '%f  %p\n' | sha256sum --check --quiet --strict
umoci unpack --image "$layout:$version" "$work/bundle" >/dev/null 2>&1 || fail "umoci does not unpack it"
root=$work/bundle/rootfs
[ ! -e "$root/bin/sh" ] && [ ! -e "$root/usr/bin/sh" ] || fail "there is a shell in it"
set_id=$(find "$root" -perm /6000)
[ -z "$set_id" ] || fail "it has programs that change who runs them: $set_id"

step "a configuration as for the compose file, with keys made by the image itself"
read -r udp dtls admin metrics < <(python3 - <<'PY'
import socket
kinds = [socket.SOCK_DGRAM] * 2 + [socket.SOCK_STREAM] * 2
held = [socket.socket(socket.AF_INET, kind) for kind in kinds]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PY
)
mkdir "$work/etc" "$work/state"
sed -e "s/\[::\]:5683/127.0.0.1:$udp/" -e "s/\[::\]:5684/127.0.0.1:$dtls/" -e "s/127.0.0.1:9683/127.0.0.1:$metrics/" \
    -e "s/127.0.0.1:8683/127.0.0.1:$admin/" deploy/compose/portcullis.toml >"$work/etc/portcullis.toml"
install -m 600 /dev/null "$work/etc/users.txt"
chown -R 10001:10001 "$work/etc" "$work/state"
# As the deployment has it: what the image itself says it runs, in a root that it cannot write to.
jq --arg etc "$work/etc" --arg state "$work/state" '
    .root.readonly = true | .process.terminal = false | .process.noNewPrivileges = true
    | .process.capabilities = {bounding: [], effective: [], inheritable: [], permitted: [], ambient: []}
    | .process.rlimits = []
    | .linux.namespaces |= map(select(.type | IN("network", "user") | not)) | del(.linux.resources)
    | .linux.uidMappings = null | .linux.gidMappings = null
    | .mounts |= map(select(.destination | IN("/sys", "/sys/fs/cgroup", "/etc/resolv.conf", "/var/lib/portcullis") | not))
    | .mounts += [
        {destination: "/etc/portcullis", type: "bind", source: $etc, options: ["rbind", "rw"]},
        {destination: "/var/lib/portcullis", type: "bind", source: $state, options: ["rbind", "rw"]},
        {destination: "/run/portcullis", type: "tmpfs", source: "tmpfs", options: ["nosuid", "nodev", "noexec", "mode=0750", "uid=10001", "gid=10001", "size=1m"]},
        {destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["nosuid", "nodev", "noexec", "size=16m"]}
    ]' "$work/bundle/config.json" >"$work/config.json"
is "its user" 10001 "$(jq .process.user.uid "$work/config.json")"
bundle() { # ARGUMENTS... a bundle that runs the entrypoint with these
    jq --argjson args "$(printf '%s\n' /usr/bin/portcullis "$@" | jq -R . | jq -s .)" '.process.args = $args' \
        "$work/config.json" >"$work/bundle/config.json"
}
once() {
    bundle "$@"
    "${runtime[@]}" run --bundle "$work/bundle" "$container" >"$work/said" 2>&1
}
once certs dev --dir /etc/portcullis || fail "certs dev"
once psk add lamp-1 --config /etc/portcullis/portcullis.toml || fail "psk add"
key=$(sed -n 's/.*-k \([^ ]*\).*/\1/p' "$work/said" | head -1)
[ -n "$key" ] || fail "no key"
once check-config || fail "check-config"

serve() {
    cp "$work/config.json" "$work/bundle/config.json"
    "${runtime[@]}" run --bundle "$work/bundle" "$container" >"$work/said" 2>&1 &
    serving=$!
    for _ in {1..300}; do
        curl -sf "http://127.0.0.1:$metrics/readyz" >/dev/null && return 0
        kill -0 "$serving" 2>/dev/null || break
        sleep 0.1
    done
    fail "it does not serve"
}
halt() {
    "${runtime[@]}" kill "$container" TERM
    wait "$serving" || fail "it ended with $?"
}
inside() { "${runtime[@]}" exec "$container" "$@"; }
by_dtls() { coap-client-openssl -u lamp-1 -k "$key" -m "$1" ${3:+-e "$3"} "coaps://127.0.0.1:$dtls/$2" 2>&1; }

step "it serves, without a right to anything but its state"
serve
is "a publish" "" "$(by_dtls put 'ps/lamp/1?retain=1&qos=1' on)"
is "a read" on "$(by_dtls get ps/lamp/1)"
health=$(jq -r '.config.Healthcheck.Test[1:] | join(" ")' "$layout/blobs/sha256/$(jq -r .config.digest "$layout/blobs/sha256/$(jq -r '.manifests[0].digest | ltrimstr("sha256:")' "$layout/index.json")" | sed s/sha256://)")
# shellcheck disable=SC2086 # words
inside $health >"$work/health" || fail "the health check: $(cat "$work/health")"
pid=$(pgrep --parent "$serving" || "${runtime[@]}" state "$container" | jq .pid)
status=$(cat "/proc/$pid/status")
for line in 'Uid:.10001' 'Gid:.10001' 'CapEff:.0000000000000000' 'CapBnd:.0000000000000000' 'NoNewPrivs:.1'; do
    grep -q "$line" <<<"$status" || fail "not $line: $status"
done
for place in / /usr/bin /etc; do
    if inside /usr/bin/portcullis man --dir "$place/pages" >/dev/null 2>&1; then fail "it can write to $place"; fi
done

step "it stops when it is told to, and goes on where it was"
halt
if inside $health >/dev/null 2>&1; then fail "the health check says that it serves"; fi
"${runtime[@]}" delete --force "$container" 2>/dev/null || true
serve
is "what was retained" on "$(by_dtls get ps/lamp/1)"
halt
echo "the image is fine"
