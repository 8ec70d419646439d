//! Publishes on their way to the broker: a window of messages in memory, in order, before what waits in the spool.
//!
//! Without trouble a publish goes into the window, out, and is answered by the broker's acknowledgement; the disk is not
//! touched. Once the broker is away or slow, what waits is written to the spool and answered from there, and later
//! publishes follow it through the spool until that is empty, so that order stays.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::link::Delivery;
use crate::metrics::{DroppedReason, LaneMetrics};
use crate::origin::OriginTag;
use portcullis_proto::bridge::contract::{BrokerError, BrokerEvent, Ticket};
use portcullis_proto::types::message::{Message, Qos};

use super::packet_ids::PacketIds;
use super::spooling::Spooling;
use super::suspicion::Suspicion;
use super::wire::{Client, Greeting, Outbound, Refusal};

/// Messages in the window beyond which later ones go to the spool, or are refused without one.
const MAX_WINDOW: usize = 4_096;
const MAX_WINDOW_BYTES: usize = 32 << 20;
/// Longest wait before a message that the broker refused for its quota is sent again.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often a spooled message is sent again after it was refused for a quota.
const MAX_QUOTA_RETRIES: u32 = 20;
/// What a PUBLISH packet has beside topic, payload and content type, at most.
const PACKET_OVERHEAD: usize = 128;

/// Who waits for the answer to a publish.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) worker: usize,
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Ascending in the window.
    pub(super) token: u64,
    pub(super) message: Arc<Message>,
    pub(super) origin: Option<OriginTag>,
    /// Nobody waits for the status messages, nor for what came from the spool.
    pub(super) answer: Option<Answer>,
    pub(super) internal: bool,
    /// Its number in the spool.
    pub(super) number: Option<u64>,
    /// It is on its way into the spool.
    pub(super) writing: bool,
    /// The spool did not take it; it is not tried again.
    pub(super) refused_by_spool: bool,
    pub(super) since: Instant,
    pub(super) done: bool,
    /// Its identifier on this connection, once sent at QoS 1 or 2.
    request: Option<u64>,
    /// It was sent at QoS 2 and is not settled.
    at_qos2: bool,
}

/// The window, and the spool behind it.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) clock: Clock,
    pub(super) metrics: Arc<LaneMetrics>,
    workers: Vec<Delivery>,
    pub(super) window: VecDeque<Entry>,
    window_bytes: usize,
    /// How many entries of the window, from its front, were handed to the client.
    sent: usize,
    next_token: u64,
    /// Entries handed to the client whose packet identifier is not known yet.
    unnamed: VecDeque<u64>,
    by_packet: HashMap<u16, u64>,
    pub(super) ids: PacketIds,
    greeting: Option<Greeting>,
    /// Messages under way at QoS 2.
    at_qos2: usize,
    max_qos: Qos,
    /// The broker's quota is exceeded: nothing is sent until then.
    paused: Option<Instant>,
    quota_refusals: u32,
    pub(super) spooling: Spooling,
    /// How the last connections ended while a message was on its way.
    suspicion: Suspicion,
}

impl Pipeline {
    pub(super) fn new(
        clock: Clock,
        metrics: Arc<LaneMetrics>,
        workers: Vec<Delivery>,
        max_qos: Qos,
        spooling: Spooling,
    ) -> Self {
        Self {
            clock,
            metrics,
            workers,
            window: VecDeque::new(),
            window_bytes: 0,
            sent: 0,
            next_token: 0,
            unnamed: VecDeque::new(),
            by_packet: HashMap::new(),
            ids: PacketIds::new(1),
            greeting: None,
            at_qos2: 0,
            max_qos,
            paused: None,
            quota_refusals: 0,
            spooling,
            suspicion: Suspicion::default(),
        }
    }

