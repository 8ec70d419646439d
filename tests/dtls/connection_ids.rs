//! Connection IDs (RFC 9146): negotiated, found by, moved by those who may.

use std::time::Duration;

use portcullis::dtls::contract::{CloseReason, DtlsSettings, SessionId};
use portcullis::dtls::metrics::RecordDrop;
use portcullis::dtls::{DtlsMaterial, DtlsShared, SendError, Verify};
use portcullis::types::PeerAddr;

use crate::bench::*;
use crate::certificates::{client_with, with_clients};
use crate::certs::{Recipe, authority};
use crate::dtls_client::{ClientConfig, DtlsClient};

const GCM: &str = "PSK-AES128-GCM-SHA256";

fn with_cid(cid: &[u8]) -> ClientConfig {
    ClientConfig {
        cid: Some(cid.to_vec()),
        ..psk_client(GCM)
    }
}

/// A request of peer `n` that must be heard, and its answer, which must arrive.
fn exchange(server: &mut Server, client: &mut DtlsClient, session: SessionId, n: u16) {
    exchange_at(server, client, session, peer(n));
}

fn exchange_at(server: &mut Server, client: &mut DtlsClient, session: SessionId, at: PeerAddr) {
    server.now += Duration::from_millis(1);
    let before = server.seen.len();
    client.send(b"request of some length");
    for datagram in client.take() {
        server.input(at, &datagram);
    }
    assert!(server.seen[before..].contains(&Seen::Plaintext(session, b"request of some length".to_vec())));
    server
        .listener
        .send(session, b"answer", &mut server.transmits)
        .unwrap();
    for (to, datagram) in server.output() {
        assert_eq!(to, at.socket_addr());
        client.handle(&datagram);
    }
    assert_eq!(client.received(), [b"answer".to_vec()]);
}

#[test]
fn every_suite_and_length_of_cid_talks() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let device = Recipe::client("device").make(Some(&ca));
    let material = DtlsMaterial {
        psks: material().psks,
        ..with_clients(&own, &ca, Verify::Optional)
    };
    let mut server = Server::of_worker(&material, settings(), 5, start());
    let long = [9; 255];
    let mut n = 0;
    for cid in [&[][..], &[1], &[0xc0, 0xff, 0xee], &[2; 20], &long] {
        let mut configs: Vec<_> = ALL_PSK
            .iter()
            .map(|suite| ClientConfig {
                cid: Some(cid.to_vec()),
                ..psk_client(suite)
            })
            .collect();
        configs.push(ClientConfig {
            cid: Some(cid.to_vec()),
            ..client_with("ECDHE-ECDSA-AES128-CCM8", &ca, &device)
        });
        for config in configs {
            n += 1;
            let (mut client, session) = server.establish(&config, peer(n));
            assert!(server.listener.session(session).unwrap().cid);
            let ours = client.server_cid().unwrap();
            assert_eq!((ours.len(), ours[0]), (8, 5));
            for _ in 0..10 {
                assert!(server.talks(&mut client, session, peer(n)));
            }
        }
    }
    assert_eq!(server.metrics.cid_sessions.get(), u64::from(n));
}

#[test]
fn a_record_of_another_node_that_lives_goes_there_as_it_came_and_one_of_nobody_nowhere() {
    let shared = DtlsShared::new([9; 32], start());
    shared.nodes().set(Some(0x0102), [0x0102, 0x0304]);
    let mut server = Server::sharing(&material(), settings(), 5, start(), shared);
    let (mut client, session) = server.establish(&with_cid(&[1]), peer(1));
    assert_eq!(client.server_cid().unwrap()[..3], [5, 1, 2]);
    exchange(&mut server, &mut client, session, 1);
    client.send(b"of another node");
    let record = client.take().remove(0);
    let named = |high, low| {
        let mut record = record.clone();
        (record[12], record[13], record[14]) = (high, low, record[14] ^ 1);
        record
    };
    let before = server.seen.len();
    let elsewhere = named(3, 4);
    // Two of one datagram go as one, and what is not for this node has no part in its session.
    let two = [&elsewhere[..], &elsewhere].concat();
    assert!(server.input(peer(1), &two).is_empty());
    assert_eq!(server.seen[before..], [Seen::OfNode(0x0304, two)]);
    for (high, low) in [(1, 2), (9, 9), (0, 0)] {
        server.input(peer(1), &named(high, low));
    }
    assert_eq!(server.metrics.records_dropped.get(RecordDrop::UnknownCid), 3);
    assert_eq!(server.seen.len(), before + 1);
    assert!(server.talks(&mut client, session, peer(1)));
}

