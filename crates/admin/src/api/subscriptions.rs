//! `clients/{id}/subscriptions`: the observations of a client.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use portcullis_proto::coap::contract::Token;
use portcullis_proto::gateway::contract::{ControlAnswer, ControlRequest, ObservationInfo};
use portcullis_proto::types::message::Qos;
use portcullis_proto::types::topic::TopicError;
use portcullis_proto::types::{TopicFilter, WorkerId};

use super::clients::{client_id, locate};
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Path};
use super::handle::Moment;
use super::{Api, ask, rfc3339};

/// What a client observes, and how it is told.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Subscription {
    /// The MQTT topic filter, mountpoint included.
    pub topic: String,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The CoAP token that notifications carry, in hexadecimal digits.
    pub token: String,
    /// The last Observe number that was sent.
    pub sequence: u32,
    /// When the client last showed that it wants it (RFC 3339).
    pub confirmed_at: String,
    /// Whether the client's own messages stay away.
    pub no_local: bool,
}

/// What to subscribe a client to.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSubscription {
    /// The MQTT topic filter at the broker: with the mountpoint, if the listener has one.
    pub topic: String,
    /// 0, 1 or 2.
    #[serde(default)]
    pub qos: u8,
    /// The CoAP token that notifications are to carry, 1 to 8 bytes in hexadecimal digits. A device answers RST to a token
    /// that it does not know, which ends the observation. Without it a random one is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Subscription {
    pub(super) fn of(observation: &ObservationInfo, now: &Moment) -> Self {
        Self {
            topic: observation.filter.to_string(),
            qos: observation.qos.number(),
            token: hex::encode(observation.token.as_bytes()),
            sequence: observation.sequence,
            confirmed_at: rfc3339(now.wall_of(observation.confirmed_at)),
            no_local: observation.no_local,
        }
    }
}

/// List the observations of a client
#[utoipa::path(
    get,
    path = "/api/v1/clients/{id}/subscriptions",
    tag = "clients",
    params(("id" = String, Path, description = "The client id")),
    responses((status = 200, body = [Subscription]), (status = 404, body = ErrorBody))
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<Vec<Subscription>>, ApiError> {
    let (_, _, observations) = locate(&api, &client_id(&id)?).await?;
    let now = api.site.now();
    Ok(Json(
        observations
            .iter()
            .map(|observation| Subscription::of(observation, &now))
            .collect(),
    ))
}

/// Observe a topic on behalf of a client
#[utoipa::path(
    post,
    path = "/api/v1/clients/{id}/subscriptions",
    tag = "clients",
    params(("id" = String, Path, description = "The client id")),
    request_body = NewSubscription,
    responses(
        (status = 201, body = NewSubscription),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "The client has its fill of observations")
    )
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Body(wanted): Body<NewSubscription>,
) -> Result<Response, ApiError> {
    let client = client_id(&id)?;
    let limits = api.site.config().limits.topics();
    let filter = limits.filter(&wanted.topic).map_err(wrong_topic)?;
    let qos = Qos::from_number(wanted.qos).ok_or_else(|| ApiError::bad_request("qos is 0, 1 or 2"))?;
    let token = match &wanted.token {
        Some(token) => parse_token(token)?,
        None => random_token()?,
    };
    let (worker, ..) = locate(&api, &client).await?;
    let request = ControlRequest::Subscribe {
        client,
        filter,
        qos,
        token,
    };
    match ask(&api, worker, request).await? {
        ControlAnswer::Done => {
            let made = NewSubscription {
                token: Some(hex::encode(token.as_bytes())),
                ..wanted
            };
            Ok((StatusCode::CREATED, Json(made)).into_response())
        }
        ControlAnswer::NotFound => Err(ApiError::not_found("the client has just gone")),
        _ => Err(ApiError::conflict(
            "limit",
            "no more observations fit for this client",
        )),
    }
}

/// End an observation of a client
#[utoipa::path(
    delete,
    path = "/api/v1/clients/{id}/subscriptions/{*topic}",
    tag = "clients",
    params(
        ("id" = String, Path, description = "The client id"),
        ("topic" = String, Path, description = "The topic filter as the list shows it, mountpoint included; its slashes may stand as they are")
    ),
    responses((status = 204), (status = 404, body = ErrorBody))
)]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path((id, topic)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let client = client_id(&id)?;
    let filter = TopicFilter::new(&topic).map_err(wrong_topic)?;
    locate(&api, &client).await?;
    let mut removed = false;
    for worker in (0..api.site.workers()).map(WorkerId) {
        let request = ControlRequest::Unsubscribe {
            client: client.clone(),
            filter: filter.clone(),
        };
        removed |= matches!(ask(&api, worker, request).await?, ControlAnswer::Done);
    }
    if removed {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found(format!(
            "the client does not observe {topic:?}"
        )))
    }
}

fn wrong_topic(error: TopicError) -> ApiError {
    ApiError::bad_request(format!("topic: {error}"))
}

fn parse_token(digits: &str) -> Result<Token, ApiError> {
    let wrong = || ApiError::bad_request("token is 1 to 8 bytes in hexadecimal digits");
    let bytes = hex::decode(digits).map_err(|_| wrong())?;
    Token::new(&bytes).filter(|_| !bytes.is_empty()).ok_or_else(wrong)
}

fn random_token() -> Result<Token, ApiError> {
    let mut bytes = [0; 8];
    openssl::rand::rand_bytes(&mut bytes)
        .map_err(|error| ApiError::internal(format!("no randomness: {error}")))?;
    Ok(Token::new(&bytes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_1_to_8_bytes_in_hexadecimal_digits() {
        assert_eq!(parse_token("0aFf").unwrap().as_bytes(), [0x0a, 0xff]);
        for bad in ["", "a", "0x", "+1", "00112233445566778899", "zz", "ää"] {
            assert!(parse_token(bad).is_err(), "{bad}");
        }
    }
}
