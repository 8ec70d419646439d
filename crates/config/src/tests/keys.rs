//! Each key by itself: its default, another value, what is wrong with a third.

use super::*;

/// For each key: a value that differs from its default, one of a wrong type, and one out of range (empty where none is).
const KEYS: &[(&str, &str, &str, &str, &str)] = &[
    ("node", "name", "\"edge-1\"", "1", "\"a/b\""),
    ("node", "state_dir", "\"state\"", "true", "\"\""),
    ("node", "workers", "4", "\"4\"", "256"),
    ("[translate]", "topics", "\"a/+\"", "1", "\"a/#/b\""),
    ("[translate]", "publish", "\"cbor\"", "1", "\"xml\""),
    ("[translate]", "observe", "\"cbor\"", "1", "\"none\""),
    ("[translate]", "untyped", "\"json\"", "true", "\"xml\""),
    ("[translate]", "unfit", "\"pass\"", "1", "\"drop\""),
    ("[translate]", "batch", "\"each\"", "1", "\"all\""),
    ("coap", "connection_required", "true", "\"yes\"", ""),
    ("coap", "heartbeat", "\"0s\"", "30", "\"9000h\""),
    ("coap", "notify_type", "\"con\"", "1", "\"ack\""),
    ("coap", "publish_qos", "\"qos2\"", "2", "\"qos3\""),
    ("coap", "subscribe_qos", "\"qos0\"", "false", "\"0\""),
    ("coap", "mountpoint", "\"${clientid}/\"", "[]", "\"${client}/\""),
    ("coap", "topics", "\"created\"", "1", "\"some\""),
    ("coap", "pubsub_content_format", "65000", "\"606\"", "70000"),
    ("coap", "observe_check", "\"1h\"", "3600", "\"25h\""),
    ("coap.sleep", "max_lifetime", "\"1h\"", "3600", "\"400d\""),
    ("coap.sleep", "queue_messages", "10", "\"10\"", "0"),
    ("coap.sleep", "queue_bytes", "\"1MiB\"", "true", "\"1B\""),
    ("coap.sleep", "queue_age", "\"0s\"", "60", "\"400d\""),
    ("coap.sleep", "keep", "\"newest\"", "1", "\"some\""),
    ("coap.blockwise", "max_block_size", "64", "\"64\"", "100"),
    ("coap.blockwise", "max_body_size", "\"4MiB\"", "true", "\"65MiB\""),
    ("coap.transmission", "ack_timeout", "\"3s\"", "2.5", "\"5ms\""),
    ("coap.transmission", "max_retransmit", "2", "\"4\"", "11"),
    (
        "listeners.udp.default",
        "bind",
        "\"127.0.0.1:0\"",
        "5683",
        "\"localhost:5683\"",
    ),
    (
        "listeners.udp.default",
        "access_rules",
        "[\"allow 192.0.2.0/24\", \"deny all\"]",
        "\"deny all\"",
        "[\"block all\"]",
    ),
    (
        "listeners.udp.default",
        "authentication",
        "false",
        "\"no\"",
        "true",
    ),
    ("listeners.udp.default", "mountpoint", "\"a/\"", "1", "\"#\""),
    (
        "listeners.udp.default",
        "connection_required",
        "true",
        "\"yes\"",
        "",
    ),
    ("listeners.udp.default", "heartbeat", "\"10s\"", "30", "\"9000h\""),
    (
        "listeners.udp.default",
        "notify_type",
        "\"con\"",
        "1",
        "\"acked\"",
    ),
    (
        "listeners.dtls.default",
        "connection_required",
        "true",
        "\"yes\"",
        "",
    ),
    (
        "listeners.dtls.default",
        "heartbeat",
        "\"10s\"",
        "30",
        "\"9000h\"",
    ),
    (
        "listeners.dtls.default",
        "notify_type",
        "\"con\"",
        "1",
        "\"acked\"",
    ),
    (
        "listeners.dtls.default",
        "bind",
        "\"[::1]:5684\"",
        "5684",
        "\"[::]\"",
    ),
    (
        "listeners.dtls.default",
        "access_rules",
        "[\"deny ::1\"]",
        "[1]",
        "[\"allow 192.0.2.0/33\"]",
    ),
    ("listeners.dtls.default", "authentication", "false", "0", "true"),
    (
        "listeners.dtls.default",
        "mountpoint",
        "\"${identity}/\"",
        "{}",
        "\"${id}\"",
    ),
    ("listeners.dtls.default", "psk_file", "\"keys/psk\"", "1", ""),
    (
        "listeners.dtls.default",
        "psk_source",
        "{ backend = \"http\", http.url = \"https://keys.example.net/\" }",
        "1",
        "[]",
    ),
    (
        "listeners.dtls.default",
        "cert_file",
        "\"c.pem\"\nkey_file = \"c.key\"",
        "1",
        "\"c.pem\"",
    ),
    (
        "listeners.dtls.default",
        "key_file",
        "\"c.key\"\ncert_file = \"c.pem\"",
        "1",
        "\"\"\ncert_file = \"c.pem\"",
    ),
    (
        "listeners.dtls.default",
        "key_password_file",
        "\"key.password\"",
        "1",
        "",
    ),
    (
        "listeners.dtls.default",
        "certificates",
        "[{ cert_file = \"r.pem\", key_file = \"r.key\" }]",
        "[\"r.pem\"]",
        "[{ cert_file = \"r.pem\" }]",
    ),
    (
        "listeners.dtls.default",
        "rpk_file",
        "\"rpk.txt\"",
        "1",
        "\"rpk.txt\"\npsk_file = \"p\"",
    ),
    ("listeners.dtls.default", "verify_depth", "2", "\"2\"", "101"),
    (
        "listeners.dtls.default",
        "ca_file",
        "\"anchors.pem\"",
        "1",
        "\"\"\nverify = \"required\"",
    ),
    (
        "listeners.dtls.default",
        "crl_file",
        "\"crl.pem\"\nverify = \"required\"",
        "1",
        "\"crl.pem\"",
    ),
    (
        "listeners.dtls.default",
        "verify",
        "\"required\"",
        "true",
        "\"always\"",
    ),
    (
        "listeners.dtls.default",
        "identity",
        "\"clientid\"",
        "1",
        "\"client_id\"",
    ),
    (
        "listeners.dtls.default",
        "cert_attributes",
        "{ site = \"ou\" }",
        "1",
        "{ site = \"room\" }",
    ),
    (
        "listeners.dtls.default",
        "cert_identity",
        "\"san_uri\"",
        "1",
        "\"san\"",
    ),
    (
        "listeners.dtls.default",
        "on_close",
        "\"end\"",
        "false",
        "\"keep\"",
    ),
    (
        "listeners.dtls.default",
        "ciphers",
        "\"PSK-AES128-CCM8\"",
        "[\"PSK-AES128-CCM8\"]",
        "",
    ),
    ("listeners.dtls.default", "legacy_cbc", "true", "1", ""),
    (
        "listeners.dtls.default",
        "legacy_max_sessions",
        "20",
        "\"20\"",
        "0",
    ),
    (
        "listeners.dtls.default",
        "handshake_timeout",
        "\"5s\"",
        "15",
        "\"0s\"",
    ),
    (
        "listeners.dtls.default",
        "idle_timeout",
        "\"5m\"",
        "true",
        "\"500ms\"",
    ),
    ("listeners.udp.default", "max_peers", "10", "\"10\"", "-1"),
    (
        "listeners.udp.default",
        "receive_buffer",
        "\"1MiB\"",
        "true",
        "\"1KiB\"",
    ),
    (
        "listeners.udp.default",
        "send_buffer",
        "\"2MiB\"",
        "true",
        "\"2GiB\"",
    ),
    (
        "listeners.udp.default",
        "health_request",
        "\"ping\"\nhealth_reply = \"pong\"",
        "1",
        "\"ping\"",
    ),
    (
        "listeners.udp.default",
        "health_reply",
        "\"pong\"\nhealth_request = \"ping\"",
        "1",
        "\"pong\"",
    ),
    ("listeners.dtls.default", "max_peers", "10", "\"10\"", "-1"),
    (
        "listeners.dtls.default",
        "receive_buffer",
        "\"1MiB\"",
        "true",
        "\"1KiB\"",
    ),
    (
        "listeners.dtls.default",
        "send_buffer",
        "\"2MiB\"",
        "true",
        "\"2GiB\"",
    ),
    (
        "listeners.dtls.default",
        "health_request",
        "\"ping\"\nhealth_reply = \"pong\"",
        "1",
        "\"ping\"",
    ),
    (
        "listeners.dtls.default",
        "health_reply",
        "\"pong\"\nhealth_request = \"ping\"",
        "1",
        "\"pong\"",
    ),
    ("listeners.dtls.default", "max_sessions", "10", "\"10\"", "0"),
    ("listeners.dtls.default", "max_half_open", "8", "8.5", "-1"),
    (
        "listeners.dtls.default",
        "max_handshakes_per_second",
        "200",
        "\"200\"",
        "-1",
    ),
    (
        "listeners.dtls.default",
        "fresh_requests",
        "\"30s\"",
        "30",
        "\"2h\"",
    ),
    (
        "listeners.udp.default",
        "fresh_requests",
        "\"30s\"",
        "30",
        "\"2h\"",
    ),
    ("listeners.dtls.default", "mtu", "1400", "\"1400\"", "100"),
    (
        "listeners.dtls.default",
        "clientid",
        "\"${identity}\"",
        "1",
        "\"device\"",
    ),
    (
        "listeners.dtls.default",
        "clientid_pattern",
        "\"a(.*)\"",
        "1",
        "\"a\"",
    ),
    (
        "listeners.dtls.default",
        "username",
        "\"${cert.cn}\"",
        "1",
        "\"${cert.san_uri}\"",
    ),
    (
        "listeners.dtls.default",
        "username_pattern",
        "\"a(.*)\"",
        "1",
        "\"(\"",
    ),
    ("listeners.dtls.default", "cid", "false", "1", ""),
    ("listeners.udp.default", "enable", "false", "1", ""),
    ("listeners.dtls.default", "enable", "false", "1", ""),
    ("listeners.tcp.default", "enable", "false", "1", ""),
    ("listeners.tls.default", "enable", "false", "1", ""),
    ("authentication", "backend", "\"file\"", "1", "\"kerberos\""),
    (
        "authentication",
        "file",
        "\"people\"",
        "1",
        "\"\"\nbackend = \"file\"",
    ),
    (
        "authentication.http",
        "url",
        "\"http://127.0.0.1/\"",
        "1",
        "\"ftp://x\"",
    ),
    ("authentication.http", "method", "\"get\"", "1", "\"put\""),
    (
        "authentication.http",
        "headers",
        "{ x-a = \"b\" }",
        "[]",
        "{ authorization = \"Bearer x\" }",
    ),
    (
        "authentication.http",
        "body",
        "{ id = \"${identity}\" }",
        "\"x\"",
        "{ id = \"${nobody}\" }",
    ),
    ("authentication.http", "token_file", "\"t\"", "1", ""),
    ("authentication.http", "ca_file", "\"ca\"", "1", ""),
    ("authentication.http", "timeout", "\"1s\"", "1", "\"2m\""),
    ("authentication.jwt", "from", "\"username\"", "1", "\"header\""),
    (
        "authentication.jwt",
        "algorithms",
        "[\"ES256\"]",
        "\"ES256\"",
        "[\"none\"]",
    ),
    ("authentication.jwt", "key_file", "\"jwt.pem\"", "1", ""),
    (
        "authentication.jwt",
        "jwks_url",
        "\"https://a/jwks\"",
        "1",
        "\"https://me:pw@a/jwks\"",
    ),
    ("authentication.jwt", "ca_file", "\"ca\"", "1", ""),
    ("authentication.jwt", "refresh", "\"1m\"", "60", "\"1s\""),
    (
        "authentication.jwt",
        "required_claims",
        "{ aud = \"coap\" }",
        "\"aud\"",
        "{ aud = 1 }",
    ),
    ("authentication.jwt", "require_exp", "false", "1", "\"yes\""),
    ("authentication.jwt", "acl_claim", "\"rules\"", "1", ""),
    ("authorization", "acl_file", "\"acl\"", "1", ""),
    ("authorization", "no_match", "\"allow\"", "false", "\"reject\""),
    (
        "broker",
        "url",
        "\"mqtt://127.0.0.1:1884\"",
        "1883",
        "\"tcp://x\"",
    ),
    ("broker", "protocol", "4", "\"5\"", "3"),
    ("broker", "client_id", "\"gw-${node}\"", "1", "\"${name}\""),
    ("broker", "username", "\"me\"\nurl = \"mqtt://x\"", "1", "\"me\""),
    (
        "broker",
        "password_file",
        "\"p\"\nurl = \"mqtt://x\"",
        "1",
        "\"p\"",
    ),
    (
        "broker",
        "ca_file",
        "\"ca\"\nurl = \"mqtts://x\"",
        "1",
        "\"ca\"\nurl = \"mqtt://x\"",
    ),
    (
        "broker",
        "cert_file",
        "\"c\"\nkey_file = \"k\"\nurl = \"mqtts://x\"",
        "1",
        "\"c\"\nurl = \"mqtts://x\"",
    ),
    (
        "broker",
        "key_file",
        "\"k\"\ncert_file = \"c\"\nurl = \"mqtts://x\"",
        "1",
        "\"k\"\nurl = \"mqtts://x\"",
    ),
    ("broker", "connections", "4", "\"4\"", "65"),
    ("broker", "session_expiry", "\"1h\"", "60", "\"31d\""),
    ("broker", "keep_alive", "\"1m\"", "60", "\"1s\""),
    ("broker", "events_prefix", "\"gw/portcullis\"", "1", "\"a/+\""),
    (
        "broker",
        "mqtt_requests",
        "[\"get sensors/#\"]",
        "true",
        "[\"dance sensors\"]",
    ),
    ("broker.spool", "max_bytes", "0", "true", "\"1KiB\""),
    (
        "broker.spool",
        "when_full",
        "\"drop_oldest\"",
        "1",
        "\"drop_newest\"",
    ),
    ("metrics", "bind", "\"\"", "9683", "\"9683\""),
    ("admin", "bind", "\"\"", "8683", "\"0.0.0.0:8683\""),
    ("admin", "token_file", "\"t\"", "1", ""),
    ("admin", "socket", "\"s\"", "1", ""),
    ("admin", "cert_file", "\"c\"", "1", ""),
    ("admin", "key_file", "\"k\"", "1", ""),
    ("admin", "emqx_aliases", "true", "1", "\"yes\""),
    ("limits", "handshakes_per_second", "0", "\"20\"", "-1"),
    ("limits", "requests_per_second", "100", "1.5", "4294967296"),
    ("limits", "unproven_datagrams_per_second", "50", "\"50\"", "-1"),
    ("limits", "failed_logins_per_minute", "5", "false", "-5"),
    ("limits", "memory", "\"512MiB\"", "true", "\"1MiB\""),
    ("limits.per_identity", "sessions", "10", "\"10\"", "0"),
    ("limits.per_identity", "observations", "10", "1.5", "0"),
    ("limits.per_identity", "memory", "\"2MiB\"", "false", "1024"),
    ("limits", "topic_levels", "0", "\"32\"", "201"),
    ("limits", "topic_bytes", "64", "\"1KiB\"", "65536"),
    ("limits", "unproven", "\"echo\"", "true", "\"big\""),
    ("state", "keep", "\"disk\"", "true", "\"group\""),
    ("state", "goodbye", "true", "1", "\"yes\""),
    ("state", "key_file", "\"k\"", "1", "true"),
    ("group", "url", "\"rediss://a@r:1/2\"", "1", "\"http://r\""),
    ("group", "password_file", "\"p\"", "1", "true"),
    ("group", "ca_file", "\"ca\"", "1", "true"),
    ("group", "key_file", "\"k\"", "1", "\"\""),
    ("group", "node", "65535", "\"1\"", "65536"),
    ("group", "bind", "\"10.0.0.1:7683\"", "7683", "\"10.0.0.1\""),
    ("group", "lease", "\"10s\"", "3", "\"100ms\""),
    ("group", "reply", "\"direct\"", "1", "\"both\""),
    ("log", "level", "\"trace\"", "1", "\"verbose\""),
    ("log", "format", "\"json\"", "1", "\"xml\""),
    ("authentication", "legacy_hashes", "true", "1", "\"no\""),
    ("authentication", "grace", "\"0s\"", "300", "\"25h\""),
    ("authentication.postgresql", "database", "\"d\"", "1", ""),
    (
        "authentication.postgresql",
        "query",
        "\"SELECT password_hash FROM u WHERE n = ${clientid}\"",
        "1",
        "\"SELECT password_hash FROM u WHERE n = '${clientid}'\"",
    ),
    (
        "authentication.redis",
        "redis_type",
        "\"cluster\"",
        "1",
        "\"ring\"",
    ),
    ("authentication.mongodb", "replica_set_name", "\"rs\"", "1", ""),
    ("authentication.mongodb", "database", "\"d\"", "1", ""),
    ("authentication.mongodb", "collection", "\"c\"", "1", ""),
    ("authentication.mongodb", "auth_source", "\"d\"", "1", ""),
    (
        "authentication.mongodb",
        "filter",
        "{ n = \"${clientid}\" }",
        "1",
        "{ \"$where\" = \"x\" }",
    ),
    ("authentication.mysql", "database", "\"d\"", "1", ""),
    ("authentication.mysql", "query", "\"SELECT 1\"", "1", "\"\""),
    (
        "authentication.ldap",
        "base_dn",
        "\"dc=x\"",
        "1",
        "\"cn=${user}\"",
    ),
    (
        "authentication.ldap",
        "filter",
        "\"(uid=${clientid})\"",
        "1",
        "\"\"",
    ),
    ("authentication.ldap", "method", "\"hash\"", "1", "\"plain\""),
    ("authentication.ldap", "password_attribute", "\"p\"", "1", ""),
    ("authentication.ldap", "is_superuser_attribute", "\"\"", "1", ""),
    ("authentication.ldap", "publish_attribute", "\"\"", "1", ""),
    ("authentication.ldap", "subscribe_attribute", "\"\"", "1", ""),
    ("authentication.ldap", "all_attribute", "\"\"", "1", ""),
    ("authentication.ldap", "attributes", "{ site = \"l\" }", "1", ""),
    ("authentication.redis", "sentinel", "\"m\"", "1", ""),
    ("authentication.redis", "database", "3", "\"3\"", "-1"),
    (
        "authentication.redis",
        "cmd",
        "\"HGETALL u:${username}\"",
        "1",
        "\"HGETALL u:${user}\"",
    ),
];