/// A record with a Connection ID of node 0x0304, its body `len` bytes long.
fn of_another_node(len: u8) -> Vec<u8> {
    let mut record = vec![25, 254, 253, 0, 1, 0, 0, 0, 0, 0, 9];
    record.extend([5, 3, 4, 1, 1, 1, 1, 1, 0, len]);
    record.resize(record.len() + usize::from(len), 7);
    record
}

/// One of two nodes, with a session.
fn of_two_nodes() -> (Server, DtlsClient, SessionId) {
    let shared = DtlsShared::new([9; 32], start());
    shared.nodes().set(Some(0x0102), [0x0304]);
    let mut server = Server::sharing(&material(), settings(), 5, start(), shared);
    let (client, session) = server.establish(&with_cid(&[1]), peer(1));
    (server, client, session)
}

#[test]
fn one_datagram_of_thousands_of_tiny_records_does_not_become_as_many_for_another_node() {
    let (mut server, mut client, session) = of_two_nodes();
    let before = server.seen.len();
    for (n, len) in [0, 1, 9, 16].into_iter().enumerate() {
        let many = of_another_node(len).repeat(1_500);
        server.input(peer(2), &many);
        assert_eq!(server.seen.len(), before, "{len}");
        let dropped = server.metrics.records_dropped.get(RecordDrop::Malformed);
        assert_eq!(dropped, 1_500 * (n as u64 + 1));
    }
    let many = of_another_node(17).repeat(1_500);
    server.input(peer(2), &many);
    assert_eq!(server.seen[before..], [Seen::OfNode(0x0304, many)]);
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn a_flood_of_records_of_another_node_is_handed_on_at_a_rate_by_source_and_in_all() {
    let (mut server, mut client, session) = of_two_nodes();
    let record = of_another_node(20);
    let from = |source: u8| PeerAddr::new(([192, 0, 2, source], 5_000).into()).unwrap();
    let handed_on = |server: &mut Server, source, count| {
        let before = server.seen.len();
        for _ in 0..count {
            server.input(from(source), &record);
        }
        server.seen.len() - before
    };
    let one = handed_on(&mut server, 1, 3_000);
    assert_eq!(one, 2_000);
    assert_eq!(server.metrics.records_dropped.get(RecordDrop::ForwardRate), 1_000);
    // Another source has its own, and all together not more than there is for all.
    assert_eq!(handed_on(&mut server, 2, 10), 10);
    let all: usize = (3..20).map(|source| handed_on(&mut server, source, 2_000)).sum();
    assert_eq!(one + 10 + all, 20_000);
    assert!(server.talks(&mut client, session, peer(1)));
    server.now += Duration::from_secs(1);
    assert_eq!(handed_on(&mut server, 1, 10), 10);
}

#[test]
fn what_another_node_handed_on_is_not_handed_on_once_more() {
    let (mut server, mut client, session) = of_two_nodes();
    let of_node = |server: &mut Server, mut bytes: Vec<u8>| {
        let (now, transmits) = (server.now, &mut server.transmits);
        server
            .listener
            .handle_records_of_node(now, peer(9), &mut bytes, transmits)
    };
    assert!(!of_node(&mut server, of_another_node(20).repeat(3)));
    assert!(server.listener.poll_event().is_none());
    assert_eq!(server.metrics.records_dropped.get(RecordDrop::UnknownCid), 3);
    // Nor does it begin anything here: a hello in the clear, a record of a session without a Connection ID.
    let before = server.metrics.records_dropped.get(RecordDrop::CidRequired);
    for kind in [22, 23] {
        let clear = [&[kind, 254, 253][..], &[0; 8], &[0, 20], &[1; 20]].concat();
        assert!(!of_node(&mut server, clear));
    }
    assert_eq!(
        server.metrics.records_dropped.get(RecordDrop::CidRequired),
        before + 2
    );
    // A record of a session here is taken.
    client.send(b"by another node");
    assert!(of_node(&mut server, client.take().remove(0)));
    while server.listener.poll_event().is_some() {}
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn a_resumed_session_gets_a_new_cid() {
    let ca = authority("ca");
    let own = Recipe::server("server").make(Some(&ca));
    let device = Recipe::client("device").make(Some(&ca));
    let mut server = Server::new(&with_clients(&own, &ca, Verify::Required), settings());
    let config = ClientConfig {
        cid: Some(vec![1, 2]),
        ..client_with("ECDHE-ECDSA-AES128-GCM-SHA256", &ca, &device)
    };
    let (mut client, _) = server.establish(&config, peer(1));
    let cid = client.server_cid();
    let config = ClientConfig {
        session: Some(client.session()),
        ..config
    };
    let (mut client, session) = server.establish(&config, peer(2));
    assert!(client.is_resumed());
    assert_ne!(client.server_cid(), cid);
    for _ in 0..10 {
        assert!(server.talks(&mut client, session, peer(2)));
    }
}

#[test]
fn it_is_not_negotiated_where_it_is_off_or_not_asked_for() {
    let mut off = Server::new(
        &material(),
        DtlsSettings {
            cid: false,
            ..settings()
        },
    );
    let (mut client, session) = off.establish(&with_cid(&[1]), peer(1));
    assert_eq!(client.server_cid(), None);
    assert!(off.talks(&mut client, session, peer(1)));
    let mut off = Server::new(
        &DtlsMaterial {
            cid: false,
            ..material()
        },
        settings(),
    );
    let (client, _) = off.establish(&with_cid(&[1]), peer(1));
    assert_eq!(client.server_cid(), None);
    let mut on = Server::new(&material(), settings());
    let (_, session) = on.establish(&psk_client(GCM), peer(1));
    assert!(!on.listener.session(session).unwrap().cid);
    assert_eq!(on.metrics.cid_sessions.get(), 0);
}

#[test]
fn ten_changes_of_port_cost_no_handshake_and_no_exchange() {
    for cid in [&[][..], &[7, 7]] {
        let mut server = Server::new(&material(), settings());
        let (mut client, session) = server.establish(&with_cid(cid), peer(0));
        for n in 0..=10 {
            for _ in 0..3 {
                exchange(&mut server, &mut client, session, n);
            }
        }
        assert_eq!(server.metrics.address_changes.get(), 10);
        assert_eq!(server.metrics.cookies_sent.get(), 1);
        assert_eq!(server.listener.session(session).unwrap().address, peer(10));
        assert_eq!(server.listener.len(), 1);
    }
}

/// Another network each time, as a device sees it that roams; every third is IPv4, which a socket on `[::]` sees mapped.
fn roaming(n: u16) -> PeerAddr {
    let address = match n % 3 {
        0 => format!("[::ffff:198.51.100.{n}]:5684"),
        _ => format!("[2001:db8:{n:x}::{n:x}]:5684"),
    };
    PeerAddr::new(address.parse().unwrap()).unwrap()
}

#[test]
fn a_session_roams_between_networks_of_ipv6_and_ipv4() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&with_cid(&[7, 7]), roaming(1));
    for n in 1..=12 {
        for _ in 0..3 {
            exchange_at(&mut server, &mut client, session, roaming(n));
        }
    }
    assert_eq!(server.metrics.address_changes.get(), 11);
    assert_eq!(server.metrics.cookies_sent.get(), 1);
    assert_eq!(server.listener.session(session).unwrap().address, roaming(12));
}