    /// Takes a publish of a worker.
    pub(super) fn publish(
        &mut self,
        now: Instant,
        (worker, ticket): (usize, Ticket),
        message: Arc<Message>,
        origin: Option<OriginTag>,
    ) {
        let answer = Answer {
            worker,
            ticket,
            since: now,
        };
        if message.is_expired(now) {
            self.accept(answer, now);
            return self.metrics.dropped.inc(DroppedReason::Expired);
        }
        let keeps = self.greeting.is_none_or(|greeting| greeting.retain);
        if message.retain && !keeps {
            return self.refuse(answer, BrokerError::Refused);
        }
        let room = self.window.len() < MAX_WINDOW && self.window_bytes < MAX_WINDOW_BYTES;
        if self.greeting.is_some() && room && !self.spooling.has_backlog() {
            return self.push(now, message, origin, Some(answer), None);
        }
        // At QoS 0 nobody asked for more than an attempt, and now there is nothing to attempt it with.
        let worth = self.greeting.is_some() || message.qos != Qos::AtMostOnce;
        if !worth || !self.spooling.is_open() {
            return self.refuse(answer, BrokerError::Unavailable);
        }
        self.spill(now, Duration::ZERO);
        if !self.spooling.is_open() {
            return self.refuse(answer, BrokerError::Unavailable);
        }
        self.store(message, origin, answer);
    }

    /// Sends a message of our own, ahead of nothing and recorded nowhere.
    pub(super) fn publish_internal(&mut self, now: Instant, message: Message) {
        self.push(now, Arc::new(message), None, None, None);
        if let Some(entry) = self.window.back_mut() {
            entry.internal = true;
        }
    }

    pub(super) fn push(
        &mut self,
        now: Instant,
        message: Arc<Message>,
        origin: Option<OriginTag>,
        answer: Option<Answer>,
        number: Option<u64>,
    ) {
        self.window_bytes += message.payload.len();
        let token = self.token();
        self.window.push_back(Entry {
            token,
            message,
            origin,
            answer,
            internal: false,
            number,
            writing: false,
            refused_by_spool: false,
            since: now,
            done: false,
            request: None,
            at_qos2: false,
        });
    }

    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(super) fn entry(&mut self, token: u64) -> Option<&mut Entry> {
        let at = self
            .window
            .binary_search_by_key(&token, |entry| entry.token)
            .ok()?;
        self.window.get_mut(at)
    }

    /// A connection stands.
    pub(super) fn connected(&mut self, greeting: Greeting) {
        self.ids = PacketIds::new(greeting.in_flight);
        self.greeting = Some(greeting);
    }

    /// Hands to the client what it takes.
    pub(super) fn send(&mut self, now: Instant, client: &Client) {
        let Some(greeting) = self.greeting else { return };
        if self.paused.is_some_and(|until| now < until) {
            return;
        }
        self.paused = None;
        let alone = self.suspicion.one_at_a_time();
        while let Some(entry) = self.window.get(self.sent) {
            let message = &entry.message;
            let size = message.topic.as_str().len()
                + message.payload.len()
                + message.content_type.as_deref().map_or(0, str::len)
                + PACKET_OVERHEAD;
            let qos = message.qos.min(greeting.max_qos).min(self.max_qos);
            let token = entry.token;
            if entry.done {
                self.sent += 1;
            } else if message.is_expired(now) {
                self.settle(token, now, Settled::Dropped(DroppedReason::Expired));
            } else if size > greeting.max_packet {
                self.settle(token, now, Settled::Refused(BrokerError::TooLarge));
            } else if self.suspicion.condemns(message) {
                self.condemn(token, now, qos);
            } else {
                let waiting = alone && self.window.iter().take(self.sent).any(|before| !before.done);
                let free = match qos {
                    Qos::AtMostOnce => true,
                    Qos::AtLeastOnce => self.ids.free(),
                    Qos::ExactlyOnce => self.ids.free() && self.at_qos2 < usize::from(greeting.at_qos2),
                };
                if waiting || !free || !self.hand_over(now, client, qos) {
                    return;
                }
            }
        }
    }

