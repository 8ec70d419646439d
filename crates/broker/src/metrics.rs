//! What the broker counts. Each lane (the embedded broker, or one upstream connection) is the only writer of its own
//! numbers; they are summed when read.

use std::sync::Arc;

use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::labels;
use portcullis_proto::types::metrics::{Counter, Family, Histogram, REQUEST_SECONDS};

labels! {
    /// Why a message that a client holds an acknowledgement for went no further: `spool_dropped_total{reason}`.
    pub enum DroppedReason {
        /// Its expiry passed while it waited.
        Expired = "expired",
        /// The broker refused it.
        Refused = "refused",
        /// It is larger than the broker takes.
        TooLarge = "too_large",
        /// It was among the oldest in a full spool (`when_full = "drop_oldest"`).
        SpoolFull = "spool_full",
        /// It was damaged on disk.
        Corrupt = "corrupt",
    }
}

labels! {
    /// Why a publish or filter was refused: `broker_refused_total{reason}`.
    pub enum RefusedReason {
        /// The broker ends the connection over it.
        HungUp = "hung_up",
        /// The broker says that the gateway may not.
        NotAuthorized = "not_authorized",
        /// It is larger than the broker takes.
        TooLarge = "too_large",
        /// The broker does not take such a topic, filter or message.
        Invalid = "invalid",
        /// A quota of the broker, or the spool, is full.
        Quota = "quota",
        /// The broker, or the way to it, could not take it then.
        Unavailable = "unavailable",
    }
}

impl RefusedReason {
    pub(super) const fn of(error: BrokerError) -> Self {
        match error {
            BrokerError::NotAuthorized => Self::NotAuthorized,
            BrokerError::Quota => Self::Quota,
            BrokerError::Unavailable => Self::Unavailable,
            BrokerError::Refused => Self::Invalid,
            BrokerError::TooLarge => Self::TooLarge,
        }
    }
}

labels! {
    /// How an attempt to connect upstream ended: `broker_connects_total{result}`.
    pub enum ConnectResult {
        /// Connected.
        Ok = "ok",
        /// The broker cannot be reached, or TLS failed.
        Unreachable = "unreachable",
        /// The broker answered and refused.
        Refused = "refused",
        /// It does not speak the protocol version that is set.
        Protocol = "protocol",
    }
}

/// The numbers of one lane.
#[derive(Debug)]
pub(super) struct LaneMetrics {
    pub(super) connected: Counter,
    pub(super) connects: Family<ConnectResult>,
    pub(super) stalls: Counter,
    pub(super) received: Counter,
    pub(super) sent: Counter,
    pub(super) subscriptions: Counter,
    pub(super) filter_bytes: Counter,
    pub(super) unfit_topics: Counter,
    pub(super) undelivered: Counter,
    pub(super) accepted: Counter,
    pub(super) recovered: Counter,
    pub(super) acknowledged: Counter,
    pub(super) refused: Counter,
    pub(super) refusals: Family<RefusedReason>,
    pub(super) trials: Counter,
    /// What the broker offers: the highest QoS, whether it retains, the largest packet; 0 without a connection.
    pub(super) max_qos: Counter,
    pub(super) retains: Counter,
    pub(super) max_packet: Counter,
    pub(super) dropped: Family<DroppedReason>,
    pub(super) ack_seconds: Histogram,
    pub(super) spool_messages: Counter,
    pub(super) spool_bytes: Counter,
    pub(super) spool_disk_bytes: Counter,
    pub(super) spool_oldest_millis: Counter,
    pub(super) spool_failed: Counter,
    pub(super) spool_full: Counter,
    pub(super) retained_messages: Counter,
    pub(super) retained_bytes: Counter,
    pub(super) retained_rejected: Counter,
    pub(super) retained_cut: Counter,
    pub(super) retained_failed: Counter,
    pub(super) retained_damaged: Counter,
}

impl Default for LaneMetrics {
    fn default() -> Self {
        Self {
            connected: Counter::default(),
            connects: Family::default(),
            stalls: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            subscriptions: Counter::default(),
            filter_bytes: Counter::default(),
            unfit_topics: Counter::default(),
            undelivered: Counter::default(),
            accepted: Counter::default(),
            recovered: Counter::default(),
            acknowledged: Counter::default(),
            refused: Counter::default(),
            refusals: Family::default(),
            trials: Counter::default(),
            max_qos: Counter::default(),
            retains: Counter::default(),
            max_packet: Counter::default(),
            dropped: Family::default(),
            ack_seconds: Histogram::new(REQUEST_SECONDS),
            spool_messages: Counter::default(),
            spool_bytes: Counter::default(),
            spool_disk_bytes: Counter::default(),
            spool_oldest_millis: Counter::default(),
            spool_failed: Counter::default(),
            spool_full: Counter::default(),
            retained_messages: Counter::default(),
            retained_bytes: Counter::default(),
            retained_rejected: Counter::default(),
            retained_cut: Counter::default(),
            retained_failed: Counter::default(),
            retained_damaged: Counter::default(),
        }
    }
}

