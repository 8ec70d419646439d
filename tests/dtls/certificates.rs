//! Certificates on either side, and what is wrong with them.

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Id;
use portcullis::dtls::contract::DtlsSettings;
use portcullis::dtls::metrics::{Alert, HandshakeResult};
use portcullis::dtls::{CertIdentity, DtlsContext, DtlsMaterial, PskStore, Verify};
use portcullis::types::Proof;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

use crate::bench::*;
use crate::certs::{
    AUTHORITY, Certified, ROOT, Recipe, authority, ec_key, from_now, key, revocation_list, rsa_key,
};
use crate::dtls_client::ClientConfig;

const ECDSA: [&str; 7] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES128-CCM8",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES256-CCM8",
    "ECDHE-ECDSA-AES256-CCM",
];

pub fn with_certificate(own: &Certified) -> DtlsMaterial {
    DtlsMaterial {
        psks: None,
        cert_pem: Some(own.cert_pem()),
        key_pem: Some(Zeroizing::new(own.key_pem())),
        ..material()
    }
}

pub fn with_clients(own: &Certified, ca: &Certified, verify: Verify) -> DtlsMaterial {
    DtlsMaterial {
        ca_pem: Some(ca.cert_pem()),
        verify,
        ..with_certificate(own)
    }
}

pub fn client_with(suite: &str, ca: &Certified, own: &Certified) -> ClientConfig {
    ClientConfig {
        certificate: Some((own.certificate.clone(), own.key.clone())),
        ..ClientConfig::certificate(suite, &ca.certificate)
    }
}

/// A root, an authority below it, a server of the root, and a client of the authority that shows it.
pub fn below_a_root() -> (Certified, Certified, Certified, ClientConfig) {
    let root = Recipe {
        profile: ROOT,
        ..Recipe::server("root")
    }
    .make(None);
    let below = Recipe {
        profile: AUTHORITY,
        ..Recipe::server("below")
    }
    .make(Some(&root));
    let own = Recipe::server("server").make(Some(&root));
    let client = Recipe::client("showing").make(Some(&below));
    let showing = ClientConfig {
        issuers: vec![below.certificate.clone()],
        ..client_with(ECDSA[0], &root, &client)
    };
    (root, below, own, showing)
}

#[test]
fn every_certificate_suite_makes_a_session_without_identity() {
    let ca = authority("ca");
    let ec = Recipe::server("server").make(Some(&ca));
    let rsa = Recipe {
        key: key("rsa"),
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let p384 = Recipe {
        key: key("p384"),
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let p521 = Recipe {
        key: key("p521"),
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let cases = [
        (&ec, &ECDSA[..]),
        (&p384, &ECDSA[..1]),
        (&p521, &ECDSA[..1]),
        (
            &rsa,
            &[
                "ECDHE-RSA-AES128-GCM-SHA256",
                "ECDHE-RSA-CHACHA20-POLY1305",
                "ECDHE-RSA-AES256-GCM-SHA384",
            ],
        ),
    ];
    for (own, suites) in cases {
        let mut server = Server::new(&with_certificate(own), settings());
        for (n, suite) in suites.iter().enumerate() {
            let at = peer(n as u16);
            let (mut client, session) =
                server.establish(&ClientConfig::certificate(suite, &ca.certificate), at);
            let info = server.listener.session(session).unwrap();
            assert_eq!((info.suite, info.identity), (iana(suite), None));
            assert!(server.talks(&mut client, session, at), "{suite}");
        }
    }
}

#[test]
fn x25519_is_used_with_certificates_and_p_256_with_pre_shared_keys() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let material = DtlsMaterial {
        psks: material().psks,
        ..with_certificate(&own)
    };
    let mut server = Server::new(&material, settings());
    // OpenSSL's client offers both.
    let (client, _) = server.establish(&ClientConfig::certificate(ECDSA[0], &ca.certificate), peer(1));
    assert_eq!(client.ephemeral(), Id::X25519);
    // wolfSSL's offers both as well, but with a pre-shared key it can do P-256 only.
    let (client, _) = server.establish(&psk_client("ECDHE-PSK-CHACHA20-POLY1305"), peer(2));
    assert_eq!(client.ephemeral(), Id::EC);
}

#[test]
fn a_device_with_a_key_that_offers_everything_is_known_by_its_key() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    for verify in [Verify::None, Verify::Optional, Verify::Required] {
        let material = DtlsMaterial {
            psks: material().psks,
            ..with_clients(&own, &ca, verify)
        };
        let mut server = Server::new(&material, settings());
        // The order of stacks that offer all they know: certificates first, AES-256 first.
        let all =
            "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ALL:PSK-AES128-CCM8:PSK-AES128-CCM";
        let (mut client, session) = server.establish(&psk_client(all), peer(1));
        let identity = server.listener.session(session).unwrap().identity.unwrap();
        assert_eq!(
            (&*identity.name, identity.proof),
            ("u1", Proof::Psk),
            "{verify:?}"
        );
        assert!(server.talks(&mut client, session, peer(1)));
        assert_eq!(server.metrics.unidentified.get(), 0);
    }
}

#[test]
fn sessions_without_an_identity_are_counted_where_one_is_used() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    for (wants_identity, counted) in [(true, 1), (false, 0)] {
        let settings = DtlsSettings {
            wants_identity,
            ..settings()
        };
        let mut server = Server::new(&with_certificate(&own), settings);
        server.establish(&ClientConfig::certificate(ECDSA[1], &ca.certificate), peer(1));
        assert_eq!(server.metrics.unidentified.get(), counted);
    }
}

