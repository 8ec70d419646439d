//! What arrives from people who mean no good, and from networks that do no good.

use std::time::Duration;

use openssl::rand::rand_bytes;
use portcullis::dtls::aead::{Aead, Seal};
use portcullis::dtls::contract::{CloseReason, DtlsSettings};
use portcullis::dtls::metrics::{Alert, HandshakeResult, RecordDrop};
use portcullis::dtls::record::{ALERT, APPLICATION_DATA, HANDSHAKE, write_header};
use portcullis::dtls::suite::Algorithm;
use portcullis::dtls::{DtlsListener, SendError};
use portcullis::types::reason::Limit;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bench::*;
use crate::cookies::two_hellos;
use crate::dtls_client::{ClientConfig, DtlsClient};

const GCM: &str = "PSK-AES128-GCM-SHA256";
const CCM8: &str = "PSK-AES128-CCM8";

fn sealed(client: &DtlsClient, kind: u8, sequence: u64, plaintext: &[u8]) -> Vec<u8> {
    let keys = client.keys();
    let mut out = Vec::new();
    let what = Seal {
        kind,
        sequence,
        explicit: 1 << 40 | sequence,
        cid: &[],
        plaintext,
    };
    Aead::default()
        .seal(keys.algorithm, &keys.client, &what, &mut out)
        .unwrap();
    out
}

fn plain(kind: u8, epoch: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(&mut out, kind, epoch, 77, &[], body.len());
    out.extend_from_slice(body);
    out
}

#[test]
fn records_in_the_clear_and_of_strange_kinds_end_in_their_reasons() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    server.seen.clear();
    let mut old = plain(HANDSHAKE, 0, &[2; 40]);
    old[2] = 0xfc;
    let cases = [
        (vec![], RecordDrop::Empty),
        (vec![22], RecordDrop::Malformed),
        (
            plain(HANDSHAKE, 0, &[0; 20])[..30].to_vec(),
            RecordDrop::Malformed,
        ),
        (old, RecordDrop::Version),
        (plain(ALERT, 0, &[2, 40]), RecordDrop::Unprotected),
        (plain(ALERT, 0, &[1, 0]), RecordDrop::Unprotected),
        (plain(APPLICATION_DATA, 0, b"x"), RecordDrop::Unprotected),
        (plain(20, 0, &[1]), RecordDrop::NoHandshake),
        (plain(HANDSHAKE, 0, &[14; 12]), RecordDrop::NoHandshake),
        (plain(HANDSHAKE, 0, &[1; 9]), RecordDrop::NoHandshake),
        (
            plain(HANDSHAKE, 0, &[1, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9]),
            RecordDrop::BadHello,
        ),
        (plain(APPLICATION_DATA, 2, &[0; 40]), RecordDrop::Epoch),
        (plain(HANDSHAKE, 65_535, &[0; 40]), RecordDrop::Epoch),
        (plain(24, 0, &[0; 40]), RecordDrop::ContentType),
        (plain(20, 1, &[1]), RecordDrop::ContentType),
        (plain(99, 1, &[1; 50]), RecordDrop::ContentType),
        (plain(APPLICATION_DATA, 1, &[0; 40]), RecordDrop::NotAuthentic),
        (plain(APPLICATION_DATA, 1, &[0; 3]), RecordDrop::NotAuthentic),
        (plain(25, 1, &[0; 40]), RecordDrop::UnknownCid),
    ];
    for (datagram, reason) in cases {
        let before = server.dropped(reason);
        assert!(server.input(peer(1), &datagram).is_empty(), "{reason:?}");
        assert_eq!(server.dropped(reason), before + 1, "{reason:?}");
        assert!(server.seen.is_empty());
    }
    assert!(
        server
            .input(peer(2), &plain(APPLICATION_DATA, 1, &[0; 40]))
            .is_empty()
    );
    assert_eq!(server.dropped(RecordDrop::UnknownSession), 1);
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn ten_thousand_random_datagrams_change_nothing() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    let mut rng = StdRng::seed_from_u64(5);
    for n in 0..10_000u32 {
        let mut datagram = vec![0; rng.random_range(0..400)];
        rand_bytes(&mut datagram).unwrap();
        if n % 2 == 0 && datagram.len() > 12 {
            let len = (datagram.len() - 13).to_be_bytes();
            datagram[..3].copy_from_slice(&[[20, 21, 22, 23, 25][n as usize / 2 % 5], 0xfe, 0xfd]);
            datagram[3..5].copy_from_slice(&[0, (n % 3) as u8]);
            datagram[11..13].copy_from_slice(&len[6..]);
        }
        server.input(peer((n % 3) as u16), &datagram);
    }
    assert_eq!((server.listener.len(), server.listener.half_open()), (1, 0));
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn replayed_cut_and_flipped_records_are_dropped_and_the_session_goes_on() {
    for suite in [GCM, "PSK-AES128-CCM", "PSK-CHACHA20-POLY1305"] {
        let mut server = Server::new(&material(), settings());
        let (mut client, session) = server.establish(&psk_client(suite), peer(1));
        client.send(b"once");
        let record = client.take().remove(0);
        for at in 13..record.len() {
            let mut flipped = record.clone();
            flipped[at] ^= 1;
            server.input(peer(1), &flipped);
            server.input(peer(1), &record[..at]);
        }
        server.seen.clear();
        server.input(peer(1), &record);
        server.input(peer(1), &record);
        assert_eq!(server.seen, [Seen::Plaintext(session, b"once".to_vec())]);
        assert_eq!(server.dropped(RecordDrop::Replay), 1);
        assert!(
            server.dropped(RecordDrop::NotAuthentic) >= 20 && server.dropped(RecordDrop::Malformed) >= 20
        );
        assert!(server.talks(&mut client, session, peer(1)));
    }
}

