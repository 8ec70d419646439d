//! What one source address may do in a time, counted once for all workers: which of them a datagram reaches depends on its
//! source port, and whoever sends from many ports would else have as much as there are workers.
//!
//! The count is the generic cell rate algorithm in words that are changed with one atomic exchange, so no worker waits for
//! another: 20 bits of a keyed hash of the source, and 44 bits for when its bucket is full again, in units of 2^-20 s. That
//! clock goes round in 194 days; a bucket never needs more than `MAX_OWED` to fill, so what seems to need more is past. Two
//! sources share a bucket with a chance of one in 130,000 for each that was busy lately, and nobody can choose with whom. Two
//! workers that see a source for the first time at the same moment may give it a bucket each; it then has twice as much until
//! one of them is full.

use std::array;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WAYS: usize = 8;
/// Bits of a word that hold the time.
const TIME_BITS: u32 = 44;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// Units of time in a second.
const SECOND: u64 = 1 << 20;
/// The longest that a bucket takes to fill, in units of time: [`Allowance`] keeps to half of it, and rounding may double that.
const MAX_OWED: u64 = 128 * SECOND;

/// How much one source may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Units of time from one to the next; 0 is no limit.
    interval: u64,
    /// Units of time that may be owed for one more to be granted.
    tolerance: u64,
}

impl Allowance {
    /// So many a second, and `burst` times as many at once if there were none before; 0 is no limit. More than 1,048,576
    /// count as so many.
    #[must_use]
    pub fn per_second(amount: u32, burst: u32) -> Self {
        Self::new(u64::from(amount), SECOND, u64::from(burst))
    }

    /// So many a minute, all of them at once if there were none before; 0 is no limit.
    #[must_use]
    pub(crate) fn per_minute(amount: u32) -> Self {
        Self::new(u64::from(amount), 60 * SECOND, 1)
    }

    /// The same rate with half as many at once: granted only while half of what there is at once is left.
    #[must_use]
    pub const fn while_half_is_left(self) -> Self {
        Self {
            tolerance: self.tolerance / 2,
            ..self
        }
    }

    fn new(amount: u64, per: u64, burst: u64) -> Self {
        let amount = amount.min(per);
        let interval = per.checked_div(amount).map_or(0, |_| per.div_ceil(amount));
        let at_once = amount.saturating_mul(burst).max(1);
        // Intervals are rounded up, by less than a unit each; without these back, a source would get one less than was said.
        let rounded = at_once.min(interval.saturating_sub(1));
        let tolerance = interval.saturating_mul(at_once - 1).saturating_add(rounded);
        Self {
            interval,
            tolerance: tolerance.min(MAX_OWED - per),
        }
    }
}

/// Buckets by source ([`crate::types::PeerAddr::source`]), shared by all workers. Its memory, 8 bytes for each source, is taken
/// when there is first something to count. Where there is no free place, the source that owes least goes, so an attacker who
/// comes from many addresses crowds out those who would be free soon anyhow, and nobody is refused for want of room.
#[derive(Debug)]
pub struct SourceRates {
    start: Instant,
    secret: [u64; 2],
    capacity: usize,
    sets: OnceLock<Box<[Set]>>,
}

/// The sources that may stand at one place: one cache line.
#[repr(align(64))]
#[derive(Debug)]
struct Set([AtomicU64; WAYS]);

impl SourceRates {
    /// For about `capacity` sources that owe something at the same time. `secret` is random: it decides who shares a bucket.
    #[must_use]
    pub fn new(now: Instant, capacity: usize, secret: [u64; 2]) -> Self {
        Self {
            start: now,
            secret,
            capacity,
            sets: OnceLock::new(),
        }
    }

    /// Takes one from the bucket of `source`.
    ///
    /// # Errors
    /// When it is empty, with the time after which one more may be had. Then nothing is counted.
    pub fn take(&self, now: Instant, source: impl Hash, allowance: Allowance) -> Result<(), Duration> {
        let Allowance { interval, tolerance } = allowance;
        if interval == 0 {
            return Ok(());
        }
        let now = self.units(now);
        let Some((set, mark)) = self.place(source) else {
            return Ok(());
        };
        loop {
            let Some((slot, word)) = set.find(mark).or_else(|| set.cheapest(now)) else {
                return Ok(());
            };
            let owed = if is_of(mark, word) { owed(word, now) } else { 0 };
            if owed > tolerance {
                let micros = (owed - tolerance).saturating_mul(1_000_000).div_ceil(SECOND);
                return Err(Duration::from_micros(micros));
            }
            if exchange(slot, word, full_in(mark, owed + interval, now)) {
                return Ok(());
            }
        }
    }

    /// Puts one back that was taken and is not to count after all.
    pub(crate) fn give_back(&self, now: Instant, source: impl Hash, allowance: Allowance) {
        let now = self.units(now);
        let Some((set, mark)) = self.place(source) else {
            return;
        };
        while let Some((slot, word)) = set.find(mark) {
            let owed = owed(word, now).saturating_sub(allowance.interval);
            if exchange(slot, word, full_in(mark, owed, now)) {
                return;
            }
        }
    }

    /// Units since the start, less whole rounds of the clock.
    fn units(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        let fraction = u64::from(since.subsec_nanos()) * SECOND / 1_000_000_000;
        since.as_secs().wrapping_mul(SECOND).wrapping_add(fraction) & TIME
    }

    /// The set of a source and its mark, which is never 0.
    fn place(&self, source: impl Hash) -> Option<(&Set, u64)> {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        source.hash(&mut hasher);
        let hash = hasher.finish();
        let sets = self.sets.get_or_init(|| {
            (0..self.capacity.div_ceil(WAYS).max(1))
                .map(|_| Set(array::from_fn(|_| AtomicU64::new(0))))
                .collect()
        });
        let count = u64::try_from(sets.len()).unwrap_or(u64::MAX);
        let at = (hash >> 32).wrapping_mul(count) >> 32;
        let set = sets.get(usize::try_from(at).ok()?)?;
        Some((set, (hash & (u64::MAX >> TIME_BITS)).max(1)))
    }
}

impl Set {
    fn find(&self, mark: u64) -> Option<(&AtomicU64, u64)> {
        self.words().find(|(_, word)| is_of(mark, *word))
    }

    /// The place of the source that owes least.
    fn cheapest(&self, now: u64) -> Option<(&AtomicU64, u64)> {
        self.words().min_by_key(|(_, word)| owed(*word, now))
    }

    fn words(&self) -> impl Iterator<Item = (&AtomicU64, u64)> {
        self.0.iter().map(|slot| (slot, slot.load(Ordering::Relaxed)))
    }
}

fn is_of(mark: u64, word: u64) -> bool {
    word >> TIME_BITS == mark
}

/// Units of time until the bucket is full.
fn owed(word: u64, now: u64) -> u64 {
    let ahead = word.wrapping_sub(now) & TIME;
    if word == 0 || ahead > MAX_OWED { 0 } else { ahead }
}

fn full_in(mark: u64, owed: u64, now: u64) -> u64 {
    mark << TIME_BITS | (now.wrapping_add(owed) & TIME)
}

/// A word stands for itself alone, so nothing has to be ordered with it.
fn exchange(slot: &AtomicU64, old: u64, new: u64) -> bool {
    slot.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

#[cfg(test)]
mod tests;
