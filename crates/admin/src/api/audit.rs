//! One line in the log for each change that was asked for.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use tracing::info;

use super::access::Caller;

/// What a change was about when its path does not say so: put into the extensions of the answer. Never a secret.
#[derive(Debug, Clone)]
pub(super) struct Subject(pub(super) String);

/// Logs a change and how it ended, and hands the answer on. The path names what was changed; its bytes are what the client sent,
/// so it is quoted.
pub(super) fn record(caller: Caller, method: &Method, path: &str, response: Response) -> Response {
    if changes(method) {
        let subject = response.extensions().get::<Subject>();
        line(
            caller.role.label(),
            caller.peer,
            method,
            path,
            subject,
            response.status(),
        );
    }
    response
}

/// Logs a change that was refused before it was known who asks.
pub(super) fn refused(peer: std::net::SocketAddr, method: &Method, path: &str, response: &Response) {
    if changes(method) {
        line("nobody", peer, method, path, None, response.status());
    }
}

/// Whether a request of this method changes something.
pub(super) fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn line(
    role: &str,
    peer: std::net::SocketAddr,
    method: &Method,
    path: &str,
    subject: Option<&Subject>,
    status: StatusCode,
) {
    info!(
        target: "portcullis::audit",
        role,
        %peer,
        %method,
        path = ?path,
        subject = ?subject.map(|subject| subject.0.as_str()).unwrap_or_default(),
        status = status.as_u16(),
        "change"
    );
}
