//! Failed logins and wrong tokens of a source, counted once for all workers.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use crate::types::source_rates::{Allowance, SourceRates};

/// How sure it is that a source is where its datagrams say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Anyone may have written that address on the datagram.
    Unproven,
    /// It answered to something that only it was sent: a cookie, an Echo value, an ACK.
    Proven,
}

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

/// Failed logins and wrong tokens of each source, alike in both classes, shared by all workers. Sources that have proved their
/// address have buckets of their own, which those who have not cannot touch.
///
/// A login is charged before it is given to a backend and given back unless it failed, so what is in flight cannot go
/// over the rate. A wrong token is charged when it is seen. A right token asks nobody: 128 random bits are not guessed,
/// and so nobody who writes a neighbour's address on his datagrams can lock that neighbour's connection out.
#[derive(Debug)]
pub struct Failures {
    per_minute: AtomicU32,
    unproven: SourceRates,
    proven: SourceRates,
}

impl Failures {
    /// `per_minute` failures for each source, all of them at once if there were none before; 0 is no limit.
    #[must_use]
    pub fn new(now: Instant, per_minute: u32, capacity: SourceCapacity, random: &mut StdRng) -> Self {
        Self {
            per_minute: AtomicU32::new(per_minute),
            unproven: SourceRates::new(now, capacity.unproven, random.random()),
            proven: SourceRates::new(now, capacity.proven, random.random()),
        }
    }

    /// Another rate from now on, for all workers. What is owed stays owed.
    pub(crate) fn set_per_minute(&self, per_minute: u32) {
        self.per_minute.store(per_minute, Ordering::Relaxed);
    }

    /// Counts a try of `source` ([`crate::types::PeerAddr::source`]) that is wrong, or may turn out to be.
    ///
    /// # Errors
    /// When too many of its tries failed: 4.29, with the time for Max-Age. Then nothing is counted.
    pub fn charge(&self, now: Instant, class: Class, source: IpAddr) -> Result<(), Duration> {
        self.rates(class).take(now, source, self.allowance())
    }

    /// The try was not wrong after all, or nobody could tell.
    pub(crate) fn give_back(&self, now: Instant, class: Class, source: IpAddr) {
        self.rates(class).give_back(now, source, self.allowance());
    }

    fn allowance(&self) -> Allowance {
        Allowance::per_minute(self.per_minute.load(Ordering::Relaxed))
    }

    fn rates(&self, class: Class) -> &SourceRates {
        match class {
            Class::Unproven => &self.unproven,
            Class::Proven => &self.proven,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::clock_for_tests as clock;

    fn failures(per_minute: u32, capacity: usize) -> (Failures, Instant) {
        let now = clock();
        let capacity = SourceCapacity {
            unproven: capacity,
            proven: capacity,
        };
        let random = &mut StdRng::seed_from_u64(3);
        (Failures::new(now, per_minute, capacity, random), now)
    }

    fn source(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    fn charged(failures: &Failures, now: Instant, class: Class, source: IpAddr, tries: usize) -> usize {
        (0..tries)
            .filter(|_| failures.charge(now, class, source).is_ok())
            .count()
    }

    #[test]
    fn guessing_is_throttled_for_the_guesser_and_nobody_else() {
        let (failures, start) = failures(30, 65_536);
        let (guesser, neighbour) = (source(2), source(3));
        let mut tries = 0;
        for second in 0..120 {
            let now = start + Duration::from_secs(second);
            tries += charged(&failures, now, Class::Unproven, guesser, 100);
            for _ in 0..100 {
                assert_eq!(failures.charge(now, Class::Unproven, neighbour), Ok(()));
                failures.give_back(now, Class::Unproven, neighbour);
            }
        }
        assert!((85..=90).contains(&tries), "{tries}");
    }

    #[test]
    fn zero_is_no_limit_and_a_new_limit_holds_at_once() {
        let (failures, now) = failures(0, 8);
        assert_eq!(
            charged(&failures, now, Class::Unproven, source(1), 10_000),
            10_000
        );
        failures.set_per_minute(5);
        assert_eq!(charged(&failures, now, Class::Unproven, source(1), 100), 5);
    }

    #[test]
    fn logins_in_flight_cannot_go_over_the_rate() {
        let (failures, now) = failures(30, 1024);
        assert_eq!(charged(&failures, now, Class::Proven, source(1), 1000), 30);
        for _ in 0..1000 {
            failures.give_back(now, Class::Proven, source(1));
        }
        assert_eq!(charged(&failures, now, Class::Proven, source(1), 1000), 30);
    }

    #[test]
    fn unproven_sources_cannot_touch_proven_ones() {
        let (failures, now) = failures(2, 64);
        assert_eq!(charged(&failures, now, Class::Unproven, source(7), 10), 2);
        assert_eq!(charged(&failures, now, Class::Proven, source(7), 10), 2);
        for n in 100..10_000 {
            assert!(failures.charge(now, Class::Unproven, source(n)).is_ok());
        }
        assert!(failures.charge(now, Class::Proven, source(7)).is_err());
    }
}
