//! Datagrams, answers, notifications, requests and steps of the clock in any order, against the CoAP endpoint.
//!
//! Each input is a list of steps: one byte says what happens, the bytes behind it with what. Whatever happens, nothing panics, every
//! datagram ends once, the caps hold, and when the peers are gone nothing of them is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use portcullis::coap::contract::{
    CoapSettings, Code, Event, ExchangeId, Notification, ObservationId, OutgoingRequest, PeerId, RequestId,
    ResourceKey, Response, Token,
};
use portcullis::coap::{CoapMetrics, Endpoint, Peer, PeerTable, Source};
use portcullis::types::limits::Caps;
use portcullis::types::{ListenerId, PeerAddr};

const LISTENER: ListenerId = ListenerId(0);

struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }
}

struct Peers(Vec<Peer>);

impl PeerTable for Peers {
    fn coap(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.0.get_mut(id.0 as usize)
    }
}

impl Peers {
    fn get(&mut self, id: PeerId) -> &mut Peer {
        &mut self.0[id.0 as usize]
    }
}

fn peer(endpoint: &mut Endpoint, id: PeerId) -> Peer {
    let address = PeerAddr::new(([192, 0, 2, 1], 1_000 + id.0 as u16).into()).unwrap();
    endpoint.peer(id, LISTENER, Source::Address(LISTENER, address), id.0 < 2)
}

struct Fuzz {
    endpoint: Endpoint,
    peers: Peers,
    metrics: Arc<CoapMetrics>,
    now: Instant,
    pending: Vec<ExchangeId>,
    sent: Vec<(PeerId, Vec<u8>)>,
    asked: u64,
}

impl Fuzz {
    fn new(settings: u8) -> Self {
        let caps = Caps {
            queued_per_observation: 4,
            queued_bytes: 8_000,
            remembered_exchanges: 16,
            pending_requests: 20,
            transfer_bytes: 16_000,
            ..Caps::default()
        };
        let settings = CoapSettings {
            ack_timeout: Duration::from_millis(500),
            max_retransmit: u32::from(settings & 3),
            max_block_size: 16 << (settings >> 2 & 3),
            max_body_size: 1_000,
            challenge_unproven: settings & 0x80 != 0,
        };
        let metrics = Arc::new(CoapMetrics::new(1));
        let mut endpoint = Endpoint::new(settings, caps, [9; 32], Arc::clone(&metrics));
        let peers = (0..4).map(|id| peer(&mut endpoint, PeerId(id))).collect();
        Self {
            endpoint,
            peers: Peers(peers),
            metrics,
            now: Instant::now(),
            pending: Vec::new(),
            sent: Vec::new(),
            asked: 0,
        }
    }

    fn dropped(&self) -> u64 {
        let listener = self.metrics.listener(LISTENER);
        listener.map_or(0, |listener| listener.dropped.iter().map(|(_, n)| n).sum())
    }

    fn drain(&mut self) -> (usize, usize) {
        let before = self.sent.len();
        let sent = &mut self.sent;
        self.endpoint
            .drain_transmits(|peer, bytes| sent.push((peer, bytes.to_vec())));
        let mut events = 0;
        while let Some(event) = self.endpoint.poll_event() {
            events += 1;
            if let Event::Request { exchange, .. } = event {
                self.pending.push(exchange);
            }
        }
        (self.sent.len() - before, events)
    }

    fn receive(&mut self, peer: PeerId, datagram: &[u8]) {
        let before = self.dropped();
        let peer = self.peers.get(peer);
        let proven = peer.is_proven();
        self.endpoint.receive(self.now, peer, datagram);
        let dropped = self.dropped() - before;
        let (sent, events) = self.drain();
        assert!(dropped <= 1);
        // Whatever an unproven peer sends makes room for what waits for it.
        assert!(dropped == 0 || ((!proven || sent <= 1) && events == 0));
    }

    fn reply(&mut self, how: u8, body: &[u8]) {
        if self.sent.is_empty() {
            return;
        }
        let (peer, sent) = self.sent.swap_remove(usize::from(how >> 3) % self.sent.len());
        let [first, _, high, low, rest @ ..] = &sent[..] else {
            return;
        };
        let token = &rest[..usize::from(first & 15)];
        let datagram = match how & 7 {
            0 => vec![0x70, 0, *high, *low],
            1..=3 => vec![0x60, 0, *high, *low],
            4 => [&[0x60 | first & 15, 0x5f, *high, *low], token, body].concat(),
            5 => [&[0x60 | first & 15, 0x45, *high, *low], token, body].concat(),
            6 => [&[0x40 | first & 15, 0x45, *low, *high], token, body].concat(),
            _ => [&[0x50 | first & 15, 0x84, *low, *high], token, body].concat(),
        };
        self.receive(peer, &datagram);
    }

