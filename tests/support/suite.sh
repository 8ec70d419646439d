#!/usr/bin/env bash
# Runs every test; the last line says what ran, on which OpenSSL, and what was left out and why.
#
# Up to three tests that fail are asked once more, by themselves: most of these tests are about time, and a machine that others use may
# have had none for them. Whoever fails then has failed, and who did not is named.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=${CARGO_TARGET_DIR:-target}/debug/portcullis
log=$(mktemp)
trap 'rm -f "$log" "$log.again"' EXIT
status=0
"${CARGO:-cargo}" test --workspace --locked --no-fail-fast | tee "$log" || status=$?
grep -q '^test result:' "$log" || exit "$status"
mapfile -t again < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u)
late=0
if [ "$status" != 0 ] && [ ${#again[@]} -ge 1 ] && [ ${#again[@]} -le 3 ]; then
    echo "Once more: ${again[*]}"
    if RUST_TEST_THREADS=1 "${CARGO:-cargo}" test --workspace --locked --no-fail-fast -- --exact "${again[@]}" >"$log.again" 2>&1; then
        late=${#again[@]} status=0
    fi
    grep -vE '^(|running 0 tests|test result: ok. 0 passed.*)$|Running ' "$log.again" || true
fi

openssl=$("$binary" --version | sed -n 's/.*running with //p')
library=$(ldd "$binary" | awk '$1 ~ /^libssl/ { print $3 }')
package=$(dpkg-query -S "$(realpath "$library")" 2>/dev/null | cut -d: -f1 | head -1) || true
origin=${package:+$package $(dpkg-query -W -f '${Version}\n' "$package" | head -1)}
# An ignored test that others run is not left out.
ignored=$(sed -n 's/^test .* \.\.\. ignored, //p' "$log" | grep -v '^run by' | sort | uniq -c | sed 's/^ *\([0-9]*\) \(.*\)/\1 (\2), /' | tr -d '\n') || true
awk -v on="$openssl (${origin:-$library})" -v ignored="$ignored" -v late="$late" -v who="${again[*]-}" '
    /^test result:/ { passed += $4; failed += $6 }
    END {
        if (late) told = sprintf(" (%d when asked once more: %s)", late, who)
        printf "make test: %d passed, %d failed%s on %s; left out: %sand what has a target of its own: ", passed + late, failed - late, told, on, ignored
        print "the package, the unit and fresh machines, which want root (test-deb, test-systemd, test-fresh); other OpenSSLs (test-openssl)"
    }' "$log"
exit "$status"
