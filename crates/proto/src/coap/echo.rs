//! Proof of address, and of freshness, by the Echo option (RFC 9175, 2).

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

/// A value is handed out again for this long, so that requests that cross each other get the same one.
const ISSUED_FOR: Duration = Duration::from_secs(60);

/// An echoed value is fresh for this long after it was first handed out.
const FRESH_FOR: Duration = Duration::from_secs(120);

/// The value that one peer was asked to echo.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Echo {
    value: [u8; 8],
    issued: Instant,
}

impl Echo {
    pub(crate) fn new(now: Instant, rng: &mut StdRng) -> Self {
        Self {
            value: rng.random(),
            issued: now,
        }
    }

    pub(crate) fn value(&self) -> [u8; 8] {
        self.value
    }

    /// When it was handed out first, where this is the value that was echoed.
    pub(crate) fn issued(&self, echoed: [u8; 8]) -> Option<Instant> {
        (echoed == self.value).then_some(self.issued)
    }

    /// Whether whoever gets it now has most of a time left to echo it.
    pub(crate) fn serves(&self, now: Instant, within: Duration) -> bool {
        now < self.issued + within / 2
    }

    /// Whether it may be handed out still.
    pub(crate) fn is_current(&self, now: Instant) -> bool {
        now < self.issued + ISSUED_FOR
    }

    /// Whether the peer echoed it in time.
    pub(crate) fn proves(&self, now: Instant, echoed: [u8; 8]) -> bool {
        now < self.issued + FRESH_FOR && echoed == self.value
    }
}