/// The tables of databases, and the keys that each has.
const DATABASES: &[&str] = &["postgresql", "mysql", "mongodb", "redis", "ldap"];
const OF_DATABASES: &[(&str, &str, &str, &str, &str)] = &[
    ("", "server", "\"db:1\"", "1", "\"u:p@db\""),
    ("", "username", "\"u\"", "1", ""),
    ("", "password_file", "\"p\"", "1", ""),
    ("", "pool_size", "4", "\"4\"", "65"),
    ("", "query_timeout", "\"1s\"", "1", "\"11s\""),
    (".password_hash_algorithm", "name", "\"pbkdf2\"", "1", "\"plain\""),
    (
        ".password_hash_algorithm",
        "salt_position",
        "\"suffix\"",
        "1",
        "\"middle\"",
    ),
    (
        ".password_hash_algorithm",
        "mac_fun",
        "\"sha512\"",
        "1",
        "\"md5\"",
    ),
    (".password_hash_algorithm", "iterations", "1000", "\"1000\"", "0"),
    (".tls", "enable", "true", "1", ""),
    (".tls", "ca_file", "\"ca\"", "1", ""),
    (".tls", "cert_file", "\"c\"", "1", ""),
    (".tls", "key_file", "\"k\"", "1", ""),
];

/// All of them, with their tables.
/// What listeners for streams have and no other, as above. What they have in common with one for DTLS is tried with its values.
const OF_STREAMS: &[(&str, &str, &str, &str)] = &[
    ("max_connections", "10", "\"10\"", "0"),
    ("max_connections_per_source", "0", "\"10\"", "-1"),
    ("websocket", "true", "1", "[\"example.net\"]"),
    ("message_timeout", "\"5s\"", "5", "\"11m\""),
    ("max_message_size", "\"16KiB\"", "true", "\"2MiB\""),
    ("max_queued", "\"2MiB\"", "true", "\"128KiB\""),
];

