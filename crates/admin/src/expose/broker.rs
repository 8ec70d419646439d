//! What the broker counts.

use std::sync::Arc;

use portcullis_broker::{BrokerMetrics, BrokerSnapshot};

use super::{Exposes, Exposition};

/// What the broker behind the gateway has to show, its spool and retained messages included.
pub struct ExposeBroker(pub Arc<BrokerMetrics>);

impl Exposes for ExposeBroker {
    fn expose(&self, out: &mut Exposition) {
        let now = self.0.snapshot();
        connection(out, &now);
        offers(out, &now);
        conservation(out, &now);
        spool(out, &now);
        retained(out, &now);
    }
}

fn connection(out: &mut Exposition, now: &BrokerSnapshot) {
    let connected = f64::from(u8::from(now.connected));
    out.gauge(
        "broker_connected",
        "1 when every connection to the broker stands.",
        &[],
        connected,
    );
    out.gauge(
        "broker_connections",
        "Connections to the broker that stand.",
        &[],
        now.connections as f64,
    );
    let connects = now.connects.iter().copied();
    out.counters(
        "broker_connects_total",
        "Attempts to connect to the broker.",
        &[],
        "result",
        connects,
    );
    out.counter(
        "broker_stalls_total",
        "Connections that were given up because the broker did not acknowledge.",
        &[],
        now.stalls,
    );
    let messages = "Messages exchanged with the broker.";
    out.counter(
        "broker_messages_total",
        messages,
        &[("direction", "received")],
        now.received,
    );
    out.counter(
        "broker_messages_total",
        messages,
        &[("direction", "sent")],
        now.sent,
    );
    out.gauge(
        "broker_subscriptions",
        "Distinct filters that are subscribed.",
        &[],
        now.subscriptions as f64,
    );
    out.gauge(
        "broker_filter_bytes",
        "Bytes of the tables in which messages look up their subscriptions.",
        &[],
        now.filter_bytes as f64,
    );
    out.counter(
        "broker_unfit_topics_total",
        "Messages from the broker that nobody got: their topics are over `limits.topic_levels` or `limits.topic_bytes`, or hold what MQTT says not to send.",
        &[],
        now.unfit_topics,
    );
    out.counter(
        "broker_undelivered_total",
        "Messages that a worker did not get because its queue was full.",
        &[],
        now.undelivered,
    );
    let (bounds, counts, sum) = (now.ack_seconds.0, &now.ack_seconds.1, now.ack_seconds.2);
    out.histogram_values(
        "broker_ack_seconds",
        "From a publish to the broker's word on it.",
        &[],
        bounds,
        counts,
        sum,
    );
}

/// What the broker takes, and what was tried to learn it.
fn offers(out: &mut Exposition, now: &BrokerSnapshot) {
    out.counter(
        "broker_trials_total",
        "Connections made to try what the broker may hang up on.",
        &[],
        now.trials,
    );
    out.gauge(
        "broker_max_qos",
        "The highest QoS that the broker takes; 0 without a connection.",
        &[],
        now.max_qos as f64,
    );
    out.gauge(
        "broker_retain_available",
        "1 when the broker keeps retained messages; 0 without a connection.",
        &[],
        f64::from(u8::from(now.retains)),
    );
    out.gauge(
        "broker_max_packet_bytes",
        "The largest packet that the broker takes; 0 without a connection.",
        &[],
        now.max_packet_bytes as f64,
    );
}

/// accepted + recovered = acknowledged + spooled + dropped, at rest.
fn conservation(out: &mut Exposition, now: &BrokerSnapshot) {
    let accepted = "Publishes that were answered with success.";
    out.counter("broker_accepted_total", accepted, &[], now.accepted);
    let recovered = "Messages that an earlier process left in the spool, damaged ones included.";
    out.counter("broker_recovered_total", recovered, &[], now.recovered);
    let acknowledged = "Accepted or recovered messages that the broker has.";
    out.counter("broker_acknowledged_total", acknowledged, &[], now.acknowledged);
    out.counters(
        "broker_refused_total",
        "Publishes and filters that were refused, by why; messages accepted earlier among them.",
        &[],
        "reason",
        now.refusals.iter().copied(),
    );
    out.counters(
        "spool_dropped_total",
        "Accepted or recovered messages that are lost, by why.",
        &[],
        "reason",
        now.dropped.iter().copied(),
    );
}

fn spool(out: &mut Exposition, now: &BrokerSnapshot) {
    let messages = "Messages on disk that the broker does not have yet.";
    out.gauge("spool_messages", messages, &[], now.spool_messages as f64);
    out.gauge(
        "spool_bytes",
        "Bytes of the messages in the spool.",
        &[],
        now.spool_bytes as f64,
    );
    out.gauge(
        "spool_disk_bytes",
        "Bytes of the spool's files.",
        &[],
        now.spool_disk_bytes as f64,
    );
    out.gauge(
        "spool_capacity_bytes",
        "What the spool may hold; 0 when it is off.",
        &[],
        now.spool_capacity_bytes as f64,
    );
    out.gauge(
        "spool_oldest_timestamp_seconds",
        "When the oldest message in the spool was accepted; 0 when it is empty.",
        &[],
        now.spool_oldest_timestamp_seconds,
    );
    let failed = f64::from(u8::from(now.spool_failed));
    out.gauge(
        "spool_failed",
        "1 when the spool had to stop accepting.",
        &[],
        failed,
    );
    out.counter(
        "spool_full_total",
        "Publishes that were refused because the spool was full.",
        &[],
        now.spool_full,
    );
}

fn retained(out: &mut Exposition, now: &BrokerSnapshot) {
    out.gauge(
        "retained_messages",
        "Retained messages in the embedded broker.",
        &[],
        now.retained_messages as f64,
    );
    out.gauge(
        "retained_bytes",
        "Bytes of the retained messages.",
        &[],
        now.retained_bytes as f64,
    );
    out.counter(
        "retained_rejected_total",
        "Retained publishes that were refused because the store was full.",
        &[],
        now.retained_rejected,
    );
    out.counter(
        "retained_cut_total",
        "Subscriptions that matched more retained messages than the 1,024 that one answer takes.",
        &[],
        now.retained_cut,
    );
    out.counter(
        "retained_damaged_total",
        "Times that the retained store, or records in it, turned out to be damaged and was left out.",
        &[],
        now.retained_damaged,
    );
    let failed = f64::from(u8::from(now.retained_failed));
    out.gauge(
        "retained_failed",
        "1 when the retained store had to stop accepting.",
        &[],
        failed,
    );
}
