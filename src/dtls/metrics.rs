//! What a DTLS listener counts.

use crate::labels;
use crate::types::metrics::{Counter, Family, HANDSHAKE_SECONDS, Histogram};
use crate::types::reason::Limit;

use super::contract::CloseReason;
use super::suite::Suite;

labels! {
    /// How a handshake ended: `dtls_handshakes_total{result}`.
    pub enum HandshakeResult {
        /// A session was established.
        Ok = "ok",
        /// The peer went silent.
        Timeout = "timeout",
        /// The peer named a PSK identity that is not in the store.
        UnknownIdentity = "unknown_identity",
        /// The peer's Finished does not open: its key is not the one in the store.
        WrongKey = "wrong_key",
        /// The peer's certificate, or for the peer ours, is missing, foreign, revoked, expired, weak or nameless.
        BadCertificate = "bad_certificate",
        /// No cipher suite in common.
        NoCipher = "no_cipher",
        /// A message that the protocol does not allow.
        Protocol = "protocol",
        /// Refused or given up because of a cap or a rate.
        Limit = "limit",
    }
}

labels! {
    /// Why a record went no further: `dtls_records_dropped_total{reason}`.
    pub enum RecordDrop {
        /// A datagram without bytes.
        Empty = "empty",
        /// No record header, or a record longer than its datagram or than the protocol allows.
        Malformed = "malformed",
        /// A version that is not DTLS 1.2.
        Version = "version",
        /// An epoch that no handshake leads to.
        Epoch = "epoch",
        /// A content type that does not exist, or not there.
        ContentType = "content_type",
        /// A ClientHello that cannot be read.
        BadHello = "bad_hello",
        /// The hello of a session that is already established.
        DuplicateHello = "duplicate_hello",
        /// Too many hellos without a cookie from one source.
        HelloRate = "hello_rate",
        /// Overload: no handshakes with those who have not proved their address.
        Overload = "overload",
        /// Too many handshakes from one source.
        HandshakeRate = "handshake_rate",
        /// Too many handshakes in flight.
        HalfOpen = "half_open",
        /// A handshake message for which there is no handshake.
        NoHandshake = "no_handshake",
        /// A fragment that overlaps its message's end, or a message that is too long or too far ahead.
        Fragment = "fragment",
        /// Too many records in one handshake.
        HandshakeRecords = "handshake_records",
        /// An alert or data in the clear: anyone could have sent it.
        Unprotected = "unprotected",
        /// A protected record from an address without a session.
        UnknownSession = "unknown_session",
        /// A Connection ID that is nobody's.
        UnknownCid = "unknown_cid",
        /// A record without the Connection ID that was negotiated.
        CidRequired = "cid_required",
        /// A sequence number that was seen, or is too old to tell.
        Replay = "replay",
        /// A record that does not open.
        NotAuthentic = "not_authentic",
        /// A record that was not tried: too many of its session did not open within the second.
        ForgeryRate = "forgery_rate",
        /// A protected handshake message after the handshake: renegotiation is refused.
        Renegotiation = "renegotiation",
        /// The client's last flight once more.
        RepeatedFlight = "repeated_flight",
        /// A record of data without data.
        NoData = "no_data",
        /// An alert that is none.
        BadAlert = "bad_alert",
        /// A protected record before the keys are known.
        Early = "early",
    }
}

labels! {
    /// Alert descriptions (RFC 5246, 7.2): `dtls_alerts_total{description}`.
    pub enum Alert {
        /// 0.
        CloseNotify = "close_notify",
        /// 10.
        UnexpectedMessage = "unexpected_message",
        /// 20.
        BadRecordMac = "bad_record_mac",
        /// 22.
        RecordOverflow = "record_overflow",
        /// 40.
        HandshakeFailure = "handshake_failure",
        /// 42.
        BadCertificate = "bad_certificate",
        /// 43.
        UnsupportedCertificate = "unsupported_certificate",
        /// 44.
        CertificateRevoked = "certificate_revoked",
        /// 45.
        CertificateExpired = "certificate_expired",
        /// 46.
        CertificateUnknown = "certificate_unknown",
        /// 47.
        IllegalParameter = "illegal_parameter",
        /// 48.
        UnknownCa = "unknown_ca",
        /// 49.
        AccessDenied = "access_denied",
        /// 50.
        DecodeError = "decode_error",
        /// 51.
        DecryptError = "decrypt_error",
        /// 70.
        ProtocolVersion = "protocol_version",
        /// 71.
        InsufficientSecurity = "insufficient_security",
        /// 80.
        InternalError = "internal_error",
        /// 90.
        UserCanceled = "user_canceled",
        /// 100.
        NoRenegotiation = "no_renegotiation",
        /// 115.
        UnknownPskIdentity = "unknown_psk_identity",
        /// Any other.
        Other = "other",
    }
}

impl Alert {
    /// The description with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::CloseNotify,
            10 => Self::UnexpectedMessage,
            20 => Self::BadRecordMac,
            22 => Self::RecordOverflow,
            40 => Self::HandshakeFailure,
            42 => Self::BadCertificate,
            43 => Self::UnsupportedCertificate,
            44 => Self::CertificateRevoked,
            45 => Self::CertificateExpired,
            46 => Self::CertificateUnknown,
            47 => Self::IllegalParameter,
            48 => Self::UnknownCa,
            49 => Self::AccessDenied,
            50 => Self::DecodeError,
            51 => Self::DecryptError,
            70 => Self::ProtocolVersion,
            71 => Self::InsufficientSecurity,
            80 => Self::InternalError,
            90 => Self::UserCanceled,
            100 => Self::NoRenegotiation,
            115 => Self::UnknownPskIdentity,
            _ => Self::Other,
        }
    }

    /// Whether it speaks of a certificate.
    #[must_use]
    pub const fn is_about_certificates(self) -> bool {
        matches!(
            self,
            Self::BadCertificate
                | Self::UnsupportedCertificate
                | Self::CertificateRevoked
                | Self::CertificateExpired
                | Self::CertificateUnknown
                | Self::UnknownCa
        )
    }
}

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
            unconfirmed_held: Counter::default(),
            alerts_received: Family::default(),
            alerts_sent: Family::default(),
            records_dropped: Family::default(),
            suites: Family::default(),
            cookies_sent: Counter::default(),
            cookies_failed: Counter::default(),
            resumed: Counter::default(),
            resumptions_refused: Counter::default(),
            flights_repeated: Counter::default(),
            closed: Family::default(),
            limits: Family::default(),
        }
    }
}
