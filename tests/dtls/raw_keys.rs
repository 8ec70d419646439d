//! Raw public keys (RFC 7250), where OpenSSL has them, and what is said where it does not.

use std::sync::Arc;

use openssl::sha::sha256;
use portcullis::dtls::{DtlsContext, DtlsMaterial, RawKeys};

use crate::bench::*;
use crate::certificates::with_certificate;
use crate::certs::{Certified, Recipe, authority};

fn line(name: &str, own: &Certified) -> String {
    let spki = own.key.public_key_to_der().unwrap();
    format!("{name}:{}\n", hex(&sha256(&spki)))
}

fn known(lines: &str, material: DtlsMaterial) -> DtlsMaterial {
    DtlsMaterial {
        raw_keys: Some(Arc::new(RawKeys::parse(lines).unwrap())),
        ..material
    }
}

#[cfg(not(openssl_rpk))]
#[test]
fn an_openssl_without_raw_keys_says_what_is_needed() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let error = DtlsContext::new(&known(&line("one", &own), with_certificate(&own))).unwrap_err();
    assert_eq!(error.key, "rpk_file");
    assert!(error.message.contains("3.2 or newer"), "{error}");
}

#[cfg(openssl_rpk)]
mod spoken {
    use portcullis::dtls::Verify;
    use portcullis::dtls::contract::CloseReason;
    use portcullis::dtls::metrics::HandshakeResult;
    use portcullis::types::Proof;

    use super::*;
    use crate::certificates::{client_with, with_clients};
    use crate::certs::key;
    use crate::dtls_client::{ClientConfig, RawKey};

    const CCM8: &str = "ECDHE-ECDSA-AES128-CCM8";
    const BOTH: RawKey = RawKey {
        server: &[2],
        client: &[2],
    };

    /// A device that shows its key raw and takes the server's so.
    fn device(own: &Certified, kinds: RawKey) -> ClientConfig {
        ClientConfig {
            ciphers: CCM8.into(),
            certificate: Some((own.certificate.clone(), own.key.clone())),
            raw_key: Some(kinds),
            ..ClientConfig::default()
        }
    }

    fn pki() -> (Certified, Certified, Certified) {
        let ca = authority("ca");
        let own = Recipe::server("server").make(Some(&ca));
        let device = Recipe::client("certified").make(Some(&ca));
        (ca, own, device)
    }

    #[test]
    fn a_device_is_known_by_its_raw_key_and_sees_only_that_of_the_server() {
        let (_, own, one) = pki();
        for verify in [Verify::None, Verify::Optional, Verify::Required] {
            let (ca, ..) = pki();
            let material = known(&line("urn:dev:1", &one), with_clients(&own, &ca, verify));
            let mut server = Server::new(&material, settings());
            let config = ClientConfig {
                cid: Some(vec![1]),
                ..device(&one, BOTH)
            };
            let (mut client, session) = server.establish(&config, peer(1));
            let identity = server.listener.session(session).unwrap().identity.unwrap();
            assert_eq!((&*identity.name, identity.proof), ("urn:dev:1", Proof::RawKey));
            assert!(client.server_shows_raw_key(&own.key));
            assert!(server.talks(&mut client, session, peer(1)));
            // Its ticket stands for the same key.
            let resuming = ClientConfig {
                session: Some(client.session()),
                ..config
            };
            let (mut client, session) = server.establish(&resuming, peer(2));
            assert!(client.is_resumed());
            let identity = server.listener.session(session).unwrap().identity.unwrap();
            assert_eq!(&*identity.name, "urn:dev:1");
            assert!(server.talks(&mut client, session, peer(2)));
            // Taken out of the file, it is nobody's any more, with its ticket and without.
            let (_, _, other) = pki();
            let renewed = known(&line("other", &other), with_clients(&own, &ca, verify));
            server.renew(DtlsContext::new(&renewed).unwrap());
            server.collect_events();
            assert_eq!(server.metrics.closed.get(CloseReason::Revoked), 2);
            server.output();
            server.handshake(&resuming, peer(3));
            assert!(server.listener.is_empty());
            let client = server.handshake(&device(&one, BOTH), peer(4));
            assert!(!client.is_connected() && server.listener.is_empty());
            assert!(server.results(HandshakeResult::BadCertificate) >= 2);
        }
    }

    #[test]
    fn a_raw_key_of_rsa_or_of_another_curve_is_a_key() {
        let ca = authority("ca");
        for (kind, suite) in [("p384", CCM8), ("rsa", "ECDHE-RSA-AES128-GCM-SHA256")] {
            let own = Recipe {
                key: key(kind),
                ..Recipe::server("server")
            }
            .make(Some(&ca));
            let one = Recipe {
                key: key(kind),
                ..Recipe::client("x")
            }
            .make(Some(&ca));
            let mut server = Server::new(&known(&line("one", &one), with_certificate(&own)), settings());
            let config = ClientConfig {
                ciphers: suite.into(),
                ..device(&one, BOTH)
            };
            let (mut client, session) = server.establish(&config, peer(1));
            assert!(server.talks(&mut client, session, peer(1)), "{kind}");
        }
    }

    #[test]
    fn whoever_likes_certificates_better_gets_them() {
        let (ca, own, one) = pki();
        let material = known(&line("raw", &one), with_clients(&own, &ca, Verify::Optional));
        let mut server = Server::new(&material, settings());
        let certified = |kinds: Option<RawKey>| ClientConfig {
            raw_key: kinds,
            ca: None,
            ..client_with(CCM8, &ca, &one)
        };
        for (n, (kinds, raw, name)) in (0..).zip([
            (None, false, "certified"),
            (Some((&[0_u8, 2][..], &[0_u8, 2][..])), false, "certified"),
            (Some((&[0, 2], &[2])), false, "raw"),
            (Some((&[2, 0], &[0])), true, "certified"),
        ]) {
            let kinds = kinds.map(|(server, client)| RawKey { server, client });
            let (client, session) = server.establish(&certified(kinds), peer(n));
            assert_eq!(client.server_shows_raw_key(&own.key), raw, "{n}");
            let identity = server.listener.session(session).unwrap().identity.unwrap();
            assert_eq!(&*identity.name, name, "{n}");
        }
    }

    #[test]
    fn where_certificates_are_not_asked_for_only_those_with_raw_keys_are() {
        let (ca, own, one) = pki();
        let material = known(&line("raw", &one), with_certificate(&own));
        let mut server = Server::new(&material, settings());
        // It has a certificate and is not asked for it.
        let (_, session) = server.establish(&client_with(CCM8, &ca, &one), peer(1));
        assert_eq!(server.listener.session(session).unwrap().identity, None);
        let keyless = ClientConfig {
            certificate: None,
            ..device(&one, BOTH)
        };
        let (_, session) = server.establish(&keyless, peer(2));
        assert_eq!(server.listener.session(session).unwrap().identity, None);
        let with_key = ClientConfig {
            ciphers: "PSK-AES128-CCM8".into(),
            ..psk_client("PSK-AES128-CCM8")
        };
        let both = DtlsMaterial {
            psks: crate::bench::material().psks,
            ..material
        };
        let mut server = Server::new(&both, settings());
        server.establish(&with_key, peer(3));
    }

    #[test]
    fn without_a_file_of_raw_keys_whoever_takes_nothing_else_is_refused() {
        let (_, own, one) = pki();
        let mut server = Server::new(&with_certificate(&own), settings());
        let client = server.handshake(&device(&one, BOTH), peer(1));
        assert!(!client.is_connected() && server.listener.is_empty());
        assert_eq!(server.results(HandshakeResult::BadCertificate), 1);
    }
}
