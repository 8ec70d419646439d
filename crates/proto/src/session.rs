//! The contract between the gateway and what protects its datagrams: a transport of sessions, which the `dtls` crate is.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::labels;
use crate::policy::attributes::Attributes;
use crate::state::Record;
use crate::types::{Identity, ListenerId, PeerAddr, Transmits, WorkerId};

/// A DTLS session of one listener of one worker; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What happened on a DTLS listener.
#[derive(Debug)]
pub enum DtlsEvent {
    /// A handshake ended well.
    Established {
        /// The new session.
        session: SessionId,
        /// Where the peer is.
        address: PeerAddr,
        /// Who it proved to be; `None` when it has no certificate and used no PSK.
        identity: Option<Identity>,
    },
    /// A session of an earlier process goes on: nothing new was proved, and its peer knows of nothing.
    Restored {
        /// Its new id.
        session: SessionId,
        /// Where the peer was last.
        address: PeerAddr,
        /// Who it proved to be.
        identity: Option<Identity>,
        /// Whether it was seen to receive there.
        confirmed: bool,
        /// When its handshake ended.
        since: Instant,
        /// When it was last heard.
        heard: Instant,
    },
    /// A protected record that is for the session of another worker.
    Elsewhere {
        /// Who has that.
        worker: WorkerId,
        /// Who sent it.
        from: PeerAddr,
        /// Where in the datagram it stands.
        range: Range<usize>,
    },
    /// A protected record whose Connection ID another node of the group gave out, and what follows it in its datagram.
    OfNode {
        /// The id of that.
        node: u16,
        /// Who sent it.
        from: PeerAddr,
        /// Where in the datagram it stands.
        range: Range<usize>,
    },
    /// A protected record whose Connection ID is no session's here and names no other node that lives, and what follows it in its
    /// datagram.
    Nobodys {
        /// The Connection ID.
        cid: [u8; 8],
        /// Who sent it.
        from: PeerAddr,
        /// Where in the datagram it stands.
        range: Range<usize>,
    },
    /// A record was opened. Its plaintext stands in the datagram that was handed in.
    Plaintext {
        /// The session it came on.
        session: SessionId,
        /// Where in the datagram.
        range: Range<usize>,
    },
    /// A newer record of a session with a Connection ID came from another address (RFC 9146, 6). Where the peer answers return
    /// routability checks (RFC 9853) it has answered there. Else it says who is there, and
    /// not that who is there receives: until [`SecureTransport::confirm_address`] it is sent three times what came from it.
    AddressChanged {
        /// The session.
        session: SessionId,
        /// Where the peer is now.
        to: PeerAddr,
        /// Whether it was seen to receive there: it has answered a check, or was there before.
        confirmed: bool,
    },
    /// A session ended; its id is dead.
    Closed {
        /// The session.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
    /// A handshake waits for the keys of a PSK identity: [`SecureTransport::give_keys`], once.
    KeysWanted {
        /// Comes back with the answer.
        ticket: u64,
        /// Where the peer is.
        address: PeerAddr,
        /// The identity as it is written.
        identity: Arc<str>,
    },
    /// What happened outside of sessions: a failed handshake, and while the listener is watched
    /// ([`SecureTransport::set_watched`]) the rest.
    Noted {
        /// Where the peer is.
        address: PeerAddr,
        /// The PSK identity that it named, proved or not; `None` as long as it named none.
        identity: Option<Box<str>>,
        /// What happened.
        note: DtlsNote,
    },
}

/// What is known of the keys of a PSK identity outside of this process.
#[derive(Debug, Clone)]
pub enum KeyAnswer {
    /// These.
    Known(Arc<KnownKeys>),
    /// There are none.
    Unknown,
    /// Whoever knows could not be asked, or not in time.
    Unavailable,
}

/// The keys of a PSK identity, and what else is known of who has them. It prints no key.
#[derive(Clone, PartialEq, Eq)]
pub struct KnownKeys {
    /// The newest first; one or two, of 1 to 64 bytes.
    pub keys: Vec<Zeroizing<Vec<u8>>>,
    /// Attributes of the client.
    pub attributes: Attributes,
}

impl fmt::Debug for KnownKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownKeys({})", self.keys.len())
    }
}

/// What is noted of a peer for those who watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsNote {
    /// A hello with a good cookie: a handshake begins.
    Hello,
    /// A handshake failed.
    Failed {
        /// Why.
        result: HandshakeResult,
        /// How long it took.
        after: Duration,
    },
    /// It was sent an alert.
    AlertSent(Alert),
    /// It sent an alert.
    AlertReceived(Alert),
    /// A record of it was dropped.
    Dropped(RecordDrop),
}

