//! How many hellos and handshakes one source may have, counted without a table that a peer can make grow.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Instant;

const SLOTS: usize = 8192;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Thousandths of a token that are spent.
    spent: u64,
    /// Milliseconds since the start.
    at: u64,
}

/// A token bucket for each source, in a fixed number of slots. Sources that share a slot share a bucket; which ones
/// do cannot be known from outside.
pub(super) struct SourceRate {
    slots: Box<[Bucket]>,
    hash: RandomState,
    start: Option<Instant>,
}

impl SourceRate {
    pub(super) fn new() -> Self {
        Self {
            slots: Box::default(),
            hash: RandomState::new(),
            start: None,
        }
    }

    /// Takes one token of `source`, of `per_second` new ones each second and as many more to begin with; 0 is no
    /// limit. Whether there was one.
    pub(super) fn take(&mut self, now: Instant, source: IpAddr, per_second: u32) -> bool {
        if per_second == 0 {
            return true;
        }
        if self.slots.is_empty() {
            self.slots = vec![Bucket::default(); SLOTS].into();
        }
        let start = *self.start.get_or_insert(now);
        let millis = u64::try_from(now.saturating_duration_since(start).as_millis()).unwrap_or(u64::MAX);
        let slot = self.hash.hash_one(source) as usize % SLOTS;
        let Some(bucket) = self.slots.get_mut(slot) else {
            return true;
        };
        let earned = millis
            .saturating_sub(bucket.at)
            .saturating_mul(u64::from(per_second));
        bucket.spent = bucket.spent.saturating_sub(earned);
        bucket.at = millis;
        let granted = bucket.spent + 1000 <= 2000 * u64::from(per_second);
        if granted {
            bucket.spent += 1000;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::tests_base::start;
    use std::time::Duration;

    #[test]
    fn a_source_has_a_burst_and_then_its_rate() {
        let (mut rate, start) = (SourceRate::new(), start());
        let source = "192.0.2.1".parse().unwrap();
        let granted = |rate: &mut SourceRate, now, tries: usize| {
            (0..tries).filter(|_| rate.take(now, source, 10)).count()
        };
        assert_eq!(granted(&mut rate, start, 100), 20);
        assert_eq!(granted(&mut rate, start + Duration::from_millis(500), 100), 5);
        assert_eq!(granted(&mut rate, start + Duration::from_secs(60), 100), 20);
        assert!(rate.take(start, source, 0));
    }

    #[test]
    fn one_source_does_not_use_up_the_rate_of_others() {
        let (mut rate, now) = (SourceRate::new(), start());
        let spender = "192.0.2.1".parse().unwrap();
        while rate.take(now, spender, 10) {}
        let refused = (0..1000u32)
            .filter(|n| !rate.take(now, IpAddr::from(n.to_be_bytes()), 10))
            .count();
        assert!(refused <= 5, "{refused}");
    }
}
