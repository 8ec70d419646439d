//! Records in the middle of a handshake that it must not notice (RFC 6347, 4.1.2.7), whatever OpenSSL makes of them.

use std::net::SocketAddr;

use portcullis::dtls::metrics::{HandshakeResult, RecordDrop};
use portcullis::dtls::record::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, DTLS_1_0, HANDSHAKE, Header, TLS12_CID, write_header,
};
use portcullis::dtls::{DtlsMaterial, Verify};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bench::*;
use crate::certificates::{client_with, with_clients};
use crate::certs::{Recipe, authority};
use crate::cookies::two_hellos;
use crate::dtls_client::ClientConfig;

const GCM: &str = "PSK-AES128-GCM-SHA256";
const CCM8: &str = "PSK-AES128-CCM8";
const HELLO: u8 = 1;
const KEY_EXCHANGE: u8 = 16;
/// A record sequence number that no client has come to yet, and near enough to leave theirs fresh.
const UNUSED: u64 = 40;

pub fn record(kind: u8, epoch: u16, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(&mut out, kind, epoch, sequence, &[], body.len());
    out.extend_from_slice(body);
    out
}

/// A handshake message of `len` bytes, of which `body` is the part at `offset`.
fn message(kind: u8, len: u32, sequence: u16, offset: u32, body: &[u8]) -> Vec<u8> {
    let u24 = |n: u32| n.to_be_bytes()[1..].to_vec();
    let mut out = vec![kind];
    out.extend(u24(len));
    out.extend(sequence.to_be_bytes());
    out.extend(u24(offset));
    out.extend(u24(body.len() as u32));
    out.extend_from_slice(body);
    out
}

/// A record of the client's, and what its handshake message says of itself: kind, length, sequence.
pub struct Sent {
    pub bytes: Vec<u8>,
    message: Option<(u8, u32, u16)>,
}

pub fn split(datagram: &[u8], cid_len: usize) -> Vec<Sent> {
    let (mut out, mut rest) = (Vec::new(), datagram);
    while let Some(header) = Header::parse(rest, cid_len) {
        let (bytes, after) = rest.split_at(header.record_len());
        rest = after;
        let body = &bytes[header.header_len..];
        let message = (header.kind == HANDSHAKE && header.epoch == 0).then(|| {
            let len = u32::from_be_bytes([0, body[1], body[2], body[3]]);
            (body[0], len, u16::from_be_bytes([body[4], body[5]]))
        });
        out.push(Sent {
            bytes: bytes.to_vec(),
            message,
        });
    }
    out
}

/// What has no business in a handshake of which the client sent `past`, the hello first.
fn strays(rng: &mut StdRng, past: &[Sent]) -> Vec<Vec<u8>> {
    let clear = |kind, body: &[u8]| record(kind, 0, UNUSED, body);
    let sequences = past
        .iter()
        .filter_map(|sent| sent.message)
        .map(|(.., sequence)| sequence);
    let next = sequences.max().unwrap() + 1;
    let mut out = Vec::new();
    for sent in &past[1..] {
        out.push(sent.bytes.clone());
        let mut old = sent.bytes.clone();
        *old.last_mut().unwrap() ^= 1;
        out.push(old);
        if let Some((kind, len, sequence)) = sent.message {
            out.push(clear(HANDSHAKE, &message(kind, len + 1, sequence, 2, &[7; 5])));
            out.push(clear(HANDSHAKE, &message(kind, len, sequence, len - 1, &[7; 2])));
        }
    }
    for kind in [2, 14, 20, 24, 99] {
        out.push(clear(HANDSHAKE, &message(kind, 5, next, 0, &[7; 5])));
        if kind > 20 {
            out.extend([0, 1].map(|epoch| record(kind, epoch, UNUSED, &[7; 40])));
        }
    }
    let key_exchange = message(KEY_EXCHANGE, 5, next, 0, &[7; 5]);
    out.extend((1..key_exchange.len()).map(|cut| clear(HANDSHAKE, &key_exchange[..cut])));
    let ahead = message(KEY_EXCHANGE, 5, next + 30, 0, &[7; 5]);
    out.push(clear(HANDSHAKE, &ahead));
    let mut older = clear(HANDSHAKE, &key_exchange);
    older[1..3].copy_from_slice(&DTLS_1_0);
    out.push(older);
    out.extend([&[][..], &[2], &[1, 1]].map(|body| clear(CHANGE_CIPHER_SPEC, body)));
    out.extend([0, 1, 2].map(|len| clear(ALERT, &[2; 2][..len])));
    out.push(clear(APPLICATION_DATA, &[7; 9]));
    // Finished in the name of the client, some of them too short for what every sealed record holds.
    for kind in [HANDSHAKE, ALERT, APPLICATION_DATA, TLS12_CID] {
        for len in [0, 1, 4, 8, 15, 16, 17, 23, 24, 25, 40, 64] {
            let mut body = vec![0; len];
            rng.fill(&mut *body);
            out.push(record(kind, 1, rng.random_range(0..3), &body));
        }
    }
    out.push(record(HANDSHAKE, 2, 0, &[7; 40]));
    out
}

/// Whether nothing is said to what came. OpenSSL may just then repeat its flight, which is due by the machine's clock.
fn is_silence(answers: &[(SocketAddr, Vec<u8>)]) -> bool {
    answers
        .iter()
        .all(|(_, answer)| answer.first() == Some(&HANDSHAKE))
}

