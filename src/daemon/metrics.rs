//! What a worker says of its loop.

use std::sync::Arc;

use crate::admin::expose::LIMITS_REJECTED;
use crate::admin::{Exposes, Exposition};
use crate::types::metrics::Counter;
use crate::types::reason::{Label, Limit};

/// The counters of one worker's loop.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Turns of the loop. It moves at least twice per second for as long as the worker lives and is not stuck.
    pub turns: Counter,
    /// Messages to the broker or to another worker that found the channel full.
    pub channel_full: Counter,
}

/// The loops of all workers.
pub struct ExposeWorkers(pub Vec<Arc<WorkerMetrics>>);

impl Exposes for ExposeWorkers {
    fn expose(&self, out: &mut Exposition) {
        out.gauge("workers", "Worker threads.", &[], self.0.len() as f64);
        for (number, worker) in self.0.iter().enumerate() {
            out.counter(
                "worker_turns_total",
                "Turns of a worker's loop; one that stands still is stuck.",
                &[("worker", &number.to_string())],
                worker.turns.get(),
            );
            out.counter(
                "limits_rejected_total",
                LIMITS_REJECTED,
                &[("limit", Limit::Channel.label())],
                worker.channel_full.get(),
            );
        }
    }
}
