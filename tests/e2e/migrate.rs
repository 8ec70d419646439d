//! `migrate`: devices of a gateway of EMQX are served by the configuration that comes of its own, and who was asked who they are
//! there is never let in unasked here.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Client, Config, Gateway, Request, code, dtls};

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn portcullis(directory: &Path, arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A directory with `etc/emqx.conf` and more files, and the configuration that comes of it.
struct Migrated {
    directory: tempfile::TempDir,
    said: String,
    config: String,
}

impl Migrated {
    #[track_caller]
    fn of(conf: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("etc/emqx.conf", conf)].iter().chain(files) {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let ran = portcullis(
            directory.path(),
            &["migrate", "etc/emqx.conf", "--output", "p.toml"],
        );
        assert_eq!(ran.code, 0, "{}{}", ran.stderr, ran.stdout);
        let checked = portcullis(directory.path(), &["check-config", "--config", "p.toml"]);
        let config = std::fs::read_to_string(directory.path().join("p.toml")).unwrap();
        assert_eq!(checked.code, 0, "{config}\n{}", checked.stderr);
        Self {
            directory,
            said: ran.stderr,
            config,
        }
    }

    #[track_caller]
    fn has(&self, lines: &[&str]) -> &Self {
        for line in lines {
            assert!(self.config.contains(line), "no {line:?} in\n{}", self.config);
        }
        self
    }

    #[track_caller]
    fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.said.contains(word), "no {word:?} in\n{}", self.said);
        }
        self
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    /// The gateway of it, on the ports that `ports` was made for.
    fn serve(&self, ports: &mut Gateway) {
        for entry in std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(Result::unwrap)
        {
            if entry.file_type().unwrap().is_file() {
                ports.write(
                    entry.file_name().to_str().unwrap(),
                    &std::fs::read(entry.path()).unwrap(),
                );
            }
        }
        let state = ports.path("state");
        let more = format!(
            "\n[node]\nstate_dir = {:?}\n[metrics]\nbind = \"{}\"\n[admin]\nbind = \"\"\n",
            state.display().to_string(),
            ports.metrics_addr()
        );
        ports.write("portcullis.toml", format!("{}{more}", self.config).as_bytes());
        ports.launch();
    }
}

#[test]
fn devices_of_a_gateway_that_was_moved_go_on_with_their_keys_and_passwords() {
    let mut gateway = Gateway::prepare(&Config::new());
    let conf = format!(
        "gateway.coap {{\n connection_required = false\n heartbeat = 60s\n mountpoint = \"plant/\"\n\
         authentication = {{ mechanism = password_based, backend = built_in_database, password_hash_algorithm {{ name = sha256, salt_position = suffix }} }}\n\
         listeners {{ udp {{ default {{ bind = \"{}\" }} }}\n dtls {{ default {{ bind = \"{}\", enable_authn = false }} }} }} }}\n\
         psk_authentication {{ enable = true, init_file = \"${{EMQX_ETC_DIR}}/keys.psk\" }}\n",
        gateway.udp_addr(),
        gateway.dtls_addr()
    );
    let migrated = Migrated::of(&conf, &[("etc/keys.psk", "pump-9:a:secret:of:pump-nine!\n")]);
    migrated.has(&[
        "heartbeat = \"1m\"",
        "mountpoint = \"plant/\"",
        "backend = \"file\"",
    ]);
    migrated.says(&[
        "portcullis user import FILE --algorithm sha256 --salt-position suffix --users-file users.txt",
    ]);
    std::fs::write(
        migrated.directory.path().join("users.csv"),
        "user_id,password\nann,four-five-six\n",
    )
    .unwrap();
    let imported = portcullis(
        migrated.directory.path(),
        &["user", "import", "users.csv", "--users-file", "users.txt"],
    );
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    migrated.serve(&mut gateway);
    let options = dtls::Options::psk("pump-9", b"a:secret:of:pump-nine!");
    let mut pump = Client::dtls(gateway.dtls_addr(), &options);
    pump.publish("ps/level", "7");
    let mut plain = Client::udp(gateway.udp_addr());
    let put = |query: &str| Request::put(&format!("ps/level{query}")).payload("8");
    plain.request(&put("")).expect(code::UNAUTHORIZED);
    plain.request(&put("?u=ann&p=wrong")).expect(code::UNAUTHORIZED);
    plain
        .request(&put("?u=ann&p=four-five-six"))
        .expect(code::CHANGED);
}

