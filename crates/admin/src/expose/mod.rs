//! Who has numbers to show, and the labels that say whose they are. Names and help stand where a number is kept.

pub mod auth;
pub mod certificates;
pub mod dtls;
pub mod mqtt_requests;
pub mod process;
pub mod reload;
pub mod streams;

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_proto::types::metrics::{Exposes, LabelPair, PerListener, Samples};
use portcullis_proto::types::{ListenerId, Transport};

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

/// One layer of all workers, by listener and as a whole.
pub struct ExposeWorkers<M> {
    /// Names for the label `listener`, in the order of the counters.
    pub listeners: ListenerNames,
    /// The counters of each worker.
    pub workers: Vec<Arc<M>>,
}

impl<M: PerListener> Exposes for ExposeWorkers<M> {
    fn expose(&self, context: &[LabelPair<'_>], out: &mut dyn Samples) {
        let listeners = self.listeners.all();
        for worker in &self.workers {
            for ((name, transport), id) in listeners.iter().zip(0..) {
                if let Some(counters) = worker.of_listener(ListenerId(id)) {
                    counters.expose(&[("listener", name), ("transport", transport.label())], out);
                }
            }
            worker.expose(context, out);
        }
    }
}
