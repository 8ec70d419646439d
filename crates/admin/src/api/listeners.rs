//! `listeners`: what serves, switching it off and on, adding and removing.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as JsonValue};
use utoipa::ToSchema;

use portcullis_proto::types::{ListenerId, Transport};

use super::clients::transport;
use super::error::{ApiError, ErrorBody, ProblemView};
use super::extract::{Body, Path};
use super::handle::ListenerState;
use super::metrics::Metrics;
use super::{Api, config};

/// A socket address that is served, and how.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub(super) struct Listener {
    /// Its transport: `udp`, `dtls`, `tcp` or `tls`.
    pub kind: String,
    /// Its name, unique among those of its kind.
    pub name: String,
    /// Its address and port; the port in force where the file says 0.
    pub bind: String,
    /// Whether its sockets are open.
    pub enabled: bool,
    /// Live peers; on DTLS, established sessions.
    pub sessions: u64,
    /// Datagrams that came since the start of the process.
    pub datagrams_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Datagrams that were sent.
    pub datagrams_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
}

impl Listener {
    fn of(state: &ListenerState, metrics: &Metrics) -> Self {
        let labels = [
            ("listener", state.name.as_str()),
            ("transport", state.transport.label()),
        ];
        let count = |name: &str| metrics.count(name, &labels);
        Self {
            kind: state.transport.label().to_owned(),
            name: state.name.clone(),
            bind: state.bind.to_string(),
            enabled: state.enabled,
            sessions: count("portcullis_sessions"),
            datagrams_received: count("portcullis_udp_datagrams_received_total"),
            bytes_received: count("portcullis_udp_received_bytes_total"),
            datagrams_sent: count("portcullis_udp_datagrams_sent_total"),
            bytes_sent: count("portcullis_udp_sent_bytes_total"),
        }
    }
}

/// List the listeners
#[utoipa::path(get, path = "/api/v1/listeners", tag = "listeners", responses((status = 200, body = [Listener])))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<Vec<Listener>> {
    let all = api.site.listeners();
    let there = all.iter().filter(|listener| !listener.removed);
    let metrics = numbers(&api);
    Json(there.map(|listener| Listener::of(listener, &metrics)).collect())
}

fn numbers(api: &Api) -> Metrics {
    Metrics::parse(&api.site.metrics_text(), 0.0)
}

/// A listener to add.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewListener {
    /// Its transport: `udp`, `dtls`, `tcp` or `tls`.
    #[schema(pattern = "^(udp|dtls|tcp|tls)$")]
    kind: String,
    /// Its name: 1 to 64 letters, digits, `-` or `_`.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    name: String,
    /// Its table in the configuration file, such as `{"bind": "[::]:5685"}`.
    #[serde(default)]
    #[schema(value_type = Object)]
    settings: Map<String, JsonValue>,
}

/// A listener that was added.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct AddedListener {
    /// The listener as it is now.
    #[serde(flatten)]
    listener: Listener,
    /// What only a restart can do; then the listener does not serve yet.
    restart_required: Vec<String>,
    /// What should be said about the configuration, such as certificates that ran out.
    warnings: Vec<ProblemView>,
}

fn kind_of(word: &str) -> Result<Transport, ApiError> {
    transport(word).ok_or_else(|| {
        ApiError::not_found(format!(
            "listeners are `udp`, `dtls`, `tcp` or `tls`, not {word:?}"
        ))
    })
}

