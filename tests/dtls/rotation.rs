//! Two keys of one identity, valid at once, so that a device can be given a new one.

use std::time::Duration;

use portcullis::dtls::DtlsContext;
use portcullis::dtls::contract::CloseReason;
use portcullis::dtls::metrics::HandshakeResult;
use portcullis::dtls::record::Header;

use crate::bench::*;
use crate::dtls_client::{ClientConfig, DtlsClient};

const OLD: &[u8] = b"the-old-key-of-u1";
const NEW: &[u8] = b"the new key of u1, which is longer than it";
const ECDHE: &str = "ECDHE-PSK-CHACHA20-POLY1305";
const GCM: &str = "PSK-AES128-GCM-SHA256";

fn two_keys(identity: &str) -> String {
    format!(
        "{identity}:{}\nu2:{}\n{identity}:{}",
        hex(OLD),
        hex(KEY),
        hex(NEW)
    )
}

fn server() -> Server {
    let mut material = material();
    material.psks = Some(psks(&two_keys("u1")));
    Server::new(&material, settings())
}

fn device(suite: &str, key: &[u8]) -> ClientConfig {
    ClientConfig::psk(suite, "u1", key)
}

/// The records of the client's next flight, each a datagram.
fn records(client: &mut DtlsClient) -> Vec<Vec<u8>> {
    let flight = client.take().concat();
    let (mut rest, mut records) = (&*flight, Vec::new());
    while let Some(header) = Header::parse(rest, 0) {
        let (record, after) = rest.split_at(header.record_len());
        records.push(record.to_vec());
        rest = after;
    }
    records
}

/// A client whose last flight is next, and that flight.
fn at_last_flight(server: &mut Server, config: &ClientConfig, n: u16) -> (DtlsClient, Vec<Vec<u8>>) {
    let mut client = DtlsClient::new(config);
    client.connect();
    for _ in 0..2 {
        for datagram in client.take() {
            for (_, answer) in server.input(peer(n), &datagram) {
                client.handle(&answer);
            }
        }
    }
    let flight = records(&mut client);
    (client, flight)
}

fn feed(server: &mut Server, client: &mut DtlsClient, n: u16, records: &[Vec<u8>]) {
    for record in records {
        for (_, answer) in server.input(peer(n), record) {
            client.handle(&answer);
        }
    }
}

#[test]
fn either_key_is_taken_with_every_suite_and_with_both_master_secrets() {
    let mut server = server();
    let mut n = 1;
    for suite in ALL_PSK.into_iter().filter(|suite| !suite.starts_with("ECDHE")) {
        for key in [OLD, NEW] {
            for plain_master in [false, true] {
                for cid in [None, Some(vec![1, 2])] {
                    let config = ClientConfig {
                        plain_master,
                        cid,
                        ..device(suite, key)
                    };
                    let (mut client, session) = server.establish(&config, peer(n));
                    assert!(server.talks(&mut client, session, peer(n)), "{suite}");
                    n += 1;
                }
            }
        }
    }
    let other = ClientConfig::psk(GCM, "u2", KEY);
    server.establish(&other, peer(n));
    assert_eq!(server.all_dropped(), 0);
    assert_eq!(server.results(HandshakeResult::Ok), u64::from(n));
}

#[test]
fn the_last_flight_is_taken_in_any_order_and_in_fragments() {
    let identity = "i".repeat(255);
    let mut material = material();
    material.psks = Some(psks(&two_keys(&identity)));
    let mut server = Server::new(&material, settings());
    for (n, key) in [(1, OLD), (2, NEW)] {
        let config = ClientConfig {
            mtu: Some(256),
            ..ClientConfig::psk(GCM, &identity, key)
        };
        let (mut client, mut flight) = at_last_flight(&mut server, &config, n);
        assert!(flight.len() >= 4, "two fragments, ChangeCipherSpec, Finished");
        let finished = flight.pop().unwrap();
        flight.reverse();
        // ChangeCipherSpec first, Finished in the midst.
        flight.insert(2, finished);
        let change = flight.remove(0);
        flight.insert(1, change);
        feed(&mut server, &mut client, n, &flight);
        assert!(client.is_connected(), "{:?}", client.failure());
    }
}

#[test]
fn a_forged_finished_does_not_keep_the_right_one_out() {
    let mut server = server();
    let (mut client, flight) = at_last_flight(&mut server, &device(GCM, OLD), 1);
    let mut forged = flight[2].clone();
    *forged.last_mut().unwrap() ^= 1;
    let order = [forged, flight[0].clone(), flight[1].clone(), flight[2].clone()];
    feed(&mut server, &mut client, 1, &order);
    assert!(client.is_connected(), "{:?}", client.failure());
}

