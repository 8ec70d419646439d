//! The caps on everything that a peer can make grow, in one place.

use super::TopicLimits;

/// Caps per worker. Each has a counter `limits_rejected_total{limit}` for when it is hit.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// Bytes that all tables may take together (`gateway::ledger`).
    pub memory: usize,
    /// Observations of one identity, over all workers.
    pub observations_per_identity: usize,
    /// Bytes of one identity, over all workers.
    pub memory_per_identity: usize,
    /// Observations of one peer or connection.
    pub observations_per_client: usize,
    /// Levels and bytes of a topic or filter, mountpoint included.
    pub topics: TopicLimits,
    /// Notifications that wait for one observation while a confirmable one is outstanding.
    pub queued_per_observation: usize,
    /// The same for a client that sleeps.
    pub queued_for_sleeper: usize,
    /// Bytes of notifications that wait, in all.
    pub queued_bytes: usize,
    /// Remembered exchanges for duplicate detection.
    pub remembered_exchanges: usize,
    /// Requests that wait for an answer of the broker or an authentication backend.
    pub pending_requests: usize,
    /// Bytes of block-wise transfers in progress, in all.
    pub transfer_bytes: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            observations_per_identity: 4_096,
            memory_per_identity: 64 << 20,
            observations_per_client: 128,
            topics: TopicLimits::default(),
            queued_per_observation: 64,
            queued_for_sleeper: 256,
            queued_bytes: 64 << 20,
            remembered_exchanges: 131_072,
            pending_requests: 16_384,
            transfer_bytes: 64 << 20,
        }
    }
}
