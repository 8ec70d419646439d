//! The HTTP API under `/api/v1` and the dashboard at `/`, on a thread of their own.
//!
//! | file | what |
//! |---|---|
//! | [`handle`] | the seam: what the process does for this interface |
//! | `access` | tokens, roles |
//! | `acl` | what the access rules would say |
//! | `audit` | a line in the log for each change |
//! | `listing`, `clients`, `subscriptions`, `device`, `calls`, `mqtt_requests`, `trace`, `events` | clients |
//! | `messages` | publish, listen, retained messages |
//! | `status`, `metrics`, `history` | how the gateway is |
//! | `group`, `scope` | the gateways that it is one of, and what they share |
//! | `config`, `schema`, `effective`, `listeners`, `psk`, `users`, `tokens`, `bans`, `lifetime`, `files` | changes |
//! | `emqx` | the same for tools of EMQX |
//! | [`restart`] | which changes a reload does not do |
//! | [`serve`] | connections, TLS, time-outs |
//!
//! Workers are asked one small question at a time: a list is walked in steps of 256 places.

mod access;
#[expect(
    unused_qualifications,
    reason = "utoipa writes the types of parameters out in full"
)]
mod acl;
mod audit;
mod bans;
mod calls;
#[expect(
    unused_qualifications,
    reason = "utoipa writes the types of parameters out in full"
)]
mod clients;
mod config;
mod device;
mod effective;
mod emqx;
mod error;
#[expect(
    unused_qualifications,
    reason = "utoipa writes the types of parameters out in full"
)]
mod events;
mod extract;
mod files;
mod group;
pub mod handle;
#[expect(
    unused_qualifications,
    reason = "utoipa writes the types of parameters out in full"
)]
mod history;
mod lifetime;
mod listeners;
mod listing;
#[expect(
    unused_qualifications,
    reason = "utoipa writes the types of parameters out in full"
)]
mod messages;
mod metrics;
mod mqtt_requests;
#[expect(
    unused_qualifications,
    reason = "utoipa writes the types of parameters out in full"
)]
mod psk;
pub mod restart;
mod schema;
mod scope;
pub mod serve;
mod status;
mod subscriptions;
mod tokens;
mod trace;
mod trace_event;
mod users;

use std::error::Error as _;
use std::iter::successors;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Mutex, Semaphore};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::compress;
use crate::places::Seat;
use crate::server::Peer;
use portcullis_proto::gateway::contract::{ControlAnswer, ControlRequest};
use portcullis_proto::types::{LineError, WorkerId};

use access::Gate;
use audit::Change;
use error::ApiError;
use handle::Site;

pub use bans::BanView;
pub use clients::{Client, ClientDetail, ClientPage, ClientTraffic, DtlsSession, PageMeta, ProvedIdentity};
pub use effective::{Effective, EffectiveKey};
pub use error::{ErrorBody, ProblemView};
pub use group::routes::ImportReport;
pub use group::view::{GroupView, NodeView};
pub use group::{GROUP_UNKNOWN, GroupMember, GroupStatus};
pub use history::{History, HistoryPoint};
pub use messages::{MessageView, RetainedPage};
pub use metrics::{Metrics, Sample};
pub use status::{Broker, DrainReport, LoginDatabase, ReloadReport, Restored, Sessions, Spool, Status};
pub use subscriptions::Subscription;
pub use trace_event::{TraceEvent, TraceMessage, TraceOption, TraceSession};

/// How long a worker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(20);

/// Largest body, unless a payload for a device may be larger.
const MAX_BODY: u64 = 2 << 20;

/// Changes that are under way or wait for their turn.
const ORDERS: usize = 256;

/// What all requests share.
struct Api {
    site: Arc<dyn Site>,
    gate: Gate,
    /// Changes are made one after the other.
    changes: Mutex<()>,
    /// Places for what is done to its end, whoever still waits for it.
    orders: Arc<Semaphore>,
    /// Walks through all clients.
    walks: Semaphore,
    /// As many permits as traces may run at once.
    traces: Arc<Semaphore>,
    /// As many permits as may read events at once.
    readers: Arc<Semaphore>,
    /// Requests to devices that were told to wait.
    calls: calls::Calls,
    openapi: String,
    /// The last hour.
    history: std::sync::Mutex<history::Recorder>,
}

