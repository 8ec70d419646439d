//! What a DTLS listener counts.

use portcullis_proto::metrics;
use portcullis_proto::types::metrics::{
    Counter, Family, HANDSHAKE_SECONDS, Histogram, LIMITS_REJECTED, SESSIONS,
};
use portcullis_proto::types::reason::Limit;

use super::contract::CloseReason;
use super::suite::Suite;
pub use portcullis_proto::session::{Alert, HandshakeResult, NotKept, RecordDrop, RestoreResult};

metrics! {
    /// What one [`super::DtlsListener`] counts. It is the only writer; any thread may read.
    pub struct DtlsMetrics {
        /// Handshakes that passed the cookie, by how they ended.
        pub handshakes: Family<HandshakeResult> = counter "dtls_handshakes_total" [listener] by [result],
        /// From the hello with the cookie to the established session.
        pub handshake_seconds: Histogram[HANDSHAKE_SECONDS] = histogram "dtls_handshake_seconds" [listener],
        /// Handshakes in flight.
        pub half_open: Counter = gauge "dtls_half_open" [listener],
        /// Established sessions.
        pub sessions: Counter = shared SESSIONS [listener, transport = "dtls"],
        /// Established sessions with a Connection ID (RFC 9146).
        pub cid_sessions: Counter = gauge "dtls_cid_sessions" [],
        /// Established sessions with a suite of CBC: each holds about 43 KiB inside OpenSSL.
        pub legacy_sessions: Counter = gauge "dtls_legacy_sessions" [listener],
        /// Sessions that went on from a new address.
        pub address_changes: Counter = counter "dtls_address_changes_total" [],
        /// Challenges to new addresses of sessions (RFC 9853).
        pub path_challenges: Counter = counter "dtls_path_challenges_total" [],
        /// Datagrams held back because a new address was not confirmed and had its share.
        pub unconfirmed_held: Counter = counter "dtls_unconfirmed_held_total" [],
        /// Alerts, those in the clear included, though anyone can send them.
        pub alerts_received: Family<Alert> = counter "dtls_alerts_total" [direction = "received"] by [description],
        /// Alerts, those in the clear included, though anyone can send them.
        pub alerts_sent: Family<Alert> = counter "dtls_alerts_total" [direction = "sent"] by [description],
        /// Records that went no further, by why.
        pub records_dropped: Family<RecordDrop> = counter "dtls_records_dropped_total" [] by [reason],
        /// Established sessions by cipher suite.
        pub suites: Family<Suite> = counter "dtls_negotiated_total" [listener] by [cipher],
        /// HelloVerifyRequests sent.
        pub cookies_sent: Counter = counter "dtls_cookies_sent_total" [listener],
        /// Hellos whose cookie is not, or no longer, ours.
        pub cookies_failed: Counter = counter "dtls_cookie_failures_total" [listener],
        /// Sessions established without an identity, on a listener that uses identities.
        pub unidentified: Counter = counter "dtls_unidentified_total" [listener],
        /// Sessions resumed by ticket.
        pub resumed: Counter = counter "dtls_resumed_total" [listener],
        /// Resumptions refused because the identity is gone, or the certificate revoked or expired.
        pub resumptions_refused: Counter = counter "dtls_resumptions_refused_total" [listener],
        /// Last flights sent again because the peer repeated its own.
        pub flights_repeated: Counter = counter "dtls_flights_repeated_total" [],
        /// Sessions that ended, by why.
        pub closed: Family<CloseReason> = counter "dtls_sessions_closed_total" [listener] by [reason],
        /// Sessions that an earlier process left, by what became of them.
        pub restored: Family<RestoreResult> = counter "sessions_restored_total" [how = "memory"] by [result],
        /// Sessions that were found on disk, by what became of them.
        pub restored_from_disk: Family<RestoreResult> = counter "sessions_restored_total" [how = "disk"] by [result],
        /// Sessions that were taken over of a node of the group that is gone, by what became of them.
        pub restored_from_node: Family<RestoreResult> = counter "sessions_restored_total" [how = "group"] by [result],
        /// Sessions that went on from disk or from another node, or that another node may have, and have not answered a ping yet, so that nothing of theirs is acted on.
        pub gated_sessions: Counter = gauge "dtls_gated_sessions" [listener],
        /// Sessions that the next process will not find, by why.
        pub not_kept: Family<NotKept> = counter "sessions_not_kept_total" [] by [reason],
        /// Caps and rates that refused something.
        pub limits: Family<Limit> = shared LIMITS_REJECTED [] by [limit],
    }
}
