//! Keys there that nothing here takes the place of, and why.

use super::hocon::Object;
use super::sheet::Sheet;

/// By the end of its path.
const WHY: &[(&str, &str)] = &[
    ("enable_stats", "statistics are always on"),
    ("blockwise.enable", "block-wise transfer is always on"),
    ("exchange_lifetime", "it is 247 s, as RFC 7252 says"),
    (
        "gateway.coap.idle_timeout",
        "handshake_timeout and idle_timeout of a DTLS listener take its place",
    ),
    (
        "clientinfo_override.password",
        "a device with an identity is asked for no password",
    ),
    (
        "clientinfo_override.clientid",
        "see identity, clientid and clientid_pattern of a DTLS listener",
    ),
    (
        "clientinfo_override.username",
        "see identity, username and username_pattern of a DTLS listener",
    ),
    (
        "max_conn_rate",
        "limits.handshakes_per_second and limits.unproven_datagrams_per_second are those of one source",
    ),
    ("acceptors", "see node.workers: each has a socket of its own"),
    ("active_n", "see node.workers: each has a socket of its own"),
    ("reuseaddr", "see node.workers: each has a socket of its own"),
    (
        "udp_options.buffer",
        "receive_buffer and send_buffer are what the kernel keeps",
    ),
    ("managed_certs", "see certificates of the listener"),
    ("partial_chain", "a chain ends at an anchor of ca_file"),
    (
        "verify_peer_ext_key_usage",
        "a client certificate must be one for clients",
    ),
    ("versions", "DTLS 1.2 is spoken"),
    ("enable_crl_check", "see crl_file of the listener"),
    ("session_tickets", "tickets are always given"),
    (
        "no_match",
        "it has no use without rules: see authorization.acl_file",
    ),
    ("password_hash_field", "the field is called password_hash"),
    ("salt_field", "the field is called salt"),
    ("is_superuser_field", "the field is called is_superuser"),
    ("user_id_type", "users go by name"),
    ("salt_rounds", "each hash tells it"),
    ("dk_length", "each hash tells it"),
    ("oauth2", "a token for the service stands in token_file"),
    ("disconnect_after_expire", "a connection ends with its token"),
    ("on_missing_jwt", "nobody comes in without a token"),
    ("bind_password", "what the client shows is what is bound with"),
];

/// Keys that ask for nothing: what they switch on is there without them.
const QUIET: &[&str] = &["enable", "ssl.enable", "auto_reconnect", "pool_type"];

/// Tells of everything that is left of an object.
pub(super) fn tell(sheet: &mut Sheet, left: &Object, path: &str) {
    for (key, place) in left.leaves(path) {
        let ends = |end: &str| key == end || key.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
        if QUIET.iter().any(|end| ends(end)) {
            continue;
        }
        let why = WHY.iter().find(|(end, _)| ends(end));
        let words = match why {
            Some((_, why)) => format!("no counterpart: {why}"),
            None => "no counterpart".to_owned(),
        };
        sheet.note(&key, Some(&place), words);
    }
}
