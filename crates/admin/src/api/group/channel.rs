//! From node to node: HTTP within TLS that the key of the group protects.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;

use portcullis_group::{Group, Member, channel};

use super::super::error::ErrorBody;

/// How long another node may take for an answer.
pub(in crate::api) const PATIENCE: Duration = Duration::from_secs(8);

/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 << 20;

/// What another node answered.
pub(in crate::api) struct Answer {
    pub(in crate::api) status: StatusCode,
    pub(in crate::api) body: Bytes,
}

impl Answer {
    /// What it says went wrong, in words.
    pub(in crate::api) fn said(&self) -> String {
        match serde_json::from_slice::<ErrorBody>(&self.body) {
            Ok(error) => error.message,
            Err(_) => format!("it answered with status {}", self.status),
        }
    }
}

/// Asks another node.
///
/// # Errors
/// Why there is no answer, in words.
pub(in crate::api) async fn ask(
    group: &Group,
    member: &Member,
    request: Request<Body>,
) -> Result<Answer, String> {
    let asked = async {
        let stream = channel::connect(group.key(), member.address).await?;
        let broken = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driver = tokio::spawn(connection);
        let answered = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = axum::body::to_bytes(Body::new(response.into_body()), MAX_ANSWER).await;
            let body = body.map_err(|error| error.to_string())?;
            Ok(Answer { status, body })
        };
        let answer = answered.await;
        driver.abort();
        answer
    };
    let late = |_| Err("it did not answer in time".to_owned());
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(late)
}

/// A request with a JSON body.
pub(in crate::api) fn post(path: &str, body: &impl Serialize) -> Request<Body> {
    let mut request = Request::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *request.method_mut() = Method::POST;
    // What is made of words alone is a path.
    *request.uri_mut() = path.parse().unwrap_or_default();
    let host = axum::http::HeaderValue::from_static("node");
    request.headers_mut().insert(axum::http::header::HOST, host);
    request
}