/// A record that nobody sealed, at the next sequence number that its receiver expects.
fn forged(n: u32) -> Vec<u8> {
    let mut body = vec![0; 40];
    body[..4].copy_from_slice(&n.to_be_bytes());
    plain(APPLICATION_DATA, 1, &body)
}

#[test]
fn whoever_writes_a_devices_address_on_forgeries_cannot_end_its_ccm_8_session() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(CCM8), peer(1));
    server.seen.clear();
    for second in 0..40 {
        for n in 0..1000 {
            assert!(server.input(peer(1), &forged(second << 10 | n)).is_empty());
        }
        server.now += Duration::from_secs(1);
        assert!(
            server.talks(&mut client, session, peer(1)),
            "after second {second}"
        );
    }
    assert_eq!(server.dropped(RecordDrop::NotAuthentic), 40 * 128);
    assert_eq!(server.dropped(RecordDrop::ForgeryRate), 40 * (1000 - 128));
    assert!(!server.seen.iter().any(|seen| matches!(seen, Seen::Closed(..))));
}

#[test]
fn forgeries_slower_than_the_limit_cost_a_ccm_8_session_no_record() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(CCM8), peer(1));
    for n in 0..20_000 {
        server.input(peer(1), &forged(n));
        server.now += Duration::from_micros(7_900);
        if n % 50 == 0 {
            assert!(server.talks(&mut client, session, peer(1)), "after {n}");
        }
    }
    assert_eq!(server.dropped(RecordDrop::ForgeryRate), 0);
}

#[test]
fn ccm_8_gives_up_its_keys_after_a_million_forgeries() {
    let mut server = Server::new(&material(), settings());
    let (_, session) = server.establish(&psk_client(CCM8), peer(1));
    server.seen.clear();
    let limit = Algorithm::Ccm8.failure_limit();
    for n in 0..limit - 1 {
        server.input(peer(1), &forged(n as u32));
        if n % 128 == 127 {
            server.now += Duration::from_secs(1);
        }
        if n % 65_536 == 0 {
            assert!(server.seen.is_empty(), "after {n}");
        }
    }
    assert_eq!(server.input(peer(1), &forged(0)).len(), 1, "close_notify");
    assert_eq!(server.seen, [Seen::Closed(session, CloseReason::KeyLimit)]);
    let (mut client, session) = server.establish(&psk_client(CCM8), peer(1));
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn a_device_that_starts_again_amid_forgeries_gets_its_new_session() {
    let mut server = Server::new(&material(), settings());
    let (_, old) = server.establish(&psk_client(CCM8), peer(1));
    for n in 0..200 {
        server.input(peer(1), &forged(n));
    }
    let (mut client, session) = server.establish(&psk_client(CCM8), peer(1));
    assert_ne!(session, old);
    assert!(
        server.talks(&mut client, session, peer(1)),
        "{:?} {:?}",
        server.seen,
        client.failure()
    );
}

#[test]
fn several_records_in_a_datagram_are_several_events_in_order() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    server.seen.clear();
    let mut datagram = Vec::new();
    for n in 0..5u8 {
        client.send(&[n; 3]);
        datagram.extend(client.take().remove(0));
        datagram.extend(plain(ALERT, 0, &[2, 40]));
    }
    server.input(peer(1), &datagram);
    let expected: Vec<_> = (0..5u8).map(|n| Seen::Plaintext(session, vec![n; 3])).collect();
    assert_eq!(server.seen, expected);
}

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
fn renegotiation_is_refused_and_the_session_goes_on() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    for n in 0..20 {
        server.input(peer(1), &sealed(&client, HANDSHAKE, 30 + n, &[1; 60]));
    }
    assert_eq!(server.metrics.alerts_sent.get(Alert::NoRenegotiation), 8);
    assert_eq!(server.dropped(RecordDrop::Renegotiation), 20);
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn a_handshake_survives_forged_alerts_data_and_early_records() {
    let mut server = Server::new(&material(), settings());
    let (mut client, _, second) = two_hellos(&mut server, &psk_client(GCM), 1);
    let answers = server.input(peer(1), &second);
    for forged in [
        plain(ALERT, 0, &[2, 40]),
        plain(ALERT, 0, &[1, 0]),
        plain(APPLICATION_DATA, 0, b"data"),
        plain(20, 0, &[2]),
        plain(HANDSHAKE, 1, &[0; 40]),
        plain(HANDSHAKE, 0, &[16, 0xff, 0xff, 0xff, 0, 2, 0, 0, 0, 0, 0, 1, 0]),
        plain(HANDSHAKE, 0, &[16, 0, 0, 9, 0, 200, 0, 0, 0, 0, 0, 1, 0]),
        plain(HANDSHAKE, 0, &[11, 0, 0, 9, 0, 2, 0, 0, 0, 0, 0, 1, 0]),
    ] {
        server.input(peer(1), &forged);
        assert_eq!(server.listener.half_open(), 1);
    }
    assert_eq!(server.dropped(RecordDrop::Fragment), 3);
    for (_, answer) in answers {
        client.handle(&answer);
    }
    server.exchange(&mut client, peer(1));
    assert!(client.is_connected());
    assert_eq!(server.results(HandshakeResult::Ok), 1);
}

