//! What a worker says of its loop.

use std::sync::Arc;

use crate::group::Sent;
use crate::metrics;
use crate::types::metrics::{Counter, Descriptor, Exposes, Family, LIMITS_REJECTED, LabelPair, Samples};
use crate::types::reason::{Label as _, Limit};

metrics! {
    /// The counters of one worker's loop.
    pub struct WorkerMetrics {
        /// Turns of a worker's loop; one that stands still is stuck.
        pub turns: Counter = counter "worker_turns_total" [worker],
        /// Events that could not be told: too many waited already.
        pub events_lost: Counter = counter "events_lost_total" [],
        /// Messages to the broker or to another worker that found the channel full.
        pub channel_full: Counter = shared LIMITS_REJECTED [limit = Limit::Channel.label()],
        /// Records of sessions of other nodes that reached this one, by what became of them.
        pub forwarded: Family<Sent> = counter "group_records_forwarded_total" [] by [result],
        /// Records whose sessions were not looked for where the group sees them: too many waited already.
        pub seeks_lost: Counter = counter "group_lookups_lost_total" [],
        /// Datagrams of sessions here to peers that write to other nodes, by what became of them.
        pub returned: Family<Sent> = counter "group_answers_returned_total" [] by [result],
    }
}

const WORKERS: Descriptor = Descriptor::gauge("workers", "Worker threads.");

/// The loops of all workers.
pub struct ExposeLoops(pub Vec<Arc<WorkerMetrics>>);

impl Exposes for ExposeLoops {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        out.number(WORKERS, &[], self.0.len() as f64);
        for (number, worker) in self.0.iter().enumerate() {
            worker.expose(&[("worker", &number.to_string())], out);
        }
    }
}
