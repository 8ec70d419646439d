//! One upstream subscription for each distinct filter, whoever holds it.
//!
//! A new observer of a known filter still gets the retained messages: the filter is subscribed again, and what the broker
//! sends because of that (it carries the retain flag, live messages do not) goes to the asking observer alone. The same
//! way reads a retained message for nobody who stays. Such a *round* is over when the broker answered a request (a
//! *fence*) sent behind the subscribe, and behind the acknowledgement of all that came because of it, without sending more:
//! a broker holds back what is beyond its window until we acknowledge, and may be slow.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::link::Delivery;
use crate::metrics::LaneMetrics;
use crate::notes::Notes;
use crate::topics::{FilterTable, Sums};
use portcullis_proto::bridge::contract::{BrokerError, BrokerEvent, FilterId, MAX_RETAINED, Ticket};
use portcullis_proto::bridge::receipt::Receipt;
use portcullis_proto::types::message::{Message, Qos};
use portcullis_proto::types::{TopicFilter, TopicName};

mod delivery;
mod last_seen;
mod renewals;
mod rounds;
mod trials;

use last_seen::LastSeen;
use renewals::Renewal;
pub(super) use trials::Tried;

use super::codec::{Greeting, Subscription};
use super::duplicates::Duplicates;
use super::judge::Judge;
use super::session::Session;
use crate::settings::Protocol;

/// A round is over when no retained message came for so long after the last fence: some brokers look for them beside
/// answering.
const QUIET: Duration = Duration::from_millis(50);
/// A round in which nothing happened for so long is over.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A round is over then at the latest.
const LONGEST_ROUND: Duration = Duration::from_secs(60);
/// Payload bytes that one round collects.
const MAX_COLLECTED_BYTES: usize = 64 << 20;
/// Live messages that wait for a new observer until its subscription is answered.
const MAX_HELD: usize = 4_096;
/// What a SUBSCRIBE packet has beside its filter, at most.
const SUBSCRIBE_OVERHEAD: usize = 24;
/// The largest subscription identifier (MQTT 5, 3.8.2.1.2).
const MAX_NUMBER: u32 = 268_435_455;

type Holder = (usize, FilterId);

