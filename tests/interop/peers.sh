#!/usr/bin/env bash
# The clients that need Maven, under target/interop: Californium with Scandium, and a small client over them (californium/).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/clients.sh"
home="$(cd "${CARGO_TARGET_DIR:-$here/../../target}" && pwd)/interop/californium"
mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if ! cmp -s "$here/californium/pom.xml" "$home/wanted"; then
    rm -rf "$home/lib"
    mvn --quiet --batch-mode --file "$here/californium/pom.xml" dependency:copy-dependencies -DoutputDirectory="$home/lib"
    rm -f "$home"/*.class
    cp "$here/californium/pom.xml" "$home/wanted"
fi
client="$here/californium/CaliforniumClient.java"
[ "$home/CaliforniumClient.class" -nt "$client" ] || javac -Xlint:all -Werror -cp "$home/lib/*" -d "$home" "$client"
