//! What the CoAP layer costs for each message, transport and gateway left out: `cargo bench --bench coap_endpoint`.
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coap_lite::{CoapOption, MessageClass, MessageType, Packet};
use portcullis::coap::contract::{
    CoapSettings, Code, Event, Notification, ObservationId, PeerId, ResourceKey, Response, Token,
};
use portcullis::coap::{CoapMetrics, Endpoint, Peer, PeerTable, Source};
use portcullis::types::ListenerId;
use portcullis::types::limits::Caps;

const PEERS: u64 = 1_000;
const BATCH: u64 = 5_000;
const BATCHES: u64 = 100;

struct Peers(Vec<Peer>);

impl PeerTable for Peers {
    fn coap(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.0.get_mut(id.0 as usize)
    }
}

impl Peers {
    fn at(&mut self, n: u64) -> &mut Peer {
        &mut self.0[n as usize]
    }
}

fn endpoint() -> (Endpoint, Peers) {
    let metrics = Arc::new(CoapMetrics::new(1));
    let mut endpoint = Endpoint::new(CoapSettings::default(), Caps::default(), [1; 32], metrics);
    let peers = (0..PEERS)
        .map(|n| endpoint.peer(PeerId(n), ListenerId(0), Source::Session(n), true))
        .collect();
    (endpoint, Peers(peers))
}

fn publish(kind: MessageType) -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.set_type(kind);
    packet.header.code = MessageClass::from(Code::PUT.0);
    packet.set_token(vec![1, 2, 3, 4]);
    for segment in ["ps", "building", "7", "temperature"] {
        packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
    }
    packet.add_option(CoapOption::UriQuery, b"qos=1".to_vec());
    packet.payload = vec![b'x'; 32];
    packet.to_bytes().unwrap_or_default()
}

fn with_mid(datagram: &mut [u8], mid: u16) {
    if let Some(bytes) = datagram.get_mut(2..4) {
        bytes.copy_from_slice(&mid.to_be_bytes());
    }
}

fn answer_all(endpoint: &mut Endpoint, peers: &mut Peers, now: Instant) {
    while let Some(event) = endpoint.poll_event() {
        if let Event::Request {
            exchange, request, ..
        } = event
        {
            black_box(&request);
            endpoint.respond(now, peers, exchange, Response::new(Code::CHANGED));
        }
    }
}

/// Measures in batches, so that the best one tells what it costs on a machine that does other things too.
fn measure(name: &str, mut step: impl FnMut(&mut Endpoint, &mut Peers, Instant, u64)) {
    let (mut endpoint, mut peers) = endpoint();
    let start = Instant::now();
    let mut batches: Vec<u128> = Vec::new();
    for batch in 0..BATCHES {
        let begin = Instant::now();
        for n in batch * BATCH..(batch + 1) * BATCH {
            // The clock of the endpoint goes as fast as 100,000 messages a second would.
            let now = start + Duration::from_micros(10) * n as u32;
            step(&mut endpoint, &mut peers, now, n);
            endpoint.drain_transmits(|peer, bytes| {
                black_box((peer, bytes));
            });
            if endpoint.poll_timeout().is_some_and(|at| at <= now) {
                endpoint.handle_timeout(now, &mut peers);
            }
        }
        batches.push(begin.elapsed().as_nanos() / u128::from(BATCH));
    }
    batches.sort_unstable();
    let best = batches.first().copied().unwrap_or(0);
    let median = batches.get(batches.len() / 2).copied().unwrap_or(0);
    println!("{name:<36} best {best:>6} ns   median {median:>6} ns");
}

fn main() {
    let publish_con = publish(MessageType::Confirmable);
    let publish_non = publish(MessageType::NonConfirmable);
    measure("coap-lite alone: parse, encode 2.04", |_, _, _, _| {
        let packet = Packet::from_bytes(black_box(&publish_con));
        let mut answer = Packet::new();
        answer.set_token(vec![1, 2, 3, 4]);
        black_box((packet.is_ok(), answer.to_bytes().is_ok()));
    });
    for (name, datagram) in [
        ("CON publish, piggybacked 2.04", &publish_con),
        ("NON publish, NON 2.04", &publish_non),
    ] {
        let mut datagram = datagram.clone();
        measure(name, |endpoint, peers, now, n| {
            with_mid(&mut datagram, (n / PEERS) as u16);
            endpoint.receive(now, peers.at(n % PEERS), &datagram);
            answer_all(endpoint, peers, now);
        });
    }
    let mut datagram = publish_con.clone();
    measure("duplicate of a CON", |endpoint, peers, now, n| {
        with_mid(&mut datagram, (n / 2 / PEERS) as u16);
        for _ in 0..2 {
            endpoint.receive(now, peers.at(n / 2 % PEERS), &datagram);
        }
        answer_all(endpoint, peers, now);
    });
    measure("ping", |endpoint, peers, now, n| {
        endpoint.receive(now, peers.at(n % PEERS), &[0x40, 0, 0, 1]);
        answer_all(endpoint, peers, now);
    });
    measure("garbage", |endpoint, peers, now, n| {
        endpoint.receive(now, peers.at(n % PEERS), &[0x52, 1, 0, 1, 0xff, 0xff, 0xff]);
    });
    let mut notification = Notification {
        token: Token::new(&[1, 2]).unwrap_or_default(),
        resource: ResourceKey(Arc::from([1].as_slice())),
        block_szx: None,
        confirmable: false,
        observe: 0,
        code: Code::CONTENT,
        payload: Bytes::from_static(&[b'x'; 32]),
        content_format: None,
        max_age: None,
        expires_at: None,
        kept: None,
        returns: false,
        topic: None,
    };
    measure("NON notification", |endpoint, peers, now, n| {
        notification.observe = n as u32;
        endpoint.notify(
            now,
            peers.at(n % PEERS),
            ObservationId(n % PEERS),
            notification.clone(),
        );
    });
    notification.confirmable = true;
    measure("CON notification and its ACK", |endpoint, peers, now, n| {
        notification.observe = n as u32;
        let peer = peers.at(n % PEERS);
        endpoint.notify(now, peer, ObservationId(n % PEERS), notification.clone());
        let mut ack = [0x60, 0, 0, 0];
        endpoint.drain_transmits(|_, sent| {
            let mid = sent.get(2..4).unwrap_or_default();
            for (to, from) in ack.iter_mut().skip(2).zip(mid) {
                *to = *from;
            }
        });
        endpoint.receive(now, peer, &ack);
        answer_all(endpoint, peers, now);
    });
}
