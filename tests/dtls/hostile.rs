//! What arrives from people who mean no good.

use std::time::Duration;

use openssl::rand::rand_bytes;
use portcullis::dtls::SendError;
use portcullis::dtls::aead::{Aead, Seal};
use portcullis::dtls::contract::{CloseReason, DtlsEvent, DtlsNote, DtlsSettings};
use portcullis::dtls::metrics::{Alert, HandshakeResult, RecordDrop};
use portcullis::dtls::record::{ALERT, APPLICATION_DATA, HANDSHAKE, write_header};
use portcullis::dtls::suite::Algorithm;
use portcullis::types::reason::Limit;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bench::*;
use crate::cookies::two_hellos;
use crate::dtls_client::{ClientConfig, DtlsClient};

const GCM: &str = "PSK-AES128-GCM-SHA256";
const CCM8: &str = "PSK-AES128-CCM8";

pub fn sealed(client: &DtlsClient, kind: u8, sequence: u64, plaintext: &[u8]) -> Vec<u8> {
    let keys = client.keys();
    let mut out = Vec::new();
    let what = Seal {
        kind,
        sequence,
        explicit: 1 << 40 | sequence,
        cid: &[],
        plaintext,
    };
    Aead::default().seal(&keys.client, &what, &mut out).unwrap();
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
fn one_send_is_one_datagram_up_to_the_limit_of_records() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&psk_client(GCM), peer(1));
    for len in [0, 1, 1200, 5000, 16_384] {
        server
            .listener
            .send(session, &vec![7; len], &mut server.transmits)
            .unwrap();
        let out = server.output();
        assert_eq!(out.len(), 1);
        client.handle(&out[0].1);
        assert_eq!(client.received().concat(), vec![7; len]);
    }
    let result = server
        .listener
        .send(session, &vec![7; 16_385], &mut server.transmits);
    assert_eq!(result, Err(SendError::TooLong));
    client.send(&[8; 16_384]);
    server.seen.clear();
    server.exchange(&mut client, peer(1));
    assert_eq!(server.seen, [Seen::Plaintext(session, vec![8; 16_384])]);
}

#[test]
fn a_record_is_no_longer_than_its_peer_agreed_to_take() {
    for (n, agreed) in [(1, 512), (2, 1024), (3, 2048), (4, 4096)] {
        for (suite, cid) in [
            (GCM, None),
            (CCM8, Some(vec![1, 2])),
            ("PSK-AES256-GCM-SHA384", Some(vec![])),
        ] {
            let inner = usize::from(cid.is_some());
            let config = ClientConfig {
                max_fragment: Some(n),
                cid,
                ..psk_client(suite)
            };
            let mut server = Server::new(&material(), settings());
            let (mut client, session) = server.establish(&config, peer(1));
            let most = server.listener.max_plaintext(session);
            assert_eq!(most, agreed - inner);
            assert_eq!(server.listener.session(session).unwrap().max_plaintext, most);
            let mut send = |len| {
                server
                    .listener
                    .send(session, &vec![7; len], &mut server.transmits)
            };
            assert_eq!(send(most + 1), Err(SendError::TooLong));
            assert_eq!(send(most), Ok(()));
            // OpenSSL's client ends a session over a longer one.
            client.handle(&server.output().remove(0).1);
            assert_eq!(client.received().concat(), vec![7; most]);
            assert!(server.talks(&mut client, session, peer(1)));
        }
    }
}

#[test]
fn a_forged_alert_of_a_wrong_length_ends_no_handshake() {
    for body in [&[][..], &[2], &[2, 40, 0]] {
        let mut server = Server::new(&material(), settings());
        let (mut client, _, second) = two_hellos(&mut server, &psk_client(GCM), 1);
        let answers = server.input(peer(1), &second);
        server.input(peer(1), &plain(ALERT, 0, body));
        assert_eq!(server.listener.half_open(), 1, "{body:?}");
        assert_eq!(server.dropped(RecordDrop::Unprotected), 1);
        for (_, answer) in answers {
            client.handle(&answer);
        }
        server.exchange(&mut client, peer(1));
        assert!(client.is_connected(), "{body:?}");
    }
}

/// As many handshakes in flight as there is room for, the n-th begun after n seconds at peer n.
fn crowded(places: u16) -> (Server, Vec<Vec<u8>>) {
    let mut server = Server::new(
        &material(),
        DtlsSettings {
            max_half_open: usize::from(places),
            ..settings()
        },
    );
    let mut hellos = Vec::new();
    for n in 0..places {
        let (_, _, second) = two_hellos(&mut server, &psk_client(GCM), n);
        server.input(peer(n), &second);
        hellos.push(second);
        server.now += Duration::from_secs(1);
    }
    (server, hellos)
}

#[test]
fn whoever_keeps_the_oldest_handshake_busy_does_not_keep_the_silent_ones_in_place() {
    let (mut server, hellos) = crowded(4);
    // The oldest is heard of once more; the second has been silent for longest now.
    server.input(peer(0), &hellos[0]);
    let (mut client, _, second) = two_hellos(&mut server, &psk_client(GCM), 50);
    let answers = server.input(peer(50), &second);
    assert_eq!(server.listener.half_open(), 4);
    for (to, answer) in answers {
        // The one that gives way is told so.
        if to == peer(50).socket_addr() {
            client.handle(&answer);
        } else {
            assert_eq!((to, answer[0]), (peer(1).socket_addr(), ALERT));
        }
    }
    server.exchange(&mut client, peer(50));
    assert!(client.is_connected());
    assert_eq!(server.metrics.limits.get(Limit::HalfOpen), 1);
}

#[test]
fn the_handshake_that_gave_way_is_the_one_that_is_said_to_have_failed() {
    let (mut server, _) = crowded(3);
    let (_, _, mut second) = two_hellos(&mut server, &psk_client(GCM), 50);
    server.listener.set_watched(true);
    server
        .listener
        .handle_datagram(server.now, peer(50), &mut second, &mut server.transmits);
    let mut failed = Vec::new();
    while let Some(event) = server.listener.poll_event() {
        if let DtlsEvent::Noted {
            address,
            note: DtlsNote::Failed { result, .. },
            ..
        } = event
        {
            failed.push((address, result));
        }
    }
    assert_eq!(failed, [(peer(0), HandshakeResult::Limit)]);
    assert_eq!(server.results(HandshakeResult::Limit), 1);
}
