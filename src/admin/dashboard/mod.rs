//! The dashboard: one page with its script and style, built into the binary, that speaks to the API like anyone else.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Nothing from elsewhere, nothing inline, no frame around it, no form that leaves the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The routes of the page. They need no token: the page holds nothing of the gateway's.
pub(super) fn router() -> Router {
    Router::new()
        .route("/", get(async || file(HTML, include_str!("index.html"))))
        .route("/style.css", get(async || file("text/css; charset=utf-8", include_str!("style.css"))))
        .route("/icon.svg", get(async || file("image/svg+xml", include_str!("icon.svg"))))
        .route("/app.js", get(async || file(SCRIPT, include_str!("app.js"))))
        .route("/api.js", get(async || file(SCRIPT, include_str!("api.js"))))
        .route("/charts.js", get(async || file(SCRIPT, include_str!("charts.js"))))
        .route("/overview.js", get(async || file(SCRIPT, include_str!("overview.js"))))
        .route("/clients.js", get(async || file(SCRIPT, include_str!("clients.js"))))
        .route("/credentials.js", get(async || file(SCRIPT, include_str!("credentials.js"))))
        .route("/settings.js", get(async || file(SCRIPT, include_str!("settings.js"))))
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // A new binary brings a new page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}
