#!/usr/bin/env bash
# Installs, upgrades, removes and purges the package in a clean Debian tree, and upgrades to it from a former one.
#
#   deb.sh PACKAGE.deb FORMER.deb [SUITE]     as root; FORMER.deb may be empty; SUITE is bookworm unless said otherwise
set -euo pipefail
package=$(realpath "$1")
former=${2:+$(realpath "$2")}
suite=${3:-bookworm}
work=$(mktemp -d)
root=$work/root
serving= mosquitto=
trap '[ -z "$serving$mosquitto" ] || kill $serving $mosquitto 2>/dev/null || true; umount -q "$root/proc" || true; rm -rf --one-file-system "$work"' EXIT

step() { echo "== $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
as_service() { inside setpriv --reuid=portcullis --regid=portcullis --clear-groups "$@"; }
version_of() { inside dpkg-query -W -f '${Version}' portcullis; }

step "a clean $suite"
mmdebstrap --quiet --mode=root --variant=minbase "$suite" "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
cp "$package" "$root/tmp/portcullis.deb"
inside apt-get update -qq

step "install"
inside apt-get install -y -qq --no-install-recommends /tmp/portcullis.deb >"$work/log" 2>&1 || { cat "$work/log"; fail install; }
grep -q "Portcullis is installed and not started" "$work/log" || { cat "$work/log"; fail "no word on what to do next"; }
inside portcullis --version
[ "$(inside stat -c '%U %a' /etc/portcullis)" = "portcullis 750" ] || fail "owner of /etc/portcullis"
[ "$(inside stat -c '%U' /etc/portcullis/portcullis.toml)" = portcullis ] || fail "owner of the configuration"
for file in /usr/lib/sysusers.d/portcullis.sysusers.conf /usr/share/man/man1/portcullis-psk-add.1.gz \
    /usr/share/doc/portcullis/certs/server.cnf /usr/share/portcullis/prometheus/alerts.yml /usr/share/portcullis/grafana/portcullis.json \
    /usr/share/bash-completion/completions/portcullis /usr/share/zsh/vendor-completions/_portcullis; do
    inside test -s "$file" || fail "no $file"
done
# What the pages point to is there too.
(
    cd "$root/usr/share/doc/portcullis"
    find . -name '*.md' | while read -r page; do
        { grep -oE '\]\([^):#]+[)#]' "$page" || true; } | tr -d '])(#' | while read -r link; do
            test -e "$(dirname "$page")/$link" || echo "$page: $link"
        done
    done
) >"$work/links"
[ ! -s "$work/links" ] || { cat "$work/links"; fail "links to nowhere"; }
unit=$(inside dpkg -L portcullis | grep 'portcullis\.service$') || fail "no unit"
cmp "$(dirname "$0")/../../systemd/portcullis.service" "$root$unit"

step "without keys it is not accepted, and says which are missing"
if as_service portcullis check-config >"$work/log" 2>&1; then fail "accepted without keys"; fi
grep -q 'psk.txt' "$work/log" || { cat "$work/log"; fail "psk.txt is not named"; }

step "root makes keys, the service can read them"
inside portcullis certs dev --dir /etc/portcullis >/dev/null
inside portcullis psk add device-1 --config /etc/portcullis/portcullis.toml | sed 's/-k [^ ]*/-k .../; s/^key.*/key .../'
[ "$(inside stat -c '%U %a' /etc/portcullis/psk.txt)" = "portcullis 600" ] || fail "owner of psk.txt"
as_service portcullis check-config

step "the commands of the documents"
# Blocks marked `sh deb`; those of README.md come first and make the certificates.
rm "$root"/etc/portcullis/*.pem "$root"/etc/portcullis/*.key
awk 'FNR == 1 { on = 0 } /^```/ { on = ($0 == "```sh deb"); next } on' "$(dirname "$0")/../../README.md" \
    "$(dirname "$0")"/../../docs/*.md >"$root/tmp/commands"
[ -s "$root/tmp/commands" ] || fail "no commands found"
inside sh -e -x /tmp/commands
as_service portcullis check-config

step "upgrade: a changed configuration is kept"
rebuild() { # VERSION
    rm -rf "$work/again"
    dpkg-deb -R "$package" "$work/again"
    sed -i "s/^Version: .*/Version: $1/" "$work/again/DEBIAN/control"
    dpkg-deb -Znone -b "$work/again" "$root/tmp/newer.deb" >/dev/null
}
rebuild 99.0.0-1
sed -i 's/^name = "portcullis"/name = "mine"/' "$root/etc/portcullis/portcullis.toml"
key=$(sha256sum <"$root/etc/portcullis/psk.txt")
inside apt-get install -y -qq /tmp/newer.deb >"$work/log" 2>&1 || { cat "$work/log"; fail upgrade; }
[ "$(version_of)" = 99.0.0-1 ] || fail "still $(version_of)"
grep -q '^name = "mine"' "$root/etc/portcullis/portcullis.toml" || fail "the configuration was overwritten"
[ "$(sha256sum <"$root/etc/portcullis/psk.txt")" = "$key" ] || fail "the keys changed"
as_service portcullis check-config

