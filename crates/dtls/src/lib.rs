//! Datagram to plaintext and proved identity, and back.
//!
//! OpenSSL does the handshakes; the records after them are opened and sealed by [`aead`]. That makes a session small,
//! lets it carry a Connection ID (RFC 9146), which OpenSSL does not know, and frees it of OpenSSL's version. Only the records of
//! old suites with CBC, which are off unless asked for, stay OpenSSL's.

pub mod aead;
pub mod bio;
mod certificates;
mod chains;
pub mod cid;
mod context;
mod cookie;
mod effort;
mod ffi;
mod gate;
mod handshake;
mod hello;
mod kept;
mod legacy;
mod listener;
pub mod metrics;
mod nodes;
mod path;
mod pendings;
mod prf;
mod psk;
mod raw_keys;
pub mod record;
mod replay;
mod sessions;
mod shared;
mod source;
pub mod suite;
mod tls;

pub use certificates::{CertField, CertIdentity, ContextError};
pub use context::{CertificateMaterial, DtlsContext, DtlsMaterial, TicketKeys, Verify};
pub use kept::{
    Inexact, KeptSessions, Place, adopt_chains, cid_of, is_next_of, may_change_nodes, may_leave_memory,
    place_of, shift_session,
};
pub use listener::DtlsListener;
pub use metrics::DtlsMetrics;
pub use nodes::NodeIds;
pub use portcullis_proto::session as contract;
pub use portcullis_proto::session::{SendError, SessionInfo};
pub use psk::{
    PskKey, PskKeys, PskStore, check_colons, identity_bytes, identity_text, read_attributes, split_line,
    split_secret,
};
pub use raw_keys::RawKeys;
pub use shared::DtlsShared;
pub use source::{ContextCell, DtlsSource};
pub use tls::TlsClient;

#[cfg(test)]
mod tests_base {
    use std::time::Instant;

    /// Any instant to count a test's time from.
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    pub(crate) fn start() -> Instant {
        Instant::now()
    }
}