/// The numbers of the whole broker, read by any thread.
#[derive(Debug)]
pub struct BrokerMetrics {
    lanes: Vec<Arc<LaneMetrics>>,
    spool_capacity_bytes: u64,
}

/// All numbers of the broker at one moment.
///
/// `accepted + recovered = acknowledged + spool_messages + dropped` holds at rest: every message that a client holds
/// an acknowledgement for (or that an earlier process left in the spool) is accounted for.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerSnapshot {
    /// Whether every connection to the broker stands; the embedded broker always does.
    pub connected: bool,
    /// Connections to the broker that stand.
    pub connections: u64,
    /// Attempts to connect, by `result`.
    pub connects: Vec<(&'static str, u64)>,
    /// Connections that were given up because the broker did not acknowledge.
    pub stalls: u64,
    /// Messages from the broker: `broker_messages_total{direction="received"}`.
    pub received: u64,
    /// Messages to the broker: `broker_messages_total{direction="sent"}`.
    pub sent: u64,
    /// Distinct filters that are subscribed.
    pub subscriptions: u64,
    /// Bytes of the tables in which they are looked up.
    pub filter_bytes: u64,
    /// Messages from the broker that nobody got, because their topics are over the limits or hold what MQTT says not to send.
    pub unfit_topics: u64,
    /// Messages that a worker did not get because its queue was full.
    pub undelivered: u64,
    /// Publishes that were answered with success.
    pub accepted: u64,
    /// Messages that were in the spool when the process started, damaged ones included.
    pub recovered: u64,
    /// Accepted or recovered messages that the broker has.
    pub acknowledged: u64,
    /// Publishes that were answered with an error.
    pub refused: u64,
    /// Publishes and filters that were refused, by `reason`; accepted messages that the broker then refused among them.
    pub refusals: Vec<(&'static str, u64)>,
    /// Connections made to try what the broker may hang up on.
    pub trials: u64,
    /// The highest QoS that the broker takes; 0 without a connection.
    pub max_qos: u64,
    /// Whether the broker keeps retained messages; false without a connection.
    pub retains: bool,
    /// The largest packet that the broker takes, in bytes; 0 without a connection.
    pub max_packet_bytes: u64,
    /// Accepted or recovered messages that are lost, by `reason`.
    pub dropped: Vec<(&'static str, u64)>,
    /// Upper bounds, counts (the last one +Inf, not cumulative) and sum in seconds of the time from a publish to its
    /// answer.
    pub ack_seconds: (&'static [f64], Vec<u64>, f64),
    /// Messages in the spool that the broker does not have yet.
    pub spool_messages: u64,
    /// Their bytes.
    pub spool_bytes: u64,
    /// Bytes of the spool's files.
    pub spool_disk_bytes: u64,
    /// What the spool may hold in bytes; 0 when it is off.
    pub spool_capacity_bytes: u64,
    /// When the oldest message in the spool was accepted, in seconds since 1970; 0 when it is empty.
    pub spool_oldest_timestamp_seconds: f64,
    /// Whether the spool had to stop accepting (failed fsync).
    pub spool_failed: bool,
    /// Publishes that were refused because the spool was full.
    pub spool_full: u64,
    /// Messages in the retained store of the embedded broker.
    pub retained_messages: u64,
    /// Bytes in it.
    pub retained_bytes: u64,
    /// Retained publishes that were refused because the store was full.
    pub retained_rejected: u64,
    /// Subscriptions that matched more retained messages than one answer takes.
    pub retained_cut: u64,
    /// Whether the retained store had to stop accepting (full disk, failed write or fsync).
    pub retained_failed: bool,
    /// How often the retained store, or records in it, turned out to be damaged and was left out.
    pub retained_damaged: u64,
}

impl BrokerMetrics {
    pub(super) fn new(lanes: usize, spool_capacity_bytes: u64) -> Self {
        Self {
            lanes: (0..lanes).map(|_| Arc::default()).collect(),
            spool_capacity_bytes,
        }
    }

    pub(super) fn lane(&self, lane: usize) -> Arc<LaneMetrics> {
        self.lanes.get(lane).cloned().unwrap_or_default()
    }

    fn sum(&self, counter: impl Fn(&LaneMetrics) -> &Counter) -> u64 {
        self.lanes.iter().map(|lane| counter(lane).get()).sum()
    }

    fn least(&self, counter: impl Fn(&LaneMetrics) -> &Counter) -> u64 {
        self.lanes
            .iter()
            .map(|lane| counter(lane).get())
            .min()
            .unwrap_or(0)
    }

    /// Whether every connection to the broker stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.lanes.iter().all(|lane| lane.connected.get() > 0)
    }

    /// Whether a store had to stop accepting, so that the node is not ready.
    #[must_use]
    pub fn store_failed(&self) -> bool {
        self.sum(|lane| &lane.spool_failed) + self.sum(|lane| &lane.retained_failed) > 0
    }

    /// All numbers now.
    #[must_use]
    pub fn snapshot(&self) -> BrokerSnapshot {
        let oldest = self
            .lanes
            .iter()
            .map(|lane| lane.spool_oldest_millis.get())
            .filter(|millis| *millis > 0)
            .min()
            .unwrap_or(0);
        BrokerSnapshot {
            connected: self.is_connected(),
            connections: self.sum(|lane| &lane.connected),
            connects: self.labelled(|lane| lane.connects.iter().collect()),
            stalls: self.sum(|lane| &lane.stalls),
            received: self.sum(|lane| &lane.received),
            sent: self.sum(|lane| &lane.sent),
            subscriptions: self.sum(|lane| &lane.subscriptions),
            filter_bytes: self.sum(|lane| &lane.filter_bytes),
            unfit_topics: self.sum(|lane| &lane.unfit_topics),
            undelivered: self.sum(|lane| &lane.undelivered),
            accepted: self.sum(|lane| &lane.accepted),
            recovered: self.sum(|lane| &lane.recovered),
            acknowledged: self.sum(|lane| &lane.acknowledged),
            refused: self.sum(|lane| &lane.refused),
            refusals: self.labelled(|lane| lane.refusals.iter().collect()),
            trials: self.sum(|lane| &lane.trials),
            max_qos: self.least(|lane| &lane.max_qos),
            retains: self.least(|lane| &lane.retains) > 0,
            max_packet_bytes: self.least(|lane| &lane.max_packet),
            dropped: self.labelled(|lane| lane.dropped.iter().collect()),
            ack_seconds: self.ack_seconds(),
            spool_messages: self.sum(|lane| &lane.spool_messages),
            spool_bytes: self.sum(|lane| &lane.spool_bytes),
            spool_disk_bytes: self.sum(|lane| &lane.spool_disk_bytes),
            spool_capacity_bytes: self.spool_capacity_bytes,
            spool_oldest_timestamp_seconds: oldest as f64 / 1000.0,
            spool_failed: self.sum(|lane| &lane.spool_failed) > 0,
            spool_full: self.sum(|lane| &lane.spool_full),
            retained_messages: self.sum(|lane| &lane.retained_messages),
            retained_bytes: self.sum(|lane| &lane.retained_bytes),
            retained_rejected: self.sum(|lane| &lane.retained_rejected),
            retained_cut: self.sum(|lane| &lane.retained_cut),
            retained_failed: self.sum(|lane| &lane.retained_failed) > 0,
            retained_damaged: self.sum(|lane| &lane.retained_damaged),
        }
    }

    fn labelled(
        &self,
        values: impl Fn(&LaneMetrics) -> Vec<(&'static str, u64)>,
    ) -> Vec<(&'static str, u64)> {
        let mut lanes = self.lanes.iter().map(|lane| values(lane));
        let mut sum = lanes.next().unwrap_or_default();
        for lane in lanes {
            for (total, (_, value)) in sum.iter_mut().zip(lane) {
                total.1 += value;
            }
        }
        sum
    }

    fn ack_seconds(&self) -> (&'static [f64], Vec<u64>, f64) {
        let mut counts = vec![0; REQUEST_SECONDS.len() + 1];
        let mut sum = 0.0;
        for lane in &self.lanes {
            for (total, count) in counts.iter_mut().zip(lane.ack_seconds.counts()) {
                *total += count;
            }
            sum += lane.ack_seconds.sum();
        }
        (REQUEST_SECONDS, counts, sum)
    }
}

impl BrokerSnapshot {
    /// Accepted or recovered messages that are lost, whatever the reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(|(_, count)| count).sum()
    }
}