#[test]
fn a_forger_cannot_move_a_session() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&with_cid(&[1]), peer(1));
    client.send(b"one");
    let first = client.take().remove(0);
    client.send(b"two");
    let second = client.take().remove(0);
    let mut flipped = second.clone();
    *flipped.last_mut().unwrap() ^= 1;
    server.input(peer(66), &flipped);
    server.input(peer(1), &second);
    server.seen.clear();
    server.input(peer(66), &second);
    assert!(server.seen.is_empty(), "a replay");
    server.input(peer(66), &first);
    assert_eq!(
        server.seen,
        [Seen::Plaintext(session, b"one".to_vec())],
        "older than one before: heard, not moved by"
    );
    assert_eq!(server.listener.session(session).unwrap().address, peer(1));
    assert_eq!(server.metrics.address_changes.get(), 0);
    exchange(&mut server, &mut client, session, 1);
}

#[test]
fn a_new_address_gets_three_times_what_came_from_it_until_it_is_confirmed() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&with_cid(&[1]), peer(1));
    client.send(&[1; 50]);
    let record = client.take().remove(0);
    server.input(peer(2), &record);
    assert!(server.seen.contains(&Seen::AddressChanged(session, peer(2))));
    let mut sent = 0;
    let outcome = loop {
        match server.listener.send(session, &[2; 40], &mut server.transmits) {
            Ok(()) => {
                sent += server
                    .output()
                    .iter()
                    .map(|(_, bytes)| bytes.len())
                    .sum::<usize>()
            }
            Err(error) => break error,
        }
    };
    assert_eq!(outcome, SendError::Unconfirmed);
    assert!(
        sent > record.len() && sent <= 3 * record.len(),
        "{sent} for {}",
        record.len()
    );
    server.now += Duration::from_millis(1);
    client.send(&[1; 50]);
    let second = client.take().remove(0);
    server.input(peer(2), &second);
    let mut more = 0;
    while server
        .listener
        .send(session, &[2; 40], &mut server.transmits)
        .is_ok()
    {
        more += server
            .output()
            .iter()
            .map(|(_, bytes)| bytes.len())
            .sum::<usize>();
    }
    assert!(
        sent + more <= 3 * (record.len() + second.len()),
        "another record says once more who it is, and not that it receives there"
    );
    server.listener.confirm_address(session);
    for _ in 0..100 {
        server
            .listener
            .send(session, &[2; 400], &mut server.transmits)
            .unwrap();
    }
}

