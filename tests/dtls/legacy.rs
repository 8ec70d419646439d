//! Suites of CBC, for devices that have nothing else: records that stay OpenSSL's, behind the same front door.

use std::time::Duration;

use portcullis::dtls::contract::{CloseReason, DtlsSettings};
use portcullis::dtls::metrics::{Alert, HandshakeResult, RecordDrop};
use portcullis::dtls::record::{ALERT, APPLICATION_DATA, HANDSHAKE, HEADER_LEN};
use portcullis::dtls::suite::Suite;
use portcullis::dtls::{DtlsContext, DtlsMaterial, Verify};
use portcullis::types::reason::{Label as _, Limit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bench::*;
use crate::certificates::{client_with, with_certificate, with_clients};
use crate::certs::{Recipe, authority, key};
use crate::cookies::two_hellos;
use crate::dropped::{amid_strays, record, split};
use crate::dtls_client::{ClientConfig, DtlsClient};

const PSK: &str = "PSK-AES128-CBC-SHA256";
const ECDHE_PSK: &str = "ECDHE-PSK-AES128-CBC-SHA256";
const ECDSA: &str = "ECDHE-ECDSA-AES128-SHA256";
const RSA: &str = "ECDHE-RSA-AES128-SHA256";

fn legacy(material: DtlsMaterial) -> DtlsMaterial {
    DtlsMaterial {
        legacy_cbc: true,
        ..material
    }
}

/// The MAC over the ciphertext, as OpenSSL offers it, and over the plaintext.
fn both_orders(config: &ClientConfig) -> [ClientConfig; 2] {
    [false, true].map(|mac_then_encrypt| ClientConfig {
        mac_then_encrypt,
        ..config.clone()
    })
}

/// A server with each kind of keys, and the clients that it is for.
fn everyone() -> Vec<(DtlsMaterial, ClientConfig)> {
    let ca = authority("ca");
    let ec = Recipe::server("server").make(Some(&ca));
    let rsa = Recipe {
        key: key("rsa"),
        ..Recipe::server("server")
    }
    .make(Some(&ca));
    let device = Recipe::client("device").make(Some(&ca));
    let all = [
        (material(), psk_client(PSK)),
        (material(), psk_client(ECDHE_PSK)),
        (
            with_certificate(&ec),
            ClientConfig::certificate(ECDSA, &ca.certificate),
        ),
        (
            with_certificate(&rsa),
            ClientConfig::certificate(RSA, &ca.certificate),
        ),
        (
            with_clients(&ec, &ca, Verify::Required),
            client_with(ECDSA, &ca, &device),
        ),
    ];
    let both = |(material, config): (DtlsMaterial, ClientConfig)| {
        both_orders(&config).map(|config| (legacy(material.clone()), config))
    };
    all.into_iter().flat_map(both).collect()
}

#[test]
fn every_suite_of_cbc_makes_a_session_that_talks_and_ends_like_others() {
    for (material, config) in everyone() {
        let of = format!("{} {}", config.ciphers, config.mac_then_encrypt);
        let mut server = Server::new(&material, settings());
        let offers_cid = ClientConfig {
            cid: Some(vec![1, 2]),
            rrc: true,
            ..config.clone()
        };
        let (mut client, session) = server.establish(&offers_cid, peer(1));
        assert!(client.server_cid().is_none(), "OpenSSL's records carry none");
        let info = server.listener.session(session).unwrap();
        assert_eq!((info.suite, info.cid), (iana(&config.ciphers), false), "{of}");
        assert_eq!(
            info.identity.is_some(),
            config.psk.is_some() || config.certificate.is_some()
        );
        for _ in 0..5 {
            assert!(server.talks(&mut client, session, peer(1)), "{of}");
        }
        assert_eq!(server.metrics.legacy_sessions.get(), 1);
        server.seen.clear();
        client.shutdown();
        server.exchange(&mut client, peer(1));
        assert_eq!(
            server.seen,
            [Seen::Closed(session, CloseReason::CloseNotify)],
            "{of}"
        );
        assert!(client.is_closed(), "{of}: the goodbye was answered");
        assert_eq!(server.metrics.alerts_received.get(Alert::CloseNotify), 1);

        let (mut client, session) = server.establish(&config, peer(1));
        server
            .listener
            .close(server.now, session, CloseReason::Kicked, &mut server.transmits);
        for (_, goodbye) in server.output() {
            client.handle(&goodbye);
        }
        assert!(client.is_closed(), "{of}");
        server.establish(&config, peer(1));
        server.advance(settings().idle_timeout);
        assert_eq!(server.metrics.closed.get(CloseReason::Idle), 1);
        assert_eq!(server.metrics.legacy_sessions.get(), 0);
    }
}

#[test]
fn suites_of_cbc_are_off_unless_asked_for_and_the_last_of_their_kind_then() {
    for (material, config) in everyone() {
        let off = DtlsMaterial {
            legacy_cbc: false,
            ..material.clone()
        };
        let mut server = Server::new(&off, settings());
        let client = server.handshake(&config, peer(1));
        assert!(client.failure().is_some());
        assert_eq!(server.results(HandshakeResult::NoCipher), 1);
        let suites = DtlsContext::new(&off).unwrap().suites().to_vec();
        assert!(!suites.iter().any(|suite| suite.is_legacy()));

        let mut server = Server::new(&material, settings());
        let everything = ClientConfig {
            ciphers: format!("{}:ALL", config.ciphers),
            ..config
        };
        let (client, _) = server.establish(&everything, peer(1));
        assert!(!client.suite().unwrap().is_legacy(), "{:?}", client.suite());
    }
}

/// A record with a header of its own making.
fn forged(rng: &mut StdRng, sequence: u64) -> Vec<u8> {
    let len = match rng.random_range(0..4) {
        0 => rng.random_range(0..80),
        1 => 16 * rng.random_range(0..12),
        2 => 32 + 16 * rng.random_range(0..12),
        _ => 300,
    };
    let mut body = vec![0; len];
    rng.fill(&mut body[..]);
    record(
        [ALERT, HANDSHAKE, APPLICATION_DATA][rng.random_range(0..3)],
        1,
        sequence,
        &body,
    )
}

#[test]
fn records_that_anyone_can_forge_do_not_end_a_session_of_cbc() {
    for (material, config) in everyone() {
        let mut rng = StdRng::seed_from_u64(41);
        let mut server = Server::new(&material, settings());
        let (mut client, session) = server.establish(&config, peer(1));
        client.send(b"once");
        let once = client.take().remove(0);
        server.input(peer(1), &once);
        let before = server.all_dropped();
        for n in 0..2000_u64 {
            let mut datagram = forged(&mut rng, 5 + n % 50);
            if n % 2 == 0 {
                // What was authentic, under another number and with a bit the other way, or cut.
                datagram = once.clone();
                datagram[10] = 100 + (n % 100) as u8;
                let at = rng.random_range(HEADER_LEN..datagram.len());
                if n % 4 == 0 {
                    datagram[at] ^= 1 << rng.random_range(0..8);
                } else {
                    datagram.truncate(at);
                    let len = ((at - HEADER_LEN) as u16).to_be_bytes();
                    datagram[11..13].copy_from_slice(&len);
                }
            }
            assert!(server.input(peer(1), &datagram).is_empty(), "{n} {datagram:?}");
        }
        assert_eq!(server.all_dropped(), before + 2000);
        assert!(server.input(peer(1), &once).is_empty());
        assert_eq!(server.dropped(RecordDrop::Replay), 1);
        assert!(server.talks(&mut client, session, peer(1)), "{}", config.ciphers);
    }
}

#[test]
fn no_record_that_is_dropped_ends_a_handshake_for_cbc() {
    for (material, config) in everyone() {
        if config.certificate.is_none() {
            amid_strays(&material, &config);
        }
    }
}

#[test]
fn a_wrong_key_is_no_session_of_cbc_and_is_counted_as_one() {
    for config in both_orders(&ClientConfig::psk(PSK, "u1", b"another key")) {
        let mut server = Server::new(&legacy(material()), settings());
        let client = server.handshake(&config, peer(1));
        assert!(!client.is_connected() && server.listener.is_empty());
        server.advance(settings().handshake_timeout);
        assert_eq!(server.results(HandshakeResult::WrongKey), 1);
    }
}

#[test]
fn strangers_do_not_get_more_sessions_of_cbc_than_there_may_be_nor_those_of_devices() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let material = legacy(DtlsMaterial {
        psks: material().psks,
        ..with_certificate(&own)
    });
    let mut server = Server::new(
        &material,
        DtlsSettings {
            legacy_max_sessions: 4,
            ..settings()
        },
    );
    let stranger = ClientConfig::certificate(ECDSA, &ca.certificate);
    let mut devices: Vec<(DtlsClient, _)> = (0..3)
        .map(|n| server.establish(&psk_client(PSK), peer(n)))
        .collect();
    let (mut modern, modern_session) = server.establish(&psk_client("PSK-AES128-CCM8"), peer(9));
    server.now += Duration::from_secs(60);
    for n in 10..60 {
        server.handshake(&stranger, peer(n));
    }
    assert_eq!(server.listener.len(), 5);
    assert_eq!(server.metrics.legacy_sessions.get(), 4);
    assert_eq!(server.metrics.limits.get(Limit::LegacySessions), 49);
    // One more device takes the stranger's place, and the next the most idle device's.
    devices.push(server.establish(&psk_client(PSK), peer(3)));
    for ((client, session), n) in devices.iter_mut().zip(0..) {
        assert!(server.talks(client, *session, peer(n)), "{n}");
    }
    server.handshake(&stranger, peer(70));
    assert_eq!(
        server.results(HandshakeResult::Limit),
        1,
        "nobody gives way to it"
    );
    server.now += Duration::from_secs(60);
    let (client, session) = &mut devices[0];
    assert!(server.talks(client, *session, peer(0)));
    server.establish(&psk_client(PSK), peer(4));
    assert!(
        server
            .seen
            .contains(&Seen::Closed(devices[3].1, CloseReason::Evicted))
    );
    assert!(server.talks(&mut modern, modern_session, peer(9)));
}

