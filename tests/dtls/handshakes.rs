//! Handshakes that go well and handshakes that do not.

use std::time::Duration;

use portcullis::dtls::metrics::{Alert, HandshakeResult};
use portcullis::types::Proof;

use crate::bench::*;
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
    assert_eq!(server.results(HandshakeResult::Ok), 5);
    assert_eq!(server.listener.len(), 5);
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
        for (_, datagram) in server.advance(Duration::from_secs(4)) {
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
    server.advance(Duration::from_secs(16));
    assert_eq!(server.listener.half_open(), 0);
    assert_eq!(server.results(HandshakeResult::Timeout), 1);
    assert_eq!(server.listener.poll_timeout(), None);
}

#[test]
fn a_listener_can_be_handed_to_its_worker() {
    fn is_send<T: Send>() {}
    is_send::<portcullis::dtls::DtlsListener>();
    is_send::<std::sync::Arc<portcullis::dtls::DtlsContext>>();
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
