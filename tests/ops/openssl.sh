#!/usr/bin/env bash
# The DTLS tests on other OpenSSLs than the one that the machine has. Nothing of the machine is changed: libraries are unpacked
# under target/openssl and found by LD_LIBRARY_PATH.
#
#   openssl.sh compare   the record comparisons alone, on the oldest and the newest patch level that the archive has beside the
#                        installed one
#   openssl.sh all PACKAGE...
#                        the DTLS and interoperability tests on every patch level, on Debian 13's (as root, in a tree with the
#                        packages), and on the OpenSSL 3 and 4 that are built from source; UPDATE_DOCS=1 writes the table of
#                        docs/interop.md
set -euo pipefail
shopt -s inherit_errexit
repository=$(cd "$(dirname "$0")/../.." && pwd)
cd "$repository"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
home=$target/openssl
mkdir -p "$home/log" "$home/levels" "$home/lists/partial" "$home/cache/archives/partial"
cargo=${CARGO:-cargo}
# Ours alone: a test that sees it would write what it found on one OpenSSL into the table of all.
updates=${UPDATE_DOCS:-}
unset UPDATE_DOCS
# What an OpenSSL 4 is built with; that of 3 is in Cargo.lock.
newest='=400.0.2'

apt=(-o "Dir::State::lists=$home/lists" -o "Dir::Cache=$home/cache" -o "APT::Sandbox::User=$(id -un)")
package=$(dpkg-query -S '*/libssl.so.3' | cut -d: -f1 | head -1)
installed=$(dpkg-query -W -f '${Version}\n' "$package" | head -1)

offered() {
    apt-get "${apt[@]}" update -qq >&2 || true
    apt-cache "${apt[@]}" madison "$package" | awk '{ print $3 }' | sort -uV
}

unpack() { # VERSION; prints where its libraries are
    local tree=$home/levels/$1
    if [ ! -d "$tree" ]; then
        (cd "$home/cache" && apt-get "${apt[@]}" download -qq "$package=$1" >&2 && dpkg -x "${package}_${1//:/%3a}_"*.deb "$tree.part")
        mv "$tree.part" "$tree"
    fi
    dirname "$(find "$tree" -name libssl.so.3)"
}

# Builds the tests with the given options of cargo, and sets `tests` to where they are.
declare -A tests
build() {
    local name path
    while read -r name path; do tests[$name]=$path; done < <(
        "$cargo" test --locked --no-run --message-format=json-render-diagnostics "$@" |
            jq -r 'select(.executable != null) | "\(if .profile.test then .target.name else "binary" end) \(.executable)"'
    )
}
build_all() {
    build -p portcullis-dtls --lib "$@"
    build -p portcullis --test dtls --test interop "$@"
}

# Runs tests that `build` made, in front of them what they are to run under; prints what came of it.
counted() { # LOG TEST [ARGUMENT]... -- [COMMAND]...
    local log=$home/log/$1 test=${tests[$2]} arguments=()
    shift 2
    while [ "$1" != -- ]; do
        arguments+=("$1")
        shift
    done
    shift
    "$@" "$test" "${arguments[@]}" >"$log" 2>&1 </dev/null || true
    awk '/^test result:/ { passed = $4; failed = $6; seen = 1 }
        END { if (!seen) print "FAILED to run"; else if (failed) printf "%d of %d FAILED\n", failed, passed + failed
              else printf "%d ok\n", passed }' "$log"
}
comparisons() { # LOG [COMMAND]...
    local log=$1
    shift
    counted "$log" portcullis_dtls with_openssl_record_by_record -- "$@"
}

