//! How long to wait before the next attempt to connect.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const FIRST: Duration = Duration::from_millis(250);
/// Longest wait where the cause of the end is known, and not met again.
const AT_ONCE: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(30);
/// A connection that stood this long was a success.
const STOOD: Duration = Duration::from_secs(10);

/// Doubling waits, each between half and the whole of its length, so that a fleet does not come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    rng: StdRng,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            next: FIRST,
            rng: StdRng::from_os_rng(),
        }
    }

    /// The wait after an attempt that failed or a connection that ended; `since` is when it stood, if it did.
    pub(super) fn wait(&mut self, since: Option<Instant>, now: Instant) -> Duration {
        if since.is_some_and(|since| now.saturating_duration_since(since) >= STOOD) {
            self.next = FIRST;
        }
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST);
        self.rng.random_range(whole / 2..=whole)
    }

    /// The wait after a connection that ended over something that is not met again.
    pub(super) fn at_once(&mut self) -> Duration {
        self.next = FIRST;
        self.rng.random_range(Duration::ZERO..=AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::clock;

    #[test]
    fn waits_double_up_to_a_bound_with_jitter_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new();
        let now = (clock().now)();
        let mut whole = FIRST;
        let mut waits = Vec::new();
        for _ in 0..12 {
            let wait = backoff.wait(None, now);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            waits.push(wait.as_secs_f64() / whole.as_secs_f64());
            whole = (whole * 2).min(LONGEST);
        }
        assert!(
            waits.iter().any(|share| (share - waits[0]).abs() > 0.01),
            "no jitter: {waits:?}"
        );
        assert!(
            backoff.wait(Some(now), now + STOOD / 2) > LONGEST / 3,
            "too short to be a success"
        );
        assert!(backoff.wait(Some(now), now + STOOD) <= FIRST);
    }
}
