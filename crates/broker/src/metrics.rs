//! What the broker counts. Each lane (the embedded broker, or one upstream connection) is the only writer of its own
//! numbers; they are summed when read.

use std::sync::Arc;

use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::types::metrics::{
    Counter, Descriptor, Exposes, Family, Histogram, LabelPair, REQUEST_SECONDS, Samples,
};
use portcullis_proto::{labels, metrics};

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
        /// What is retained is not what a precondition wants.
        Changed = "changed",
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
            BrokerError::Changed => Self::Changed,
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

metrics! {
    /// The numbers of one lane.
    pub(super) struct LaneMetrics {
        /// Connections to the broker that stand.
        pub(super) connected: Counter = gauge "broker_connections" [],
        /// Attempts to connect to the broker.
        pub(super) connects: Family<ConnectResult> = counter "broker_connects_total" [] by [result],
        /// Connections that were given up because the broker did not acknowledge.
        pub(super) stalls: Counter = counter "broker_stalls_total" [],
        /// Messages exchanged with the broker.
        pub(super) received: Counter = counter "broker_messages_total" [direction = "received"],
        /// Messages exchanged with the broker.
        pub(super) sent: Counter = counter "broker_messages_total" [direction = "sent"],
        /// Distinct filters that are subscribed.
        pub(super) subscriptions: Counter = gauge "broker_subscriptions" [],
        /// Bytes of the tables in which messages look up their subscriptions.
        pub(super) filter_bytes: Counter = gauge "broker_filter_bytes" [],
        /// Messages from the broker that nobody got: their topics are over `limits.topic_levels` or `limits.topic_bytes`, or hold what MQTT says not to send.
        pub(super) unfit_topics: Counter = counter "broker_unfit_topics_total" [],
        /// Messages that a worker did not get because its queue was full.
        pub(super) undelivered: Counter = counter "broker_undelivered_total" [],
        /// Publishes that were answered with success.
        pub(super) accepted: Counter = counter "broker_accepted_total" [],
        /// Messages that an earlier process left in the spool, damaged ones included.
        pub(super) recovered: Counter = counter "broker_recovered_total" [],
        /// Accepted or recovered messages that the broker has.
        pub(super) acknowledged: Counter = counter "broker_acknowledged_total" [],
        /// Publishes that were answered with an error.
        pub(super) refused: Counter,
        /// Publishes and filters that were refused, by why; messages accepted earlier among them.
        pub(super) refusals: Family<RefusedReason> = counter "broker_refused_total" [] by [reason],
        /// Connections made to try what the broker may hang up on.
        pub(super) trials: Counter = counter "broker_trials_total" [],
        /// The highest QoS that the broker takes; 0 without a connection.
        pub(super) max_qos: Counter,
        /// 1 when the broker keeps retained messages; 0 without a connection.
        pub(super) retains: Counter,
        /// The largest packet that the broker takes, in bytes; 0 without a connection.
        pub(super) max_packet: Counter,
        /// Accepted or recovered messages that are lost, by why.
        pub(super) dropped: Family<DroppedReason> = counter "spool_dropped_total" [] by [reason],
        /// From a publish to the broker's word on it.
        pub(super) ack_seconds: Histogram[REQUEST_SECONDS] = histogram "broker_ack_seconds" [],
        /// Messages on disk that the broker does not have yet.
        pub(super) spool_messages: Counter = gauge "spool_messages" [],
        /// Bytes of the messages in the spool.
        pub(super) spool_bytes: Counter = gauge "spool_bytes" [],
        /// Bytes of the spool's files.
        pub(super) spool_disk_bytes: Counter = gauge "spool_disk_bytes" [],
        /// When the oldest message in the spool was accepted, in milliseconds since 1970; 0 when it is empty.
        pub(super) spool_oldest_millis: Counter,
        /// 1 when the spool had to stop accepting (failed fsync).
        pub(super) spool_failed: Counter,
        /// Publishes that were refused because the spool was full.
        pub(super) spool_full: Counter = counter "spool_full_total" [],
        /// Retained messages in the embedded broker.
        pub(super) retained_messages: Counter = gauge "retained_messages" [],
        /// Bytes of the retained messages.
        pub(super) retained_bytes: Counter = gauge "retained_bytes" [],
        /// Retained publishes that were refused because the store was full.
        pub(super) retained_rejected: Counter = counter "retained_rejected_total" [],
        /// Subscriptions that matched more retained messages than the 1,024 that one answer takes; the log names the filter.
        pub(super) retained_cut: Counter = counter "retained_cut_total" [],
        /// Times that the retained store, or records in it, turned out to be damaged and was left out.
        pub(super) retained_damaged: Counter = counter "retained_damaged_total" [],
        /// 1 when the retained store had to stop accepting (failed write or fsync).
        pub(super) retained_failed: Counter,
    }
}