#[test]
fn a_client_certificate_may_be_on_any_curve_that_a_server_certificate_may_be_on() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    for curve in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1] {
        let device = Recipe {
            key: ec_key(curve),
            ..Recipe::client("device")
        }
        .make(Some(&ca));
        let mut server = Server::new(&with_clients(&own, &ca, Verify::Required), settings());
        let (mut client, session) = server.establish(&client_with(ECDSA[0], &ca, &device), peer(1));
        assert!(server.listener.session(session).unwrap().identity.is_some());
        assert!(server.talks(&mut client, session, peer(1)));
    }
}

#[test]
fn an_encrypted_key_is_opened_by_its_password() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let cipher = openssl::symm::Cipher::aes_256_cbc();
    let pkcs8 = own
        .key
        .private_key_to_pem_pkcs8_passphrase(cipher, b"open sesame")
        .unwrap();
    let old = own
        .key
        .ec_key()
        .unwrap()
        .private_key_to_pem_passphrase(cipher, b"open sesame")
        .unwrap();
    for pem in [pkcs8, old] {
        let with = |password: Option<&[u8]>| {
            DtlsContext::new(&DtlsMaterial {
                key_pem: Some(Zeroizing::new(pem.clone())),
                key_password: password.map(|password| Zeroizing::new(password.to_vec())),
                ..with_certificate(&own)
            })
        };
        let context = with(Some(b"open sesame")).unwrap();
        let mut server = Server::new(&with_certificate(&own), settings());
        server.renew(context);
        server.establish(&ClientConfig::certificate(ECDSA[0], &ca.certificate), peer(1));
        for (password, key) in [(Some(&b"open"[..]), "key_password_file"), (None, "key_file")] {
            let error = with(password).unwrap_err();
            assert_eq!(error.key, key);
            assert!(!error.to_string().contains("sesame"), "{error}");
        }
    }
    // A password that is not needed does no harm.
    let spare = DtlsMaterial {
        key_password: Some(Zeroizing::new(b"spare".to_vec())),
        ..with_certificate(&own)
    };
    assert!(DtlsContext::new(&spare).is_ok());
}

#[test]
fn a_client_certificate_gives_the_identity_that_is_configured() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let device = Recipe {
        names: "DNS:device.example,URI:urn:dev:7",
        ..Recipe::client("device-7")
    }
    .make(Some(&ca));
    for (cert_identity, name) in [
        (CertIdentity::Cn, "device-7"),
        (CertIdentity::SanDns, "device.example"),
        (CertIdentity::SanUri, "urn:dev:7"),
    ] {
        let material = DtlsMaterial {
            cert_identity,
            ..with_clients(&own, &ca, Verify::Required)
        };
        let mut server = Server::new(&material, settings());
        let (mut client, session) = server.establish(&client_with(ECDSA[0], &ca, &device), peer(1));
        let identity = server.listener.session(session).unwrap().identity.unwrap();
        assert_eq!((&*identity.name, identity.proof), (name, Proof::Certificate));
        assert!(server.talks(&mut client, session, peer(1)));
    }
}

