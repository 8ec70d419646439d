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
clone=/home/dev/portcullis

step() { echo "== $suite: $*"; }
fail() { echo "FAILED: $suite: $*" >&2; exit 1; }
inside() { # USER COMMAND...
    local user=$1
    shift
    "$here/tree.sh" run "$root" "$user" --bind "$toolchain" /opt/rust env CARGO_HOME=/opt/cargo "$@"
}
start_over() { # OWNER
    rm -rf --one-file-system "$root"
    cp -a --reflink=auto "$tree" "$root"
    chroot "$root" useradd --create-home --uid 4000 dev
    versions >"$home/$suite.before"
    git clone --quiet --no-local "$repository" "$root$clone"
    git -C "$root$clone" checkout --quiet --detach "$commit"
    # As old as the commit, and the crates at one place, so that what one user built counts for the other.
    chroot "$root" install -d -o "$1" -g "$1" /opt/cargo
    find "$root$clone" -name .git -prune -o -type f -print0 | xargs -0 touch -d "@$(git -C "$repository" log -1 --format=%ct)"
    chroot "$root" chown -R "$1:" "$clone"
}
versions() { chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' | sort; }
# What was there is there as it was; what came is said.
nothing_upgraded() {
    local changed
    versions >"$home/$suite.after"
    changed=$(comm -23 "$home/$suite.before" "$home/$suite.after")
    [ -z "$changed" ] || fail "no longer as it was: $changed"
    step "$(comm -13 "$home/$suite.before" "$home/$suite.after" | wc -l) packages came, none was changed; $(grep '^libssl3' "$home/$suite.after")"
}
# make run, until it serves; then once more, with all its lines.
serves() { # USER
    cat >"$root/usr/local/bin/make-run" <<MAKE
#!/bin/sh
trap 'kill \$!; wait \$!; exit 0' TERM
make --no-print-directory -C $clone run &
wait \$!
MAKE
    chmod +x "$root/usr/local/bin/make-run"
    inside "$1" bash -c '
        make-run >run.log 2>&1 &
        until grep -q "coap-client" run.log && (exec 3<>/dev/tcp/127.0.0.1/9683) 2>/dev/null; do
            kill -0 $! 2>/dev/null || { cat run.log; exit 1; }
            sleep 1
        done
        kill $!
        wait $!
        bash '"$clone"'/tests/interop/quickstart.sh make-run'
}

for suite in "$@"; do
    tree=$home/$suite
    root=$home/$suite.root
    trap 'rm -rf --one-file-system "$root" "$home/$suite.target"' EXIT
    "$here/tree.sh" make "$tree" "$suite" git,make released

    start_over root
    step "make run as root, from a clean clone of ${commit:0:10}"
    serves root
    nothing_upgraded
    step "make test as root"
    inside root make -C "$clone" test >"$home/$suite-test.log" 2>&1 || { tail -n 60 "$home/$suite-test.log"; fail "make test"; }
    tail -n 1 "$home/$suite-test.log"
    nothing_upgraded

    mv "$root$clone/target" "$home/$suite.target"
    start_over dev
    step "make run as a plain user, from a clean clone"
    if said=$(inside dev make -C "$clone" run 2>&1); then fail "served without its packages"; fi
    install=$(sed -n 's/^Missing packages; as root: //p' <<<"$said")
    [ -n "$install" ] || fail "does not name what is missing: $said"
    step "as root: $install"
    inside root bash -c "${install/install /install -y }" >"$home/$suite-install.log" 2>&1 || { cat "$home/$suite-install.log"; fail "what it named"; }
    mv "$home/$suite.target" "$root$clone/target"
    chroot "$root" chown -R dev: "$clone/target"
    serves dev
    nothing_upgraded
    rm -rf --one-file-system "$root"
done
echo "make run and make test are fine on $*"