step "upgrade: what the new version refuses is told, and the old process goes on"
# The way of deb-systemd-invoke is followed up to systemctl, which writes down what it is asked for.
mkdir -p "$root/run/systemd/system"
printf '#!/bin/sh\necho "$*" >>/tmp/systemctl\n' >"$root/usr/local/bin/systemctl"
chmod +x "$root/usr/local/bin/systemctl"
printf '#!/bin/sh\nexit 0\n' >"$root/usr/sbin/policy-rc.d"
upgrade() { # VERSION
    rebuild "$1"
    : >"$root/tmp/systemctl"
    # Not by apt, which has a PATH of its own.
    inside PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin dpkg -i /tmp/newer.deb >"$work/log" 2>&1 || { cat "$work/log"; fail "upgrade to $1"; }
    [ "$(version_of)" = "$1" ] || fail "still $(version_of)"
}
cp "$root/etc/portcullis/portcullis.toml" "$work/closed.toml"
# As a file that was written for a version which let everybody in when nothing was said.
sed -i -e '/^backend = "file" /d' "$root/etc/portcullis/portcullis.toml"
inside setpriv --reuid=portcullis --regid=portcullis --clear-groups tail -f /dev/null &
running=$!
upgrade 99.0.0-2
grep -q "NOT restarted" "$work/log" || { cat "$work/log"; fail "no word on why it is not restarted"; }
grep -q 'listeners.udp.default.bind: other machines reach' "$work/log" || { cat "$work/log"; fail "the reason is not told"; }
grep -q 'restart' "$root/tmp/systemctl" && { cat "$root/tmp/systemctl"; fail "it was restarted"; }
grep -q 'daemon-reload' "$root/tmp/systemctl" || fail "the unit was not read again"
kill -0 $running || fail "the old process ended"
kill $running
cp "$work/closed.toml" "$root/etc/portcullis/portcullis.toml"
upgrade 99.0.0-3
grep -q "NOT restarted" "$work/log" && { cat "$work/log"; fail "a good configuration was refused"; }
grep -q 'restart portcullis.service' "$root/tmp/systemctl" || { cat "$root/tmp/systemctl"; fail "it was not restarted"; }
rm -rf "$root/run/systemd/system" "$root/usr/local/bin/systemctl" "$root/tmp/systemctl"

step "remove keeps configuration and keys, purge does not"
mkdir -p "$root/var/lib/portcullis"
touch "$root/var/lib/portcullis/retained.redb"
inside apt-get remove -y -qq portcullis >/dev/null 2>&1
inside test -e /etc/portcullis/portcullis.toml || fail "remove took the configuration"
inside test ! -e /usr/bin/portcullis || fail "remove left the binary"
inside apt-get purge -y -qq portcullis >/dev/null 2>&1
left=$(inside find / -xdev -path /proc -prune -o -path /tmp -prune -o -iname '*portcullis*' -print)
[ -z "$left" ] || fail "purge left $left"

step "install again after purge"
inside apt-get install -y -qq --no-install-recommends /tmp/portcullis.deb >/dev/null 2>&1 || fail "install again"
inside portcullis --version >/dev/null

if [ -n "$former" ]; then
    # shellcheck source=tests/ops/upgrade.sh
    . "$(dirname "$0")/upgrade.sh"
else
    echo "NOT RUN: the upgrade from a former version, of which the history here knows nothing" >&2
fi
echo "the package is fine on $suite"