/// The management interface of Portcullis.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Portcullis",
        description = "Management of a Portcullis gateway. Errors have the form of `Error`.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
    ),
    tags(
        (name = "status", description = "How the gateway is"),
        (name = "clients", description = "Devices"),
        (name = "bans", description = "Who is kept out"),
        (name = "messages", description = "What the broker has and gets"),
        (name = "credentials", description = "Users and pre-shared keys"),
        (name = "listeners", description = "What serves"),
        (name = "configuration", description = "The configuration file"),
        (name = "group", description = "What all nodes of a group share")
    ),
    security((), ("token" = []))
)]
struct Document;

/// The document of the interface
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    tag = "status",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
async fn get_openapi(State(api): State<Arc<Api>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], api.openapi.clone()).into_response()
}

/// Every route with its part of the document: what is served and what is documented come from the same list.
fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status::get_status))
        .routes(routes!(metrics::get_metrics))
        .routes(routes!(history::get))
        .routes(routes!(access::get_self))
        .routes(routes!(acl::check))
        .routes(routes!(get_openapi))
        .routes(routes!(clients::list))
        .routes(routes!(clients::show, clients::kick))
        .routes(routes!(subscriptions::list, subscriptions::add))
        .routes(routes!(subscriptions::remove))
        .routes(routes!(device::request))
        .routes(routes!(calls::show))
        .routes(routes!(trace::start))
        .routes(routes!(events::follow))
        .routes(routes!(messages::publish))
        .routes(routes!(messages::list, messages::clear))
        .routes(routes!(messages::clear_at))
        .routes(routes!(messages::listen))
        .routes(routes!(config::get, config::put))
        .routes(routes!(schema::get))
        .routes(routes!(effective::get))
        .routes(routes!(status::post_reload))
        .routes(routes!(status::post_drain))
        .routes(routes!(listeners::list, listeners::add))
        .routes(routes!(listeners::remove))
        .routes(routes!(listeners::enable))
        .routes(routes!(users::list, users::add))
        .routes(routes!(users::remove))
        .routes(routes!(psk::list, psk::add))
        .routes(routes!(psk::remove, psk::describe))
        .routes(routes!(tokens::list, tokens::add))
        .routes(routes!(tokens::remove))
        .routes(routes!(bans::list, bans::add))
        .routes(routes!(bans::remove))
        .routes(routes!(group::view::show))
        .routes(routes!(group::routes::import))
        .routes(routes!(group::routes::restore))
}

/// The OpenAPI 3.1 document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("token", scheme);
    // A parameter that takes the rest of the path is written `{*name}` for the router and `{name}` in the document.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    for (route, item) in &mut document.paths.paths {
        error::complete(route, item);
    }
    document
}

/// The API and the dashboard, and the work that goes on beside them.
fn router(site: Arc<dyn Site>) -> (Router, impl Future<Output = ()> + Send + 'static) {
    let calls = calls::Calls::new(site.now().wall);
    let api = Arc::new(Api {
        calls,
        gate: Gate::new(site.config()),
        site,
        changes: Mutex::new(()),
        orders: Arc::new(Semaphore::new(ORDERS)),
        walks: Semaphore::new(1),
        traces: Arc::new(Semaphore::new(trace::TRACES)),
        readers: Arc::new(Semaphore::new(events::READERS)),
        openapi: openapi().to_json().unwrap_or_default(),
        history: std::sync::Mutex::default(),
    });
    let (router, _) = routes().split_for_parts();
    let (recording, following) = (history::record(Arc::clone(&api)), group::follow(Arc::clone(&api)));
    let asked = mqtt_requests::serve(Arc::clone(&api));
    let work = async move { _ = tokio::join!(recording, following, asked) };
    let router = router
        .merge(emqx::router(&api))
        .merge(group::routes::between_nodes())
        .with_state(api.clone())
        .merge(crate::dashboard::router())
        .fallback(async || ApiError::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the path is there, but not for this method",
            )
        })
        .layer(from_fn_with_state(api, guard))
        .layer(from_fn(compress::layer));
    (router, work)
}