/// What a worker waits for.
#[derive(Debug)]
struct Ask {
    worker: usize,
    ticket: Ticket,
    kind: AskKind,
    collected: BTreeMap<TopicName, Arc<Message>>,
    /// There was more than could be collected.
    cut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AskKind {
    /// It observes from now on.
    Subscribe { filter_id: FilterId, retained: bool },
    /// It wants the retained message.
    Read,
}

#[derive(Debug)]
struct HolderState {
    holder: Holder,
    /// Its subscribe was answered: messages go to it.
    active: bool,
    /// Messages for after the answer.
    held: Vec<(Arc<Message>, Option<Receipt>)>,
}

impl Drop for HolderState {
    fn drop(&mut self) {
        // Nobody gets them.
        taken(self.held.drain(..).map(|(_, receipt)| receipt));
    }
}

fn taken(receipts: impl IntoIterator<Item = Option<Receipt>>) {
    receipts.into_iter().flatten().for_each(Receipt::taken);
}

#[derive(Debug)]
struct Round {
    /// Tells it from other rounds of the filter.
    serial: u64,
    bytes: usize,
    asks: Vec<Ask>,
    begun: Instant,
    acknowledged: bool,
    /// The last fence was answered, and nothing came since it was asked for.
    fenced: bool,
    /// A retained message came since the last fence was asked for.
    stirred: bool,
    quiet_since: Instant,
}

#[derive(Debug)]
struct Entry {
    filter: TopicFilter,
    qos: Qos,
    holders: Vec<HolderState>,
    /// The broker has acknowledged it on this connection (or kept it).
    standing: bool,
    /// It was sent on this connection, and not refused.
    asked: bool,
    round: Option<Round>,
    /// Asks for the next round.
    next: Vec<Ask>,
    seen: LastSeen,
    /// It is being made again after a lost session: until then retained messages may be news to all.
    renewed_until: Option<Instant>,
    /// The broker does not take it again yet.
    renewal: Option<Renewal>,
    /// Since when it waits to be tried apart, because the broker may hang up on it.
    on_trial: Option<Instant>,
}

/// A request to the broker that waits its turn, or its acknowledgement.
#[derive(Debug, Clone)]
enum Request {
    Subscribe {
        number: u32,
        retained: bool,
        serial: u64,
    },
    Unsubscribe(TopicFilter),
    Fence {
        number: u32,
        serial: u64,
        /// What the broker sent before has to be acknowledged first, since it may hold the rest back until then.
        behind: Option<u64>,
    },
}

impl Request {
    const fn fence(number: u32, serial: u64) -> Self {
        Self::Fence {
            number,
            serial,
            behind: None,
        }
    }
}

/// The subscriptions of one lane.
#[derive(Debug)]
pub(super) struct Subscriptions {
    workers: Vec<Delivery>,
    metrics: Arc<LaneMetrics>,
    entries: HashMap<u32, Entry>,
    by_filter: HashMap<TopicFilter, u32>,
    by_holder: HashMap<Holder, u32>,
    table: FilterTable<u32>,
    last_number: u32,
    /// The first number of this process; what an earlier one gave is another, most likely.
    first_number: u32,
    protocol: Protocol,
    /// Unsubscribed to learn that the broker has worked off what was sent before; nobody ever subscribes it.
    fence: String,
    connected: bool,
    names_subscriptions: bool,
    wildcards: bool,
    /// The longest filter in bytes for which the broker takes a packet.
    max_filter: usize,
    waiting: VecDeque<Request>,
    by_packet: HashMap<u16, Request>,
    /// Filters to be tried apart, in order, and those whose unsubscribe is.
    on_trial: VecDeque<u32>,
    unsubscribes_on_trial: VecDeque<TopicFilter>,
    /// Filters that have a round, and some that had one.
    in_round: Vec<u32>,
    last_serial: u64,
    /// When a retained message came last, for whichever round.
    stirred_at: Option<Instant>,
    /// Filters whose renewal waits for its time.
    renewing: Vec<u32>,
    /// Filters that were given up while the broker was away and keeps the session.
    gone: Vec<TopicFilter>,
    found: Vec<u32>,
    sums: Sums,
    notes: Notes,
    targets: Vec<Holder>,
    duplicates: Duplicates,
    hasher: RandomState,
}

impl Subscriptions {
    /// `events_prefix` is what the gateway's own topics begin with.
    pub(super) fn new(
        workers: Vec<Delivery>,
        metrics: Arc<LaneMetrics>,
        protocol: Protocol,
        events_prefix: &str,
    ) -> Self {
        let hasher = RandomState::new();
        let first_number = hasher.hash_one(protocol as u8) as u32 % MAX_NUMBER;
        Self {
            workers,
            metrics,
            protocol,
            fence: format!("{events_prefix}/fence"),
            entries: HashMap::new(),
            by_filter: HashMap::new(),
            by_holder: HashMap::new(),
            table: FilterTable::default(),
            last_number: first_number,
            first_number,
            connected: false,
            names_subscriptions: false,
            wildcards: true,
            max_filter: usize::MAX,
            waiting: VecDeque::new(),
            by_packet: HashMap::new(),
            on_trial: VecDeque::new(),
            unsubscribes_on_trial: VecDeque::new(),
            in_round: Vec::new(),
            last_serial: 0,
            stirred_at: None,
            renewing: Vec::new(),
            gone: Vec::new(),
            found: Vec::new(),
            sums: Sums::default(),
            notes: Notes::default(),
            targets: Vec::new(),
            duplicates: Duplicates::default(),
            hasher,
        }
    }

    /// A worker observes a filter once more.
    pub(super) fn subscribe(
        &mut self,
        now: Instant,
        (worker, filter_id): Holder,
        ticket: Ticket,
        filter: TopicFilter,
        (qos, retained): (Qos, bool),
        (judge, wall): (&Judge, u64),
    ) {
        let kind = AskKind::Subscribe { filter_id, retained };
        let ask = Ask {
            worker,
            ticket,
            kind,
            collected: BTreeMap::new(),
            cut: false,
        };
        if !self.fits(&filter) {
            return self.answer(ask, Err(BrokerError::Refused));
        }
        if let Some(error) = judge.filter_verdict(wall, filter.as_str()) {
            return self.answer(ask, Err(error));
        }
        // QoS 2 would bring an observer nothing: QoS 1 and 2 reach it alike, as a confirmable notification.
        let qos = qos.min(Qos::AtLeastOnce);
        // What has observers is made again when the broker is back, for one more as for them: an observer that comes from
        // another worker meanwhile keeps what it has.
        let known = self
            .by_filter
            .get(&filter)
            .and_then(|number| self.entries.get(number));
        let satisfied = !retained
            && known.is_some_and(|entry| {
                let kept = !self.connected && entry.holders.iter().any(|known| known.active);
                qos <= entry.qos && (entry.standing || kept)
            });
        if !self.connected && !satisfied {
            return self.answer(ask, Err(BrokerError::Unavailable));
        }
        let number = self.enter(filter);
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        let holder = (worker, filter_id);
        if !entry.holders.iter().any(|known| known.holder == holder) {
            entry.holders.push(HolderState {
                holder,
                active: false,
                held: Vec::new(),
            });
            self.by_holder.insert(holder, number);
        }
        entry.qos = entry.qos.max(qos);
        if satisfied {
            self.finish(number, ask, Ok(()));
        } else {
            self.suspect(now, number, (judge, wall));
            self.ask(now, number, ask);
        }
    }

