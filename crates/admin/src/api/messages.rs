//! `publish`, `retained`, `messages`: what the broker has and gets, past the devices.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body as HttpAnswer;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use crate::operator::{Heard, Operator};
use crate::places::Seat;
use portcullis_proto::bridge::contract::{BrokerError, MAX_RETAINED};
use portcullis_proto::types::message::{Correspondence, Qos};
use portcullis_proto::types::text::unsendable;
use portcullis_proto::types::topic::{TopicError, is_below};
use portcullis_proto::types::{Message, TopicFilter, TopicName};

use super::clients::PageMeta;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Path};
use super::handle::Moment;
use super::trace::Lines;
use super::{Api, device};

/// Messages that wait for one who follows a topic. More are lost to it.
const WAITING: usize = 256;

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// When there is nothing to tell, a comment this often shows whether anyone still reads.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How long a reader may not read.
const STALLED: Duration = Duration::from_secs(30);

/// A message to publish.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMessage {
    /// The topic at the broker: with the mountpoint, where listeners have one.
    #[schema(example = "fleet/announcements")]
    topic: String,
    /// The payload as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The payload in Base64, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// 0, 1 or 2.
    #[serde(default)]
    #[schema(maximum = 2)]
    qos: u8,
    /// Whether it is retained. An empty payload then clears what is retained.
    #[serde(default)]
    retain: bool,
    /// Its media type, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// After how many seconds it is worthless; 0 and none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry: Option<u32>,
    /// Where an answer goes (MQTT 5): of requests to devices that `broker.mqtt_requests` lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response_topic: Option<String>,
    /// What the answer brings back, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
}

/// A message at the broker.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageView {
    /// The topic at the broker.
    pub topic: String,
    /// The payload, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The payload in Base64.
    pub payload_base64: String,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is, or was published to be, retained.
    pub retain: bool,
    /// Its media type, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// In how many seconds it is worthless; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// The client that published it, where that was one of this gateway's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clientid: Option<String>,
}

impl MessageView {
    fn of(message: &Message, now: &Moment) -> Self {
        let text = std::str::from_utf8(&message.payload).ok();
        Self {
            topic: message.topic.to_string(),
            payload: text.map(str::to_owned),
            payload_base64: Base64::encode_string(&message.payload),
            qos: message.qos.number(),
            retain: message.retain,
            content_type: message.content_type.as_deref().map(str::to_owned),
            expires_in_seconds: message
                .expires_at
                .map(|at| at.saturating_duration_since(now.steady).as_secs()),
            clientid: message
                .origin
                .as_ref()
                .and_then(|origin| Some(origin.client.as_ref()?.to_string())),
        }
    }
}

fn bad_topic(error: TopicError) -> ApiError {
    ApiError::bad_request(format!("topic: {error}"))
}

fn quality(number: u8) -> Result<Qos, ApiError> {
    Qos::from_number(number).ok_or_else(|| ApiError::bad_request("qos is 0, 1 or 2"))
}

/// The longest text or data that a property of MQTT holds, in bytes (MQTT 5, 1.5.4 and 1.5.6).
const MAX_PROPERTY: usize = 65_535;

/// A content type that a broker takes: what MQTT says not to send would end its connection, and everybody's with it.
fn media_type(text: String) -> Result<Arc<str>, ApiError> {
    if let Some(wrong) = unsendable(&text) {
        let point = u32::from(wrong);
        let why = format!("content_type holds U+{point:04X}, which MQTT does not carry");
        return Err(ApiError::bad_request(why));
    }
    if text.len() > MAX_PROPERTY {
        let most = format!("content_type has at most {MAX_PROPERTY} bytes");
        return Err(ApiError::bad_request(most));
    }
    Ok(text.into())
}

fn operator(api: &Api) -> Result<Operator, ApiError> {
    let none = || ApiError::bad_gateway("broker_unavailable", "the broker ended");
    api.site.operator().ok_or_else(none)
}

fn name(api: &Api, topic: &str) -> Result<TopicName, ApiError> {
    api.site.config().limits.topics().name(topic).map_err(bad_topic)
}

fn filter(api: &Api, topic: &str) -> Result<TopicFilter, ApiError> {
    api.site.config().limits.topics().filter(topic).map_err(bad_topic)
}

async fn broker<T>(answer: impl Future<Output = Result<T, BrokerError>>) -> Result<T, ApiError> {
    let late = |_| ApiError::timeout("the broker did not answer in time");
    timeout(PATIENCE, answer)
        .await
        .map_err(late)?
        .map_err(|error| match error {
            BrokerError::NotAuthorized => {
                ApiError::bad_gateway("not_authorized", "the broker does not let the gateway do that")
            }
            BrokerError::Refused => {
                ApiError::bad_gateway("refused", "the broker refuses that topic or filter")
            }
            BrokerError::TooLarge => {
                ApiError::bad_gateway("too_large", "the message is larger than the broker takes")
            }
            BrokerError::Quota => ApiError::conflict("quota", "a store is full"),
            BrokerError::Changed => ApiError::conflict("changed", "what is retained changed meanwhile"),
            BrokerError::Unavailable => {
                ApiError::bad_gateway("broker_unavailable", "the broker cannot take it now")
            }
        })
}

