//! `portcullis trace` against the built gateway: what devices send and get, and never a secret.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::commands::{Managed, start};
use crate::dtls_client::{ClientConfig, DtlsClient};
use crate::http::{TOKEN, ask, send};
use crate::support::client::receive;
use crate::support::coap::code;
use crate::support::{Config, Kind, Request, dtls, ms, wait_until};

/// A running `portcullis trace`; its standard output line by line.
struct Tracing {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Tracing {
    fn start(managed: &Managed, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("trace")
            .args(arguments)
            .arg("--config")
            .arg(managed.gateway.path("portcullis.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| to.send(line))
        });
        let traces = || managed.gateway.log().contains("path=\"/api/v1/trace\"");
        wait_until("the trace to be on", traces);
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The first line with all of these words, now or soon.
    #[track_caller]
    fn line(&mut self, words: &[&str]) -> String {
        let fits = |line: &&String| words.iter().all(|word| line.contains(word));
        if let Some(line) = self.seen.iter().find(fits) {
            return line.clone();
        }
        while let Ok(line) = self.lines.recv_timeout(ms(10_000)) {
            self.seen.push(line);
            if let Some(line) = self.seen.last().filter(fits) {
                return line.clone();
            }
        }
        panic!("no line with {words:?} in:\n{}", self.seen.join("\n"));
    }

    /// Ctrl-C, and everything that it said.
    fn stop(mut self) -> String {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(self.child.wait().unwrap().success());
        self.seen.extend(self.lines.iter());
        let mut stderr = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        format!("{}\n{stderr}", self.seen.join("\n"))
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn what_a_device_sends_and_gets_is_told_without_its_secrets() {
    let managed = start(Config::new().connection_mode());
    let mut trace = Tracing::start(&managed, &["meter-7"]);
    let mut device = managed.gateway.client(Kind::Udp);
    let mut other = managed.gateway.client(Kind::Udp);
    let created = device.request(&Request::post(
        "mqtt/connection?clientid=meter-7&username=u&password=hunter2",
    ));
    let token = created.text();
    other.create("someone-else");
    device.observe(&format!("ps/commands/+?clientid=meter-7&token={token}&qos=1"));
    device.publish(&format!("ps/temp/kitchen?c=meter-7&t={token}"), "21.5");
    device.request(&Request::post(&format!("ps/x&token={token}?c=meter-7")));
    device.request(&Request::post("ps/x?c=meter-7&t=wrong-token-of-mine"));
    device.send_raw(&[0x40, 1]);

    let line = trace.line(&[
        "--> CON POST",
        "/mqtt/connection?clientid=meter-7&username=u&password=***",
    ]);
    assert!(
        line.contains(&format!("udp:default {}", device.local_addr())),
        "{line}"
    );
    trace.line(&["<-- ACK 2.01 Created", "24 bytes ***"]);
    trace.line(&[
        "--> CON GET",
        "/ps/commands/+?clientid=meter-7&token=***&qos=1",
        "Observe=0",
    ]);
    trace.line(&["<-- ACK 2.05 Content", "Observe="]);
    trace.line(&["/ps/temp/kitchen?c=meter-7&t=***", "4 bytes \"21.5\""]);
    trace.line(&["<-- ACK 2.04 Changed"]);
    trace.line(&["/ps/x&token=***"]);
    trace.line(&["<-- ACK 4.01 Unauthorized"]);
    trace.line(&["2 bytes  DROPPED: malformed"]);
    let all = trace.stop();
    for secret in [&*token, "hunter2", "wrong-token"] {
        assert!(!all.contains(secret), "{secret} in:\n{all}");
    }
    assert!(!all.contains("someone-else"), "{all}");
    assert!(!all.contains('\x1b'), "no colour but on a terminal");
    managed.gateway.says("meter-7");
    managed.gateway.says("audit: ");
}

#[test]
fn a_device_that_fails_in_the_handshake_is_found_by_the_identity_that_it_names() {
    let managed = start(Config::new().dtls("handshake_timeout = \"4s\""));
    let mut stranger = Tracing::start(&managed, &["stranger", "--json"]);
    let attempt = |identity: &str, key: &[u8]| {
        let options = dtls::Options::psk(identity, key).patience(ms(6000));
        dtls::connect(managed.gateway.dtls_addr(), &options).map(drop)
    };
    assert!(attempt("stranger", b"no key of anyone").is_err());
    let line: Value = serde_json::from_str(&stranger.line(&["handshake_failed"])).unwrap();
    assert_eq!(
        (&line["reason"], &line["identity"], &line["transport"]),
        (&json!("unknown_identity"), &json!("stranger"), &json!("dtls"))
    );
    let line: Value = serde_json::from_str(&stranger.line(&["alert_sent"])).unwrap();
    assert_eq!(line["reason"], "decrypt_error");
    stranger.stop();

    let mut known = Tracing::start(&managed, &["dev1"]);
    assert!(attempt("dev1", b"another's key...").is_err());
    known.line(&["dev1", "handshake FAILED: wrong_key"]);
    let mut device = managed.gateway.client(Kind::Dtls);
    device.publish("ps/t?clientid=named", "1");
    known.line(&["dtls:default", "handshake ok: TLS_PSK_WITH_AES"]);
    known.line(&["named", "--> CON POST", "/ps/t?clientid=named"]);
    known.line(&["<-- ACK 2.04 Changed"]);
    device.close();
    known.line(&["--> alert close_notify"]);
    known.line(&["session ended: close_notify"]);
    known.stop();
}

/// Carries datagrams between a client and the gateway until both are silent.
fn carry(client: &mut DtlsClient, socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        for datagram in client.take() {
            socket.send(&datagram).unwrap();
        }
        match receive(socket, &mut buffer) {
            Ok(len) => client.handle(&buffer[..len]),
            Err(_) if client.is_connected() => return,
            Err(_) => client.connect(),
        }
    }
}

#[test]
fn a_device_that_moves_with_its_connection_id_and_resumes_is_told_of() {
    let managed = start(Config::new());
    let mut trace = Tracing::start(&managed, &["dev3"]);
    let socket = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(managed.gateway.dtls_addr()).unwrap();
        socket.set_read_timeout(Some(ms(200))).unwrap();
        socket
    };
    let key = crate::support::gateway::psk_of("dev3");
    let config = ClientConfig {
        cid: Some(vec![7]),
        ..ClientConfig::psk("ECDHE-PSK-CHACHA20-POLY1305", "dev3", key.as_bytes())
    };
    let (before, after) = (socket(), socket());
    let mut client = DtlsClient::new(&config);
    client.connect();
    carry(&mut client, &before);
    trace.line(&["handshake ok: TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256, Connection ID"]);
    client.send(&[0x40, 0, 0, 1]);
    carry(&mut client, &after);
    let moved = trace.line(&["moved to this address"]);
    assert!(
        moved.contains(&after.local_addr().unwrap().to_string()),
        "{moved}"
    );
    trace.line(&[&after.local_addr().unwrap().to_string(), "--> CON mid=1"]);
    trace.line(&["<-- RST mid=1"]);
    let session = client.session();
    let mut again = DtlsClient::new(&ClientConfig {
        session: Some(session),
        ..config
    });
    again.connect();
    carry(&mut again, &socket());
    trace.line(&["resumed, Connection ID"]);
}

#[test]
fn libcoap_over_dtls_is_traced_and_the_trace_ends_by_itself() {
    let managed = start(Config::new());
    let mut trace = Tracing::start(&managed, &["dev2", "--for", "6", "--no-payload"]);
    let status = Command::new("coap-client-openssl")
        .args(["-B", "5", "-m", "post", "-e", "temperature", "-u", "dev2", "-k"])
        .arg(crate::support::gateway::psk_of("dev2"))
        .arg(format!(
            "coaps://{}/ps/room/1?p=hunter2",
            managed.gateway.dtls_addr()
        ))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    trace.line(&["handshake ok"]);
    let line = trace.line(&["/ps/room/1?p=***"]);
    assert!(line.ends_with("11 bytes"), "{line}");
    trace.line(&["session ended: close_notify"]);
    wait_until("the end of the trace", || {
        trace.child.try_wait().unwrap().is_some()
    });
    assert!(trace.child.wait().unwrap().success());
}

#[test]
fn a_reader_that_goes_away_ends_the_trace_at_the_workers() {
    let managed = start(Config::new());
    let body = json!({"target": "127.0.0.1", "payload": 0});
    let open = || {
        let mut stream = std::net::TcpStream::connect(managed.admin).unwrap();
        let body = body.to_string();
        std::io::Write::write_all(
            &mut stream,
            format!(
                "POST /api/v1/trace HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                managed.admin,
                body.len()
            )
            .as_bytes(),
        )
        .unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        (stream, String::from_utf8(head.to_vec()).unwrap())
    };
    let eight: Vec<_> = (0..8).map(|_| open()).collect();
    assert!(eight.iter().all(|(_, head)| head.ends_with("200")), "{eight:?}");
    assert_eq!(send(managed.admin, "POST", "/api/v1/trace", &body).status, 409);
    drop(eight);
    wait_until("places for traces", || open().1.ends_with("200"));
}

#[test]
fn only_admins_trace_and_nonsense_is_refused() {
    let config = Config::new().file(
        "tokens",
        "readonly:reader-0123456789ab\nadmin-token-0123456789ab\n",
    );
    let managed = crate::commands::start_with(config, "token_file = \"tokens\"");
    let trace = |token: &str, body: &Value| {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("Content-Type", "application/json"),
            ("Authorization", bearer.as_str()),
        ];
        let body = body.to_string();
        ask(managed.admin, "POST", "/api/v1/trace", &headers, body.as_bytes()).status
    };
    assert_eq!(trace("reader-0123456789ab", &json!({"target": "x"})), 403);
    assert_eq!(trace("nobody's-0123456789ab", &json!({"target": "x"})), 401);
    for nonsense in [
        json!({}),
        json!({"target": ""}),
        json!({"target": "x".repeat(257)}),
        json!({"target": "x", "payload": 1025}),
        json!({"target": "x", "seconds": 0}),
        json!({"target": "x", "seconds": 86_401}),
        json!({"target": "x", "more": 1}),
    ] {
        assert_eq!(trace("admin-token-0123456789ab", &nonsense), 400, "{nonsense}");
    }
    assert_eq!(
        trace("admin-token-0123456789ab", &json!({"target": "x", "seconds": 1})),
        200
    );
}

/// Whatever is said of what the operator wants to know: what it became on the MQTT side, how that went, and who forbade what.
#[test]
fn the_mqtt_side_of_a_publish_and_the_line_that_decided_are_told() {
    let acl = "pattern readwrite dev/%c/#\npattern read all/#\npattern deny dev/%c/secret\n";
    let config = Config::new()
        .coap("mountpoint = \"site/\"\n")
        .set("authorization", "acl_file = \"acl.txt\"\n")
        .file("acl.txt", acl);
    let managed = start(config);
    let mut trace = Tracing::start(&managed, &["m-3"]);
    let mut device = managed.gateway.client(Kind::Udp);
    device.observe("ps/all/#?c=m-3&qos=1");
    device.publish("ps/dev/m-3/t?c=m-3&qos=1&retain=1", "21.5");
    device.request(&Request::put("ps/dev/m-3/secret?c=m-3"));
    device.request(&Request::put("ps/elsewhere?c=m-3"));
    device.publish("ps/dev/other/t?c=other", "of another");

    trace.line(&["--- ACL: subscribe all/# allowed by line 2"]);
    trace.line(&["==> MQTT subscribe site/all/# qos=1"]);
    trace.line(&["<== MQTT subscribe site/all/# ok after", " ms"]);
    let address = device.local_addr().to_string();
    let judged = trace.line(&["--- ACL: publish dev/m-3/t allowed by line 1"]);
    assert!(judged.contains(&address) && judged.contains(" m-3 "), "{judged}");
    trace.line(&["==> MQTT publish site/dev/m-3/t qos=1 retain, 4 bytes"]);
    trace.line(&["<== MQTT publish site/dev/m-3/t ok after"]);
    trace.line(&["--- ACL: publish dev/m-3/secret denied by line 3"]);
    trace.line(&["--- ACL: publish elsewhere denied: no line matches"]);
    let mut operator = managed.gateway.client(Kind::Udp);
    let told = send(
        managed.admin,
        "POST",
        "/api/v1/publish",
        &json!({"topic": "site/all/news", "payload": "hi", "qos": 1}),
    );
    told.expect(204);
    trace.line(&["<== MQTT message site/all/news qos=1, 2 bytes"]);
    operator.publish("ps/dev/third/t?c=third", "x");
    let said = trace.stop();
    assert!(
        !said.contains("dev/other") && !said.contains("dev/third"),
        "{said}"
    );
    // What came before what.
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what} in {said}"));
    assert!(
        at("--> CON POST") < at("publish dev/m-3/t") && at("publish dev/m-3/t") < at("==> MQTT publish"),
        "{said}"
    );
}

