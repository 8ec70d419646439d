//! What the gateways of all workers count together.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bridge::collection::seats::Seats;
use crate::policy::failures::{Failures, SourceCapacity};
use crate::policy::shares::Shares;
use crate::types::source_rates::{Allowance, SourceRates};

use super::settings::Settings;

/// What each source address and each identity has had, counted once for all workers.
#[derive(Debug)]
pub struct Shared {
    /// Failed logins and wrong tokens.
    pub(super) failures: Failures,
    /// What each identity has of all that is kept.
    pub(super) shares: Shares,
    /// Who observes which created topic.
    pub(super) seats: Seats,
    /// Seconds since 1970, as last told; 0 before that.
    wall: AtomicU64,
    /// Datagrams over plain UDP from where nobody has proved to be.
    datagrams: SourceRates,
}

impl Shared {
    /// Nothing counted yet. `seed` is 256 bits from the operating system: it decides which sources share a bucket.
    #[must_use]
    pub fn new(now: Instant, settings: &Settings, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let capacity = SourceCapacity::default();
        Self {
            failures: Failures::new(now, settings.failed_logins_per_minute, capacity, &mut rng),
            shares: Shares::default(),
            seats: Seats::default(),
            wall: AtomicU64::new(0),
            datagrams: SourceRates::new(now, capacity.unproven, rng.random()),
        }
    }

    /// Tells the time of day, in seconds since 1970; at least once a second, for what ends at a date.
    pub fn set_wall(&self, seconds: u64) {
        self.wall.store(seconds, Ordering::Relaxed);
    }

    /// The time of day, in seconds since 1970.
    pub(super) fn wall(&self) -> u64 {
        self.wall.load(Ordering::Relaxed)
    }

    /// Whether `source` may send one more datagram without having proved its address; 0 is no limit.
    pub(super) fn takes_datagram(&self, now: Instant, source: IpAddr, per_second: u32) -> bool {
        let allowance = Allowance::per_second(per_second, 1);
        self.datagrams.take(now, source, allowance).is_ok()
    }
}