/// Publish a message
///
/// Past the devices and their rights, as another client of the broker would. It is done when the broker has it, or the spool.
#[utoipa::path(
    post,
    path = "/api/v1/publish",
    tag = "messages",
    request_body = NewMessage,
    responses(
        (status = 204),
        (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "A store is full"),
        (status = 502, body = ErrorBody, description = "The broker refuses it, or is away"),
        (status = 504, body = ErrorBody, description = "The broker did not answer in time")
    )
)]
pub(super) async fn publish(
    State(api): State<Arc<Api>>,
    Body(wanted): Body<NewMessage>,
) -> Result<StatusCode, ApiError> {
    let topic = name(&api, &wanted.topic)?;
    let config = api.site.config();
    let prefix = &config.broker.events_prefix;
    let is_request = !config.broker.mqtt_requests.is_empty()
        && topic
            .as_str()
            .strip_prefix(&format!("{prefix}/{}/clients/", config.node.name))
            .is_some_and(|rest| rest.split_once('/').is_some_and(|(_, last)| last == "request"));
    if !is_request && (topic.is_reserved() || is_below(topic.as_str(), prefix)) {
        return Err(ApiError::bad_request(
            "topics of $SYS and $portcullis are for the broker and the gateway to publish to",
        ));
    }
    let payload = device::payload(wanted.payload, wanted.payload_base64)?;
    let most = api.site.config().coap.blockwise.max_body_size.0;
    if u64::try_from(payload.len()).unwrap_or(u64::MAX) > most {
        return Err(ApiError::bad_request(format!(
            "the payload has {} bytes, and coap.blockwise.max_body_size allows {most}",
            payload.len()
        )));
    }
    let content_type = wanted.content_type.map(media_type).transpose()?;
    let too_long = |data: &String| data.len() > MAX_PROPERTY;
    if wanted.correlation_data.as_ref().is_some_and(too_long) {
        let most = format!("correlation_data has at most {MAX_PROPERTY} bytes");
        return Err(ApiError::bad_request(most));
    }
    let response_topic = wanted
        .response_topic
        .map(|topic| name(&api, &topic))
        .transpose()?;
    let correspondence = (response_topic.is_some() || wanted.correlation_data.is_some()).then(|| {
        Arc::new(Correspondence {
            response_topic,
            correlation_data: wanted.correlation_data.map(Bytes::from),
        })
    });
    let now = api.site.now();
    let expiry = wanted.expiry.filter(|seconds| *seconds > 0);
    let message = Message {
        topic,
        payload,
        qos: quality(wanted.qos)?,
        retain: wanted.retain,
        content_type,
        expires_at: expiry.and_then(|seconds| now.steady.checked_add(Duration::from_secs(seconds.into()))),
        origin: None,
        correspondence,
    };
    broker(operator(&api)?.publish(message)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which retained messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RetainedQuery {
    /// Only topics that this filter matches.
    #[serde(default = "everything")]
    #[param(default = "#")]
    topic: String,
    /// Which page, from 1.
    #[serde(default = "one")]
    #[param(default = 1, minimum = 1)]
    page: usize,
    /// Messages per page, 1 to 1024.
    #[serde(default = "hundred")]
    #[param(default = 100, minimum = 1, maximum = 1024)]
    limit: usize,
}

fn everything() -> String {
    "#".to_owned()
}

const fn one() -> usize {
    1
}

const fn hundred() -> usize {
    100
}

/// A page of retained messages.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RetainedPage {
    /// At most `meta.limit` messages, in the order of their topics.
    pub data: Vec<MessageView>,
    /// Where in the list they stand; `count` has all that were found.
    pub meta: PageMeta,
    /// Whether there may be more than the 1,024 that are found for one filter: ask with narrower ones.
    pub cut: bool,
}

/// List retained messages
#[utoipa::path(
    get,
    path = "/api/v1/retained",
    tag = "messages",
    params(RetainedQuery),
    responses(
        (status = 200, body = RetainedPage),
        (status = 400, body = ErrorBody),
        (status = 502, body = ErrorBody, description = "The broker refuses it, or is away"),
        (status = 504, body = ErrorBody, description = "The broker did not answer in time")
    )
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Params(query): Params<RetainedQuery>,
) -> Result<Json<RetainedPage>, ApiError> {
    let RetainedQuery { topic, page, limit } = query;
    if page == 0 || !(1..=MAX_RETAINED).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "page counts from 1, and limit is 1 to {MAX_RETAINED}"
        )));
    }
    let found = broker(operator(&api)?.retained(filter(&api, &topic)?)).await?;
    let now = api.site.now();
    let skip = (page - 1).saturating_mul(limit);
    Ok(Json(RetainedPage {
        data: found
            .iter()
            .skip(skip)
            .take(limit)
            .map(|message| MessageView::of(message, &now))
            .collect(),
        meta: PageMeta {
            page,
            limit,
            count: Some(found.len()),
            hasnext: found.len() > skip.saturating_add(limit),
        },
        cut: found.len() >= MAX_RETAINED,
    }))
}

