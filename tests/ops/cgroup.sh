#!/usr/bin/env bash
# Names the cgroup (version 2) below which a systemd of the tests may have its own; fails where there is none.
set -euo pipefail
unified=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$unified" ] || { echo "no cgroup2 here" >&2; exit 1; }
probe=$unified/portcullis-probe-$$
mkdir "$probe"
rmdir "$probe"
echo "$unified"
