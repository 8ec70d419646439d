//! When certificates and revocation lists run out.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_config::Config;
use portcullis_dtls::DtlsContext;

use portcullis_proto::types::metrics::{Descriptor, Exposes, LabelPair, Samples};

const NOT_AFTER: Descriptor = Descriptor::gauge(
    "certificate_not_after_timestamp_seconds",
    "When the first of the listener's certificates ends, in seconds since 1970.",
);
const NEXT_UPDATE: Descriptor = Descriptor::gauge(
    "crl_next_update_timestamp_seconds",
    "When the listener's revocation list is out of date, in seconds since 1970.",
);

struct Expiry {
    listener: String,
    certificate: Option<i64>,
    crl: Option<i64>,
}

/// The times of all DTLS listeners; renewed at a reload.
#[derive(Default)]
pub struct Certificates(Mutex<Vec<Expiry>>);

impl Certificates {
    /// Notes the times of new contexts.
    pub fn set(&self, config: &Config, contexts: &[Option<Arc<DtlsContext>>]) {
        let expiries = config
            .listeners
            .iter()
            .zip(contexts)
            .filter_map(|(listener, context)| {
                let context = context.as_ref()?;
                Some(Expiry {
                    listener: listener.name.clone(),
                    certificate: context.certificate_not_after(),
                    crl: context.crl_next_update(),
                })
            });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = expiries.collect();
    }
}

/// The families that tell when certificates and revocation lists run out.
pub struct ExposeCertificates(pub Arc<Certificates>);

impl Exposes for ExposeCertificates {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        for expiry in self.0.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels = [("listener", expiry.listener.as_str())];
            for (family, at) in [(NOT_AFTER, expiry.certificate), (NEXT_UPDATE, expiry.crl)] {
                if let Some(at) = at {
                    out.number(family, &labels, at as f64);
                }
            }
        }
    }
}