labels! {
    /// Why a DTLS session ended.
    pub enum CloseReason {
        /// The peer sent close_notify.
        CloseNotify = "close_notify",
        /// The peer sent a fatal alert.
        Alert = "alert",
        /// No record for `idle_timeout`.
        Idle = "idle",
        /// A new handshake from the same address, or with the same Connection ID, took its place.
        Replaced = "replaced",
        /// Gave way to another one: there is no room for both, or its identity has too many.
        Evicted = "evicted",
        /// Too many records that did not open, or as many sealed as the key may.
        KeyLimit = "key_limit",
        /// Another node of the group took it over while this one was taken for dead: its peer is not told.
        TakenOver = "taken_over",
        /// It went on from disk and did not answer a ping.
        Unanswered = "unanswered",
        /// After a reload nothing lets it in any more: its PSK identity was removed or has another key, its certificate or an issuer
        /// was revoked, ran out or is not trusted, or a certificate is required and it has none.
        Revoked = "revoked",
        /// Ended by an operator.
        Kicked = "kicked",
        /// Its identity, its client id or its address is banned.
        Banned = "banned",
        /// The gateway stops.
        Shutdown = "shutdown",
        /// The peer of a stream ended it, or released it (RFC 8323, 5.5).
        StreamEnded = "stream_ended",
        /// The peer of a stream aborted it (RFC 8323, 5.6).
        Aborted = "aborted",
        /// What came in a stream is no message, is too long, or is none that may come then.
        MalformedStream = "malformed_stream",
        /// A message began in a stream and was not whole within `message_timeout`.
        UnfinishedMessage = "unfinished_message",
        /// The peer of a stream takes nothing for `message_timeout`, or `max_queued` waits for it.
        SlowReader = "slow_reader",
        /// The peer of a stream sent no CSM within `handshake_timeout`.
        NoCsm = "no_csm",
    }
}

/// What happens to the stream of a peer, beside its messages.
pub enum StreamEvent {
    /// It is open.
    Opened {
        /// Who its handshake proved the peer to be.
        identity: Option<Identity>,
        /// The cipher suite, by its name at IANA; "none" without TLS.
        suite: &'static str,
        /// What the transport judges by whether the peer may stay.
        credential: Option<Box<dyn Any + Send>>,
    },
    /// So many bytes of what was sent have left.
    Written(usize),
    /// It ended.
    Ended(CloseReason),
    /// It did not come so far: its TLS handshake failed.
    Failed {
        /// The PSK identity that the peer named, proved or not.
        identity: Option<Box<str>>,
        /// Why.
        result: HandshakeResult,
        /// How long it took.
        after: Duration,
    },
}

impl fmt::Debug for StreamEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opened { .. } => "Opened",
            Self::Written(_) => "Written",
            Self::Ended(_) => "Ended",
            Self::Failed { .. } => "Failed",
        })
    }
}

/// What the messages of a listener's streams are bounded by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamSettings {
    /// Whether the streams are those of TLS.
    pub tls: bool,
    /// Whether they are WebSockets.
    pub web: bool,
    /// Most bytes of a message, either way.
    pub max_message: usize,
    /// Bytes that may wait for a peer to read them; with more its stream ends.
    pub max_queued: usize,
}

/// Settings of one DTLS listener that are not key material.
#[derive(Debug, Clone)]
pub struct DtlsSettings {
    /// A handshake that takes longer fails.
    pub handshake_timeout: Duration,
    /// A session without a record for this long ends.
    pub idle_timeout: Duration,
    /// Sessions per worker.
    pub max_sessions: usize,
    /// Of them those with a suite of CBC, which hold more.
    pub legacy_max_sessions: usize,
    /// Sessions of one identity, over all workers and listeners; the most idle one gives way to the next.
    pub sessions_per_identity: usize,
    /// Handshakes in flight per worker.
    pub max_half_open: usize,
    /// Largest datagram of a handshake flight, in bytes of UDP payload; 256 to 16384.
    pub mtu: usize,
    /// Whether to negotiate Connection IDs (RFC 9146).
    pub cid: bool,
    /// Handshakes per second of one source while places or the processor are short; 0 is no limit.
    pub handshakes_per_second: u32,
    /// Handshakes per second of the listener, over all workers; 0 is no limit.
    pub max_handshakes_per_second: u32,
    /// Records that a session may seal before it ends, if that is less than its cipher allows.
    pub records_per_key: u64,
    /// Whether the identity that a handshake proves is used, so that sessions without one are worth counting.
    pub wants_identity: bool,
    /// What a listener for streams has beside.
    pub stream: Option<StreamSettings>,
}

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
        /// The source of the peer's keys could not be asked.
        KeySource = "key_source",
        /// Given up for others, or without a place for its session: a cap was reached. A hello that waits for its turn is no
        /// handshake yet.
        Limit = "limit",
    }
}

