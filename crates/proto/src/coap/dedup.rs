//! Messages that were handled, so that a duplicate is handled no second time (RFC 7252, 4.5).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::types::list::{Links, List};
use crate::types::reason::Limit;

use super::metrics::CoapMetrics;
use super::peer::Source;
use crate::types::hash::Keyed;

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
struct Exchanged {
    source: Source,
    proven: bool,
    mid: u16,
    serial: u64,
    fingerprint: u64,
    expires: Instant,
    answer: Answer,
    by_age: Links,
    of_source: Links,
}

/// The memory of one endpoint. It knows where messages came from and not which peers there are, so that a retransmission is told
/// from a new message although its peer had to make room in between.
#[derive(Debug)]
pub(crate) struct Dedup {
    entries: Slab<Exchanged>,
    index: HashMap<(Source, u16), u32, Keyed>,
    /// What came from addresses that were not proved, which goes first.
    unproven: List,
    proven: List,
    of_source: HashMap<Source, List, Keyed>,
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
            unproven: List::default(),
            proven: List::default(),
            of_source: HashMap::with_hasher(hasher),
            bytes: 0,
            serial: 0,
            capacity,
            hasher,
            next_sweep: None,
            metrics,
        }
    }

    /// Another capacity; what is too much goes at once.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        while self.entries.len() > capacity
            && let Some(oldest) = self.oldest()
        {
            self.metrics.limits.inc(Limit::RememberedExchanges);
            self.remove(oldest);
        }
        self.bound_answers();
    }

    /// Whether this very message was handled before. Another message under the same id is a new one: a device that
    /// restarted counts anew.
    pub(crate) fn look_up(&self, now: Instant, source: Source, mid: u16, datagram: &[u8]) -> Seen<'_> {
        let entry = self
            .index
            .get(&(source, mid))
            .and_then(|at| self.entries.get(*at as usize));
        match entry {
            Some(entry) if entry.expires > now && entry.fingerprint == self.hasher.hash_one(datagram) => {
                Seen::Duplicate(entry.answer.bytes())
            }
            _ => Seen::New,
        }
    }

    /// Remembers a message that is handled now. `proven` says whether the address is proved that it came from.
    pub(crate) fn remember(
        &mut self,
        now: Instant,
        (source, proven): (Source, bool),
        mid: u16,
        datagram: &[u8],
        lifetime: Duration,
    ) -> Remembered {
        self.make_room(source);
        self.serial += 1;
        let at = self.entries.insert(Exchanged {
            source,
            proven,
            mid,
            serial: self.serial,
            fingerprint: self.hasher.hash_one(datagram),
            expires: now + lifetime,
            answer: Answer::None,
            by_age: Links::default(),
            of_source: Links::default(),
        });
        if let Some(before) = self.index.insert((source, mid), at as u32) {
            self.remove(before as usize);
        }
        let list = if proven {
            &mut self.proven
        } else {
            &mut self.unproven
        };
        list.push_newest(&mut self.entries, at, |entry| &mut entry.by_age);
        let of_source = self.of_source.entry(source).or_default();
        of_source.push_newest(&mut self.entries, at, |entry| &mut entry.of_source);
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
        self.bound_answers();
    }

    fn bound_answers(&mut self) {
        while self.bytes > self.capacity.saturating_mul(BYTES_PER_ANSWER) {
            let Some(oldest) = self.oldest() else { return };
            self.metrics.limits.inc(Limit::RememberedExchanges);
            self.remove(oldest);
        }
    }

    /// Bytes that are kept of messages from unproven and from proven addresses; the long answers count with the latter.
    pub(crate) fn kept(&self) -> [usize; 2] {
        // The entry, and its places in the indices.
        let entry = size_of::<Exchanged>() + 96;
        [
            self.unproven.len() * entry,
            self.proven.len() * entry + self.bytes,
        ]
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
        for list in [|it: &Self| it.unproven.oldest(), |it: &Self| it.proven.oldest()] {
            while let Some(at) = list(self) {
                match self.entries.get(at) {
                    Some(entry) if entry.expires > now => {
                        let next = entry.expires.max(now + SWEEP);
                        self.next_sweep = Some(self.next_sweep.map_or(next, |at| at.min(next)));
                        break;
                    }
                    _ => self.remove(at),
                }
            }
        }
    }

    /// When the table is full, the oldest entry of an unproven address goes, else the oldest of all; one of the same source when
    /// that holds more than its share, so that neither strangers nor one busy peer make the gateway forget what others sent.
    fn make_room(&mut self, source: Source) {
        if self.entries.len() < self.capacity {
            return;
        }
        let mine = self.of_source.get(&source);
        let greedy = mine.filter(|mine| mine.len() > self.capacity / 16);
        if let Some(oldest) = greedy.and_then(List::oldest).or(self.oldest()) {
            self.metrics.limits.inc(Limit::RememberedExchanges);
            self.remove(oldest);
        }
    }

    fn oldest(&self) -> Option<usize> {
        self.unproven.oldest().or(self.proven.oldest())
    }

    fn remove(&mut self, at: usize) {
        let Some((source, proven)) = self.entries.get(at).map(|entry| (entry.source, entry.proven)) else {
            return;
        };
        let list = if proven {
            &mut self.proven
        } else {
            &mut self.unproven
        };
        list.remove(&mut self.entries, at, |entry| &mut entry.by_age);
        if let Entry::Occupied(mut of_source) = self.of_source.entry(source) {
            of_source
                .get_mut()
                .remove(&mut self.entries, at, |entry| &mut entry.of_source);
            if of_source.get().is_empty() {
                of_source.remove();
            }
        }
        let message = self.entries.remove(at);
        // The id may have gone to a newer message.
        let key = (source, message.mid);
        if self.index.get(&key).is_some_and(|it| *it as usize == at) {
            self.index.remove(&key);
        }
        self.bytes = self.bytes.saturating_sub(message.answer.weight());
        self.metrics.remembered_exchanges.set(self.entries.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::types::{ListenerId, PeerAddr};

    const LIFETIME: Duration = Duration::from_secs(247);

    fn dedup(capacity: usize) -> (Dedup, Arc<CoapMetrics>, Instant) {
        let metrics = Arc::new(CoapMetrics::new(0));
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        (Dedup::new(capacity, 7, Arc::clone(&metrics)), metrics, now)
    }

    /// A proven address with this number.
    fn from(n: u16) -> (Source, bool) {
        let address = PeerAddr::new(([192, 0, 2, 1], 1_000 + n).into()).unwrap();
        (Source::Address(ListenerId(0), address), true)
    }

    #[test]
    fn what_strangers_sent_goes_before_what_a_proven_peer_sent() {
        let (mut dedup, _, now) = dedup(8);
        dedup.remember(now, from(1), 1, b"publish", LIFETIME);
        for n in 2..40 {
            let at = now + Duration::from_millis(n.into());
            dedup.remember(at, (from(n).0, false), 7, b"noise", LIFETIME);
        }
        assert_eq!(
            dedup.look_up(now, from(1).0, 1, b"publish"),
            Seen::Duplicate(None)
        );
        for n in 50..58 {
            dedup.remember(now, from(n), 1, b"more", LIFETIME);
        }
        assert_eq!(
            dedup.look_up(now, from(1).0, 1, b"publish"),
            Seen::New,
            "those of the proven by age"
        );
        assert_eq!((dedup.entries.len(), dedup.unproven.len()), (8, 0));
    }

    #[test]
    fn a_full_memory_forgets_the_oldest_and_counts_it() {
        let (mut dedup, metrics, now) = dedup(3);
        for mid in 0..4 {
            dedup.remember(now, from(mid), mid, b"x", LIFETIME);
        }
        assert_eq!(dedup.look_up(now, from(0).0, 0, b"x"), Seen::New);
        assert_eq!(dedup.look_up(now, from(1).0, 1, b"x"), Seen::Duplicate(None));
        assert_eq!(metrics.limits.get(Limit::RememberedExchanges), 1);
        assert_eq!(dedup.entries.len(), 3);
    }

    #[test]
    fn a_busy_peer_makes_room_of_its_own() {
        let (mut dedup, _, now) = dedup(64);
        dedup.remember(now, from(1), 1, b"x", LIFETIME);
        for mid in 0..1_000 {
            dedup.remember(now, from(2), mid, b"x", LIFETIME);
        }
        assert_eq!(dedup.look_up(now, from(1).0, 1, b"x"), Seen::Duplicate(None));
        assert_eq!(dedup.look_up(now, from(2).0, 999, b"x"), Seen::Duplicate(None));
        assert_eq!(dedup.look_up(now, from(2).0, 1, b"x"), Seen::New);
    }

    #[test]
    fn large_answers_are_bounded_in_bytes() {
        let (mut dedup, _, now) = dedup(16);
        for mid in 0..16 {
            let remembered = dedup.remember(now, from(1), mid, b"x", LIFETIME);
            dedup.answered(remembered, &[0; 1_024]);
        }
        assert_eq!(dedup.bytes, 4_096);
        assert_eq!(dedup.entries.len(), 4);
        dedup.expire(now + LIFETIME);
        assert_eq!((dedup.bytes, dedup.entries.len(), dedup.index.len()), (0, 0, 0));
        assert!(dedup.of_source.is_empty() && dedup.proven.is_empty());
    }

    #[test]
    fn a_memory_that_shrinks_forgets_at_once_and_one_that_grows_keeps_more() {
        let (mut dedup, metrics, now) = dedup(40);
        for mid in 0..40 {
            let source = from(mid % 2);
            let remembered = dedup.remember(now, (source.0, mid % 2 == 0), mid, b"x", LIFETIME);
            dedup.answered(remembered, &[0; 200]);
        }
        dedup.set_capacity(25);
        assert_eq!(
            (dedup.entries.len(), dedup.unproven.len(), dedup.proven.len()),
            (25, 5, 20)
        );
        assert_eq!(metrics.limits.get(Limit::RememberedExchanges), 15);
        dedup.set_capacity(3);
        assert!(dedup.entries.len() <= 3 && dedup.bytes <= 3 * BYTES_PER_ANSWER);
        dedup.set_capacity(60);
        for mid in 100..160 {
            dedup.remember(now, from(1), mid, b"x", LIFETIME);
        }
        assert_eq!(dedup.entries.len(), 60);
    }

    #[test]
    fn an_answer_that_comes_after_its_message_was_forgotten_goes_to_no_other() {
        let (mut dedup, _, now) = dedup(1);
        let first = dedup.remember(now, from(1), 1, b"x", LIFETIME);
        dedup.remember(now, from(1), 2, b"y", LIFETIME);
        dedup.answered(first, b"answer");
        assert_eq!(dedup.look_up(now, from(1).0, 2, b"y"), Seen::Duplicate(None));
    }

    #[test]
    fn what_expired_is_swept_in_batches() {
        let (mut dedup, _, now) = dedup(100);
        for n in 0..10_u16 {
            let at = now + Duration::from_millis(100) * u32::from(n);
            dedup.remember(at, from(1), n, b"x", LIFETIME);
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
