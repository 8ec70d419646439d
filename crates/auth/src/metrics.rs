//! `authentications_total{backend,result}`. Written by many tasks, off the packet path.

use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_proto::labels;
use portcullis_proto::types::metrics::{Descriptor, Exposes, LabelPair, Samples};
use portcullis_proto::types::reason::Label;

use super::AuthHandle;

labels! {
    /// Who decides about logins.
    pub enum Backend {
        /// The DTLS handshake alone.
        Identity = "identity",
        /// A file with lines `user:hash`.
        File = "file",
        /// An HTTP server, asked about each login.
        Http = "http",
        /// A signed token (RFC 7519), verified here.
        Jwt = "jwt",
        /// A PostgreSQL database.
        Postgresql = "postgresql",
        /// A MySQL or MariaDB database.
        Mysql = "mysql",
        /// An LDAP directory.
        Ldap = "ldap",
        /// A MongoDB database.
        Mongodb = "mongodb",
        /// Redis or Valkey.
        Redis = "redis",
    }
}

labels! {
    /// How a login ended.
    pub enum AuthResult {
        /// Let in: the backend said yes.
        Allowed = "allowed",
        /// Let in by a verdict that was remembered.
        Cached = "cached",
        /// Not let in: wrong credentials, or none.
        Denied = "denied",
        /// The backend could not tell in time.
        Unavailable = "unavailable",
        /// Not even asked: too many wait.
        Full = "full",
    }
}

/// How logins ended.
pub const LOGINS: Descriptor =
    Descriptor::counter("authentications_total", "Logins by backend and what it said.");

const WAITING: Descriptor = Descriptor::gauge("authentications_waiting", "Logins that are not decided.");

/// How questions for keys ended.
pub const LOOKUPS: Descriptor = Descriptor::counter(
    "psk_lookups_total",
    "Questions for the keys of PSK identities, by listener, backend and what came of them; from 0 after a reload.",
);

const UP: Descriptor = Descriptor::gauge(
    "authentication_backend_up",
    "Whether the server that decides about logins answers; by the listener that has one of its own.",
);

impl Exposes for AuthHandle {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        for backend in Backend::ALL {
            for result in AuthResult::ALL {
                let labels = [("backend", backend.label()), ("result", result.label())];
                out.number(LOGINS, &labels, self.metrics().get(*backend, *result) as f64);
            }
        }
        for server in self.servers().iter().filter(|server| !server.knows_keys) {
            let listener = server.listener.as_deref().unwrap_or_default();
            let labels = [("backend", server.backend.label()), ("listener", listener)];
            out.number(UP, &labels, f64::from(u8::from(server.fault.is_none())));
        }
        out.number(WAITING, &[], self.waiting() as f64);
        for (listener, backend, result, count) in self.lookups() {
            let labels = [
                ("listener", &*listener),
                ("backend", backend.label()),
                ("result", result.label()),
            ];
            out.number(LOOKUPS, &labels, count as f64);
        }
    }
}

/// The counters of all backends.
#[derive(Debug)]
pub struct AuthMetrics(Box<[AtomicU64]>);

impl Default for AuthMetrics {
    fn default() -> Self {
        let cells = Backend::ALL.len() * AuthResult::ALL.len();
        Self((0..cells).map(|_| AtomicU64::new(0)).collect())
    }
}

impl AuthMetrics {
    pub(super) fn inc(&self, backend: Backend, result: AuthResult) {
        if let Some(cell) = self.cell(backend, result) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many logins of `backend` ended so.
    #[must_use]
    pub fn get(&self, backend: Backend, result: AuthResult) -> u64 {
        self.cell(backend, result)
            .map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    fn cell(&self, backend: Backend, result: AuthResult) -> Option<&AtomicU64> {
        self.0
            .get(backend.index() * AuthResult::ALL.len() + result.index())
    }
}
