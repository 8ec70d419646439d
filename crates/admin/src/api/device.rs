//! `clients/{id}/request`: a CoAP request to a device.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response as HttpAnswer};
use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use portcullis_config::quantity::{parse_duration, show_duration};
use portcullis_proto::bridge::content;
use portcullis_proto::coap::contract::{Code, OutgoingRequest, RequestError, Response};
use portcullis_proto::gateway::contract::{ControlAnswer, ControlRequest};
use portcullis_proto::types::ClientId;

use super::calls::{EXPIRED, RequestStatus};
use super::clients::{client_id, locate};
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Path};
use super::{Api, ask_for};

/// How long a device may take when the request does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time a device may take.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// The longest time that a request may wait for a device, where what is queued does not age.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Longest path segment or query option (RFC 7252, 5.10).
const MAX_OPTION: usize = 255;

const METHODS: [(&str, Code); 7] = [
    ("get", Code::GET),
    ("post", Code::POST),
    ("put", Code::PUT),
    ("delete", Code::DELETE),
    ("fetch", Code::FETCH),
    ("patch", Code::PATCH),
    ("ipatch", Code::IPATCH),
];

/// A CoAP request to a device.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceRequest {
    /// `get`, `post`, `put`, `delete`, `fetch`, `patch` or `ipatch`.
    #[schema(min_length = 3)]
    pub method: String,
    /// The path: Uri-Path segments joined by `/`.
    #[serde(default)]
    #[schema(example = "/sensors/temperature")]
    pub path: String,
    /// The query: Uri-Query options, as a list or joined by `&`.
    #[serde(default)]
    pub query: Query,
    /// The Content-Format of the payload: its number, or its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_format: Option<ContentFormat>,
    /// The payload as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in Base64, instead of `payload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// How long the device may take, such as `"10s"`, or seconds as a number; at most five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// How long the request may wait until a device that is asleep or away is heard of, in the same forms; at most
    /// `coap.sleep.queue_age`. Without it, it does not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Timeout>,
}

/// The Uri-Query options of the request to a device, in either form.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Query {
    /// One string for each option.
    List(Vec<String>),
    /// Options joined by `&`.
    Joined(String),
}

impl Default for Query {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// What the payload is (RFC 7252, 12.3), by number or by name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum ContentFormat {
    /// Its number at IANA.
    Number(u16),
    /// Its media type, such as `application/cbor`; one that has a number.
    MediaType(String),
}

/// A time, in either form.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Timeout {
    /// Seconds, with a fraction where need be.
    Seconds(f64),
    /// A duration as in the configuration: `"500ms"`, `"10s"`, `"5m"`.
    Text(String),
}

/// What a device answered.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct DeviceAnswer {
    /// The response code, such as `2.05`. An error of the device (`4.04`) is an answer too.
    #[schema(example = "2.05")]
    pub code: String,
    /// The number of the Content-Format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_format: Option<u16>,
    /// How long the answer stays fresh, in seconds (Max-Age).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
    /// The payload, when it is UTF-8 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in Base64.
    pub payload_base64: String,
}

/// Send a CoAP request to a device
///
/// Long payloads go and come block-wise. The request is confirmable and is sent to where the client is now. With `wait`, one that
/// the device does not acknowledge waits, behind those that wait already, and goes out when the device is heard of. The answer is 202
/// when it still waits after `timeout`: its status is then at the path in `Location`, and published at
/// `$portcullis/{node}/clients/{id}/requests/{request}`.
#[utoipa::path(
    post,
    path = "/api/v1/clients/{id}/request",
    tag = "clients",
    params(("id" = String, Path, description = "The client id")),
    request_body = DeviceRequest,
    responses(
        (status = 200, body = DeviceAnswer),
        (status = 202, body = RequestStatus, description = "It waits for the device"),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "The client is away, or too many requests wait for it"),
        (status = 502, body = ErrorBody, description = "The device answered RST, or nonsense"),
        (status = 504, body = ErrorBody, description = "The device did not answer in time, or was not heard of for as long as the request could wait")
    )
)]
pub(super) async fn request(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Body(wanted): Body<DeviceRequest>,
) -> Result<HttpAnswer, ApiError> {
    let client = client_id(&id)?;
    match ask_device(&api, &client, wanted, Patience::OfTheDevice).await? {
        Asked::Answered(answer) => Ok(Json(answer).into_response()),
        Asked::Queued(status) => {
            let id = utf8_percent_encode(&id, NON_ALPHANUMERIC);
            let location = format!("/api/v1/clients/{id}/requests/{}", status.request);
            let head = [(header::LOCATION, location)];
            Ok((StatusCode::ACCEPTED, head, Json(status)).into_response())
        }
    }
}

/// What came of a request to a device in the time that the device may take.
pub(super) enum Asked {
    Answered(DeviceAnswer),
    /// It waits for the device.
    Queued(RequestStatus),
}

