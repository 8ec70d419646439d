//! What a worker counts at its sockets.

use portcullis_proto::metrics;
use portcullis_proto::types::ListenerId;
use portcullis_proto::types::metrics::{Counter, DATAGRAMS_DROPPED, Exposes, Family, PerListener};
use portcullis_proto::types::reason::{DropReason, Label as _};

use super::errno::SendError;

metrics! {
    /// The counters of one listener in one worker.
    pub struct ListenerNet {
        /// Datagrams read from the sockets of a listener.
        pub received: Counter = counter "udp_datagrams_received_total" [listener, transport],
        /// Bytes of UDP payload read.
        pub received_bytes: Counter = counter "udp_received_bytes_total" [listener, transport],
        /// Datagrams that the kernel took for sending.
        pub sent: Counter = counter "udp_datagrams_sent_total" [listener, transport],
        /// Bytes of UDP payload that the kernel took for sending.
        pub sent_bytes: Counter = counter "udp_sent_bytes_total" [listener, transport],
        /// Datagrams that the kernel dropped because a receive buffer was full.
        pub socket_drops: Counter = counter "udp_socket_drops_total" [listener, transport],
        /// Datagrams longer than a receive slot.
        pub truncated: Counter
            = shared DATAGRAMS_DROPPED [listener, transport, reason = DropReason::Truncated.label()],
        /// Datagrams that could not be sent, by what the kernel said.
        pub send_errors: Family<SendError>
            = counter "udp_send_errors_total" [listener, transport] by [error]
            = shared DATAGRAMS_DROPPED [listener, transport, reason = DropReason::SendFailed.label()],
        /// Errors that reading a socket reported.
        pub receive_errors: Counter = counter "udp_receive_errors_total" [listener, transport],
        /// Receive buffers as the kernel granted them, all workers together.
        pub receive_buffer: Counter = gauge "udp_receive_buffer_bytes" [listener, transport],
    }
}

metrics! {
    /// The counters of one worker, by listener.
    pub struct NetMetrics {
        /// In the order of their ids.
        listeners: Box<[ListenerNet]>,
    }
}

impl PerListener for NetMetrics {
    fn of_listener(&self, listener: ListenerId) -> Option<&dyn Exposes> {
        self.listener(listener).map(|counters| counters as &dyn Exposes)
    }
}

impl NetMetrics {
    /// Counters at 0 for this many listeners.
    #[must_use]
    pub fn new(listeners: usize) -> Self {
        Self {
            listeners: (0..listeners).map(|_| ListenerNet::default()).collect(),
        }
    }

    /// The counters of one listener.
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Option<&ListenerNet> {
        self.listeners.get(usize::from(id.0))
    }
}
