//! `listeners`: what serves, and switching it off and on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::ListenerId;

use super::Api;
use super::clients::transport;
use super::error::{ApiError, ErrorBody};
use super::extract::Path;
use super::handle::ListenerState;

/// A listener.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Listener {
    /// `udp` or `dtls`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub bind: String,
    /// Whether it serves.
    pub enabled: bool,
}

impl Listener {
    fn of(state: &ListenerState) -> Self {
        Self {
            kind: state.transport.label().to_owned(),
            name: state.name.clone(),
            bind: state.bind.to_string(),
            enabled: state.enabled,
        }
    }
}

/// List the listeners
#[utoipa::path(get, path = "/api/v1/listeners", tag = "listeners", responses((status = 200, body = [Listener])))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<Vec<Listener>> {
    Json(api.site.listeners().iter().map(Listener::of).collect())
}

/// Switch a listener off or on
///
/// Until the process is started again; then it is as configured.
#[utoipa::path(
    put,
    path = "/api/v1/listeners/{kind}/{name}/enable/{enabled}",
    tag = "listeners",
    params(
        ("kind" = String, Path, description = "`udp` or `dtls`"),
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
    let kind = transport(&kind)
        .ok_or_else(|| ApiError::not_found(format!("listeners are `udp` or `dtls`, not {kind:?}")))?;
    let find = || {
        (0..)
            .map(ListenerId)
            .zip(api.site.listeners())
            .find(|(_, listener)| listener.transport == kind && listener.name == name)
            .ok_or_else(|| ApiError::not_found(format!("there is no {} listener {name:?}", kind.label())))
    };
    let (id, before) = find()?;
    if before.enabled != enabled {
        let _one_at_a_time = api.changes.lock().await;
        api.site
            .set_listener(id, enabled)
            .await
            .map_err(|why| ApiError::conflict("not_switched", why))?;
    }
    Ok(Json(Listener::of(&find()?.1)))
}
