//! Times by how often they came, to within two percent.

use std::time::Duration;

/// Steps for each power of two.
const STEPS: u64 = 64;

/// As many as all times of 64 bits have.
const BUCKETS: usize = 59 * 64;

/// A histogram of times in nanoseconds, each step of which is a 64th of its power of two.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    most: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            most: 0,
        }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
        }
        self.count += 1;
        self.most = self.most.max(nanos);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.most = self.most.max(other.most);
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) const fn most(&self) -> Duration {
        Duration::from_nanos(self.most)
    }

    /// The time that `share` (0 to 1) of all stay within; nothing where there are none.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(Duration::from_nanos(middle(bucket as u64).min(self.most)));
            }
        }
        None
    }
}

fn bucket(nanos: u64) -> usize {
    let bits = u64::from(64 - nanos.leading_zeros());
    let index = match bits.checked_sub(7) {
        None | Some(0) => nanos,
        Some(shift) => shift * STEPS + (nanos >> shift),
    };
    usize::try_from(index).unwrap_or(BUCKETS)
}

fn middle(bucket: u64) -> u64 {
    let Some(shift) = (bucket / STEPS).checked_sub(1).filter(|shift| *shift > 0) else {
        return bucket;
    };
    let least = (bucket - shift * STEPS) << shift;
    least.saturating_add((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_two_percent() {
        let mut all = Histogram::default();
        assert_eq!(all.quantile(0.5), None);
        (1..=10_000).for_each(|n| all.record(Duration::from_micros(n)));
        for (share, exact) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let told = all.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((told - exact).abs() / exact < 0.02, "{share}: {told}");
        }
        let mut other = Histogram::default();
        other.record(Duration::MAX);
        other.record(Duration::ZERO);
        all.merge(&other);
        assert_eq!(all.count(), 10_002);
        assert!(all.quantile(1.0).unwrap() > Duration::from_secs(1 << 33));
    }

    #[test]
    fn each_bucket_holds_its_middle() {
        for bucket_index in 0..BUCKETS as u64 - 1 {
            assert_eq!(bucket(middle(bucket_index)) as u64, bucket_index);
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }
}
