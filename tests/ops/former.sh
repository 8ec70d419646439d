#!/usr/bin/env bash
# Builds the package of a former commit, once, under target/former, and prints where it lies; nothing where the history here, of a
# shallow clone, does not reach as far.
#
#   former.sh COMMIT
set -euo pipefail
cd "$(dirname "$0")/../.."
commit=$(git rev-parse --quiet --verify --short=12 "$1^{commit}") || exit 0
home=$PWD/target/former/$commit
if ! ls "$home"/*.deb >/dev/null 2>&1; then
    rm -rf "$home"
    mkdir -p "$home/source"
    git archive "$commit" | tar -x -C "$home/source"
    # It lies below a workspace, and is none of its members.
    grep -q '^\[workspace\]' "$home/source/Cargo.toml" || printf '\n[workspace]\n' >>"$home/source/Cargo.toml"
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "$commit") "$home/source/tests/ops/build.sh" >&2
    mv "$home"/source/target/package/debian/*.deb "$home"
    # What it was made from is in the repository.
    rm -rf "$home/source"
fi
ls "$home"/*.deb
