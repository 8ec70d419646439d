//! The page for those who come from EMQX: it misses none of their keys, and names none of ours that is not there.

use std::collections::BTreeSet;

use crate::text_of;

/// The keys of EMQX's gateway for CoAP, its listeners, DTLS, pre-shared keys and authenticators.
const THEIRS: &str = "enable connection_required heartbeat notify_type subscribe_qos publish_qos mountpoint enable_stats \
    blockwise.enable idle_timeout clientinfo_override.clientid clientinfo_override.password blockwise.max_block_size \
    blockwise.max_body_size blockwise.exchange_lifetime authentication bind max_connections max_conn_rate enable_authn access_rules \
    health_check.request health_check.reply acceptors udp_options.active_n udp_options.reuseaddr udp_options.recbuf \
    udp_options.sndbuf udp_options.buffer dtls_options.certfile dtls_options.keyfile dtls_options.cacertfile dtls_options.password \
    dtls_options.managed_certs dtls_options.verify dtls_options.fail_if_no_peer_cert dtls_options.depth dtls_options.partial_chain \
    dtls_options.verify_peer_ext_key_usage dtls_options.versions dtls_options.ciphers dtls_options.handshake_timeout \
    dtls_options.gc_after_handshake hibernate_after log_level secure_renegotiate client_renegotiation honor_cipher_order \
    reuse_sessions session_tickets dhfile ocsp dtls_options.enable_crl_check init_file separator chunk_size mechanism backend \
    user_id_type bootstrap_file bootstrap_type import_users password_hash_algorithm.name salt_position salt_rounds mac_fun iterations \
    dk_length method url headers body request_timeout ssl pool_size oauth2 allowed_hosts hostname_resolution algorithm secret \
    secret_base64_encoded public_key use_jwks endpoint refresh_interval from verify_claims acl_claim_name disconnect_after_expire \
    on_missing_jwt server database username password query query_timeout mongo_type replica_set_name collection filter \
    password_hash_field salt_field is_superuser_field clientid_override_field redis_type cmd base_dn bind_password \
    password_attribute is_superuser_attribute publish_attribute subscribe_attribute all_attribute acl_rule_attribute acl_ttl_attribute \
    authorization.sources authorization.no_match";

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of the tables about the configuration: their cell, ours.
fn rows(page: &str) -> Vec<(&str, &str)> {
    let (_, rest) = page.split_once("\n## Configuration\n").unwrap();
    let (tables, _) = rest.split_once("\n## ").unwrap();
    tables
        .lines()
        .filter(|line| line.starts_with("| ") && !line.ends_with(" Portcullis |"))
        .map(|line| line.trim_matches(['|', ' ']).split_once(" | ").unwrap())
        .collect()
}

#[test]
fn every_key_of_emqx_has_a_row_and_every_key_of_ours_exists() {
    let page = text_of("docs/from-emqx.md");
    let known: BTreeSet<String> = portcullis::config::reference()
        .into_iter()
        .map(|key| format!("{}.{}", key.section.replace(".*", ".NAME"), key.name))
        .collect();
    let tables: BTreeSet<&str> = known.iter().filter_map(|key| key.split('.').next()).collect();
    let mut theirs = BTreeSet::new();
    for (left, right) in rows(&page) {
        theirs.extend(quoted(left));
        let mut ours = quoted(right)
            .filter(|text| {
                text.split_once('.')
                    .is_some_and(|(table, _)| tables.contains(table))
            })
            .peekable();
        let says = right.starts_with("nothing: ")
            || ours.peek().is_some()
            || right.contains("authentication.backend");
        assert!(says, "{left}: neither a key nor `nothing`");
        for key in ours {
            assert!(known.contains(key), "{left}: there is no key {key}");
        }
    }
    let missing: Vec<_> = THEIRS
        .split_whitespace()
        .filter(|key| !theirs.contains(key))
        .collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
}
