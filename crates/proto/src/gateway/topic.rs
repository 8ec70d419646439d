//! `ps/{topic}`: publish, subscribe, unsubscribe, read, clear (interface 2.1).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Gateway;
use super::contract::Output;
use super::metrics::PublishResult;
use super::pending::{Parked, Pending, bad_request, unauthorized, unavailable};
use super::request::{Found, Operation, Stage, Step};
use super::settings::{DefaultQos, NotifyType};
use crate::bridge::content;
use crate::bridge::contract::BrokerRequest;
use crate::bridge::mountpoint::{self, Values};
use crate::bridge::subscriptions::{Holder, Terms};
use crate::bridge::uri::{Params, RetainHandling};
use crate::coap::contract::{Code, PeerId, Response};
use crate::policy::authorization::{Access, Action};
use crate::policy::connections::Grant;
use crate::types::message::{Origin, Qos};
use crate::types::reason::Limit;
use crate::types::{ClientId, Message, TopicFilter, TopicName};

/// Who asks, as far as topics, no-local and authorisation care.
pub(super) struct Caller {
    pub(super) peer: PeerId,
    pub(super) holder: Holder,
    pub(super) client: Option<ClientId>,
    pub(super) username: Option<Arc<str>>,
    pub(super) identity: Option<Arc<str>>,
    pub(super) grant: Grant,
    pub(super) prefix: String,
}

impl Gateway {
    pub(super) fn topic_request(
        &mut self,
        now: Instant,
        parked: &Parked,
        params: &Params<'_>,
        stage: Stage,
        operation: Operation,
        text: &str,
    ) -> Result<Step, Response> {
        let (holder, grant) = if self.settings.connection_required || params.token.is_some() {
            match self.connection_of(now, parked.peer, params)? {
                Found::Here(key) => {
                    let grant = self
                        .connections
                        .get(key)
                        .map(|connection| connection.grant.clone());
                    (Holder::Connection(key), grant.unwrap_or_default())
                }
                Found::Elsewhere { client, owner, proof } => {
                    return Ok(Step::Claim { client, owner, proof });
                }
            }
        } else if let Stage::Admitted(grant) = stage {
            (Holder::Peer(parked.peer), grant)
        } else {
            let client = self.client_of(parked.peer, params)?;
            match self.admit(now, parked, client.as_ref(), params)? {
                Some(grant) => (Holder::Peer(parked.peer), grant),
                None => return Ok(Step::Authenticate),
            }
        };
        let caller = self.caller(parked.peer, holder, params, grant)?;
        // A client with a connection is known by that, and no longer than it lasts.
        let by_name = matches!(caller.holder, Holder::Peer(_));
        if by_name
            && self
                .peers
                .get(parked.peer)
                .is_some_and(|peer| peer.client != caller.client)
        {
            self.peers.set_client(parked.peer, caller.client.clone());
        }
        let result = match operation {
            Operation::Publish => self.publish(now, parked, params, &caller, text),
            Operation::Clear => self.clear(parked, &caller, text),
            Operation::Read => self.read(parked, &caller, text),
            Operation::Subscribe => self.subscribe(now, parked, params, caller, text),
            Operation::Unsubscribe => self.stop_observing(&caller, text),
        };
        if matches!(operation, Operation::Publish | Operation::Clear)
            && let Err(response) = &result
        {
            self.metrics.publishes.inc(match response.code {
                Code::UNAUTHORIZED => PublishResult::Denied,
                Code::SERVICE_UNAVAILABLE => PublishResult::Unavailable,
                _ => PublishResult::Invalid,
            });
        }
        result
    }