#[test]
fn a_chain_longer_than_a_datagram_arrives_in_small_flights() {
    let ca = authority("ca");
    let own = Recipe {
        key: rsa_key(4096),
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let device = Recipe {
        key: rsa_key(4096),
        ..Recipe::client("device")
    }
    .make(Some(&ca));
    let material = DtlsMaterial {
        mtu: 300,
        ..with_clients(&own, &ca, Verify::Required)
    };
    let mut server = Server::new(&material, settings());
    let config = ClientConfig {
        mtu: Some(300),
        ..client_with("ECDHE-RSA-AES128-GCM-SHA256", &ca, &device)
    };
    let mut client = crate::dtls_client::DtlsClient::new(&config);
    client.connect();
    loop {
        let out = client.take();
        if out.is_empty() {
            break;
        }
        for datagram in out {
            assert!(datagram.len() <= 300);
            for (_, answer) in server.input(peer(1), &datagram) {
                assert!(answer.len() <= 300, "{}", answer.len());
                client.handle(&answer);
            }
        }
    }
    assert!(client.is_connected(), "{:?}", client.failure());
    assert_eq!(server.listener.len(), 1);
}

#[test]
fn a_client_without_a_good_certificate_gets_the_right_alert() {
    let (ca, foreign) = (authority("ca"), authority("foreign"));
    let own = Recipe::server("server").make(Some(&ca));
    let stranger = Recipe::client("device").make(Some(&foreign));
    let expired = Recipe {
        from: from_now(-7200),
        to: from_now(-3600),
        ..Recipe::client("device")
    }
    .make(Some(&ca));
    let server_only = Recipe::server("device").make(Some(&ca));
    let weak = Recipe {
        key: rsa_key(1024),
        ..Recipe::client("device")
    }
    .make(Some(&ca));
    let sha1 = Recipe {
        digest: MessageDigest::sha1(),
        ..Recipe::client("device")
    }
    .make(Some(&ca));
    let nameless = Recipe::client("").make(Some(&ca));
    let revoked = Recipe::client("device").make(Some(&ca));
    let device = Recipe::client("device").make(Some(&ca));
    let material = DtlsMaterial {
        crl_pem: Some(revocation_list(&ca, &[&revoked]).to_pem().unwrap()),
        ..with_clients(&own, &ca, Verify::Required)
    };
    let mut server = Server::new(&material, settings());
    let cases = [
        (None, "handshake failure", Alert::HandshakeFailure),
        (Some(&stranger), "unknown ca", Alert::UnknownCa),
        (Some(&expired), "certificate expired", Alert::CertificateExpired),
        (
            Some(&server_only),
            "unsupported certificate",
            Alert::UnsupportedCertificate,
        ),
        (Some(&weak), "bad certificate", Alert::BadCertificate),
        (Some(&sha1), "bad certificate", Alert::BadCertificate),
        (Some(&nameless), "bad certificate", Alert::BadCertificate),
        (Some(&revoked), "certificate revoked", Alert::CertificateRevoked),
    ];
    for (n, (certificate, failure, alert)) in cases.into_iter().enumerate() {
        let config = certificate.map_or(ClientConfig::certificate(ECDSA[0], &ca.certificate), |own| {
            client_with(ECDSA[0], &ca, own)
        });
        let sent = server.metrics.alerts_sent.get(alert);
        let client = server.handshake(&config, peer(n as u16));
        let text = client.failure().unwrap_or_default();
        assert!(
            !client.is_connected() && text.contains(failure),
            "case {n}: {text}"
        );
        assert_eq!(
            server.metrics.alerts_sent.get(alert),
            sent + 1,
            "case {n}: {text}"
        );
        assert_eq!(
            server.results(HandshakeResult::BadCertificate),
            n as u64 + 1,
            "case {n}: {text}"
        );
        assert_eq!((server.listener.len(), server.listener.half_open()), (0, 0));
    }
    server.establish(&client_with(ECDSA[0], &ca, &device), peer(99));
}

#[test]
fn an_optional_certificate_may_be_missing_but_not_foreign() {
    let (ca, foreign) = (authority("ca"), authority("foreign"));
    let own = Recipe::server("server").make(Some(&ca));
    let stranger = Recipe::client("device").make(Some(&foreign));
    let mut server = Server::new(&with_clients(&own, &ca, Verify::Optional), settings());
    let (_, session) = server.establish(&ClientConfig::certificate(ECDSA[0], &ca.certificate), peer(1));
    assert_eq!(server.listener.session(session).unwrap().identity, None);
    assert!(
        !server
            .handshake(&client_with(ECDSA[0], &ca, &stranger), peer(2))
            .is_connected()
    );
}

#[test]
fn a_client_that_refuses_our_certificate_is_counted_as_such() {
    let (ca, foreign) = (authority("ca"), authority("foreign"));
    let own = Recipe::server("server").make(Some(&ca));
    let mut server = Server::new(&with_certificate(&own), settings());
    let client = server.handshake(
        &ClientConfig::certificate(ECDSA[0], &foreign.certificate),
        peer(1),
    );
    assert!(!client.is_connected());
    assert_eq!(server.metrics.alerts_received.get(Alert::UnknownCa), 1);
    assert_eq!(server.listener.half_open(), 1);
    server.advance(Duration::from_secs(16));
    assert_eq!(server.results(HandshakeResult::BadCertificate), 1);
    assert_eq!(server.listener.half_open(), 0);
}

#[test]
fn a_server_certificate_out_of_time_does_not_keep_pre_shared_keys_from_working() {
    let ca = authority("ca");
    for (from, to) in [(-7200, -3600), (3600, 7200)] {
        let own = Recipe {
            from: from_now(from),
            to: from_now(to),
            ..Recipe::server("server")
        }
        .make(Some(&ca));
        let material = DtlsMaterial {
            psks: material().psks,
            ..with_certificate(&own)
        };
        assert!(!DtlsContext::new(&material).unwrap().certificate_is_current(now()));
        let mut server = Server::new(&material, settings());
        let (mut client, session) = server.establish(&psk_client("PSK-AES128-CCM8"), peer(1));
        let refusing = server.handshake(&ClientConfig::certificate(ECDSA[0], &ca.certificate), peer(2));
        assert!(!refusing.is_connected() && refusing.failure().is_some());
        server.advance(Duration::from_secs(16));
        assert_eq!(server.results(HandshakeResult::BadCertificate), 1);
        assert!(server.talks(&mut client, session, peer(1)));
    }
    let own = Recipe::server("server").make(Some(&ca));
    let context = DtlsContext::new(&with_certificate(&own)).unwrap();
    assert!(context.certificate_is_current(now()));
    assert!(
        DtlsContext::new(&material())
            .unwrap()
            .certificate_is_current(now())
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates are judged by the real time"
)]
fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_secs()).unwrap()
}

