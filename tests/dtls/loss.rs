//! Handshakes over networks that lose, double and reorder.

use std::time::Duration;

use portcullis::dtls::contract::DtlsSettings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bench::*;
use crate::cookies::two_hellos;
use crate::dtls_client::{ClientConfig, DtlsClient};

const GCM: &str = "PSK-AES128-GCM-SHA256";

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
                ..psk_client(ALL_PSK[n as usize % ALL_PSK.len()])
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