    fn caller(
        &self,
        peer: PeerId,
        holder: Holder,
        params: &Params<'_>,
        grant: Grant,
    ) -> Result<Caller, Response> {
        let (_, identity) = self.bound_identity(peer);
        let proved = identity.map(|identity| Arc::clone(&identity.name));
        let (client, username) = match holder {
            Holder::Connection(key) => {
                let connection = self.connections.get(key);
                let username = connection.and_then(|connection| connection.username.clone());
                (connection.map(|connection| connection.client.clone()), username)
            }
            Holder::Peer(_) | Holder::Moved(_) => {
                (self.client_of(peer, params)?, self.username_of(peer, params))
            }
        };
        let listener = self
            .peers
            .get(peer)
            .and_then(|peer| self.listener_settings(peer.listener));
        let template = listener
            .and_then(|listener| listener.mountpoint.as_deref())
            .unwrap_or(&self.settings.mountpoint);
        let values = Values {
            client: client.as_ref().map(ClientId::as_str),
            username: username.as_deref(),
            identity: proved.as_deref(),
            listener: listener.map_or("", |listener| &listener.name),
        };
        let prefix = mountpoint::expand(template, values)
            .map_err(|name| bad_request(format!("a {name} with + # or / cannot be used here")))?;
        Ok(Caller {
            peer,
            holder,
            client,
            username,
            identity: proved,
            grant,
            prefix,
        })
    }

    fn publish(
        &mut self,
        now: Instant,
        parked: &Parked,
        params: &Params<'_>,
        caller: &Caller,
        text: &str,
    ) -> Result<Step, Response> {
        let request = &parked.request;
        let qos = params
            .qos
            .unwrap_or(self.settings.publish_qos.of(request.confirmable));
        if qos == Qos::AtMostOnce && self.pressure.refuses_qos0() {
            self.metrics.limits.inc(Limit::Overload);
            return Err(unavailable());
        }
        let topic = topic_to_publish(caller, text)?;
        let access = Access {
            action: Action::Publish,
            topic: text,
            qos,
            retain: params.retain,
        };
        self.authorize(caller, &access)?;
        let expiry = params.expiry.filter(|seconds| *seconds > 0);
        let message = Message {
            topic,
            payload: request.payload.clone(),
            qos,
            retain: params.retain,
            content_type: request.content_format.map(content::content_type),
            expires_at: expiry.and_then(|seconds| now.checked_add(Duration::from_secs(seconds.into()))),
            origin: Some(Origin {
                peer: caller.peer.0,
                client: caller.client.clone(),
            }),
        };
        self.hand_to_broker(parked, message, Code::CHANGED)
    }

    fn clear(&mut self, parked: &Parked, caller: &Caller, text: &str) -> Result<Step, Response> {
        let qos = self.settings.publish_qos.of(parked.request.confirmable);
        let topic = topic_to_publish(caller, text)?;
        self.authorize(
            caller,
            &Access {
                action: Action::Publish,
                topic: text,
                qos,
                retain: true,
            },
        )?;
        let message = Message {
            topic,
            payload: Bytes::new(),
            qos,
            retain: true,
            content_type: None,
            expires_at: None,
            origin: Some(Origin {
                peer: caller.peer.0,
                client: caller.client.clone(),
            }),
        };
        self.hand_to_broker(parked, message, Code::DELETED)
    }

    fn hand_to_broker(&mut self, parked: &Parked, message: Message, success: Code) -> Result<Step, Response> {
        let pending = Pending::Publish {
            exchange: parked.exchange,
            arrived: parked.arrived,
            success,
        };
        let ticket = self.wait(pending)?;
        let request = BrokerRequest::Publish {
            ticket,
            message: Arc::new(message),
        };
        self.outputs.push_back(Output::Broker(request));
        Ok(Step::Waiting)
    }

    fn read(&mut self, parked: &Parked, caller: &Caller, text: &str) -> Result<Step, Response> {
        let topic =
            TopicName::new(&mounted(caller, text)?).map_err(|error| bad_request(error.to_string()))?;
        self.authorize(caller, &Access::new(Action::Receive, text))?;
        let accept = parked.request.accept;
        let pending = Pending::Read {
            exchange: parked.exchange,
            arrived: parked.arrived,
            accept,
        };
        let ticket = self.wait(pending)?;
        self.outputs
            .push_back(Output::Broker(BrokerRequest::ReadRetained { ticket, topic }));
        Ok(Step::Waiting)
    }

