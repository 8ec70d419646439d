//! Publishes on their way to the broker: a window of messages in memory, in order, before what waits in the spool. What the
//! broker may hang up on stands apart from it ([`super::judge`]).
//!
//! Without trouble a publish goes into the window, out, and is answered by the broker's acknowledgement; the disk is not
//! touched. Once the broker is away or slow, what waits is written to the spool and answered from there, and later
//! publishes follow it through the spool until that is empty, so that order stays.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::link::Delivery;
use crate::metrics::{DroppedReason, LaneMetrics, RefusedReason};
use crate::origin::OriginTag;
use portcullis_proto::bridge::contract::{BrokerError, BrokerEvent, Ticket};
use portcullis_proto::types::message::{Message, Qos};

use super::codec::Greeting;
use super::exchanges::{Exchange, Exchanges};
use super::judge::{Judge, Subject};
use super::reasons::{self, Refusal};
use super::session::{Sent, Session};
use super::spooling::Spooling;
use super::window::{Answer, Entry, Window};

/// Longest wait before a message that the broker refused for its quota is sent again.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often a spooled message is sent again after it was refused for a quota.
const MAX_QUOTA_RETRIES: u32 = 20;
/// A publish at QoS 0 whose arrival no ping has confirmed.
#[derive(Debug)]
struct Unconfirmed {
    number: u64,
    /// The entry that waits for it, when the message was to go out at a higher QoS.
    token: Option<u64>,
    internal: bool,
    message: Arc<Message>,
}

/// The window, and the spool behind it.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) clock: Clock,
    pub(super) metrics: Arc<LaneMetrics>,
    workers: Vec<Delivery>,
    pub(super) window: Window,
    by_packet: HashMap<u16, u64>,
    unconfirmed: VecDeque<Unconfirmed>,
    greeting: Option<Greeting>,
    /// The connection ended over something that is set apart: the next one stands within milliseconds.
    pub(super) brief: bool,
    max_qos: Qos,
    /// The highest QoS at which the broker acknowledged anything, so that it cannot be what it hangs up on.
    pub(super) proved_qos: Qos,
    /// The broker's quota is exceeded: nothing is sent until then.
    paused: Option<Instant>,
    quota_refusals: u32,
    pub(super) spooling: Spooling,
    pub(super) judge: Judge,
    pub(super) exchanges: Exchanges,
    /// An exchange was given up on the broker's session, which must not go on.
    pub(super) forsaken: bool,
    /// Exchanges of an earlier process may yet turn out to be those of messages in the spool.
    pub(super) reconciling: bool,
    /// The session is left after that: nothing but these exchanges, and what is before them, goes out.
    pub(super) leaves: bool,
}