#[test]
fn the_last_flight_comes_again_when_a_client_of_cbc_missed_it() {
    for config in both_orders(&psk_client(PSK)) {
        let mut server = Server::new(&legacy(material()), settings());
        let (mut client, _, second) = two_hellos(&mut server, &config, 1);
        for (_, answer) in server.input(peer(1), &second) {
            client.handle(&answer);
        }
        let mut lost = Vec::new();
        for datagram in client.take() {
            lost.extend(server.input(peer(1), &datagram));
        }
        assert!(!lost.is_empty() && server.listener.len() == 1);
        // OpenSSL repeats its flight under new sequence numbers after a second.
        std::thread::sleep(Duration::from_millis(1050));
        server.now += Duration::from_millis(1050);
        client.connect();
        server.exchange(&mut client, peer(1));
        assert!(client.is_connected(), "{:?}", client.failure());
        let Some(Seen::Established(session, _)) = server.seen.last().cloned() else {
            panic!("{:?}", server.seen)
        };
        assert!(server.talks(&mut client, session, peer(1)));
        assert_eq!(server.metrics.flights_repeated.get(), 1);
    }
}

#[test]
fn a_device_of_cbc_that_starts_again_at_its_address_gets_its_new_session() {
    for config in both_orders(&psk_client(PSK)) {
        let mut server = Server::new(&legacy(material()), settings());
        let (_, old) = server.establish(&config, peer(1));
        server.now += Duration::from_secs(30);
        let (mut client, new) = server.establish(&config, peer(1));
        assert!(server.seen.contains(&Seen::Closed(old, CloseReason::Replaced)));
        assert!(server.talks(&mut client, new, peer(1)));
        // From one suite to another and back.
        let (mut client, new) = server.establish(&psk_client("PSK-AES128-CCM8"), peer(1));
        assert!(server.talks(&mut client, new, peer(1)));
        let (mut client, new) = server.establish(&config, peer(1));
        assert!(server.talks(&mut client, new, peer(1)));
        assert_eq!(
            (server.listener.len(), server.metrics.legacy_sessions.get()),
            (1, 1)
        );
    }
}

