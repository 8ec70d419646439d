//! Several certificates on one listener: chosen by what a client can check, and by the name that it asks for.

use portcullis::dtls::{CertificateMaterial, DtlsContext, DtlsMaterial, Verify};
use zeroize::Zeroizing;

use crate::bench::*;
use crate::certificates::{client_with, with_certificate, with_clients};
use crate::certs::{AUTHORITY, Certified, ROOT, Recipe, authority, key};
use crate::dtls_client::ClientConfig;

const ECDSA: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";
const RSA: &str = "ECDHE-RSA-AES128-GCM-SHA256";

fn server(ca: &Certified, name: &str, names: &str, kind: &str) -> Certified {
    Recipe {
        names,
        key: key(kind),
        ..Recipe::server(name)
    }
    .make(Some(ca))
}

fn more(own: &[&Certified]) -> Vec<CertificateMaterial> {
    own.iter()
        .map(|own| CertificateMaterial {
            cert_pem: own.cert_pem(),
            key_pem: Zeroizing::new(own.key_pem()),
            key_password: None,
        })
        .collect()
}

/// The common name of the certificate that a client is shown which asks for `name`.
fn shown(server: &mut Server, ca: &Certified, suites: &str, name: Option<&str>, at: u16) -> String {
    let config = ClientConfig {
        server_name: name.map(str::to_owned),
        ..ClientConfig::certificate(suites, &ca.certificate)
    };
    let (mut client, session) = server.establish(&config, peer(at));
    assert!(server.talks(&mut client, session, peer(at)));
    client.server()
}

#[test]
fn of_several_certificates_a_client_is_shown_one_that_it_can_check_and_asks_for() {
    let ca = authority("ca");
    let first = server(&ca, "first", "DNS:first.test", "p256");
    let rsa = server(&ca, "rsa", "DNS:first.test,DNS:*.rsa.test", "rsa");
    let other = server(&ca, "other", "DNS:other.test", "p384");
    let common = server(&ca, "common.test", "IP:127.0.0.1", "rsa");
    let material = DtlsMaterial {
        certificates: more(&[&rsa, &other, &common]),
        ..with_certificate(&first)
    };
    let mut gateway = Server::new(&material, settings());
    let both = format!("{RSA}:{ECDSA}");
    for (at, (suites, name, wanted)) in (1..).zip([
        (ECDSA, None, "first"),
        (RSA, None, "rsa"),
        (&both, None, "first"),
        (ECDSA, Some("nobody.test"), "first"),
        (RSA, Some("nobody.test"), "rsa"),
        (RSA, Some("first.test"), "rsa"),
        (ECDSA, Some("OTHER.test"), "other"),
        (&both, Some("other.test"), "other"),
        (&both, Some("a.rsa.test"), "rsa"),
        (&both, Some("common.test"), "common.test"),
    ]) {
        assert_eq!(
            shown(&mut gateway, &ca, suites, name, at),
            wanted,
            "{suites} {name:?}"
        );
    }
    // There is no certificate of that name that this client could check.
    let config = ClientConfig {
        server_name: Some("other.test".to_owned()),
        ..ClientConfig::certificate(RSA, &ca.certificate)
    };
    assert!(!gateway.handshake(&config, peer(40)).is_connected());
}

#[test]
fn whoever_asks_for_a_name_is_checked_as_others_are_and_keeps_connection_id_and_ticket() {
    let ca = authority("ca");
    let first = server(&ca, "first", "DNS:first.test", "p256");
    let other = server(&ca, "other", "DNS:other.test", "rsa");
    let device = Recipe::client("device").make(Some(&ca));
    let material = DtlsMaterial {
        certificates: more(&[&other]),
        ..with_clients(&first, &ca, Verify::Required)
    };
    let mut gateway = Server::new(&material, settings());
    let config = ClientConfig {
        server_name: Some("other.test".to_owned()),
        cid: Some(vec![7]),
        rrc: true,
        ..client_with(RSA, &ca, &device)
    };
    let (mut client, session) = gateway.establish(&config, peer(1));
    assert!(client.has_rrc() && client.server_cid().is_some());
    assert!(gateway.talks(&mut client, session, peer(1)));
    let info = gateway.listener.session(session).unwrap();
    assert_eq!(info.identity.map(|identity| identity.name), Some("device".into()));
    let resuming = ClientConfig {
        session: Some(client.session()),
        ..config.clone()
    };
    let (mut client, session) = gateway.establish(&resuming, peer(2));
    assert!(client.is_resumed());
    assert!(gateway.talks(&mut client, session, peer(2)));
    let nobody = ClientConfig {
        certificate: None,
        ..config
    };
    assert!(!gateway.handshake(&nobody, peer(3)).is_connected());
}

