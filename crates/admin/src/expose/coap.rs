//! What the CoAP layer counts.

use std::sync::Arc;

use portcullis_proto::coap::CoapMetrics;
use portcullis_proto::coap::metrics::{ListenerMetrics, MessageTable};
use portcullis_proto::types::reason::Label as _;
use portcullis_proto::types::{ListenerId, Transport};

use super::{DATAGRAMS_DROPPED, Exposes, Exposition, LIMITS_REJECTED, ListenerNames};
use crate::exposition::LabelPair;

/// The CoAP layers of all workers.
pub struct ExposeCoap {
    /// Names for the label `listener`, in the order of the counters.
    pub listeners: ListenerNames,
    /// The counters of each worker.
    pub workers: Vec<Arc<CoapMetrics>>,
}

impl Exposes for ExposeCoap {
    fn expose(&self, out: &mut Exposition) {
        let listeners = self.listeners.all();
        for worker in &self.workers {
            for ((name, transport), id) in listeners.iter().zip(0..) {
                if let Some(counters) = worker.listener(ListenerId(id)) {
                    expose_listener(out, name, *transport, counters);
                }
            }
            expose_worker(out, worker);
        }
    }
}

fn expose_listener(out: &mut Exposition, name: &str, transport: Transport, counters: &ListenerMetrics) {
    let labels = [("listener", name), ("transport", transport.label())];
    let received = "Well-formed CoAP messages from peers, by type and code; duplicates included.";
    messages(
        out,
        "coap_messages_received_total",
        received,
        labels,
        &counters.received,
    );
    let sent = "CoAP messages to peers, by type and code; retransmissions included.";
    messages(out, "coap_messages_sent_total", sent, labels, &counters.sent);
    out.counters(
        "datagrams_dropped_total",
        DATAGRAMS_DROPPED,
        &labels,
        "reason",
        counters.dropped.iter(),
    );
}

fn messages(
    out: &mut Exposition,
    family: &'static str,
    help: &'static str,
    [listener, transport]: [LabelPair<'_>; 2],
    table: &MessageTable,
) {
    for (kind, code, value) in table.iter() {
        let code = code.to_string();
        let labels = [
            listener,
            transport,
            ("type", kind.label()),
            ("code", code.as_str()),
        ];
        out.counter(family, help, &labels, value);
    }
}

fn expose_worker(out: &mut Exposition, worker: &CoapMetrics) {
    out.counter(
        "coap_retransmissions_total",
        "Confirmable messages sent again.",
        &[],
        worker.retransmissions.get(),
    );
    out.counter(
        "coap_duplicates_total",
        "Messages of peers that came again.",
        &[],
        worker.duplicates.get(),
    );
    out.counter(
        "coap_separate_responses_total",
        "Responses that went separately from the acknowledgement of their request.",
        &[],
        worker.separate_responses.get(),
    );
    for (kind, results) in worker.notifications() {
        out.counters(
            "notifications_total",
            "Notifications by type and what became of them.",
            &[("type", kind)],
            "result",
            results.iter(),
        );
    }
    out.counters(
        "block_transfers_total",
        "Block-wise transfers by what became of them.",
        &[],
        "result",
        worker.transfers.iter(),
    );
    out.gauge(
        "notifications_queued_bytes",
        "Bytes of notifications that wait for their turn.",
        &[],
        worker.queued_bytes.get() as f64,
    );
    out.gauge(
        "coap_remembered_exchanges",
        "Messages remembered to recognise duplicates.",
        &[],
        worker.remembered_exchanges.get() as f64,
    );
    out.counters(
        "limits_rejected_total",
        LIMITS_REJECTED,
        &[],
        "limit",
        worker.limits.iter(),
    );
}