#[test]
fn a_client_that_moved_to_another_address_is_followed_by_its_user_name() {
    let hash = portcullis::auth::users::hash_password(b"wonderland").unwrap();
    let managed = start(
        Config::new()
            .connection_mode()
            .set("authentication", "backend = \"file\"\nfile = \"users.txt\"\n")
            .file("users.txt", format!("alice:{}\n", hash.as_str())),
    );
    let mut trace = Tracing::start(&managed, &["alice"]);
    let mut first = managed.gateway.client(Kind::Udp);
    let create = Request::post("mqtt/connection?c=mm&u=alice&p=wonderland");
    let token = first.request(&create).expect(code::CREATED).text();
    for payload in ["one", "three", "six"] {
        // From another address each time, which another worker may serve.
        let mut moved = managed.gateway.client(Kind::Udp);
        moved.publish(&format!("ps/t?c=mm&t={token}"), payload);
        let address = moved.local_addr().to_string();
        trace.line(&["--> CON", &address, "/ps/t?c=mm&t=***", payload]);
        trace.line(&["<-- ACK 2.04", &address]);
    }
    let mut stranger = managed.gateway.client(Kind::Udp);
    let refused = stranger.request(&Request::post("ps/t?c=mm&t=AAAAAAAAAAAAAAAAAAAAAAAA"));
    assert_eq!(refused.code, code::UNAUTHORIZED);
    let said = trace.stop();
    assert!(!said.contains(&stranger.local_addr().to_string()), "{said}");
}
