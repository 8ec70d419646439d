#!/usr/bin/env bash
# Builds the release binary so that the same source gives the same bytes wherever it lies, and from it the package.
#
#   build.sh [SOURCE]     SOURCE/target/package/release/portcullis and SOURCE/target/package/debian/*.deb
#
# Paths of the machine are mapped to fixed ones; times in the package are those of the last commit. With ARCH=arm64 on another kind of
# machine it is built by Debian's cross compiler for the libraries of this Debian's arm64, and both lie in
# SOURCE/target/package/aarch64-unknown-linux-gnu.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "${1:-$here/../..}" && pwd)
cd "$source"

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH CARGO_TARGET_DIR="$source/target/package" LC_ALL=C TZ=UTC
export RUSTFLAGS="--remap-path-prefix=$source=/build --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"

native=$(dpkg --print-architecture)
target=() package=() run=() strip=strip built=$CARGO_TARGET_DIR
if [ "${ARCH:-$native}" != "$native" ]; then
    [ "$ARCH" = arm64 ] || { echo "only arm64 is cross-built, not $ARCH" >&2; exit 64; }
    triple=aarch64-unknown-linux-gnu
    built=$CARGO_TARGET_DIR/$triple
    libraries=$(SUITE=${SUITE:-} "$here/sysroot.sh" "$source/target/sysroot" "$ARCH")
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
    export CFLAGS_aarch64_unknown_linux_gnu="-I$libraries/usr/include/aarch64-linux-gnu"
    export AARCH64_UNKNOWN_LINUX_GNU_OPENSSL_LIB_DIR=$libraries/usr/lib/aarch64-linux-gnu
    export AARCH64_UNKNOWN_LINUX_GNU_OPENSSL_INCLUDE_DIR=$libraries/usr/include
    rustup target add --quiet $triple 2>/dev/null || true
    # What the package needs cannot be asked of this machine's dpkg, which knows its own libraries.
    target=(--target "$triple") package=(--target "$triple" --variant cross) strip=aarch64-linux-gnu-strip
    run=(qemu-aarch64-static -L "$libraries")
fi
cargo build --release --locked "${target[@]}"

binary=$built/release/portcullis
# Four fifths of it are line tables, for a small box to store. A panic names its line without them, and a backtrace its functions.
$strip --strip-debug "$binary"
generated=$source/target/deb
rm -rf "$generated"
mkdir -p "$generated/completions"
"${run[@]}" "$binary" man --dir "$generated/man"
for shell in bash zsh fish; do
    "${run[@]}" "$binary" completions "$shell" >"$generated/completions/portcullis.$shell"
done
umask 022
cargo deb --no-build --locked --quiet "${package[@]}"
# It lies among those of this machine too, where only one is looked for.
[ ${#target[@]} = 0 ] || rm -f "$CARGO_TARGET_DIR"/debian/portcullis_*_"$ARCH".deb
