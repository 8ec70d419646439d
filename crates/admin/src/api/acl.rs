//! `acl`: what the access rules say of somebody and a topic.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use portcullis_auth::read_acl;
use portcullis_config::access;
use portcullis_proto::policy::acl;
use portcullis_proto::policy::authorization::{Action, NoMatch};
use portcullis_proto::policy::pattern::Subject;

use super::error::{ApiError, ErrorBody};
use super::extract::Params;
use super::{Api, files, wrong_lines};

/// Who wants to do what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AclQuery {
    /// `publish`, `subscribe`, `receive` or `create`.
    action: String,
    /// The topic or filter, without the mountpoint.
    topic: String,
    /// The user name; none for who has none.
    username: Option<String>,
    /// The client id.
    clientid: Option<String>,
    /// The DTLS identity.
    identity: Option<String>,
}

/// What the rules decide.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct AclDecision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The line of the ACL file that decided; none where no line did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What decided, in words.
    pub detail: String,
}

/// Ask the access rules
///
/// What `authorization.acl_file`, as it stands, decides, and by which line of it. What a user is granted beside it, by a database or
/// a token, is not looked at.
#[utoipa::path(
    get,
    path = "/api/v1/acl/check",
    tag = "credentials",
    params(AclQuery),
    responses(
        (status = 200, body = AclDecision),
        (status = 400, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "The file cannot be read, or is broken")
    )
)]
pub(super) async fn check(
    State(api): State<Arc<Api>>,
    Params(asked): Params<AclQuery>,
) -> Result<Json<AclDecision>, ApiError> {
    let action = Action::from_word(&asked.action).ok_or_else(|| {
        ApiError::bad_request(format!(
            "action: {:?} is none of publish, subscribe, receive, create",
            asked.action
        ))
    })?;
    if asked.topic.is_empty() {
        return Err(ApiError::bad_request("topic: expected a topic or a filter"));
    }
    let authorization = &api.site.config().authorization;
    let Some(path) = authorization.acl_file.clone() else {
        return Ok(Json(AclDecision {
            allowed: true,
            line: None,
            detail: "allowed: authorization.acl_file names no file".to_owned(),
        }));
    };
    let no_match = match authorization.no_match {
        access::NoMatch::Allow => NoMatch::Allow,
        access::NoMatch::Deny => NoMatch::Deny,
    };
    files::blocking(move || {
        let text = read_acl(&path).map_err(|error| ApiError::conflict("unreadable", error.to_string()))?;
        let subject = Subject {
            user: asked.username.as_deref(),
            client: asked.clientid.as_deref(),
            identity: asked.identity.as_deref(),
            attributes: None,
        };
        // The text of the line stays in the file.
        let explained = acl::explain(&text, no_match, &subject, action, &asked.topic)
            .map_err(|errors| wrong_lines("the ACL file", &errors))?;
        Ok(Json(AclDecision {
            allowed: explained.decision.allowed,
            line: explained.decision.line,
            detail: explained.decision.to_string(),
        }))
    })
    .await?
}