/// What every request goes through: who asks, the whole body within its bounds, the audit line, headers for browsers.
async fn guard(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    Extension(seat): Extension<Seat>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = if request.uri().path().starts_with("/api/") {
        admitted(&api, peer, &seat, request, next).await
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    response
}

async fn admitted(api: &Api, peer: Peer, seat: &Seat, request: Request, next: Next) -> Response {
    let config = api.site.config();
    let (parts, body) = request.into_parts();
    let (method, path) = (&parts.method, parts.uri.path());
    let takes_keys = emqx::covers(&config, path);
    let caller = match api
        .gate
        .admit(&config, &parts.headers, peer, api.site.now().wall, takes_keys)
    {
        Ok(caller) => caller,
        Err(error) => return ended(Change::by_nobody(peer, method, path), error),
    };
    let mut change = Change::by(&caller, method, path);
    let encoded = config.coap.blockwise.max_body_size.0 / 3 * 4 + (64 << 10);
    let limit = usize::try_from(MAX_BODY.max(encoded)).unwrap_or(usize::MAX);
    // Read here as a whole, so that no handler waits for a slow sender with a lock in its hands.
    let read = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, limit)).await;
    match read {
        Ok(Ok(body)) => {
            // Who sends slowly makes room for others; who has asked is answered.
            let _busy = seat.keep();
            if let Some(change) = &mut change {
                change.about(&parts.headers, &body);
            }
            if let Err(error) = caller.check(method) {
                return ended(change, error);
            }
            let mut request = Request::from_parts(parts, Body::from(body));
            request.extensions_mut().insert(caller);
            served(api, change, request, next).await
        }
        Ok(Err(error)) => {
            let mut causes = successors(error.source(), |cause| (*cause).source());
            let wrong = match causes.any(|cause| cause.is::<hyper::Error>()) {
                true => ApiError::bad_request("the body did not arrive whole, or its chunks are malformed"),
                false => extract::too_large(),
            };
            ended(change, wrong)
        }
        Err(_) => {
            let late = ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "slow_body",
                "the body took too long to arrive",
            );
            ended(change, late)
        }
    }
}

/// The answer to what is not done, told of in the log where it would have changed something.
fn ended(change: Option<Change>, error: ApiError) -> Response {
    let response = error.into_response();
    if let Some(change) = change {
        change.ended(&response);
    }
    response
}

/// Has a request answered. What changes something is done to its end and told of in the log, even when the one who asked hangs
/// up meanwhile: half a change, such as a file that is written and not in force, must not be had by closing a connection.
async fn served(api: &Api, change: Option<Change>, request: Request, next: Next) -> Response {
    let is_local = scope::is_local(request.headers(), request.extensions());
    let Some(change) = change else {
        return scope::within(is_local, next.run(request)).await;
    };
    let Ok(place) = Arc::clone(&api.orders).try_acquire_owned() else {
        let full = ApiError::conflict("busy", format!("{ORDERS} changes are under way already"));
        return ended(Some(change), full);
    };
    let order = tokio::spawn(async move {
        let answered = tokio::spawn(scope::within(is_local, next.run(request))).await;
        let response = answered.unwrap_or_else(|_| ApiError::internal("it failed").into_response());
        drop(place);
        change.ended(&response);
        response
    });
    order
        .await
        .unwrap_or_else(|_| ApiError::internal("it failed").into_response())
}

/// Has a worker do or tell something; an error when it does not answer in time.
async fn ask(api: &Api, worker: WorkerId, request: ControlRequest) -> Result<ControlAnswer, ApiError> {
    ask_for(api, worker, request, PATIENCE).await
}

async fn ask_for(
    api: &Api,
    worker: WorkerId,
    request: ControlRequest,
    patience: Duration,
) -> Result<ControlAnswer, ApiError> {
    tokio::time::timeout(patience, api.site.ask(worker, request))
        .await
        .map_err(|_| ApiError::timeout("a worker did not answer in time"))?
        .ok_or_else(ApiError::worker_gone)
}

/// A time as RFC 3339 has it, to the millisecond, in UTC.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

fn wrong_lines(what: &str, errors: &[LineError]) -> ApiError {
    let lines: Vec<String> = errors.iter().take(5).map(ToString::to_string).collect();
    ApiError::conflict("broken_file", format!("{what} is broken: {}", lines.join("; ")))
}
