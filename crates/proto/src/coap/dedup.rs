//! Messages that were handled, so that a duplicate is handled no second time (RFC 7252, 4.5).

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::types::reason::Limit;

use super::contract::PeerId;
use super::hash::{IdMap, Keyed};
use super::list::{Links, List};
use super::metrics::CoapMetrics;

/// Answers are remembered with this many bytes each on average; larger ones push older ones out.
const BYTES_PER_ANSWER: usize = 256;

/// Sweeping of what expired waits at least this long, so that it is work in batches.
const SWEEP: Duration = Duration::from_secs(1);

/// A handled message whose answer may still come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered {
    at: usize,
    serial: u64,
}

/// What is known of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// Nothing: handle it.
    New,
    /// It was handled; this was the answer, if there is one yet.
    Duplicate(Option<&'a [u8]>),
}

/// The bytes that went out. Most answers are a few bytes, which need no memory of their own.
#[derive(Debug)]
enum Answer {
    None,
    Short([u8; 22], u8),
    Long(Box<[u8]>),
}

impl Answer {
    fn new(bytes: &[u8]) -> Self {
        let mut short = [0; 22];
        match short.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self::Short(short, bytes.len() as u8)
            }
            None => Self::Long(bytes.into()),
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::None => None,
            Self::Short(bytes, len) => bytes.get(..usize::from(*len)),
            Self::Long(bytes) => Some(bytes),
        }
    }

    /// Bytes beside the entry itself.
    fn weight(&self) -> usize {
        match self {
            Self::Long(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

#[derive(Debug)]
struct Entry {
    peer: PeerId,
    mid: u16,
    serial: u64,
    fingerprint: u64,
    expires: Instant,
    answer: Answer,
    by_age: Links,
    of_peer: Links,
}

/// The memory of one endpoint.
#[derive(Debug)]
pub(crate) struct Dedup {
    entries: Slab<Entry>,
    index: HashMap<(PeerId, u16), u32, Keyed>,
    by_age: List,
    of_peer: IdMap<PeerId, List>,
    bytes: usize,
    serial: u64,
    capacity: usize,
    hasher: Keyed,
    next_sweep: Option<Instant>,
    metrics: Arc<CoapMetrics>,
}

impl Dedup {
    /// `secret` keeps senders from choosing message ids that collide in the index.
    pub(crate) fn new(capacity: usize, secret: u64, metrics: Arc<CoapMetrics>) -> Self {
        let hasher = Keyed::new(secret);
        Self {
            entries: Slab::new(),
            index: HashMap::with_hasher(hasher),
            by_age: List::default(),
            of_peer: IdMap::default(),
            bytes: 0,
            serial: 0,
            capacity: capacity.max(1),
            hasher,
            next_sweep: None,
            metrics,
        }
    }

    /// Whether this very message was handled before. Another message under the same id is a new one: a device that
    /// restarted counts anew.
    pub(crate) fn look_up(&self, now: Instant, peer: PeerId, mid: u16, datagram: &[u8]) -> Seen<'_> {
        let entry = self
            .index
            .get(&(peer, mid))
            .and_then(|at| self.entries.get(*at as usize));
        match entry {
            Some(entry) if entry.expires > now && entry.fingerprint == self.hasher.hash_one(datagram) => {
                Seen::Duplicate(entry.answer.bytes())
            }
            _ => Seen::New,
        }
    }

    /// Remembers a message that is handled now.
    pub(crate) fn remember(
        &mut self,
        now: Instant,
        peer: PeerId,
        mid: u16,
        datagram: &[u8],
        lifetime: Duration,
    ) -> Remembered {
        self.make_room(peer);
        self.serial += 1;
        let at = self.entries.insert(Entry {
            peer,
            mid,
            serial: self.serial,
            fingerprint: self.hasher.hash_one(datagram),
            expires: now + lifetime,
            answer: Answer::None,
            by_age: Links::default(),
            of_peer: Links::default(),
        });
        if let Some(before) = self.index.insert((peer, mid), at as u32) {
            self.remove(before as usize);
        }
        self.by_age
            .push_newest(&mut self.entries, at, |entry| &mut entry.by_age);
        let of_peer = self.of_peer.entry(peer).or_default();
        of_peer.push_newest(&mut self.entries, at, |entry| &mut entry.of_peer);
        self.next_sweep.get_or_insert(now + lifetime);
        self.metrics.remembered_exchanges.set(self.entries.len() as u64);
        Remembered {
            at,
            serial: self.serial,
        }
    }

    /// Remembers the answer to a message, in place of an earlier one.
    pub(crate) fn answered(&mut self, remembered: Remembered, answer: &[u8]) {
        let entry = self.entries.get_mut(remembered.at);
        if let Some(entry) = entry.filter(|entry| entry.serial == remembered.serial) {
            let before = entry.answer.weight();
            entry.answer = Answer::new(answer);
            self.bytes = self.bytes.saturating_sub(before) + entry.answer.weight();
        }
        while self.bytes > self.capacity.saturating_mul(BYTES_PER_ANSWER) {
            let Some(oldest) = self.by_age.oldest() else {
                return;
            };
            self.metrics.limits.inc(Limit::RememberedExchanges);
            self.remove(oldest);
        }
    }

    pub(crate) fn remove_peer(&mut self, peer: PeerId) {
        while let Some(at) = self.of_peer.get(&peer).and_then(List::oldest) {
            self.remove(at);
        }
    }

    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// Forgets what expired. A short-lived entry may stay until an older, longer-lived one goes; it counts as gone.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|at| at > now) {
            return;
        }
        self.next_sweep = None;
        while let Some(at) = self.by_age.oldest() {
            match self.entries.get(at) {
                Some(entry) if entry.expires > now => {
                    self.next_sweep = Some(entry.expires.max(now + SWEEP));
                    return;
                }
                _ => self.remove(at),
            }
        }
    }

    /// The oldest entry goes when the table is full; one of the same peer when that holds more than its share, so that one
    /// busy peer does not make the gateway forget what others sent.
    fn make_room(&mut self, peer: PeerId) {
        if self.entries.len() < self.capacity {
            return;
        }
        let mine = self.of_peer.get(&peer);
        let greedy = mine.filter(|mine| mine.len() > self.capacity / 16);
        let oldest = greedy.and_then(List::oldest).or(self.by_age.oldest());
        if let Some(oldest) = oldest {
            self.metrics.limits.inc(Limit::RememberedExchanges);
            self.remove(oldest);
        }
    }

    fn remove(&mut self, at: usize) {
        self.by_age
            .remove(&mut self.entries, at, |entry| &mut entry.by_age);
        let Some(peer) = self.entries.get(at).map(|entry| entry.peer) else {
            return;
        };
        if let Some(of_peer) = self.of_peer.get_mut(&peer) {
            of_peer.remove(&mut self.entries, at, |entry| &mut entry.of_peer);
            if of_peer.is_empty() {
                self.of_peer.remove(&peer);
            }
        }
        if let Some(entry) = self.entries.try_remove(at) {
            // The id may have gone to a newer message.
            let key = (peer, entry.mid);
            if self.index.get(&key).is_some_and(|it| *it as usize == at) {
                self.index.remove(&key);
            }
            self.bytes = self.bytes.saturating_sub(entry.answer.weight());
        }
        self.metrics.remembered_exchanges.set(self.entries.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(247);

    fn dedup(capacity: usize) -> (Dedup, Arc<CoapMetrics>, Instant) {
        let metrics = Arc::new(CoapMetrics::new(0));
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        (Dedup::new(capacity, 7, Arc::clone(&metrics)), metrics, now)
    }

    #[test]
    fn a_full_memory_forgets_the_oldest_and_counts_it() {
        let (mut dedup, metrics, now) = dedup(3);
        for mid in 0..4 {
            dedup.remember(now, PeerId(mid.into()), mid, b"x", LIFETIME);
        }
        assert_eq!(dedup.look_up(now, PeerId(0), 0, b"x"), Seen::New);
        assert_eq!(dedup.look_up(now, PeerId(1), 1, b"x"), Seen::Duplicate(None));
        assert_eq!(metrics.limits.get(Limit::RememberedExchanges), 1);
        assert_eq!(dedup.entries.len(), 3);
    }

    #[test]
    fn a_busy_peer_makes_room_of_its_own() {
        let (mut dedup, _, now) = dedup(64);
        dedup.remember(now, PeerId(1), 1, b"x", LIFETIME);
        for mid in 0..1_000 {
            dedup.remember(now, PeerId(2), mid, b"x", LIFETIME);
        }
        assert_eq!(dedup.look_up(now, PeerId(1), 1, b"x"), Seen::Duplicate(None));
        assert_eq!(dedup.look_up(now, PeerId(2), 999, b"x"), Seen::Duplicate(None));
        assert_eq!(dedup.look_up(now, PeerId(2), 1, b"x"), Seen::New);
    }

    #[test]
    fn large_answers_are_bounded_in_bytes() {
        let (mut dedup, _, now) = dedup(16);
        for mid in 0..16 {
            let remembered = dedup.remember(now, PeerId(1), mid, b"x", LIFETIME);
            dedup.answered(remembered, &[0; 1_024]);
        }
        assert_eq!(dedup.bytes, 4_096);
        assert_eq!(dedup.entries.len(), 4);
        dedup.remove_peer(PeerId(1));
        assert_eq!((dedup.bytes, dedup.entries.len(), dedup.index.len()), (0, 0, 0));
        assert!(dedup.of_peer.is_empty() && dedup.by_age.is_empty());
    }

    #[test]
    fn an_answer_that_comes_after_its_message_was_forgotten_goes_to_no_other() {
        let (mut dedup, _, now) = dedup(1);
        let first = dedup.remember(now, PeerId(1), 1, b"x", LIFETIME);
        dedup.remember(now, PeerId(1), 2, b"y", LIFETIME);
        dedup.answered(first, b"answer");
        assert_eq!(dedup.look_up(now, PeerId(1), 2, b"y"), Seen::Duplicate(None));
    }

    #[test]
    fn what_expired_is_swept_in_batches() {
        let (mut dedup, _, now) = dedup(100);
        for n in 0..10_u16 {
            let at = now + Duration::from_millis(100) * u32::from(n);
            dedup.remember(at, PeerId(1), n, b"x", LIFETIME);
        }
        let first = dedup.next_expiry().unwrap();
        assert_eq!(first, now + LIFETIME);
        dedup.expire(first);
        assert_eq!(dedup.entries.len(), 9);
        let second = dedup.next_expiry().unwrap();
        assert_eq!(second, first + SWEEP);
        dedup.expire(second);
        assert_eq!((dedup.entries.len(), dedup.next_expiry()), (0, None));
    }
}
