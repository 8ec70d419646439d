//! Users of the file of users, in EMQX's JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::clients::{MAX_LIMIT, hundred, one};
use crate::api::error::ApiError;
use crate::api::extract::{Body, Params, Path, secret, secret_or_none};
use crate::api::users::{self, NewUser};

use super::{answer, refusal};

/// The code of a user who is there.
const EXISTS: [(StatusCode, &str); 1] = [(StatusCode::CONFLICT, "ALREADY_EXISTS")];

/// Which users.
#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default = "one")]
    page: usize,
    #[serde(default = "hundred")]
    limit: usize,
    like_user_id: Option<String>,
    is_superuser: Option<bool>,
}

/// A user to add.
#[derive(Deserialize)]
pub(super) struct New {
    user_id: String,
    #[serde(deserialize_with = "secret")]
    password: String,
    #[serde(default)]
    is_superuser: bool,
}

/// What to change of a user.
#[derive(Deserialize)]
pub(super) struct Changed {
    #[serde(default, deserialize_with = "secret_or_none")]
    password: Option<String>,
    #[serde(default)]
    is_superuser: bool,
}

fn user(name: &str) -> Value {
    json!({ "user_id": name, "is_superuser": false })
}

async fn names(api: Arc<Api>) -> Result<Vec<String>, ApiError> {
    let Json(all) = users::list(State(api)).await?;
    Ok(all.into_iter().map(|user| user.name).collect())
}

/// That this user is there.
async fn known(api: Arc<Api>, name: &str) -> Result<Value, ApiError> {
    let found = names(api).await?.into_iter().find(|own| own == name);
    found
        .map(|name| user(&name))
        .ok_or_else(|| ApiError::not_found(format!("there is no user {name:?}")))
}

fn no_superuser(wanted: bool) -> Result<(), ApiError> {
    if wanted {
        let message = "nobody is a superuser here: rules of authorization.acl_file say who may do everything";
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Params<ListQuery>, ApiError>,
) -> Response {
    answer(page(api, query).await)
}

async fn page(api: Arc<Api>, query: Result<Params<ListQuery>, ApiError>) -> Result<Value, ApiError> {
    let Params(query) = query?;
    let (page, limit) = (query.page, query.limit);
    if page == 0 || !(1..=MAX_LIMIT).contains(&limit) {
        let message = format!("page counts from 1, and limit is 1 to {MAX_LIMIT}");
        return Err(ApiError::bad_request(message));
    }
    let fits = |name: &String| {
        query.is_superuser != Some(true)
            && query
                .like_user_id
                .as_ref()
                .is_none_or(|part| name.contains(part.as_str()))
    };
    let all: Vec<String> = names(api).await?.into_iter().filter(fits).collect();
    let skip = (page - 1).saturating_mul(limit);
    let data: Vec<Value> = all.iter().skip(skip).take(limit).map(|name| user(name)).collect();
    let more = skip.saturating_add(limit) < all.len();
    Ok(json!({ "data": data, "meta": { "page": page, "limit": limit, "count": all.len(), "hasnext": more } }))
}

pub(super) async fn show(State(api): State<Arc<Api>>, id: Result<Path<String>, ApiError>) -> Response {
    answer(match id {
        Ok(Path(name)) => known(api, &name).await,
        Err(error) => Err(error),
    })
}

pub(super) async fn add(State(api): State<Arc<Api>>, body: Result<Body<New>, ApiError>) -> Response {
    let made = async {
        let Body(new) = body?;
        no_superuser(new.is_superuser)?;
        let made = user(&new.user_id);
        let wanted = NewUser {
            name: new.user_id,
            password: new.password,
            replace: false,
        };
        users::add(State(api), Body(wanted)).await?;
        Ok::<_, ApiError>(made)
    };
    match made.await {
        Ok(made) => (StatusCode::CREATED, Json(made)).into_response(),
        Err(error) if error.code() == "exists" => refusal(&error, &EXISTS),
        Err(error) => refusal(&error, &[]),
    }
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, ApiError>,
    body: Result<Body<Changed>, ApiError>,
) -> Response {
    let changed = async {
        let (Path(name), Body(changed)) = (id?, body?);
        no_superuser(changed.is_superuser)?;
        let shown = known(Arc::clone(&api), &name).await?;
        if let Some(password) = changed.password {
            let wanted = NewUser {
                name,
                password,
                replace: true,
            };
            users::add(State(api), Body(wanted)).await?;
        }
        Ok(shown)
    };
    answer(changed.await)
}

pub(super) async fn remove(State(api): State<Arc<Api>>, id: Result<Path<String>, ApiError>) -> Response {
    let done = match id {
        Ok(id) => users::remove(State(api), id).await,
        Err(error) => Err(error),
    };
    done.map_or_else(|error| refusal(&error, &[]), |status| status.into_response())
}
