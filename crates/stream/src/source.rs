//! What opens the streams of a listener on one worker.

use std::sync::Arc;

use portcullis_dtls::DtlsShared;
use portcullis_proto::session::{DtlsSettings, SecureSource, SecureTransport};
use portcullis_proto::types::{ListenerId, WorkerId};

use crate::gate::Gate;
use crate::listener::StreamListener;
use crate::metrics::StreamMetrics;

/// What opens a listener for streams on one worker.
#[derive(Debug)]
pub struct StreamSource {
    /// Where its connections come in; shared by all workers.
    pub gate: Arc<Gate>,
    /// How many sessions each identity has; the same for all workers and listeners.
    pub shared: Arc<DtlsShared>,
    /// This worker's counters.
    pub metrics: Arc<StreamMetrics>,
}

impl SecureSource for StreamSource {
    fn open(
        &self,
        listener: ListenerId,
        worker: WorkerId,
        settings: DtlsSettings,
        seed: [u8; 32],
    ) -> Box<dyn SecureTransport> {
        Box::new(StreamListener::new(
            listener,
            worker,
            Arc::clone(&self.gate),
            settings,
            seed,
            Arc::clone(&self.shared),
            Arc::clone(&self.metrics),
        ))
    }
}