    fn hand_over(&mut self, now: Instant, client: &Client, qos: Qos) -> bool {
        let Some(entry) = self.window.get_mut(self.sent) else {
            return false;
        };
        let expiry = entry.message.expires_at.map(|at| {
            let left = at.saturating_duration_since(now);
            u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
        });
        let outbound = Outbound {
            message: &entry.message,
            qos,
            expiry,
            origin: entry.origin,
        };
        if !client.publish(&outbound) {
            return false;
        }
        if qos != Qos::AtMostOnce {
            entry.request = Some(self.ids.take(now));
            entry.at_qos2 = qos == Qos::ExactlyOnce;
            self.at_qos2 += usize::from(entry.at_qos2);
        }
        self.unnamed.push_back(entry.token);
        self.sent += 1;
        self.suspicion.sent(now);
        self.metrics.sent.inc();
        true
    }

    /// The oldest publish that was handed over is on its way.
    pub(super) fn on_sent(&mut self, now: Instant, packet: u16) {
        let Some(token) = self.unnamed.pop_front() else {
            return;
        };
        if packet == 0 {
            self.settle(token, now, Settled::Delivered);
        } else {
            self.by_packet.insert(packet, token);
        }
    }

    /// The broker answered a publish.
    pub(super) fn on_acknowledged(&mut self, now: Instant, packet: u16, result: Result<(), Refusal>) {
        let Some(token) = self.by_packet.remove(&packet) else {
            return;
        };
        let Some(entry) = self.entry(token) else { return };
        let (spooled, internal) = (entry.number.is_some(), entry.internal);
        if !internal {
            self.suspicion.acknowledged();
        }
        match result {
            Ok(()) => {
                self.quota_refusals = 0;
                self.settle(token, now, Settled::Delivered);
            }
            Err(refusal) if refusal.later && spooled && self.quota_refusals < MAX_QUOTA_RETRIES => {
                self.send_again_later(now, token);
            }
            Err(refusal) => self.settle(token, now, Settled::Refused(refusal.error)),
        }
    }

    /// The broker has no room for a message that is ours to keep: wait, then go on from this message.
    fn send_again_later(&mut self, now: Instant, token: u64) {
        let wait = Duration::from_secs(1 << self.quota_refusals.min(6)).min(MAX_PAUSE);
        self.quota_refusals += 1;
        self.paused = Some(now + wait);
        let Ok(at) = self.window.binary_search_by_key(&token, |entry| entry.token) else {
            return;
        };
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        let at_qos2 = std::mem::take(&mut entry.at_qos2);
        if let Some(request) = entry.request.take() {
            self.ids.done(now, request);
        }
        self.at_qos2 -= usize::from(at_qos2);
        // What was sent behind it stays sent: the broker took it, or will say that it did not.
        let Some(mut entry) = self.window.remove(at) else {
            return;
        };
        self.sent -= 1;
        let place = self.sent.min(self.window.len());
        let before = place.checked_sub(1).and_then(|before| self.window.get(before));
        entry.token = before.map_or(entry.token, |before| before.token.max(entry.token));
        self.window.insert(place, entry);
        self.renumber(place);
    }

    /// Gives the entries from `place` on new tokens: none of them is known elsewhere yet, but to the spool.
    fn renumber(&mut self, place: usize) {
        for at in place..self.window.len() {
            let token = self.token();
            if let Some(entry) = self.window.get_mut(at) {
                self.spooling.renamed(entry.token, token);
                entry.token = token;
            }
        }
    }

