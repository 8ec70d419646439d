//! What the authentication backends count.

use portcullis_auth::AuthHandle;

use super::{Exposes, Exposition};

/// The backends; `None` when nobody has to log in.
pub struct ExposeAuth(pub Option<AuthHandle>);

impl Exposes for ExposeAuth {
    fn expose(&self, out: &mut Exposition) {
        let Some(auth) = &self.0 else {
            let labels = [("backend", "none"), ("result", "allowed")];
            return out.counter("authentications_total", HELP, &labels, 0);
        };
        for (backend, result, value) in auth.metrics().iter() {
            let labels = [("backend", backend), ("result", result)];
            out.counter("authentications_total", HELP, &labels, value);
        }
        out.gauge(
            "authentications_waiting",
            "Logins that are not decided.",
            &[],
            auth.waiting() as f64,
        );
    }
}

const HELP: &str = "Logins by backend and what it said.";