#[test]
fn an_authenticator_that_is_not_known_here_lets_nobody_in() {
    for authentication in [
        "{ mechanism = scram, backend = built_in_database }",
        "{ mechanism = gssapi, principal = \"mqtt/x\" }",
        "{ mechanism = password_based, backend = cinfo }",
        "{ mechanism = jwt, algorithm = hmac-based, secret = \"short-one\" }",
        "{ mechanism = jwt, algorithm = public-key, public_key = \"/nowhere/key.pem\" }",
        "{ mechanism = password_based, backend = http, url = \"http://${client_attrs.t}.example.net/auth\" }",
    ] {
        let conf = format!(
            "gateway.coap.authentication = {authentication}\ngateway.coap.listeners.udp.x.bind = 5683"
        );
        let migrated = Migrated::of(&conf, &[]);
        migrated
            .has(&["backend = \"file\"", "file = \"users.txt\""])
            .says(&["nobody is let in"]);
        assert!(!migrated.said.contains("short-one") && !migrated.config.contains("short-one"));
        assert_eq!(migrated.file("users.txt"), "# user:hash\n");
    }
    // And where the gateway has none of its own, what is asked about MQTT is asked about CoAP.
    let chain = "authentication = [{ mechanism = password_based, backend = redis, enable = false }, { mechanism = password_based, \
                 backend = postgresql, server = \"db.example.net\", database = d, username = u }]\ngateway.coap { enable = true }";
    Migrated::of(chain, &[]).has(&["backend = \"postgresql\"", "server = \"db.example.net\""]);
    let nobody = Migrated::of("gateway.coap.listeners.udp.x.bind = 5683", &[]);
    nobody
        .has(&["[authentication]\nbackend = \"none\""])
        .says(&["everybody is let in here too"]);
}

#[test]
fn a_listener_that_verified_certificates_does_not_serve_those_that_it_cannot_verify() {
    let made = tempfile::tempdir().unwrap();
    assert_eq!(portcullis(made.path(), &["certs", "dev", "--dir", "."]).code, 0);
    let pem = |name: &str| std::fs::read_to_string(made.path().join(name)).unwrap();
    let options = "certfile = \"etc/certs/cert.pem\", keyfile = \"${EMQX_ETC_DIR}/certs/key.pem\", cacertfile = \"${EMQX_ETC_DIR}/certs/cacert.pem\", \
                   verify = verify_peer, fail_if_no_peer_cert = true, depth = 3";
    let conf = format!(
        "gateway.coap.listeners.dtls.d {{ bind = 5684, max_connections = infinity, dtls_options {{ {options} }} }}"
    );
    let (server, key, ca) = (pem("server.pem"), pem("server.key"), pem("ca.pem"));
    let all = [
        ("etc/certs/cert.pem", server.as_str()),
        ("etc/certs/key.pem", &key),
        ("etc/certs/cacert.pem", &ca),
    ];
    let migrated = Migrated::of(&conf, &all);
    migrated.has(&[
        "cert_file = \"dtls-d.pem\"",
        "ca_file = \"dtls-d-ca.pem\"",
        "verify = \"required\"",
        "verify_depth = 3",
    ]);
    let inline = conf.replace("${EMQX_ETC_DIR}/certs/key.pem", &key.replace('\n', "\\n"));
    let migrated = Migrated::of(&inline, &[all[0], all[2]]);
    migrated.has(&["key_file = \"dtls-d.key\""]);
    assert!(!migrated.config.contains("PRIVATE") && !migrated.said.contains("PRIVATE"));
    let without = Migrated::of(&conf, &all[..2]);
    assert!(!without.config.contains("cert_file"), "{}", without.config);
    without
        .has(&["psk_file = \"psk.txt\""])
        .says(&["cacertfile: left out", "nobody gets in until"]);
    let foreign = Migrated::of(
        &conf,
        &[all[0], ("etc/certs/key.pem", &pem("client.key")), all[2]],
    );
    foreign.says(&["does not fit"]);
    assert!(!foreign.config.contains("cert_file"), "{}", foreign.config);
}