fn all() -> Vec<(String, &'static str, &'static str, &'static str, &'static str)> {
    let of_databases = DATABASES.iter().flat_map(|database| {
        let table = move |sub: &str| format!("authentication.{database}{sub}");
        OF_DATABASES
            .iter()
            .map(move |(sub, key, other, wrong, out)| (table(sub), *key, *other, *wrong, *out))
    });
    let single = KEYS
        .iter()
        .map(|(section, key, other, wrong, out)| ((*section).to_owned(), *key, *other, *wrong, *out));
    let of_streams = ["listeners.tcp", "listeners.tls"].iter().flat_map(|listeners| {
        let section = format!("{listeners}.default");
        let shared = KEYS.iter().filter(move |(section, key, ..)| {
            let here = |known: &Key| known.section == format!("{listeners}.*") && known.name == *key;
            *section == "listeners.dtls.default" && reference().iter().any(here)
        });
        let shared = shared.map(|(_, key, other, wrong, out)| (*key, *other, *wrong, *out));
        let own = OF_STREAMS.iter().copied();
        own.chain(shared)
            .map(move |(key, other, wrong, out)| (section.clone(), key, other, wrong, out))
    });
    single.chain(of_databases).chain(of_streams).collect()
}

/// A file with one key; the DTLS listener has its files, so that it stands alone.
fn with_key(section: &str, key: &str, value: &str) -> String {
    format!("[{section}]\n{key} = {value}\n")
}

