//! Failed logins and wrong tokens of a source, counted once for all workers: which of them a datagram reaches depends on its
//! source port, and whoever guesses from many ports would else have as many tries as there are workers.
//!
//! The count is the generic cell rate algorithm of [`super::rate`] in words that are changed with one atomic exchange, so no
//! worker waits for another: 24 bits of a keyed hash of the source, and 40 bits for when its bucket is full again, in
//! 1024ths of a second. Two sources share a bucket with a chance of one in two million for each that has failed lately, and
//! nobody can choose with whom. Two workers that note the first failure of one source at the same moment may give it a bucket
//! each; it then has twice the tries until one of them is full.

use std::array;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::rate::Class;

const WAYS: usize = 8;
/// Bits of a word that hold the time.
const TIME_BITS: u32 = 40;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// Units of time in a second and in a minute.
const SECOND: u64 = 1024;
const MINUTE: u64 = 60 * SECOND;

/// How many sources of each class are held.
#[derive(Debug, Clone, Copy)]
pub struct SourceCapacity {
    /// Those who have not proved their address.
    pub unproven: usize,
    /// Those who have.
    pub proven: usize,
}

impl Default for SourceCapacity {
    fn default() -> Self {
        Self {
            unproven: 65_536,
            proven: 16_384,
        }
    }
}

/// Failed logins and wrong tokens of each source, alike in both classes, shared by all workers. Its memory is taken once: 8
/// bytes for each source. Where there is no free place, the source that owes least goes, so an attacker who comes from many
/// addresses crowds out those who would be free soon anyhow.
///
/// A login is charged before it is given to a backend and given back unless it failed, so what is in flight cannot go
/// over the rate. A wrong token is charged when it is seen. A right token asks nobody: 128 random bits are not guessed,
/// and so nobody who writes a neighbour's address on his datagrams can lock that neighbour's connection out.
#[derive(Debug)]
pub struct Failures {
    per_minute: AtomicU32,
    start: Instant,
    secret: [u64; 2],
    unproven: Table,
    proven: Table,
}

impl Failures {
    /// `per_minute` failures for each source, all of them at once if there were none before; 0 is no limit. More than 61,440
    /// count as so many.
    #[must_use]
    pub fn new(now: Instant, per_minute: u32, capacity: SourceCapacity, random: &mut StdRng) -> Self {
        Self {
            per_minute: AtomicU32::new(per_minute),
            start: now,
            secret: [random.random(), random.random()],
            unproven: Table::new(capacity.unproven),
            proven: Table::new(capacity.proven),
        }
    }

    /// Another rate from now on, for all workers. What is owed stays owed.
    pub fn set_per_minute(&self, per_minute: u32) {
        self.per_minute.store(per_minute, Ordering::Relaxed);
    }

    /// Counts a try of `source` ([`crate::types::PeerAddr::source`]) that is wrong, or may turn out to be.
    ///
    /// # Errors
    /// When too many of its tries failed: 4.29, with the time for Max-Age. Then nothing is counted.
    pub fn charge(&self, now: Instant, class: Class, source: IpAddr) -> Result<(), Duration> {
        let Some((interval, burst)) = self.interval() else {
            return Ok(());
        };
        let tolerance = interval * (burst - 1);
        let (hash, now) = (self.hash(source), self.units(now));
        let waited = self.table(class).charge(hash, now, interval, tolerance);
        waited.map_err(|units| Duration::from_micros(units.saturating_mul(1_000_000).div_ceil(SECOND)))
    }

    /// The try was not wrong after all, or nobody could tell.
    pub fn give_back(&self, now: Instant, class: Class, source: IpAddr) {
        if let Some((interval, _)) = self.interval() {
            self.table(class)
                .give_back(self.hash(source), self.units(now), interval);
        }
    }

    /// Units of time between two failures, and how many there may be at once; `None` is no limit.
    fn interval(&self) -> Option<(u64, u64)> {
        let per_minute = u64::from(self.per_minute.load(Ordering::Relaxed)).min(MINUTE);
        (per_minute > 0).then(|| (MINUTE.div_ceil(per_minute), per_minute))
    }

    /// Units since the start; 34 years of them fit.
    fn units(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        let fraction = u64::from(since.subsec_nanos()).saturating_mul(SECOND) / 1_000_000_000;
        since
            .as_secs()
            .saturating_mul(SECOND)
            .saturating_add(fraction)
            .min(TIME / 2)
    }

    fn hash(&self, source: IpAddr) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        source.hash(&mut hasher);
        hasher.finish()
    }

    fn table(&self, class: Class) -> &Table {
        match class {
            Class::Unproven => &self.unproven,
            Class::Proven => &self.proven,
        }
    }
}

/// The sources that may stand at one place: one cache line.
#[repr(align(64))]
#[derive(Debug)]
struct Set([AtomicU64; WAYS]);

#[derive(Debug)]
struct Table(Box<[Set]>);

impl Table {
    fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).max(1);
        Self(
            (0..sets)
                .map(|_| Set(array::from_fn(|_| AtomicU64::new(0))))
                .collect(),
        )
    }

    /// The set of a source and its mark, which is never 0.
    fn place(&self, hash: u64) -> Option<(&Set, u64)> {
        let sets = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        let at = (hash >> 32).wrapping_mul(sets) >> 32;
        let set = self.0.get(usize::try_from(at).ok()?)?;
        Some((set, (hash & (u64::MAX >> TIME_BITS)).max(1)))
    }

    fn charge(&self, hash: u64, now: u64, interval: u64, tolerance: u64) -> Result<(), u64> {
        let Some((set, mark)) = self.place(hash) else {
            return Ok(());
        };
        loop {
            let Some((slot, word)) = set.find(mark).or_else(|| set.cheapest()) else {
                return Ok(());
            };
            let full_at = if word >> TIME_BITS == mark { word & TIME } else { 0 };
            let owed = full_at.saturating_sub(now);
            if owed > tolerance {
                return Err(owed - tolerance);
            }
            let updated = mark << TIME_BITS | full_at.max(now).saturating_add(interval).min(TIME);
            if exchange(slot, word, updated) {
                return Ok(());
            }
        }
    }

    fn give_back(&self, hash: u64, now: u64, interval: u64) {
        let Some((set, mark)) = self.place(hash) else {
            return;
        };
        while let Some((slot, word)) = set.find(mark) {
            let full_at = (word & TIME).saturating_sub(interval).max(now);
            if exchange(slot, word, mark << TIME_BITS | full_at) {
                return;
            }
        }
    }
}

impl Set {
    fn find(&self, mark: u64) -> Option<(&AtomicU64, u64)> {
        self.words().find(|(_, word)| word >> TIME_BITS == mark)
    }

    /// The place of the source that owes least.
    fn cheapest(&self) -> Option<(&AtomicU64, u64)> {
        self.words().min_by_key(|(_, word)| word & TIME)
    }

    fn words(&self) -> impl Iterator<Item = (&AtomicU64, u64)> {
        self.0.iter().map(|slot| (slot, slot.load(Ordering::Relaxed)))
    }
}

/// A word stands for itself alone, so nothing has to be ordered with it.
fn exchange(slot: &AtomicU64, old: u64, new: u64) -> bool {
    slot.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

#[cfg(test)]
mod tests;
