//! What the CoAP layer counts: one set for each listener of a worker, and what no listener owns.

use crate::labels;
use crate::types::ListenerId;
use crate::types::metrics::{Counter, Family};
use crate::types::reason::{DropReason, Label, Limit};

use super::contract::Code;

labels! {
    /// The type of a message (RFC 7252, 3).
    pub enum MessageType {
        /// Confirmable.
        Con = "con",
        /// Non-confirmable.
        Non = "non",
        /// Acknowledgement.
        Ack = "ack",
        /// Reset.
        Rst = "rst",
    }
}

labels! {
    /// What became of a notification: `notifications_total{type,result}`.
    pub enum NotificationResult {
        /// Handed to the transport, if it is not confirmable: no more will be known of it but a RST.
        Sent = "sent",
        /// Acknowledged.
        Acked = "acked",
        /// Answered with RST.
        Reset = "reset",
        /// Never acknowledged.
        Timeout = "timeout",
        /// Dropped while it waited: its queue or its body was too large, or its observation ended.
        Dropped = "dropped",
        /// Its time was over before its turn came.
        Expired = "expired",
    }
}

labels! {
    /// What became of a block-wise transfer: `block_transfers_total{result}`.
    pub enum TransferResult {
        /// A Block1 upload began.
        UploadStarted = "upload_started",
        /// A Block1 upload was put together.
        UploadDone = "upload_done",
        /// A Block1 upload was refused or broken off.
        UploadFailed = "upload_failed",
        /// A body of ours was kept for a peer to fetch the rest.
        DownloadStarted = "download_started",
        /// The last block of a body was handed out.
        DownloadDone = "download_done",
        /// A transfer stood still until it was forgotten, or had to make room.
        Expired = "expired",
    }
}

/// Messages by type and code byte.
#[derive(Debug)]
pub struct MessageTable(Box<[Counter]>);

impl Default for MessageTable {
    fn default() -> Self {
        Self(
            (0..MessageType::ALL.len() * 256)
                .map(|_| Counter::default())
                .collect(),
        )
    }
}

impl MessageTable {
    /// Counts one message.
    pub fn inc(&self, kind: MessageType, code: Code) {
        if let Some(cell) = self.0.get(kind.index() * 256 + usize::from(code.0)) {
            cell.inc();
        }
    }

    /// How many there were of this type and code.
    #[must_use]
    pub fn get(&self, kind: MessageType, code: Code) -> u64 {
        self.0
            .get(kind.index() * 256 + usize::from(code.0))
            .map_or(0, Counter::get)
    }

    /// All types and codes that occurred, with their number. At most 4 x 256, of which a peer can make occur those of the
    /// request, success and error classes.
    pub fn iter(&self) -> impl Iterator<Item = (MessageType, Code, u64)> + '_ {
        MessageType::ALL.iter().flat_map(move |kind| {
            (0..=u8::MAX).filter_map(move |code| {
                let n = self.get(*kind, Code(code));
                (n > 0).then_some((*kind, Code(code), n))
            })
        })
    }
}

/// What is counted for each listener.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    /// `coap_messages_received_total`: well-formed messages, duplicates included.
    pub received: MessageTable,
    /// `coap_messages_sent_total`: retransmissions included.
    pub sent: MessageTable,
    /// `datagrams_dropped_total`, as far as this layer drops them.
    pub dropped: Family<DropReason>,
}

/// What the CoAP layer of one worker counts.
#[derive(Debug, Default)]
pub struct CoapMetrics {
    listeners: Box<[ListenerMetrics]>,
    /// `coap_retransmissions_total`: confirmable messages of ours sent again.
    pub retransmissions: Counter,
    /// `coap_duplicates_total`: messages of peers that came again.
    pub duplicates: Counter,
    /// `notifications_total{type="con"}`.
    pub con_notifications: Family<NotificationResult>,
    /// `notifications_total{type="non"}`.
    pub non_notifications: Family<NotificationResult>,
    /// Responses that went separately from the ACK of their request (RFC 7252, 5.2.2).
    pub separate_responses: Counter,
    /// `block_transfers_total{result}`.
    pub transfers: Family<TransferResult>,
    /// `limits_rejected_total{limit}`, as far as this layer rejects.
    pub limits: Family<Limit>,
    /// Gauge: bytes of notifications that wait.
    pub queued_bytes: Counter,
    /// Gauge: remembered exchanges.
    pub remembered_exchanges: Counter,
}

impl CoapMetrics {
    /// For this many listeners.
    #[must_use]
    pub fn new(listeners: usize) -> Self {
        Self {
            listeners: (0..listeners).map(|_| ListenerMetrics::default()).collect(),
            ..Self::default()
        }
    }

    /// The counters of one listener; `None` when there is no such listener.
    #[must_use]
    pub fn listener(&self, listener: ListenerId) -> Option<&ListenerMetrics> {
        self.listeners.get(usize::from(listener.0))
    }

    /// Notification results by type, with the label of the type.
    #[must_use]
    pub fn notifications(&self) -> [(&'static str, &Family<NotificationResult>); 2] {
        [
            (MessageType::Con.label(), &self.con_notifications),
            (MessageType::Non.label(), &self.non_notifications),
        ]
    }

    pub(crate) fn notification(&self, confirmable: bool, result: NotificationResult) {
        if confirmable {
            self.con_notifications.inc(result);
        } else {
            self.non_notifications.inc(result);
        }
    }

    pub(crate) fn dropped(&self, listener: ListenerId, reason: DropReason) {
        if let Some(listener) = self.listener(listener) {
            listener.dropped.inc(reason);
        }
    }
}
