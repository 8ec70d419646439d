//! Long random sequences of everything that can happen: nothing panics, every datagram has one end, and when the peers are gone
//! nothing of them is left.

use std::collections::HashMap;
use std::time::Duration;

use portcullis::coap::contract::{
    CoapSettings, Code, Event, ExchangeId, ObservationId, OutgoingRequest, PeerId, RequestId, Response,
};
use portcullis::coap::metrics::NotificationResult;
use portcullis::types::TopicLimits;
use portcullis::types::limits::Caps;
use portcullis::types::reason::Label as _;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::*;

const CAPS: Caps = Caps {
    memory: 0,
    observations_per_identity: 0,
    memory_per_identity: 0,
    observations_per_client: 0,
    topics: TopicLimits::MAX,
    queued_per_observation: 5,
    queued_for_sleeper: 9,
    queued_bytes: 20_000,
    remembered_exchanges: 50,
    pending_requests: 40,
    transfer_bytes: 40_000,
};

struct Soup {
    sim: Sim,
    rng: StdRng,
    pending: Vec<ExchangeId>,
    sent: Vec<Msg>,
    notified: u64,
    asked: u64,
    answered: HashMap<u64, u32>,
}

impl Soup {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let settings = CoapSettings {
            ack_timeout: Duration::from_millis(rng.random_range(100..3_000)),
            max_retransmit: rng.random_range(0..5),
            max_block_size: 16 << rng.random_range(0..7),
            max_body_size: 4_000,
            challenge_unproven: rng.random_bool(0.2),
        };
        let mut sim = Sim::with(settings, CAPS);
        for peer in 3..6 {
            sim.add(PeerId(peer), false);
        }
        Self {
            sim,
            rng,
            pending: Vec::new(),
            sent: Vec::new(),
            notified: 0,
            asked: 0,
            answered: HashMap::new(),
        }
    }

    fn peer(&mut self) -> PeerId {
        PeerId(self.rng.random_range(1..6))
    }

    fn request_of_peer(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let codes = [
            Code::GET,
            Code::POST,
            Code::PUT,
            Code::DELETE,
            Code::FETCH,
            Code(31),
        ];
        let token: Vec<u8> = (0..rng.random_range(0..9)).map(|_| rng.random()).collect();
        let mut msg = Msg::new(
            Con,
            codes[rng.random_range(0..6)],
            rng.random_range(0..30),
            &token,
        );
        if rng.random_bool(0.5) {
            msg = msg.non();
        }
        msg = msg.path(["ps/a", "ps/b", "x"][rng.random_range(0..3)]);
        let size = 16 << rng.random_range(0..4);
        if rng.random_bool(0.3) {
            let more = rng.random_bool(0.7);
            let len = if more { size } else { rng.random_range(0..=size) };
            msg = msg
                .block(BLOCK1, rng.random_range(0..4), more, size)
                .payload(&body(len));
        } else if rng.random_bool(0.3) {
            msg = msg.payload(&body(rng.random_range(0..5_000)));
        }
        if rng.random_bool(0.3) {
            msg = msg.block(BLOCK2, rng.random_range(0..4), false, size);
        }
        for number in [OBSERVE, SIZE1, NO_RESPONSE, REQUEST_TAG, ECHO, 9, 35, 5] {
            if rng.random_bool(0.05) {
                msg = msg.opt(number, &[rng.random()]);
            }
        }
        msg.encode()
    }

    fn reply(&mut self) -> Option<(PeerId, Vec<u8>)> {
        if self.sent.is_empty() {
            return None;
        }
        let to = self.sent.swap_remove(self.rng.random_range(0..self.sent.len()));
        let msg = match self.rng.random_range(0..5) {
            0 => Msg::empty(Rst, to.mid()),
            1 | 2 => Msg::empty(Ack, to.mid()),
            3 => Msg::new(Ack, Code::CONTINUE, to.mid(), to.token()).block(BLOCK1, 0, true, 16),
            _ => Msg::new(Con, Code::CONTENT, self.rng.random_range(0..30), to.token())
                .block(BLOCK2, self.rng.random_range(0..3), true, 16)
                .payload(&[1; 16]),
        };
        Some((to.peer, msg.encode()))
    }

    fn garbage(&mut self) -> Vec<u8> {
        let mut bytes = match self.rng.random_bool(0.5) {
            true => self.request_of_peer(),
            false => (0..self.rng.random_range(0..60))
                .map(|_| self.rng.random())
                .collect(),
        };
        for _ in 0..self.rng.random_range(0..4) {
            if !bytes.is_empty() {
                let at = self.rng.random_range(0..bytes.len());
                bytes[at] = self.rng.random();
            }
        }
        bytes
    }

    /// Every datagram is an event or an answer, or it is counted under one reason. Never two of them.
    fn receive(&mut self, peer: PeerId, bytes: &[u8]) {
        let before = self.sim.all_dropped();
        let proven = self.sim.is_proven(peer);
        self.sim.raw(peer, bytes);
        let dropped = self.sim.all_dropped() - before;
        assert!(dropped <= 1);
        let sent = self.sim.sent();
        let events = self.take_events();
        if dropped == 1 {
            // Whatever an unproven peer sends makes room for what waits for it.
            assert!((!proven || sent.len() <= 1) && events == 0, "{bytes:02x?}");
        }
        self.sent.extend(sent);
    }

    fn take_events(&mut self) -> usize {
        let events = self.sim.events();
        let n = events.len();
        for event in events {
            match event {
                Event::Request { exchange, .. } => self.pending.push(exchange),
                Event::Answered { request, .. } => *self.answered.entry(request.0).or_default() += 1,
                Event::Notified { .. } | Event::Unanswered { .. } | Event::Alive { .. } => {}
            }
        }
        n
    }

    fn respond(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let exchange = self
            .pending
            .swap_remove(self.rng.random_range(0..self.pending.len()));
        let mut response =
            Response::new([Code::CONTENT, Code::CHANGED, Code::NOT_FOUND][self.rng.random_range(0..3)]);
        response.payload = body(self.rng.random_range(0..5_000)).into();
        match self.rng.random_bool(0.9) {
            true => self.sim.respond(exchange, response),
            false => self.sim.refuse(exchange),
        }
    }

    fn notify(&mut self) {
        let (peer, observation) = (self.peer(), self.rng.random_range(0..4));
        let confirmable = self.rng.random();
        let mut notification = note(observation, self.asked as u32, confirmable);
        notification.payload = body(self.rng.random_range(0..5_000)).into();
        if self.rng.random_bool(0.2) {
            notification.expires_at =
                Some(self.sim.now() + Duration::from_secs(self.rng.random_range(0..20)));
        }
        self.notified += 1;
        self.sim
            .notify_peer(peer, peer.0 * 10 + observation, notification);
    }

    fn ask(&mut self) {
        let peer = self.peer();
        let request = OutgoingRequest {
            method: Code::PUT,
            path: vec!["x".into()],
            query: Vec::new(),
            content_format: None,
            payload: body(self.rng.random_range(0..200)).into(),
            timeout: Duration::from_secs(self.rng.random_range(0..200)),
        };
        self.asked += 1;
        let now = self.sim.now();
        self.sim
            .endpoint
            .request(now, self.sim.peers.get(peer), RequestId(self.asked), request);
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..35 => {
                let (peer, bytes) = (self.peer(), self.request_of_peer());
                self.receive(peer, &bytes);
            }
            35..45 => {
                let (peer, bytes) = (self.peer(), self.garbage());
                self.receive(peer, &bytes);
            }
            45..60 => {
                if let Some((peer, bytes)) = self.reply() {
                    self.receive(peer, &bytes);
                }
            }
            60..72 => self.respond(),
            72..82 => self.notify(),
            82..86 => self.ask(),
            86..96 => {
                let ms = self.rng.random_range(0..4_000);
                self.sim.pass_ms(ms);
            }
            96 => {
                let peer = self.peer();
                let observation = ObservationId(peer.0 * 10 + self.rng.random_range(0..4));
                self.sim.endpoint.cancel(self.sim.peers.get(peer), observation);
            }
            97 => {
                let peer = self.peer();
                match self.rng.random_range(0..3) {
                    0 => self.sim.set_proven(peer),
                    1 => self.sim.unprove(peer),
                    _ => self.sim.peers.get(peer).ask_for_proof(),
                }
            }
            98 => {
                let peer = self.peer();
                self.sim.remove(peer);
                self.sim.add(peer, peer.0 < 3);
            }
            _ => self.sim.pass_s(self.rng.random_range(0..300)),
        }
        self.sent.extend(self.sim.sent());
        self.take_events();
        assert!(self.sim.metrics.queued_bytes.get() <= 20_000);
        assert!(self.sim.metrics.remembered_exchanges.get() <= 50);
    }

    fn end(mut self) {
        self.sim.pass_s(400);
        self.take_events();
        for id in 1..=self.asked {
            assert_eq!(self.answered.get(&id), Some(&1), "request {id} ends once");
        }
        for peer in 1..6 {
            self.sim.remove(PeerId(peer));
        }
        self.sim.pass_s(400);
        assert_eq!(self.sim.endpoint.poll_timeout(), None);
        assert_eq!(self.sim.metrics.queued_bytes.get(), 0);
        assert_eq!(self.sim.metrics.remembered_exchanges.get(), 0);
        let of = |confirmable, results: &[NotificationResult]| -> u64 {
            let count = |result: &NotificationResult| self.sim.notifications(confirmable, *result);
            results.iter().map(count).sum()
        };
        // A NON that was sent may be reset afterwards; that is no second end.
        let con = of(true, NotificationResult::ALL);
        let non = of(false, NotificationResult::ALL) - of(false, &[NotificationResult::Reset]);
        assert_eq!(con + non, self.notified, "each notification ends once");
    }
}

#[test]
fn anything_in_any_order() {
    for seed in 0..60 {
        let mut soup = Soup::new(seed);
        for _ in 0..1_500 {
            soup.step();
        }
        soup.end();
    }
}
