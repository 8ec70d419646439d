//! What the listeners for streams count.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_proto::types::ListenerId;
use portcullis_proto::types::metrics::{Exposes, LabelPair, Samples};
use portcullis_stream::{Gate, StreamMetrics};

use super::ListenerNames;

/// The listeners for streams, each with the counters of its gate and of each worker. It grows when listeners are added.
#[derive(Clone)]
pub struct StreamCounters {
    names: ListenerNames,
    all: Arc<Mutex<Counters>>,
}

#[derive(Default, Clone)]
struct Counters {
    gates: Vec<(ListenerId, Arc<Gate>)>,
    workers: Vec<(ListenerId, Arc<StreamMetrics>)>,
}

impl StreamCounters {
    /// None yet; `names` are those of all listeners.
    #[must_use]
    pub fn new(names: ListenerNames) -> Self {
        Self {
            names,
            all: Arc::default(),
        }
    }

    /// The counters of one more worker.
    pub fn add(&self, listener: ListenerId, worker: Arc<StreamMetrics>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.workers.push((listener, worker));
    }

    /// One more gate.
    pub fn add_gate(&self, listener: ListenerId, gate: Arc<Gate>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.gates.push((listener, gate));
    }
}

impl Exposes for StreamCounters {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        let Counters { gates, workers } = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let names = self.names.all();
        let mut show = |id: ListenerId, what: &dyn Exposes| {
            if let Some((name, transport)) = names.get(usize::from(id.0)) {
                what.expose(&[("listener", name), ("transport", transport.label())], out);
            }
        };
        for (id, gate) in &gates {
            show(*id, &gate.metrics);
        }
        for (id, worker) in &workers {
            show(*id, &**worker);
        }
    }
}
