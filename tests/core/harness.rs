//! One endpoint, a clock that only moves when told, and messages as a peer would write and read them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coap_lite::{CoapOption, MessageClass, MessageType as WireType, Packet};
use portcullis::coap::contract::{
    CoapSettings, Code, Event, ExchangeId, Notification, NotificationOutcome, ObservationId, PeerId, Request,
    ResourceKey, Response, Token,
};
use portcullis::coap::metrics::{CoapMetrics, NotificationResult};
use portcullis::coap::{Endpoint, Peer, PeerTable, Source};
use portcullis::types::limits::Caps;
use portcullis::types::reason::{DropReason, Limit};
use portcullis::types::{ListenerId, PeerAddr};

pub(crate) const OBSERVE: u16 = 6;
pub(crate) const ETAG: u16 = 4;
pub(crate) const CONTENT_FORMAT: u16 = 12;
pub(crate) const MAX_AGE: u16 = 14;
pub(crate) const BLOCK2: u16 = 23;
pub(crate) const BLOCK1: u16 = 27;
pub(crate) const SIZE2: u16 = 28;
pub(crate) const SIZE1: u16 = 60;
pub(crate) const ECHO: u16 = 252;
pub(crate) const NO_RESPONSE: u16 = 258;
pub(crate) const REQUEST_TAG: u16 = 292;

pub(crate) const LISTENER: ListenerId = ListenerId(0);
/// A peer whose address is proved, as a DTLS session's.
pub(crate) const PEER: PeerId = PeerId(1);
pub(crate) const OTHER: PeerId = PeerId(2);

pub(crate) use WireType::{Acknowledgement as Ack, Confirmable as Con, NonConfirmable as Non, Reset as Rst};

/// A message as the peer writes it, or as it read it.
#[derive(Clone)]
pub(crate) struct Msg {
    pub(crate) peer: PeerId,
    pub(crate) at: Duration,
    pub(crate) bytes: Vec<u8>,
    packet: Packet,
}

impl Msg {
    pub(crate) fn new(kind: WireType, code: Code, mid: u16, token: &[u8]) -> Self {
        let mut packet = Packet::new();
        packet.header.set_type(kind);
        packet.header.code = MessageClass::from(code.0);
        packet.header.message_id = mid;
        packet.set_token(token.to_vec());
        Self {
            peer: PEER,
            at: Duration::ZERO,
            bytes: Vec::new(),
            packet,
        }
    }

    pub(crate) fn get(mid: u16, path: &str) -> Self {
        Self::new(Con, Code::GET, mid, &mid.to_be_bytes()).path(path)
    }

    pub(crate) fn put(mid: u16, path: &str, payload: &[u8]) -> Self {
        Self::new(Con, Code::PUT, mid, &mid.to_be_bytes())
            .path(path)
            .payload(payload)
    }

    pub(crate) fn non(mut self) -> Self {
        self.packet.header.set_type(Non);
        self
    }

    pub(crate) fn empty(kind: WireType, mid: u16) -> Self {
        Self::new(kind, Code::EMPTY, mid, &[])
    }

    pub(crate) fn token_is(mut self, token: &[u8]) -> Self {
        self.packet.set_token(token.to_vec());
        self
    }

    pub(crate) fn path(self, path: &str) -> Self {
        path.split('/')
            .fold(self, |msg, segment| msg.opt(11, segment.as_bytes()))
    }

    pub(crate) fn opt(mut self, number: u16, value: &[u8]) -> Self {
        self.packet.add_option(CoapOption::from(number), value.to_vec());
        self
    }

    pub(crate) fn block(self, number: u16, num: u32, more: bool, size: usize) -> Self {
        let szx = size.trailing_zeros() - 4;
        let value = num << 4 | u32::from(more) << 3 | szx;
        let bytes = value.to_be_bytes();
        let zeros = (value.leading_zeros() / 8) as usize;
        self.opt(number, &bytes[zeros..])
    }

    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.packet.payload = payload.to_vec();
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.packet.to_bytes_unlimited().unwrap()
    }

    fn decode(peer: PeerId, at: Duration, bytes: &[u8]) -> Self {
        Self {
            peer,
            at,
            bytes: bytes.to_vec(),
            packet: Packet::from_bytes(bytes).unwrap(),
        }
    }

    pub(crate) fn kind(&self) -> WireType {
        self.packet.header.get_type()
    }

    pub(crate) fn code(&self) -> Code {
        Code(u8::from(self.packet.header.code))
    }

    pub(crate) fn mid(&self) -> u16 {
        self.packet.header.message_id
    }

    pub(crate) fn token(&self) -> &[u8] {
        self.packet.get_token()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.packet.payload
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body()).unwrap()
    }

    pub(crate) fn has(&self, number: u16) -> bool {
        self.packet.get_first_option(CoapOption::from(number)).is_some()
    }

    pub(crate) fn option(&self, number: u16) -> Option<&[u8]> {
        self.packet
            .get_first_option(CoapOption::from(number))
            .map(Vec::as_slice)
    }

    pub(crate) fn uint(&self, number: u16) -> Option<u32> {
        self.option(number)
            .map(|value| value.iter().fold(0, |n, byte| n << 8 | u32::from(*byte)))
    }

    /// Number, more, size.
    pub(crate) fn block_of(&self, number: u16) -> Option<(u32, bool, usize)> {
        self.uint(number)
            .map(|value| (value >> 4, value & 8 != 0, 16 << (value & 7)))
    }
}