#[test]
fn a_ticket_for_cbc_is_good_while_cbc_is() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let on = legacy(with_certificate(&own));
    for config in both_orders(&ClientConfig::certificate(ECDSA, &ca.certificate)) {
        let mut server = Server::new(&on, settings());
        let (mut client, _) = server.establish(&config, peer(1));
        let resuming = ClientConfig {
            session: Some(client.session()),
            ..config.clone()
        };
        let (mut client, session) = server.establish(&resuming, peer(2));
        assert!(client.is_resumed());
        assert!(server.talks(&mut client, session, peer(2)));
        client.send(b"more");
        let kept = client.take().remove(0);

        server.renew(DtlsContext::new(&with_certificate(&own)).unwrap());
        assert_eq!(server.listener.len(), 2, "who is in stays");
        server.input(peer(2), &kept);
        assert_eq!(
            server.seen.last(),
            Some(&Seen::Plaintext(session, b"more".to_vec()))
        );
        let both = ClientConfig {
            ciphers: format!("{ECDSA}:ECDHE-ECDSA-AES128-CCM8"),
            ..resuming
        };
        let (client, _) = server.establish(&both, peer(3));
        assert!(!client.is_resumed());
        assert_eq!(client.suite(), Some(Suite::EcdheEcdsaAes128Ccm8));
    }
}