/// How long who asks a device stays for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as the device may take.
    OfTheDevice,
    /// As long as the request may wait beside.
    ToTheEnd,
}

/// Sends a request to a device, and has it wait where it may.
pub(super) async fn ask_device(
    api: &Arc<Api>,
    client: &ClientId,
    wanted: DeviceRequest,
    stays: Patience,
) -> Result<Asked, ApiError> {
    let config = api.site.config();
    let (request, wait) =
        wanted.into_request(config.coap.blockwise.max_body_size.0, config.coap.sleep.queue_age)?;
    let timeout = request.timeout;
    let (worker, ..) = locate(api, client).await?;
    let question = ControlRequest::Request {
        client: client.clone(),
        request,
        wait,
    };
    // The worker itself gives up; more than that much later only a worker that is stuck.
    let longest = wait + timeout + Duration::from_secs(5);
    let (answer, mut answered) = oneshot::channel();
    let mut status = RequestStatus::queued(api.calls.name(), client);
    let (waiting, its) = (Arc::clone(api), status.clone());
    tokio::spawn(async move {
        let result = outcome(ask_for(&waiting, worker, question, longest).await, &its.clientid);
        // Nobody stays for what was told to wait.
        if let Err(result) = answer.send(result) {
            waiting.calls.tell(&waiting, its.ended(&result)).await;
        }
    });
    let patience = match stays {
        Patience::OfTheDevice if wait > timeout => timeout,
        Patience::OfTheDevice | Patience::ToTheEnd => longest,
    };
    if let Ok(result) = tokio::time::timeout(patience, &mut answered).await {
        return result.map_err(|_| ApiError::worker_gone())?.map(Asked::Answered);
    }
    api.calls.tell(api, status.clone()).await;
    answered.close();
    if let Ok(result) = answered.try_recv() {
        status = status.ended(&result);
        api.calls.tell(api, status).await;
        return result.map(Asked::Answered);
    }
    Ok(Asked::Queued(status))
}

/// What a worker's answer means.
fn outcome(answer: Result<ControlAnswer, ApiError>, client: &str) -> Result<DeviceAnswer, ApiError> {
    match answer? {
        ControlAnswer::Answered(Ok(response)) => Ok(DeviceAnswer::of(&response)),
        ControlAnswer::Answered(Err(error)) => Err(no_answer(error)),
        ControlAnswer::Expired => Err(ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            EXPIRED,
            "the device was not heard of for as long as the request could wait",
        )),
        ControlAnswer::NotFound => Err(ApiError::not_found(format!("there is no client {client:?}"))),
        _ => Err(ApiError::conflict(
            "unavailable",
            "the client is away, or too many requests wait for devices",
        )),
    }
}

fn no_answer(error: RequestError) -> ApiError {
    match error {
        RequestError::Timeout | RequestError::Unreached => {
            ApiError::timeout("the device did not answer in time")
        }
        RequestError::Reset => {
            ApiError::bad_gateway("reset", "the device answered RST: it does not take requests")
        }
        RequestError::BadResponse => {
            ApiError::bad_gateway("bad_response", "the device's answer is no valid one")
        }
        RequestError::Gone => ApiError::conflict("unavailable", "the client went away before it answered"),
        RequestError::Busy => ApiError::conflict("busy", "too many requests wait for this client"),
    }
}

impl DeviceRequest {
    /// The request, and how long it may wait; `max_wait` is at most so long, zero without end.
    fn into_request(
        self,
        max_body: u64,
        max_wait: Duration,
    ) -> Result<(OutgoingRequest, Duration), ApiError> {
        let word = self.method.to_ascii_lowercase();
        let method = METHODS
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, code)| *code)
            .ok_or_else(|| {
                let known = METHODS.map(|(name, _)| name).join(", ");
                ApiError::bad_request(format!("method is one of {known}; not {:?}", self.method))
            })?;
        let payload = payload(self.payload, self.payload_base64)?;
        if u64::try_from(payload.len()).unwrap_or(u64::MAX) > max_body {
            return Err(ApiError::bad_request(format!(
                "the payload has {} bytes, and coap.blockwise.max_body_size allows {max_body}",
                payload.len()
            )));
        }
        let query = match self.query {
            Query::List(list) => list,
            Query::Joined(joined) => split(&joined, '&'),
        };
        let path = split(self.path.strip_prefix('/').unwrap_or(&self.path), '/');
        if path.iter().any(|segment| segment == "." || segment == "..") {
            return Err(ApiError::bad_request(
                "no segment of a path is . or .. (RFC 7252, 5.10.1)",
            ));
        }
        let mut options = path.iter().chain(&query);
        if let Some(long) = options.find(|option| option.len() > MAX_OPTION) {
            return Err(ApiError::bad_request(format!(
                "a path segment or query option has at most {MAX_OPTION} bytes; one has {}",
                long.len()
            )));
        }
        let max_wait = Some(max_wait).filter(|most| !most.is_zero());
        let wait = self
            .wait
            .map(|wait| time("wait", wait, max_wait.unwrap_or(MAX_WAIT)));
        let timeout = self.timeout.map(|timeout| time("timeout", timeout, MAX_TIMEOUT));
        let request = OutgoingRequest {
            method,
            path,
            query,
            content_format: self.content_format.map(number).transpose()?,
            payload,
            timeout: timeout.unwrap_or(Ok(DEFAULT_TIMEOUT))?,
        };
        Ok((request, wait.unwrap_or(Ok(Duration::ZERO))?))
    }
}