compare() {
    local levels level chosen libraries said
    build -p portcullis-dtls --lib
    mapfile -t levels < <(offered | grep -vxF "$installed")
    if [ ${#levels[@]} = 0 ]; then
        echo "The archive has no patch level of $package beside the installed $installed: nothing to compare with" >&2
        exit 1
    fi
    chosen=("${levels[0]}")
    [ ${#levels[@]} = 1 ] || chosen+=("${levels[-1]}")
    for level in "${chosen[@]}"; do
        libraries=$(unpack "$level")
        said=$(comparisons "compare-$level.log" env LD_LIBRARY_PATH="$libraries")
        echo "record comparisons on $package $level: $said"
        [[ $said =~ ^[1-9][0-9]*\ ok$ ]] || { cat "$home/log/compare-$level.log"; exit 1; }
    done
}

rows=()
row() { # NAME HOW [COMMAND]...
    local name=$1 how=$2 id version line
    shift 2
    id=${name//[^A-Za-z0-9.]/-}
    version=$("$@" "${tests[binary]}" --version | sed -n 's/.*running with OpenSSL \([^ ]*\).*/\1/p')
    line="| $version | $name | $how | $(comparisons "$id-comparisons.log" "$@")"
    for test in dtls interop; do
        line+=" | $(counted "$id-$test.log" "$test" -- "$@")"
    done
    echo "$line |"
    rows+=("$line |")
}

# OpenSSL 4 is not what the `openssl` crate builds in: built here, and linked from where it lies.
build_newest() { # prints where it is
    local crate=$home/newest
    mkdir -p "$crate/src"
    cat >"$crate/Cargo.toml" <<TOML
[package]
name = "newest"
edition = "2024"
[workspace]
[dependencies]
openssl-src = "$newest"
TOML
    cat >"$crate/src/main.rs" <<'RUST'
fn main() {
    let target = std::env::args().nth(1).unwrap();
    let out = std::env::args().nth(2).unwrap();
    openssl_src::Build::new().target(&target).host(&target).out_dir(out).build();
}
RUST
    if [ "$(cat "$crate/built" 2>/dev/null)" != "$newest" ]; then
        host=$(rustc -vV | sed -n 's/^host: //p')
        "$cargo" run --quiet --manifest-path "$crate/Cargo.toml" --target-dir "$crate/target" -- "$host" "$crate/out" >"$home/log/newest-build.log" 2>&1
        echo "$newest" >"$crate/built"
    fi
    echo "$crate/out/install"
}

all() {
    local level libraries tree prefix
    build_all
    row "$package $installed" "installed"
    for level in $(offered | grep -vxF "$installed"); do
        libraries=$(unpack "$level")
        row "$package $level" "unpacked beside" env LD_LIBRARY_PATH="$libraries"
    done

    # Debian 13's needs its own libc; its clients are Debian 13's as well.
    tree=$home/trixie
    tests/ops/tree.sh make "$tree" trixie "$(tr ' ' , <<<"$*")"
    row "Debian 13" "built on Debian 12, run in a Debian 13 tree" tests/ops/tree.sh run "$tree" root \
        --bind "$repository" "$repository" --bind "$target" "$target" \
        env -C "$repository" CARGO_TARGET_DIR=/var/tmp/clients RUST_TEST_THREADS="${RUST_TEST_THREADS:-8}"

    CARGO_TARGET_DIR=$target/vendored build_all --features openssl/vendored
    row "vendored 3" "\`--features vendored\`"
    prefix=$(build_newest)
    OPENSSL_DIR=$prefix OPENSSL_STATIC=1 CARGO_TARGET_DIR=$target/newest build_all
    row "built 4" "openssl-src ${newest#=}, linked by \`OPENSSL_DIR\`"

    printf '%s\n' "| OpenSSL | from | how | record comparisons | \`tests/dtls\` | \`tests/interop\` |" \
        "|---|---|---|---|---|---|" "${rows[@]}" >"$home/table.md"
    if [ -n "$updates" ]; then
        sed -i -e '/^<!-- openssl -->$/,/^<!-- openssl end -->$/{//!d}' -e "/^<!-- openssl -->\$/r $home/table.md" docs/interop.md
    fi
    ! grep -n FAILED "$home/table.md"
}

"$@"
