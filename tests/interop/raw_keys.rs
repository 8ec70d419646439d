//! Devices with raw public keys (RFC 7250) only, where the OpenSSL of the gateway has them.

use std::process::Command;

use openssl::sha::sha256;

use crate::support::gateway::hex;
use crate::support::pki::Pki;
use crate::support::{Config, Gateway};
use crate::table::carry;

#[test]
fn gnutls_is_known_by_a_raw_key_and_sees_the_gateways() {
    let pki = Pki::new();
    let key = &pki.client.key;
    let fingerprint = hex(&sha256(&key.public_key_to_der().unwrap()));
    let config = pki
        .install(Config::new())
        .file("rpk.txt", format!("# devices\nraw-7:{fingerprint}\n"))
        .file("device.key", pki.client.key_pem())
        .file("device.pub", key.public_key_to_pem().unwrap())
        .dtls("rpk_file = \"rpk.txt\"\nidentity = \"clientid\"\npsk_file = \"\"")
        .connection_mode();
    let gateway = Gateway::start(config);
    let port = gateway.dtls_addr().port().to_string();
    for suite in ["+AES-128-CCM-8", "+AES-128-GCM"] {
        let mut gnutls = Command::new("gnutls-cli");
        let priority = format!(
            "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+ECDHE-ECDSA:-CIPHER-ALL:{suite}:-CTYPE-ALL:+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK"
        );
        gnutls.current_dir(gateway.directory()).args([
            "--udp",
            "--insecure",
            "-p",
            &port,
            "--priority",
            &priority,
            "--rawpkkeyfile",
            "device.key",
            "--rawpkfile",
            "device.pub",
            "127.0.0.1",
        ]);
        // Without an identity the publish would get 4.00.
        assert_eq!(carry(gnutls), Ok(()), "{suite}");
    }
}
