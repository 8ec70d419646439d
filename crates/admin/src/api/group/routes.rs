//! What nodes ask each other, and what operators ask of a group.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use portcullis_group::Group;

use super::super::error::{ApiError, ErrorBody};
use super::super::status::ReloadReport;
use super::super::{Api, BODY_TIME};
use super::share::{self, CHECK, COMMIT};
use crate::server::Peer;

/// Largest body between nodes.
const MAX_BODY: usize = 160 << 20;

/// What other nodes ask. Nobody else finds anything there.
pub(in crate::api) fn between_nodes() -> Router<Arc<Api>> {
    Router::new()
        .route(&format!("/group/v1/{CHECK}"), post(check))
        .route(&format!("/group/v1/{COMMIT}"), post(commit))
}

async fn body<T: DeserializeOwned>(peer: Peer, request: Request) -> Result<T, ApiError> {
    let Peer::Node(_) = peer else {
        return Err(ApiError::not_found("there is nothing at this path"));
    };
    let read = tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), MAX_BODY)).await;
    let wrong = || ApiError::bad_request("this is no question of a node");
    let bytes = read.map_err(|_| wrong())?.map_err(|_| wrong())?;
    serde_json::from_slice(&bytes).map_err(|_| wrong())
}

pub(super) fn group(api: &Api) -> Result<&Group, ApiError> {
    let alone = || {
        ApiError::conflict(
            "no_group",
            "this gateway is none of a group: there is no [group] in its configuration",
        )
    };
    api.site.group().ok_or_else(alone)
}

async fn check(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let proposal = body(peer, request).await?;
    share::check(&api, group(&api)?, proposal).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn commit(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let made = body(peer, request).await?;
    whole(async move { share::commit(&api, group(&api)?, made).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Does what may not end half done when who asked for it goes.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let ended = |error: tokio::task::JoinError| ApiError::conflict("not_written", error.to_string());
    tokio::spawn(work).await.map_err(ended)?
}

/// What was shared.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    /// The parts of the configuration that had been changed by hand, and that all nodes have now.
    pub parts: Vec<String>,
}

/// Share what was changed by hand
///
/// What differs on this node from what all nodes of its group share becomes what they share: all of them check it, then all have it, or none.
#[utoipa::path(
    post,
    path = "/api/v1/group/import",
    tag = "group",
    responses(
        (status = 200, body = ImportReport),
        (status = 400, body = ErrorBody, description = "It is wrong"),
        (status = 409, body = ErrorBody, description = "A node refused it, or could not be asked"),
        (status = 502, body = ErrorBody, description = "It is not known whether it was made")
    )
)]
pub(in crate::api) async fn import(State(api): State<Arc<Api>>) -> Result<Json<ImportReport>, ApiError> {
    let (parts, _) = whole(async move { share::import(&api, group(&api)?).await }).await?;
    Ok(Json(ImportReport { parts }))
}

/// Bring back what all nodes share
///
/// In the place of what was changed on this node, by hand or for it alone. What was changed by hand is kept in `group.replaced` of the state directory.
#[utoipa::path(
    post,
    path = "/api/v1/group/restore",
    tag = "group",
    responses((status = 200, body = ReloadReport), (status = 409, body = ErrorBody))
)]
pub(in crate::api) async fn restore(State(api): State<Arc<Api>>) -> Result<Json<ReloadReport>, ApiError> {
    let reloaded = whole(async move { share::restore(&api, group(&api)?).await }).await?;
    Ok(Json(ReloadReport::of(&reloaded)))
}
