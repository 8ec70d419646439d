//! How sessions end: by goodbye, by alert, by silence, for want of room.

use std::time::Duration;

use portcullis::dtls::contract::{CloseReason, DtlsSettings};
use portcullis::dtls::metrics::{Alert, HandshakeResult};
use portcullis::dtls::record::ALERT;
use portcullis::dtls::{DtlsListener, DtlsMaterial, SendError};
use portcullis::types::reason::Limit;

use crate::bench::*;
use crate::certificates::with_certificate;
use crate::certs::{Recipe, authority};
use crate::dtls_client::ClientConfig;
use crate::hostile::sealed;

const GCM: &str = "PSK-AES128-GCM-SHA256";

#[test]
fn close_notify_is_answered_and_a_fatal_alert_ends_the_session() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    server.seen.clear();
    client.shutdown();
    server.exchange(&mut client, peer(1));
    assert_eq!(server.seen, [Seen::Closed(session, CloseReason::CloseNotify)]);
    assert_eq!(server.metrics.alerts_received.get(Alert::CloseNotify), 1);
    assert_eq!(server.metrics.alerts_sent.get(Alert::CloseNotify), 1);
    let (client, session) = server.establish(&psk_client(GCM), peer(1));
    server.seen.clear();
    server.input(peer(1), &sealed(&client, ALERT, 500, &[1, 90]));
    assert!(server.seen.is_empty(), "a warning is no end");
    server.input(peer(1), &sealed(&client, ALERT, 501, &[2, 80]));
    assert_eq!(server.seen, [Seen::Closed(session, CloseReason::Alert)]);
    assert_eq!(server.listener.len(), 0);
}

#[test]
fn idle_sessions_end_and_busy_ones_stay() {
    let mut server = Server::new(
        &material(),
        DtlsSettings {
            idle_timeout: Duration::from_secs(16),
            ..settings()
        },
    );
    let (mut busy, stays) = server.establish(&psk_client(GCM), peer(1));
    let (_, idle) = server.establish(&psk_client(GCM), peer(2));
    for _ in 0..4 {
        server.advance(Duration::from_secs(3));
        assert!(server.talks(&mut busy, stays, peer(1)));
    }
    server.seen.clear();
    assert_eq!(
        server.listener.poll_timeout(),
        Some(server.now + Duration::from_secs(4))
    );
    assert_eq!(server.advance(Duration::from_secs(4)).len(), 1);
    assert_eq!(server.seen, [Seen::Closed(idle, CloseReason::Idle)]);
    assert!(server.talks(&mut busy, stays, peer(1)));
    server.seen.clear();
    server.advance(Duration::from_secs(16));
    assert_eq!(server.seen, [Seen::Closed(stays, CloseReason::Idle)]);
    assert_eq!(server.metrics.sessions.get(), 0);
}

#[test]
fn the_most_idle_session_makes_room() {
    let mut server = Server::new(
        &material(),
        DtlsSettings {
            max_sessions: 3,
            ..settings()
        },
    );
    let mut clients = Vec::new();
    for n in 0..3 {
        clients.push(server.establish(&psk_client(GCM), peer(n)));
        server.now += Duration::from_secs(5);
    }
    let (client, session) = &mut clients[0];
    assert!(server.talks(client, *session, peer(0)));
    server.seen.clear();
    server.establish(&psk_client(GCM), peer(9));
    assert_eq!(server.seen[0], Seen::Closed(clients[1].1, CloseReason::Evicted));
    assert_eq!(server.listener.len(), 3);
    assert_eq!(server.metrics.limits.get(Limit::Sessions), 1);
    let (client, session) = &mut clients[0];
    assert!(server.talks(client, *session, peer(0)));
}

