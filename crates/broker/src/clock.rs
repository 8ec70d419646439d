//! Where the broker's time comes from.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The two clocks that the broker reads: the steady one for what happens in this process, the wall clock for what is
/// written to disk and must still mean the same after a restart.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The steady clock.
    pub now: fn() -> Instant,
    /// The wall clock.
    pub wall: fn() -> SystemTime,
}

impl Clock {
    /// Milliseconds since 1970 by the wall clock; 0 for a clock before that.
    pub(super) fn wall_millis(&self) -> u64 {
        millis((self.wall)())
    }

    /// Both clocks, read together.
    pub(super) fn moment(&self) -> Moment {
        Moment {
            now: (self.now)(),
            wall_millis: self.wall_millis(),
        }
    }
}

/// One reading of both clocks: converts between what memory and what disk holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The steady clock.
    pub(super) now: Instant,
    /// Milliseconds since 1970.
    pub(super) wall_millis: u64,
}

impl Moment {
    /// The wall time of `at` in milliseconds since 1970, rounded up, at least 1.
    pub(super) fn to_wall(self, at: Instant) -> u64 {
        let wall = match at.checked_duration_since(self.now) {
            Some(ahead) => self.wall_millis.saturating_add(millis_up(ahead)),
            None => self
                .wall_millis
                .saturating_sub(millis_up(self.now.saturating_duration_since(at))),
        };
        wall.max(1)
    }

    /// The instant of a wall time in milliseconds since 1970; this very moment when it is past.
    pub(super) fn to_instant(self, wall_millis: u64) -> Instant {
        let ahead = Duration::from_millis(wall_millis.saturating_sub(self.wall_millis));
        self.now.checked_add(ahead).unwrap_or(self.now)
    }
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn millis_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