fn split(text: &str, at: char) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    text.split(at).map(str::to_owned).collect()
}

pub(super) fn payload(text: Option<String>, base64: Option<String>) -> Result<Bytes, ApiError> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(ApiError::bad_request(
            "payload and payload_base64 exclude each other",
        )),
        (Some(text), None) => Ok(text.into()),
        (None, Some(base64)) => Base64::decode_vec(&base64)
            .map(Bytes::from)
            .map_err(|_| ApiError::bad_request("payload_base64 is no Base64 (RFC 4648, 4)")),
        (None, None) => Ok(Bytes::new()),
    }
}

fn number(format: ContentFormat) -> Result<u16, ApiError> {
    match format {
        ContentFormat::Number(number) => Ok(number),
        ContentFormat::MediaType(name) => content::content_format(&name).ok_or_else(|| {
            ApiError::bad_request(format!("content_format: no Content-Format is known for {name:?}"))
        }),
    }
}

fn time(name: &str, given: Timeout, most: Duration) -> Result<Duration, ApiError> {
    let wrong = |why: String| ApiError::bad_request(format!("{name}: {why}"));
    let time = match given {
        Timeout::Seconds(seconds) => {
            Duration::try_from_secs_f64(seconds).map_err(|error| wrong(error.to_string()))?
        }
        Timeout::Text(text) => parse_duration(&text).map_err(wrong)?,
    };
    if time.is_zero() || time > most {
        return Err(wrong(format!("more than 0s and at most {}", show_duration(most))));
    }
    Ok(time)
}

impl DeviceAnswer {
    fn of(response: &Response) -> Self {
        Self {
            code: response.code.to_string(),
            content_format: response.content_format,
            max_age: response.max_age,
            payload: std::str::from_utf8(&response.payload).ok().map(str::to_owned),
            payload_base64: Base64::encode_string(&response.payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: serde_json::Value) -> Result<OutgoingRequest, ApiError> {
        let wanted: DeviceRequest = serde_json::from_value(body).unwrap();
        wanted
            .into_request(16, Duration::from_secs(60))
            .map(|(request, _)| request)
    }

    #[test]
    fn a_request_is_read_in_every_spelling() {
        let request = read(json!({
            "method": "PUT", "path": "/a//b", "query": "x=1&y", "content_format": 50,
            "payload_base64": "AP8=", "timeout": 1.5
        }))
        .unwrap();
        assert_eq!(request.method, Code::PUT);
        assert_eq!(request.path, ["a", "", "b"]);
        assert_eq!(request.query, ["x=1", "y"]);
        assert_eq!(
            (request.content_format, &request.payload[..]),
            (Some(50), &[0, 255][..])
        );
        assert_eq!(request.timeout, Duration::from_millis(1500));
        let request = read(json!({
            "method": "get", "query": ["a&b=c"], "content_format": "text/plain;charset=utf-8", "timeout": "2m"
        }))
        .unwrap();
        assert_eq!((request.path.len(), request.content_format), (0, Some(0)));
        assert_eq!(request.query, ["a&b=c"]);
        assert_eq!(request.timeout, Duration::from_secs(120));
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for body in [
            json!({"method": "connect"}),
            json!({"method": "get", "payload": "a", "payload_base64": "YQ=="}),
            json!({"method": "get", "payload_base64": "?"}),
            json!({"method": "get", "payload": "12345678901234567"}),
            json!({"method": "get", "path": "x".repeat(256)}),
            json!({"method": "get", "query": ["x".repeat(256)]}),
            json!({"method": "get", "timeout": 0}),
            json!({"method": "get", "timeout": -1}),
            json!({"method": "get", "timeout": 1e300}),
            json!({"method": "get", "timeout": "6m"}),
            json!({"method": "get", "timeout": "10"}),
            json!({"method": "get", "wait": 61}),
            json!({"method": "get", "wait": "0s"}),
            json!({"method": "get", "content_format": "image/none"}),
        ] {
            assert!(read(body.clone()).is_err(), "{body}");
        }
    }
}
