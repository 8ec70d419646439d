//! Counters that cost the packet path nothing shared: one writer each, summed at scrape.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::reason::Label;

/// A number that one worker writes and any thread may read. Adding is a load and a store, not a locked operation,
/// so there must be one writer only.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away; for gauges.
    pub fn sub(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets it; for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each value of a closed list.
#[derive(Debug)]
pub struct Family<L> {
    cells: Box<[Counter]>,
    label: PhantomData<L>,
}

impl<L: Label> Default for Family<L> {
    fn default() -> Self {
        Self {
            cells: L::ALL.iter().map(|_| Counter::default()).collect(),
            label: PhantomData,
        }
    }
}

impl<L: Label> Family<L> {
    /// Adds one to the counter of `label`.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// Adds `n` to the counter of `label`.
    pub fn add(&self, label: L, n: u64) {
        if let Some(cell) = self.cells.get(label.index()) {
            cell.add(n);
        }
    }

    /// Sets the value for `label`; for gauges.
    pub fn set(&self, label: L, n: u64) {
        if let Some(cell) = self.cells.get(label.index()) {
            cell.set(n);
        }
    }

    /// The value for `label`.
    pub fn get(&self, label: L) -> u64 {
        self.cells.get(label.index()).map_or(0, Counter::get)
    }

    /// Every label with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        L::ALL.iter().map(|label| (label.label(), self.get(*label)))
    }
}

/// A histogram of seconds with fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: Box<[Counter]>,
    sum_micros: Counter,
}

impl Histogram {
    /// An empty histogram; `bounds` are the upper bounds in seconds, ascending, without +Inf.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| Counter::default()).collect(),
            sum_micros: Counter::default(),
        }
    }

    /// Counts one observation.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(cell) = self.buckets.get(bucket) {
            cell.inc();
        }
        self.sum_micros
            .add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// The upper bounds in seconds, without +Inf.
    #[must_use]
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// How many observations fell into each bucket, the last being +Inf; not cumulative.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        self.buckets.iter().map(Counter::get).collect()
    }

    /// The sum of all observations in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        Duration::from_micros(self.sum_micros.get()).as_secs_f64()
    }
}

/// Bounds for requests and broker acknowledgements, in seconds; 2 and 3 are ACK_TIMEOUT and its random upper bound.
pub const REQUEST_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0,
];

/// Bounds for DTLS handshakes, in seconds.
pub const HANDSHAKE_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::reason::DropReason;

    #[test]
    fn a_family_counts_by_label() {
        let family = Family::<DropReason>::default();
        family.inc(DropReason::Version);
        family.add(DropReason::Version, 2);
        assert_eq!(family.get(DropReason::Version), 3);
        assert_eq!(
            family.iter().filter(|(_, n)| *n > 0).collect::<Vec<_>>(),
            [("version", 3)]
        );
    }

    #[test]
    fn a_histogram_puts_a_bound_into_its_own_bucket() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.observe(Duration::from_millis(500));
        histogram.observe(Duration::from_secs(7));
        assert_eq!(histogram.counts(), [1, 0, 1]);
        assert!((histogram.sum() - 7.5).abs() < 1e-9);
    }
}