impl Pipeline {
    pub(super) fn new(
        clock: Clock,
        metrics: Arc<LaneMetrics>,
        workers: Vec<Delivery>,
        max_qos: Qos,
        spooling: Spooling,
        judge: Judge,
        exchanges: Exchanges,
    ) -> Self {
        Self {
            clock,
            metrics,
            workers,
            window: Window::default(),
            by_packet: HashMap::new(),
            unconfirmed: VecDeque::new(),
            greeting: None,
            brief: false,
            max_qos,
            proved_qos: Qos::AtMostOnce,
            paused: None,
            quota_refusals: 0,
            spooling,
            judge,
            reconciling: !exchanges.is_empty(),
            leaves: !exchanges.is_empty(),
            exchanges,
            forsaken: false,
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
        let refused = message.retain && !keeps;
        if refused || self.judge.verdict(self.clock.wall_millis(), &message).is_some() {
            return self.refuse(answer, BrokerError::Refused);
        }
        let linked = self.greeting.is_some() || self.brief;
        if linked && self.window.has_room() && !self.spooling.has_backlog() {
            return self.window.push(Entry {
                answer: Some(answer),
                ..Entry::new(now, message, origin)
            });
        }
        // At QoS 0 nobody asked for more than an attempt, and now there is nothing to attempt it with.
        let worth = linked || message.qos != Qos::AtMostOnce;
        if !worth || !self.spooling.is_open() {
            return self.refuse(answer, BrokerError::Unavailable);
        }
        self.spill(now, Duration::ZERO);
        if !self.spooling.is_open() {
            return self.refuse(answer, BrokerError::Unavailable);
        }
        self.store(message, origin, answer, None);
    }

    /// Sends a message of our own, ahead of nothing and recorded nowhere.
    pub(super) fn publish_internal(&mut self, now: Instant, message: Message) {
        self.window.push(Entry {
            internal: true,
            ..Entry::new(now, Arc::new(message), None)
        });
    }

    /// A connection stands.
    pub(super) fn connected(&mut self, now: Instant, greeting: Greeting, session: &mut Session) {
        self.greeting = Some(greeting);
        self.brief = false;
        self.forsaken = false;
        if !greeting.session_present {
            // What it received and was not told to pass on is gone with its session: all goes out anew.
            self.exchanges.clear();
        }
        self.exchanges.give_up_below(self.spooling.state().head);
        session.requests.reserve(self.exchanges.packets());
        if !self.reconciling {
            self.release_orphans(now, session);
        }
    }

    fn release_orphans(&mut self, now: Instant, session: &mut Session) {
        for packet in self.exchanges.take_orphans() {
            // Without room now, its identifier stays reserved.
            session.release(now, packet);
        }
    }

    /// How many messages of the window may go out: until the exchanges of an earlier process are over, no more than they need.
    fn open_window(&self) -> usize {
        if !self.leaves || self.exchanges.has_messages() {
            return self.window.entries().len();
        }
        let mut entries = self.window.entries().iter();
        let last = entries.rposition(|entry| entry.exchange.is_some());
        last.map_or(0, |last| last + 1)
    }

    /// Releases the exchanges of an earlier process whose messages are not in the spool, once that is known or by `late`.
    pub(super) fn reconcile(&mut self, now: Instant, late: bool, session: &mut Session) {
        if late || !self.spooling.has_backlog() {
            self.exchanges.give_up_below(u64::MAX);
            self.release_orphans(now, session);
            self.reconciling = self.leaves;
        }
    }

    /// Whether the exchanges of an earlier process are over.
    pub(super) fn is_reconciled(&self, session: &Session) -> bool {
        self.exchanges.is_empty()
            && self.window.entries().iter().all(|entry| entry.exchange.is_none())
            && session.is_idle()
    }

    /// The highest QoS at which messages go out on this connection.
    pub(super) fn max_qos(&self) -> Qos {
        let offered = self
            .greeting
            .map_or(Qos::ExactlyOnce, |greeting| greeting.max_qos);
        offered.min(self.max_qos)
    }

    /// Hands to the session what it takes.
    pub(super) fn send(&mut self, now: Instant, session: &mut Session) {
        if self.greeting.is_none() || self.paused.is_some_and(|until| now < until) {
            return;
        }
        self.paused = None;
        let max_qos = self.max_qos();
        let open = self.open_window();
        while let Some(entry) = self.window.next(open) {
            let message = &entry.message;
            let token = entry.token;
            if entry.done {
                self.window.advance();
            } else if let Some(exchange) = entry.exchange.filter(|exchange| exchange.received) {
                if !session.release(now, exchange.packet) {
                    return;
                }
                self.window.advance();
                self.by_packet.insert(exchange.packet, token);
            } else if entry.exchange.is_none() && message.is_expired(now) {
                self.settle(token, now, Settled::Dropped(DroppedReason::Expired));
            } else if !entry.internal && entry.exchange.is_none() && self.stands_apart(&Arc::clone(message)) {
                self.window.set_apart();
            } else {
                match session.publish(now, &entry.outbound(now, message.qos.min(max_qos))) {
                    Sent::Full => return,
                    Sent::TooLarge => self.settle(token, now, Settled::Refused(BrokerError::TooLarge)),
                    sent => self.on_sent(now, token, &sent, session),
                }
            }
        }
    }

    /// Whether a message is suspect, or behind one of its topic that is.
    fn stands_apart(&self, message: &Message) -> bool {
        let apart = self.window.apart();
        if self.judge.is_clean() && apart.is_empty() {
            return false;
        }
        self.judge
            .suspects(self.clock.wall_millis(), &Subject::topic(message))
            || apart.iter().any(|entry| entry.message.topic == message.topic)
    }

    fn on_sent(&mut self, now: Instant, token: u64, sent: &Sent, session: &mut Session) {
        self.window.advance();
        self.metrics.sent.inc();
        match *sent {
            Sent::Packet(packet) => {
                self.by_packet.insert(packet, token);
                self.begin_exchange(packet, token);
            }
            Sent::Unconfirmed(number) => {
                let Some(entry) = self.window.entry(token) else {
                    return;
                };
                let (message, waits) = (Arc::clone(&entry.message), entry.message.qos != Qos::AtMostOnce);
                let internal = entry.internal;
                self.unconfirmed.push_back(Unconfirmed {
                    number,
                    token: waits.then_some(token),
                    internal,
                    message,
                });
                if waits {
                    session.confirm_soon();
                } else {
                    self.settle(token, now, Settled::Delivered);
                }
            }
            Sent::TooLarge | Sent::Full => {}
        }
    }

    fn begin_exchange(&mut self, packet: u16, token: u64) {
        let max_qos = self.max_qos();
        let Some(entry) = self.window.entry(token) else {
            return;
        };
        if entry.internal || entry.message.qos.min(max_qos) != Qos::ExactlyOnce {
            return;
        }
        let mut exchange = Exchange::new(packet, &entry.message);
        exchange.struck = entry.exchange.is_some_and(|before| before.struck);
        let number = entry.number;
        entry.exchange = Some(exchange);
        self.exchanges.note(&exchange, number);
    }

    /// The broker has a publish at QoS 2, which is to be released.
    pub(super) fn on_received(&mut self, packet: u16) {
        let token = self.by_packet.get(&packet).copied();
        let Some(entry) = token.and_then(|token| self.window.entry(token)) else {
            return;
        };
        let number = entry.number;
        if let Some(exchange) = &mut entry.exchange {
            exchange.received = true;
            let exchange = *exchange;
            self.exchanges.note(&exchange, number);
        }
    }

    /// The broker read all publishes at QoS 0 up to the one with this number.
    pub(super) fn on_confirmed(&mut self, now: Instant, number: u64) {
        while self
            .unconfirmed
            .front()
            .is_some_and(|first| first.number <= number)
        {
            if let Some(token) = self.unconfirmed.pop_front().and_then(|first| first.token) {
                self.settle(token, now, Settled::Delivered);
            }
        }
    }

    /// The broker answered a publish.
    pub(super) fn on_acknowledged(&mut self, now: Instant, packet: u16, reason: u8) {
        let token = self.by_packet.get(&packet).copied();
        let entry = token.and_then(|token| self.window.entry(token));
        // What is in the spool may be there after a kill, until the spool has written down that it is done.
        if entry
            .is_none_or(|entry| entry.exchange.take().is_some() && entry.number.is_none() && !entry.writing)
        {
            self.exchanges.forget(packet);
        }
        if let Some(token) = self.by_packet.remove(&packet) {
            self.on_answered(now, token, reason);
        }
    }

    /// The broker answered a publish, wherever it was sent.
    pub(super) fn on_answered(&mut self, now: Instant, token: u64, reason: u8) {
        let max_qos = self.max_qos();
        let Some(entry) = self.window.entry(token) else {
            return;
        };
        let (spooled, message) = (entry.number.is_some(), Arc::clone(&entry.message));
        let qos = entry.tried_at.unwrap_or(entry.message.qos).min(max_qos);
        match reasons::publish(reason) {
            Ok(()) => {
                self.proved_qos = self.proved_qos.max(qos);
                self.quota_refusals = 0;
                self.settle(token, now, Settled::Delivered);
            }
            Err(refusal) if refusal.later && spooled && self.quota_refusals < MAX_QUOTA_RETRIES => {
                self.send_again_later(now, token);
            }
            Err(Refusal { error, .. }) => {
                self.judge.note(now, "topic", message.topic.as_str(), reason);
                self.settle(token, now, Settled::Refused(error));
            }
        }
    }

    /// The broker has no room for a message that is ours to keep: wait, then go on from this message.
    fn send_again_later(&mut self, now: Instant, token: u64) {
        let wait = Duration::from_secs(1 << self.quota_refusals.min(6)).min(MAX_PAUSE);
        self.quota_refusals += 1;
        self.paused = Some(now + wait);
        let spooling = &mut self.spooling;
        self.window
            .send_again(token, |old, new| spooling.renamed(old, new));
    }

    /// The broker does not take a higher QoS.
    pub(super) fn limit_qos(&mut self, qos: Qos) {
        tracing::warn!(
            qos = qos.number(),
            "the broker hangs up at a higher QoS; messages go out at this one from now on"
        );
        self.max_qos = self.max_qos.min(qos);
    }

    pub(super) fn settle(&mut self, token: u64, now: Instant, settled: Settled) {
        let Some(entry) = self.window.entry(token).filter(|entry| !entry.done) else {
            return;
        };
        entry.done = true;
        let (answer, internal, number, writing) =
            (entry.answer.take(), entry.internal, entry.number, entry.writing);
        let answered_before = answer.is_none();
        match (&settled, answer) {
            (Settled::Refused(error), Some(answer)) => self.refuse(answer, *error),
            (Settled::Condemned(error), Some(answer)) => {
                self.metrics.refused.inc();
                self.metrics.refusals.inc(RefusedReason::HungUp);
                self.answer(&answer, Err(*error));
            }
            (_, Some(answer)) => self.accept(answer, now),
            (_, None) => {}
        }
        if !internal {
            match settled {
                Settled::Delivered => self.metrics.acknowledged.inc(),
                Settled::Dropped(reason) => self.metrics.dropped.inc(reason),
                Settled::Refused(error) if answered_before => {
                    self.metrics.refusals.inc(RefusedReason::of(error));
                    self.metrics.dropped.inc(match error {
                        BrokerError::TooLarge => DroppedReason::TooLarge,
                        _ => DroppedReason::Refused,
                    });
                }
                Settled::Condemned(_) if answered_before => {
                    self.metrics.refusals.inc(RefusedReason::HungUp);
                    self.metrics.dropped.inc(DroppedReason::Refused);
                }
                Settled::Refused(_) | Settled::Condemned(_) => {}
            }
        }
        if let Some(number) = number {
            self.spooling.done(number);
        } else if writing {
            self.spooling.settled_while_writing(token);
        }
        self.window.shrink();
    }

    pub(super) fn accept(&mut self, answer: Answer, now: Instant) {
        self.metrics.accepted.inc();
        self.metrics
            .ack_seconds
            .observe(now.saturating_duration_since(answer.since));
        self.answer(&answer, Ok(()));
    }

    pub(super) fn refuse(&mut self, answer: Answer, error: BrokerError) {
        self.metrics.refused.inc();
        self.metrics.refusals.inc(RefusedReason::of(error));
        self.answer(&answer, Err(error));
    }

    fn answer(&mut self, answer: &Answer, result: Result<(), BrokerError>) {
        if let Some(worker) = self.workers.get_mut(answer.worker) {
            let ticket = answer.ticket;
            worker.answer(BrokerEvent::Published { ticket, result });
        }
    }

    /// Hands workers their answers.
    pub(super) fn flush(&mut self) {
        self.workers.iter_mut().for_each(Delivery::flush);
    }

    /// The connection is lost, over one of the messages under way when `accused`. What waits is spooled, or refused without a
    /// spool, unless another connection `follows` on which it may be judged; nothing is in flight any more.
    pub(super) fn disconnected(&mut self, now: Instant, accused: bool, follows: bool) {
        self.greeting = None;
        let unconfirmed = std::mem::take(&mut self.unconfirmed);
        if accused {
            let mut forsaken = false;
            let under_way = self.window.sent_mut();
            let subjects: Vec<Subject> = under_way
                .filter_map(|entry| {
                    let counts = !entry.done && !entry.internal;
                    (counts && is_suspect(entry, &mut forsaken)).then_some(&*entry)
                })
                .map(|entry| Subject::topic(&entry.message))
                .chain(
                    unconfirmed
                        .iter()
                        .filter(|sent| !sent.internal)
                        .map(|sent| Subject::topic(&sent.message)),
                )
                .collect();
            self.forsaken |= forsaken;
            self.judge.accuse(self.clock.wall_millis(), subjects);
        }
        self.by_packet.clear();
        self.paused = None;
        self.keep_window(now, follows);
    }

    /// Whether nothing but messages of our own waits for the broker's word.
    pub(super) fn only_status_is_under_way(&self) -> bool {
        let sent = self.window.sent().filter(|entry| !entry.done);
        let mut internal = sent
            .map(|entry| entry.internal)
            .chain(self.unconfirmed.iter().map(|sent| sent.internal))
            .peekable();
        internal.peek().is_some() && internal.all(|internal| internal)
    }

    /// With nothing left to be sent, nothing that was under way needs to be known to another process.
    pub(super) fn forget_finished(&mut self) {
        if self.exchanges.is_empty() && self.spooling.state().live == 0 {
            self.exchanges.clear();
        }
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

/// Whether the broker may have hung up on a message under way. What may be half received at QoS 2 goes out again on the same
/// session first, since on another one it might be doubled; after a second time that session is `forsaken`.
fn is_suspect(entry: &mut Entry, forsaken: &mut bool) -> bool {
    let Some(exchange) = &mut entry.exchange else {
        return true;
    };
    if exchange.received || !std::mem::replace(&mut exchange.struck, true) {
        return false;
    }
    entry.exchange = None;
    *forsaken = true;
    true
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
    /// The broker hangs up on it.
    Condemned(BrokerError),
}
