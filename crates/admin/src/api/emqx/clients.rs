//! Clients, their observations, and requests to them, in EMQX's JSON.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use portcullis_config::Config;
use portcullis_proto::types::Transport;

use crate::api::Api;
use crate::api::clients::{self, Client, MAX_LIMIT, MAX_SORTED, client_id, one};
use crate::api::device::{self, ContentFormat, DeviceAnswer, DeviceRequest, Query, Timeout};
use crate::api::error::ApiError;
use crate::api::extract::{Body, Params, Path};
use crate::api::handle::Moment;
use crate::api::listing::{self, Direction, Filter, Order, SortBy};
use crate::api::subscriptions::{self, NewSubscription, Subscription};

use super::{answer, listener_id, refusal, unbounded};

/// The code of a client that is not there.
const MISSING: [(StatusCode, &str); 1] = [(StatusCode::NOT_FOUND, "RESOURCE_NOT_FOUND")];

/// The codes of a device that did not answer.
const UNANSWERED: [(StatusCode, &str); 3] = [
    (StatusCode::NOT_FOUND, "CLIENT_NOT_FOUND"),
    (StatusCode::BAD_GATEWAY, "CLIENT_BAD_RESPONSE"),
    (StatusCode::GATEWAY_TIMEOUT, "CLIENT_NOT_RESPONSE"),
];

/// Which clients. What is true of every client here, or of none, such as `proto_ver`, is no filter and is not asked about.
#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default = "one")]
    page: usize,
    #[serde(default = "clients::hundred")]
    limit: usize,
    node: Option<String>,
    clientid: Option<String>,
    username: Option<String>,
    ip_address: Option<IpAddr>,
    conn_state: Option<String>,
    like_clientid: Option<String>,
    like_username: Option<String>,
    gte_created_at: Option<String>,
    lte_created_at: Option<String>,
    gte_connected_at: Option<String>,
    lte_connected_at: Option<String>,
}

impl ListQuery {
    fn filter(self, now: &Moment) -> Result<Filter, ApiError> {
        let client = self.clientid.as_deref().map(client_id).transpose()?;
        let online = match self.conn_state.as_deref() {
            None => None,
            Some("connected") => Some(true),
            Some("disconnected" | "idle") => Some(false),
            Some(_) => {
                return Err(ApiError::bad_request(
                    "conn_state is connected, idle or disconnected",
                ));
            }
        };
        // A client here is connected from when it is made.
        let moment = |key: &str, text: Option<String>| text.map(|text| moment(key, &text, now)).transpose();
        let from = [
            moment("gte_created_at", self.gte_created_at)?,
            moment("gte_connected_at", self.gte_connected_at)?,
        ];
        let to = [
            moment("lte_created_at", self.lte_created_at)?,
            moment("lte_connected_at", self.lte_connected_at)?,
        ];
        Ok(Filter {
            client,
            like_client: self.like_clientid,
            username: self.username,
            like_username: self.like_username,
            ip: self.ip_address,
            online,
            since: (from.into_iter().flatten().max(), to.into_iter().flatten().min()),
            ..Filter::default()
        })
    }
}

/// A time as RFC 3339 has it, or in milliseconds since 1970, by the clock that does not jump.
fn moment(key: &str, text: &str, now: &Moment) -> Result<Instant, ApiError> {
    let wrong = || {
        ApiError::bad_request(format!(
            "{key} is a time such as 2026-12-31T00:00:00Z, or milliseconds since 1970"
        ))
    };
    let wall = match text.parse() {
        Ok(millis) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)),
        Err(_) => humantime::parse_rfc3339(text).ok(),
    };
    let wall = wall.ok_or_else(wrong)?;
    let at = match now.wall.duration_since(wall) {
        Ok(ago) => now.steady.checked_sub(ago),
        Err(ahead) => now.steady.checked_add(ahead.duration()),
    };
    at.ok_or_else(wrong)
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Params<ListQuery>, ApiError>,
) -> Response {
    answer(page(&api, query).await)
}

