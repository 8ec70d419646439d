//! `users`: who may log in, where `authentication.backend` is `file`.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use portcullis_auth::hash::StoredHash;
use portcullis_auth::users::hash_password;
use portcullis_config::named_lines::{self, NamedLines};
use portcullis_config::{Backend, Config, users_file};
use portcullis_proto::types::reason::Label as _;

use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Path, secret};
use super::files::{self, Edit, Kind};
use super::{Api, wrong_lines};

/// A user of the users file, without the hash.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct User {
    /// The name that is given at login.
    pub name: String,
    /// How the password is hashed.
    pub hash: String,
    /// Why that is weak, when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weakness: Option<String>,
}

/// A user with a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    /// The user's name, without a colon.
    #[schema(min_length = 1)]
    pub(super) name: String,
    /// The password. It is stored as an Argon2id hash.
    #[serde(deserialize_with = "secret")]
    pub(super) password: String,
    /// Whether the user may be there already and gets this password.
    #[serde(default)]
    pub(super) replace: bool,
}

/// A user that was stored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct StoredUser {
    /// The name that is given at login.
    pub name: String,
}

/// The file that is kept here: that of `[authentication]`, else the only one that some listener has.
fn file(config: &Config) -> Result<PathBuf, ApiError> {
    let files = config.users_files();
    let common = config
        .authentication
        .file
        .as_deref()
        .filter(|_| config.authentication.backend == Backend::File);
    match (common, files.as_slice()) {
        (Some(file), _) => Ok(file.to_owned()),
        (None, [file]) => Ok(file.to_path_buf()),
        (None, []) => Err(ApiError::conflict(
            "no_users_file",
            "users are kept here only while the authentication backend is \"file\"",
        )),
        (None, _) => Err(ApiError::conflict(
            "several_users_files",
            "several listeners have files of users of their own: use `portcullis user` with --listener",
        )),
    }
}

/// List the users
#[utoipa::path(
    get,
    path = "/api/v1/users",
    tag = "credentials",
    responses((status = 200, body = [User]), (status = 409, body = ErrorBody, description = "The backend is not `file`"))
)]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<User>>, ApiError> {
    let path = file(&api.site.config())?;
    files::blocking(move || {
        let content = files::read(&path, Kind::Secret)?.unwrap_or_default();
        let lines = parse(&content)?;
        let hash = |name: &str| StoredHash::parse(&lines.secret(name)?).ok();
        let users = lines.names().filter_map(|name| {
            let hash = hash(name)?;
            Some(User {
                name: name.to_owned(),
                hash: hash.scheme().label().to_owned(),
                weakness: hash.weakness().map(|why| why.to_string()),
            })
        });
        Ok(Json(users.collect()))
    })
    .await?
}

/// Add a user
#[utoipa::path(
    post,
    path = "/api/v1/users",
    tag = "credentials",
    request_body = NewUser,
    responses(
        (status = 201, body = StoredUser),
        (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "The user is there, or the file cannot be changed")
    )
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Body(wanted): Body<NewUser>,
) -> Result<Response, ApiError> {
    let NewUser {
        name,
        password,
        replace,
    } = wanted;
    let password = Zeroizing::new(password);
    named_lines::check_name(&name, &users_file::FORM)
        .map_err(|why| ApiError::bad_request(format!("name: {why}")))?;
    let path = file(&api.site.config())?;
    let hash = files::blocking(move || hash_password(password.as_bytes()))
        .await?
        .map_err(|why| ApiError::bad_request(format!("password: {why}")))?;
    let user = name.clone();
    files::change(&api, path, Kind::Secret, move |old| {
        let lines = parse(old)?;
        if lines.contains(&user) && !replace {
            return Err(ApiError::conflict(
                "exists",
                format!("user {user:?} is there already; with `replace` the password is changed"),
            ));
        }
        Ok(Edit {
            content: Zeroizing::new(lines.with(&user, &hash).as_bytes().to_vec()),
            outcome: (),
        })
    })
    .await?;
    Ok((StatusCode::CREATED, Json(StoredUser { name })).into_response())
}

/// Remove a user
#[utoipa::path(
    delete,
    path = "/api/v1/users/{name}",
    tag = "credentials",
    params(("name" = String, Path, description = "The user's name")),
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody))
)]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let path = file(&api.site.config())?;
    files::change(&api, path, Kind::Secret, move |old| {
        let lines = parse(old)?;
        if !lines.contains(&name) {
            return Err(ApiError::not_found(format!("there is no user {name:?}")));
        }
        Ok(Edit {
            content: Zeroizing::new(lines.without(&name).as_bytes().to_vec()),
            outcome: (),
        })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(content: &[u8]) -> Result<NamedLines, ApiError> {
    users_file::parse(content).map_err(|errors| wrong_lines("the file of users", &errors))
}
