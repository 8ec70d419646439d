//! Which numbers of which layer become which family; one file per layer.

pub mod auth;
pub mod broker;
pub mod certificates;
pub mod coap;
pub mod dtls;
pub mod gateway;
pub mod net;
pub mod process;
pub mod reload;

use super::exposition::Exposition;

/// Help of a family that sockets and gateway share.
pub const DATAGRAMS_DROPPED: &str = "Datagrams, or the CoAP messages in them, that went no further.";

/// Help of a family that UDP and DTLS listeners share.
pub const SESSIONS: &str = "Live peers; on DTLS, established sessions.";

/// Help of a family that worker loops and gateway share.
pub const LIMITS_REJECTED: &str = "What a cap or a rate refused.";

/// A part of the process that has numbers to show. Called by the thread that serves the scrape.
pub trait Exposes: Send + Sync {
    /// Adds them.
    fn expose(&self, out: &mut Exposition);
}
