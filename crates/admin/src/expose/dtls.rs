//! What the DTLS listeners count.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_dtls::DtlsMetrics;
use portcullis_proto::types::metrics::{Exposes, LabelPair, Samples};

/// The DTLS listeners, each by name with the counters of each worker. It grows when listeners are added.
#[derive(Debug, Clone, Default)]
pub struct DtlsCounters(Arc<Mutex<Vec<Named>>>);

type Named = (String, Vec<Arc<DtlsMetrics>>);

impl DtlsCounters {
    /// The counters of one more worker, for a listener that may be new.
    pub fn add(&self, listener: &str, worker: Arc<DtlsMetrics>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|(name, _)| name == listener) {
            Some((_, workers)) => workers.push(worker),
            None => all.push((listener.to_owned(), vec![worker])),
        }
    }
}

/// The `dtls_*` families.
pub struct ExposeDtls(pub DtlsCounters);

impl Exposes for ExposeDtls {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        let listeners = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, workers) in &listeners {
            for worker in workers {
                worker.expose(&[("listener", name)], out);
            }
        }
    }
}
