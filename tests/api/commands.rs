//! The command line against the built gateway, with a device on DTLS and one on UDP.

use std::net::SocketAddr;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::http::{TOKEN, delete, get, put, send};
use crate::support::coap::{Message, code, option, typ};
use crate::support::pki::Pki;
use crate::support::{Client, Config, Gateway, Kind, Request, ms, ports, wait_until};

/// The built gateway with its management interface.
pub struct Managed {
    pub gateway: Gateway,
    pub admin: SocketAddr,
    _port: ports::Port,
}

pub fn start(config: Config) -> Managed {
    start_with(config, "")
}

/// The same with more lines for `[admin]`.
pub fn start_with(config: Config, lines: &str) -> Managed {
    let port = ports::reserve();
    let admin = SocketAddr::from(([127, 0, 0, 1], port.number));
    let config = config.set("admin", &format!("bind = \"{admin}\"\n{lines}"));
    let mut gateway = Gateway::prepare(&config);
    std::fs::create_dir(gateway.path("state")).unwrap();
    gateway.write("state/admin.token", TOKEN.as_bytes());
    gateway.launch();
    // It is ready for devices before it is for operators.
    wait_until("the management interface", || {
        std::net::TcpStream::connect(admin).is_ok()
    });
    Managed {
        gateway,
        admin,
        _port: port,
    }
}

pub fn run(managed: &Managed, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .arg("--config")
        .arg(managed.gateway.path("portcullis.toml"))
        .output()
        .unwrap()
}

#[track_caller]
pub fn said(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{output:?}");
    text
}

#[track_caller]
pub fn fails(output: &Output, exit: i32, with: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{output:?}");
    assert!(text.contains(with), "{text}");
}

/// A device that observes and stays.
fn observer(managed: &Managed, kind: Kind, id: &str) -> Client {
    let mut client = managed.gateway.client(kind);
    client.observe(&format!("ps/commands/+?clientid={id}&qos=1"));
    client
}

#[test]
fn clients_are_listed_shown_and_kicked() {
    let managed = start(Config::new().dtls("identity = \"clientid\""));
    let _udp = observer(&managed, Kind::Udp, "over-udp");
    let mut dtls = observer(&managed, Kind::Dtls, "dev1");
    let list = said(&run(&managed, &["clients", "list"]));
    let line = list.lines().find(|line| line.starts_with("dev1")).unwrap();
    assert!(
        line.contains("dtls:default") && line.contains("PSK_WITH_AES_128"),
        "{list}"
    );
    assert!(list.lines().any(|line| line.starts_with("over-udp")), "{list}");
    let parsed: Value = serde_json::from_str(&said(&run(&managed, &["clients", "list", "--json"]))).unwrap();
    assert_eq!(parsed.as_array().unwrap().len(), 2);
    let one = said(&run(
        &managed,
        &[
            "clients",
            "list",
            "--transport",
            "udp",
            "--like",
            "over",
            "--limit",
            "5",
        ],
    ));
    assert_eq!(one.lines().count(), 2, "{one}");
    let shown = said(&run(&managed, &["clients", "show", "dev1"]));
    assert!(
        shown.contains("commands/+") && shown.contains("dev1 (psk)"),
        "{shown}"
    );
    let shown: Value =
        serde_json::from_str(&said(&run(&managed, &["clients", "show", "dev1", "--json"]))).unwrap();
    assert_eq!(shown["observations"][0]["topic"], "commands/+");
    said(&run(&managed, &["clients", "kick", "dev1"]));
    wait_until("close_notify at the kicked device", || dtls.ended().is_some());
    fails(&run(&managed, &["clients", "kick", "dev1"]), 67, "no client");
    fails(&run(&managed, &["clients", "show", "nobody"]), 67, "nobody");
}

