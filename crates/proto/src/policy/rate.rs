//! Token buckets by client, in a table of a fixed size.
//!
//! A bucket is one number: the time at which it will be full again (the generic cell rate algorithm), so an entry whose
//! time has come says nothing and its place is free. Where a table has no free place, the entry that owes least goes: an
//! attacker who comes as many clients crowds out those who would be full soon anyhow, never one who owes much, and
//! nobody is refused for want of room.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

const WAYS: usize = 8;

/// How much is allowed: `amount` per `per`, all of it at once if none was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; 0 is no limit.
    pub amount: u32,
    /// In what time; over zero.
    pub per: Duration,
}

impl Rate {
    /// So many a second; 0 is no limit.
    #[must_use]
    pub const fn per_second(amount: u32) -> Self {
        Self {
            amount,
            per: Duration::from_secs(1),
        }
    }

    fn interval(self) -> u64 {
        let per = u64::try_from(self.per.as_nanos()).unwrap_or(u64::MAX);
        per.checked_div(u64::from(self.amount)).unwrap_or(0)
    }

    fn tolerance(self) -> u64 {
        self.interval()
            .saturating_mul(u64::from(self.amount.saturating_sub(1)))
    }
}

/// The Max-Age of a 4.29 or 5.03, in whole seconds, at least 1: after it a new try is not refused at once.
#[must_use]
pub fn max_age(retry_after: Duration) -> u32 {
    let seconds = retry_after
        .as_secs()
        .saturating_add(u64::from(retry_after.subsec_nanos() > 0));
    u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Keyed hash of the key; 0 is a free place.
    mark: u64,
    /// When the bucket is full again, in nanoseconds after the table's start.
    full_at: u64,
}

/// Buckets of one rate by key. Its memory is taken once: 16 bytes for each place.
#[derive(Debug)]
pub struct RateTable {
    rate: Rate,
    start: Instant,
    secret: [u64; 2],
    slots: Box<[[Slot; WAYS]]>,
}

impl RateTable {
    /// A table for about `capacity` keys that owe something at the same time.
    #[must_use]
    pub fn new(now: Instant, rate: Rate, capacity: usize, random: &mut StdRng) -> Self {
        Self {
            rate,
            start: now,
            secret: [random.random(), random.random()],
            slots: vec![[Slot::default(); WAYS]; capacity.div_ceil(WAYS).max(1)].into(),
        }
    }

    /// Another rate from now on. What is owed stays owed.
    pub(crate) fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// Takes one from the bucket of `key`.
    ///
    /// # Errors
    /// When it is empty, with the time after which one more may be had.
    pub fn take(&mut self, now: Instant, key: &impl Hash) -> Result<(), Duration> {
        if self.rate.amount == 0 {
            return Ok(());
        }
        let now = self.nanos(now);
        let mark = self.mark(key);
        let (interval, tolerance) = (self.rate.interval(), self.rate.tolerance());
        let Some(set) = self.set(mark) else {
            return Ok(());
        };
        let known = set
            .iter()
            .position(|slot| slot.mark == mark)
            .and_then(|at| set.get_mut(at));
        let full_at = known.as_ref().map_or(now, |slot| slot.full_at.max(now));
        let owed = full_at - now;
        if owed > tolerance {
            return Err(Duration::from_nanos(owed - tolerance));
        }
        let updated = Slot {
            mark,
            full_at: full_at.saturating_add(interval),
        };
        if let Some(slot) = known {
            *slot = updated;
        } else if let Some(slot) = set.iter_mut().min_by_key(|slot| slot.full_at) {
            *slot = updated;
        }
        Ok(())
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    fn set(&mut self, mark: u64) -> Option<&mut [Slot; WAYS]> {
        let sets = u64::try_from(self.slots.len()).unwrap_or(u64::MAX);
        let at = (mark >> 32).wrapping_mul(sets) >> 32;
        self.slots.get_mut(usize::try_from(at).ok()?)
    }

    fn mark(&self, key: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        key.hash(&mut hasher);
        hasher.finish().max(1)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn table(amount: u32, capacity: usize) -> (RateTable, Instant) {
        let now = Instant::now();
        let rate = Rate::per_second(amount);
        (
            RateTable::new(now, rate, capacity, &mut StdRng::seed_from_u64(1)),
            now,
        )
    }

    #[test]
    fn a_full_bucket_gives_all_at_once_and_then_one_by_one() {
        let (mut table, now) = table(10, 100);
        for _ in 0..10 {
            assert_eq!(table.take(now, &"a"), Ok(()));
        }
        let wait = table.take(now, &"a").unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(table.take(now, &"b"), Ok(()));
        assert!(table.take(now + wait - Duration::from_nanos(1), &"a").is_err());
        assert_eq!(table.take(now + wait, &"a"), Ok(()));
        assert!(table.take(now + wait, &"a").is_err());
    }

    #[test]
    fn over_a_long_time_exactly_the_rate_gets_through() {
        let (mut table, now) = table(20, 100);
        let passed = (0..100_000u64)
            .filter(|n| table.take(now + Duration::from_micros(n * 100), &"a").is_ok())
            .count();
        assert!((219..=220).contains(&passed), "{passed}");
    }

    #[test]
    fn zero_is_no_limit() {
        let (mut table, now) = table(0, 1);
        assert!((0..10_000).all(|_| table.take(now, &"a").is_ok()));
    }

    #[test]
    fn refused_tries_cost_nothing_more() {
        let (mut table, now) = table(1, 10);
        assert!(table.take(now, &"a").is_ok());
        for _ in 0..1000 {
            assert!(table.take(now, &"a").is_err());
        }
        assert!(table.take(now + Duration::from_secs(1), &"a").is_ok());
    }

    #[test]
    fn a_flood_of_sources_neither_frees_the_guesser_nor_refuses_anyone() {
        let (mut table, now) = table(30, 1024);
        while table.take(now, &"guesser").is_ok() {}
        for n in 0..100_000u32 {
            assert!(table.take(now, &n).is_ok(), "{n}");
        }
        assert!(table.take(now, &"guesser").is_err());
        assert_eq!(size_of_val(&*table.slots), 1024 * 16);
    }

    #[test]
    fn max_age_rounds_up_and_is_at_least_a_second() {
        assert_eq!(max_age(Duration::ZERO), 1);
        assert_eq!(max_age(Duration::from_millis(1001)), 2);
        assert_eq!(max_age(Duration::MAX), u32::MAX);
    }

    #[test]
    fn a_lower_rate_holds_at_once() {
        let (mut table, now) = table(100, 8);
        table.set_rate(Rate::per_second(1));
        assert!(table.take(now, &"a").is_ok());
        assert!(table.take(now, &"a").is_err());
    }
}
