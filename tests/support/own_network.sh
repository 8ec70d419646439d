# To be sourced first, by scripts that need the fixed ports: goes on in a network of its own, where these are free. `namespaces` has what
# else is to be its own, as unshare names it. Not everyone may make one. Root does without a mapping of users, in which it could not read
# the home of another.
own=(unshare "-rn${namespaces:-}")
[ "$(id -u)" != 0 ] || own=(unshare "-n${namespaces:-}")
if [ -z "${PORTCULLIS_OWN_NETWORK:-}" ] && "${own[@]}" ip link set lo up 2>/dev/null; then
    PORTCULLIS_OWN_NETWORK=1 exec "${own[@]}" "$BASH" "$0" "$@"
fi
if [ -n "${PORTCULLIS_OWN_NETWORK:-}" ]; then
    ip link set lo up
else
    # Those of one run take turns with the ports of this machine.
    exec 9>"${TMPDIR:-/tmp}/portcullis-fixed-ports-$(id -u).lock"
    flock 9
fi
