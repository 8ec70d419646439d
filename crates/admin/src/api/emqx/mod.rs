//! `/api/v5/gateways/coap`: what tools that were written for EMQX ask of its CoAP gateway, in its JSON, while
//! `admin.emqx_aliases` says so.

mod clients;
mod users;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use portcullis_config::quantity::show_duration;
use portcullis_config::{Backend, Config, Listener, Login};

use super::error::ApiError;
use super::extract::{Params, Path};
use super::handle::ListenerState;
use super::{Api, rfc3339};

/// What these paths begin with.
const PREFIX: &str = "/api/v5/";

/// Whether a request is for tools of EMQX, which show an API key by the scheme `Basic`.
pub(super) fn covers(config: &Config, path: &str) -> bool {
    config.admin.emqx_aliases && path.starts_with(PREFIX)
}

/// The paths, which are no part of the interface's own document.
pub(super) fn router(api: &Arc<Api>) -> Router<Arc<Api>> {
    let paths = Router::new()
        .route("/gateways", get(gateways))
        .route("/gateways/coap", get(gateway))
        .route("/gateways/coap/listeners", get(listeners))
        .route("/gateways/coap/listeners/{id}", get(listener))
        .route("/gateways/coap/clients", get(clients::list))
        .route(
            "/gateways/coap/clients/{id}",
            get(clients::show).delete(clients::kick),
        )
        .route(
            "/gateways/coap/clients/{id}/subscriptions",
            get(clients::subscriptions).post(clients::subscribe),
        )
        .route(
            "/gateways/coap/clients/{id}/subscriptions/{*topic}",
            axum::routing::delete(clients::unsubscribe),
        )
        .route("/gateways/coap/clients/{id}/request", post(clients::request))
        .route("/gateways/coap/authentication", get(authentication))
        .route(
            "/gateways/coap/authentication/users",
            get(users::list).post(users::add),
        )
        .route(
            "/gateways/coap/authentication/users/{id}",
            get(users::show).put(users::change).delete(users::remove),
        );
    Router::new()
        .nest(PREFIX.trim_end_matches('/'), paths)
        .layer(from_fn_with_state(Arc::clone(api), switched))
}

/// Lets requests through while the configuration says so.
async fn switched(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if api.site.config().admin.emqx_aliases {
        next.run(request).await
    } else {
        ApiError::not_found("there is nothing at this path: admin.emqx_aliases is false").into_response()
    }
}

/// An answer, or an error with the code that EMQX has for it.
fn answer<T: Serialize>(result: Result<T, ApiError>) -> Response {
    result.map_or_else(|error| refusal(&error, &[]), |value| Json(value).into_response())
}

/// An error with its code in capitals, or with that which `codes` has for the status.
fn refusal(error: &ApiError, codes: &[(StatusCode, &str)]) -> Response {
    let own = codes.iter().find(|(status, _)| *status == error.status());
    let code = own.map_or_else(|| error.code().to_uppercase(), |(_, code)| (*code).to_owned());
    (
        error.status(),
        Json(json!({ "code": code, "message": error.message() })),
    )
        .into_response()
}

/// Which gateways are asked for.
#[derive(Deserialize)]
struct GatewaysQuery {
    status: Option<String>,
}

async fn gateways(State(api): State<Arc<Api>>, query: Result<Params<GatewaysQuery>, ApiError>) -> Response {
    let Params(query) = match query {
        Ok(query) => query,
        Err(error) => return refusal(&error, &[]),
    };
    match query.status.as_deref() {
        None | Some("all" | "running") => {}
        Some("stopped" | "unloaded") => return Json(json!([])).into_response(),
        Some(_) => {
            let error = ApiError::bad_request("status is all, running, stopped or unloaded");
            return refusal(&error, &[]);
        }
    }
    let config = api.site.config();
    let started = rfc3339(api.site.state().started);
    let connections = super::metrics::now(&api).count("portcullis_sessions", &[]);
    let most = all_listeners(&api)
        .iter()
        .map(|listener| listener["max_connections"].as_u64())
        .sum::<Option<u64>>();
    Json(json!([{
        "name": "coap",
        "status": "running",
        "enable": true,
        "created_at": started,
        "started_at": started,
        "current_connections": connections,
        "max_connections": most.map_or_else(unbounded, Value::from),
        "listeners": all_listeners(&api),
        "node_status": [{ "node": config.node.name, "status": "running", "current_connections": connections }],
    }]))
    .into_response()
}