    pub(super) fn settle(&mut self, token: u64, now: Instant, settled: Settled) {
        let Some(entry) = self.entry(token).filter(|entry| !entry.done) else {
            return;
        };
        entry.done = true;
        let (answer, internal, number, writing) =
            (entry.answer.take(), entry.internal, entry.number, entry.writing);
        let at_qos2 = std::mem::take(&mut entry.at_qos2);
        if let Some(request) = entry.request.take() {
            self.ids.done(now, request);
        }
        self.at_qos2 -= usize::from(at_qos2);
        let answered_before = answer.is_none();
        match (&settled, answer) {
            (Settled::Refused(error), Some(answer)) => self.refuse(answer, *error),
            (_, Some(answer)) => self.accept(answer, now),
            (_, None) => {}
        }
        if !internal {
            match settled {
                Settled::Delivered => self.metrics.acknowledged.inc(),
                Settled::Dropped(reason) => self.metrics.dropped.inc(reason),
                Settled::Refused(BrokerError::TooLarge) if answered_before => {
                    self.metrics.dropped.inc(DroppedReason::TooLarge);
                }
                Settled::Refused(error) if answered_before => {
                    tracing::warn!(?error, "the broker refused a message that was accepted earlier");
                    self.metrics.dropped.inc(DroppedReason::Refused);
                }
                Settled::Refused(_) => {}
            }
        }
        if let Some(number) = number {
            self.spooling.done(number);
        } else if writing {
            self.spooling.settled_while_writing(token);
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.window.front().is_some_and(|entry| entry.done) {
            if let Some(entry) = self.window.pop_front() {
                self.window_bytes -= entry.message.payload.len();
                self.sent = self.sent.saturating_sub(1);
            }
        }
    }

    pub(super) fn accept(&self, answer: Answer, now: Instant) {
        self.metrics.accepted.inc();
        self.metrics
            .ack_seconds
            .observe(now.saturating_duration_since(answer.since));
        self.answer(&answer, Ok(()));
    }

    pub(super) fn refuse(&self, answer: Answer, error: BrokerError) {
        self.metrics.refused.inc();
        self.answer(&answer, Err(error));
    }

    fn answer(&self, answer: &Answer, result: Result<(), BrokerError>) {
        if let Some(worker) = self.workers.get(answer.worker) {
            let ticket = answer.ticket;
            worker.answer(BrokerEvent::Published { ticket, result });
        }
    }

    /// The connection is lost. What waits is spooled, or refused without a spool; nothing is in flight any more.
    pub(super) fn disconnected(&mut self, now: Instant, by_broker: bool) {
        if self.greeting.take().is_some() {
            let under_way = self
                .window
                .iter()
                .take(self.sent)
                .find(|entry| !entry.done && !entry.internal);
            self.suspicion
                .lost(now, by_broker, under_way.map(|entry| &*entry.message));
        }
        self.unnamed.clear();
        self.by_packet.clear();
        self.sent = 0;
        self.at_qos2 = 0;
        self.window_bytes = 0;
        self.paused = None;
        self.keep_window();
    }

    /// Gives up a message at which the broker hangs up each time; first of all its QoS, if that may be the cause.
    fn condemn(&mut self, token: u64, now: Instant, qos: Qos) {
        self.suspicion = Suspicion::default();
        if qos == Qos::ExactlyOnce {
            tracing::warn!("the broker hangs up at QoS 2; messages go out at QoS 1 from now on");
            self.max_qos = Qos::AtLeastOnce;
            return;
        }
        tracing::error!("the broker hangs up at a message each time; it is given up");
        self.settle(token, now, Settled::Refused(BrokerError::Refused));
    }

    /// Whether a QoS 2 exchange is under way.
    pub(super) fn is_in_qos2(&self) -> bool {
        let sent = self.window.iter().take(self.sent);
        sent.filter(|entry| !entry.done)
            .any(|entry| entry.message.qos == Qos::ExactlyOnce)
    }

    /// Whether everything that was accepted is with the broker or in the spool.
    pub(super) fn is_idle(&self) -> bool {
        self.window.is_empty() && !self.spooling.is_writing()
    }

    /// When [`Self::send`] has something to do again by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paused
    }
}

/// How a publish ended.
#[derive(Debug)]
pub(super) enum Settled {
    /// The broker has it.
    Delivered,
    /// It was accepted, and is worthless now.
    Dropped(DroppedReason),
    /// The broker, or its limits, did not take it.
    Refused(BrokerError),
}
