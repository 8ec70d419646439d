//! What became of requests to devices that were told to wait: asked for here, and published for those who listen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::debug;
use utoipa::ToSchema;

use portcullis_proto::gateway::news;
use portcullis_proto::types::message::Qos;
use portcullis_proto::types::{ClientId, Message, TopicName};

use super::Api;
use super::device::DeviceAnswer;
use super::error::{ApiError, ErrorBody};
use super::extract::Path;

/// Requests that are known.
const KNOWN: usize = 1000;

/// Most bytes of answers among them.
const KNOWN_BYTES: usize = 16 << 20;

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the error is called of a request that could not wait any longer.
pub(super) const EXPIRED: &str = "expired";

/// What became of a request to a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Progress {
    /// It waits for the device.
    Queued,
    /// The device answered.
    Delivered,
    /// The device was not heard of in time.
    Expired,
    /// The device got it and gave no valid answer, or there was no room any more.
    Failed,
}

/// What became of a request that was told to wait for its device.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct RequestStatus {
    /// What it is called.
    pub(super) request: String,
    /// The client id that it is for.
    pub(super) clientid: String,
    /// Where it stands.
    pub(super) status: Progress,
    /// What the device answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<DeviceAnswer>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ErrorBody>,
}

impl RequestStatus {
    /// Of one that waits.
    pub(super) fn queued(request: String, client: &ClientId) -> Self {
        Self {
            request,
            clientid: client.to_string(),
            status: Progress::Queued,
            answer: None,
            error: None,
        }
    }

    /// Of the same when it is over.
    pub(super) fn ended(mut self, result: &Result<DeviceAnswer, ApiError>) -> Self {
        match result {
            Ok(answer) => {
                self.status = Progress::Delivered;
                self.answer = Some(answer.clone());
            }
            Err(error) => {
                let error = error.body();
                self.status = match &*error.code {
                    EXPIRED => Progress::Expired,
                    _ => Progress::Failed,
                };
                self.error = Some(error.clone());
            }
        }
        self
    }
}

/// The requests that were told to wait.
pub(super) struct Calls {
    next: AtomicU64,
    known: Mutex<VecDeque<RequestStatus>>,
}

impl Calls {
    /// None yet. The time of day keeps their names apart from those of an earlier process.
    pub(super) fn new(now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(since.as_micros()).unwrap_or_default();
        Self {
            next: AtomicU64::new(first),
            known: Mutex::default(),
        }
    }

    /// A name for another one.
    pub(super) fn name(&self) -> String {
        format!("{:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn get(&self, client: &str, request: &str) -> Option<RequestStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut those = known.iter().filter(|status| status.clientid == client);
        those.find(|status| status.request == request).cloned()
    }

    fn put(&self, status: RequestStatus) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| known.request != status.request);
        known.push_back(status);
        let weight = |status: &RequestStatus| {
            let texts = |answer: &DeviceAnswer| answer.payload.as_ref().map_or(0, String::len);
            let answer = status.answer.as_ref();
            answer.map_or(0, |answer| answer.payload_base64.len() + texts(answer))
        };
        let mut bytes: usize = known.iter().map(weight).sum();
        while known.len() > KNOWN || (bytes > KNOWN_BYTES && known.len() > 1) {
            bytes -= known.pop_front().as_ref().map_or(0, weight);
        }
    }

    /// Notes where a request stands, and publishes it. Where the broker does not take that, it is still here to be asked for.
    pub(super) async fn tell(&self, api: &Api, status: RequestStatus) {
        let level = news::level(&status.clientid);
        let config = api.site.config();
        let (prefix, node) = (&config.broker.events_prefix, &config.node.name);
        let topic = format!("{prefix}/{node}/clients/{level}/requests/{}", status.request);
        let payload = serde_json::to_vec(&status).unwrap_or_default();
        self.put(status);
        let (Ok(topic), Some(operator)) = (TopicName::new(&topic), api.site.operator()) else {
            return;
        };
        let message = Message {
            content_type: Some("application/json".into()),
            ..Message::new(topic, payload.into(), Qos::AtLeastOnce)
        };
        if !matches!(timeout(PATIENCE, operator.publish(message)).await, Ok(Ok(()))) {
            debug!("the broker did not take the status of a request");
        }
    }
}

/// Show what became of a request that waits, or waited, for its device
///
/// The last 1,000 of those that were answered with 202 are known.
#[utoipa::path(
    get,
    path = "/api/v1/clients/{id}/requests/{request}",
    tag = "clients",
    params(
        ("id" = String, Path, description = "The client id"),
        ("request" = String, Path, description = "What the answer with 202 called it")
    ),
    responses((status = 200, body = RequestStatus), (status = 404, body = ErrorBody))
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Path((id, request)): Path<(String, String)>,
) -> Result<Json<RequestStatus>, ApiError> {
    let unknown = || ApiError::not_found(format!("no request {request:?} to {id:?} is known"));
    api.calls.get(&id, &request).map(Json).ok_or_else(unknown)
}