#[test]
fn a_finished_that_overtakes_is_kept() {
    for cid in [None, Some(vec![1])] {
        let mut server = Server::new(&material(), settings());
        let config = ClientConfig {
            cid,
            ..psk_client(GCM)
        };
        let (mut client, _, second) = two_hellos(&mut server, &config, 1);
        for (_, answer) in server.input(peer(1), &second) {
            client.handle(&answer);
        }
        let mut records = Vec::new();
        for datagram in client.take() {
            let mut rest = &*datagram;
            let cid_len = if rest.len() > 12 { 8 } else { 0 };
            while let Some(header) = portcullis::dtls::record::Header::parse(rest, cid_len) {
                records.push(rest[..header.record_len()].to_vec());
                rest = &rest[header.record_len()..];
            }
        }
        records.reverse();
        assert_eq!(records.len(), 3);
        // Finished, then the key exchange, then ChangeCipherSpec.
        let change = records.remove(1);
        records.push(change);
        for record in records {
            for (_, answer) in server.input(peer(1), &record) {
                client.handle(&answer);
            }
        }
        assert!(client.is_connected());
        assert_eq!(server.listener.len(), 1);
    }
}

#[test]
fn the_last_flight_comes_again_when_the_client_missed_it() {
    for cid in [None, Some(vec![]), Some(vec![1, 2, 3])] {
        let mut server = Server::new(&material(), settings());
        let config = ClientConfig {
            cid,
            ..psk_client(GCM)
        };
        let (mut client, _, second) = two_hellos(&mut server, &config, 1);
        for (_, answer) in server.input(peer(1), &second) {
            client.handle(&answer);
        }
        let flight = client.take();
        let mut lost = Vec::new();
        for datagram in &flight {
            lost.extend(server.input(peer(1), datagram));
        }
        assert_eq!(server.listener.len(), 1);
        assert!(!lost.is_empty() && !client.is_connected());
        // OpenSSL repeats its flight under new sequence numbers after a second.
        std::thread::sleep(Duration::from_millis(1050));
        server.now += Duration::from_millis(1050);
        client.connect();
        let mut again = Vec::new();
        for datagram in client.take() {
            for (_, answer) in server.input(peer(1), &datagram) {
                again.push(answer.clone());
                client.handle(&answer);
            }
        }
        assert_eq!(
            again,
            lost.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
        );
        assert!(client.is_connected(), "{:?}", client.failure());
        let Some(Seen::Established(session, _)) = server.seen.last().cloned() else {
            panic!()
        };
        assert!(server.talks(&mut client, session, peer(1)));
        assert_eq!(server.metrics.flights_repeated.get(), 1);
    }
}

