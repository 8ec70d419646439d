//! What a file that somebody names says of itself: where it is wrong, and nothing of what stands in it.

use serde_json::{Value, json};

use portcullis::config;

use crate::PLAIN;
use crate::http::send;
use crate::site::Served;
use crate::support::certs::{Recipe, from_now};

/// What stands in one of the files, and in no word of the gateway's.
const MARKS: [&str; 12] = [
    "gate-77",
    "cafe5eed",
    "nora-q",
    "sesame-88",
    "tok-31f7",
    "zz-broker-pass",
    "BEGIN-LIKE",
    "hmac-7f3a",
    "topic-q9",
    "cn-mark-5",
    "half-line",
    "rw-word",
];

/// A key that names a file, as a patch that gives it this path.
type Named = (&'static str, fn(&str) -> Value);

const KEYS: [Named; 19] = [
    (
        "authorization.acl_file",
        |path| json!({"authorization": {"acl_file": path}}),
    ),
    ("psk_file", |path| dtls(json!({"psk_file": path}))),
    ("cert_file", |path| {
        dtls(json!({"cert_file": path, "key_file": path}))
    }),
    ("key_password_file", |path| {
        dtls(json!({"cert_file": path, "key_file": path, "key_password_file": path}))
    }),
    ("certificates", |path| {
        let files = json!({"cert_file": path, "key_file": path});
        dtls(json!({"psk_file": "psk", "certificates": [files]}))
    }),
    ("rpk_file", |path| {
        dtls(json!({"psk_file": path, "cert_file": path, "key_file": path, "rpk_file": path}))
    }),
    ("ca_file", |path| {
        dtls(json!({"psk_file": "psk", "ca_file": path, "verify": "optional"}))
    }),
    ("crl_file", |path| {
        dtls(json!({"psk_file": "psk", "ca_file": path, "crl_file": path, "verify": "optional"}))
    }),
    (
        "authentication.file",
        |path| json!({"authentication": {"backend": "file", "file": path}}),
    ),
    ("http.token_file", |path| http(json!({"token_file": path}))),
    ("http.ca_file", |path| http(json!({"ca_file": path}))),
    (
        "jwt.key_file",
        |path| json!({"authentication": {"backend": "jwt", "jwt": {"key_file": path}}}),
    ),
    (
        "jwt.ca_file",
        |path| json!({"authentication": {"backend": "jwt", "jwt": {"jwks_url": "https://127.0.0.1:1/", "ca_file": path}}}),
    ),
    ("broker.password_file", |path| {
        broker(json!({"username": "u", "password_file": path}))
    }),
    ("broker.ca_file", |path| broker(json!({"ca_file": path}))),
    ("broker.cert_file", |path| {
        broker(json!({"cert_file": path, "key_file": path}))
    }),
    ("admin.token_file", |path| json!({"admin": {"token_file": path}})),
    (
        "admin.cert_file",
        |path| json!({"admin": {"cert_file": path, "key_file": path}}),
    ),
    (
        "listener's own file",
        |path| json!({"listeners": {"udp": {"default": {"authentication": {"backend": "file", "file": path}}}}}),
    ),
];

fn dtls(mut keys: Value) -> Value {
    keys["bind"] = json!("127.0.0.1:0");
    json!({"listeners": {"dtls": {"x": keys}}})
}

fn http(mut keys: Value) -> Value {
    keys["url"] = json!("https://127.0.0.1:1/");
    json!({"authentication": {"backend": "http", "http": keys}})
}

fn broker(mut keys: Value) -> Value {
    keys["url"] = json!("mqtts://127.0.0.1:1");
    json!({"broker": keys})
}

fn files() -> Vec<(&'static str, String)> {
    let pair = Recipe {
        to: from_now(-60),
        ..Recipe::server("cn-mark-5")
    };
    let pair = pair.make(None);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let pem = text(pair.cert_pem());
    // It fits no certificate here: an interface with a new certificate would speak TLS from then on.
    let key = text(Recipe::server("x").make(None).key_pem());
    vec![
        (
            "psk",
            "gate-77:cafe5eed00\ngate-77:cafe5eed11\nhex:6:cafe5eed\n".into(),
        ),
        (
            "keys.csv",
            "gate-77,cafe5eed\n\u{feff}gate-77:cafe5eed22\ngate-77:ca:fe:5e:ed\n".into(),
        ),
        (
            "users",
            "nora-q:sesame-88\nnora-q:$7$1$sesame-88$sesame-88\n:sesame-88\n".into(),
        ),
        (
            "tokens",
            "admin:tok-31f7\ntok-31f7 half-line x\nreadonly:tok-31f7\n".into(),
        ),
        ("password", "zz-broker-pass\nzz-broker-pass\n".into()),
        (
            "labels",
            "-----BEGIN BEGIN-LIKE-----\nhmac-7f3a\n-----END BEGIN-LIKE-----\n".into(),
        ),
        ("secret", "hmac-7f3a".into()),
        (
            "acl",
            "user\ntopic rw-word topic-q9\npattern read topic-q9/#/x\nhalf-line\ntopic-q9 x\n".into(),
        ),
        ("cert", pem.clone()),
        ("cut", pem[..pem.len() / 2].into()),
        ("keyed", key + "half-line\n" + &pem),
        (
            "shadow",
            "nora-q:$y$j9T$sesame-88:19000:0:99999:7:::\nx:*:1::\n".into(),
        ),
    ]
}

#[test]
fn no_answer_and_no_check_repeats_a_word_of_a_named_file() {
    let files = files();
    let named: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let served = Served::with_files(PLAIN, &named);
    let der = |name: &str| served.read(name).lines().nth(3).map(str::to_owned);
    let bodies: Vec<String> = ["cert", "keyed"].iter().filter_map(|name| der(name)).collect();
    let mut refused = 0;
    for (name, _) in &files {
        let path = served.path(name);
        for (key, patch) in KEYS {
            let answer = send(
                served.address,
                "PUT",
                "/api/v1/config",
                &patch(path.to_str().unwrap()),
            );
            let said = answer.body.clone();
            let clean = |mark: &str| !said.contains(mark);
            assert!(MARKS.iter().all(|mark| clean(mark)), "{key} = {name}: {said}");
            assert!(bodies.iter().all(|line| clean(line)), "{key} = {name}: {said}");
            refused += usize::from(answer.status == 400);
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_configuration_that_is_something_else_is_not_repeated_either() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.toml");
    for (name, text) in files() {
        std::fs::write(&path, &text).unwrap();
        let Err(problems) = config::load(&path) else {
            panic!("{name} is no configuration")
        };
        let said = problems.to_string();
        assert!(MARKS.iter().all(|mark| !said.contains(mark)), "{name}: {said}");
        assert!(
            said.contains("line ") && said.contains("column "),
            "{name}: {said}"
        );
    }
    // A value that is none is not repeated, whatever its key.
    for line in [
        "[coap]\nheartbeat = \"sesame-88\"",
        "[broker]\nurl = \"mqtt://sesame-88!:x\"",
        "[log]\nlevel = \"sesame-88\"",
        "[metrics]\nbind = \"sesame-88\"",
        "[broker]\npassword = \"sesame-88\"",
        "[listeners.udp.a]\naccess_rules = [\"allow sesame-88\"]",
    ] {
        std::fs::write(&path, line).unwrap();
        let said = config::load(&path).unwrap_err().to_string();
        assert!(!said.contains("sesame-88"), "{said}");
    }
}

#[test]
fn a_wrong_line_is_told_by_line_and_column() {
    let served = Served::with_files(PLAIN, &[("acl", "topic read a\n  pattern rw-word b\n")]);
    let patch = json!({"authorization": {"acl_file": "acl"}});
    let error = send(served.address, "PUT", "/api/v1/config", &patch).error(400, "invalid_config");
    let said = error["problems"][0]["message"].as_str().unwrap();
    assert!(said.contains("acl, line 2, column 11: access is read"), "{said}");
}
