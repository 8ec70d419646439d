//! What a worker says of itself.

use crate::types::metrics::Counter;

/// The counters of one worker's loop.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Turns of the loop. It moves at least twice per second for as long as the worker lives and is not stuck.
    pub turns: Counter,
    /// Messages to the broker or to another worker that found the channel full.
    pub channel_full: Counter,
}
