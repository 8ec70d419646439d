//! `status` and `reload`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use portcullis_auth::LoginServer;
use portcullis_config::Problems;
use portcullis_proto::session::RestoreResult;
use portcullis_proto::types::reason::Label as _;

use super::error::{ApiError, ErrorBody, ProblemView};
use super::group::GroupStatus;
use super::handle::Reloaded;
use super::{Api, group, metrics, rfc3339, scope};

/// How the gateway is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The `name` of `[node]`.
    pub node: String,
    /// The version of Portcullis.
    pub version: String,
    /// The version of OpenSSL that is loaded.
    pub openssl: String,
    /// When the process started (RFC 3339).
    pub started_at: String,
    /// How long ago that was.
    pub uptime_seconds: u64,
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// Why it does not, when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// Threads that serve datagrams, 1 to 255.
    pub workers: u8,
    /// Listeners whose sockets are open.
    pub listeners: usize,
    /// Whether `ps/` requests need a connection.
    pub connection_required: bool,
    /// The file the configuration was read from; none in the quick start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
    /// Live peers by transport.
    pub sessions: Sessions,
    /// Connections of clients (connection mode).
    pub connections: u64,
    /// Observations of all clients (RFC 7641).
    pub subscriptions: u64,
    /// What went on when the process started, and what did not.
    pub restored: Restored,
    /// How the broker behind the gateway is.
    pub broker: Broker,
    /// The databases that are asked about logins; none where logins are judged here.
    pub login_servers: Vec<LoginDatabase>,
    /// The gateways that this one is one of; absent where it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupStatus>,
}

/// A database that is asked about logins.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LoginDatabase {
    /// The listener that has it for itself; absent for that of `[authentication]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Its `backend`.
    pub backend: String,
    /// Whether it is asked for pre-shared keys (`psk_source`) and not about logins.
    #[serde(default)]
    pub keys: bool,
    /// Whether it could be asked the last time.
    pub up: bool,
    /// Why it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// For how long that has been so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_seconds: Option<u64>,
}

impl From<LoginServer> for LoginDatabase {
    fn from(server: LoginServer) -> Self {
        Self {
            listener: server.listener.as_deref().map(str::to_owned),
            backend: server.backend.label().to_owned(),
            keys: server.knows_keys,
            up: server.fault.is_none(),
            down_seconds: server.fault.as_ref().map(|(_, time)| time.as_secs()),
            fault: server.fault.map(|(why, _)| why),
        }
    }
}

/// What an earlier process left, by how many of it went on (`ok`) or did not, and why: the `result` of the metrics.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// DTLS sessions.
    pub sessions: BTreeMap<String, u64>,
    /// Connections that went on.
    pub connections: u64,
    /// Observations.
    pub observations: BTreeMap<String, u64>,
    /// Notifications at QoS 1 or 2 that waited.
    pub notifications: BTreeMap<String, u64>,
}

/// How many peers there are, by transport.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// Addresses that are remembered on UDP listeners.
    pub udp: u64,
    /// Established DTLS sessions.
    pub dtls: u64,
    /// Connections over TCP.
    pub tcp: u64,
    /// Connections over TLS.
    pub tls: u64,
    /// DTLS sessions with a Connection ID.
    pub dtls_cid: u64,
    /// DTLS handshakes in flight.
    pub dtls_half_open: u64,
    /// DTLS sessions since the start that proved no identity to a listener that uses identities.
    pub dtls_unidentified: u64,
}

/// How the broker is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Broker {
    /// Whether it can be reached; the embedded one always.
    pub connected: bool,
    /// One line: `embedded`, `connected to mqtt://...`.
    pub state: String,
    /// What an upstream broker does not offer, each in words; nothing without a connection.
    pub lacks: Vec<String>,
    /// What a person has to put right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Messages from the broker so far.
    pub received: u64,
    /// Messages to the broker so far.
    pub sent: u64,
    /// Filters that are subscribed.
    pub filters: u64,
    /// Retained messages in the embedded broker.
    pub retained_messages: u64,
    /// What waits on disk for the broker.
    pub spool: Spool,
}

/// What is kept on disk for a broker that is away.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Spool {
    /// Messages that the broker does not have yet.
    pub messages: u64,
    /// Bytes of these messages on disk.
    pub bytes: u64,
    /// What it may hold in bytes; 0 when it is off.
    pub capacity_bytes: u64,
    /// Messages that were lost so far.
    pub dropped: u64,
    /// When the oldest was accepted, in seconds since 1970; 0 when it is empty.
    pub oldest_timestamp_seconds: f64,
    /// Whether it had to stop accepting because the disk failed.
    pub failed: bool,
}