#[test]
fn sessions_of_nobody_give_way_first_and_take_no_room_of_those_with_an_identity() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let material = DtlsMaterial {
        psks: material().psks,
        ..with_certificate(&own)
    };
    let mut server = Server::new(
        &material,
        DtlsSettings {
            max_sessions: 4,
            ..settings()
        },
    );
    let nobody = ClientConfig::certificate("ECDHE-ECDSA-AES128-GCM-SHA256", &ca.certificate);
    let (mut first, known) = server.establish(&psk_client(GCM), peer(1));
    server.now += Duration::from_secs(60);
    for n in 2..40 {
        server.establish(&nobody, peer(n));
        server.now += Duration::from_secs(1);
    }
    assert!(
        server.talks(&mut first, known, peer(1)),
        "the most idle one of all stays"
    );
    for n in 50..53 {
        server.establish(&psk_client(GCM), peer(n));
    }
    assert_eq!(server.listener.len(), 4);
    server.handshake(&nobody, peer(60));
    assert!(
        !server
            .seen
            .iter()
            .any(|seen| matches!(seen, Seen::Closed(id, _) if *id == known))
    );
    assert_eq!(server.listener.len(), 4);
    assert_eq!(server.metrics.handshakes.get(HandshakeResult::Limit), 1);
    assert!(server.talks(&mut first, known, peer(1)));
}

#[test]
fn an_identity_with_its_share_of_sessions_makes_room_of_its_own() {
    let mut server = Server::new(
        &material(),
        DtlsSettings {
            sessions_per_identity: 3,
            ..settings()
        },
    );
    let other = ClientConfig::psk(GCM, "u2", KEY);
    let (mut honest, standing) = server.establish(&other, peer(1));
    server.now += Duration::from_secs(60);
    let mut own = Vec::new();
    for n in 2..9 {
        own.push(server.establish(&psk_client(GCM), peer(n)).1);
        server.now += Duration::from_secs(2);
    }
    let evicted: Vec<_> = (0..4)
        .map(|n| Seen::Closed(own[n], CloseReason::Evicted))
        .collect();
    let seen = server.seen.iter().filter(|seen| matches!(seen, Seen::Closed(..)));
    assert!(seen.eq(&evicted), "{:?}", server.seen);
    assert_eq!(server.listener.len(), 4);
    assert_eq!(server.metrics.limits.get(Limit::IdentitySessions), 4);
    assert!(server.talks(&mut honest, standing, peer(1)));
}

#[test]
fn close_and_close_all_say_goodbye_without_an_event() {
    let mut server = Server::new(&material(), settings());
    let (mut a, first) = server.establish(&psk_client(GCM), peer(1));
    let (mut b, second) = server.establish(&psk_client(GCM), peer(2));
    server.seen.clear();
    server
        .listener
        .close(server.now, first, CloseReason::Kicked, &mut server.transmits);
    for (_, datagram) in server.output() {
        a.handle(&datagram);
    }
    assert!(a.is_closed());
    let send = |listener: &mut DtlsListener, session| {
        listener.send(session, b"x", &mut portcullis::types::Transmits::default())
    };
    assert_eq!(send(&mut server.listener, first), Err(SendError::NoSession));
    assert_eq!(send(&mut server.listener, second), Ok(()));
    server
        .listener
        .close_all(server.now, CloseReason::Shutdown, &mut server.transmits);
    for (_, datagram) in server.output() {
        b.handle(&datagram);
    }
    assert!(server.listener.is_empty() && server.listener.poll_event().is_none());
    assert_eq!(server.metrics.closed.get(CloseReason::Kicked), 1);
}

#[test]
fn a_key_that_sealed_as_much_as_it_may_ends_its_session_with_a_goodbye() {
    for (suite, cid) in [
        ("PSK-AES128-CCM8", None),
        ("PSK-AES128-GCM-SHA256", Some(vec![1])),
    ] {
        let limited = DtlsSettings {
            records_per_key: 20,
            ..settings()
        };
        let mut server = Server::new(&material(), limited);
        let config = ClientConfig {
            cid,
            ..psk_client(suite)
        };
        let (mut client, session) = server.establish(&config, peer(1));
        // What comes in wears out another key.
        for _ in 0..50 {
            client.send(b"in");
            server.exchange(&mut client, peer(1));
        }
        let mut sent = 0;
        let outcome = loop {
            match server.listener.send(session, b"out", &mut server.transmits) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((sent, outcome), (19, SendError::KeyLimit));
        for (_, datagram) in server.output() {
            client.handle(&datagram);
        }
        assert!(client.is_closed(), "close_notify is the last record");
        server.collect_events();
        assert_eq!(
            server.seen.last(),
            Some(&Seen::Closed(session, CloseReason::KeyLimit))
        );
        let (mut client, session) = server.establish(&config, peer(1));
        assert!(server.talks(&mut client, session, peer(1)));
    }
}