#[test]
fn every_key_is_tried_below() {
    let tried: BTreeSet<_> = all()
        .into_iter()
        .map(|(section, key, ..)| (section.replace(".default", ".*"), key))
        .collect();
    let known: BTreeSet<_> = reference()
        .into_iter()
        .map(|key| (key.section, key.name))
        .collect();
    assert_eq!(tried, known);
}

#[test]
fn each_key_takes_its_default_and_another_value() {
    for key in reference() {
        let section = key.section.replace('*', "default");
        if key.default == "unset" {
            continue;
        }
        let explicit = parse(&with_key(&section, key.name, key.default));
        let explicit = match explicit {
            Ok(config) => config,
            // A file of the pair named alone: the rules of the pair say so, which is tested below.
            Err(problems) if key.name == "cert_file" || key.name == "psk_file" => {
                assert!(
                    problems.iter().all(|problem| problem.message.contains("needs")),
                    "{problems}"
                );
                continue;
            }
            Err(problems) => panic!("{section}.{}: {problems}", key.name),
        };
        let absent = parse(&format!("[{section}]\n")).unwrap();
        if key.name != "psk_file" {
            assert_eq!(explicit, absent, "{section}.{}", key.name);
        }
    }
    for (section, key, other, ..) in &all() {
        let changed = parse(&with_key(section, key, other)).map_err(|problems| problems.to_string());
        let Ok(changed) = changed else {
            // Values that need more than their own key are accepted beside it.
            assert!(
                matches!(
                    (section.as_str(), *key),
                    ("authentication", "backend") | ("admin", "cert_file" | "key_file") | (_, "enable")
                ),
                "{section}.{key}: {changed:?}"
            );
            continue;
        };
        let absent = parse(&format!("[{section}]\n")).unwrap();
        assert_ne!(changed, absent, "{section}.{key} changes nothing");
    }
}

