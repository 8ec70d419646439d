//! The dashboard: one page with its script and style, built into the binary, that speaks to the API like anyone else.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Nothing from elsewhere, nothing inline, no frame around it, no form that leaves the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type and content of every file.
const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/api.js", SCRIPT, include_str!("api.js")),
    ("/app.js", SCRIPT, include_str!("app.js")),
    ("/charts.js", SCRIPT, include_str!("charts.js")),
    ("/client.js", SCRIPT, include_str!("client.js")),
    ("/clients.js", SCRIPT, include_str!("clients.js")),
    ("/credentials.js", SCRIPT, include_str!("credentials.js")),
    ("/dom.js", SCRIPT, include_str!("dom.js")),
    ("/form.js", SCRIPT, include_str!("form.js")),
    ("/history.js", SCRIPT, include_str!("history.js")),
    ("/overview.js", SCRIPT, include_str!("overview.js")),
    ("/settings.js", SCRIPT, include_str!("settings.js")),
];

/// The routes of the page. They need no token: the page holds nothing of the gateway's.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(path, get(async || file(kind, content)))
    })
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
