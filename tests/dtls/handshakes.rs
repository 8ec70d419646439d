//! Handshakes that go well and handshakes that do not.

use std::time::Duration;

use portcullis::dtls::contract::DtlsSettings;
use portcullis::dtls::metrics::{Alert, HandshakeResult};
use portcullis::dtls::record::{ALERT, Header, write_header};
use portcullis::dtls::{DtlsContext, DtlsMaterial};
use portcullis::types::Proof;

use crate::bench::*;
use crate::cookies::two_hellos;
use crate::dtls_client::{ClientConfig, DtlsClient};

#[test]
fn every_psk_suite_makes_a_session_that_talks() {
    let mut server = Server::new(&material(), settings());
    for (n, suite) in ALL_PSK.into_iter().enumerate() {
        let at = peer(n as u16);
        let (mut client, session) = server.establish(&psk_client(suite), at);
        let info = server.listener.session(session).unwrap();
        let identity = info.identity.unwrap();
        assert_eq!((&*identity.name, identity.proof), ("u1", Proof::Psk));
        assert_eq!(info.suite, iana(suite));
        assert!(!info.cid && !info.resumed);
        for _ in 0..100 {
            assert!(server.talks(&mut client, session, at), "{suite}");
        }
    }
    assert_eq!(server.results(HandshakeResult::Ok), ALL_PSK.len() as u64);
    assert_eq!(server.listener.len(), ALL_PSK.len());
    assert_eq!(server.listener.half_open(), 0);
}

#[test]
fn a_wrong_key_and_an_unknown_identity_look_the_same_and_count_apart() {
    let mut server = Server::new(&material(), settings());
    let mut ends = Vec::new();
    for (n, (identity, result)) in [
        ("u1", HandshakeResult::WrongKey),
        ("nobody", HandshakeResult::UnknownIdentity),
    ]
    .into_iter()
    .enumerate()
    {
        let at = peer(n as u16);
        let mut client = server.handshake(
            &ClientConfig::psk("PSK-AES128-GCM-SHA256", identity, b"wrong-wrong-wrong"),
            at,
        );
        assert!(!client.is_connected());
        assert_eq!(server.listener.half_open(), 1);
        assert_eq!(server.results(result), 0);
        let mut sizes = Vec::new();
        for (_, datagram) in server.advance(Duration::from_secs(16)) {
            sizes.push(datagram.len());
            client.handle(&datagram);
        }
        assert_eq!(server.results(result), 1);
        assert_eq!(server.listener.half_open(), 0);
        ends.push((sizes, client.failure().map(str::to_owned)));
    }
    assert_eq!(ends[0], ends[1]);
    assert!(ends[0].1.as_ref().unwrap().contains("decrypt error"), "{ends:?}");
    assert_eq!(server.metrics.alerts_sent.get(Alert::DecryptError), 2);
    let (mut client, session) = server.establish(&psk_client("PSK-AES128-CCM8"), peer(9));
    assert!(server.talks(&mut client, session, peer(9)));
}

#[test]
fn no_common_suite_and_an_old_version_end_in_the_right_alert() {
    let mut server = Server::new(&material(), settings());
    let client = server.handshake(&psk_client("PSK-AES128-CBC-SHA256"), peer(1));
    assert!(
        client.failure().unwrap().contains("handshake failure"),
        "{:?}",
        client.failure()
    );
    assert_eq!(server.results(HandshakeResult::NoCipher), 1);
    let old = ClientConfig {
        dtls1_only: true,
        ..psk_client("PSK-AES128-CBC-SHA")
    };
    let client = server.handshake(&old, peer(2));
    assert!(
        client.failure().unwrap().contains("protocol version"),
        "{:?}",
        client.failure()
    );
    assert_eq!(server.results(HandshakeResult::Protocol), 1);
    assert_eq!(server.listener.half_open(), 0);
}

#[test]
fn a_silent_peer_times_out_and_leaves_nothing() {
    let mut server = Server::new(&material(), settings());
    let mut client = DtlsClient::new(&psk_client("PSK-AES128-GCM-SHA256"));
    client.connect();
    let hello = client.take().remove(0);
    let request = server.input(peer(1), &hello).remove(0).1;
    client.handle(&request);
    let hello = client.take().remove(0);
    assert!(!server.input(peer(1), &hello).is_empty());
    assert_eq!(server.listener.half_open(), 1);
    assert!(server.listener.poll_timeout().unwrap() <= server.now + Duration::from_secs(2));
    for (_, datagram) in server.advance(Duration::from_secs(16)) {
        client.handle(&datagram);
    }
    assert!(
        client.failure().unwrap().contains("user cancelled"),
        "{:?}",
        client.failure()
    );
    assert_eq!(server.metrics.alerts_sent.get(Alert::UserCanceled), 1);
    assert_eq!(server.listener.half_open(), 0);
    assert_eq!(server.results(HandshakeResult::Timeout), 1);
    assert_eq!(server.listener.poll_timeout(), None);
}

#[test]
fn a_client_whose_flight_comes_again_in_vain_has_another_key() {
    let mut server = Server::new(&material(), settings());
    let mut client = server.handshake(
        &ClientConfig::psk("PSK-AES128-CCM8", "u2", b"another key"),
        peer(1),
    );
    assert!(server.advance(Duration::ZERO).is_empty());
    // OpenSSL repeats its flight after a second.
    std::thread::sleep(Duration::from_millis(1050));
    server.now += Duration::from_millis(1050);
    client.connect();
    server.exchange(&mut client, peer(1));
    for (_, datagram) in server.advance(Duration::ZERO) {
        client.handle(&datagram);
    }
    assert!(
        client.failure().unwrap().contains("decrypt error"),
        "{:?}",
        client.failure()
    );
    assert_eq!(server.results(HandshakeResult::WrongKey), 1);
    assert_eq!(server.listener.half_open(), 0);
}

