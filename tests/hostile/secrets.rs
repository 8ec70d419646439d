//! What the log must never say, at any level.

use serde_json::json;

use crate::support::gateway::hex;
use crate::support::jwt::hs256;
use crate::support::web::WebServer;
use crate::support::{Config, Gateway, Kind, Request, code, dtls, ms, psk_of};

#[test]
fn no_secret_reaches_the_log_or_the_metrics() {
    for format in ["text", "json"] {
        let config = Config::new()
            .connection_mode()
            .dtls("handshake_timeout = \"1s\"")
            .set("log", &format!("level = \"trace\"\nformat = \"{format}\""));
        let gateway = Gateway::start(config);
        let mut secrets = vec![];
        for kind in [Kind::Udp, Kind::Dtls] {
            let mut client = gateway.client(kind);
            let create =
                format!("mqtt/connection?clientid=visible-{kind:?}&username=u&password=pass-{kind:?}-word");
            let token = client
                .request(&Request::post(&create))
                .expect(code::CREATED)
                .text();
            let pair = format!("clientid=visible-{kind:?}&token={token}");
            let observation = client.observe(&format!("ps/t?{pair}"));
            client.publish(&format!("ps/t?{pair}"), "payload-of-the-device");
            client.notification(&observation.token);
            client.request(&Request::put(&format!(
                "mqtt/connection?clientid=visible-{kind:?}&token=guess-{token}"
            )));
            client.request(&Request::put(&format!("mqtt/connection?{pair}&token={token}")));
            client.request(&Request::post("ps/t").segment(format!("x&{pair}")));
            client.request(&Request::post(&format!("{create}&password=again-{kind:?}")));
            secrets.extend([token, format!("pass-{kind:?}-word"), format!("again-{kind:?}")]);
        }
        secrets.push("payload-of-the-device".to_owned());
        let wrong = dtls::Options::psk("dev1", b"wrong-key-of-dev").patience(ms(300));
        assert!(dtls::connect(gateway.dtls_addr(), &wrong).is_err());
        for identity in ["dev1", "dev2", "dev3", "dev4"] {
            secrets.extend([psk_of(identity), hex(psk_of(identity).as_bytes())]);
        }
        gateway.reload();
        std::thread::sleep(ms(200));
        let said = gateway.log() + &gateway.metrics();
        assert!(said.len() > 1000, "the log says something at level trace: {said}");
        for secret in secrets {
            assert!(!said.contains(&secret), "{secret} is in the log ({format})");
        }
        let mut peer = gateway.client_as(Kind::Dtls, "dev4");
        let token = peer.create("good");
        peer.publish(&format!("ps/a?clientid=good&token={token}"), "served");
    }
}

const SHARED: &str = "shared-secret-of-the-token-issuer-0001";

/// Right and wrong credentials, to a users file, to a server that answers, fails and is gone, and as tokens.
#[test]
fn no_credential_reaches_the_log_whatever_backend_judges_it() {
    let server = WebServer::start(|got| match got.body.contains("right-password") {
        true => (200, json!({"result": "allow"}).to_string()),
        false if got.body.contains("broken") => (500, got.body.clone()),
        false => (200, got.body.clone()),
    });
    let http = format!(
        "backend = \"http\"\nhttp = {{ url = \"{}\", token_file = \"bearer\", timeout = \"1s\" }}",
        server.url("/auth")
    );
    let jwt = "backend = \"jwt\"\njwt = { key_file = \"jwt.key\" }".to_owned();
    let file = "backend = \"file\"\nfile = \"users\"".to_owned();
    let good = hs256(SHARED, &json!({"sub": "x"}));
    let hash = "$2b$04$abcdefghijklmnopqrstuuS3dGZQPnVKXxZ1C6p0Zx0Qe1n1mJ7iW";
    let mut server = Some(server);
    for (authentication, right) in [
        (file, None),
        (http, Some("right-password")),
        (jwt, Some(good.as_str())),
    ] {
        let config = Config::new()
            .set("authentication", &authentication)
            .set("log", "level = \"trace\"")
            .file("users", format!("ann:{hash}\n"))
            .file("bearer", "bearer-token-of-the-gateway")
            .file("jwt.key", SHARED);
        let gateway = Gateway::start(config);
        let forged = hs256("a secret of nobody", &json!({"sub": "x"}));
        let wrong = [
            "wrong-password",
            "broken-password",
            "not.a.token",
            forged.as_str(),
        ];
        for kind in [Kind::Udp, Kind::Dtls] {
            let mut client = gateway.client(kind);
            for password in right.iter().chain(&wrong) {
                let request = Request::post("ps/t?username=ann").query(format!("password={password}"));
                let answer = client.request(&request);
                assert_eq!(
                    answer.code == code::CHANGED,
                    right == Some(*password),
                    "{answer:?}"
                );
                let create = Request::post("mqtt/connection?clientid=c&username=ann");
                client.request(&create.query(format!("password={password}")));
            }
        }
        if authentication.contains("http") {
            server = None;
            let request = Request::post("ps/t?username=ann&password=asked-in-vain");
            gateway
                .client(Kind::Udp)
                .request(&request)
                .expect(code::UNAVAILABLE);
        }
        gateway.write("users", b"ann:plain-in-the-file\n");
        gateway.write("jwt.key", b"short-secret");
        gateway.reload();
        std::thread::sleep(ms(300));
        let said = gateway.log() + &gateway.metrics();
        assert!(said.len() > 1000, "the log says something at level trace: {said}");
        let files = [
            hash,
            "bearer-token-of-the-gateway",
            SHARED,
            "plain-in-the-file",
            "short-secret",
        ];
        for secret in right.iter().chain(&wrong).chain(&files).chain(&["asked-in-vain"]) {
            assert!(
                !said.contains(secret),
                "{secret} is in the log ({authentication})"
            );
        }
    }
    assert!(server.is_none());
}