#[test]
fn each_key_refuses_a_wrong_type_where_it_stands() {
    for (section, key, _, wrong, _) in &all() {
        refused(section, key, wrong);
    }
}

#[test]
fn each_key_refuses_what_is_out_of_range_where_it_stands() {
    for (section, key, .., out) in all().iter().filter(|(.., out)| !out.is_empty()) {
        refused(section, key, out);
    }
}

fn refused(section: &str, key: &str, value: &str) {
    let text = with_key(section, key, value);
    let Err(problems) = parse(&text) else {
        panic!("{text} is accepted")
    };
    let [problem] = &problems.0[..] else {
        panic!("{text}: {problems}")
    };
    let place = problem.place.as_ref().expect("it stands in the file");
    // A rule about several keys may be shown at one of the others.
    assert!((2..=4).contains(&place.line), "{problem}");
    assert!(
        problem.key.starts_with(section.trim_matches(['[', ']'])),
        "{problem}"
    );
}

#[test]
fn state_is_kept_in_a_group_only_where_there_is_one() {
    let told = |text: &str| {
        let problems = load_from(text, Path::new("/nonexistent/portcullis.toml")).unwrap_err();
        let of_keep = problems.iter().filter(|problem| problem.key == "state.keep");
        of_keep.map(|problem| problem.message.clone()).collect::<Vec<_>>()
    };
    let alone = told("[state]\nkeep = \"group\"\n");
    assert!(
        alone.len() == 1 && alone[0].contains("there is no [group]"),
        "{alone:?}"
    );
    assert!(told("[state]\nkeep = \"group\"\n[group]\nurl = \"redis://127.0.0.1\"\n").is_empty());
}
