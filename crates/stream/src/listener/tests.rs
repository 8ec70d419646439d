//! The streams of a listener through its contract.

use bytes::BytesMut;

use portcullis_proto::coap::codec::Writer;
use portcullis_proto::coap::metrics::MessageType;
use portcullis_proto::types::Proof;

use super::*;
use crate::gate::GateSettings;

#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
fn clock() -> Instant {
    Instant::now()
}

struct Bench {
    listener: StreamListener,
    transmits: Transmits,
    now: Instant,
}

fn peer(port: u16) -> PeerAddr {
    PeerAddr::new(([127, 0, 0, 1], port).into()).unwrap()
}

fn message(code: Code, token: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    let _empty = Writer::new(
        &mut datagram,
        MessageType::Non,
        code,
        0,
        Token::new(token).unwrap(),
    );
    datagram
}

impl Bench {
    fn new() -> Self {
        let now = clock();
        let shared = DtlsShared::new([1; 32], now);
        let gate = GateSettings {
            web: None,
            max_connections: 10,
            max_per_source: 0,
            max_half_open: 10,
            max_per_second: 0,
            per_second_of_source: 0,
            handshake_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(10),
            max_message: 4096,
        };
        let settings = DtlsSettings {
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(100),
            max_sessions: 10,
            legacy_max_sessions: 0,
            sessions_per_identity: 2,
            max_half_open: 10,
            mtu: 0,
            cid: false,
            handshakes_per_second: 0,
            max_handshakes_per_second: 0,
            records_per_key: 0,
            wants_identity: true,
            stream: Some(StreamSettings {
                web: false,
                tls: false,
                max_message: 4096,
                max_queued: 4 * 4096,
            }),
        };
        let gate = Gate::new(None, Arc::clone(&shared), gate, clock);
        let (listener, worker) = (ListenerId(1), WorkerId(2));
        Self {
            listener: StreamListener::new(listener, worker, gate, settings, [3; 32], shared, Arc::default()),
            transmits: Transmits::default(),
            now,
        }
    }

    fn open(&mut self, port: u16, identity: Option<&str>) {
        let event = StreamEvent::Opened {
            identity: identity.map(|name| Identity::new(name, Proof::Psk)),
            suite: "none",
            credential: None,
        };
        let written = self
            .listener
            .handle_stream(self.now, peer(port), event, &mut self.transmits);
        assert_eq!(written, None);
    }

    fn hear(&mut self, port: u16, mut datagram: Vec<u8>) {
        self.listener
            .handle_datagram(self.now, peer(port), &mut datagram, &mut self.transmits);
    }

    /// A session: its CSM came.
    fn establish(&mut self, port: u16, identity: Option<&str>) -> SessionId {
        self.open(port, identity);
        self.hear(port, signal::csm(2_000));
        match self.listener.poll_event() {
            Some(DtlsEvent::Established { session, .. }) => session,
            other => panic!("{other:?}"),
        }
    }

    /// The codes of what was sent to a peer since this was asked; 0 is the end of its stream.
    fn sent(&mut self, port: u16) -> Vec<u8> {
        let to_it = self.transmits.iter().filter(|(_, to, _)| *to == peer(port));
        let codes = to_it.map(|(_, _, bytes)| match bytes {
            [] => 0,
            bytes => frame::take(&mut BytesMut::from(bytes), 1 << 20).unwrap().unwrap()[1],
        });
        let codes = codes.collect();
        self.transmits.clear();
        codes
    }