#[test]
fn no_secret_of_a_configuration_that_is_moved_is_shown() {
    let cases = [
        (
            "backend = mysql, server = \"db:3307\", username = u, password = \"hush-1234\"",
            "mysql.password",
            "hush-1234\n",
        ),
        (
            "backend = redis, servers = \"a:1, b:2\", redis_type = cluster, password = \"hush-1234\"",
            "redis.password",
            "hush-1234\n",
        ),
        (
            "backend = mongodb, servers = [\"a\", \"b:2\"], replica_set_name = rs0, database = m, password = \"hush-1234\", username = u, filter { name = \"${username}\" }",
            "mongodb.password",
            "hush-1234\n",
        ),
        (
            "backend = ldap, server = \"ldap\", username = \"cn=a\", password = \"hush-1234\", base_dn = \"dc=x\", method { type = bind, bind_password = \"${password}\" }",
            "ldap.password",
            "hush-1234\n",
        ),
        (
            "backend = http, url = \"https://auth.example.net/a?u=${username}\", headers { content-type = \"application/json\", Authorization = \"Bearer hush-1234\" }",
            "http.token",
            "hush-1234\n",
        ),
    ];
    for (text, name, content) in cases {
        let conf = format!(
            "gateway.coap {{ listeners.udp.default {{}}\nauthentication {{ mechanism = password_based, {text} }} }}"
        );
        let migrated = Migrated::of(&conf, &[]);
        assert_eq!(migrated.file(name), content);
        assert!(
            !migrated.config.contains("hush") && !migrated.said.contains("hush"),
            "{}{}",
            migrated.config,
            migrated.said
        );
    }
    let secret = "0123456789abcdef0123456789abcdef-hush";
    let jwt = format!(
        "gateway.coap.authentication {{ mechanism = jwt, from = username, algorithm = hmac-based, secret = \"{secret}\", refresh_interval = 300\n verify_claims = [{{ name = aud, value = coap }}] }}"
    );
    let migrated = Migrated::of(&jwt, &[]);
    assert_eq!(migrated.file("jwt.key"), secret);
    migrated.has(&[
        "algorithms = [\"HS256\"]",
        "required_claims = { aud = \"coap\" }",
        "from = \"username\"",
    ]);
    assert!(!migrated.config.contains("hush") && !migrated.said.contains("hush"));
}

