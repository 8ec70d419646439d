//! What the DTLS layer tells the gateway, and the settings that it is built from.

use std::ops::Range;
use std::time::Duration;

use crate::labels;
use crate::types::{Identity, PeerAddr};

use super::metrics::{Alert, HandshakeResult, RecordDrop};

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
    /// A record was opened. Its plaintext stands in the datagram that was handed in.
    Plaintext {
        /// The session it came on.
        session: SessionId,
        /// Where in the datagram.
        range: Range<usize>,
    },
    /// A session with a Connection ID proved a new address (RFC 9146, 6).
    AddressChanged {
        /// The session.
        session: SessionId,
        /// Where the peer is now.
        to: PeerAddr,
    },
    /// A session ended; its id is dead.
    Closed {
        /// The session.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
    /// What happened outside of sessions; only while the listener is watched
    /// ([`super::DtlsListener::set_watched`]).
    Noted {
        /// Where the peer is.
        address: PeerAddr,
        /// The PSK identity that it named, proved or not; `None` as long as it named none.
        identity: Option<Box<str>>,
        /// What happened.
        note: DtlsNote,
    },
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
        /// Evicted to make room.
        Evicted = "evicted",
        /// Too many records that did not open, or the sequence numbers are used up.
        KeyLimit = "key_limit",
        /// Its PSK identity was removed, or its certificate revoked.
        Revoked = "revoked",
        /// Ended by an operator.
        Kicked = "kicked",
        /// The gateway stops.
        Shutdown = "shutdown",
    }
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
    /// Handshakes in flight per worker.
    pub max_half_open: usize,
    /// Largest datagram of a handshake flight, in bytes of UDP payload; 256 to 16384.
    pub mtu: usize,
    /// Whether to negotiate Connection IDs (RFC 9146).
    pub cid: bool,
    /// Handshakes per second of one source; 0 is no limit.
    pub handshakes_per_second: u32,
}