    fn closed(&mut self) -> Option<CloseReason> {
        match self.listener.poll_event() {
            Some(DtlsEvent::Closed { reason, .. }) => Some(reason),
            None => None,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_stream_without_a_csm_ends_and_is_nothing_to_the_gateway() {
    let mut bench = Bench::new();
    bench.open(1, None);
    assert_eq!(bench.sent(1), [signal::CSM]);
    bench.now += Duration::from_secs(10);
    bench.listener.handle_timeout(bench.now, &mut bench.transmits);
    assert_eq!(bench.sent(1), [signal::RELEASE, 0]);
    assert_eq!((bench.closed(), bench.listener.session_count()), (None, 0));
}

#[test]
fn a_stream_ends_when_nothing_came_for_its_time_and_not_before() {
    let mut bench = Bench::new();
    bench.establish(1, None);
    for _ in 0..5 {
        bench.now += Duration::from_secs(90);
        bench.listener.handle_timeout(bench.now, &mut bench.transmits);
        bench.hear(1, message(Code::EMPTY, b""));
    }
    assert_eq!(bench.closed(), None);
    bench.now = bench.listener.poll_timeout().unwrap();
    bench.listener.handle_timeout(bench.now, &mut bench.transmits);
    bench.now = bench.listener.poll_timeout().unwrap();
    bench.listener.handle_timeout(bench.now, &mut bench.transmits);
    assert_eq!(bench.closed(), Some(CloseReason::Idle));
    assert_eq!(bench.listener.poll_timeout(), None);
}

#[test]
fn custody_is_claimed_and_a_release_obeyed_when_no_answer_is_owed_any_more() {
    let mut bench = Bench::new();
    let session = bench.establish(1, None);
    bench.hear(1, message(Code::PUT, b"first"));
    let mut ping = message(Code(signal::PING), b"ping");
    ping.push(0x20);
    bench.hear(1, ping.clone());
    bench.hear(1, message(Code(signal::RELEASE), b""));
    assert_eq!(bench.sent(1), [signal::CSM, signal::PONG]);
    let other = message(Code::CONTENT, b"another");
    bench
        .listener
        .send(session, &other, &mut bench.transmits)
        .unwrap();
    assert_eq!(bench.sent(1), [Code::CONTENT.0]);
    let answer = message(Code::CHANGED, b"first");
    bench
        .listener
        .send(session, &answer, &mut bench.transmits)
        .unwrap();
    assert_eq!(bench.sent(1), [Code::CHANGED.0, 0]);
    // The request, the ping as the message layer has it, and the end.
    for _ in 0..2 {
        assert!(matches!(
            bench.listener.poll_event(),
            Some(DtlsEvent::Plaintext { .. })
        ));
    }
    assert_eq!(bench.closed(), Some(CloseReason::StreamEnded));
    bench.establish(2, None);
    bench.transmits.clear();
    bench.hear(2, ping);
    let pong = bench.transmits.iter().next().unwrap().2.to_vec();
    assert_eq!(pong.last(), Some(&0x20), "with Custody");
}

#[test]
fn who_owes_answers_for_ever_is_released_after_a_while() {
    let mut bench = Bench::new();
    bench.establish(1, None);
    bench.hear(1, message(Code::PUT, b"never"));
    bench.hear(1, message(Code(signal::RELEASE), b""));
    bench.now += RELEASE;
    bench.listener.handle_timeout(bench.now, &mut bench.transmits);
    assert_eq!(bench.sent(1).last(), Some(&0));
}

#[test]
fn what_waits_for_one_peer_is_bounded_and_less_when_it_reads() {
    let mut bench = Bench::new();
    let session = bench.establish(1, None);
    let mut big = message(Code::CONTENT, b"t");
    big.resize(4_000, 0xff);
    for _ in 0..4 {
        bench.listener.send(session, &big, &mut bench.transmits).unwrap();
    }
    let queued = bench.listener.queued(session);
    assert!(queued > 16_000, "{queued}");
    let written = StreamEvent::Written(8_000);
    let of = bench
        .listener
        .handle_stream(bench.now, peer(1), written, &mut bench.transmits);
    assert_eq!(
        (of, bench.listener.queued(session)),
        (Some(session), queued - 8_000)
    );
    bench.listener.send(session, &big, &mut bench.transmits).unwrap();
    bench.listener.send(session, &big, &mut bench.transmits).unwrap();
    let sent = bench.listener.send(session, &big, &mut bench.transmits);
    assert_eq!(sent, Err(SendError::NoSession));
    assert_eq!(bench.sent(1).last(), Some(&0));
    assert_eq!(bench.closed(), Some(CloseReason::SlowReader));
}

#[test]
fn an_identity_with_its_fill_of_sessions_loses_its_most_idle_one() {
    let mut bench = Bench::new();
    for port in [1, 2] {
        bench.establish(port, Some("a"));
        bench.now += Duration::from_secs(1);
    }
    bench.hear(1, message(Code::EMPTY, b""));
    bench.open(3, Some("a"));
    assert_eq!(bench.closed(), Some(CloseReason::Evicted));
    assert_eq!(bench.sent(2).last(), Some(&0), "the other was heard since");
    bench.establish(4, Some("b"));
    assert_eq!(bench.listener.session_count(), 3);
}

#[test]
fn there_is_room_for_so_many_and_what_comes_beyond_hears_why() {
    let mut bench = Bench::new();
    for port in 1..=10 {
        bench.open(port, None);
    }
    bench.transmits.clear();
    bench.open(11, None);
    assert_eq!(bench.sent(11), [signal::ABORT, 0]);
    bench.hear(11, signal::csm(2_000));
    assert_eq!((bench.closed(), bench.listener.session_count()), (None, 10));
}