labels! {
    /// What became of a session or an observation that an earlier process left: `sessions_restored_total{result}`,
    /// `observations_restored_total{result}`.
    pub enum RestoreResult {
        /// It goes on.
        Ok = "ok",
        /// Nothing lets it in any more, by the keys, certificates and lists of now: a session was sent close_notify.
        Revoked = "revoked",
        /// Its check word does not fit, or it does not read back.
        Damaged = "damaged",
        /// The last process died of it while it restored it.
        Poisoned = "poisoned",
        /// What it was of is gone: its listener, session or connection.
        Gone = "gone",
        /// There is no room for it, or its identity has too many.
        Limit = "limit",
        /// Counts memories, not sessions: another release wrote it, so that nothing of it is read.
        Layout = "layout",
        /// Counts memories, not sessions: it is of another run of the machine, so that nothing of it is read.
        Boot = "boot",
        /// Counts disks, not sessions: it was sealed with another key, so that nothing of it is read.
        Key = "key",
        /// It went on from disk, and went on speaking, and did not answer four pings: it was sent close_notify and forgotten.
        Unanswered = "unanswered",
    }
}

labels! {
    /// Why the next process will not find a session: `sessions_not_kept_total{reason}`.
    pub enum NotKept {
        /// A suite of CBC: its records are OpenSSL's own and cannot be taken out.
        Cbc = "cbc",
        /// There is no room.
        Full = "full",
        /// ChaCha20-Poly1305, with `keep = "disk"` or "group": its nonce is the record number, so that it outlasts a restart, and neither a power loss nor
        /// its node.
        ChaCha20 = "chacha20",
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
        /// Too many handshakes of the listener.
        ListenerHandshakeRate = "listener_handshake_rate",
        /// Too many handshakes in flight.
        HalfOpen = "half_open",
        /// A handshake message for which there is no handshake.
        NoHandshake = "no_handshake",
        /// A fragment that overlaps its message's end or contradicts an earlier one, or a message that is too long, too far
        /// ahead, or of a type that no client sends in the clear.
        Fragment = "fragment",
        /// Too many records in one handshake.
        HandshakeRecords = "handshake_records",
        /// An alert or data in the clear: anyone could have sent it.
        Unprotected = "unprotected",
        /// A protected record from an address without a session.
        UnknownSession = "unknown_session",
        /// A Connection ID that is nobody's, or too many of those were looked for in the group within the second, of its source or of all.
        UnknownCid = "unknown_cid",
        /// A record of a session of another node of the group: too many were handed on within the second, of its source or of all.
        ForwardRate = "forward_rate",
        /// A record without the Connection ID that was negotiated.
        CidRequired = "cid_required",
        /// A sequence number that was seen, or is too old to tell.
        Replay = "replay",
        /// A record that does not open.
        NotAuthentic = "not_authentic",
        /// A record that was not tried: too many of its session did not open within the second, or of its handshake at all.
        ForgeryRate = "forgery_rate",
        /// A protected handshake message after the handshake: renegotiation is refused.
        Renegotiation = "renegotiation",
        /// The client's last flight once more.
        RepeatedFlight = "repeated_flight",
        /// A record of data without data.
        NoData = "no_data",
        /// An alert that is none.
        BadAlert = "bad_alert",
        /// A return routability check that is none, or a response that answers no challenge.
        PathCheck = "path_check",
        /// A protected record before the keys are known.
        Early = "early",
        /// Of a session that goes on from disk or from another node, or of which another node may have it by now, and that has not answered a ping yet: it
        /// may be a replay of one that was acted on before.
        Gated = "gated",
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

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Where the peer is.
    pub address: PeerAddr,
    /// Who it proved to be.
    pub identity: Option<Identity>,
    /// The cipher suite, by its name at IANA.
    pub suite: &'static str,
    /// Whether it has a Connection ID.
    pub cid: bool,
    /// When the handshake ended.
    pub established_at: Instant,
    /// Whether it was resumed by ticket.
    pub resumed: bool,
    /// Most bytes that the peer takes in a record (RFC 6066, 4; RFC 8449); 16384 unless it asked for less.
    pub max_plaintext: usize,
}

/// Why [`SecureTransport::send`] sent nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// There is no such session.
    NoSession,
    /// More bytes than the peer takes in a record: [`SecureTransport::max_plaintext`].
    TooLong,
    /// The key sealed as many records as it may; [`DtlsEvent::Closed`] follows.
    KeyLimit,
    /// The peer moved to an address that it has not confirmed, and had its share there (RFC 9146, 6).
    Unconfirmed,
    /// The record could not be sealed.
    Internal,
}

