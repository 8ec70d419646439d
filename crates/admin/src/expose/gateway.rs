//! What is counted above the CoAP layer.

use std::sync::Arc;

use portcullis_proto::gateway::metrics::GatewayMetrics;
use portcullis_proto::policy::ledger::Standing;
use portcullis_proto::types::Transport;
use portcullis_proto::types::reason::Label as _;

use super::{DATAGRAMS_DROPPED, Exposes, Exposition, LIMITS_REJECTED, ListenerNames, SESSIONS};

/// The gateways of all workers.
pub struct ExposeGateway {
    /// Names for the label `listener`, in the order of the counters.
    pub listeners: ListenerNames,
    /// The counters of each worker.
    pub workers: Vec<Arc<GatewayMetrics>>,
}

impl Exposes for ExposeGateway {
    fn expose(&self, out: &mut Exposition) {
        let listeners = self.listeners.all();
        for worker in &self.workers {
            for ((name, transport), counters) in listeners.iter().zip(&worker.listeners) {
                let labels = [("listener", name.as_str()), ("transport", transport.label())];
                if *transport == Transport::Udp {
                    out.gauge("sessions", SESSIONS, &labels, counters.udp_peers.get() as f64);
                }
                out.counters(
                    "datagrams_dropped_total",
                    DATAGRAMS_DROPPED,
                    &labels,
                    "reason",
                    counters.dropped.iter(),
                );
            }
            expose_worker(out, worker);
        }
    }
}

fn expose_worker(out: &mut Exposition, worker: &GatewayMetrics) {
    out.gauge(
        "connections",
        "Connections (connection mode).",
        &[],
        worker.connections.get() as f64,
    );
    out.counters(
        "connections_total",
        "What happened to connections.",
        &[],
        "result",
        worker.connection_events.iter(),
    );
    out.gauge(
        "subscriptions",
        "Observations.",
        &[],
        worker.subscriptions.get() as f64,
    );
    for (action, result, value) in worker.authorizations.iter() {
        let labels = [("action", action), ("result", result)];
        out.counter(
            "authorizations_total",
            "What the ACL said, by action.",
            &labels,
            value,
        );
    }
    for standing in Standing::ALL {
        for (table, bytes) in worker.standing_bytes.of(*standing).iter() {
            out.gauge(
                "standing_bytes",
                "What peers make the gateway keep, by what is kept and by what is known of them.",
                &[("table", table), ("standing", standing.label())],
                bytes as f64,
            );
        }
    }
    for (step, held) in worker.overload.iter() {
        out.gauge(
            "overload_active",
            "Workers that hold a step against overload.",
            &[("action", step)],
            held as f64,
        );
    }
    out.gauge(
        "overload_pressure_ratio",
        "The highest pressure of each worker, added up: over the number of workers something is full.",
        &[],
        worker.pressure_millis.get() as f64 / 1000.0,
    );
    out.counters(
        "publishes_total",
        "Publishes of clients by what became of them.",
        &[],
        "result",
        worker.publishes.iter(),
    );
    out.histogram(
        "request_seconds",
        "From a request's last datagram to its answer.",
        &[],
        &[&worker.request_seconds],
    );
    out.counters(
        "limits_rejected_total",
        LIMITS_REJECTED,
        &[],
        "limit",
        worker.limits.iter(),
    );
}