/// Add a listener
///
/// It is written into the configuration file, whose comments stay, and serves at once.
#[utoipa::path(
    post,
    path = "/api/v1/listeners",
    tag = "listeners",
    request_body = NewListener,
    responses(
        (status = 201, body = AddedListener),
        (status = 400, body = ErrorBody, description = "It is wrong; `problems` says where"),
        (status = 404, body = ErrorBody, description = "The gateway runs without a file"),
        (status = 409, body = ErrorBody, description = "It is there already, or cannot listen; nothing was changed")
    )
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Body(wanted): Body<NewListener>,
) -> Result<Response, ApiError> {
    let NewListener { kind, name, settings } = wanted;
    let transport = transport(&kind).ok_or_else(|| {
        ApiError::bad_request(format!("kind is `udp`, `dtls`, `tcp` or `tls`, not {kind:?}"))
    })?;
    let configured = settings
        .get("bind")
        .and_then(JsonValue::as_str)
        .map(str::to_owned);
    let called = name.clone();
    let report = config::change_listener(&api, transport, name.clone(), move |there| match there {
        Some(_) => Err(ApiError::conflict(
            "exists",
            format!("there is a {} listener {called:?} already", transport.label()),
        )),
        None => Ok(Some(settings)),
    })
    .await?;
    let all = api.site.listeners();
    let metrics = numbers(&api);
    let served = find(&all, transport, &name).map(|(_, listener)| Listener::of(listener, &metrics));
    let added = AddedListener {
        listener: served.unwrap_or_else(|| Listener {
            kind,
            name,
            bind: configured.unwrap_or_default(),
            ..Listener::default()
        }),
        restart_required: report.restart_required,
        warnings: report.warnings,
    };
    Ok((StatusCode::CREATED, Json(added)).into_response())
}

/// Remove a listener
///
/// What is connected through it ends, its sockets are closed, and its table leaves the configuration file.
#[utoipa::path(
    delete,
    path = "/api/v1/listeners/{kind}/{name}",
    tag = "listeners",
    params(
        ("kind" = String, Path, description = "`udp`, `dtls`, `tcp` or `tls`"),
        ("name" = String, Path, description = "The listener's name")
    ),
    responses(
        (status = 204),
        (status = 400, body = ErrorBody, description = "It is the last one"),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)
    )
)]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path((kind, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let transport = kind_of(&kind)?;
    let called = name.clone();
    config::change_listener(&api, transport, name, move |there| match there {
        Some(_) => Ok(None),
        None => Err(ApiError::not_found(format!(
            "the file has no {} listener {called:?}",
            transport.label()
        ))),
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn find<'a>(
    all: &'a [ListenerState],
    transport: Transport,
    name: &str,
) -> Option<(ListenerId, &'a ListenerState)> {
    (0..)
        .map(ListenerId)
        .zip(all)
        .find(|(_, listener)| !listener.removed && listener.transport == transport && listener.name == name)
}

/// Switch a listener off or on
///
/// Until the process is started again; then it is as configured.
#[utoipa::path(
    put,
    path = "/api/v1/listeners/{kind}/{name}/enable/{enabled}",
    tag = "listeners",
    params(
        ("kind" = String, Path, description = "`udp`, `dtls`, `tcp` or `tls`"),
        ("name" = String, Path, description = "The listener's name"),
        ("enabled" = bool, Path, description = "`true` or `false`")
    ),
    responses(
        (status = 200, body = Listener),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "It cannot be switched now")
    )
)]
pub(super) async fn enable(
    State(api): State<Arc<Api>>,
    Path((kind, name, enabled)): Path<(String, String, String)>,
) -> Result<Json<Listener>, ApiError> {
    let enabled: bool = enabled
        .parse()
        .map_err(|_| ApiError::bad_request("enable/true or enable/false"))?;
    let kind = kind_of(&kind)?;
    let missing = || ApiError::not_found(format!("there is no {} listener {name:?}", kind.label()));
    let all = api.site.listeners();
    let (id, before) = find(&all, kind, &name).ok_or_else(missing)?;
    if before.enabled != enabled {
        let _one_at_a_time = api.changes.lock().await;
        api.site
            .set_listener(id, enabled)
            .await
            .map_err(|why| ApiError::conflict("not_switched", why))?;
    }
    let all = api.site.listeners();
    let (_, now) = find(&all, kind, &name).ok_or_else(missing)?;
    Ok(Json(Listener::of(now, &numbers(&api))))
}
