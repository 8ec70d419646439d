//! Listeners, and what each brings or shares.

use super::*;

#[test]
fn a_listener_kind_that_does_not_exist_is_an_error() {
    let problems = parse("[listeners.udpp.a]\nbind = \"[::]:1\"\n").unwrap_err();
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
    assert_eq!(
        dtls.handshake.psk_file.as_deref(),
        Some(Path::new("/etc/portcullis/p"))
    );
    assert_eq!(
        (
            &dtls.handshake.cert_file,
            &dtls.handshake.key_file,
            &dtls.handshake.ca_file
        ),
        (&None, &None, &None)
    );
    let config = parse("[listeners.dtls.a]\ncert_file = \"c\"\nkey_file = \"k\"\n").unwrap();
    assert_eq!(
        config.listeners[0].dtls.as_ref().unwrap().handshake.psk_file,
        None
    );
}

#[test]
fn more_certificates_are_tables_and_each_names_both_files() {
    let config = parse(
        "[listeners.dtls.a]\nbind = \"[::1]:0\"\n[[listeners.dtls.a.certificates]]\ncert_file = \"r.pem\"\nkey_file = \"r.key\"\n\
         [[listeners.dtls.a.certificates]]\ncert_file = \"o.pem\"\nkey_file = \"o.key\"\nkey_password_file = \"/o.password\"\n",
    )
    .unwrap();
    let dtls = config.listeners[0].dtls.as_ref().unwrap();
    assert_eq!(
        (&dtls.handshake.psk_file, &dtls.handshake.cert_file),
        (&None, &None),
        "no defaults beside"
    );
    let [first, second] = &dtls.handshake.certificates[..] else {
        panic!("{:?}", dtls.handshake.certificates)
    };
    assert_eq!(first.cert_file, Path::new("/etc/portcullis/r.pem"));
    assert_eq!(first.key_password_file, None);
    assert_eq!(
        second.key_password_file.as_deref(),
        Some(Path::new("/o.password"))
    );
    for (table, message) in [
        ("{ cert_file = \"c\" }", "it lacks `key_file`"),
        ("{ cert_file = \"c\", key_file = \"\" }", "it lacks `key_file`"),
        ("{ cert_file = \"c\", key = \"k\" }", "unknown key `key`"),
        ("{ cert_file = 1, key_file = \"k\" }", "expected a path in quotes"),
        ("\"c.pem\"", "expected a table with `cert_file`"),
    ] {
        let text = format!("[listeners.dtls.a]\ncertificates = [{table}]\n");
        let problems = parse(&text).unwrap_err();
        assert!(problems.to_string().contains(message), "{problems}");
    }
    let many = vec!["{ cert_file = \"c\", key_file = \"k\" }"; 65].join(", ");
    let problems = parse(&format!("[listeners.dtls.a]\ncertificates = [{many}]\n")).unwrap_err();
    assert!(problems.to_string().contains("at most 64"), "{problems}");
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
        ("[admin]\nbind = \"[::]:8683\"\n", "in the clear"),
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
    let files = "cert_file = \"c\"\nkey_file = \"k\"\n";
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
fn a_listener_knows_whether_user_names_are_tokens_there() {
    let config = parse(
        r#"
        [authentication]
        backend = "jwt"
        [authentication.jwt]
        key_file = "k"
        from = "username"
        [listeners.udp.inherits]
        [listeners.udp.off]
        bind = "127.0.0.1:1"
        authentication = false
        [listeners.udp.own]
        bind = "127.0.0.1:2"
        [listeners.udp.own.authentication]
        backend = "jwt"
        [listeners.udp.own.authentication.jwt]
        key_file = "k"
        [listeners.udp.file]
        bind = "127.0.0.1:3"
        [listeners.udp.file.authentication]
        backend = "file"
        file = "/few"
        [listeners.udp.file.authentication.jwt]
        from = "username"
        "#,
    )
    .unwrap();
    let settings = to_gateway_settings(&config, 4 << 30);
    let tokens = |listener: &portcullis_proto::gateway::settings::ListenerSettings| {
        (listener.name.to_string(), listener.token_in_username)
    };
    let told: Vec<_> = settings.listeners.iter().map(tokens).collect();
    let wanted = [
        ("inherits", true),
        ("off", false),
        ("own", false),
        ("file", false),
    ];
    assert_eq!(told, wanted.map(|(name, is_token)| (name.to_owned(), is_token)));
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

#[test]
fn a_health_request_has_an_answer_and_that_is_no_amplifier() {
    let config =
        parse("[listeners.udp.a]\nhealth_request = \"hex:00ff\"\nhealth_reply = \"pong\"\n").unwrap();
    let health = config.listeners[0].datagrams.as_ref().unwrap().health();
    assert_eq!(health, Some((&[0, 0xff][..], &b"pong"[..])));
    for (lines, message) in [
        ("health_request = \"ping\"", "health_reply"),
        ("health_reply = \"pong\"", "health_request"),
        ("health_request = \"a\"\nhealth_reply = \"abcd\"", "amplifier"),
        ("health_request = \"hex:0\"\nhealth_reply = \"a\"", "hex:"),
        ("receive_buffer = \"1KiB\"", "4KiB"),
    ] {
        for kind in ["udp", "dtls"] {
            let problems = parse(&format!("[listeners.{kind}.a]\n{lines}\n")).unwrap_err();
            assert!(problems.to_string().contains(message), "{lines}: {problems}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_listeners_own_backend_hides_no_other_mistake_in_it() {
    let text = "[listeners.udp.a]\nhealth_request = \"ping\"\nbnid = \"127.0.0.1:0\"\n\
                [listeners.udp.a.authentication]\nbackend = \"pigeon\"\n";
    let problems = parse(text).unwrap_err();
    let mut keys: Vec<&str> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "listeners.udp.a.authentication.backend",
            "listeners.udp.a.bnid",
            "listeners.udp.a.health_request"
        ],
        "{problems}"
    );
}

#[test]
fn the_peers_of_a_listener_are_shared_out_and_hold_for_sessions_too() {
    let text = "[node]\nworkers = 4\n[listeners.udp.a]\nmax_peers = 10\n[listeners.dtls.b]\nmax_peers = 12\npsk_file = \"p\"\n";
    let settings = to_gateway_settings(&parse(text).unwrap(), 4 << 30);
    assert_eq!(settings.listeners[0].max_peers, 3);
    assert_eq!(
        settings.listeners[1]
            .dtls
            .as_ref()
            .unwrap()
            .transport
            .max_sessions,
        3
    );
}

#[test]
fn a_listener_that_is_not_enabled_stays_in_the_file_and_listens_nowhere() {
    let one_of_two = "[listeners.udp.a]\nbind = \"127.0.0.1:5685\"\n[listeners.dtls.b]\nenable = false\npsk_file = \"p\"\n";
    let read = parse(one_of_two).unwrap();
    let keys: Vec<String> = read.listeners.iter().map(Listener::key).collect();
    assert_eq!(keys, ["listeners.udp.a"]);
    // It has to be right all the same, and one has to be left.
    let mistyped = parse(&one_of_two.replace("psk_file", "psk_fil")).unwrap_err();
    assert!(
        mistyped.to_string().contains("did you mean `psk_file`?"),
        "{mistyped}"
    );
    let none = parse("[listeners.udp.a]\nenable = false\n").unwrap_err();
    assert!(none.to_string().contains("no listener is enabled"), "{none}");
}
