//! A device that is given a new key: both keys count until the older is removed, with every stack.

use std::process::Command;

use crate::support::{Config, Gateway, psk_of};
use crate::table::carry;
use crate::tool::{gateway, home, run};

const PROGRAMS: [&str; 2] = ["coap-client-openssl", "coap-client-gnutls"];

fn portcullis(gateway: &Gateway, arguments: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .args(arguments.split(' '))
        .arg("--config")
        .arg(gateway.path("portcullis.toml"));
    let done = run(command);
    assert_eq!(done.code, Some(0), "{arguments}: {done:?}");
    done.text()
}

/// Suites of a key alone.
const KEY_ALONE: &[&str] = &[
    "TLS-PSK-WITH-AES-128-CCM-8",
    "TLS-PSK-WITH-AES-256-GCM-SHA384",
    "TLS-PSK-WITH-CHACHA20-POLY1305-SHA256",
];

/// One with a key exchange.
const KEY_EXCHANGE: &[&str] = &["TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256"];

/// Who is let in with a key within so many handshakes.
fn let_in_within(
    handshakes: usize,
    gateway: &Gateway,
    key: &str,
    suites: &[&'static str],
) -> Vec<&'static str> {
    let port = gateway.dtls_addr().port().to_string();
    let ok = || gateway.metric("dtls_handshakes_total", &["result=\"ok\""]);
    let mut all = Vec::new();
    for program in PROGRAMS {
        let before = ok();
        let comes_in = |_| {
            let mut command = Command::new(program);
            command
                .args(["-B", "4", "-u", "dev1", "-k", key, "-m", "put", "-e", "x"])
                .arg(format!("coaps://127.0.0.1:{port}/ps/rotation"));
            run(command);
            ok() > before
        };
        if (0..handshakes).any(comes_in) {
            all.push(program);
        }
    }
    for suite in suites {
        let comes_in = |_| {
            let mut mbedtls = Command::new(home().join("mbedtls_client"));
            mbedtls.args(["127.0.0.1", &port, suite, "psk", "dev1", key]);
            carry(mbedtls).is_ok()
        };
        if (0..handshakes).any(comes_in) {
            all.push(suite);
        }
    }
    all
}

fn let_in(gateway: &Gateway, key: &str) -> Vec<&'static str> {
    let_in_within(1, gateway, key, KEY_ALONE)
}

#[test]
fn with_a_key_exchange_the_other_key_is_tried_at_the_next_handshake() {
    let gateway = gateway(Config::new().dtls("ciphers = \"ECDHE-PSK-CHACHA20-POLY1305\""));
    let old = psk_of("dev1");
    let comes_in = |key: &str| let_in_within(3, &gateway, key, KEY_EXCHANGE).len();
    assert_eq!(comes_in(&old), 3);
    let said = portcullis(&gateway, "psk add dev1 --another");
    let new = said.lines().find_map(|line| line.strip_prefix("key as text: "));
    let new = new.unwrap_or_else(|| panic!("{said}")).to_owned();
    assert!(gateway.reloaded());
    for key in [&old, &new, &old] {
        assert_eq!(comes_in(key), 3, "{key}");
    }
    portcullis(&gateway, "psk remove dev1 --older");
    assert!(gateway.reloaded());
    assert!(let_in_within(1, &gateway, &old, KEY_EXCHANGE).is_empty());
    assert_eq!(comes_in(&new), 3);
}

#[test]
fn two_keys_of_one_identity_let_every_stack_in_until_the_older_is_removed() {
    // GnuTLS, OpenSSL and Mbed TLS choose a suite with an exchange where they can, which tries the keys one after the other.
    let gateway = gateway(Config::new().dtls("ciphers = \"kPSK\""));
    let old = psk_of("dev1");
    assert_eq!(let_in(&gateway, &old).len(), 5);
    let said = portcullis(&gateway, "psk add dev1 --another");
    let new = said.lines().find_map(|line| line.strip_prefix("key as text: "));
    let new = new.unwrap_or_else(|| panic!("{said}")).to_owned();
    assert!(let_in(&gateway, &new).is_empty(), "not before a reload");
    assert!(gateway.reloaded());
    assert_eq!(let_in(&gateway, &old).len(), 5);
    assert_eq!(let_in(&gateway, &new).len(), 5);
    let listed = portcullis(&gateway, "psk list --json");
    assert!(listed.contains("\"keys\": 2"), "{listed}");
    portcullis(&gateway, "psk remove dev1 --older");
    assert!(gateway.reloaded());
    assert!(let_in(&gateway, &old).is_empty());
    assert_eq!(let_in(&gateway, &new).len(), 5);
}
