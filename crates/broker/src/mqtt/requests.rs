//! What was asked of the broker and waits for its word, by packet identifier.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

/// Requests under way, fewer than there are packet identifiers.
const MAX_REQUESTS: usize = 60_000;

/// What is under way under a packet identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Qos1,
    Qos2,
    Received,
    Released,
    Subscribe,
    Unsubscribe,
}

impl Kind {
    const fn is_publish(self) -> bool {
        !matches!(self, Self::Subscribe | Self::Unsubscribe)
    }

    const fn is_qos2(self) -> bool {
        matches!(self, Self::Qos2 | Self::Received | Self::Released)
    }
}

/// What the broker's PUBREC says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// It has the publish, which is to be released.
    First,
    /// The same once more.
    Again,
    /// Nothing waits to be received under this identifier.
    Unknown,
}

/// The requests under way, and how many of them take the broker's window of publishes.
#[derive(Debug)]
pub(super) struct Requests {
    under_way: HashMap<u16, Kind>,
    /// Packet identifiers that mean something to the broker from an earlier connection.
    reserved: HashSet<u16>,
    /// What is under way, and some that was, in the order in which it was sent.
    order: VecDeque<u16>,
    /// Since when the oldest request is the oldest.
    oldest_since: Instant,
    last_id: u16,
    publishes: u16,
    at_qos2: u16,
    acknowledged: bool,
}

impl Requests {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            under_way: HashMap::new(),
            reserved: HashSet::new(),
            order: VecDeque::new(),
            oldest_since: now,
            last_id: 0,
            publishes: 0,
            at_qos2: 0,
            acknowledged: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.under_way.len() >= MAX_REQUESTS
    }

    pub(super) fn is_under_way(&self, packet: u16) -> bool {
        self.under_way.contains_key(&packet)
    }

    /// Publishes that the broker's Receive Maximum counts.
    pub(super) const fn publishes(&self) -> u16 {
        self.publishes
    }

    /// Those of them at QoS 2.
    pub(super) const fn at_qos2(&self) -> u16 {
        self.at_qos2
    }

    /// Leaves packet identifiers to exchanges of an earlier connection.
    pub(super) fn reserve(&mut self, packets: impl Iterator<Item = u16>) {
        self.reserved.extend(packets);
    }

    /// Begins a request under an identifier that nothing else has.
    pub(super) fn begin(&mut self, now: Instant, kind: Kind) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.is_under_way(self.last_id) && !self.reserved.contains(&self.last_id) {
                return self.begin_as(now, kind, self.last_id);
            }
        }
    }

    /// Begins one under this identifier, which nothing that is under way has.
    pub(super) fn begin_as(&mut self, now: Instant, kind: Kind, packet: u16) -> u16 {
        if self.under_way.is_empty() {
            self.order.clear();
            self.oldest_since = now;
        }
        self.reserved.remove(&packet);
        self.under_way.insert(packet, kind);
        self.order.push_back(packet);
        debug_assert!(self.under_way.len() <= self.order.len(), "each has its place");
        self.publishes += u16::from(kind.is_publish());
        self.at_qos2 += u16::from(kind.is_qos2());
        packet
    }

    /// Takes back the request that began last: it was not sent.
    pub(super) fn withdraw(&mut self, packet: u16) {
        self.remove(packet);
        self.order.pop_back();
    }

    fn remove(&mut self, packet: u16) {
        if let Some(kind) = self.under_way.remove(&packet) {
            self.publishes -= u16::from(kind.is_publish());
            self.at_qos2 -= u16::from(kind.is_qos2());
        }
    }

    /// The broker has a publish.
    pub(super) fn received(&mut self, packet: u16) -> Received {
        match self.under_way.get_mut(&packet) {
            Some(kind @ Kind::Qos2) => {
                *kind = Kind::Received;
                Received::First
            }
            Some(Kind::Received) => Received::Again,
            _ => Received::Unknown,
        }
    }

    /// Whether a publish at QoS 2 is under way as this, which is released with it.
    pub(super) fn release(&mut self, packet: u16) -> bool {
        let kind = self.under_way.get_mut(&packet);
        let publish = kind.filter(|kind| kind.is_qos2());
        publish.map(|kind| *kind = Kind::Released).is_some()
    }

    /// Ends what is under way as one of `kinds`; nothing else is known by that identifier.
    pub(super) fn end(&mut self, now: Instant, packet: u16, kinds: &[Kind]) -> Option<()> {
        self.under_way.get(&packet).filter(|kind| kinds.contains(kind))?;
        self.remove(packet);
        self.acknowledged = true;
        if self.order.front() == Some(&packet) {
            self.oldest_since = now;
        }
        while self
            .order
            .front()
            .is_some_and(|id| !self.under_way.contains_key(id))
        {
            self.order.pop_front();
        }
        Some(())
    }

    /// Whether the broker acknowledged anything, or had nothing to acknowledge.
    pub(super) fn were_of_use(&self) -> bool {
        self.is_empty() || self.acknowledged
    }

    /// Since when the broker owes the acknowledgement of the oldest request; `None` when it owes none.
    ///
    /// A request's time begins when the one before it is done: over a slow line a thousand of them are sent at once and each
    /// takes its turn, which is no reason to give the line up.
    pub(super) fn owed_since(&self) -> Option<Instant> {
        (!self.is_empty()).then_some(self.oldest_since)
    }

    /// How many places of the order are kept, those of requests that are done included.
    #[cfg(test)]
    pub(super) fn order_len(&self) -> usize {
        self.order.len()
    }
}
