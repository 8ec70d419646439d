//! aiocoap from PyPI: plain, through tinydtls, over TCP, TLS and WebSockets.

use std::process::Command;
use std::time::Duration;

use crate::support::{Config, Gateway, psk_of};
use crate::tool::{gateway, home, start};

fn script(arguments: &[&str]) {
    let mut command = Command::new(home().join("venv/bin/python"));
    command
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/interop/aiocoap_client.py"
        ))
        .args(arguments);
    let done = start(command, b"").wait(Duration::from_secs(60));
    assert_eq!(done.code, Some(0), "{}\n{}", done.text(), done.stderr);
    assert!(done.text().ends_with("all good\n"), "{done:?}");
}

#[test]
fn plain() {
    let gateway = gateway(Config::new());
    script(&[&format!("coap://127.0.0.1:{}", gateway.udp_addr().port())]);
    gateway.assert_serves();
}

#[test]
fn tcp() {
    let gateway = gateway(Config::new());
    script(&[&format!("coap+tcp://127.0.0.1:{}", gateway.udp_addr().port())]);
    gateway.assert_serves();
}

#[test]
fn web_sockets() {
    let gateway = Gateway::start(Config::new().tcp("websocket = true"));
    script(&[&format!("coap+ws://127.0.0.1:{}", gateway.udp_addr().port())]);
    gateway.metric_becomes("stream_accepted_total", &["transport=\"tcp\""], 1.0);
    gateway.assert_serves();
}

#[test]
fn tls_with_a_server_certificate() {
    let gateway = gateway(Config::new());
    let url = format!("coaps+tcp://localhost:{}", gateway.dtls_addr().port());
    script(&[&url, "--ca", gateway.path("ca.pem").to_str().unwrap()]);
    gateway.assert_serves();
}

#[test]
fn tinydtls_psk() {
    let gateway = gateway(Config::new());
    let url = format!("coaps://127.0.0.1:{}", gateway.dtls_addr().port());
    script(&[&url, "dev1", &psk_of("dev1")]);
    gateway.assert_serves();
}
