#!/usr/bin/env bash
# What needs Maven, under target/interop: Californium with Scandium and a small client over them (californium/), and a server of MongoDB's
# protocol (../backends/mongodb/).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/clients.sh"
target="$(cd "${CARGO_TARGET_DIR:-$here/../../target}" && pwd)/interop"

# What the Java file $2 needs by the pom.xml beside it, and its class, under $1.
build() {
    local home="$target/$1" source="$2" project
    project=$(dirname "$source")
    mkdir -p "$home"
    exec 9>"$home/lock"
    flock 9
    if ! cmp -s "$project/pom.xml" "$home/wanted"; then
        rm -rf "$home/lib"
        mvn --quiet --batch-mode --file "$project/pom.xml" dependency:copy-dependencies -DoutputDirectory="$home/lib"
        rm -f "$home"/*.class
        cp "$project/pom.xml" "$home/wanted"
    fi
    [ "$home/$(basename "$source" .java).class" -nt "$source" ] || javac -Xlint:all -Werror -cp "$home/lib/*" -d "$home" "$source"
}

build californium "$here/californium/CaliforniumClient.java"
build mongodb "$here/../backends/mongodb/DocumentServer.java"