#[test]
fn a_client_with_neither_key_is_told_so() {
    let mut server = server();
    for (n, suite) in [(1, GCM), (2, ECDHE)] {
        let mut client = server.handshake(&device(suite, b"neither of them"), peer(n));
        assert!(!client.is_connected());
        for _ in 0..4 {
            let answers = server.advance(Duration::from_secs(1));
            answers.iter().for_each(|(_, answer)| client.handle(answer));
            std::thread::sleep(Duration::from_millis(1100));
            client.connect();
            server.exchange(&mut client, peer(n));
        }
        let alert = server.advance(Duration::from_secs(1));
        alert.iter().for_each(|(_, answer)| client.handle(answer));
        assert_eq!(server.results(HandshakeResult::WrongKey), u64::from(n), "{suite}");
    }
    server.establish(&device(GCM, OLD), peer(3));
}

#[test]
fn with_a_key_exchange_the_other_key_is_taken_at_the_next_handshake() {
    let mut server = server();
    server.establish(&device(ECDHE, NEW), peer(1));
    // The ports of one source.
    let fails = |server: &mut Server, config: &ClientConfig, n| {
        assert!(!server.handshake(config, peer(n)).is_connected());
        // A new hello says that the client gave up.
        let second = server.handshake(config, peer(n));
        assert!(second.is_connected(), "{:?}", second.failure());
    };
    fails(&mut server, &device(ECDHE, OLD), 2);
    assert_eq!(server.results(HandshakeResult::WrongKey), 1);
    // Which was right is remembered.
    server.establish(&device(ECDHE, OLD), peer(3));
    // Elsewhere the newest comes first as before.
    server.establish(&device(ECDHE, NEW), peer(0x101));
    // Who has the newest here needs one more handshake now.
    fails(&mut server, &device(ECDHE, NEW), 4);
    server.establish(&device(ECDHE, NEW), peer(5));
}

#[test]
fn a_removed_key_ends_the_sessions_that_used_it_and_no_other() {
    let mut server = server();
    let (_, old) = server.establish(&device(GCM, OLD), peer(1));
    let (mut stays, new) = server.establish(&device(GCM, NEW), peer(2));
    let (mut other, by_other) = server.establish(&ClientConfig::psk(GCM, "u2", KEY), peer(3));
    let mut one_key = material();
    one_key.psks = Some(psks(&format!("u1:{}\nu2:{}", hex(NEW), hex(KEY))));
    server.seen.clear();
    server.renew(DtlsContext::new(&one_key).unwrap());
    server.collect_events();
    assert_eq!(server.seen, [Seen::Closed(old, CloseReason::Revoked)]);
    server.output();
    assert!(server.talks(&mut stays, new, peer(2)));
    assert!(server.talks(&mut other, by_other, peer(3)));
    assert!(!server.handshake(&device(GCM, OLD), peer(4)).is_connected());
    server.establish(&device(ECDHE, NEW), peer(0x201));
}

#[test]
fn a_reload_that_takes_a_key_away_while_its_handshake_is_in_flight_lets_nobody_in() {
    let mut server = server();
    let (mut client, flight) = at_last_flight(&mut server, &device(GCM, OLD), 1);
    feed(&mut server, &mut client, 1, &flight[..2]);
    let mut one_key = material();
    one_key.psks = Some(psks(&format!("u1:{}", hex(NEW))));
    server.renew(DtlsContext::new(&one_key).unwrap());
    feed(&mut server, &mut client, 1, &flight[2..]);
    assert!(server.seen.is_empty(), "{:?}", server.seen);
    server.establish(&device(GCM, NEW), peer(2));
}

#[test]
fn when_a_key_was_used_is_known() {
    let mut material = material();
    let store = psks(&two_keys("u1"));
    material.psks = Some(store.clone());
    let mut server = Server::new(&material, settings());
    let used = || {
        let keys = store.get(b"u1").unwrap().keys();
        keys.iter()
            .map(|key| key.last_used().is_some())
            .collect::<Vec<_>>()
    };
    assert!(!server.handshake(&device(GCM, KEY), peer(1)).is_connected());
    assert_eq!(used(), [false, false]);
    server.establish(&device(GCM, OLD), peer(2));
    assert_eq!(used(), [false, true]);
    server.establish(&device(ECDHE, NEW), peer(3));
    assert_eq!(used(), [true, true]);
}
