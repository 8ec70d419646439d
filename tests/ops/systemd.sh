#!/usr/bin/env bash
# Boots a real systemd on a minimal Debian tree, in namespaces of its own, and runs the unit there.
#
#   systemd.sh BINARY [SUITE]     as root; SUITE is bookworm unless said otherwise
#
# The tree is made once (target/systemd/SUITE) and copied for each run. Nothing outside of it is touched; its network is a
# loopback of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
binary=$(realpath "$1")
suite=${2:-bookworm}
case $suite in trixie) ssl=libssl3t64 ;; *) ssl=libssl3 ;; esac
packages=systemd,systemd-sysv,dbus,$ssl,openssl,iproute2,procps,libcoap3-bin,curl,python3

tree=${CARGO_TARGET_DIR:-$repository/target}/systemd/$suite
if [ "$(cat "$tree.packages" 2>/dev/null)" != "$packages" ]; then
    echo "== making the tree of $suite"
    mkdir -p "$(dirname "$tree")"
    # An interrupted mmdebstrap may still have /sys and /dev mounted there.
    rm -rf --one-file-system "$tree"
    mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" "$suite" "$tree"
    echo "$packages" >"$tree.packages"
fi

work=$(mktemp -d)
root=$work/root
cgroup=
machine=
end() {
    [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
    [ -z "$machine" ] || wait "$machine" 2>/dev/null || true
    if [ -n "$cgroup" ]; then
        for _ in $(seq 50); do
            find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
    fi
    rm -rf "$work"
}
trap end EXIT

cp -a --reflink=auto "$tree" "$root"
install -m 755 "$binary" "$root/usr/bin/portcullis"
install -m 644 "$repository/systemd/portcullis.service" "$root/lib/systemd/system/portcullis.service"
install -m 644 "$repository/systemd/portcullis.sysusers.conf" "$root/usr/lib/sysusers.d/portcullis.sysusers.conf"
install -D -m 644 "$repository/config/portcullis.toml" "$root/etc/portcullis/portcullis.toml"
install -d "$root/test"
cp "$here/systemd_inside.sh" "$here/systemd_peer.py" "$here/systemd_probe.py" "$root/test/"
# The commands of the documents that need a service manager: blocks marked `sh systemd`.
awk 'FNR == 1 { on = 0 } /^```/ { on = ($0 == "```sh systemd"); next } on' "$repository"/docs/*.md "$repository/README.md" \
    >"$root/test/documents.sh"
# And the drop-in for low ports.
awk '/^```/ { on = ($0 == "```ini"); next } on' "$repository/docs/systemd.md" >"$root/test/low_ports.conf"
echo "127.0.0.1 localhost" >"$root/etc/hosts"
: >"$root/etc/machine-id"

unified=$("$here/cgroup.sh")
cgroup=$unified/portcullis-test-$$
mkdir "$cgroup"

cat >"$work/boot" <<'BOOT'
set -e
root=$1
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for dir in run tmp dev/shm; do mount -t tmpfs tmpfs "$root/$dir"; done
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
ip link set lo up
cd "$root"
mkdir -p mnt
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd systemd.unit=multi-user.target
BOOT

echo "== booting $suite"
(
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    exec unshare --pid --mount --net --ipc --uts --cgroup --fork --kill-child=SIGKILL --propagation private \
        bash "$work/boot" "$root"
) >"$work/console" 2>&1 &
machine=$!

init=
for _ in $(seq 100); do
    init=$(pgrep -P "$machine" || true)
    if [ -n "$init" ] && [ "$(cat "/proc/$init/comm" 2>/dev/null)" = systemd ]; then
        state=$(nsenter -t "$init" -a systemctl is-system-running 2>/dev/null || true)
        case $state in running | degraded) break ;; esac
    fi
    kill -0 "$machine" 2>/dev/null || { cat "$work/console"; exit 1; }
    sleep 0.2
done
echo "systemd $(nsenter -t "$init" -a systemctl --version | head -1 | cut -d' ' -f2): $state"
case $state in running | degraded) ;; *) cat "$work/console"; exit 1 ;; esac
nsenter -t "$init" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 bash /test/systemd_inside.sh
