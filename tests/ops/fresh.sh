#!/usr/bin/env bash
# `make run`, with the lines that it prints, and `make test`, from a clean clone of the last commit on machines that nobody
# prepared: minimal Debian trees with git, make and the Rust toolchain of this machine. The tree has the release as it came out,
# and nothing in it is upgraded.
#
#   fresh.sh SUITE...     as root
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
home=$(realpath -m "${CARGO_TARGET_DIR:-$repository/target}")/fresh
toolchain=$(rustc --print sysroot)
commit=$(git -C "$repository" rev-parse HEAD)

step() { echo "== $suite: $*"; }
fail() { echo "FAILED: $suite: $*" >&2; exit 1; }
inside() { # USER COMMAND...
    local user=$1
    shift
    "$here/tree.sh" run "$root" "$user" --bind "$toolchain" /opt/rust "$@"
}
clean_clone() { # OWNER
    git clone --quiet --no-local "$repository" "$root/home/dev/portcullis"
    git -C "$root/home/dev/portcullis" checkout --quiet --detach "$commit"
    chroot "$root" chown -R "$1:" /home/dev/portcullis
}
start_over() {
    rm -rf --one-file-system "$root"
    cp -a --reflink=auto "$tree" "$root"
    chroot "$root" useradd --create-home --uid 4000 dev
}
versions() { chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' | sort; }
# What was there is there as it was; what came is said.
nothing_upgraded() {
    versions >"$home/after"
    local changed
    changed=$(comm -23 "$home/before" "$home/after")
    [ -z "$changed" ] || fail "no longer as it was: $changed"
    step "$(comm -13 "$home/before" "$home/after" | wc -l) packages came, none was changed; $(grep '^libssl3' "$home/after")"
}
# make run, until it serves; then once more, with all its lines.
serves() { # USER
    local user=$1
    printf '#!/bin/sh\nexec make --no-print-directory -C /home/dev/portcullis run\n' >"$root/usr/local/bin/make-run"
    chmod +x "$root/usr/local/bin/make-run"
    inside "$user" bash -c '
        set -m
        make-run >run.log 2>&1 &
        until grep -q "coap-client" run.log && (exec 3<>/dev/tcp/127.0.0.1/9683) 2>/dev/null; do
            kill -0 $! 2>/dev/null || { cat run.log; exit 1; }
            sleep 1
        done
        kill -- -$!
        wait $! || true
        bash portcullis/tests/interop/quickstart.sh make-run' | sed "s/^/   /"
    cp "$root$(chroot "$root" awk -F: -v user="$user" '$1 == user { print $6 }' /etc/passwd)/run.log" "$home/$suite-run-$user.log"
}

for suite in "$@"; do
    tree=$home/$suite
    root=$home/$suite.root
    trap 'rm -rf --one-file-system "$root"' EXIT
    "$here/tree.sh" make "$tree" "$suite" git,make released

    step "make run as root, from a clean clone of ${commit:0:10}"
    start_over
    versions >"$home/before"
    clean_clone root
    serves root
    nothing_upgraded

    step "make run as a plain user"
    mv "$root/home/dev/portcullis/target" "$home/$suite.target"
    start_over
    clean_clone dev
    if said=$(inside dev make -C portcullis run 2>&1); then fail "served without its packages"; fi
    install=$(sed -n 's/^Missing packages; as root: //p' <<<"$said")
    [ -n "$install" ] || fail "does not name what is missing: $said"
    echo "   # $install"
    inside root bash -c "${install/install /install -y }" >"$home/$suite-install.log" 2>&1 || { cat "$home/$suite-install.log"; fail "what it named"; }
    # What root built from the same source at the same place.
    mv "$home/$suite.target" "$root/home/dev/portcullis/target"
    chroot "$root" chown -R dev: /home/dev/portcullis/target
    serves dev
    nothing_upgraded

    step "make test as root, from a clean clone"
    start_over
    clean_clone root
    inside root make -C /home/dev/portcullis test >"$home/$suite-test.log" 2>&1 || { tail -n 60 "$home/$suite-test.log"; fail "make test"; }
    tail -n 1 "$home/$suite-test.log"
    nothing_upgraded
    rm -rf --one-file-system "$root"
done
echo "make run and make test are fine on $*"
