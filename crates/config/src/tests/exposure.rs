//! Which listeners are refused as open to strangers.

use super::*;

/// What is said of the exposure of a configuration; its files are missing, which does not matter here.
fn exposed(text: &str) -> Vec<(String, String)> {
    let problems = load_from(text, Path::new("/nonexistent/portcullis.toml")).unwrap_err();
    problems
        .iter()
        .filter(|problem| problem.message.contains("without a name"))
        .map(|problem| (problem.key.clone(), problem.message.clone()))
        .collect()
}

/// A text with a file that is missing, so that there is always a problem.
fn listener(kind: &str, lines: &str) -> String {
    format!(
        "[listeners.{kind}.a]\n{lines}[listeners.dtls.missing]\nbind = \"127.0.0.1:1\"\npsk_file = \"none\"\n"
    )
}

const OFF: &str = "bind = \"192.0.2.1:5683\"\n";

#[test]
fn a_listener_that_strangers_reach_is_refused_and_told_the_ways_out() {
    let told = exposed("");
    let keys: Vec<_> = told.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        ["listeners.udp.default.bind", "listeners.dtls.default.bind"]
    );
    for (_, message) in &told {
        for way in [
            "authentication.backend",
            "authorization.acl_file",
            "`backend = \"none\"`",
            "127.0.0.1",
        ] {
            assert!(message.contains(way), "{way}: {message}");
        }
    }
    assert!(told[1].1.contains("verify = \"required\""), "{}", told[1].1);
}

#[test]
fn open_is_what_lets_in_the_unnamed_off_loopback() {
    let keys = "cert_file = \"c\"\nkey_file = \"k\"\n";
    let asked = format!("{OFF}{keys}ca_file = \"ca\"\nverify");
    let psk = "psk_file = \"p\"\n";
    for (kind, lines, open) in [
        ("udp", OFF.to_owned(), true),
        ("udp", "bind = \"[::ffff:127.0.0.1]:5683\"\n".to_owned(), false),
        ("udp", "bind = \"[::ffff:192.0.2.1]:5683\"\n".to_owned(), true),
        ("udp", "bind = \"127.5.5.5:5683\"\n".to_owned(), false),
        ("udp", "bind = \"0.0.0.0:5683\"\n".to_owned(), true),
        ("udp", String::new(), true),
        ("dtls", format!("{OFF}{psk}"), false),
        ("dtls", format!("{OFF}{psk}{keys}"), true),
        ("dtls", format!("{OFF}{keys}"), true),
        ("dtls", format!("{OFF}{keys}rpk_file = \"r\"\n"), true),
        ("dtls", format!("{asked} = \"optional\"\n"), true),
        ("dtls", format!("{asked} = \"required\"\n"), false),
        ("dtls", format!("{asked} = \"required\"\n{psk}"), false),
        ("dtls", format!("{OFF}{keys}{psk}identity = \"username\"\n"), true),
        (
            "dtls",
            format!("{OFF}{keys}{psk}identity = \"username\"\nauthentication = true\n"),
            false,
        ),
    ] {
        assert_eq!(
            exposed(&listener(kind, &lines)).len(),
            usize::from(open),
            "{kind} {lines}"
        );
    }
}

#[test]
fn a_backend_an_acl_or_none_written_out_closes_the_matter() {
    let own = |table: &str| listener("udp", &format!("{OFF}authentication = {table}\n"));
    let with = |tail: &str| format!("{}{tail}", listener("udp", OFF));
    for text in [
        with("[authentication]\nbackend = \"none\"\n"),
        with("[authentication]\nbackend = \"file\"\n"),
        with("[authorization]\nacl_file = \"acl\"\n"),
        own("{ backend = \"none\" }"),
        own("{ backend = \"file\" }"),
        format!("{}[authentication]\nbackend = \"none\"\n", own("false")),
        format!("{}[authorization]\nacl_file = \"acl\"\n", own("false")),
    ] {
        assert_eq!(exposed(&text), [], "{text}");
    }
    assert_eq!(
        exposed(&with("[authentication]\nfile = \"users\"\n")).len(),
        1,
        "none, but not written"
    );
    assert_eq!(exposed(&own("false")).len(), 1);
    // A backend that does not apply to it closes nothing.
    let aside = exposed(&format!("{}[authentication]\nbackend = \"file\"\n", own("false")));
    assert!(
        aside[0].1.contains("take `authentication = false` away"),
        "{aside:?}"
    );
    assert!(
        aside[0]
            .1
            .contains("{ backend = \"none\" }` in [listeners.udp.a]"),
        "{aside:?}"
    );
}
