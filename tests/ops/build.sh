#!/usr/bin/env bash
# Builds the release binary so that the same source gives the same bytes wherever it lies, and from it the package.
#
#   build.sh [SOURCE]     SOURCE/target/package/release/portcullis and SOURCE/target/package/debian/*.deb
#
# Paths of the machine are mapped to fixed ones; times in the package are those of the last commit.
set -euo pipefail
source=$(cd "${1:-$(dirname "$0")/../..}" && pwd)
cd "$source"

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH CARGO_TARGET_DIR="$source/target/package" LC_ALL=C TZ=UTC
export RUSTFLAGS="--remap-path-prefix=$source=/build --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
cargo build --release --locked

binary=$CARGO_TARGET_DIR/release/portcullis
# Four fifths of it are line tables, for a small box to store. A panic names its line without them, and a backtrace its functions.
strip --strip-debug "$binary"
generated=$source/target/deb
rm -rf "$generated"
mkdir -p "$generated/completions"
"$binary" man --dir "$generated/man"
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$generated/completions/portcullis.$shell"
done
umask 022
cargo deb --no-build --locked --quiet