#[test]
fn what_anyone_can_send_does_not_shorten_the_time_of_a_slow_device() {
    let patient = DtlsSettings {
        handshake_timeout: Duration::from_secs(60),
        ..settings()
    };
    for cid in [None, Some(vec![3, 3])] {
        let mut server = Server::new(&material(), patient.clone());
        let config = ClientConfig {
            cid,
            ..psk_client("PSK-AES128-CCM")
        };
        let (mut client, _, second) = two_hellos(&mut server, &config, 1);
        for (_, answer) in server.input(peer(1), &second) {
            client.handle(&answer);
        }
        // Alerts in the clear: handshake_failure, close_notify.
        for alert in [[2, 40], [1, 0], [2, 51]] {
            let mut record = Vec::new();
            write_header(&mut record, ALERT, 0, 7, &[], 2);
            record.extend(alert);
            server.input(peer(1), &record);
        }
        server.advance(Duration::from_secs(28));
        assert_eq!(server.listener.half_open(), 1);
        let flight = client.take().remove(0);
        let key_exchange = Header::parse(&flight, 0).unwrap().record_len();
        let changed = key_exchange + Header::parse(&flight[key_exchange..], 0).unwrap().record_len();
        server.input(peer(1), &flight[..changed]);
        // What passes for a Finished, under every number that it could have.
        for n in 0..9 {
            let mut forged = flight[changed..].to_vec();
            forged[10] = n;
            *forged.last_mut().unwrap() ^= 1;
            assert!(server.input(peer(1), &forged).is_empty());
        }
        server.advance(Duration::from_secs(28));
        assert_eq!(server.listener.half_open(), 1);
        for (_, answer) in server.input(peer(1), &flight[changed..]) {
            client.handle(&answer);
        }
        assert!(client.is_connected(), "{:?}", client.failure());
        assert_eq!(server.listener.len(), 1);
    }
}

#[test]
fn identities_are_bytes() {
    let key = hex(KEY);
    let material = DtlsMaterial {
        psks: Some(psks(&format!(
            "hex:DEADBEEF:{key}\nhex:6865783a61:{key}\nz\u{e4}hler:{key}"
        ))),
        ..material()
    };
    for (identity, name) in [
        (&b"\xde\xad\xbe\xef"[..], "hex:deadbeef"),
        (b"hex:a", "hex:6865783a61"),
        ("z\u{e4}hler".as_bytes(), "z\u{e4}hler"),
    ] {
        for suite in ["PSK-AES128-CCM8", "ECDHE-PSK-CHACHA20-POLY1305"] {
            let mut server = Server::new(&material, settings());
            let config = ClientConfig::psk(suite, identity, KEY);
            let (mut client, session) = server.establish(&config, peer(1));
            let proved = server.listener.session(session).unwrap().identity.unwrap();
            assert_eq!(&*proved.name, name);
            assert!(server.talks(&mut client, session, peer(1)));
            // Keys that are loaded again find their session.
            server.renew(DtlsContext::new(&material).unwrap());
            assert!(server.talks(&mut client, session, peer(1)));
        }
    }
    let mut server = Server::new(&material, settings());
    for stranger in [&b"hex:deadbeef"[..], b"\xde\xad\xbe", b"z\xe4hler"] {
        let config = ClientConfig::psk("PSK-AES128-CCM8", stranger, KEY);
        assert!(!server.handshake(&config, peer(1)).is_connected());
        server.advance(Duration::from_secs(16));
    }
    assert_eq!(server.results(HandshakeResult::UnknownIdentity), 3);
}

/// OpenSSL's client cannot send a NUL, so one is put in on the way. The Finished does not open then, but how the handshake
/// fails tells whether the identity was found.
#[test]
fn an_identity_with_a_nul_is_not_the_part_before_it() {
    for (known, result) in [
        ("u1", HandshakeResult::UnknownIdentity),
        ("hex:75310065", HandshakeResult::WrongKey),
    ] {
        let material = DtlsMaterial {
            psks: Some(psks(&format!("{known}:{}", hex(KEY)))),
            ..material()
        };
        let mut server = Server::new(&material, settings());
        let config = ClientConfig::psk("PSK-AES128-CCM8", "u1#e", KEY);
        let (mut client, _, second) = two_hellos(&mut server, &config, 1);
        for (_, answer) in server.input(peer(1), &second) {
            client.handle(&answer);
        }
        let mut flight = client.take().remove(0);
        let at = flight.windows(4).position(|window| window == b"u1#e").unwrap();
        flight[at + 2] = 0;
        server.input(peer(1), &flight);
        server.advance(Duration::from_secs(16));
        assert_eq!(server.results(result), 1, "{known}");
    }
}

#[test]
fn a_listener_can_be_handed_to_its_worker() {
    fn is_send<T: Send>() {}
    is_send::<portcullis::dtls::DtlsListener>();
    is_send::<std::sync::Arc<DtlsContext>>();
    is_send::<std::sync::Arc<portcullis::dtls::DtlsMetrics>>();
}

#[test]
fn ids_tell_worker_and_listener_and_do_not_come_back() {
    let mut ids = std::collections::HashSet::new();
    for worker in 0..3 {
        let mut server = Server::of_worker(&material(), settings(), worker, start());
        for n in 0..20 {
            let (_, session) = server.establish(&psk_client("PSK-AES128-CCM8"), peer(n % 3));
            assert_eq!(session.0 >> 40, u64::from(worker) << 16 | 3);
            assert!(ids.insert(session));
        }
    }
}
