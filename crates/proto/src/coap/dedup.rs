//! Messages that were handled, so that a duplicate is handled no second time (RFC 7252, 4.5).

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::hash_table::{Entry, HashTable};
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
    at: u32,
    serial: u32,
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

/// A message that was handled. A busy gateway remembers as many as it may, so that each of them is in no cache when it is wanted
/// again: it is one line of it, with nothing in it that is the same for all of a source.
#[derive(Debug)]
#[repr(align(64))]
struct Exchanged {
    fingerprint: u64,
    answer: Answer,
    /// The place of its source.
    source: u32,
    serial: u32,
    /// In milliseconds of [`Dedup::millis`].
    expires: u32,
    by_age: Links,
    of_source: Links,
    mid: u16,
    proven: bool,
}

impl Exchanged {
    /// How long it is still remembered; the milliseconds come round after 49 days, lifetimes are some minutes.
    fn remaining(&self, now: u32) -> Option<Duration> {
        let millis = self.expires.wrapping_sub(now) as i32;
        u64::try_from(millis)
            .ok()
            .filter(|millis| *millis > 0)
            .map(Duration::from_millis)
    }
}

/// What is the same for all messages of a source.
#[derive(Debug)]
struct Sent {
    source: Source,
    messages: List,
}

/// The memory of one endpoint. It knows where messages came from and not which peers there are, so that a retransmission is told
/// from a new message although its peer had to make room in between.
#[derive(Debug)]
pub(crate) struct Dedup {
    entries: Slab<Exchanged>,
    /// Places of entries, by source and message id.
    index: HashTable<u32>,
    /// What came from addresses that were not proved, which goes first.
    unproven: List,
    proven: List,
    sources: Slab<Sent>,
    by_source: HashMap<Source, u32, Keyed>,
    bytes: usize,
    serial: u32,
    capacity: usize,
    hasher: Keyed,
    /// From when on milliseconds are counted.
    epoch: Option<Instant>,
    next_sweep: Option<Instant>,
    metrics: Arc<CoapMetrics>,
}

