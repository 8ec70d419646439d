//! `tokens`: who may use this interface over the network.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use portcullis_config::token_store::{self, FIRST};
use portcullis_config::tokens::{self, Role, Token};

use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Path};
use super::files::{self, Edit, Kind};
use super::lifetime::{end, shown};
use super::{Api, wrong_lines};

/// A token, without what its holder shows.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct TokenView {
    /// What it is called here and in the audit log.
    pub name: String,
    /// `admin` or `readonly`.
    pub role: String,
    /// When it stops to count (RFC 3339); `null` never.
    pub until: Option<String>,
    /// Whether it has stopped.
    pub expired: bool,
}

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// Its name: 1 to 64 letters, digits, `-`, `_` or `.`.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// `admin` or `readonly`.
    role: String,
    /// When it stops to count (RFC 3339); without it and `for`, never.
    until: Option<String>,
    /// How long it counts, such as `"720h"`; instead of `until`.
    r#for: Option<String>,
}

/// A token that was made.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct MadeToken {
    /// What it is called.
    #[serde(flatten)]
    pub view: TokenView,
    /// What its holder sends after `Authorization: Bearer`. It is never shown again.
    pub token: String,
}

fn view(token: &Token, now: SystemTime) -> TokenView {
    TokenView {
        name: token.name.clone(),
        role: token.role.label().to_owned(),
        until: token.until.map(shown),
        expired: token.until.is_some_and(|until| until <= now),
    }
}

/// List the tokens
///
/// What their holders send is never returned.
#[utoipa::path(
    get,
    path = "/api/v1/tokens",
    tag = "credentials",
    responses((status = 200, body = [TokenView]), (status = 409, body = ErrorBody, description = "Their file is broken"))
)]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<TokenView>>, ApiError> {
    let (config, now) = (api.site.config(), api.site.now().wall);
    let all = files::blocking(move || token_store::load(&config))
        .await?
        .map_err(|problems| ApiError::conflict("broken_file", problems.join("; ")))?;
    Ok(Json(all.iter().map(|token| view(token, now)).collect()))
}

/// Make a token
#[utoipa::path(
    post,
    path = "/api/v1/tokens",
    tag = "credentials",
    request_body = NewToken,
    responses(
        (status = 201, body = MadeToken, description = "It counts from now on, and is shown this once"),
        (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "There is one of this name, or the file cannot be changed")
    )
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Body(wanted): Body<NewToken>,
) -> Result<Response, ApiError> {
    let now = api.site.now().wall;
    tokens::check_name(&wanted.name).map_err(|why| ApiError::bad_request(format!("name: {why}")))?;
    let role = Role::from_word(&wanted.role)
        .ok_or_else(|| ApiError::bad_request("role: expected admin or readonly"))?;
    let until = end(wanted.until.as_deref(), wanted.r#for.as_deref(), now)?;
    let secret = tokens::generate().map_err(|error| ApiError::internal(format!("no randomness: {error}")))?;
    let token = Token::new(&wanted.name, role, &secret, until);
    let made = MadeToken {
        view: view(&token, now),
        token: secret.to_string(),
    };
    let path = token_store::named_file(&api.site.config());
    files::change(&api, path, Kind::Secret, move |old| {
        let named = read(old)?;
        if token.name == FIRST || named.contains(&token.name) {
            return Err(ApiError::conflict(
                "exists",
                format!("a token {:?} is there already: remove it first", token.name),
            ));
        }
        Ok(Edit {
            content: Zeroizing::new(named.with(&token).as_bytes().to_vec()),
            outcome: (),
        })
    })
    .await?;
    let shown_once = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, shown_once, Json(made)).into_response())
}

/// Remove a token
///
/// It stops to count at once. In place of `admin.token` another is made.
#[utoipa::path(
    delete,
    path = "/api/v1/tokens/{name}",
    tag = "credentials",
    params(("name" = String, Path, description = "The token's name")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody))
)]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let config = api.site.config();
    if let (FIRST, Some(_)) = (name.as_str(), token_store::first_file(&config)) {
        let _one_at_a_time = api.changes.lock().await;
        files::blocking(move || token_store::renew_first(&config))
            .await?
            .map_err(|why| ApiError::conflict("not_writable", why))?;
        api.site
            .reload()
            .await
            .map_err(|problems| super::status::not_reloaded(&problems))?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let missing = |name: &str| ApiError::not_found(format!("there is no token {name:?}"));
    let path = token_store::named_file(&config);
    if !path.exists() {
        return Err(missing(&name));
    }
    files::change(&api, path, Kind::Secret, move |old| {
        let named = read(old)?;
        if !named.contains(&name) {
            return Err(missing(&name));
        }
        Ok(Edit {
            content: Zeroizing::new(named.without(&name).as_bytes().to_vec()),
            outcome: (),
        })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read(content: &[u8]) -> Result<tokens::Named, ApiError> {
    tokens::Named::read(content).map_err(|errors| wrong_lines("the file of tokens", &errors))
}