    /// A worker goes on observing what it observed in an earlier process.
    pub(super) fn restore(&mut self, holder: Holder, filter: TopicFilter, qos: Qos) {
        if !self.fits(&filter) {
            return self.tell(
                holder.0,
                BrokerEvent::SubscriptionLost {
                    filter_id: holder.1,
                    error: BrokerError::Refused,
                },
            );
        }
        let number = self.enter(filter);
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        // As far as is known: where the broker lost the session it is made again, with what is retained.
        entry.standing = true;
        entry.qos = entry.qos.max(qos.min(Qos::AtLeastOnce));
        if !entry.holders.iter().any(|known| known.holder == holder) {
            entry.holders.push(HolderState {
                holder,
                active: true,
                held: Vec::new(),
            });
            self.by_holder.insert(holder, number);
        }
    }

    /// Nobody observes any more what was observed in an earlier process.
    pub(super) fn abandon(&mut self, filter: TopicFilter) {
        self.gone.push(filter);
    }

    /// A worker wants to know a retained message.
    pub(super) fn read(
        &mut self,
        now: Instant,
        worker: usize,
        ticket: Ticket,
        topic: &TopicName,
        (judge, wall): (&Judge, u64),
    ) {
        let ask = Ask {
            worker,
            ticket,
            kind: AskKind::Read,
            collected: BTreeMap::new(),
            cut: false,
        };
        let Ok(filter) = TopicFilter::new(topic.as_str()) else {
            return self.answer(ask, Err(BrokerError::Refused));
        };
        if !self.fits(&filter) {
            return self.answer(ask, Err(BrokerError::Refused));
        }
        if let Some(error) = judge.filter_verdict(wall, filter.as_str()) {
            return self.answer(ask, Err(error));
        }
        if !self.connected {
            return self.answer(ask, Err(BrokerError::Unavailable));
        }
        let number = self.enter(filter);
        self.suspect(now, number, (judge, wall));
        self.ask(now, number, ask);
    }

    /// The last observation of a worker's filter is gone.
    pub(super) fn unsubscribe(&mut self, holder: Holder) {
        let Some(number) = self.by_holder.remove(&holder) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.holders.retain(|known| known.holder != holder);
        }
        self.leave_if_unused(number);
    }

    /// Whether the broker takes such a filter, for all that it said of itself.
    fn fits(&self, filter: &TopicFilter) -> bool {
        let text = filter.as_str();
        !text.starts_with("$share/")
            && text.len() <= self.max_filter
            && (self.wildcards || !filter.has_wildcard())
    }

    fn enter(&mut self, filter: TopicFilter) -> u32 {
        if let Some(number) = self.by_filter.get(&filter) {
            return *number;
        }
        // Numbers are not used again soon: a message on its way may still name an old one.
        self.last_number = self.last_number % MAX_NUMBER + 1;
        while self.entries.contains_key(&self.last_number) {
            self.last_number = self.last_number % MAX_NUMBER + 1;
        }
        let number = self.last_number;
        self.table.insert(&filter, number);
        self.by_filter.insert(filter.clone(), number);
        let entry = Entry {
            filter,
            qos: Qos::AtMostOnce,
            holders: Vec::new(),
            standing: false,
            asked: false,
            round: None,
            next: Vec::new(),
            seen: LastSeen::default(),
            renewed_until: None,
            renewal: None,
            on_trial: None,
        };
        self.entries.insert(number, entry);
        self.metrics.subscriptions.set(self.entries.len() as u64);
        self.metrics.filter_bytes.set(self.table.bytes() as u64);
        number
    }

    /// Whether this process gave a filter this number.
    fn is_ours(&self, number: usize) -> bool {
        let given = |number: u32| number.wrapping_sub(self.first_number) % (MAX_NUMBER);
        u32::try_from(number).is_ok_and(|number| given(number) <= given(self.last_number))
    }