/// How the gateway is
#[utoipa::path(get, path = "/api/v1/status", tag = "status", responses((status = 200, body = Status)))]
pub(super) async fn get_status(State(api): State<Arc<Api>>) -> Json<Status> {
    let now = api.site.now();
    let config = api.site.config();
    let state = api.site.state();
    let metrics = metrics::now(&api);
    let sessions = |transport| metrics.count("portcullis_sessions", &[("transport", transport)]);
    let restored = |name| {
        let results = RestoreResult::ALL.iter().map(|result| result.label());
        let counts = results.map(|label| (label.to_owned(), metrics.count(name, &[("result", label)])));
        counts.filter(|(_, count)| *count > 0).collect()
    };
    let numbers = state.numbers;
    let spool = Spool {
        messages: numbers.spool_messages,
        bytes: numbers.spool_bytes,
        capacity_bytes: numbers.spool_capacity_bytes,
        dropped: numbers.dropped_total(),
        oldest_timestamp_seconds: numbers.spool_oldest_timestamp_seconds,
        failed: numbers.spool_failed,
    };
    Json(Status {
        node: config.node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        openssl: openssl::version::version().to_owned(),
        started_at: rfc3339(state.started),
        uptime_seconds: now
            .wall
            .duration_since(state.started)
            .unwrap_or_default()
            .as_secs(),
        ready: state.ready.is_ok(),
        not_ready: state.ready.err(),
        workers: api.site.workers(),
        listeners: api
            .site
            .listeners()
            .iter()
            .filter(|listener| listener.enabled)
            .count(),
        connection_required: config.coap.connection_required,
        config_file: config.source.as_ref().map(|path| path.display().to_string()),
        sessions: Sessions {
            udp: sessions("udp"),
            dtls: sessions("dtls"),
            tcp: sessions("tcp"),
            tls: sessions("tls"),
            dtls_cid: metrics.count("portcullis_dtls_cid_sessions", &[]),
            dtls_half_open: metrics.count("portcullis_dtls_half_open", &[]),
            dtls_unidentified: metrics.count("portcullis_dtls_unidentified_total", &[]),
        },
        connections: metrics.count("portcullis_connections", &[]),
        subscriptions: metrics.count("portcullis_subscriptions", &[]),
        restored: Restored {
            sessions: restored("portcullis_sessions_restored_total"),
            connections: metrics.count("portcullis_connections_total", &[("result", "restored")]),
            observations: restored("portcullis_observations_restored_total"),
            notifications: restored("portcullis_notifications_restored_total"),
        },
        broker: Broker {
            connected: numbers.connected,
            state: state.broker.connection,
            lacks: state.broker.lacks,
            fault: state.broker.fault,
            received: numbers.received,
            sent: numbers.sent,
            filters: numbers.subscriptions,
            retained_messages: numbers.retained_messages,
            spool,
        },
        login_servers: state.logins.into_iter().map(LoginDatabase::from).collect(),
        group: api.site.group().map(GroupStatus::of),
    })
}

/// What came of a reload.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReloadReport {
    /// Keys that changed and take effect only after a restart.
    pub restart_required: Vec<String>,
    /// What should be said about what is in force now, such as certificates that ran out.
    pub warnings: Vec<ProblemView>,
}

impl ReloadReport {
    pub(super) fn of(reloaded: &Reloaded) -> Self {
        Self {
            restart_required: reloaded.needs_restart.clone(),
            warnings: ProblemView::all(&reloaded.warnings),
        }
    }
}

/// Read the configuration and the files that it names again
///
/// All or nothing: when anything is wrong, the old configuration stays in force. On a node of a group what all share may not have been
/// changed by hand; with the header `Portcullis-Scope: local` it is kept for this node alone.
#[utoipa::path(
    post,
    path = "/api/v1/reload",
    tag = "configuration",
    responses(
        (status = 200, body = ReloadReport),
        (status = 409, body = ErrorBody, description = "Something is wrong; the old stays in force")
    )
)]
pub(super) async fn post_reload(State(api): State<Arc<Api>>) -> Result<Json<ReloadReport>, ApiError> {
    let _one_at_a_time = api.changes.lock().await;
    if api.site.group().is_some() && scope::group(&api).is_none() {
        group::share::keep_here(&api, None).await?;
    }
    let reloaded = api
        .site
        .reload()
        .await
        .map_err(|problems| not_reloaded(&problems))?;
    Ok(Json(ReloadReport::of(&reloaded)))
}

/// That the process ends.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DrainReport {
    /// DTLS sessions that hear goodbye.
    pub sessions: u64,
}

/// Say goodbye to every device and end
///
/// Answers in flight are given, then every DTLS session gets close_notify although the next process would find it. The process ends as
/// after a stop: a service manager starts it again only when it is told to.
#[utoipa::path(
    post,
    path = "/api/v1/drain",
    tag = "status",
    responses(
        (status = 202, body = DrainReport, description = "It begins"),
        (status = 409, body = ErrorBody, description = "The process is ending already")
    )
)]
pub(super) async fn post_drain(
    State(api): State<Arc<Api>>,
) -> Result<(StatusCode, Json<DrainReport>), ApiError> {
    let sessions = count(&api.site.metrics_text());
    let drained = api.site.drain().await;
    drained.map_err(|why| ApiError::conflict("ending", why))?;
    Ok((StatusCode::ACCEPTED, Json(DrainReport { sessions })))
}

/// How many DTLS sessions a scrape shows.
fn count(metrics: &str) -> u64 {
    let is_session =
        |line: &&str| line.starts_with("portcullis_sessions{") && line.contains("transport=\"dtls\"");
    let values = metrics.lines().filter(is_session);
    let values = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

pub(super) fn not_reloaded(problems: &Problems) -> ApiError {
    let message = format!(
        "not reloaded, the old configuration stays in force: {}",
        summary(problems)
    );
    ApiError::conflict("reload_failed", message).with(problems)
}

/// The first reason, and how many more there are.
pub(super) fn summary(problems: &Problems) -> String {
    let reasons = problems.reasons();
    let first = reasons.first();
    let text = first.map_or("no reason given", |problem| problem.message.as_str());
    let place = first
        .and_then(|problem| problem.place.as_ref())
        .map(|place| format!("line {}, column {}: ", place.line, place.column))
        .unwrap_or_default();
    match reasons.len() {
        0 | 1 => format!("{place}{text}"),
        more => format!("{place}{text} (and {} more)", more - 1),
    }
}
