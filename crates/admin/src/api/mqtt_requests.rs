//! Requests to devices that come over MQTT, to `{events_prefix}/{node}/clients/{id}/request` with the same body as over HTTP, and
//! their answers. MQTT does not say who published: that the broker's access rules decide.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::info;

use portcullis_config::mqtt_requests::MqttRequests;
use portcullis_proto::gateway::news;
use portcullis_proto::types::message::{Correspondence, Qos};
use portcullis_proto::types::topic::is_below;
use portcullis_proto::types::{Message, TopicFilter, TopicName};

use crate::expose::mqtt_requests::{MqttRequestMetrics, MqttRequestResult};
use crate::operator::Heard;

use super::Api;
use super::clients::client_id;
use super::device::{Asked, DeviceAnswer, DeviceRequest, Patience, ask_device};
use super::error::ApiError;

/// How soon the broker is asked again for what it does not serve.
const RETRY: Duration = Duration::from_secs(5);

/// Requests under way, those that wait for their devices included.
const PLACES: usize = 1024;

/// Requests that have come and are not taken in yet. Of more is known only that they came.
const WAITING: usize = 2 * PLACES;

/// How often is looked whether more came.
const LOOK: Duration = Duration::from_secs(2);

/// Longest request, in bytes.
const MOST_BYTES: usize = 256 << 10;

/// How long the broker may take an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the members of a request are called that MQTT 3.1.1 has no properties for.
const RESPONSE_TOPIC: &str = "response_topic";
const CORRELATION_DATA: &str = "correlation_data";

/// The members of a request, or what is wrong with it.
type Body = Result<Map<String, Value>, ApiError>;

/// Where requests are taken in.
struct Desk {
    api: Arc<Api>,
    rules: MqttRequests,
    metrics: Arc<MqttRequestMetrics>,
    events_prefix: String,
    /// The topics of clients begin with this.
    clients: String,
}

/// Where an answer goes, and what it brings back.
struct Reply {
    topic: TopicName,
    qos: Qos,
    correlation: Option<Bytes>,
    /// The same of a request that had it in its body.
    text: Option<Value>,
}

/// Serves requests for as long as the process lives; none where none may come.
pub(super) async fn serve(api: Arc<Api>) {
    let config = api.site.config();
    let clients = format!("{}/{}/clients/", config.broker.events_prefix, config.node.name);
    let filter = TopicFilter::new(&format!("{clients}+/request"));
    let (Ok(filter), false) = (filter, config.broker.mqtt_requests.is_empty()) else {
        return std::future::pending().await;
    };
    let desk = Arc::new(Desk {
        rules: config.broker.mqtt_requests.clone(),
        metrics: api.site.mqtt_requests(),
        events_prefix: config.broker.events_prefix.clone(),
        clients,
        api,
    });
    let places = Arc::new(Semaphore::new(PLACES));
    let turns = Arc::new(Semaphore::new(2 * PLACES));
    loop {
        if let Some(operator) = desk.api.site.operator()
            // What is retained was asked for at another time.
            && let Ok((_, mut heard)) = operator.listen(filter.clone(), Qos::AtLeastOnce, WAITING).await
        {
            loop {
                let next = timeout(LOOK, heard.recv()).await;
                desk.metrics
                    .requests
                    .add(MqttRequestResult::Busy, heard.take_missed());
                let message = match next {
                    Ok(Some(Heard::Message(message))) => message,
                    Ok(Some(Heard::Ended(_)) | None) => break,
                    Err(_nothing) => continue,
                };
                if message.retain || message.payload.len() > MOST_BYTES {
                    desk.metrics.requests.inc(MqttRequestResult::Refused);
                    continue;
                }
                let place = Arc::clone(&places).try_acquire_owned().ok();
                // Those that are told that it is busy are as many again.
                let Some(turn) = Arc::clone(&turns).try_acquire_owned().ok() else {
                    desk.metrics.requests.inc(MqttRequestResult::Busy);
                    continue;
                };
                tokio::spawn(Arc::clone(&desk).take(message, place, turn));
            }
        }
        sleep(RETRY).await;
    }
}

