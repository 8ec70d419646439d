#!/usr/bin/env bash
# Runs every test; the last line says what ran, on which OpenSSL, and what was left out and why.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=${CARGO_TARGET_DIR:-target}/debug/portcullis
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
"${CARGO:-cargo}" test --workspace --locked --no-fail-fast | tee "$log" || status=$?
grep -q '^test result:' "$log" || exit "$status"

openssl=$("$binary" --version | sed -n 's/.*running with //p')
library=$(ldd "$binary" | awk '$1 ~ /^libssl/ { print $3 }')
package=$(dpkg-query -S "$(realpath "$library")" 2>/dev/null | cut -d: -f1 | head -1) || true
origin=${package:+$package $(dpkg-query -W -f '${Version}\n' "$package" | head -1)}
# An ignored test that others run is not left out.
ignored=$(sed -n 's/^test .* \.\.\. ignored, //p' "$log" | grep -v '^run by' | sort | uniq -c | sed 's/^ *\([0-9]*\) \(.*\)/\1 (\2), /' | tr -d '\n') || true
awk -v on="$openssl (${origin:-$library})" -v ignored="$ignored" '
    /^test result:/ { passed += $4; failed += $6 }
    END {
        printf "make test: %d passed, %d failed on %s; left out: %sand what has a target of its own: ", passed, failed, on, ignored
        print "the package, the unit and fresh machines, which want root (test-deb, test-systemd, test-fresh); other OpenSSLs (test-openssl)"
    }' "$log"
exit "$status"