/// Which retained message.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TopicQuery {
    /// The topic at the broker.
    topic: String,
}

/// Clear a retained message
#[utoipa::path(
    delete,
    path = "/api/v1/retained",
    tag = "messages",
    params(TopicQuery),
    responses(
        (status = 204),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "Nothing is retained there"),
        (status = 502, body = ErrorBody, description = "The broker refuses it, or is away"),
        (status = 504, body = ErrorBody, description = "The broker did not answer in time")
    )
)]
pub(super) async fn clear(
    State(api): State<Arc<Api>>,
    Params(TopicQuery { topic }): Params<TopicQuery>,
) -> Result<StatusCode, ApiError> {
    clear_topic(&api, &topic).await
}

/// Clear a retained message
#[utoipa::path(
    delete,
    path = "/api/v1/retained/{*topic}",
    tag = "messages",
    params(("topic" = String, Path, description = "The topic at the broker")),
    responses(
        (status = 204),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "Nothing is retained there"),
        (status = 502, body = ErrorBody, description = "The broker refuses it, or is away"),
        (status = 504, body = ErrorBody, description = "The broker did not answer in time")
    )
)]
pub(super) async fn clear_at(
    State(api): State<Arc<Api>>,
    Path(topic): Path<String>,
) -> Result<StatusCode, ApiError> {
    clear_topic(&api, &topic).await
}

async fn clear_topic(api: &Api, topic: &str) -> Result<StatusCode, ApiError> {
    let topic = name(api, topic)?;
    let operator = operator(api)?;
    if broker(operator.retained_at(topic.clone())).await?.is_none() {
        return Err(ApiError::not_found("nothing is retained there"));
    }
    let message = Message {
        retain: true,
        ..Message::new(topic, Bytes::new(), Qos::AtLeastOnce)
    };
    broker(operator.publish(message)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListenQuery {
    /// The topic filter at the broker.
    topic: String,
    /// The highest QoS to get them with: 0, 1 or 2.
    #[serde(default)]
    #[param(default = 0, maximum = 2)]
    qos: u8,
}

/// Listen to messages
///
/// Server-sent events: `data` is the JSON of a message. What is retained comes first. A reader that is too slow misses messages.
#[utoipa::path(
    get,
    path = "/api/v1/messages",
    tag = "messages",
    params(ListenQuery),
    responses(
        (status = 200, description = "Messages as they come", body = MessageView, content_type = "text/event-stream"),
        (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "Too many listen already"),
        (status = 502, body = ErrorBody, description = "The broker refuses it, or is away"),
        (status = 504, body = ErrorBody, description = "The broker did not answer in time")
    )
)]
pub(super) async fn listen(
    State(api): State<Arc<Api>>,
    Extension(seat): Extension<Seat>,
    Params(query): Params<ListenQuery>,
) -> Result<Response, ApiError> {
    let (filter, qos) = (filter(&api, &query.topic)?, quality(query.qos)?);
    let full = || ApiError::conflict("limit", "too many listen already");
    let place = Arc::clone(&api.readers).try_acquire_owned().map_err(|_| full())?;
    let (found, mut heard) = broker(operator(&api)?.listen(filter, qos, WAITING)).await?;
    let mut text = ": ok\n\n".to_owned();
    for message in &found {
        write_message(&mut text, message, &api.site.now());
    }
    let (to, lines) = mpsc::channel::<Bytes>(1);
    let busy = seat.keep();
    tokio::spawn(async move {
        // The connection lives for as long as its answer does.
        let _held = (busy, place);
        loop {
            if !matches!(timeout(STALLED, to.send(text.into())).await, Ok(Ok(()))) {
                return;
            }
            text = String::new();
            let next = tokio::select! {
                () = to.closed() => return,
                next = timeout(SIGN_OF_LIFE, heard.recv()) => next,
            };
            match next {
                Err(_) => text.push_str(": still there\n\n"),
                Ok(Some(Heard::Message(message))) => write_message(&mut text, &message, &api.site.now()),
                Ok(Some(Heard::Ended(_)) | None) => return,
            }
        }
    });
    Ok((
        [(header::CONTENT_TYPE, "text/event-stream")],
        HttpAnswer::new(Lines(lines)),
    )
        .into_response())
}

fn write_message(text: &mut String, message: &Message, now: &Moment) {
    if let Ok(json) = serde_json::to_string(&MessageView::of(message, now)) {
        // JSON has no line break in it.
        _ = write!(text, "event: message\ndata: {json}\n\n");
    }
}
