//! `bench` and `bugreport`, and `doctor` while the file on disk is broken.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::gateway::hex;
use crate::support::{Client, Config, Gateway, Request, gateway};

fn portcullis(gateway: &Gateway, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(gateway.directory())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[track_caller]
fn bench(gateway: &Gateway, arguments: &[&str]) -> Value {
    let output = portcullis(
        gateway,
        &[&["bench", "--json", "--config", "portcullis.toml"], arguments].concat(),
    );
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_run_of_devices_is_measured_and_loses_nothing() {
    let gateway = Gateway::start(Config::new());
    let plain = bench(
        &gateway,
        &["--duration", "1s", "--clients", "3", "--observers", "6"],
    );
    assert_eq!(plain["lost"], 0, "{plain}");
    let answered = plain["answered"].as_u64().unwrap();
    assert_eq!(plain["answers"]["2.04"], answered, "{plain}");
    assert_eq!(plain["latency"]["count"], answered, "{plain}");
    assert_eq!(plain["notifications"]["expected"], 2 * answered, "{plain}");
    // Its observers have ended what they asked for.
    gateway.metric_becomes("subscriptions", &[], 0.0);
    let dtls = bench(
        &gateway,
        &[
            "--dtls",
            "--identity",
            "dev2",
            "--duration",
            "1s",
            "--clients",
            "2",
            "--rate",
            "20",
        ],
    );
    assert!(dtls["lost"] == 0 && dtls["opened"]["count"] == 2, "{dtls}");
    // As fast as it was asked to, at most.
    assert!(dtls["answered"].as_u64().unwrap() <= 22, "{dtls}");
    assert!(gateway.metric("publishes_total", &["result=\"accepted\""]) >= 2.0);
    let nobody = portcullis(
        &gateway,
        &[
            "bench",
            "--dtls",
            "--identity",
            "dev-none",
            "--config",
            "portcullis.toml",
        ],
    );
    assert!(
        nobody.status.code() == Some(67) && said(&nobody).contains("psk add"),
        "{}",
        said(&nobody)
    );
    gateway.write("other.txt", b"dev1:00112233445566778899aabbccddeeff\n");
    let url = format!("coaps://{}", gateway.dtls_addr());
    let wrong = portcullis(
        &gateway,
        &[
            "bench",
            &url,
            "--key-file",
            "other.txt",
            "--duration",
            "1",
            "--clients",
            "1",
        ],
    );
    assert!(
        wrong.status.code() == Some(69) && said(&wrong).contains("handshake"),
        "{}",
        said(&wrong)
    );
    gateway.assert_serves();
}

#[test]
fn devices_of_a_run_make_connections_and_log_in_where_that_is_asked() {
    let hash = portcullis::auth::users::hash_password(b"pass-of-ann").unwrap();
    let config = Config::new()
        .connection_mode()
        .set("authentication", "backend = \"file\"\nfile = \"users.txt\"")
        .file("users.txt", format!("ann:{hash}\n"))
        .file("password.txt", "pass-of-ann\n");
    let gateway = Gateway::start(config);
    let login = [
        "--connect",
        "--username",
        "ann",
        "--password-file",
        "password.txt",
        "--clients",
        "2",
        "--duration",
        "1",
    ];
    let run = bench(&gateway, &[&login[..], &["--observers", "3"]].concat());
    assert!(run["lost"] == 0 && run["failed"] == 0, "{run}");
    assert!(!run.to_string().contains("pass-of-ann"));
    assert_eq!(gateway.metric("connections_total", &["result=\"created\""]), 5.0);
    let without = portcullis(
        &gateway,
        &[
            "bench",
            "--clients",
            "1",
            "--duration",
            "1",
            "--config",
            "portcullis.toml",
            "--json",
        ],
    );
    let without: Value = serde_json::from_slice(&without.stdout).unwrap();
    assert!(
        without["answers"]["2.04"].is_null() && without["answers"]["4.00"].as_u64() > Some(0),
        "{without}"
    );
}

/// No token and no key of the state directory is in the report.
#[track_caller]
fn holds_nothing_of_the_state(gateway: &Gateway, text: &str) {
    let state = std::fs::read_dir(gateway.path("state")).unwrap();
    for file in state
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
    {
        let secret = std::fs::read_to_string(&file).unwrap_or_default();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains("token") || name.ends_with(".key") {
            assert!(
                secret.trim().is_empty() || !text.contains(secret.trim()),
                "{name} is in the report"
            );
        }
    }
}

#[test]
fn a_bug_report_holds_no_key_no_password_and_no_token() {
    let hash = portcullis::auth::users::hash_password(b"the-word-of-bob").unwrap();
    let config = Config::new()
        .set("admin", "socket = \"admin.sock\"")
        .set("listeners.udp.other", "bind = \"127.0.0.1:0\"\n[listeners.udp.other.authentication]\nbackend = \"file\"\nfile = \"users.txt\"")
        .set(
            "authentication.http",
            "url = \"http://127.0.0.1:9/x?key=query-secret\"\nheaders = { \"x-api-key\" = \"header-secret\" }\ntoken_file = \"bearer.txt\"",
        )
        .file("users.txt", format!("bob:{hash}\n"))
        .file("bearer.txt", "token-of-the-service\n");
    let gateway = Gateway::start(config);
    let key = gateway::psk_of("dev1");
    // A device that says its own secrets where everybody reads them.
    let mut client = Client::udp(gateway.udp_addr());
    client.request(&Request::post(&format!(
        "mqtt/connection?c={key}&p=the-word-of-bob"
    )));
    client.publish("ps/t", &key);
    let output = portcullis(
        &gateway,
        &[
            "bugreport",
            "--config",
            "portcullis.toml",
            "--output",
            "report.tar",
        ],
    );
    assert!(output.status.success(), "{}", said(&output));
    let tar = std::fs::read(gateway.path("report.tar")).unwrap();
    let text = String::from_utf8_lossy(&tar);
    for secret in [
        key.as_str(),
        &hex(key.as_bytes()),
        &gateway::psk_of("dev4"),
        &hex(gateway::psk_of("dev3").as_bytes()),
        &hash,
        "the-word-of-bob",
        "token-of-the-service",
        "header-secret",
        "query-secret",
    ] {
        assert!(!text.contains(secret), "{secret} is in the report");
    }
    holds_nothing_of_the_state(&gateway, &text);
    for name in [
        "version.txt",
        "system.txt",
        "doctor.json",
        "in-force.json",
        "status.json",
        "metrics.json",
        "events.jsonl",
    ] {
        assert!(
            text.contains(&format!("portcullis-bugreport/{name}")),
            "no {name}"
        );
    }
    assert!(
        text.contains("\"kind\": \"connected\"") || text.contains("\"kind\":\"connected\""),
        "no event"
    );
    assert!(text.contains("coap.heartbeat") && text.contains("OpenSSL"));
    // What is there is not overwritten, and without a gateway there is a report all the same.
    let again = portcullis(
        &gateway,
        &[
            "bugreport",
            "--config",
            "portcullis.toml",
            "--output",
            "report.tar",
        ],
    );
    assert_eq!(again.status.code(), Some(73), "{}", said(&again));
    drop(gateway);
}

#[test]
fn the_doctor_reaches_the_gateway_that_runs_while_its_file_is_broken() {
    let gateway = Gateway::start(Config::new().set("admin", "socket = \"admin.sock\""));
    let whole = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    gateway.write(
        "portcullis.toml",
        format!("{whole}\n[coap\nheartbeat = 8MiB\n").as_bytes(),
    );
    let output = portcullis(&gateway, &["doctor", "--config", "portcullis.toml"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains("problem  configuration") && text.contains("serving, "),
        "{text}"
    );
    assert!(
        !text.contains("embedded"),
        "it speaks of a broker that the file does not say: {text}"
    );
    gateway.write("portcullis.toml", whole.as_bytes());
    assert!(said(&portcullis(&gateway, &["doctor", "--config", "portcullis.toml"])).contains("embedded"));
}

#[test]
fn the_doctor_names_the_key_of_a_backend_that_cannot_be_asked() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (lines, key) in [
        (
            format!("backend = \"http\"\n[authentication.http]\nurl = \"http://{unused}/auth\""),
            "authentication.http.url",
        ),
        (
            format!("backend = \"jwt\"\n[authentication.jwt]\njwks_url = \"http://{unused}/keys\""),
            "authentication.jwt.jwks_url",
        ),
        (
            format!("backend = \"redis\"\n[authentication.redis]\nserver = \"{unused}\""),
            "authentication.redis.server",
        ),
        (
            format!("backend = \"postgresql\"\n[authentication.postgresql]\nserver = \"{unused}\""),
            "authentication.postgresql.server",
        ),
        (
            format!("backend = \"mysql\"\n[authentication.mysql]\nserver = \"{unused}\""),
            "authentication.mysql.server",
        ),
        (
            format!("backend = \"ldap\"\n[authentication.ldap]\nserver = \"{unused}\""),
            "authentication.ldap.server",
        ),
    ] {
        let gateway = Gateway::prepare(&Config::new().set("authentication", &lines));
        let output = portcullis(&gateway, &["doctor", "--config", "portcullis.toml"]);
        let text = said(&output);
        assert!(
            output.status.code() == Some(78) && text.contains(key),
            "{key}: {text}"
        );
        assert!(!text.contains("os error"), "{text}");
    }
}
