//! Whether what this process wrote down where others see it is this process's still.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How sure a node of a group is that nobody took over what it wrote down for the others. It is, as long as its lease lasts by its own
/// clock, and lasted without a gap since it was seen last whose things are. Whoever works reads this and waits for nobody.
pub struct Tenure {
    base: Instant,
    /// When the lease ends, in milliseconds since `base`; 0 before there was one.
    until: AtomicU64,
    /// How often there was a gap; the time before the first lease is one.
    gaps: AtomicU64,
    /// How many of them were followed by a look at what is whose.
    looked_after: AtomicU64,
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenure")
    }
}

impl Tenure {
    /// Without a lease yet; `base` is any instant that is not later than those to come.
    #[must_use]
    pub const fn new(base: Instant) -> Self {
        Self {
            base,
            until: AtomicU64::new(0),
            gaps: AtomicU64::new(1),
            looked_after: AtomicU64::new(0),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX)
    }

    /// The lease was renewed: asked for at `asked`, confirmed by `now`, and good for `lease`. A tenth of that is for clocks that do not
    /// run alike. `was_there` says that it had not run out where it stands: a clock that stood still with its machine does not tell.
    pub fn renewed(&self, asked: Instant, now: Instant, lease: Duration, was_there: bool) {
        if !was_there || self.millis(now) >= self.until.load(Ordering::Acquire) {
            // In this order: nobody sees the new time without the gap.
            self.gaps.fetch_add(1, Ordering::AcqRel);
        }
        let until = self.millis(asked + lease - lease / 10);
        self.until.store(until, Ordering::Release);
    }

    /// The lease was given up, or is another's.
    pub fn ended(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether others take this node for alive.
    #[must_use]
    pub fn has_lease(&self, now: Instant) -> bool {
        self.millis(now) < self.until.load(Ordering::Acquire)
    }

    /// The gap after which nobody has looked yet whose everything is; none where somebody has.
    #[must_use]
    pub fn doubt(&self) -> Option<u64> {
        let gaps = self.gaps.load(Ordering::Acquire);
        (gaps != self.looked_after.load(Ordering::Acquire)).then_some(gaps)
    }

    /// All that another has was let go since this gap.
    pub fn settle(&self, gap: u64) {
        self.looked_after.store(gap, Ordering::Release);
    }

    /// Whether everything is this node's for sure.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        self.has_lease(now) && self.doubt().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    fn it_holds_while_the_lease_lasts_without_a_gap_that_nobody_looked_after() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let (tenure, lease) = (Tenure::new(start), Duration::from_secs(10));
        assert!(!tenure.holds(at(0)) && tenure.doubt() == Some(1));
        tenure.settle(1);
        assert!(!tenure.has_lease(at(0)) && !tenure.holds(at(0)));
        tenure.renewed(at(0), at(1), lease, true);
        assert!(tenure.has_lease(at(1)) && !tenure.holds(at(1)));
        let gap = tenure.doubt().unwrap();
        tenure.settle(gap);
        assert!(tenure.holds(at(8)) && !tenure.holds(at(9)));
        tenure.renewed(at(5), at(8), lease, true);
        assert!(tenure.holds(at(13)) && !tenure.holds(at(14)));
        // What was asked for in time and is answered late is a gap too: others may have looked before it was granted.
        tenure.renewed(at(13), at(14), lease, true);
        assert!(tenure.has_lease(at(14)) && !tenure.holds(at(14)));
        // A look that began before the next gap does not count for it.
        let gap = tenure.doubt().unwrap();
        tenure.ended();
        assert!(!tenure.has_lease(at(14)));
        tenure.renewed(at(15), at(15), lease, true);
        tenure.settle(gap);
        assert!(!tenure.holds(at(15)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    fn a_lease_that_ran_out_while_the_clock_stood_still_is_a_gap() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let (tenure, lease) = (Tenure::new(start), Duration::from_secs(10));
        tenure.renewed(at(0), at(0), lease, false);
        tenure.settle(tenure.doubt().unwrap());
        tenure.renewed(at(3), at(3), lease, true);
        assert!(tenure.holds(at(4)));
        tenure.renewed(at(5), at(5), lease, false);
        assert!(tenure.has_lease(at(6)) && !tenure.holds(at(6)));
    }
}