async fn page(api: &Api, query: Result<Params<ListQuery>, ApiError>) -> Result<Value, ApiError> {
    let Params(query) = query?;
    let (page, limit) = (query.page, query.limit);
    if page == 0 || !(1..=MAX_LIMIT).contains(&limit) {
        let message = format!("page counts from 1, and limit is 1 to {MAX_LIMIT}");
        return Err(ApiError::bad_request(message));
    }
    let (config, now) = (api.site.config(), api.site.now());
    let meta = |count: Option<usize>, more: bool| {
        let mut meta = json!({ "page": page, "limit": limit, "hasnext": more });
        if let (Some(count), Some(members)) = (count, meta.as_object_mut()) {
            members.insert("count".to_owned(), count.into());
        }
        meta
    };
    if query.node.as_ref().is_some_and(|node| *node != config.node.name) {
        return Ok(json!({ "data": [], "meta": meta(Some(0), false) }));
    }
    let filter = query.filter(&now)?;
    let skip = (page - 1).saturating_mul(limit);
    // In an order, every page tells how many there are.
    let found = if skip.saturating_add(limit) <= MAX_SORTED {
        let order = Order {
            by: SortBy::Clientid,
            direction: Direction::Asc,
        };
        listing::find_in_order(api, &filter, order, skip, limit).await?
    } else {
        listing::find(api, &filter, skip, limit).await?
    };
    let listeners = api.site.listeners();
    let shown = |info| client(&Client::of(info, &now, &listeners), &config);
    let data: Vec<Value> = found.clients.iter().map(shown).collect();
    Ok(json!({ "data": data, "meta": meta(found.total, found.more) }))
}

/// A client with EMQX's names for things.
fn client(own: &Client, config: &Config) -> Value {
    let address: Option<SocketAddr> = own.address.as_deref().and_then(|address| address.parse().ok());
    let traffic = own.traffic.clone().unwrap_or_default();
    let is_it = |listener: &&portcullis_config::Listener| {
        listener.name == own.listener && Transport::label(listener.transport()) == own.transport
    };
    let listener = config.listeners.iter().find(is_it);
    let heartbeat = listener
        .and_then(|listener| listener.common.heartbeat)
        .unwrap_or(config.coap.heartbeat);
    json!({
        "clientid": own.clientid,
        "username": own.username,
        "node": config.node.name,
        "proto_name": "CoAP",
        "proto_ver": "1",
        "listener": listener_id(&own.transport, &own.listener),
        "ip_address": address.map(|address| address.ip().to_canonical().to_string()),
        "port": address.map(|address| address.port()),
        "is_bridge": false,
        "connected": own.online,
        "connected_at": own.created_at,
        "created_at": own.created_at,
        "disconnected_at": if own.online { None } else { Some(&own.seen_at) },
        "keepalive": heartbeat.as_secs(),
        "clean_start": true,
        "expiry_interval": 0,
        "subscriptions_cnt": own.subscriptions,
        "subscriptions_max": unbounded(),
        "recv_oct": traffic.bytes_received,
        "recv_cnt": traffic.messages_received,
        "recv_pkt": traffic.messages_received,
        "recv_msg": traffic.publishes_received,
        "send_oct": traffic.bytes_sent,
        "send_cnt": traffic.messages_sent,
        "send_pkt": traffic.messages_sent,
        "send_msg": traffic.publishes_sent,
    })
}

pub(super) async fn show(State(api): State<Arc<Api>>, id: Result<Path<String>, ApiError>) -> Response {
    let config = api.site.config();
    let found = match id {
        Ok(Path(id)) => clients::show_own(&api, &id).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(detail) => Json(client(&detail.client, &config)).into_response(),
        Err(error) => refusal(&error, &MISSING),
    }
}