    fn subscribe(
        &mut self,
        now: Instant,
        parked: &Parked,
        params: &Params<'_>,
        caller: Caller,
        text: &str,
    ) -> Result<Step, Response> {
        let request = &parked.request;
        if request.token.as_bytes().is_empty() {
            return Err(bad_request("observe needs a token of 1 to 8 bytes"));
        }
        let filter = filter_of(&caller, text)?;
        let (qos, ceiling) = match self.settings.subscribe_qos {
            DefaultQos::Fixed(qos) => (params.qos.unwrap_or(qos), Some(qos)),
            coap @ DefaultQos::Coap => (params.qos.unwrap_or(coap.of(request.confirmable)), None),
        };
        self.authorize(
            &caller,
            &Access {
                action: Action::Subscribe,
                topic: text,
                qos,
                retain: false,
            },
        )?;
        let held = self.subscriptions.of(caller.holder).len();
        let replaces = self.subscriptions.find(caller.holder, &filter).is_some();
        if !replaces && !self.observation_room(held) {
            return Err(unavailable());
        }
        self.pending_room()?;
        // Where each message's own QoS decides how it is notified, the broker must not lower it on the way here.
        let by_message =
            params.qos.or(ceiling).is_none() && matches!(self.settings.notify_type, NotifyType::Qos);
        let subscribe_qos = if by_message {
            qos.max(Qos::AtLeastOnce)
        } else {
            qos
        };
        let terms = Terms {
            token: request.token,
            resource: request.resource.clone(),
            filter: filter.clone(),
            mounted: caller.prefix.len(),
            qos: params.qos,
            ceiling,
            subscribe_qos,
            no_local: params.no_local,
            client: caller.client,
            username: caller.username,
            identity: caller.identity,
            grant: caller.grant,
        };
        let inserted = self.subscriptions.insert(now, caller.holder, terms);
        let retained = match params.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !inserted.known,
            RetainHandling::DoNotSend => false,
        };
        for removed in inserted.replaced {
            self.forget_removed(removed);
        }
        self.metrics.subscriptions.set(self.subscriptions.len() as u64);
        self.arm_observation(now, inserted.id);
        let pending = Pending::Subscribe {
            exchange: Some(parked.exchange),
            arrived: parked.arrived,
            accept: request.accept,
            observation: inserted.id,
        };
        let ticket = self.wait(pending)?;
        let filter_id = inserted.filter_id;
        let subscribe = BrokerRequest::Subscribe {
            ticket,
            filter_id,
            filter,
            qos: subscribe_qos,
            retained,
        };
        self.outputs.push_back(Output::Broker(subscribe));
        Ok(Step::Waiting)
    }

    fn stop_observing(&mut self, caller: &Caller, text: &str) -> Result<Step, Response> {
        let filter = filter_of(caller, text)?;
        if let Some(id) = self.subscriptions.find(caller.holder, &filter) {
            self.end_observation(id);
        }
        Ok(Step::Answer(Response::new(Code::NO_CONTENT)))
    }
}

impl DefaultQos {
    /// The QoS of a request that names none.
    pub(super) fn of(self, confirmable: bool) -> Qos {
        match self {
            Self::Fixed(qos) => qos,
            Self::Coap if confirmable => Qos::AtLeastOnce,
            Self::Coap => Qos::AtMostOnce,
        }
    }
}

fn mounted(caller: &Caller, text: &str) -> Result<String, Response> {
    if text.is_empty() {
        return Err(bad_request("topic is empty"));
    }
    Ok(format!("{}{text}", caller.prefix))
}

fn filter_of(caller: &Caller, text: &str) -> Result<TopicFilter, Response> {
    TopicFilter::new(&mounted(caller, text)?).map_err(|error| bad_request(error.to_string()))
}

/// The topic of a publish. What the broker and the gateway themselves publish is not for clients.
fn topic_to_publish(caller: &Caller, text: &str) -> Result<TopicName, Response> {
    let bad = |error: crate::types::topic::TopicError| bad_request(error.to_string());
    let named = TopicName::new(text).map_err(bad)?;
    let topic = TopicName::new(&mounted(caller, text)?).map_err(bad)?;
    if named.is_reserved() || topic.is_reserved() {
        return Err(unauthorized(
            "topics of the broker are not for clients to publish to",
        ));
    }
    Ok(topic)
}
