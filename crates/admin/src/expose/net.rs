//! What is counted at the sockets.

use std::sync::Arc;

use portcullis_net::socket::send_failures;
use portcullis_net::{ListenerNet, NetMetrics};
use portcullis_proto::types::Transport;
use portcullis_proto::types::reason::{DropReason, Label};

use super::{DATAGRAMS_DROPPED, Exposes, Exposition, ListenerNames};

/// The sockets of all workers.
pub struct ExposeNet {
    /// Names for the label `listener`, in the order of the counters.
    pub listeners: ListenerNames,
    /// The counters of each worker.
    pub workers: Vec<Arc<NetMetrics>>,
}

impl Exposes for ExposeNet {
    fn expose(&self, out: &mut Exposition) {
        let listeners = self.listeners.all();
        for worker in &self.workers {
            for ((name, transport), counters) in listeners.iter().zip(worker.iter()) {
                expose_listener(out, name, *transport, counters);
            }
        }
    }
}

fn expose_listener(out: &mut Exposition, name: &str, transport: Transport, counters: &ListenerNet) {
    let labels = [("listener", name), ("transport", transport.label())];
    out.counter(
        "udp_datagrams_received_total",
        "Datagrams read from the sockets of a listener.",
        &labels,
        counters.received.get(),
    );
    out.counter(
        "udp_received_bytes_total",
        "Bytes of UDP payload read.",
        &labels,
        counters.received_bytes.get(),
    );
    out.counter(
        "udp_datagrams_sent_total",
        "Datagrams that the kernel took for sending.",
        &labels,
        counters.sent.get(),
    );
    out.counter(
        "udp_sent_bytes_total",
        "Bytes of UDP payload that the kernel took for sending.",
        &labels,
        counters.sent_bytes.get(),
    );
    out.counter(
        "udp_socket_drops_total",
        "Datagrams that the kernel dropped because a receive buffer was full.",
        &labels,
        counters.socket_drops.get(),
    );
    out.counter(
        "udp_receive_errors_total",
        "Errors that reading a socket reported.",
        &labels,
        counters.receive_errors.get(),
    );
    out.counters(
        "udp_send_errors_total",
        "Datagrams that could not be sent, by what the kernel said.",
        &labels,
        "error",
        counters.send_errors.iter(),
    );
    out.gauge(
        "udp_receive_buffer_bytes",
        "Receive buffers as the kernel granted them, all workers together.",
        &labels,
        counters.receive_buffer.get() as f64,
    );
    for (reason, value) in [
        (DropReason::Truncated, counters.truncated.get()),
        (DropReason::SendFailed, send_failures(counters)),
    ] {
        out.counter(
            "datagrams_dropped_total",
            DATAGRAMS_DROPPED,
            &[
                ("listener", name),
                ("transport", transport.label()),
                ("reason", reason.label()),
            ],
            value,
        );
    }
}
