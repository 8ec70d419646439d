//! `bans`: whom an operator keeps out, in force at once.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use portcullis_config::ban_book::{self, Ban, MAX_BANS, MAX_REASON, NotBanned};
use portcullis_config::shared::BANS;
use portcullis_proto::gateway::contract::ControlRequest;
use portcullis_proto::policy::bans::{BanKind, Banned};
use portcullis_proto::types::WorkerId;
use portcullis_proto::types::reason::Label as _;

use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Path};
use super::files::{self, Edit, Kind};
use super::lifetime::{end, shown};
use super::{Api, ask, group, scope};

/// A ban.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BanView {
    /// `clientid`, `identity` or `address`.
    pub kind: String,
    /// The client id, the identity as `clients` shows it, or the address or network.
    pub value: String,
    /// When it was made (RFC 3339).
    pub since: String,
    /// When it ends (RFC 3339); `null` never.
    pub until: Option<String>,
    /// Why, in the words of who made it.
    pub reason: String,
}

/// Whom to keep out: one of `clientid`, `identity`, `address`, or `kind` with `value`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBan {
    /// A client id, from wherever it comes.
    clientid: Option<String>,
    /// The name that a handshake proves.
    identity: Option<String>,
    /// An address, or a network such as `192.0.2.0/24`.
    address: Option<String>,
    /// `clientid`, `identity` or `address`.
    kind: Option<String>,
    /// What `kind` says.
    value: Option<String>,
    /// When it ends (RFC 3339); without it and `for`, never.
    until: Option<String>,
    /// How long it lasts, such as `"2h"`; instead of `until`.
    r#for: Option<String>,
    /// Why, for people; at most 256 bytes.
    #[serde(default)]
    reason: String,
}

impl NewBan {
    fn into_ban(self, now: SystemTime) -> Result<Ban, ApiError> {
        let named = [
            (BanKind::ClientId, self.clientid),
            (BanKind::Identity, self.identity),
            (BanKind::Address, self.address),
        ];
        let mut named: Vec<(BanKind, String)> = named
            .into_iter()
            .filter_map(|(kind, text)| Some((kind, text?)))
            .collect();
        match (self.kind, self.value) {
            (Some(kind), Some(value)) => named.push((kind_of(&kind)?, value)),
            (None, None) => {}
            _ => return Err(ApiError::bad_request("kind and value go together")),
        }
        let [(kind, text)] = &named[..] else {
            return Err(ApiError::bad_request(
                "one of clientid, identity and address is banned at a time",
            ));
        };
        if self.reason.len() > MAX_REASON || self.reason.contains(char::is_control) {
            return Err(ApiError::bad_request(format!(
                "reason: at most {MAX_REASON} bytes without control characters"
            )));
        }
        Ok(Ban {
            banned: banned(*kind, text)?,
            since: now,
            until: end(self.until.as_deref(), self.r#for.as_deref(), now)?,
            reason: self.reason,
        })
    }
}

fn kind_of(word: &str) -> Result<BanKind, ApiError> {
    ban_book::kind(word).ok_or_else(|| ApiError::bad_request("kind: expected clientid, identity or address"))
}

fn banned(kind: BanKind, text: &str) -> Result<Banned, ApiError> {
    ban_book::banned(kind, text).map_err(|why| ApiError::bad_request(format!("{}: {why}", kind.label())))
}

fn view(ban: &Ban) -> BanView {
    BanView {
        kind: ban.banned.kind().label().to_owned(),
        value: ban.banned.text(),
        since: shown(ban.since),
        until: ban.until.map(shown),
        reason: ban.reason.clone(),
    }
}

/// List the bans
#[utoipa::path(
    get,
    path = "/api/v1/bans",
    tag = "bans",
    responses((status = 200, body = [BanView]))
)]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<Vec<BanView>> {
    let all = api.site.bans().list(api.site.now().wall);
    Json(all.iter().map(view).collect())
}

/// Keep somebody out
#[utoipa::path(
    post,
    path = "/api/v1/bans",
    tag = "bans",
    request_body = NewBan,
    responses(
        (status = 201, body = BanView, description = "In force; what the banned one had has ended"),
        (status = 200, body = BanView, description = "The same, in place of an older ban"),
        (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "There are too many, or the state directory cannot be written")
    )
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Body(wanted): Body<NewBan>,
) -> Result<Response, ApiError> {
    let now = api.site.now().wall;
    let ban = wanted.into_ban(now)?;
    let made = view(&ban);
    let book = Arc::clone(api.site.bans());
    let refused = |why| match why {
        NotBanned::Full => ApiError::conflict("full", format!("there are {MAX_BANS} bans already")),
        NotBanned::File(error) => not_written(&error),
    };
    let is_new = if scope::group(&api).is_some() {
        let path = book.path().to_owned();
        let (is_new, _) = files::change(&api, path, Kind::Secret, move |_| {
            let (text, is_new) = book.text_with(ban, now).map_err(refused)?;
            Ok(Edit {
                content: text.into(),
                outcome: is_new,
            })
        })
        .await?;
        is_new
    } else {
        let _one_at_a_time = api.changes.lock().await;
        let is_new = files::blocking(move || book.add(ban, now))
            .await?
            .map_err(refused)?;
        kept_here(&api).await?;
        is_new
    };
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(made)).into_response())
}

/// Lift a ban
#[utoipa::path(
    delete,
    path = "/api/v1/bans/{kind}/{*value}",
    tag = "bans",
    params(
        ("kind" = String, Path, description = "`clientid`, `identity` or `address`"),
        ("value" = String, Path, description = "As it is listed; the / of a network may stand as it is")
    ),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody))
)]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path((kind, value)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let banned = banned(kind_of(&kind)?, &value)?;
    let book = Arc::clone(api.site.bans());
    let missing = move || ApiError::not_found(format!("no such ban: {kind} {value:?}"));
    if scope::group(&api).is_some() {
        let path = book.path().to_owned();
        files::change(&api, path, Kind::Secret, move |_| {
            let text = book.text_without(&banned).map_err(|error| not_written(&error))?;
            Ok(Edit {
                content: text.ok_or_else(missing)?.into(),
                outcome: (),
            })
        })
        .await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let _one_at_a_time = api.changes.lock().await;
    let lifted = files::blocking(move || book.remove(&banned))
        .await?
        .map_err(|error| not_written(&error))?;
    if !lifted {
        return Err(missing());
    }
    kept_here(&api).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts in force what this node alone has.
async fn kept_here(api: &Api) -> Result<(), ApiError> {
    if api.site.group().is_some() {
        group::share::keep_here(api, Some(BANS)).await?;
    }
    put_in_force(api).await
}

/// Tells every worker.
pub(super) async fn put_in_force(api: &Api) -> Result<(), ApiError> {
    let now = api.site.now();
    let bans = api.site.bans().in_force(now.steady, now.wall);
    for worker in 0..api.site.workers() {
        let request = ControlRequest::Bans {
            bans: Arc::clone(&bans),
        };
        ask(api, WorkerId(worker), request).await?;
    }
    Ok(())
}

fn not_written(error: &std::io::Error) -> ApiError {
    ApiError::conflict(
        "not_writable",
        format!("the list of bans cannot be written: {error}"),
    )
}
