//! What the DTLS listeners count.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_dtls::DtlsMetrics;
use portcullis_proto::types::Transport;

use super::{Exposes, Exposition, LIMITS_REJECTED, SESSIONS};

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
    fn expose(&self, out: &mut Exposition) {
        let listeners = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, workers) in &listeners {
            for worker in workers {
                handshakes(out, name, worker);
                sessions(out, name, worker);
                records(out, worker);
            }
        }
    }
}

fn handshakes(out: &mut Exposition, name: &str, worker: &DtlsMetrics) {
    let labels = [("listener", name)];
    out.counters(
        "dtls_handshakes_total",
        "Handshakes that passed the cookie, by how they ended.",
        &labels,
        "result",
        worker.handshakes.iter(),
    );
    out.histogram(
        "dtls_handshake_seconds",
        "From the hello with the cookie to the established session.",
        &labels,
        &[&worker.handshake_seconds],
    );
    out.gauge(
        "dtls_half_open",
        "Handshakes in flight.",
        &labels,
        worker.half_open.get() as f64,
    );
    out.counters(
        "dtls_negotiated_total",
        "Established sessions by cipher suite.",
        &labels,
        "cipher",
        worker.suites.iter(),
    );
    out.counter(
        "dtls_cookies_sent_total",
        "HelloVerifyRequests sent.",
        &labels,
        worker.cookies_sent.get(),
    );
    out.counter(
        "dtls_cookie_failures_total",
        "Hellos whose cookie is not, or no longer, ours.",
        &labels,
        worker.cookies_failed.get(),
    );
    out.counter(
        "dtls_unidentified_total",
        "Sessions established without an identity, on a listener that uses identities.",
        &labels,
        worker.unidentified.get(),
    );
    out.counter(
        "dtls_resumed_total",
        "Sessions resumed by ticket.",
        &labels,
        worker.resumed.get(),
    );
    out.counter(
        "dtls_resumptions_refused_total",
        "Resumptions refused because the identity is gone, or the certificate revoked or expired.",
        &labels,
        worker.resumptions_refused.get(),
    );
}

fn sessions(out: &mut Exposition, name: &str, worker: &DtlsMetrics) {
    let labels = [("listener", name), ("transport", Transport::Dtls.label())];
    out.gauge("sessions", SESSIONS, &labels, worker.sessions.get() as f64);
    let labels = [("listener", name)];
    out.counters(
        "dtls_sessions_closed_total",
        "Sessions that ended, by why.",
        &labels,
        "reason",
        worker.closed.iter(),
    );
    out.gauge(
        "dtls_cid_sessions",
        "Established sessions with a Connection ID (RFC 9146).",
        &[],
        worker.cid_sessions.get() as f64,
    );
    out.counter(
        "dtls_address_changes_total",
        "Sessions that went on from a new address.",
        &[],
        worker.address_changes.get(),
    );
    out.counter(
        "dtls_path_challenges_total",
        "Challenges to new addresses of sessions (RFC 9853).",
        &[],
        worker.path_challenges.get(),
    );
    out.counter(
        "dtls_unconfirmed_held_total",
        "Datagrams held back because a new address was not confirmed and had its share.",
        &[],
        worker.unconfirmed_held.get(),
    );
}

fn records(out: &mut Exposition, worker: &DtlsMetrics) {
    let help = "Alerts, those in the clear included, though anyone can send them.";
    for (direction, alerts) in [
        ("received", &worker.alerts_received),
        ("sent", &worker.alerts_sent),
    ] {
        let labels = [("direction", direction)];
        out.counters("dtls_alerts_total", help, &labels, "description", alerts.iter());
    }
    out.counters(
        "dtls_records_dropped_total",
        "Records that went no further, by why.",
        &[],
        "reason",
        worker.records_dropped.iter(),
    );
    out.counter(
        "dtls_flights_repeated_total",
        "Last flights sent again because the peer repeated its own.",
        &[],
        worker.flights_repeated.get(),
    );
    out.counters(
        "limits_rejected_total",
        LIMITS_REJECTED,
        &[],
        "limit",
        worker.limits.iter(),
    );
}
