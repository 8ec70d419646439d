//! The configuration as a whole: what a file gives and what a wrong one is told.
use std::collections::BTreeSet;

use super::testing::parse;
use super::*;

const SAMPLE: &str = include_str!("../../config/portcullis.toml");
const LAB: &str = include_str!("../../config/lab.toml");

/// The sample of the interface page, as it stands there.
const CONTRACT: &str = include_str!("testdata/contract.toml");

/// For each key: a value that differs from its default, one of a wrong type, and one out of range (empty where none is).
const KEYS: &[(&str, &str, &str, &str, &str)] = &[
    ("node", "name", "\"edge-1\"", "1", "\"a/b\""),
    ("node", "state_dir", "\"state\"", "true", "\"\""),
    ("node", "workers", "4", "\"4\"", "256"),
    ("coap", "connection_required", "true", "\"yes\"", ""),
    ("coap", "heartbeat", "\"0s\"", "30", "\"9000h\""),
    ("coap", "notify_type", "\"con\"", "1", "\"ack\""),
    ("coap", "publish_qos", "\"qos2\"", "2", "\"qos3\""),
    ("coap", "subscribe_qos", "\"qos0\"", "false", "\"0\""),
    ("coap", "mountpoint", "\"${clientid}/\"", "[]", "\"${client}/\""),
    ("coap", "observe_check", "\"1h\"", "3600", "\"25h\""),
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
    ("listeners.dtls.default", "max_sessions", "10", "\"10\"", "0"),
    ("listeners.dtls.default", "max_half_open", "8", "8.5", "-1"),
    ("listeners.dtls.default", "mtu", "1400", "\"1400\"", "100"),
    ("listeners.dtls.default", "cid", "false", "1", ""),
    ("authentication", "backend", "\"file\"", "1", "\"ldap\""),
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
    ("broker", "keep_alive", "\"1m\"", "60", "\"1s\""),
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
    ("admin", "cert_file", "\"c\"", "1", ""),
    ("admin", "key_file", "\"k\"", "1", ""),
    ("limits", "handshakes_per_second", "0", "\"20\"", "-1"),
    ("limits", "requests_per_second", "100", "1.5", "4294967296"),
    ("limits", "unproven_datagrams_per_second", "50", "\"50\"", "-1"),
    ("limits", "failed_logins_per_minute", "5", "false", "-5"),
    ("limits", "unproven", "\"echo\"", "true", "\"big\""),
    ("log", "level", "\"trace\"", "1", "\"verbose\""),
    ("log", "format", "\"json\"", "1", "\"xml\""),
];

/// A file with one key; the DTLS listener has its files, so that it stands alone.
fn with_key(section: &str, key: &str, value: &str) -> String {
    format!("[{section}]\n{key} = {value}\n")
}

