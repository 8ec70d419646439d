//! What a DTLS listener counts.

use portcullis_proto::types::metrics::{Counter, Family, HANDSHAKE_SECONDS, Histogram};
use portcullis_proto::types::reason::Limit;

use super::contract::CloseReason;
use super::suite::Suite;
pub use portcullis_proto::session::{Alert, HandshakeResult, RecordDrop};

/// What one [`super::DtlsListener`] counts. It is the only writer; any thread may read.
#[derive(Debug)]
pub struct DtlsMetrics {
    /// Handshakes that passed the cookie, by how they ended.
    pub handshakes: Family<HandshakeResult>,
    /// From the hello with the cookie to the established session.
    pub handshake_seconds: Histogram,
    /// Gauge: handshakes in flight.
    pub half_open: Counter,
    /// Gauge: established sessions.
    pub sessions: Counter,
    /// Gauge: those of them with a Connection ID.
    pub cid_sessions: Counter,
    /// Sessions that proved a new address.
    pub address_changes: Counter,
    /// Challenges to new addresses (RFC 9853).
    pub path_challenges: Counter,
    /// Datagrams held back because a new address is not yet confirmed and had its share.
    pub unconfirmed_held: Counter,
    /// Alerts from peers; those in the clear too, though anyone can send them.
    pub alerts_received: Family<Alert>,
    /// Alerts to peers.
    pub alerts_sent: Family<Alert>,
    /// Records that went no further.
    pub records_dropped: Family<RecordDrop>,
    /// Established sessions by suite.
    pub suites: Family<Suite>,
    /// HelloVerifyRequests sent.
    pub cookies_sent: Counter,
    /// Hellos whose cookie is not (or no longer) ours.
    pub cookies_failed: Counter,
    /// Established sessions whose peer proved no identity, where one is used.
    pub unidentified: Counter,
    /// Established sessions that were resumed by ticket.
    pub resumed: Counter,
    /// Resumptions refused because the identity is gone or the certificate revoked or expired.
    pub resumptions_refused: Counter,
    /// Last flights sent again because the peer repeated its own.
    pub flights_repeated: Counter,
    /// Sessions that ended.
    pub closed: Family<CloseReason>,
    /// Caps and rates that refused something.
    pub limits: Family<Limit>,
}

impl Default for DtlsMetrics {
    fn default() -> Self {
        Self {
            handshakes: Family::default(),
            handshake_seconds: Histogram::new(HANDSHAKE_SECONDS),
            half_open: Counter::default(),
            sessions: Counter::default(),
            cid_sessions: Counter::default(),
            address_changes: Counter::default(),
            path_challenges: Counter::default(),
            unconfirmed_held: Counter::default(),
            alerts_received: Family::default(),
            alerts_sent: Family::default(),
            records_dropped: Family::default(),
            suites: Family::default(),
            cookies_sent: Counter::default(),
            cookies_failed: Counter::default(),
            unidentified: Counter::default(),
            resumed: Counter::default(),
            resumptions_refused: Counter::default(),
            flights_repeated: Counter::default(),
            closed: Family::default(),
            limits: Family::default(),
        }
    }
}
