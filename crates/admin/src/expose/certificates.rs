//! When certificates and revocation lists run out.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_config::{Config, certificates_not_after};
use portcullis_dtls::DtlsContext;

use portcullis_proto::types::Transport;
use portcullis_proto::types::metrics::{Descriptor, Exposes, LabelPair, Samples};

const NOT_AFTER: Descriptor = Descriptor::gauge(
    "certificate_not_after_seconds",
    "When the first certificate in use under this key of the configuration ends, in seconds since 1970.",
);
const NEXT_UPDATE: Descriptor = Descriptor::gauge(
    "crl_next_update_timestamp_seconds",
    "When the listener's revocation list is out of date, in seconds since 1970.",
);

/// What ends when: certificates by the key that names their file, revocation lists by listener.
#[derive(Default)]
struct Ends {
    certificates: Vec<(String, i64)>,
    lists: Vec<(String, i64)>,
}

/// The times of all that is in force; renewed at a reload.
#[derive(Default)]
pub struct Certificates(Mutex<Ends>);

impl Certificates {
    /// Notes the times of new contexts, and of the other certificates that a configuration names.
    pub fn set(&self, config: &Config, contexts: &[Option<Arc<DtlsContext>>]) {
        let mut ends = Ends::default();
        for (listener, context) in config.listeners.iter().zip(contexts) {
            let (Some(context), Some(dtls)) = (context, &listener.dtls) else {
                continue;
            };
            let key = listener.key();
            let own = context.certificate_not_after();
            ends.certificates
                .extend(own.map(|at| (format!("{key}.cert_file"), at)));
            ends.of_file(format!("{key}.ca_file"), &dtls.handshake.ca_file);
            let next = context.crl_next_update();
            let name = match listener.transport() {
                Transport::Tls => format!("tls:{}", listener.name),
                _ => listener.name.clone(),
            };
            ends.lists.extend(next.map(|at| (name, at)));
        }
        ends.of_file("broker.ca_file".to_owned(), &config.broker.ca_file);
        ends.of_file("broker.cert_file".to_owned(), &config.broker.cert_file);
        ends.of_file("admin.cert_file".to_owned(), &config.admin.cert_file);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }
}

impl Ends {
    fn of_file(&mut self, key: String, file: &Option<PathBuf>) {
        let at = file.as_deref().and_then(certificates_not_after);
        self.certificates.extend(at.map(|at| (key, at)));
    }
}

/// The families that tell when certificates and revocation lists run out.
pub struct ExposeCertificates(pub Arc<Certificates>);

impl Exposes for ExposeCertificates {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        let ends = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, at) in &ends.certificates {
            out.number(NOT_AFTER, &[("use", key)], *at as f64);
        }
        for (listener, at) in &ends.lists {
            out.number(NEXT_UPDATE, &[("listener", listener)], *at as f64);
        }
    }
}
