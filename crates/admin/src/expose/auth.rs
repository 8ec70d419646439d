//! What the authentication backends count.

use portcullis_auth::AuthHandle;
use portcullis_auth::metrics::LOGINS;
use portcullis_proto::types::metrics::{Exposes, LabelPair, Samples};

/// The backends; `None` when nobody has to log in.
pub struct ExposeAuth(pub Option<AuthHandle>);

impl Exposes for ExposeAuth {
    fn expose(&self, context: &[LabelPair<'_>], out: &mut dyn Samples) {
        match &self.0 {
            Some(auth) => auth.expose(context, out),
            None => out.number(LOGINS, &[("backend", "none"), ("result", "allowed")], 0.0),
        }
    }
}