#[test]
fn a_reload_ends_sessions_of_cbc_as_it_does_others_and_those_over_the_cap() {
    let mut server = Server::new(&legacy(material()), settings());
    let (_, gone) = server.establish(&psk_client(PSK), peer(1));
    let (mut client, stays) = server.establish(&ClientConfig::psk(PSK, "u2", KEY), peer(2));
    server.seen.clear();
    let without = legacy(DtlsMaterial {
        psks: Some(psks(&format!("u2:{}", hex(KEY)))),
        ..material()
    });
    server.renew(DtlsContext::new(&without).unwrap());
    server.collect_events();
    assert_eq!(server.seen, [Seen::Closed(gone, CloseReason::Revoked)]);
    server.output();
    assert!(server.talks(&mut client, stays, peer(2)));
    server.establish(&ClientConfig::psk(PSK, "u2", KEY), peer(3));
    server.seen.clear();
    server.listener.reconfigure(
        DtlsSettings {
            legacy_max_sessions: 1,
            ..settings()
        },
        &mut server.transmits,
    );
    server.collect_events();
    assert_eq!(server.seen, [Seen::Closed(stays, CloseReason::Evicted)]);
}

#[test]
fn a_record_of_cbc_is_no_longer_than_its_peer_agreed_to_take() {
    for config in both_orders(&psk_client(PSK)) {
        let mut server = Server::new(&legacy(material()), settings());
        let config = ClientConfig {
            max_fragment: Some(1),
            ..config
        };
        let (mut client, session) = server.establish(&config, peer(1));
        assert_eq!(server.listener.max_plaintext(session), 512);
        for (len, fits) in [(512, true), (513, false)] {
            let sent = server
                .listener
                .send(session, &vec![7; len], &mut server.transmits);
            assert_eq!(sent.is_ok(), fits, "{len}");
        }
        for (_, datagram) in server.output() {
            assert!(split(&datagram, 0).len() == 1);
            client.handle(&datagram);
        }
        assert_eq!(client.received(), [vec![7; 512]]);
        assert_eq!(Suite::PskAes128Cbc.label(), iana(PSK));
    }
}