impl Dedup {
    /// `secret` keeps senders from choosing message ids that collide in the index.
    pub(crate) fn new(capacity: usize, secret: u64, metrics: Arc<CoapMetrics>) -> Self {
        let hasher = Keyed::new(secret);
        Self {
            entries: Slab::new(),
            index: HashTable::new(),
            unproven: List::default(),
            proven: List::default(),
            sources: Slab::new(),
            by_source: HashMap::with_hasher(hasher),
            bytes: 0,
            serial: 0,
            capacity,
            hasher,
            epoch: None,
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

    fn millis(&self, now: Instant) -> u32 {
        let since = self.epoch.map(|epoch| now.saturating_duration_since(epoch));
        since.map_or(0, |since| since.as_millis() as u32)
    }

    fn hash(&self, source: u32, mid: u16) -> u64 {
        self.hasher.hash_one(u64::from(source) << 16 | u64::from(mid))
    }

    /// Whether this very message was handled before. Another message under the same id is a new one: a device that
    /// restarted counts anew.
    pub(crate) fn look_up(&self, now: Instant, source: Source, mid: u16, datagram: &[u8]) -> Seen<'_> {
        let entry = self.by_source.get(&source).and_then(|source| {
            let is_it = |at: &u32| {
                self.entries
                    .get(*at as usize)
                    .is_some_and(|it| it.source == *source && it.mid == mid)
            };
            let at = self.index.find(self.hash(*source, mid), is_it)?;
            self.entries.get(*at as usize)
        });
        match entry {
            Some(entry)
                if entry.remaining(self.millis(now)).is_some()
                    && entry.fingerprint == self.hasher.hash_one(datagram) =>
            {
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
        self.serial = self.serial.wrapping_add(1);
        self.epoch.get_or_insert(now);
        let source = *self.by_source.entry(source).or_insert_with(|| {
            let messages = List::default();
            self.sources.insert(Sent { source, messages }) as u32
        });
        let at = self.entries.insert(Exchanged {
            fingerprint: self.hasher.hash_one(datagram),
            answer: Answer::None,
            source,
            serial: self.serial,
            expires: self.millis(now).wrapping_add(lifetime.as_millis() as u32),
            by_age: Links::default(),
            of_source: Links::default(),
            mid,
            proven,
        });
        let list = if proven {
            &mut self.proven
        } else {
            &mut self.unproven
        };
        list.push_newest(&mut self.entries, at, |entry| &mut entry.by_age);
        if let Some(sent) = self.sources.get_mut(source as usize) {
            sent.messages
                .push_newest(&mut self.entries, at, |entry| &mut entry.of_source);
        }
        self.point_to(at as u32, source, mid);
        self.next_sweep.get_or_insert(now + lifetime);
        self.metrics.remembered_exchanges.set(self.entries.len() as u64);
        Remembered {
            at: at as u32,
            serial: self.serial,
        }
    }

    /// Has the index lead to an entry, in the place of an earlier one with the same id.
    fn point_to(&mut self, at: u32, source: u32, mid: u16) {
        let (entries, hasher) = (&self.entries, self.hasher);
        let key = |at: &u32| entries.get(*at as usize).map(|it| (it.source, it.mid));
        let hash = |at: &u32| {
            let (source, mid) = key(at).unwrap_or_default();
            hasher.hash_one(u64::from(source) << 16 | u64::from(mid))
        };
        let is_it = |it: &u32| key(it) == Some((source, mid));
        let before = match self.index.entry(self.hash(source, mid), is_it, hash) {
            Entry::Occupied(mut place) => Some(std::mem::replace(place.get_mut(), at)),
            Entry::Vacant(place) => {
                place.insert(at);
                None
            }
        };
        if let Some(before) = before {
            self.remove(before as usize);
        }
    }

    /// Remembers the answer to a message, in place of an earlier one.
    pub(crate) fn answered(&mut self, remembered: Remembered, answer: &[u8]) {
        let entry = self.entries.get_mut(remembered.at as usize);
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
        // The entry, its place in the index, and a source of its own.
        let entry = size_of::<Exchanged>() + 8 + size_of::<Sent>() + 72;
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
        let millis = self.millis(now);
        for list in [|it: &Self| it.unproven.oldest(), |it: &Self| it.proven.oldest()] {
            while let Some(at) = list(self) {
                match self.entries.get(at).and_then(|entry| entry.remaining(millis)) {
                    Some(remaining) => {
                        let next = now + remaining.max(SWEEP);
                        self.next_sweep = Some(self.next_sweep.map_or(next, |at| at.min(next)));
                        break;
                    }
                    None => self.remove(at),
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
        let mine = self
            .by_source
            .get(&source)
            .and_then(|at| self.sources.get(*at as usize));
        let greedy = mine.filter(|mine| mine.messages.len() > self.capacity / 16);
        if let Some(oldest) = greedy.and_then(|mine| mine.messages.oldest()).or(self.oldest()) {
            self.metrics.limits.inc(Limit::RememberedExchanges);
            self.remove(oldest);
        }
    }

    fn oldest(&self) -> Option<usize> {
        self.unproven.oldest().or(self.proven.oldest())
    }

    fn remove(&mut self, at: usize) {
        let Some(entry) = self.entries.get(at) else { return };
        let (source, mid, proven) = (entry.source, entry.mid, entry.proven);
        let list = if proven {
            &mut self.proven
        } else {
            &mut self.unproven
        };
        list.remove(&mut self.entries, at, |entry| &mut entry.by_age);
        if let Some(sent) = self.sources.get_mut(source as usize) {
            sent.messages
                .remove(&mut self.entries, at, |entry| &mut entry.of_source);
            if sent.messages.is_empty() {
                let sent = self.sources.remove(source as usize);
                self.by_source.remove(&sent.source);
            }
        }
        // The id may have gone to a newer message.
        let is_it = |it: &u32| *it as usize == at;
        if let Ok(place) = self.index.find_entry(self.hash(source, mid), is_it) {
            place.remove();
        }
        let message = self.entries.remove(at);
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
        assert!(
            dedup.by_source.is_empty()
                && dedup.sources.is_empty()
                && dedup.index.is_empty()
                && dedup.proven.is_empty()
        );
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

    #[test]
    fn a_remembered_message_is_one_line_of_the_cache() {
        assert_eq!(size_of::<Option<Exchanged>>(), 64);
    }

    #[test]
    fn lifetimes_hold_where_the_milliseconds_come_round() {
        let (mut dedup, _, now) = dedup(8);
        dedup.remember(now, from(1), 1, b"first", LIFETIME);
        let later = now + Duration::from_millis(u64::from(u32::MAX) - 100);
        dedup.expire(now + LIFETIME);
        dedup.remember(later, from(2), 2, b"then", LIFETIME);
        let before_its_end = later + LIFETIME - Duration::from_millis(1);
        assert_eq!(
            dedup.look_up(before_its_end, from(2).0, 2, b"then"),
            Seen::Duplicate(None)
        );
        assert_eq!(dedup.look_up(later + LIFETIME, from(2).0, 2, b"then"), Seen::New);
        dedup.expire(later + LIFETIME);
        assert_eq!(dedup.kept(), [0, 0]);
    }
}