const CONNECTED: Descriptor = Descriptor::gauge(
    "broker_connected",
    "1 when every connection to the broker stands.",
);
const MAX_QOS: Descriptor = Descriptor::gauge(
    "broker_max_qos",
    "The highest QoS that the broker takes; 0 without a connection.",
);
const RETAINS: Descriptor = Descriptor::gauge(
    "broker_retain_available",
    "1 when the broker keeps retained messages; 0 without a connection.",
);
const MAX_PACKET: Descriptor = Descriptor::gauge(
    "broker_max_packet_bytes",
    "The largest packet that the broker takes; 0 without a connection.",
);
const CAPACITY: Descriptor = Descriptor::gauge(
    "spool_capacity_bytes",
    "What the spool may hold; 0 when it is off.",
);
const OLDEST: Descriptor = Descriptor::gauge(
    "spool_oldest_timestamp_seconds",
    "When the oldest message in the spool was accepted; 0 when it is empty.",
);
const SPOOL_FAILED: Descriptor = Descriptor::gauge("spool_failed", "1 when the spool had to stop accepting.");
const RETAINED_FAILED: Descriptor = Descriptor::gauge(
    "retained_failed",
    "1 when the retained store had to stop accepting.",
);

/// The numbers of the whole broker, read by any thread.
#[derive(Debug)]
pub struct BrokerMetrics {
    lanes: Vec<Arc<LaneMetrics>>,
    /// How many of them are connections; the others count for workers that are their own broker.
    connections: usize,
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
    pub(super) fn new(connections: usize, spool_capacity_bytes: u64) -> Self {
        Self {
            lanes: (0..connections).map(|_| Arc::default()).collect(),
            connections,
            spool_capacity_bytes,
        }
    }

    /// Those of the embedded broker: lane 0 for what workers share, and one for each of them behind it.
    pub(super) fn embedded(workers: usize) -> Self {
        Self {
            connections: 1,
            ..Self::new(1 + workers, 0)
        }
    }

    pub(super) fn lane(&self, lane: usize) -> Arc<LaneMetrics> {
        self.lanes.get(lane).cloned().unwrap_or_default()
    }

    fn connections(&self) -> impl Iterator<Item = &Arc<LaneMetrics>> {
        self.lanes.iter().take(self.connections)
    }

    fn sum(&self, counter: impl Fn(&LaneMetrics) -> &Counter) -> u64 {
        self.lanes.iter().map(|lane| counter(lane).get()).sum()
    }

    fn least(&self, counter: impl Fn(&LaneMetrics) -> &Counter) -> u64 {
        self.connections()
            .map(|lane| counter(lane).get())
            .min()
            .unwrap_or(0)
    }

    /// Whether every connection to the broker stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connections().all(|lane| lane.connected.get() > 0)
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
}

impl Exposes for BrokerMetrics {
    fn expose(&self, context: &[LabelPair<'_>], out: &mut dyn Samples) {
        for lane in &self.lanes {
            lane.expose(context, out);
        }
        // What does not add up.
        let now = self.snapshot();
        let flag = |is_set| f64::from(u8::from(is_set));
        out.number(CONNECTED, context, flag(now.connected));
        out.number(MAX_QOS, context, now.max_qos as f64);
        out.number(RETAINS, context, flag(now.retains));
        out.number(MAX_PACKET, context, now.max_packet_bytes as f64);
        out.number(CAPACITY, context, now.spool_capacity_bytes as f64);
        out.number(OLDEST, context, now.spool_oldest_timestamp_seconds);
        out.number(SPOOL_FAILED, context, flag(now.spool_failed));
        out.number(RETAINED_FAILED, context, flag(now.retained_failed));
    }
}

impl BrokerSnapshot {
    /// Accepted or recovered messages that are lost, whatever the reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(|(_, count)| count).sum()
    }
}