#[test]
fn every_key_is_tried_below() {
    let tried: BTreeSet<_> = KEYS
        .iter()
        .map(|(section, key, ..)| (section.replace(".default", ".*"), *key))
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
    for (section, key, other, ..) in KEYS {
        let changed = parse(&with_key(section, key, other)).map_err(|problems| problems.to_string());
        let Ok(changed) = changed else {
            // Values that need more than their own key are accepted beside it.
            assert!(
                matches!(
                    (*section, *key),
                    ("authentication", "backend") | ("admin", "token_file" | "cert_file" | "key_file")
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
    for (section, key, _, wrong, _) in KEYS {
        refused(section, key, wrong);
    }
}

#[test]
fn each_key_refuses_what_is_out_of_range_where_it_stands() {
    for (section, key, .., out) in KEYS.iter().filter(|(.., out)| !out.is_empty()) {
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
    assert!(problem.key.starts_with(section), "{problem}");
}

#[test]
fn the_sample_of_the_contract_is_the_defaults() {
    assert_eq!(
        parse(CONTRACT).map_err(|problems| problems.to_string()),
        parse("").map_err(|_| String::new())
    );
}

#[test]
fn the_shipped_sample_is_the_defaults_and_names_every_key() {
    assert_eq!(
        parse(SAMPLE).map_err(|problems| problems.to_string()),
        parse("").map_err(|_| String::new())
    );
    for key in reference() {
        let mention = format!("{} = ", key.name);
        assert!(SAMPLE.contains(&mention), "{} is not in the sample", key.name);
    }
    let uncommented: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") || rest.starts_with('[') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    parse(&uncommented.replace("jwt.pem", "")).unwrap();
}

#[test]
fn the_lab_configuration_is_right() {
    let config = parse(LAB).unwrap();
    let names: Vec<_> = config.listeners.iter().map(Listener::key).collect();
    assert_eq!(
        names,
        [
            "listeners.udp.default",
            "listeners.udp.v6",
            "listeners.dtls.default",
            "listeners.dtls.devices"
        ]
    );
}

#[test]
fn everything_wrong_is_said_at_once_in_the_order_of_the_file() {
    let problems = parse(
        "[node]\nnme = \"x\"\nworkers = -1\n[coap]\nheartbeat = 30\n[listeners.udp.a]\nbind = \"x\"\nmtu = 3\n[nodes]\n",
    )
    .unwrap_err();
    let at: Vec<_> = problems
        .iter()
        .map(|problem| {
            let place = problem.place.as_ref().unwrap();
            (place.line, place.column, problem.key.as_str())
        })
        .collect();
    assert_eq!(
        at,
        [
            (2, 1, "node.nme"),
            (3, 11, "node.workers"),
            (5, 13, "coap.heartbeat"),
            (7, 8, "listeners.udp.a.bind"),
            (8, 1, "listeners.udp.a.mtu"),
            (9, 2, "nodes"),
        ]
    );
    let text = problems.to_string();
    assert!(text.contains("did you mean `name`?"), "{text}");
    assert!(text.contains("did you mean `node`?"), "{text}");
    assert!(text.contains("it belongs in [listeners.dtls.*]"), "{text}");
}

#[test]
fn every_syntax_error_is_said_at_once() {
    let problems = parse("[node]\nname = \nworkers = = 1\n").unwrap_err();
    let lines: BTreeSet<_> = problems
        .iter()
        .map(|problem| problem.place.as_ref().unwrap().line)
        .collect();
    assert_eq!(lines, BTreeSet::from([2, 3]), "{problems}");
}

#[test]
fn a_repeated_key_is_an_error() {
    let problems = parse("[node]\nname = \"a\"\nname = \"b\"\n").unwrap_err();
    assert_eq!(problems.0[0].place.as_ref().unwrap().line, 3);
}

#[test]
fn a_section_that_is_no_table_is_an_error() {
    let problems = parse("coap = 1\nlisteners = \"x\"\n").unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert!(problems.to_string().contains("write `[coap]`"));
}

#[test]
fn a_listener_kind_that_does_not_exist_is_an_error() {
    let problems = parse("[listeners.tcp.a]\nbind = \"[::]:1\"\n").unwrap_err();
    assert_eq!(problems.0.len(), 1);
    assert!(problems.to_string().contains("did you mean `udp`?"), "{problems}");
}

#[test]
fn no_listener_at_all_is_an_error() {
    assert!(
        parse("[listeners]\n")
            .unwrap_err()
            .to_string()
            .contains("no listener")
    );
}

#[test]
fn a_listener_names_only_the_files_that_it_uses() {
    let config = parse("[listeners.dtls.a]\npsk_file = \"p\"\n").unwrap();
    let dtls = config.listeners[0].dtls.as_ref().unwrap();
    assert_eq!(dtls.psk_file.as_deref(), Some(Path::new("/etc/portcullis/p")));
    assert_eq!(
        (&dtls.cert_file, &dtls.key_file, &dtls.ca_file),
        (&None, &None, &None)
    );
    let config = parse("[listeners.dtls.a]\ncert_file = \"c\"\nkey_file = \"k\"\n").unwrap();
    assert_eq!(config.listeners[0].dtls.as_ref().unwrap().psk_file, None);
}

#[test]
fn two_listeners_cannot_have_one_address() {
    let problems = parse(
        "[listeners.udp.a]\nbind = \"127.0.0.1:1\"\n[listeners.dtls.b]\nbind = \"127.0.0.1:1\"\npsk_file = \"p\"\n",
    )
    .unwrap_err();
    assert_eq!(problems.0[0].place.as_ref().unwrap().line, 4);
    assert!(
        problems.to_string().contains("listeners.udp.a.bind already"),
        "{problems}"
    );
    let free = "[listeners.udp.a]\nbind = \"127.0.0.1:0\"\n[listeners.udp.b]\nbind = \"127.0.0.1:0\"\n";
    assert_eq!(parse(free).unwrap().listeners.len(), 2);
}

#[test]
fn what_belongs_together_is_asked_for_together() {
    for (text, wanted) in [
        ("[listeners.dtls.a]\npsk_file = \"\"\n", "needs psk_file"),
        ("[listeners.dtls.a]\ncert_file = \"c\"\n", "needs key_file"),
        (
            "[listeners.dtls.a]\npsk_file = \"p\"\nkey_file = \"k\"\n",
            "needs cert_file",
        ),
        (
            "[listeners.dtls.a]\ncert_file = \"c\"\nkey_file = \"k\"\nverify = \"required\"\n",
            "ca_file",
        ),
        (
            "[listeners.dtls.a]\npsk_file = \"p\"\nca_file = \"c\"\nverify = \"required\"\n",
            "cert_file and key_file",
        ),
        (
            "[listeners.dtls.a]\ncert_file = \"c\"\nkey_file = \"k\"\nidentity = \"clientid\"\n",
            "prove an identity",
        ),
        ("[authentication]\nbackend = \"http\"\n", "needs the URL"),
        (
            "[authentication]\nbackend = \"jwt\"\n",
            "needs key_file or jwks_url",
        ),
        (
            "[authentication]\nbackend = \"jwt\"\njwt = { key_file = \"k\", jwks_url = \"http://x\" }\n",
            "exclude each other",
        ),
        (
            "[authentication]\nbackend = \"jwt\"\njwt = { algorithms = [\"HS256\"], jwks_url = \"http://x\" }\n",
            "shared secret",
        ),
        (
            "[authentication]\nbackend = \"jwt\"\njwt = { ca_file = \"c\", jwks_url = \"http://x\" }\n",
            "https:// only",
        ),
        (
            "[listeners.udp.a]\nauthentication = { backend = \"http\" }\n",
            "needs the URL",
        ),
        (
            "[listeners.udp.a]\nauthentication = { file = \"users\" }\n",
            "names its backend",
        ),
        (
            "[listeners.udp.a]\nauthentication = { backend = \"file\", flie = \"users\" }\n",
            "did you mean `file`",
        ),
        (
            "[broker]\nurl = \"mqtt://x\"\nprotocol = 4\npassword_file = \"p\"\n",
            "set username",
        ),
        ("[admin]\nbind = \"[::]:8683\"\n", "token_file"),
        (
            "[admin]\nbind = \"[::]:8683\"\ntoken_file = \"t\"\n",
            "in the clear",
        ),
        ("[admin]\ncert_file = \"c\"\n", "needs key_file"),
        ("[admin]\nkey_file = \"k\"\n", "needs cert_file"),
        (
            "[admin]\nbind = \"127.0.0.1:1\"\n[metrics]\nbind = \"127.0.0.1:1\"\n",
            "metrics.bind already",
        ),
    ] {
        let problems = parse(text).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{text}{problems}");
        assert!(problems.to_string().contains(wanted), "{text}{problems}");
    }
    parse("[listeners.dtls.a]\npsk_file = \"p\"\nidentity = \"username\"\nauthentication = true\n").unwrap();
    let files = "token_file = \"t\"\ncert_file = \"c\"\nkey_file = \"k\"\n";
    parse(&format!("[admin]\nbind = \"0.0.0.0:8683\"\n{files}")).unwrap();
}

#[test]
fn a_listener_may_have_a_backend_of_its_own() {
    let config = parse(
        r#"
        [authentication]
        backend = "file"
        file = "everyone"
        [listeners.udp.inherits]
        [listeners.udp.off]
        bind = "127.0.0.1:1"
        authentication = false
        [listeners.udp.own]
        bind = "127.0.0.1:2"
        [listeners.udp.own.authentication]
        backend = "file"
        file = "/few"
        [listeners.udp.own.authentication.jwt]
        from = "username"
        [listeners.dtls.none]
        psk_file = "p"
        authentication = { backend = "none" }
        "#,
    )
    .unwrap();
    let asked: Vec<bool> = config
        .listeners
        .iter()
        .map(|listener| config.asks_for_login(listener))
        .collect();
    assert_eq!(asked, [true, false, true, false]);
    let tables: Vec<String> = config.authentications().map(|(key, _)| key).collect();
    assert_eq!(
        tables,
        [
            "authentication",
            "listeners.udp.own.authentication",
            "listeners.dtls.none.authentication"
        ]
    );
    let files = config.users_files();
    assert_eq!(files, [Path::new("/etc/portcullis/everyone"), Path::new("/few")]);
}

#[test]
fn what_is_wrong_with_a_listeners_own_backend_is_shown_where_it_stands() {
    let text = "[listeners.udp.a]\n[listeners.udp.a.authentication]\nbackend = \"jwt\"\n[listeners.udp.a.authentication.jwt]\n\
                key_file = \"k\"\nrefresh = \"1s\"\n";
    let problems = parse(text).unwrap_err();
    let [problem] = &problems.0[..] else {
        panic!("{problems}")
    };
    assert_eq!(problem.key, "listeners.udp.a.authentication.jwt.refresh");
    let place = problem.place.as_ref().unwrap();
    assert_eq!((place.line, place.column), (6, 11), "{problem}");
}