async fn gateway(State(api): State<Arc<Api>>) -> Response {
    let config = api.site.config();
    let coap = &config.coap;
    // As the file would have them.
    let keys = super::effective::Effective::of(&config).keys;
    let word = |key: &str| {
        let found = keys
            .iter()
            .find(|found| found.key.strip_prefix("coap.") == Some(key));
        found.map_or(Value::Null, |found| found.value.clone())
    };
    Json(json!({
        "name": "coap",
        "enable": true,
        "enable_stats": true,
        "status": "running",
        "connection_required": coap.connection_required,
        "heartbeat": show_duration(coap.heartbeat),
        "mountpoint": coap.mountpoint,
        "notify_type": word("notify_type"),
        "publish_qos": word("publish_qos"),
        "subscribe_qos": word("subscribe_qos"),
        "blockwise": {
            "enable": true,
            "max_block_size": coap.blockwise.max_block_size,
            "max_body_size": coap.blockwise.max_body_size.0,
            "exchange_lifetime": "247s",
        },
        "listeners": all_listeners(&api),
    }))
    .into_response()
}

/// How it writes that there is no limit.
fn unbounded() -> Value {
    json!("infinity")
}

fn all_listeners(api: &Api) -> Vec<Value> {
    let config = api.site.config();
    let numbers = super::metrics::now(api);
    let there = api
        .site
        .listeners()
        .into_iter()
        .filter(|listener| !listener.removed);
    there
        .map(|state| {
            let kind = state.transport.label();
            let labels = [("listener", state.name.as_str()), ("transport", kind)];
            let own = configured(&config, &state);
            let most = own.map_or(0, |own| {
                let sessions = own.dtls.as_ref().and_then(|dtls| dtls.sessions.as_ref());
                let connections = own.stream.as_ref().map(|stream| stream.max_connections);
                let sessions = sessions.map(|sessions| sessions.max_sessions);
                sessions.or(connections).unwrap_or(own.max_peers)
            });
            let most = if most == 0 { unbounded() } else { most.into() };
            let status = json!({
                "running": state.enabled,
                "current_connections": numbers.count("portcullis_sessions", &labels),
                "max_connections": most,
            });
            json!({
                "id": listener_id(kind, &state.name),
                "type": kind,
                "name": state.name,
                "bind": state.bind.to_string(),
                "enable": state.enabled,
                "running": state.enabled,
                "enable_authn": own.is_some_and(|own| own.authentication != Login::Off),
                "mountpoint": own.and_then(|own| own.common.mountpoint.clone()),
                "max_connections": most,
                "status": status,
                "node_status": [{ "node": config.node.name, "status": status }],
            })
        })
        .collect()
}

/// What the configuration says of a listener that serves.
fn configured<'c>(config: &'c Config, state: &ListenerState) -> Option<&'c Listener> {
    let is_it = |own: &&Listener| own.name == state.name && own.transport() == state.transport;
    config.listeners.iter().find(is_it)
}

/// The name of a listener over all gateways.
fn listener_id(kind: &str, name: &str) -> String {
    format!("coap:{kind}:{name}")
}

async fn listeners(State(api): State<Arc<Api>>) -> Response {
    Json(all_listeners(&api)).into_response()
}

async fn listener(State(api): State<Arc<Api>>, id: Result<Path<String>, ApiError>) -> Response {
    let found = id.and_then(|Path(id)| {
        let mut all = all_listeners(&api).into_iter();
        all.find(|listener| listener["id"] == id.as_str())
            .ok_or_else(|| ApiError::not_found(format!("there is no listener {id:?}")))
    });
    answer(found)
}

async fn authentication(State(api): State<Arc<Api>>) -> Response {
    let (mechanism, backend) = match api.site.config().authentication.backend {
        // Nobody is asked.
        Backend::None => return StatusCode::NO_CONTENT.into_response(),
        Backend::Jwt => return Json(json!({ "enable": true, "mechanism": "jwt" })).into_response(),
        Backend::File => ("password_based", "built_in_database"),
        Backend::Http => ("password_based", "http"),
        Backend::Postgresql => ("password_based", "postgresql"),
        Backend::Mysql => ("password_based", "mysql"),
        Backend::Mongodb => ("password_based", "mongodb"),
        Backend::Redis => ("password_based", "redis"),
        Backend::Ldap => ("ldap", "ldap"),
    };
    Json(json!({ "enable": true, "mechanism": mechanism, "backend": backend })).into_response()
}