    fn leave_if_unused(&mut self, number: u32) {
        let unused =
            |entry: &Entry| entry.holders.is_empty() && entry.round.is_none() && entry.next.is_empty();
        if !self.entries.get(&number).is_some_and(unused) {
            return;
        }
        let Some(entry) = self.entries.remove(&number) else {
            return;
        };
        self.table.remove(&entry.filter, number);
        self.by_filter.remove(&entry.filter);
        self.metrics.subscriptions.set(self.entries.len() as u64);
        self.metrics.filter_bytes.set(self.table.bytes() as u64);
        if self.connected && (entry.standing || entry.asked) {
            self.waiting.push_back(Request::Unsubscribe(entry.filter));
        } else if entry.standing {
            self.gone.push(entry.filter);
        }
    }

    /// The broker is there. What it does not remember is subscribed again, and first tried apart where it may hang up on it.
    pub(super) fn connected(&mut self, now: Instant, greeting: &Greeting, (judge, wall): (&Judge, u64)) {
        self.connected = true;
        self.names_subscriptions = greeting.names_subscriptions;
        self.wildcards = greeting.wildcards;
        self.max_filter = greeting.max_packet.saturating_sub(SUBSCRIBE_OVERHEAD);
        let gone = std::mem::take(&mut self.gone).into_iter();
        if greeting.session_present {
            let unused = gone.filter(|filter| !self.by_filter.contains_key(filter));
            self.waiting.extend(unused.map(Request::Unsubscribe));
        }
        let numbers: Vec<u32> = self.entries.keys().copied().collect();
        for number in numbers {
            self.suspect(now, number, (judge, wall));
            let Some(entry) = self.entries.get_mut(&number) else {
                continue;
            };
            entry.standing &= greeting.session_present;
            if entry.on_trial.is_some() {
                continue;
            }
            self.waiting.push_back(if entry.standing {
                // Asked for all the same: a cluster that failed over may know the session and have lost what it stood for.
                Request::Subscribe {
                    number,
                    retained: false,
                    serial: 0,
                }
            } else {
                entry.renewed(now, number)
            });
        }
    }

    /// The broker is gone: nobody waits for it, observers stay. Over one of the requests under way it hung up when `accused`;
    /// who asks for one of these waits for the verdict.
    pub(super) fn disconnected(&mut self, now: Instant, accused: bool, judge: &mut Judge, wall: u64) {
        self.connected = false;
        let mut sent: Vec<Request> = std::mem::take(&mut self.by_packet).into_values().collect();
        if accused {
            sent = self.accuse(now, sent, judge, wall);
        }
        let unsent = std::mem::take(&mut self.waiting);
        self.gone.extend(
            unsent
                .into_iter()
                .chain(sent)
                .filter_map(|request| match request {
                    Request::Unsubscribe(filter) => Some(filter),
                    _ => None,
                }),
        );
        self.renewing.clear();
        let numbers: Vec<u32> = self.entries.keys().copied().collect();
        for number in numbers {
            let Some(entry) = self.entries.get_mut(&number) else {
                continue;
            };
            entry.renewal = None;
            entry.asked = false;
            let round = entry.round.take();
            let mut asks: Vec<Ask> = round
                .into_iter()
                .flat_map(|round| round.asks)
                .chain(std::mem::take(&mut entry.next))
                .collect();
            if entry.on_trial.is_some() {
                entry.next = std::mem::take(&mut asks);
            }
            for ask in asks {
                self.finish(number, ask, Err(BrokerError::Unavailable));
            }
            self.leave_if_unused(number);
        }
    }

    /// Hands waiting requests to the session.
    pub(super) fn send(&mut self, now: Instant, session: &mut Session) {
        while let Some(request) = self.waiting.front_mut() {
            let packet = match request {
                Request::Subscribe { number, retained, .. } => {
                    let Some(entry) = self.entries.get_mut(number) else {
                        self.waiting.pop_front();
                        continue;
                    };
                    entry.asked = true;
                    session.subscribe(
                        now,
                        &Subscription {
                            filter: entry.filter.as_str(),
                            qos: entry.qos,
                            number: self.names_subscriptions.then_some(*number),
                            retained: *retained,
                        },
                    )
                }
                Request::Unsubscribe(filter) => session.unsubscribe(now, filter.as_str()),
                Request::Fence { behind, .. } => {
                    let behind = *behind.get_or_insert_with(|| session.arrivals.next());
                    if session.arrivals.since() < behind {
                        return;
                    }
                    session.unsubscribe(now, &self.fence)
                }
            };
            let Some(packet) = packet else { return };
            if let Some(request) = self.waiting.pop_front() {
                self.by_packet.insert(packet, request);
            }
        }
    }
}

impl Ask {
    fn wants_retained(&self) -> bool {
        !matches!(self.kind, AskKind::Subscribe { retained: false, .. })
    }
}