impl Desk {
    async fn take(
        self: Arc<Self>,
        message: Arc<Message>,
        place: Option<OwnedSemaphorePermit>,
        _turn: OwnedSemaphorePermit,
    ) {
        if message.is_expired(self.api.site.now().steady) {
            return self.metrics.requests.inc(MqttRequestResult::Expired);
        }
        let Some(level) = self.level(&message) else { return };
        let client = percent_decode_str(level).decode_utf8_lossy().into_owned();
        // The broker's rules know a client by one topic.
        if news::level(&client) != level {
            return self.metrics.requests.inc(MqttRequestResult::Refused);
        }
        let body = read(&message.payload);
        let (reply, body) = match self.reply(&message, level, body) {
            Ok(found) => found,
            Err(_no_topic) => return self.metrics.requests.inc(MqttRequestResult::Refused),
        };
        let result = match (place.is_some(), body) {
            (false, _) => Err((
                MqttRequestResult::Busy,
                ApiError::conflict("busy", format!("{PLACES} requests are under way already")),
            )),
            (true, Err(error)) => Err((MqttRequestResult::Refused, error)),
            (true, Ok(body)) => self.ask(&client, body).await,
        };
        let (counted, mut answer) = match result {
            Ok(answer) => (MqttRequestResult::Answered, json!(answer)),
            Err((counted, error)) => (counted, json!({ "error": error.body() })),
        };
        self.metrics.requests.inc(counted);
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("clientid".to_owned(), client.into());
            answer.extend(reply.text.clone().map(|text| (CORRELATION_DATA.to_owned(), text)));
        }
        self.answer(reply, &answer).await;
    }

    /// The level of a request's topic that names its client.
    fn level<'a>(&self, message: &'a Message) -> Option<&'a str> {
        let topic = message.topic.as_str();
        topic.strip_prefix(&self.clients)?.strip_suffix("/request")
    }

    async fn ask(
        &self,
        client: &str,
        body: Map<String, Value>,
    ) -> Result<DeviceAnswer, (MqttRequestResult, ApiError)> {
        let refused = |error| (MqttRequestResult::Refused, error);
        let wanted: DeviceRequest = serde_json::from_value(body.into())
            .map_err(|error| refused(ApiError::bad_request(error.to_string())))?;
        let (method, path) = (&wanted.method, &wanted.path);
        let allowed = self.rules.allows(method, path);
        info!(
            target: "portcullis::audit",
            by = "mqtt",
            client = %client.escape_debug(),
            method = %method.escape_debug(),
            path = %path.escape_debug(),
            allowed,
            "request to a device"
        );
        if !allowed {
            let message = "broker.mqtt_requests lists no such method and path";
            return Err(refused(ApiError::forbidden(message)));
        }
        let client = client_id(client).map_err(refused)?;
        match ask_device(&self.api, &client, wanted, Patience::ToTheEnd).await {
            Ok(Asked::Answered(answer)) => Ok(answer),
            Ok(Asked::Queued(_)) => Err((MqttRequestResult::Failed, ApiError::worker_gone())),
            Err(error) => Err((MqttRequestResult::Failed, error)),
        }
    }

    /// Where the answer goes, and the request itself. Nobody has the gateway publish where it would take it for its own, or where the
    /// broker is at home.
    fn reply(&self, message: &Message, level: &str, mut body: Body) -> Result<(Reply, Body), ApiError> {
        let own = format!("{}{level}/response", self.clients);
        let bad = |what: &str| ApiError::bad_request(format!("{RESPONSE_TOPIC}: {what}"));
        let given = message.correspondence.as_deref();
        let mut named = given.and_then(|given| given.response_topic.clone());
        let mut text = None;
        if let Ok(members) = &mut body {
            let in_body = members.remove(RESPONSE_TOPIC);
            text = members.remove(CORRELATION_DATA);
            let in_body = in_body.map(|topic| topic.as_str().and_then(|topic| TopicName::new(topic).ok()));
            match in_body {
                Some(None) => body = Err(bad("this is no topic")),
                Some(topic) => named = named.or(topic),
                None => {}
            }
        }
        let is_closed = |topic: &TopicName| {
            let is_reserved = topic.is_reserved() || is_below(topic.as_str(), &self.events_prefix);
            is_reserved && topic.as_str() != own
        };
        if named.as_ref().is_some_and(is_closed) {
            named = None;
            body = Err(bad("topics of the broker and the gateway are closed"));
        }
        let topic = match named {
            Some(topic) => topic,
            None => TopicName::new(&own).map_err(|error| bad(&error.to_string()))?,
        };
        let reply = Reply {
            topic,
            qos: message.qos.min(Qos::AtLeastOnce),
            correlation: given.and_then(|given| given.correlation_data.clone()),
            text,
        };
        Ok((reply, body))
    }

    async fn answer(&self, reply: Reply, answer: &Value) {
        let Some(operator) = self.api.site.operator() else {
            return;
        };
        let correspondence = reply.correlation.map(|correlation| {
            Arc::new(Correspondence {
                response_topic: None,
                correlation_data: Some(correlation),
            })
        });
        let message = Message {
            content_type: Some("application/json".into()),
            correspondence,
            ..Message::new(reply.topic, answer.to_string().into(), reply.qos)
        };
        if !matches!(timeout(PATIENCE, operator.publish(message)).await, Ok(Ok(()))) {
            tracing::debug!("the broker did not take the answer of a device");
        }
    }
}

/// The members of a request.
fn read(payload: &[u8]) -> Body {
    match serde_json::from_slice(payload) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(ApiError::bad_request("the request is no JSON object")),
        Err(error) => Err(ApiError::bad_request(format!("the request is no JSON: {error}"))),
    }
}