#[test]
fn status_and_top_tell_what_goes_on() {
    let managed = start(Config::new());
    let mut client = observer(&managed, Kind::Dtls, "dev1");
    let text = said(&run(&managed, &["status"]));
    assert!(
        text.contains("serving") && text.contains("1 DTLS") && text.contains("embedded"),
        "{text}"
    );
    let status: Value = serde_json::from_str(&said(&run(&managed, &["status", "--json"]))).unwrap();
    assert_eq!(
        (&status["sessions"]["dtls"], &status["subscriptions"]),
        (&json!(1), &json!(1))
    );
    client.publish("ps/t", "1");
    let top = said(&run(&managed, &["top", "--once", "--interval", "1"]));
    assert!(
        top.contains("requests") && top.contains("1 DTLS") && !top.contains('\x1b'),
        "{top}"
    );
    let top: Value = serde_json::from_str(&said(&run(
        &managed,
        &["top", "--once", "--interval", "1", "--json"],
    )))
    .unwrap();
    assert!(top["per_second"]["requests"].is_number(), "{top}");
}

#[test]
fn watch_says_who_comes_and_goes_however_short_they_stay() {
    use std::io::{BufRead as _, BufReader};
    let managed = start(Config::new());
    let mut watch = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args([
            "clients",
            "watch",
            "--json",
            "--last",
            "1000",
            "--listener",
            "default",
            "--config",
        ])
        .arg(managed.gateway.path("portcullis.toml"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    for _ in 0..3 {
        let mut client = observer(&managed, Kind::Dtls, "seen");
        client.request(&Request::put("ps/t").payload("1"));
        client.close();
        let (came, gone) = (next(), next());
        assert_eq!(
            (&came["kind"], &came["transport"]),
            (&json!("connected"), &json!("dtls"))
        );
        assert_eq!(
            (&gone["kind"], &gone["reason"]),
            (&json!("disconnected"), &json!("close_notify"))
        );
        assert_eq!(came["identity"], gone["identity"]);
        assert!(
            came["identity"].is_string() && came["time"].as_str() <= gone["time"].as_str(),
            "{came} {gone}"
        );
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn tokens_and_certificates_of_the_configuration_are_used() {
    let pki = Pki::new();
    let config = Config::new()
        .file(
            "tokens",
            "readonly:reader-0123456789ab\nadmin-token-0123456789ab\n",
        )
        .file("mine", "admin-token-0123456789ab\n")
        .file("admin.pem", pki.server.cert_pem())
        .file("admin.key", pki.server.key_pem())
        .file("ca.pem", pki.ca.cert_pem())
        .set(
            "admin",
            "token_file = \"tokens\"\ncert_file = \"admin.pem\"\nkey_file = \"admin.key\"",
        );
    let managed = start(config);
    said(&run(&managed, &["status"]));
    let _client = observer(&managed, Kind::Udp, "one");
    said(&run(&managed, &["clients", "kick", "one"]));
    let url = format!("https://{}", managed.admin);
    let with = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["status", "--url", &url]).args(more);
        command.output().unwrap()
    };
    let (mine, ca) = (managed.gateway.path("mine"), managed.gateway.path("ca.pem"));
    let (mine, ca) = (mine.to_str().unwrap(), ca.to_str().unwrap());
    said(&with(&["--token-file", mine, "--ca-file", ca]));
    fails(&with(&["--ca-file", ca]), 77, "bearer token");
    fails(&with(&["--token-file", mine]), 69, "certificate verify failed");
    // The file of the configuration holds hashes by now, and those let nobody in.
    let tokens = std::fs::read_to_string(managed.gateway.path("tokens")).unwrap();
    assert!(
        tokens.starts_with("readonly-1 readonly sha256:") && !tokens.contains("0123456789ab"),
        "{tokens}"
    );
    let tokens = managed.gateway.path("tokens");
    let hashes = with(&["--token-file", tokens.to_str().unwrap(), "--ca-file", ca]);
    fails(&hashes, 65, "no token in the clear");
    // Another certificate than the one of the configuration is someone else.
    managed.gateway.write("admin.pem", &Pki::new().server.cert_pem());
    fails(
        &run(&managed, &["status", "--token-file", mine]),
        69,
        "another certificate",
    );
    said(&run(&managed, &["status"]));
}

#[test]
fn without_a_gateway_the_commands_say_so() {
    let port = ports::reserve();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["status", "--url", &format!("http://127.0.0.1:{}", port.number)])
        .output()
        .unwrap();
    fails(&output, 69, "no gateway answers");
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["status", "--url", "127.0.0.1"])
        .output()
        .unwrap();
    fails(&output, 64, "http://HOST:PORT");
}

