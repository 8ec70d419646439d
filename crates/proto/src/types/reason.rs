//! Why something was dropped, refused or ended: closed lists whose labels are the metric labels.

/// A closed list that labels a metric.
pub trait Label: Copy + 'static {
    /// Every value, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// The position in [`Label::ALL`].
    fn index(self) -> usize;
    /// The metric label: lower case, words joined by `_`.
    fn label(self) -> &'static str;
    /// What the value means; the reference pages are made of it.
    fn about(self) -> String;
}

/// Declares a closed list of reasons with their metric labels.
#[macro_export]
macro_rules! labels {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[doc = $doc:literal])+ $variant:ident = $label:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name { $($(#[doc = $doc])+ $variant,)+ }
        impl $crate::types::reason::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn index(self) -> usize { self as usize }
            fn label(self) -> &'static str { match self { $(Self::$variant => $label,)+ } }
            fn about(self) -> String {
                let lines: &[&str] = match self { $(Self::$variant => &[$($doc),+],)+ };
                lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
            }
        }
    };
}

labels! {
    /// Why a datagram, or the CoAP message in it, went no further: `datagrams_dropped_total{reason}`.
    pub enum DropReason {
        /// No bytes at all.
        EmptyDatagram = "empty_datagram",
        /// Source port 0: it cannot be answered.
        SourcePortZero = "source_port_zero",
        /// Longer than the receive buffer.
        Truncated = "truncated",
        /// The listener's access rules deny the source.
        AccessDenied = "access_denied",
        /// An operator stopped the listener.
        ListenerStopped = "listener_stopped",
        /// The source is banned; dropped unread.
        Banned = "banned",
        /// Under four bytes, a bad option, a marker without payload: no CoAP message.
        Malformed = "malformed",
        /// The version is not 1 (RFC 7252, 3).
        Version = "version",
        /// A code of a reserved class, or a response code where none is known.
        ReservedCode = "reserved_code",
        /// An ACK or RST that belongs to nothing of ours.
        Unmatched = "unmatched",
        /// A response that no request of ours waits for.
        UnexpectedResponse = "unexpected_response",
        /// A non-confirmable request with an unknown critical option (RFC 7252, 5.4.1).
        CriticalOption = "critical_option",
        /// A duplicate of a message whose answer is remembered, or still to come.
        Duplicate = "duplicate",
        /// A table is full.
        Limit = "limit",
        /// None of its DTLS records went further; `dtls_records_dropped_total` says why.
        Dtls = "dtls",
        /// The socket would not take the answer.
        SendFailed = "send_failed",
        /// Its source sent more than it may before it has proved its address; dropped unread.
        Rate = "rate",
    }
}

labels! {
    /// Which cap or rate refused something: `limits_rejected_total{limit}`.
    pub enum Limit {
        /// Requests per second of one client.
        RequestRate = "requests_per_second",
        /// Datagrams per second of one source that has not proved its address.
        UnprovenRate = "unproven_datagrams_per_second",
        /// Bytes to an address that has not proved itself: a message to it, or its repetition, did not go.
        UnprovenBytes = "unproven_bytes",
        /// Handshakes per second of one source, while places or the processor are short; the hello goes without an answer.
        HandshakeRate = "handshakes_per_second",
        /// Handshakes per second of a DTLS listener; the hello goes without an answer.
        ListenerHandshakeRate = "max_handshakes_per_second",
        /// Failed logins and wrong tokens per minute of one source.
        FailedLogins = "failed_logins_per_minute",
        /// Memory for all that peers make the gateway keep: a new thing was refused, or the one silent longest gave way.
        Memory = "memory",
        /// Peers over plain UDP of a listener: one that had not proved its address went, or there was no room for a new one.
        Peers = "max_peers",
        /// DTLS sessions of a listener.
        Sessions = "max_sessions",
        /// DTLS sessions of a listener with a suite of CBC: the one silent longest went, or the new one was refused.
        LegacySessions = "legacy_max_sessions",
        /// DTLS sessions of one identity: its most idle one went.
        IdentitySessions = "per_identity_sessions",
        /// Handshakes in flight of a listener.
        HalfOpen = "max_half_open",
        /// Observations of one client.
        Observations = "observations",
        /// Observations of one identity.
        IdentityObservations = "per_identity_observations",
        /// Bytes that one identity makes the gateway keep.
        IdentityMemory = "per_identity_memory",
        /// Levels or bytes of a topic or filter.
        Topics = "topics",
        /// Topics in the collection: of 1,000, peers that proved nothing may make a quarter, those known by no credential half.
        Collection = "collection",
        /// Notifications waiting for an observer: the oldest went.
        QueuedNotifications = "queued_notifications",
        /// Requests that wait for a device that is asleep or away.
        QueuedRequests = "queued_requests",
        /// Remembered exchanges: the oldest went.
        RememberedExchanges = "remembered_exchanges",
        /// Requests waiting for the broker or an authentication backend.
        PendingRequests = "pending_requests",
        /// Block-wise transfers, or bytes held by them.
        Transfers = "transfers",
        /// A body over `max_body_size`.
        BodySize = "max_body_size",
        /// A step against overload.
        Overload = "overload",
        /// A channel to another worker or to the broker was full.
        Channel = "channel",
    }
}
