//! What the CoAP layer counts: one set for each listener of a worker, and what no listener owns.

use crate::types::ListenerId;
use crate::types::metrics::{
    Counter, DATAGRAMS_DROPPED, Descriptor, Exposes, Family, LIMITS_REJECTED, LabelPair, Metric, PerListener,
    Samples, with,
};
use crate::types::reason::{DropReason, Label, Limit};
use crate::{labels, metrics};

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

/// By type and code.
impl Metric for MessageTable {
    fn show(&self, family: Descriptor, labels: &[LabelPair<'_>], by: &[&'static str], out: &mut dyn Samples) {
        for (kind, code, value) in self.iter() {
            let code = code.to_string();
            out.number(family, &with(labels, by, &[kind.label(), &code]), value as f64);
        }
    }
}

metrics! {
    /// What is counted for each listener.
    pub struct ListenerMetrics {
        /// Well-formed CoAP messages from peers, by type and code; duplicates included.
        pub received: MessageTable = counter "coap_messages_received_total" [listener, transport] by [type, code],
        /// CoAP messages to peers, by type and code; retransmissions included.
        pub sent: MessageTable = counter "coap_messages_sent_total" [listener, transport] by [type, code],
        /// What this layer drops.
        pub dropped: Family<DropReason> = shared DATAGRAMS_DROPPED [listener, transport] by [reason],
    }
}

metrics! {
    /// What the CoAP layer of one worker counts.
    pub struct CoapMetrics {
        /// In the order of their ids.
        listeners: Box<[ListenerMetrics]>,
        /// Confirmable messages sent again.
        pub retransmissions: Counter = counter "coap_retransmissions_total" [],
        /// Messages of peers that came again.
        pub duplicates: Counter = counter "coap_duplicates_total" [],
        /// Notifications by type and what became of them.
        pub con_notifications: Family<NotificationResult>
            = counter "notifications_total" [type = MessageType::Con.label()] by [result],
        /// Notifications by type and what became of them.
        pub non_notifications: Family<NotificationResult>
            = counter "notifications_total" [type = MessageType::Non.label()] by [result],
        /// Responses that went separately from the acknowledgement of their request.
        pub separate_responses: Counter = counter "coap_separate_responses_total" [],
        /// Block-wise transfers by what became of them.
        pub transfers: Family<TransferResult> = counter "block_transfers_total" [] by [result],
        /// What this layer rejects.
        pub limits: Family<Limit> = shared LIMITS_REJECTED [] by [limit],
        /// Bytes of notifications that wait for their turn.
        pub queued_bytes: Counter = gauge "notifications_queued_bytes" [],
        /// Messages remembered to recognise duplicates.
        pub remembered_exchanges: Counter = gauge "coap_remembered_exchanges" [],
    }
}

impl PerListener for CoapMetrics {
    fn of_listener(&self, listener: ListenerId) -> Option<&dyn Exposes> {
        self.listener(listener).map(|counters| counters as &dyn Exposes)
    }
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
