//! What a worker counts at its sockets.

use portcullis_proto::types::ListenerId;
use portcullis_proto::types::metrics::{Counter, Family};

use super::errno::SendError;

/// The counters of one listener in one worker.
#[derive(Debug, Default)]
pub struct ListenerNet {
    /// Datagrams that were read from the socket.
    pub received: Counter,
    /// Bytes of UDP payload read.
    pub received_bytes: Counter,
    /// Datagrams that the kernel took for sending.
    pub sent: Counter,
    /// Bytes of UDP payload that the kernel took for sending.
    pub sent_bytes: Counter,
    /// Datagrams that the kernel dropped because the receive buffer was full (SO_RXQ_OVFL).
    pub socket_drops: Counter,
    /// Datagrams longer than a receive slot; dropped.
    pub truncated: Counter,
    /// Datagrams that were not sent, by errno.
    pub send_errors: Family<SendError>,
    /// Errors that a read reported.
    pub receive_errors: Counter,
    /// Size of the receive buffer as the kernel granted it, in bytes; a gauge.
    pub receive_buffer: Counter,
    /// Peers whose answers leave from another address than the usual; a gauge.
    pub local_addresses: Counter,
}

/// The counters of one worker, by listener.
#[derive(Debug)]
pub struct NetMetrics {
    listeners: Box<[ListenerNet]>,
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

    /// All listeners in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &ListenerNet> {
        self.listeners.iter()
    }
}
