//! What is counted of streams.

use portcullis_proto::session::{CloseReason, HandshakeResult};
use portcullis_proto::types::metrics::{Counter, Family, LIMITS_REJECTED, SESSIONS};
use portcullis_proto::types::reason::Limit;
use portcullis_proto::{labels, metrics};

labels! {
    /// Why a connection was closed as soon as it came: `stream_refused_total{reason}`.
    pub enum Refusal {
        /// The listener has `max_connections`.
        Connections = "max_connections",
        /// Its source has `max_connections_per_source`.
        Source = "max_connections_per_source",
        /// As many as `max_half_open` have not finished their TLS handshake.
        HalfOpen = "max_half_open",
        /// More began in this second than `max_handshakes_per_second`.
        Rate = "max_handshakes_per_second",
        /// Its source has begun its `limits.handshakes_per_second`, and half of `max_half_open` is taken.
        SourceRate = "handshakes_per_second",
        /// It asked for no WebSocket, for one of another protocol, or as a page that is not listed.
        Upgrade = "websocket",
        /// The process has no descriptor left for it.
        Descriptors = "descriptors",
    }
}

metrics! {
    /// What one [`crate::StreamListener`] counts. It is the only writer; any thread may read.
    pub struct StreamMetrics {
        /// Connections whose CSM came.
        pub sessions: Counter = shared SESSIONS [listener, transport],
        /// Connections that ended, by why.
        pub closed: Family<CloseReason> = counter "stream_closed_total" [listener, transport] by [reason],
        /// Messages that came, signalling messages among them.
        pub received: Counter = counter "stream_messages_received_total" [listener, transport],
        /// Messages that were sent, signalling messages left out.
        pub sent: Counter = counter "stream_messages_sent_total" [listener, transport],
        /// Bytes of messages that came.
        pub received_bytes: Counter = counter "stream_received_bytes_total" [listener, transport],
        /// Bytes of messages that were sent.
        pub sent_bytes: Counter = counter "stream_sent_bytes_total" [listener, transport],
        /// Caps that refused something.
        pub limits: Family<Limit> = shared LIMITS_REJECTED [] by [limit],
    }
}

metrics! {
    /// What one [`crate::Gate`] counts. The thread of the streams is the only writer.
    pub struct GateMetrics {
        /// Connections that were accepted.
        pub accepted: Counter = counter "stream_accepted_total" [listener, transport],
        /// Connections that were closed as soon as they came, by why.
        pub refused: Family<Refusal> = counter "stream_refused_total" [listener, transport] by [reason],
        /// TLS handshakes by how they ended.
        pub handshakes: Family<HandshakeResult> = counter "tls_handshakes_total" [listener] by [result],
        /// Connections that have not finished their TLS handshake.
        pub half_open: Counter = gauge "tls_half_open" [listener],
    }
}
