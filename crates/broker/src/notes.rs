//! Lines of the log that anyone may cause, one each second.

use std::time::{Duration, Instant};

const QUIET: Duration = Duration::from_secs(1);

/// Lets one line through each second.
#[derive(Debug, Default)]
pub(super) struct Notes {
    noted_at: Option<Instant>,
    unnoted: u64,
}

impl Notes {
    /// Whether a line may be written now: then how many were not since the last one.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self
            .noted_at
            .is_some_and(|at| now.saturating_duration_since(at) < QUIET)
        {
            self.unnoted += 1;
            return None;
        }
        self.noted_at = Some(now);
        Some(std::mem::take(&mut self.unnoted))
    }

    /// Says that a filter matches more retained messages than one answer takes.
    pub(super) fn cut(&mut self, now: Instant, filter: &str) {
        if let Some(others) = self.admit(now) {
            tracing::warn!(
                filter,
                "more retained messages match than one subscription is given; the rest needs filters of its own \
                 ({others} more before)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::clock;

    #[test]
    fn a_line_a_second_says_how_many_it_stands_for() {
        let now = (clock().now)();
        let mut notes = Notes::default();
        assert_eq!(notes.admit(now), Some(0));
        assert_eq!((notes.admit(now), notes.admit(now + QUIET / 2)), (None, None));
        assert_eq!(notes.admit(now + QUIET), Some(2));
    }
}