#[test]
fn each_certificate_is_shown_with_its_own_chain() {
    let root = Recipe {
        profile: ROOT,
        ..Recipe::server("root")
    }
    .make(None);
    let chains: Vec<(Certified, Certified)> = ["p256", "rsa"]
        .iter()
        .map(|kind| {
            let between = Recipe {
                profile: AUTHORITY,
                ..Recipe::server("between")
            }
            .make(Some(&root));
            let own = server(&between, kind, "", kind);
            (between, own)
        })
        .collect();
    let pem = |(between, own): &(Certified, Certified)| [own.cert_pem(), between.cert_pem()].concat();
    let material = DtlsMaterial {
        cert_pem: Some(pem(&chains[0])),
        certificates: vec![CertificateMaterial {
            cert_pem: pem(&chains[1]),
            ..more(&[&chains[1].1]).remove(0)
        }],
        ..with_certificate(&chains[0].1)
    };
    let mut gateway = Server::new(&material, settings());
    // The client has the root alone, so that it needs what is between.
    assert_eq!(shown(&mut gateway, &root, ECDSA, None, 1), "p256");
    assert_eq!(shown(&mut gateway, &root, RSA, None, 2), "rsa");
}

#[test]
fn the_key_of_one_more_certificate_may_be_encrypted() {
    let ca = authority("ca");
    let own = server(&ca, "own", "", "rsa");
    let cipher = openssl::symm::Cipher::aes_256_cbc();
    let with = |password: Option<&str>| {
        let certificates = vec![CertificateMaterial {
            cert_pem: own.cert_pem(),
            key_pem: Zeroizing::new(
                own.key
                    .private_key_to_pem_pkcs8_passphrase(cipher, b"open sesame")
                    .unwrap(),
            ),
            key_password: password.map(|password| Zeroizing::new(password.into())),
        }];
        DtlsMaterial {
            psks: None,
            certificates,
            ..material()
        }
    };
    let mut gateway = Server::new(&with(Some("open sesame")), settings());
    assert_eq!(shown(&mut gateway, &ca, RSA, Some("own"), 1), "own");
    for (password, named) in [(Some("sesame"), "key_password_file"), (None, "key_file")] {
        let error = DtlsContext::new(&with(password)).unwrap_err();
        assert_eq!(error.key, "certificates");
        assert!(
            error.message.starts_with(&format!("number 1, {named}: ")),
            "{error}"
        );
    }
}

#[test]
fn a_certificate_that_nobody_would_be_shown_is_refused() {
    let ca = authority("ca");
    let first = server(&ca, "first", "DNS:a.test", "p256");
    let rsa = server(&ca, "rsa", "DNS:b.test", "rsa");
    let again = server(&ca, "again", "DNS:a.test", "p384");
    let unused = DtlsMaterial {
        certificates: more(&[&rsa, &again]),
        ..with_certificate(&first)
    };
    let error = DtlsContext::new(&unused).unwrap_err();
    assert_eq!(error.key, "certificates");
    assert!(error.message.starts_with("number 2 is never chosen"), "{error}");
    let without_file = DtlsMaterial {
        psks: None,
        certificates: more(&[&first, &again]),
        ..material()
    };
    let error = DtlsContext::new(&without_file).unwrap_err();
    assert!(error.message.starts_with("number 2 is never chosen"), "{error}");
}