#[test]
fn what_has_no_counterpart_is_said_with_its_line() {
    let conf = "gateway.coap {\n enable_stats = true\n blockwise { enable = true, exchange_lifetime = 247s }\n mountpoint = \"a/${zone}/\"\n \
                heartbeat = soon\n what_is_this = 1\n listeners.dtls.default { bind = \"host:1\", acceptors = 8\n dtls_options { ciphers = \
                [\"ECDHE-RSA-AES128-GCM-SHA256\", \"RSA-PSK-AES256-CBC-SHA\", \"PSK-AES128-CBC-SHA256\"], versions = [dtlsv1] } } \n \
                listeners.tcp.other.bind = 1 }\nauthorization.sources = [{ type = file }]\ndashboard.x = 1\ngateway.stomp.y = 2\n";
    let migrated = Migrated::of(conf, &[]);
    let place = |line: usize, rest: &str| format!("etc/emqx.conf:{line}: gateway.coap.{rest}");
    for words in [
        place(2, "enable_stats: no counterpart"),
        place(3, "blockwise.exchange_lifetime: no counterpart: it is 247 s"),
        place(4, "mountpoint: no counterpart"),
        place(5, "heartbeat: not carried over: expected a duration"),
        place(6, "what_is_this: no counterpart"),
        place(7, "listeners.dtls.default.bind: not carried over"),
        place(
            7,
            "listeners.dtls.default.acceptors: no counterpart: see node.workers",
        ),
        place(
            8,
            "listeners.dtls.default.dtls_options.ciphers: not spoken here: RSA-PSK-AES256-CBC-SHA",
        ),
        place(
            8,
            "listeners.dtls.default.dtls_options.versions: no counterpart: DTLS 1.2",
        ),
        place(9, "listeners.tcp.other.bind: no counterpart"),
        "etc/emqx.conf:10: authorization.sources: its rules are not carried over".to_owned(),
        "dashboard, gateway.stomp: not of the CoAP gateway".to_owned(),
    ] {
        migrated.says(&[&words]);
    }
    migrated.has(&[
        "legacy_cbc = true",
        "acl_file = \"acl.txt\"",
        "no_match = \"allow\"",
        "bind = \"127.0.0.1:5684\"",
    ]);
}

#[test]
fn what_is_out_of_range_here_is_taken_away_and_told() {
    let conf = "gateway.coap { heartbeat = 0s, notify_type = maybe, blockwise.max_block_size = 2048\n listeners.udp.a { bind = 5683, \
                access_rules = [\"allow all\", \"permit x\"] }\n listeners.udp.b { bind = 5685, health_check { request = \"p\", reply = \"this is a long one\" } } }";
    let migrated = Migrated::of(conf, &[]);
    migrated.has(&["heartbeat = \"0s\"", "[listeners.udp.b]"]).says(&[
        "coap.notify_type: taken away again",
        "listeners.udp.b.health_reply: taken away",
    ]);
    // A listener whose rules are lost would serve more than was meant.
    assert!(
        !migrated.config.contains("[listeners.udp.a]"),
        "{}",
        migrated.config
    );
}

#[test]
fn a_configuration_is_printed_and_nothing_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write(
        "base.hocon",
        "gateway.coap.heartbeat = 10s\ngateway.coap.listeners.dtls.default.bind = 5684\npsk_authentication { enable = true }",
    );
    write("emqx.conf", "gateway.coap.heartbeat = 20s\n");
    let migrate = |more: &[&str]| {
        portcullis(
            directory.path(),
            &[&["migrate", "base.hocon", "emqx.conf"], more].concat(),
        )
    };
    let ran = migrate(&["--broker", "mqtt://127.0.0.1:1883"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("heartbeat = \"20s\"") && ran.stdout.contains("url = \"mqtt://127.0.0.1:1883\""),
        "{}",
        ran.stdout
    );
    // The paths are whole, so it is good wherever it is put.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("p.toml"), &ran.stdout).unwrap();
    let checked = portcullis(elsewhere.path(), &["check-config", "--config", "p.toml"]);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    write("psk.txt", "mine:00112233445566778899aabbccddeeff\n");
    let ran = migrate(&[]);
    assert!(
        ran.code == 73 && ran.stderr.contains("psk.txt") && ran.stdout.is_empty(),
        "{}",
        ran.stderr
    );
    assert!(
        std::fs::read_to_string(directory.path().join("psk.txt"))
            .unwrap()
            .starts_with("mine")
    );
    write("emqx.conf", "gateway.coap {\n password = \"hush\n}");
    let ran = migrate(&[]);
    assert!(
        ran.code == 65 && ran.stderr.contains("emqx.conf:2:13: ") && !ran.stderr.contains("hush"),
        "{}",
        ran.stderr
    );
    assert_eq!(
        portcullis(directory.path(), &["migrate", "nothing.conf"]).code,
        66
    );
}
