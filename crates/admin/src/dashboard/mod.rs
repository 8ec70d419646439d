//! The dashboard: one page with its scripts and style, built into the binary, that speaks to the API like anyone else.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use openssl::sha::sha256;

use crate::compress;

/// Nothing from elsewhere, nothing inline, no frame around it, no form that leaves the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type and content of files of this folder, each served under its own name.
macro_rules! files {
    ($($kind:expr => [$($name:literal),* $(,)?]),* $(,)?) => {
        &[$($((concat!("/", $name), $kind, include_str!($name)),)*)*]
    };
}

const FILES: &[(&str, &str, &str)] = files! {
    HTML => ["index.html"],
    STYLE => ["style.css"],
    "image/svg+xml" => ["icon.svg"],
    SCRIPT => [
        "access.js",
        "api.js",
        "app.js",
        "bans.js",
        "charts.js",
        "client.js",
        "clients.js",
        "concerns.js",
        "dom.js",
        "events.js",
        "form.js",
        "history.js",
        "keys.js",
        "listed.js",
        "listeners.js",
        "metrics.js",
        "overview.js",
        "rules.js",
        "settings.js",
        "state.js",
        "tokens.js",
        "topics.js",
        "trace.js",
        "users.js",
        "words.js",
    ],
};

/// A file as it is sent.
struct File {
    kind: &'static str,
    plain: &'static str,
    /// The same in gzip; empty where that is not to be had.
    small: Bytes,
    /// Of the content: a new binary brings a new page.
    tag: String,
}

/// The routes of the page. They need no token: the page holds nothing of the gateway's.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, (path, kind, plain)| {
        let file = Arc::new(File::new(kind, plain));
        let path = if *path == "/index.html" { "/" } else { path };
        router.route(path, get(async move |headers: HeaderMap| file.answer(&headers)))
    })
}

impl File {
    fn new(kind: &'static str, plain: &'static str) -> Self {
        let hash = sha256(plain.as_bytes());
        Self {
            kind,
            plain,
            small: compress::gzip(plain.as_bytes(), Compression::best())
                .unwrap_or_default()
                .into(),
            tag: hex::encode(hash.get(..8).unwrap_or(&hash)),
        }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let is_small = compress::is_accepted(headers) && !self.small.is_empty();
        // The two encodings are different representations, and a strong tag is of one (RFC 9110, 8.8.3.3).
        let tag = format!("\"{}{}\"", self.tag, if is_small { "-gzip" } else { "" });
        let known = is_known(headers, &tag);
        let common: [(HeaderName, HeaderValue); 4] = [
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
            // Kept, and asked for again each time.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
            (
                header::ETAG,
                HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\"")),
            ),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.kind)];
        if is_small {
            let encoding = [(header::CONTENT_ENCODING, "gzip")];
            return (common, kind, encoding, self.small.clone()).into_response();
        }
        (common, kind, self.plain).into_response()
    }
}

/// Whether who asks has this already (RFC 9110, 13.1.2: tags are compared weakly).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter();
    let tags = values.filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(','))
        .map(|own| own.trim().trim_start_matches("W/"))
        .any(|own| own == tag || own == "*")
}
