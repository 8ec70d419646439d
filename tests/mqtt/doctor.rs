//! What `doctor` finds out about a broker: it connects as the gateway does, and names the key to mend.

use std::path::Path;
use std::process::Command;

use crate::harness::*;
use crate::transport::write_pki;

/// The verdict on the broker, and what is said of it, with these lines in `[broker]`.
fn doctor(directory: &Path, broker: &str) -> (String, String) {
    let state = directory.join("state");
    let text = format!(
        "[node]\nstate_dir = {:?}\n[listeners.udp.default]\nbind = \"127.0.0.1:0\"\n[broker]\n{broker}\n[admin]\nbind = \"\"\n",
        state.display().to_string()
    );
    std::fs::write(directory.join("portcullis.toml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["doctor", "--json", "--config"])
        .arg(directory.join("portcullis.toml"))
        .output()
        .unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let about = |finding: &&serde_json::Value| finding["about"] == "broker";
    let found = findings.as_array().unwrap().iter().find(about).unwrap();
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("verdict"), text("message"))
}

#[test]
fn the_doctor_does_not_call_a_broker_good_that_refuses_the_password() {
    let mosquitto = Mosquitto::prepared("allow_anonymous false\npassword_file DIR/users", |directory| {
        let made = Command::new("mosquitto_passwd")
            .args([
                "-b",
                "-c",
                directory.join("users").to_str().unwrap(),
                "gw",
                "right",
            ])
            .status()
            .unwrap();
        assert!(made.success());
    });
    let directory = tempfile::tempdir().unwrap();
    let secret = |text: &str| {
        let path = directory.path().join("password");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    for protocol in [4, 5] {
        let broker = format!(
            "url = \"mqtt://127.0.0.1:{}\"\nprotocol = {protocol}\nusername = \"gw\"\npassword_file = \"password\"",
            mosquitto.port
        );
        secret("right\n");
        let (verdict, message) = doctor(directory.path(), &broker);
        assert!(
            verdict == "ok" && message.contains("lets the gateway in"),
            "{message}"
        );
        secret("wrong-and-hushed\n");
        let (verdict, message) = doctor(directory.path(), &broker);
        assert_eq!(verdict, "problem", "{message}");
        assert!(
            message.contains("broker.password_file") && !message.contains("hushed"),
            "{message}"
        );
    }
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (verdict, message) = doctor(directory.path(), &format!("url = \"mqtt://{unused}\""));
    assert!(
        verdict == "problem" && message.contains("refuses connections") && message.contains("broker.url"),
        "{message}"
    );
    assert!(!message.contains("os error"), "{message}");
}

#[test]
fn the_doctor_does_not_call_a_broker_good_whose_certificate_is_not_trusted() {
    let tls = "allow_anonymous true\ncafile DIR/ca.pem\ncertfile DIR/server.pem\nkeyfile DIR/server.key";
    let mosquitto = Mosquitto::prepared(tls, write_pki);
    let plain = Mosquitto::start();
    let directory = tempfile::tempdir().unwrap();
    let broker = |host: &str, port: u16, ca: &str| {
        let ca = mosquitto.directory.path().join(ca);
        format!(
            "url = \"mqtts://{host}:{port}\"\nca_file = {:?}",
            ca.display().to_string()
        )
    };
    let (verdict, message) = doctor(directory.path(), &broker("localhost", mosquitto.port, "ca.pem"));
    assert_eq!(verdict, "ok", "{message}");
    for (lines, words) in [
        (
            broker("localhost", mosquitto.port, "other.pem"),
            "not trusted by broker.ca_file",
        ),
        (
            broker("localhost", plain.port, "ca.pem"),
            "is the port of broker.url one for mqtts?",
        ),
    ] {
        let (verdict, message) = doctor(directory.path(), &lines);
        assert_eq!(verdict, "problem", "{message}");
        assert!(message.contains(words), "{message}");
        assert!(
            !message.contains("SSL routines") && !message.contains(".c:"),
            "{message}"
        );
    }
}
