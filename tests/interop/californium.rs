//! Californium's client (Scandium), which LwM2M clients of Leshan speak with: the third table of `docs/interop.md`.
//!
//! It comes from Maven, so `make test-peers` runs it, and `make test` does not.

use std::fmt::Write as _;
use std::process::Command;

use openssl::sha::sha256;

use crate::support::gateway::hex;
use crate::support::pki::Pki;
use crate::support::{Config, Gateway, psk_of};
use crate::table::write_page;
use crate::tool::{home, start};
use std::time::Duration;

/// What it is told, and how many handshakes its three publishes need: it resumes by session ids only, which there are none of.
struct Trial {
    what: &'static str,
    suite: &'static str,
    /// Bytes of its own Connection ID; -1 offers none.
    cid: i8,
    proof: &'static [&'static str],
}

const fn trial(what: &'static str, suite: &'static str, cid: i8, proof: &'static [&'static str]) -> Trial {
    Trial {
        what,
        suite,
        cid,
        proof,
    }
}

const PSK: &[&str] = &["psk", "dev1"];
const SERVER: &[&str] = &["server", "ca.pem"];
const MUTUAL: &[&str] = &["mutual", "ca.pem", "own.pem"];

const TRIALS: &[Trial] = &[
    trial("PSK", "TLS_PSK_WITH_AES_128_CCM_8", -1, PSK),
    trial("PSK", "TLS_PSK_WITH_AES_128_GCM_SHA256", -1, PSK),
    trial("PSK", "TLS_PSK_WITH_AES_256_CCM_8", -1, PSK),
    trial(
        "PSK, as Leshan's client: takes Connection IDs, wants none",
        "TLS_PSK_WITH_AES_128_CCM_8",
        0,
        PSK,
    ),
    trial(
        "PSK, Connection ID of 6 bytes",
        "TLS_PSK_WITH_AES_128_CCM_8",
        6,
        PSK,
    ),
    trial(
        "PSK, with `legacy_cbc`",
        "TLS_PSK_WITH_AES_128_CBC_SHA256",
        6,
        PSK,
    ),
    trial(
        "PSK, with `legacy_cbc`",
        "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256",
        -1,
        PSK,
    ),
    trial(
        "server certificate",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
        6,
        SERVER,
    ),
    trial(
        "certificates both ways",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        -1,
        MUTUAL,
    ),
    trial(
        "certificates both ways, with `legacy_cbc`",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        -1,
        MUTUAL,
    ),
];

/// What it says after its three publishes.
fn publishes(gateway: &Gateway, trial: &Trial) -> Result<(), String> {
    let place = home().join("californium");
    let class_path = format!("{0}:{0}/lib/*", place.display());
    let mut command = Command::new("java");
    command
        .current_dir(gateway.directory())
        .args(["-cp", &class_path, "CaliforniumClient"])
        .arg(format!("coaps://127.0.0.1:{}/ps/t", gateway.dtls_addr().port()))
        .args([trial.suite, &trial.cid.to_string()])
        .args(trial.proof);
    if trial.proof == PSK {
        command.arg(psk_of("dev1"));
    }
    let done = start(command, b"").wait(Duration::from_secs(120));
    match done.text().as_str() {
        "2.04\n2.04\n2.04\n" => Ok(()),
        said => Err(format!("{said}{}", done.stderr)),
    }
}

fn gateway(pki: &Pki, lines: &str) -> Gateway {
    let own = [pki.client.key_pem(), pki.client.cert_pem()].concat();
    let spki = pki.client.key.public_key_to_der().unwrap();
    let config = pki
        .install(Config::new())
        .file("own.pem", own)
        .file("rpk.txt", format!("raw-1:{}\n", hex(&sha256(&spki))))
        .dtls(lines);
    Gateway::start(config)
}

#[test]
#[ignore = "needs Maven's packages: make test-peers"]
fn californium_is_served_and_the_table_says_so() {
    let pki = Pki::new();
    let gateway = gateway(&pki, "legacy_cbc = true\nverify = \"optional\"");
    let mut table = String::from("| Californium with | suite | result |\n|---|---|---|\n");
    let mut failed = Vec::new();
    for trial in TRIALS {
        let before = gateway.metric("dtls_handshakes_total", &["result=\"ok\""]);
        let result = publishes(&gateway, trial);
        let handshakes = gateway.metric("dtls_handshakes_total", &["result=\"ok\""]) - before;
        let word = if result.is_ok() && handshakes == 2.0 {
            "ok"
        } else {
            "FAILED"
        };
        if word != "ok" {
            failed.push(format!(
                "{} {}: {result:?}, {handshakes} handshakes",
                trial.what, trial.suite
            ));
        }
        writeln!(table, "| {} | `{}` | {word} |", trial.what, trial.suite).unwrap();
    }
    assert!(failed.is_empty(), "{failed:#?}");
    gateway.assert_serves();
    write_page("californium", &table);
}

/// Where OpenSSL has raw public keys it is known by its own; elsewhere it is told so by an alert, and not left waiting.
#[test]
#[ignore = "needs Maven's packages: make test-peers"]
fn californium_with_a_raw_public_key_is_known_or_refused() {
    let pki = Pki::new();
    let raw = trial(
        "raw public keys",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
        -1,
        &["raw", "own.pem"],
    );
    if cfg!(openssl_rpk) {
        let gateway = gateway(&pki, "rpk_file = \"rpk.txt\"\nidentity = \"clientid\"");
        publishes(&gateway, &raw).unwrap();
        assert_eq!(gateway.metric("dtls_unidentified_total", &[]), 0.0);
    } else {
        let gateway = gateway(&pki, "");
        assert!(publishes(&gateway, &raw).is_err());
        let refused = &["direction=\"sent\"", "description=\"unsupported_certificate\""];
        assert!(gateway.metric("dtls_alerts_total", refused) >= 1.0);
    }
}
