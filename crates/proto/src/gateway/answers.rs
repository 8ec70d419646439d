//! Answers that many operations give.

use std::time::Duration;

use crate::coap::contract::{Code, Response};
use crate::policy::rate;

/// Max-Age of 5.03: when to try again (RFC 7252, 5.9.3.4).
const RETRY_SECONDS: u32 = 5;

/// 4.00 with a diagnostic.
pub(super) fn bad_request(text: impl Into<String>) -> Response {
    Response::diagnostic(Code::BAD_REQUEST, text)
}

/// 4.01 with a diagnostic.
pub(super) fn unauthorized(text: impl Into<String>) -> Response {
    Response::diagnostic(Code::UNAUTHORIZED, text)
}

/// 4.03 with a diagnostic.
pub(super) fn forbidden(text: &str) -> Response {
    Response::diagnostic(Code::FORBIDDEN, text)
}

/// 4.04 with a diagnostic.
pub(super) fn not_found(text: &str) -> Response {
    Response::diagnostic(Code::NOT_FOUND, text)
}

/// 4.15 with a diagnostic.
pub(super) fn other_format(text: &str) -> Response {
    Response::diagnostic(Code::UNSUPPORTED_CONTENT_FORMAT, text)
}

/// 4.05 with the methods that there are.
pub(super) fn not_allowed(methods: &str) -> Response {
    Response::diagnostic(Code::METHOD_NOT_ALLOWED, methods)
}

/// 4.06 with a diagnostic.
pub(super) fn not_acceptable(text: &str) -> Response {
    Response::diagnostic(Code::NOT_ACCEPTABLE, text)
}

/// 4.29 with the time to try again (RFC 8516).
pub(super) fn too_many_requests(after: Duration) -> Response {
    Response {
        max_age: Some(rate::max_age(after)),
        ..Response::new(Code::TOO_MANY_REQUESTS)
    }
}

/// 5.03 with the time to try again.
pub(super) fn unavailable() -> Response {
    Response {
        max_age: Some(RETRY_SECONDS),
        ..Response::new(Code::SERVICE_UNAVAILABLE)
    }
}
