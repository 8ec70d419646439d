#!/usr/bin/env bash
# Counts the instructions of each trace of benches/instructions.rs under callgrind and compares them with benches/instructions.txt.
#
#   instructions.sh            fails when a trace takes over 5 % more
#   UPDATE=1 instructions.sh   writes the file anew
#
# Counts depend on the compiler, hardly on the machine: with another compiler than the file's they are shown and not judged.
set -euo pipefail
cd "$(dirname "$0")/../.."
file=benches/instructions.txt
compiler=$(rustc --version)
program=$(cargo bench --locked --no-default-features --profile instructions --bench instructions --no-run --message-format json |
    jq -r 'select(.target.name == "instructions" and .executable != null).executable')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$program" | while read -r trace count; do
    valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*instructions::counted*' \
        --callgrind-out-file="$work/out" "$program" "$trace" "$count" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    total=$(sed -n 's/^.*Collected : \([0-9]*\)$/\1/p' "$work/log")
    [ "${total:-0}" -gt 0 ] || { cat "$work/log"; echo "nothing was counted" >&2; exit 1; }
    echo "$trace $((total / count))"
done >"$work/counts"

if [ -n "${UPDATE:-}" ]; then
    { echo "# $compiler"; cat "$work/counts"; } >"$file"
    cat "$file"
    exit
fi
judges=1
[ "$(head -n 1 "$file")" = "# $compiler" ] || judges=
awk -v judges="$judges" '
    /^#/ { next }
    NR == FNR { before[$1] = $2; next }
    !($1 in before) { printf "%-22s %8d  is not in the file\n", $1, $2; bad = 1; next }
    {
        change = ($2 / before[$1] - 1) * 100
        printf "%-22s %8d  was %8d  %+.1f %%\n", $1, $2, before[$1], change
        if (change > 5) bad = 1
    }
    END { exit bad && judges }' "$file" "$work/counts" || {
    echo "more instructions than $file says: find out why, or UPDATE=1 $0 and say why in the commit" >&2
    exit 1
}
[ -n "$judges" ] || echo "not judged: the file is of another compiler ($(head -n 1 "$file"))"
