//! What a request carries, with errors in the form of this interface.

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize as _, Deserializer};

use super::error::ApiError;

/// Parameters of the path, percent-decoded.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection| {
                ApiError::bad_request(format!("the path: {}", own_words(&rejection.body_text())))
            })
    }
}

/// Parameters of the query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(value)| Self(value))
            .map_err(|rejection| {
                ApiError::bad_request(format!("the query: {}", own_words(&rejection.body_text())))
            })
    }
}

/// A JSON body. Another content type is refused: a page of another site can send a form, but no JSON without asking first.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_media_type(request.headers(), "application/json") {
            return Err(ApiError::bad_request(
                "the body must be JSON: Content-Type: application/json",
            ));
        }
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|_| too_large())?;
        // A list would be taken for the members of an object in their order.
        if bytes
            .trim_ascii_start()
            .first()
            .is_some_and(|first| *first != b'{')
        {
            return Err(ApiError::bad_request("the body: expected an object"));
        }
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| ApiError::bad_request(format!("the body: {}", json_fault(&error))))
    }
}

/// What is wrong, without what the library that found it calls its own work.
fn own_words(text: &str) -> &str {
    let begun = ["Failed to deserialize query string: ", "Invalid URL: "];
    begun
        .iter()
        .find_map(|begun| text.strip_prefix(begun))
        .unwrap_or(text)
}

/// What is wrong with a body of JSON, and where.
fn json_fault(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let place = format!("at line {}, column {}", error.line(), error.column());
    match error.classify() {
        Category::Eof | Category::Io => format!("the JSON ends too early, {place}"),
        Category::Syntax => format!("this is no JSON, {place}"),
        Category::Data => {
            let text = error.to_string();
            let what = text.split(" at line ").next().unwrap_or_default();
            format!("{what}, {place}")
        }
    }
}

/// Whether a body is of this media type, whatever its parameters and in any case (RFC 9110, 8.3.1).
pub(super) fn is_media_type(headers: &header::HeaderMap, wanted: &str) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    value
        .and_then(|value| value.split(';').next())
        .is_some_and(|own| own.trim().eq_ignore_ascii_case(wanted))
}

/// A text that no error repeats: serde's own words for a value of another type hold the value.
pub(super) fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(D::Error::custom("a secret is a string")),
    }
}

/// The same where there may be none.
pub(super) fn secret_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::String(text) => Ok(Some(text)),
        serde_json::Value::Null => Ok(None),
        _ => Err(D::Error::custom("a secret is a string")),
    }
}

pub(super) fn too_large() -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        "the body is too large",
    )
}
