//! Words that every other folder shares: who a peer is, what a topic is, why something was refused, what is counted.
//!
//! Nothing here knows a socket, a clock or a file.

pub mod access;
pub(crate) mod hash;
pub mod identity;
pub mod invariant;
pub mod limits;
pub mod line_error;
pub(crate) mod list;
pub mod mac;
pub mod message;
pub mod metrics;
pub mod peer;
pub mod reason;
pub mod source_rates;
pub mod standing;
pub mod text;
pub mod topic;
pub mod transmit;

pub use access::AccessRules;
pub use identity::{ClientId, Identity, Proof};
pub use line_error::{Fault, LineError};
pub use message::Message;
pub use peer::{ListenerId, PeerAddr, Transport, WorkerId};
pub use topic::{TopicFilter, TopicLimits, TopicName};
pub use transmit::Transmits;
