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

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_proto::types::Transport;

use super::exposition::Exposition;

/// Help of a family that sockets and gateway share.
pub const DATAGRAMS_DROPPED: &str = "Datagrams, or the CoAP messages in them, that went no further.";

/// Help of a family that UDP and DTLS listeners share.
pub const SESSIONS: &str = "Live peers; on DTLS, established sessions.";

/// Help of a family that worker loops and gateway share.
pub const LIMITS_REJECTED: &str = "What a cap or a rate refused.";

/// A part of the process that has numbers to show. Called by the thread that serves the scrape.
pub trait Exposes: Send + Sync {
    /// Adds its families, each with at least one sample.
    fn expose(&self, out: &mut Exposition);
}

/// Name and transport of each listener, in the order of their ids. It grows when listeners are added; one that is removed
/// stays, because its counters do.
#[derive(Debug, Clone, Default)]
pub struct ListenerNames(Arc<Mutex<Vec<(String, Transport)>>>);

impl ListenerNames {
    /// Adds one, with the next id.
    pub fn add(&self, name: String, transport: Transport) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.push((name, transport));
    }

    /// All of them now.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Transport)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<Vec<(String, Transport)>> for ListenerNames {
    fn from(names: Vec<(String, Transport)>) -> Self {
        Self(Arc::new(Mutex::new(names)))
    }
}
