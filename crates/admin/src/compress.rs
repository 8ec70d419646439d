//! Answers in gzip, for those who take it (RFC 9110, 8.4.1.3).

use std::io::{self, Write as _};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Below this many bytes an answer fits into a packet anyway.
const WORTH_IT: u64 = 1024;

/// Largest answer that is compressed. It is held twice while that lasts.
const MOST: u64 = 16 << 20;

/// Whether `Accept-Encoding` has gzip in it, and not with a weight of 0.
pub(crate) fn is_accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let codings = values.filter_map(|value| value.to_str().ok());
    codings.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        is_gzip && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// The same bytes in gzip.
///
/// # Errors
/// There is no memory for them.
pub(crate) fn gzip(plain: &[u8], level: Compression) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 3), level);
    encoder.write_all(plain)?;
    encoder.finish()
}

/// A layer by which answers of a known length are sent compressed. What goes on line by line is sent as it comes.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let accepted = is_accepted(request.headers());
    let response = next.run(request).await;
    let length = response.body().size_hint().exact();
    let is_whole = length.is_some_and(|length| (WORTH_IT..=MOST).contains(&length));
    if !is_whole || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts
        .headers
        .append(header::VARY, HeaderValue::from_static("accept-encoding"));
    if !accepted {
        return Response::from_parts(parts, body);
    }
    let Ok(plain) = axum::body::to_bytes(body, usize::MAX).await else {
        return Response::from_parts(parts, Body::empty());
    };
    match gzip(&plain, Compression::fast()) {
        Ok(small) => {
            parts.headers.remove(header::CONTENT_LENGTH);
            parts
                .headers
                .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Response::from_parts(parts, Body::from(small))
        }
        Err(_) => Response::from_parts(parts, Body::from(plain)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_say_that_they_take_it() {
        for (said, accepted) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("deflate", false),
            ("gzip;q=0, br", false),
            ("gzip; q=0.000", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(said).unwrap());
            assert_eq!(is_accepted(&headers), accepted, "{said}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }
}