/// The peers as their caller keeps them, with the bytes that came from each unproven one and went to it.
#[derive(Default)]
pub(crate) struct Table(HashMap<PeerId, (Peer, usize, usize)>);

impl PeerTable for Table {
    fn coap(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.0.get_mut(&id).map(|(peer, ..)| peer)
    }
}

impl Table {
    #[track_caller]
    pub(crate) fn get(&mut self, id: PeerId) -> &mut Peer {
        self.coap(id).unwrap()
    }
}

pub(crate) struct Sim {
    pub(crate) endpoint: Endpoint,
    pub(crate) peers: Table,
    pub(crate) metrics: Arc<CoapMetrics>,
    start: Instant,
    pub(crate) elapsed: Duration,
    sent: Vec<Msg>,
}

impl Sim {
    pub(crate) fn new() -> Self {
        Self::with(CoapSettings::default(), Caps::default())
    }

    pub(crate) fn with(settings: CoapSettings, caps: Caps) -> Self {
        let metrics = Arc::new(CoapMetrics::new(1));
        #[expect(
            clippy::disallowed_methods,
            reason = "the one instant that all others are counted from"
        )]
        let start = Instant::now();
        let mut sim = Self {
            endpoint: Endpoint::new(settings, caps, [7; 32], Arc::clone(&metrics)),
            peers: Table::default(),
            metrics,
            start,
            elapsed: Duration::ZERO,
            sent: Vec::new(),
        };
        sim.add(PEER, true);
        sim.add(OTHER, true);
        sim
    }

    /// A peer at the address that belongs to its id.
    pub(crate) fn add(&mut self, id: PeerId, proven: bool) {
        let address = PeerAddr::new(([192, 0, 2, 1], id.0 as u16).into()).unwrap();
        let source = Source::Address(LISTENER, address);
        let peer = self.endpoint.peer(id, LISTENER, source, proven);
        self.peers.0.insert(id, (peer, 0, 0));
    }

    pub(crate) fn remove(&mut self, id: PeerId) {
        let (peer, ..) = self.peers.0.remove(&id).unwrap();
        self.endpoint.forget(peer);
    }

    pub(crate) fn is_proven(&mut self, id: PeerId) -> bool {
        self.peers.get(id).is_proven()
    }

    pub(crate) fn set_proven(&mut self, id: PeerId) {
        self.endpoint.set_proven(self.peers.get(id));
    }

    /// The peer moves to an address that proved nothing.
    pub(crate) fn unprove(&mut self, id: PeerId) {
        let (peer, received, sent) = self.peers.0.get_mut(&id).unwrap();
        self.endpoint.unprove(peer);
        (*received, *sent) = (0, 0);
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    fn collect(&mut self) {
        let at = self.elapsed;
        let (sent, peers) = (&mut self.sent, &mut self.peers);
        self.endpoint.drain_transmits(|id, bytes| {
            sent.push(Msg::decode(id, at, bytes));
            if let Some((peer, received, sent)) = peers.0.get_mut(&id)
                && !peer.is_proven()
            {
                *sent += bytes.len();
                assert!(*sent <= (3 * *received).max(136), "{sent} bytes for {received}");
            }
        });
    }

    /// What was sent since the last call, with the times.
    pub(crate) fn sent(&mut self) -> Vec<Msg> {
        self.collect();
        std::mem::take(&mut self.sent)
    }

    /// The one message that was sent since the last call.
    #[track_caller]
    pub(crate) fn one(&mut self) -> Msg {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "messages sent");
        sent.remove(0)
    }

    #[track_caller]
    pub(crate) fn silent(&mut self) {
        assert_eq!(self.sent().len(), 0, "messages sent");
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.endpoint.poll_event()).collect()
    }

    /// Lets time pass; timers fire when they are due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while let Some(at) = self.endpoint.poll_timeout() {
            let at = at.saturating_duration_since(self.start);
            if at > end {
                break;
            }
            self.elapsed = self.elapsed.max(at);
            self.endpoint
                .handle_timeout(self.start + self.elapsed, &mut self.peers);
            self.collect();
        }
        self.elapsed = end;
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.pass(Duration::from_millis(ms));
    }

    pub(crate) fn pass_s(&mut self, s: u64) {
        self.pass(Duration::from_secs(s));
    }

    pub(crate) fn raw(&mut self, peer: PeerId, bytes: &[u8]) {
        let now = self.now();
        let (peer, received, _) = self.peers.0.get_mut(&peer).unwrap();
        *received += bytes.len();
        self.endpoint.receive(now, peer, bytes);
        self.collect();
    }

    pub(crate) fn from(&mut self, peer: PeerId, msg: &Msg) {
        self.raw(peer, &msg.encode());
    }

    pub(crate) fn receive(&mut self, msg: &Msg) {
        self.from(PEER, msg);
    }

    pub(crate) fn ack(&mut self, msg: &Msg) {
        self.from(msg.peer, &Msg::empty(Ack, msg.mid()));
    }

    pub(crate) fn reset(&mut self, msg: &Msg) {
        self.from(msg.peer, &Msg::empty(Rst, msg.mid()));
    }

    /// The one request that waits for an answer; other events are passed over.
    #[track_caller]
    pub(crate) fn request(&mut self) -> (ExchangeId, Request) {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests");
        requests.remove(0)
    }

    pub(crate) fn requests(&mut self) -> Vec<(ExchangeId, Request)> {
        let request = |event| match event {
            Event::Request {
                exchange, request, ..
            } => Some((exchange, request)),
            _ => None,
        };
        self.events().into_iter().filter_map(request).collect()
    }

    pub(crate) fn respond(&mut self, exchange: ExchangeId, response: Response) {
        let now = self.now();
        self.endpoint.respond(now, &mut self.peers, exchange, response);
        self.collect();
    }

    pub(crate) fn refuse(&mut self, exchange: ExchangeId) {
        let now = self.now();
        self.endpoint.refuse(now, &mut self.peers, exchange);
        self.collect();
    }

    /// Receives a request and answers it at once.
    #[track_caller]
    pub(crate) fn serve(&mut self, msg: &Msg, response: Response) -> Msg {
        self.receive(msg);
        let (exchange, _) = self.request();
        self.respond(exchange, response);
        self.one()
    }

    pub(crate) fn notify(&mut self, observation: u64, notification: Notification) {
        self.notify_peer(PEER, observation, notification);
    }

    pub(crate) fn notify_peer(&mut self, peer: PeerId, observation: u64, notification: Notification) {
        let now = self.now();
        self.endpoint.notify(
            now,
            self.peers.get(peer),
            ObservationId(observation),
            notification,
        );
        self.collect();
    }

    pub(crate) fn outcomes(&mut self) -> Vec<(u64, NotificationOutcome)> {
        let outcome = |event| match event {
            Event::Notified {
                observation, outcome, ..
            } => Some((observation.0, outcome)),
            _ => None,
        };
        self.events().into_iter().filter_map(outcome).collect()
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.metrics.listener(LISTENER).unwrap().dropped.get(reason)
    }

    pub(crate) fn all_dropped(&self) -> u64 {
        let listener = self.metrics.listener(LISTENER).unwrap();
        listener.dropped.iter().map(|(_, n)| n).sum()
    }

    pub(crate) fn limited(&self, limit: Limit) -> u64 {
        self.metrics.limits.get(limit)
    }

    pub(crate) fn notifications(&self, confirmable: bool, result: NotificationResult) -> u64 {
        match confirmable {
            true => self.metrics.con_notifications.get(result),
            false => self.metrics.non_notifications.get(result),
        }
    }
}

pub(crate) fn content(payload: impl Into<Bytes>) -> Response {
    Response {
        payload: payload.into(),
        ..Response::new(Code::CONTENT)
    }
}

pub(crate) fn changed() -> Response {
    Response::new(Code::CHANGED)
}

pub(crate) fn texts(sent: &[Msg]) -> Vec<&str> {
    sent.iter().map(Msg::text).collect()
}

/// A notification whose token and payload name its observation and number.
pub(crate) fn note(observation: u64, number: u32, confirmable: bool) -> Notification {
    Notification {
        token: Token::new(&observation.to_be_bytes()).unwrap(),
        resource: ResourceKey(Arc::from(observation.to_be_bytes().as_slice())),
        block_szx: None,
        confirmable,
        observe: number,
        code: Code::CONTENT,
        payload: Bytes::from(format!("{observation}.{number}")),
        content_format: None,
        max_age: None,
        expires_at: None,
        kept: None,
        returns: false,
        topic: None,
    }
}

/// Bytes that differ from block to block.
pub(crate) fn body(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 16 + n % 251) as u8).collect()
}