/// Whoever sends a device's records on from elsewhere gets no more there by having the last flight sent again.
#[test]
fn a_last_flight_that_is_asked_for_at_a_new_address_keeps_to_what_may_go_there() {
    let mut server = Server::new(&material(), settings());
    let config = ClientConfig {
        cid: Some(vec![1]),
        ..psk_client("ECDHE-PSK-CHACHA20-POLY1305")
    };
    let (mut client, session) = server.establish(&config, peer(1));
    assert!(client.has_ticket(), "the flight is a long one");
    let (keys, cid) = (client.keys(), client.server_cid().unwrap());
    let (mut came, mut went) = (0, 0);
    for sequence in 10..60 {
        let what = portcullis::dtls::aead::Seal {
            kind: 22,
            sequence,
            explicit: sequence,
            cid: &cid,
            plaintext: &[
                20, 0, 0, 12, 0, 3, 0, 0, 0, 0, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
            ],
        };
        let mut finished = Vec::new();
        portcullis::dtls::aead::Aead::default()
            .seal(&keys.client, &what, &mut finished)
            .unwrap();
        came += finished.len();
        server.now += Duration::from_secs(1);
        let answers = server.input(peer(66), &finished);
        let there = answers.iter().filter(|(to, _)| *to == peer(66).socket_addr());
        went += there.map(|(_, bytes)| bytes.len()).sum::<usize>();
        assert!(went <= (3 * came).max(136), "{went} for {came}");
    }
    assert!(server.metrics.flights_repeated.get() > 0);
    client.send(b"still heard");
    for datagram in client.take() {
        server.input(peer(66), &datagram);
    }
    assert!(
        server
            .seen
            .contains(&Seen::Plaintext(session, b"still heard".to_vec()))
    );
}

#[test]
fn records_without_the_cid_are_not_taken_for_its_session() {
    let mut server = Server::new(&material(), settings());
    let (mut client, session) = server.establish(&with_cid(&[1]), peer(1));
    let keys = client.keys();
    let mut ordinary = Vec::new();
    let what = portcullis::dtls::aead::Seal {
        kind: 23,
        sequence: 99,
        explicit: 99,
        cid: &[],
        plaintext: b"x",
    };
    portcullis::dtls::aead::Aead::default()
        .seal(&keys.client, &what, &mut ordinary)
        .unwrap();
    server.seen.clear();
    server.input(peer(1), &ordinary);
    assert_eq!(server.dropped(RecordDrop::CidRequired), 1);
    assert!(server.seen.is_empty());
    exchange(&mut server, &mut client, session, 1);
}

#[test]
fn moving_onto_the_address_of_another_session_disturbs_neither() {
    let mut server = Server::new(&material(), settings());
    let (mut plain, fixed) = server.establish(&psk_client(GCM), peer(1));
    let (mut mover, moving) = server.establish(&with_cid(&[1]), peer(2));
    exchange(&mut server, &mut mover, moving, 1);
    assert!(server.talks(&mut plain, fixed, peer(1)));
    exchange(&mut server, &mut mover, moving, 1);
    assert!(server.talks(&mut plain, fixed, peer(1)));
    assert_eq!(server.listener.len(), 2);
}

#[test]
fn an_address_that_goes_to_another_device_does_not_end_the_session_that_left_it() {
    let mut server = Server::new(&material(), settings());
    let (mut sleeper, session) = server.establish(&with_cid(&[1]), peer(1));
    let other = ClientConfig {
        cid: Some(vec![2]),
        ..ClientConfig::psk(GCM, "u2", KEY)
    };
    let (mut newcomer, next) = server.establish(&other, peer(1));
    exchange(&mut server, &mut newcomer, next, 1);
    exchange(&mut server, &mut sleeper, session, 3);
    server.seen.clear();
    let again = ClientConfig {
        cid: Some(vec![3]),
        ..ClientConfig::psk(GCM, "u2", KEY)
    };
    server.establish(&again, peer(1));
    assert_eq!(server.seen[0], Seen::Closed(next, CloseReason::Replaced));
    exchange(&mut server, &mut sleeper, session, 3);
}