/// A handshake with strays before, between and after the records of the client's last flight.
pub fn amid_strays(material: &DtlsMaterial, config: &ClientConfig) {
    let mut rng = StdRng::seed_from_u64(6);
    let mut server = Server::new(material, settings());
    let (mut client, _, second) = two_hellos(&mut server, config, 1);
    let mut past = split(&second, 0);
    let (_, hello_len, hello) = past[0].message.unwrap();
    for (_, answer) in server.input(peer(1), &second) {
        client.handle(&answer);
    }
    let cid_len = if config.cid.is_some() { 8 } else { 0 };
    let flight: Vec<Sent> = client
        .take()
        .iter()
        .flat_map(|datagram| split(datagram, cid_len))
        .collect();
    let count = flight.len() as u64;
    assert!((3..=10).contains(&count), "{count}");
    for (at, sent) in (0..).zip(flight) {
        for stray in strays(&mut rng, &past) {
            let before = server.all_dropped();
            assert!(server.input(peer(1), &stray).is_empty(), "{stray:?}");
            assert_eq!(server.all_dropped(), before + 1, "{stray:?}");
            assert_eq!(server.listener.half_open(), 1, "{stray:?}");
        }
        // Those that OpenSSL is shown, to drop: no message at all, a part of the hello, ChangeCipherSpec out of turn.
        let is_early = sent.message.is_some();
        let tail = message(HELLO, hello_len, hello, hello_len - 4, &[7; 4]);
        let shown = [
            (HANDSHAKE, &[][..]),
            (HANDSHAKE, &tail),
            (CHANGE_CIPHER_SPEC, &[1]),
        ];
        for ((kind, body), n) in shown.into_iter().zip(0..).take(if is_early { 3 } else { 2 }) {
            let before = server.all_dropped();
            let stray = record(kind, 0, UNUSED + 1 + n + 3 * at % 18, body);
            let answers = server.input(peer(1), &stray);
            assert!(is_silence(&answers), "{kind} {body:?}: {answers:?}");
            assert_eq!(server.listener.half_open(), 1, "{kind} {body:?}");
            assert!(at >= 6 || server.all_dropped() == before, "{kind} {body:?}");
        }
        for (_, answer) in server.input(peer(1), &sent.bytes) {
            client.handle(&answer);
        }
        past.push(sent);
    }
    assert!(client.is_connected(), "{:?} {:?}", client.failure(), server.seen);
    assert_eq!(
        (server.results(HandshakeResult::Ok), server.listener.len()),
        (1, 1)
    );
    let Some(Seen::Established(session, _)) = server.seen.last().cloned() else {
        panic!("{:?}", server.seen)
    };
    assert!(server.talks(&mut client, session, peer(1)));
}

#[test]
fn no_record_that_is_dropped_ends_a_handshake_with_a_key() {
    for suite in ALL_PSK {
        for cid in [None, Some(vec![1, 2, 3])] {
            let config = ClientConfig {
                cid,
                ..psk_client(suite)
            };
            amid_strays(&material(), &config);
        }
    }
}

#[test]
fn no_record_that_is_dropped_ends_a_handshake_with_certificates_in_fragments() {
    let ca = authority("ca");
    let (own, device) = (
        Recipe::server("server").make(Some(&ca)),
        Recipe::client("device").make(Some(&ca)),
    );
    let material = with_clients(&own, &ca, Verify::Required);
    for cid in [None, Some(vec![1, 2, 3])] {
        let config = ClientConfig {
            mtu: Some(300),
            cid,
            ..client_with("ECDHE-ECDSA-AES128-GCM-SHA256", &ca, &device)
        };
        amid_strays(&material, &config);
    }
}

#[test]
fn a_flood_of_forged_finisheds_ends_no_handshake() {
    let mut server = Server::new(&material(), settings());
    let (mut client, _, second) = two_hellos(&mut server, &psk_client(CCM8), 1);
    for (_, answer) in server.input(peer(1), &second) {
        client.handle(&answer);
    }
    let flight: Vec<Sent> = client
        .take()
        .iter()
        .flat_map(|datagram| split(datagram, 0))
        .collect();
    let (finished, clear) = flight.split_last().unwrap();
    for sent in clear {
        server.input(peer(1), &sent.bytes);
    }
    for n in 0..5000_u32 {
        server.input(
            peer(1),
            &record(HANDSHAKE, 1, 0, &[&n.to_be_bytes()[..], &[7; 36]].concat()),
        );
    }
    assert_eq!(server.dropped(RecordDrop::NotAuthentic), 5000);
    for (_, answer) in server.input(peer(1), &finished.bytes) {
        client.handle(&answer);
    }
    assert!(client.is_connected(), "{:?}", client.failure());
}

#[test]
fn a_flood_of_copies_ends_no_handshake() {
    let mut server = Server::new(&material(), settings());
    let (mut client, _, second) = two_hellos(&mut server, &psk_client(GCM), 1);
    for (_, answer) in server.input(peer(1), &second) {
        client.handle(&answer);
    }
    let flight: Vec<Sent> = client
        .take()
        .iter()
        .flat_map(|datagram| split(datagram, 0))
        .collect();
    for sent in &flight[..flight.len() - 1] {
        for _ in 0..2000 {
            server.input(peer(1), &sent.bytes);
        }
    }
    for (_, answer) in server.input(peer(1), &flight.last().unwrap().bytes) {
        client.handle(&answer);
    }
    assert!(client.is_connected(), "{:?}", client.failure());
    assert_eq!(server.dropped(RecordDrop::Replay), 2 * 1999);
}