    fn notify(&mut self, peer: PeerId, what: u8, body: &[u8]) {
        let observation = ObservationId(peer.0 * 4 + u64::from(what & 3));
        let notification = Notification {
            token: Token::new(&[what]).unwrap_or_default(),
            resource: ResourceKey(Arc::from([what & 3].as_slice())),
            block_szx: (what & 64 != 0).then_some(what & 3),
            confirmable: what & 4 != 0,
            observe: u32::from(what),
            code: Code::CONTENT,
            payload: Bytes::from(body.repeat(1 + usize::from(what >> 3))),
            content_format: None,
            max_age: None,
            expires_at: (what & 16 != 0).then(|| self.now + Duration::from_secs(u64::from(what))),
            kept: None,
            returns: false,
            topic: None,
        };
        self.endpoint
            .notify(self.now, self.peers.get(peer), observation, notification);
    }

    fn step(&mut self, step: u8, steps: &mut Steps<'_>) {
        let peer = PeerId(u64::from(step >> 4 & 3));
        match step & 15 {
            0..=4 => self.receive(peer, steps.bytes()),
            5 => self.reply(steps.byte().unwrap_or(0), steps.bytes()),
            6 | 7 if !self.pending.is_empty() => {
                let exchange = self.pending.swap_remove(usize::from(step) % self.pending.len());
                let mut response = Response::new(if step & 0x40 == 0 {
                    Code::CONTENT
                } else {
                    Code::NOT_FOUND
                });
                response.payload = Bytes::from(steps.bytes().repeat(5));
                self.endpoint
                    .respond(self.now, &mut self.peers, exchange, response);
            }
            8 => self.notify(peer, steps.byte().unwrap_or(0), steps.bytes()),
            9 => {
                self.asked += 1;
                let request = OutgoingRequest {
                    method: Code::PUT,
                    path: vec!["x".into()],
                    query: Vec::new(),
                    content_format: None,
                    payload: Bytes::copy_from_slice(steps.bytes()),
                    timeout: Duration::from_secs(60),
                };
                self.endpoint
                    .request(self.now, self.peers.get(peer), RequestId(self.asked), request);
            }
            10 => {
                let observation = ObservationId(peer.0 * 4 + u64::from(step >> 6));
                self.endpoint.cancel(self.peers.get(peer), observation);
            }
            11 if step & 0x80 == 0 => self.endpoint.set_proven(self.peers.get(peer)),
            11 => {
                self.endpoint.unprove(self.peers.get(peer));
                self.peers.get(peer).ask_for_proof();
            }
            12 => {
                let again = self::peer(&mut self.endpoint, peer);
                let before = std::mem::replace(self.peers.get(peer), again);
                self.endpoint.forget(before);
            }
            13 if !self.pending.is_empty() => {
                let exchange = self.pending.swap_remove(0);
                self.endpoint.refuse(self.now, &mut self.peers, exchange);
            }
            _ => {
                self.now += Duration::from_millis(10 << (steps.byte().unwrap_or(0) & 15));
                self.endpoint.handle_timeout(self.now, &mut self.peers);
            }
        }
        self.drain();
        assert!(self.metrics.queued_bytes.get() <= 8_000);
        assert!(self.metrics.remembered_exchanges.get() <= 16);
    }

    fn end(mut self) {
        for peer in self.peers.0.drain(..) {
            self.endpoint.forget(peer);
        }
        self.now += Duration::from_secs(1_000);
        self.endpoint.handle_timeout(self.now, &mut self.peers);
        assert!(self.endpoint.poll_timeout().is_none());
        assert_eq!(self.metrics.queued_bytes.get(), 0);
        assert_eq!(self.metrics.remembered_exchanges.get(), 0);
    }
}

pub(crate) fn run(input: &[u8]) {
    let mut steps = Steps(input);
    let mut fuzz = Fuzz::new(steps.byte().unwrap_or(0));
    while let Some(step) = steps.byte() {
        fuzz.step(step, &mut steps);
    }
    fuzz.end();
}
