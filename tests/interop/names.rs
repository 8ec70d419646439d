//! Clients that ask for a server by name, and check that it is the one.

use std::process::Command;

use crate::support::certs::{Recipe, key};
use crate::support::gateway::hex;
use crate::support::pki::Pki;
use crate::support::{Config, Gateway, psk_of};
use crate::table::carry;

/// A gateway with certificates of two kinds and for three names.
fn gateway() -> Gateway {
    let pki = Pki::new();
    let of = |name: &str, names: &str, kind: &str| {
        Recipe {
            names,
            key: key(kind),
            ..Recipe::server(name)
        }
        .make(Some(&pki.ca))
    };
    let (rsa, other) = (
        of("rsa", "DNS:localhost,DNS:old.example", "rsa"),
        of("other", "DNS:*.other.example", "p384"),
    );
    let config = pki
        .install(Config::new())
        .file("rsa.pem", rsa.cert_pem())
        .file("rsa.key", rsa.key_pem())
        .file("other.pem", other.cert_pem())
        .file("other.key", other.key_pem())
        .dtls(
            r#"certificates = [
                { cert_file = "rsa.pem", key_file = "rsa.key" },
                { cert_file = "other.pem", key_file = "other.key" },
            ]"#,
        );
    Gateway::start(config)
}

#[test]
fn a_client_is_shown_the_certificate_that_it_asks_for_and_can_check() {
    let gateway = gateway();
    let port = gateway.dtls_addr().port().to_string();
    let trials = [
        ("localhost", "ECDHE-ECDSA-AES128-GCM-SHA256", "+ECDHE-ECDSA"),
        ("localhost", "ECDHE-RSA-AES128-GCM-SHA256", "+ECDHE-RSA"),
        (
            "old.example",
            "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256",
            "+ECDHE-RSA:+ECDHE-ECDSA",
        ),
        ("a.other.example", "ECDHE-ECDSA-AES128-GCM-SHA256", "+ECDHE-ECDSA"),
    ];
    for (name, suites, exchange) in trials {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(gateway.directory()).args([
            "s_client",
            "-dtls1_2",
            "-quiet",
            "-connect",
            &format!("127.0.0.1:{port}"),
            "-servername",
            name,
            "-verify_hostname",
            name,
            "-verify_return_error",
            "-CAfile",
            "ca.pem",
            "-cipher",
            suites,
        ]);
        assert_eq!(carry(openssl), Ok(()), "{name} {suites}");
        let mut gnutls = Command::new("gnutls-cli");
        let priority = format!("NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:{exchange}");
        gnutls.current_dir(gateway.directory()).args([
            "--udp",
            "-p",
            &port,
            "--priority",
            &priority,
            "--x509cafile",
            "ca.pem",
            "--sni-hostname",
            name,
            "--verify-hostname",
            name,
            "127.0.0.1",
        ]);
        assert_eq!(carry(gnutls), Ok(()), "{name} {exchange}");
    }
    // A key needs none of them.
    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_client",
        "-dtls1_2",
        "-quiet",
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-servername",
        "old.example",
        "-psk",
        &hex(psk_of("dev1").as_bytes()),
        "-psk_identity",
        "dev1",
    ]);
    assert_eq!(carry(openssl), Ok(()));
}