pub(super) async fn kick(State(api): State<Arc<Api>>, id: Result<Path<String>, ApiError>) -> Response {
    let done = match id {
        Ok(Path(id)) => clients::kick_own(&api, &id).await,
        Err(error) => Err(error),
    };
    done.map_or_else(|error| refusal(&error, &MISSING), |status| status.into_response())
}

/// An observation with EMQX's names for things.
fn subscription(topic: &str, qos: u8, no_local: bool, token: &str) -> Value {
    json!({ "topic": topic, "qos": qos, "nl": u8::from(no_local), "rap": 0, "rh": 0, "sub_props": { "token": token } })
}

pub(super) async fn subscriptions(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, ApiError>,
) -> Response {
    let found = match id {
        Ok(id) => subscriptions::list(State(api), id).await,
        Err(error) => Err(error),
    };
    let shown = |own: &Subscription| subscription(&own.topic, own.qos, own.no_local, &own.token);
    match found {
        Ok(Json(all)) => Json(all.iter().map(shown).collect::<Vec<_>>()).into_response(),
        Err(error) => refusal(&error, &MISSING),
    }
}

/// What to subscribe a client to. Of the options of MQTT only `qos` means anything to an observation that somebody else makes.
#[derive(Deserialize)]
pub(super) struct Wanted {
    topic: String,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    sub_props: SubProps,
}

/// The CoAP token that notifications are to carry, as text.
#[derive(Default, Deserialize)]
struct SubProps {
    token: Option<String>,
}

pub(super) async fn subscribe(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, ApiError>,
    body: Result<Body<Wanted>, ApiError>,
) -> Response {
    let (
        id,
        Wanted {
            topic,
            qos,
            sub_props,
        },
    ) = match (id, body) {
        (Ok(id), Ok(Body(wanted))) => (id, wanted),
        (Err(error), _) | (_, Err(error)) => return refusal(&error, &[]),
    };
    let token = sub_props.token.filter(|token| !token.is_empty());
    let wanted = NewSubscription {
        topic: topic.clone(),
        qos,
        token: token.as_ref().map(hex::encode),
    };
    match subscriptions::add(State(api), id, Body(wanted)).await {
        Ok(_) => {
            let made = subscription(&topic, qos, false, token.as_deref().unwrap_or_default());
            (StatusCode::CREATED, Json(made)).into_response()
        }
        Err(error) => refusal(&error, &MISSING),
    }
}

pub(super) async fn unsubscribe(
    State(api): State<Arc<Api>>,
    path: Result<Path<(String, String)>, ApiError>,
) -> Response {
    let done = match path {
        Ok(path) => subscriptions::remove(State(api), path).await,
        Err(error) => Err(error),
    };
    done.map_or_else(|error| refusal(&error, &MISSING), |status| status.into_response())
}

/// A request to a device. `path` and `query` are not EMQX's, which can name neither.
#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    token: String,
    #[serde(default = "method")]
    method: String,
    timeout: Option<Timeout>,
    #[serde(default = "content_type")]
    content_type: String,
    payload: Option<String>,
    #[serde(default)]
    path: String,
    #[serde(default)]
    query: Query,
}

fn method() -> String {
    "get".to_owned()
}

fn content_type() -> String {
    "text/plain".to_owned()
}

/// The one whose payloads go and come in Base64.
const OCTETS: &str = "application/octet-stream";

/// What a payload may be, and its Content-Format (RFC 7252, 12.3).
const FORMATS: [(&str, u16); 3] = [("text/plain", 0), ("application/json", 50), (OCTETS, 42)];