#[test]
fn broken_material_is_refused_by_name() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let other = Recipe::server("server").make(Some(&ca));
    let for_clients = Recipe::client("server").make(Some(&ca));
    let weak = Recipe {
        key: rsa_key(1024),
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let sha1 = Recipe {
        digest: MessageDigest::sha1(),
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let secp256k1 = Recipe {
        key: ec_key(Nid::SECP256K1),
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let ed25519 = openssl::pkey::PKey::generate_ed25519().unwrap();
    let ed25519 = Recipe {
        key: ed25519,
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let good = with_certificate(&own);
    let key = |bytes: Vec<u8>| Some(Zeroizing::new(bytes));
    let sealed = own
        .key
        .private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"x")
        .unwrap();
    let cases = [
        (
            with_certificate(&for_clients),
            "cert_file: the certificate is not for servers",
        ),
        (
            with_certificate(&weak),
            "cert_file: an RSA key of 1024 bits is too weak",
        ),
        (
            with_certificate(&sha1),
            "cert_file: the certificate is signed with a broken hash",
        ),
        (
            with_certificate(&secp256k1),
            "cert_file: its elliptic curve is none of",
        ),
        (
            with_certificate(&ed25519),
            "cert_file: it is neither an ECDSA nor an RSA key",
        ),
        (
            DtlsMaterial {
                key_pem: key(other.key_pem()),
                ..good.clone()
            },
            "key_file: the private key does not fit",
        ),
        (
            DtlsMaterial {
                key_pem: key(own.cert_pem()),
                ..good.clone()
            },
            "key_file: it holds a certificate, not",
        ),
        (
            DtlsMaterial {
                cert_pem: Some(own.key_pem()),
                ..good.clone()
            },
            "cert_file: it holds a private key, not",
        ),
        (
            DtlsMaterial {
                key_pem: key(sealed),
                ..good.clone()
            },
            "key_file: it holds an encrypted key",
        ),
        (
            DtlsMaterial {
                key_pem: key(b"rubbish".to_vec()),
                ..good.clone()
            },
            "key_file: it holds no PEM section",
        ),
        (
            DtlsMaterial {
                key_pem: None,
                ..good.clone()
            },
            "key_file: it is needed beside cert_file",
        ),
        (
            DtlsMaterial {
                cert_pem: None,
                ..good.clone()
            },
            "cert_file: it is needed beside key_file",
        ),
        (
            DtlsMaterial {
                verify: Verify::Required,
                ..good.clone()
            },
            "ca_file: it is needed",
        ),
        (
            DtlsMaterial {
                crl_pem: Some(ca.cert_pem()),
                ..with_clients(&own, &ca, Verify::Required)
            },
            "crl_file: it holds a certificate, not a revocation list",
        ),
        (
            DtlsMaterial {
                cert_pem: None,
                key_pem: None,
                ..good.clone()
            },
            "psk_file: a DTLS listener needs",
        ),
        (
            DtlsMaterial {
                ciphers: "nonsense".into(),
                ..good.clone()
            },
            "ciphers: OpenSSL refuses the list",
        ),
        (
            DtlsMaterial {
                ciphers: "AES256-SHA".into(),
                ..good.clone()
            },
            "ciphers: none of the list can be used",
        ),
        (
            DtlsMaterial {
                ciphers: "PSK-AES128-CCM8".into(),
                ..good.clone()
            },
            "ciphers: none of the list can be",
        ),
        (
            DtlsMaterial {
                mtu: 255,
                ..good.clone()
            },
            "mtu: it must be",
        ),
    ];
    for (material, expected) in cases {
        let error = DtlsContext::new(&material).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error} instead of {expected}");
    }
    let days = DtlsContext::new(&good).unwrap().certificate_not_after().unwrap() / 86_400;
    assert!(days > 20_000, "{days}");
}

#[test]
fn a_cipher_list_says_what_it_leaves_out() {
    let material = DtlsMaterial {
        ciphers: "PSK-AES128-CBC-SHA256:PSK-AES128-CCM8".into(),
        ..material()
    };
    let context = DtlsContext::new(&material).unwrap();
    assert_eq!(context.ignored_ciphers(), ["PSK-AES128-CBC-SHA256"]);
    assert_eq!(context.suites().len(), 1);
}

#[test]
fn removing_and_rekeying_an_identity_and_revoking_a_certificate_end_their_sessions_and_no_other() {
    use portcullis::dtls::contract::CloseReason;
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let (bad, good) = (
        Recipe::client("bad").make(Some(&ca)),
        Recipe::client("good").make(Some(&ca)),
    );
    let keys = |text: &str| Some(Arc::new(PskStore::parse(text).unwrap()));
    let key = hex(KEY);
    let mut material = DtlsMaterial {
        psks: keys(&format!("u1:{key}\nu2:{key}\nu3:{key}")),
        crl_pem: Some(revocation_list(&ca, &[]).to_pem().unwrap()),
        ..with_clients(&own, &ca, Verify::Optional)
    };
    let mut server = Server::new(&material, settings());
    let suite = "PSK-AES128-GCM-SHA256";
    let (_, u1) = server.establish(&ClientConfig::psk(suite, "u1", KEY), peer(1));
    let (_, u2) = server.establish(&ClientConfig::psk(suite, "u2", KEY), peer(2));
    let (mut stays, u3) = server.establish(&ClientConfig::psk(suite, "u3", KEY), peer(3));
    let (_, revoked) = server.establish(&client_with(ECDSA[0], &ca, &bad), peer(4));
    let (mut also_stays, kept) = server.establish(&client_with(ECDSA[0], &ca, &good), peer(5));
    material.psks = keys(&format!("u2:00{key}\nu3:{key}"));
    material.crl_pem = Some(revocation_list(&ca, &[&bad]).to_pem().unwrap());
    server.seen.clear();
    server.renew(DtlsContext::new(&material).unwrap());
    server.collect_events();
    assert_eq!(server.output().len(), 3, "close_notify to each");
    let mut ended: Vec<_> = server
        .seen
        .iter()
        .map(|seen| match seen {
            Seen::Closed(session, CloseReason::Revoked) => *session,
            other => panic!("{other:?}"),
        })
        .collect();
    ended.sort_unstable();
    assert_eq!(ended, [u1, u2, revoked]);
    assert!(server.talks(&mut stays, u3, peer(3)));
    assert!(server.talks(&mut also_stays, kept, peer(5)));
    assert!(
        !server
            .handshake(&ClientConfig::psk(suite, "u1", KEY), peer(1))
            .is_connected()
    );
}
