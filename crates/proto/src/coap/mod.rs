//! Plaintext to exchange: message layer, reliability, block-wise transfer, observe.
//!
//! [`Endpoint`] is the page to begin with. The layers carry the names that Californium gives them:
//!
//! | module | what it knows |
//! |---|---|
//! | `codec`, `options`, `outgoing` | one datagram: its bytes, the rules for options, what ours say |
//! | `dedup` | messages that were handled, and their answers (RFC 7252, 4.5) |
//! | `reliability` | confirmable messages of ours that wait for their ACK (RFC 7252, 4.2) |
//! | `blockwise` | bodies in parts (RFC 7959) |
//! | `observe` | notifications: order, NSTART, queues (RFC 7641) |
//! | `client` | requests of ours to devices |
//! | `peer` | what is known of one peer, and whether its address is proved |
//! | `kept` | what of a peer outlives the process |
//! | `endpoint` | all of these for the peers of one worker |

pub mod codec;
pub mod contract;
pub mod describe;
pub mod metrics;

pub(crate) mod answered;
mod blockwise;
mod client;
mod dedup;
mod echo;
mod endpoint;
mod kept;

mod observe;
mod options;
mod outbox;
mod outgoing;
mod parameters;
mod peer;
mod reliability;
mod timers;

pub(crate) use blockwise::etag_of;
pub use endpoint::Endpoint;
pub use kept::skip_message_ids;
pub use metrics::CoapMetrics;
pub use peer::{Peer, PeerTable, Source};