/// The sessions of one listener of one worker: datagrams in, datagrams and events out, no I/O.
pub trait SecureTransport: Send {
    /// Takes a datagram; records are opened in place. False when nothing of it was of use.
    fn handle_datagram(
        &mut self,
        now: Instant,
        from: PeerAddr,
        datagram: &mut [u8],
        transmits: &mut Transmits,
    ) -> bool;

    /// Takes records that reached another node of the group; only those of sessions here are of use, and none is handed on again. A
    /// transport without Connection IDs has no such.
    fn handle_records_of_node(
        &mut self,
        _now: Instant,
        _from: PeerAddr,
        _records: &mut [u8],
        _transmits: &mut Transmits,
    ) -> bool {
        false
    }

    /// Takes what happens to the stream of a peer; a transport of datagrams has none. The session of which less waits to be read now.
    fn handle_stream(
        &mut self,
        _now: Instant,
        _from: PeerAddr,
        _event: StreamEvent,
        _transmits: &mut Transmits,
    ) -> Option<SessionId> {
        None
    }

    /// Whether its sessions are streams: what is sent arrives once and in order, or the session ends.
    fn is_stream(&self) -> bool {
        false
    }

    /// Bytes that were sent in a stream and have not left.
    fn queued(&self, _session: SessionId) -> usize {
        0
    }

    /// What a session weighs, in bytes, beside its peer.
    fn session_weight(&self) -> usize;

    /// Does what is due at `now`.
    fn handle_timeout(&mut self, now: Instant, transmits: &mut Transmits);

    /// When [`SecureTransport::handle_timeout`] wants to be called next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// What happened, oldest first. `Established` comes before anything else of its session, `Closed` after.
    fn poll_event(&mut self) -> Option<DtlsEvent>;

    /// Seals `plaintext` into one record, which is one datagram.
    ///
    /// # Errors
    /// When nothing was sent.
    fn send(
        &mut self,
        session: SessionId,
        plaintext: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), SendError>;

    /// Most bytes that [`SecureTransport::send`] takes for a session: 16384, or what its peer takes in a record (RFC 6066, 4; RFC
    /// 8449). One CoAP message is one record, so blocks have to fit.
    fn max_plaintext(&self, session: SessionId) -> usize;

    /// An answer to [`DtlsEvent::KeysWanted`].
    fn give_keys(&mut self, now: Instant, ticket: u64, answer: KeyAnswer, transmits: &mut Transmits);

    /// The peer showed that it receives where its session is: what is sent there has no bound any more.
    fn confirm_address(&mut self, session: SessionId);

    /// Ends a session with a goodbye.
    fn close(&mut self, now: Instant, session: SessionId, reason: CloseReason, transmits: &mut Transmits);

    /// Takes over the sessions that an earlier process left, or another node where it `is_taken`, in order of idleness. Those that nothing lets in any more get a goodbye. How
    /// many went on, and how many did not and why.
    fn restore(&mut self, transmits: &mut Transmits, is_taken: bool) -> Vec<(RestoreResult, u64)>;

    /// The record in which a session is kept for the next process; what the layers above change with each packet goes there too.
    fn kept(&self, session: SessionId) -> Option<Record>;

    /// Lets go of the sessions whose records have these marks, without a word to their peers.
    fn let_go(&mut self, _marks: &HashSet<u64>) {}

    /// The process ends. Sessions that the next one finds hear nothing, the others get a goodbye.
    fn leave(&mut self, now: Instant, transmits: &mut Transmits);

    /// Ends all sessions with a goodbye.
    fn close_all(&mut self, now: Instant, reason: CloseReason, transmits: &mut Transmits);

    /// Takes new settings, and the keys and certificates that are in force now. Sessions that these no longer admit end.
    fn reconfigure(&mut self, now: Instant, settings: DtlsSettings, transmits: &mut Transmits);

    /// Overload, or its end: how long a session may be idle now, and whether peers that have not proved their address are
    /// kept from beginning a handshake.
    fn set_pressure(&mut self, idle_timeout: Duration, refuse_unproven: bool);

    /// Whether someone wants to know all that happens outside of sessions.
    fn set_watched(&mut self, watched: bool);

    /// What is known of a session.
    fn session(&self, session: SessionId) -> Option<SessionInfo>;

    /// How many sessions there are.
    fn session_count(&self) -> usize;
}

/// What opens one listener's transport on each worker.
pub trait SecureSource: fmt::Debug + Send + Sync {
    /// The transport of one worker. `seed` is random, secret, and different for each.
    fn open(
        &self,
        listener: ListenerId,
        worker: WorkerId,
        settings: DtlsSettings,
        seed: [u8; 32],
    ) -> Box<dyn SecureTransport>;
}
