#!/usr/bin/env bash
# Builds the committed source in two directories; the binaries, and all files that are released, must be the same bytes.
#
#   reproducible.sh [FIRST]     FIRST is a tree that build.sh has built already, to save a build
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(git -C "$here" rev-parse --show-toplevel)
# One commit for both, whatever is committed while the first is built.
commit=$(git -C "$repository" rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git -C "$repository" log -1 --format=%ct "$commit")
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

copy() {
    mkdir -p "$1"
    git -C "$repository" archive "$commit" | tar -x -C "$1"
    "$1/tests/ops/build.sh" "$1" >&2
    echo "$1"
}
first=${1:-$(copy "$work/first")}
# Another name and another length, so that a path left in the binary shows.
second=$(copy "$work/another-place/second")

same() {
    sha256sum "$first/$1" "$second/$1"
    cmp "$first/$1" "$second/$1"
}
same target/package/release/portcullis
if strings "$second/target/package/release/portcullis" | grep -F -e "$work" -e "$HOME/.cargo"; then
    echo "paths of this machine are in the binary"
    exit 1
fi
for tree in "$first" "$second"; do "$here/dist.sh" "$tree" >/dev/null; done
(cd "$second" && find target/dist -type f) | while read -r file; do same "$file"; done
echo "reproducible"
