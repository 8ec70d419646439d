//! How the last reload of the configuration went.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_proto::types::metrics::{Descriptor, Exposes, LabelPair, Samples};

const SUCCESSFUL: Descriptor = Descriptor::gauge(
    "config_last_reload_successful",
    "1 unless the last reload was refused, so that the configuration on disk is not the one in force.",
);
const SUCCESS: Descriptor = Descriptor::gauge(
    "config_last_reload_success_timestamp_seconds",
    "When the configuration in force was read, in seconds since 1970.",
);
const RELOADS: Descriptor = Descriptor::counter(
    "config_reloads_total",
    "Reloads of the configuration by how they ended.",
);

/// What became of reloads. Starting counts as the first that succeeded. One thread writes.
#[derive(Debug)]
pub struct Reloads {
    last_failed: AtomicBool,
    success_seconds: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Reloads {
    /// Nothing reloaded yet; `started` is when the configuration was first read.
    #[must_use]
    pub fn new(started: SystemTime) -> Self {
        Self {
            last_failed: AtomicBool::new(false),
            success_seconds: AtomicU64::new(unix(started)),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// A reload put a new configuration in force.
    pub fn success(&self, now: SystemTime) {
        self.last_failed.store(false, Ordering::Relaxed);
        self.success_seconds.store(unix(now), Ordering::Relaxed);
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    /// A reload left the old configuration in force.
    pub fn failure(&self) {
        self.last_failed.store(true, Ordering::Relaxed);
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The `config_*` families.
pub struct ExposeReloads(pub std::sync::Arc<Reloads>);

impl Exposes for ExposeReloads {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        let is_good = f64::from(u8::from(!self.0.last_failed.load(Ordering::Relaxed)));
        out.number(SUCCESSFUL, &[], is_good);
        out.number(
            SUCCESS,
            &[],
            self.0.success_seconds.load(Ordering::Relaxed) as f64,
        );
        for (result, count) in [("success", &self.0.succeeded), ("failure", &self.0.failed)] {
            out.number(
                RELOADS,
                &[("result", result)],
                count.load(Ordering::Relaxed) as f64,
            );
        }
    }
}