pub(super) async fn request(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, ApiError>,
    body: Result<Body<Asked>, ApiError>,
) -> Response {
    let (id, asked) = match (id, body) {
        (Ok(id), Ok(Body(asked))) => (id, asked),
        (Err(error), _) | (_, Err(error)) => return refusal(&error, &[]),
    };
    let in_base64 = asked.content_type == OCTETS;
    let Some((_, format)) = FORMATS.into_iter().find(|(name, _)| *name == asked.content_type) else {
        let error = ApiError::bad_request(format!(
            "content_type is text/plain, application/json or {OCTETS}"
        ));
        return refusal(&error, &[]);
    };
    let payload = asked.payload.filter(|payload| !payload.is_empty());
    let (text, base64) = if in_base64 {
        (None, payload)
    } else {
        (payload, None)
    };
    let wanted = DeviceRequest {
        method: asked.method,
        path: asked.path,
        query: asked.query,
        content_format: (text.is_some() || base64.is_some()).then_some(ContentFormat::Number(format)),
        payload: text,
        payload_base64: base64,
        timeout: asked.timeout,
        wait: None,
    };
    let answered = match client_id(&id.0) {
        Ok(client) => device::ask_device(&api, &client, wanted, device::Patience::ToTheEnd).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(device::Asked::Answered(answered)) => {
            Json(device_answer(answered, &asked.token, in_base64)).into_response()
        }
        // It was not told to wait.
        Ok(device::Asked::Queued(_)) => refusal(
            &ApiError::timeout("the device did not answer in time"),
            &UNANSWERED,
        ),
        Err(error) => refusal(&error, &UNANSWERED),
    }
}

/// What a device answered: `method` in Erlang's words, as EMQX has it, and `code` in those of CoAP. The message id is the gateway's own.
fn device_answer(answered: DeviceAnswer, token: &str, in_base64: bool) -> Value {
    let payload = match answered.payload {
        Some(text) if !in_base64 => text,
        _ => answered.payload_base64,
    };
    json!({
        "id": 0,
        "token": token,
        "method": in_erlang(&answered.code),
        "code": answered.code,
        "payload": payload,
    })
}

/// A response code as EMQX prints it.
fn in_erlang(code: &str) -> String {
    let word = match code {
        "2.01" => "created",
        "2.02" => "deleted",
        "2.03" => "valid",
        "2.04" => "changed",
        "2.05" => "content",
        "2.07" => "nocontent",
        "2.31" => "continue",
        "4.00" => "bad_request",
        "4.01" => "unauthorized",
        "4.02" => "bad_option",
        "4.03" => "forbidden",
        "4.04" => "not_found",
        "4.05" => "method_not_allowed",
        "4.06" => "not_acceptable",
        "4.08" => "request_entity_incomplete",
        "4.12" => "precondition_failed",
        "4.13" => "request_entity_too_large",
        "4.15" => "unsupported_content_format",
        "5.00" => "internal_server_error",
        "5.01" => "not_implemented",
        "5.02" => "bad_gateway",
        "5.03" => "service_unavailable",
        "5.04" => "gateway_timeout",
        "5.05" => "proxying_not_supported",
        other => other,
    };
    let kind = if code.starts_with('2') { "ok" } else { "error" };
    format!("{{{kind},{word}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test reads the clock")]
    fn times_are_rfc_3339_or_milliseconds() {
        let now = Moment {
            steady: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        let ago = |text: &str| now.since(moment("k", text, &now).unwrap()).as_secs();
        assert_eq!((ago("1799999990000"), ago("2027-01-15T07:59:50Z")), (10, 10));
        assert!(moment("k", "2027-01-15T08:00:20Z", &now).unwrap() > now.steady);
        assert_eq!(ago("0"), 1_800_000_000);
        for bad in ["", "yesterday", "2027-01-15", "99999999999999999999"] {
            assert!(moment("k", bad, &now).is_err(), "{bad}");
        }
    }

    #[test]
    fn codes_are_erlang_terms() {
        assert_eq!(
            (in_erlang("2.05"), in_erlang("4.04")),
            ("{ok,content}".to_owned(), "{error,not_found}".to_owned())
        );
        assert_eq!(in_erlang("4.29"), "{error,4.29}");
    }
}