#[test]
fn a_repeated_hello_brings_the_lost_flight_again() {
    for cid in [None, Some(vec![4, 5])] {
        let mut server = Server::new(&material(), settings());
        let config = ClientConfig {
            cid,
            ..psk_client(GCM)
        };
        let (mut client, _, second) = two_hellos(&mut server, &config, 1);
        let lost = server.input(peer(1), &second);
        assert!(!lost.is_empty());
        assert!(server.input(peer(1), &second).is_empty(), "too soon");
        server.now += Duration::from_secs(1);
        let again = server.input(peer(1), &second);
        assert_eq!(lost, again);
        assert_eq!(server.listener.half_open(), 1);
        for (_, answer) in again {
            client.handle(&answer);
        }
        server.exchange(&mut client, peer(1));
        let Some(Seen::Established(session, _)) = server.seen.last().cloned() else {
            panic!()
        };
        assert!(server.talks(&mut client, session, peer(1)));
    }
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
        listener.send(
            start(),
            session,
            b"x",
            &mut portcullis::types::Transmits::default(),
        )
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
fn one_send_is_one_datagram_up_to_the_limit_of_records() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    for len in [0, 1, 1200, 5000, 16_384] {
        server
            .listener
            .send(server.now, session, &vec![7; len], &mut server.transmits)
            .unwrap();
        let out = server.output();
        assert_eq!(out.len(), 1);
        client.handle(&out[0].1);
        assert_eq!(client.received().concat(), vec![7; len]);
    }
    let result = server
        .listener
        .send(server.now, session, &vec![7; 16_385], &mut server.transmits);
    assert_eq!(result, Err(SendError::TooLong));
    client.send(&[8; 16_384]);
    server.seen.clear();
    server.exchange(&mut client, peer(1));
    assert_eq!(server.seen, [Seen::Plaintext(session, vec![8; 16_384])]);
}

/// A path that loses, doubles and reorders. What happens to the n-th datagram depends on n alone, so that the clock, which
/// decides when OpenSSL repeats a flight, does not decide what is lost.
struct Path(StdRng);

impl Path {
    /// Lost and doubled, of 100.
    const LOST: u32 = 30;
    const DOUBLED: u32 = 10;

    fn carry(&mut self, datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for datagram in datagrams {
            let fate = self.0.random_range(0..100);
            if fate >= Self::LOST {
                if fate < Self::LOST + Self::DOUBLED {
                    out.push(datagram.clone());
                }
                let at = self.0.random_range(0..=out.len());
                out.insert(at, datagram);
            }
        }
        out
    }
}

#[test]
fn handshakes_come_through_loss_duplication_and_reordering() {
    let mut server = Server::new(
        &material(),
        DtlsSettings {
            handshake_timeout: Duration::from_secs(60),
            ..settings()
        },
    );
    let started = server.now;
    let path = |n: u16, towards: u64| Path(StdRng::seed_from_u64(17 << 16 | u64::from(n) << 1 | towards));
    let mut paths: Vec<_> = (0..40).map(|n| (path(n, 0), path(n, 1))).collect();
    let mut clients: Vec<_> = (0..40u16)
        .map(|n| {
            let cid = (n % 2 == 0).then(|| vec![n as u8; (n % 4) as usize]);
            let mut client = DtlsClient::new(&ClientConfig {
                cid,
                ..psk_client(ALL_PSK[n as usize % 5])
            });
            client.connect();
            client
        })
        .collect();
    let connected = |clients: &[DtlsClient]| clients.iter().filter(|client| client.is_connected()).count();
    // The last of them wait for OpenSSL's doubled timers: 19 of 20 have to come through.
    while connected(&clients) < 38 && started.elapsed() < Duration::from_secs(100) {
        for (n, client) in clients.iter_mut().enumerate() {
            let at = peer(n as u16);
            let (up, down) = &mut paths[n];
            client.connect();
            for datagram in up.carry(client.take()) {
                let answers = server
                    .input(at, &datagram)
                    .into_iter()
                    .map(|(_, bytes)| bytes)
                    .collect();
                for answer in down.carry(answers) {
                    client.handle(&answer);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        server.now = start();
        server.listener.handle_timeout(server.now, &mut server.transmits);
        for (to, datagram) in server.output() {
            if let Some(n) = (0..40u16).find(|n| peer(*n).socket_addr() == to) {
                for datagram in paths[n as usize].1.carry(vec![datagram]) {
                    clients[n as usize].handle(&datagram);
                }
            }
        }
    }
    let connected = connected(&clients);
    assert!(connected >= 38, "{connected} of 40");
    server.now += Duration::from_secs(70);
    server.listener.handle_timeout(server.now, &mut server.transmits);
    server.output();
    assert_eq!(server.listener.half_open(), 0);
    let mut talking = 0;
    for n in 0..40u16 {
        let session = server.seen.iter().rev().find_map(|seen| match seen {
            Seen::Established(session, _)
                if server
                    .listener
                    .session(*session)
                    .is_some_and(|info| info.address == peer(n)) =>
            {
                Some(*session)
            }
            _ => None,
        });
        if let Some(session) = session.filter(|_| clients[n as usize].is_connected()) {
            talking += usize::from(server.talks(&mut clients[n as usize], session, peer(n)));
        }
    }
    assert!(talking >= connected, "{talking} of {connected} talk");
    assert!(server.listener.len() <= 40, "ghosts");
}