#[test]
fn the_doctor_tells_of_a_broker_that_takes_connections_and_says_nothing() {
    let broker = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("url = \"mqtt://{}\"", broker.local_addr().unwrap());
    let managed = start(Config::new().set("broker", &url));
    let output = run(&managed, &["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    let wanted = |words: &str| {
        text.lines()
            .any(|line| line.contains("broker") && line.contains(words))
    };
    assert!(
        wanted("no answer within") && wanted("the gateway is not connected to it"),
        "{text}"
    );
}

#[test]
fn the_doctor_finds_what_is_wrong() {
    let managed = start(Config::new());
    let text = said(&run(&managed, &["doctor"]));
    for words in ["AES-128-CCM-8", "psk.txt", "embedded", "state/admin.sock"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    managed.gateway.chmod("psk.txt", 0o644);
    let output = run(&managed, &["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(78));
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bad: Vec<&Value> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["verdict"] == "problem")
        .collect();
    assert!(
        bad.iter()
            .any(|finding| finding["message"].as_str().unwrap().contains("chmod 600")),
        "{findings}"
    );
}

#[test]
fn the_built_gateway_does_what_the_api_says() {
    let managed = start(
        Config::new()
            .dtls("identity = \"clientid\"")
            .set("node", "name = \"built\""),
    );
    let mut client = observer(&managed, Kind::Dtls, "dev1");
    let shown = get(managed.admin, "/api/v1/clients/dev1").expect(200).json();
    assert_eq!(shown["identity"], json!({"name": "dev1", "proof": "psk"}));
    assert!(shown["dtls"]["cipher"].as_str().unwrap().starts_with("TLS_"));
    // A request to the device, through DTLS and back.
    let device = std::thread::spawn(move || {
        let request = client.recv(ms(5000)).unwrap();
        let path = request
            .options
            .iter()
            .find(|(number, _)| *number == option::URI_PATH);
        assert_eq!(path.unwrap().1, b"lamp");
        let mut answer = Message::empty(typ::ACK, request.id);
        answer.code = code::CONTENT;
        answer.token = request.token.clone();
        answer.payload = b"on".to_vec();
        client.send(&answer);
        client
    });
    let body = json!({"method": "get", "path": "/lamp"});
    let said = send(managed.admin, "POST", "/api/v1/clients/dev1/request", &body)
        .expect(200)
        .json();
    assert_eq!((&said["code"], &said["payload"]), (&json!("2.05"), &json!("on")));
    let mut client = device.join().unwrap();
    // A key that is taken away ends its session, one that is given lets in.
    send(
        managed.admin,
        "POST",
        "/api/v1/psk",
        &json!({"identity": "new", "key": "6b6579"}),
    )
    .expect(201);
    let options = crate::support::dtls::Options::psk("new", b"key");
    let mut fresh = Client::dtls(managed.gateway.dtls_addr(), &options);
    fresh.publish("ps/t", "1");
    delete(managed.admin, "/api/v1/psk/dev1").expect(204);
    wait_until("the end of the session", || client.ended().is_some());
    delete(managed.admin, "/api/v1/psk/new").expect(204);
    // A listener that is off says nothing.
    let mut udp = managed.gateway.client(Kind::Udp);
    udp.publish("ps/t", "1");
    put(managed.admin, "/api/v1/listeners/udp/default/enable/false").expect(200);
    assert!(udp.try_request(&Request::get("ps/t"), ms(400)).is_none());
    put(managed.admin, "/api/v1/listeners/udp/default/enable/true").expect(200);
    udp.publish("ps/t", "2");
    // What a reload does is done at once, what it does not is named.
    let patch = json!({"node": {"name": "other"}, "limits": {"requests_per_second": 9}});
    let report = send(managed.admin, "PUT", "/api/v1/config", &patch)
        .expect(200)
        .json();
    assert_eq!(report["restart_required"], json!(["node.name"]));
    assert_eq!(
        get(managed.admin, "/api/v1/config").json()["limits"]["requests_per_second"],
        9
    );
    managed.gateway.assert_serves();
}
