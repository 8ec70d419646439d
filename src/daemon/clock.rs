//! The only reader of the clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time that timers and rates go by; it never goes back.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day, which may jump: for certificates, logs and what people read.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The time of day in whole seconds since 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    since_1970().as_secs()
}

/// The time of day since 1970.
#[must_use]
pub fn since_1970() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}
