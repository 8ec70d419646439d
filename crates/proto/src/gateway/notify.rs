//! From a broker's message to the observers of its topic (interface 2.6).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use super::contract::Output;
use super::metrics::GatewayMetrics;
use super::settings::{NotifyType, Settings};
use super::timers::Timer;
use crate::bridge::content;
use crate::bridge::contract::{BrokerRequest, FilterId};
use crate::bridge::handover::Turn;
use crate::bridge::subscriptions::{Holder, Observation, Removed};
use crate::coap::contract::{Code, Notification, ObservationId, PeerId};
use crate::policy::authorization::{Access, Action, Authorizer};
use crate::policy::pattern::Subject;
use crate::types::message::Qos;
use crate::types::reason::Limit;
use crate::types::{ClientId, Message};

impl Gateway {
    /// A message that filters of ours match, each once.
    pub(super) fn message(&mut self, now: Instant, filters: &[FilterId], message: &Arc<Message>) {
        if message.is_expired(now) {
            return;
        }
        let format = message.content_type.as_deref().and_then(content::content_format);
        for filter in filters {
            for index in 0..self.subscriptions.filter_len(*filter) {
                let Some((id, observation)) = self.subscriptions.nth_of_filter(*filter, index) else {
                    break;
                };
                match observation
                    .stage
                    .take(message, self.settings.caps.queued_per_observation)
                {
                    Turn::Client => {}
                    Turn::Nobody | Turn::Waits => continue,
                    Turn::Displaces => {
                        self.metrics.limits.inc(Limit::QueuedNotifications);
                        continue;
                    }
                }
                let prepared = prepare(now, &self.settings, &self.metrics, observation, message, format);
                if let Some((holder, notification)) = prepared {
                    self.deliver(now, holder, id, notification);
                }
            }
        }
    }

    /// Passes a message on to one observer, if it is for it.
    pub(super) fn pass_on(&mut self, now: Instant, id: ObservationId, message: &Arc<Message>) {
        let Some(observation) = self.subscriptions.get_mut(id) else {
            return;
        };
        let format = message.content_type.as_deref().and_then(content::content_format);
        let prepared = prepare(now, &self.settings, &self.metrics, observation, message, format);
        if let Some((holder, notification)) = prepared {
            self.deliver(now, holder, id, notification);
        }
    }

    /// Sends a retained message to one observer.
    pub(super) fn notify_one(&mut self, now: Instant, id: ObservationId, message: &Arc<Message>) {
        let Some(observation) = self.subscriptions.get_mut(id) else {
            return;
        };
        let format = message.content_type.as_deref().and_then(content::content_format);
        let confirmable = self.settings.notify_type.confirmable(observation, message);
        observation.last = Some(Arc::clone(message));
        let notification = notification(observation, message, format, confirmable);
        let holder = observation.holder;
        self.deliver(now, holder, id, notification);
    }

    fn deliver(&mut self, now: Instant, holder: Holder, id: ObservationId, notification: Notification) {
        match self.place_of(holder).and_then(|peer| self.peers.get_mut(peer)) {
            Some(peer) => self.coap.notify(now, &mut peer.coap, id, notification),
            None => self.keep_for_later(id, notification),
        }
    }

    pub(super) fn place_of(&self, holder: Holder) -> Option<PeerId> {
        match holder {
            Holder::Peer(peer) => Some(peer),
            Holder::Connection(key) => self.connections.get(key)?.peer,
            Holder::Moved(_) => None,
        }
    }

    /// The client is away: the message waits for the session that takes its connection over.
    pub(super) fn keep_for_later(&mut self, id: ObservationId, notification: Notification) {
        let caps = &self.settings.caps;
        let dropped = self
            .backlog
            .push(id, notification, caps.queued_per_observation, caps.queued_bytes);
        self.metrics
            .limits
            .add(Limit::QueuedNotifications, dropped as u64);
    }

    /// An observer that was not heard of for most of `observe_check` gets its next notification confirmably (RFC 7641, 4.5).
    /// Where none comes in that time, it is sent once more what it was sent last.
    pub(super) fn check_observation(&mut self, now: Instant, id: ObservationId) {
        let every = self.settings.observe_check;
        let Some(observation) = self.subscriptions.get_mut(id) else {
            return;
        };
        if observation.terms.grant.until.is_some_and(|until| until <= now) {
            return self.end_observation(id);
        }
        if observation.confirmed_at + every > now {
            return self.arm_observation(now, id);
        }
        // Counts as heard of until the check has run its course.
        observation.confirmed_at = now;
        let holder = observation.holder;
        let check = match observation.last.clone() {
            Some(message) if !message.is_expired(now) => {
                let format = message.content_type.as_deref().and_then(content::content_format);
                notification(observation, &message, format, true)
            }
            _ => Notification {
                token: observation.terms.token,
                resource: observation.terms.resource.clone(),
                confirmable: true,
                observe: observation.next_sequence(),
                code: Code::CONTENT,
                payload: bytes::Bytes::new(),
                content_format: None,
                expires_at: None,
            },
        };
        if let Some(peer) = self.place_of(holder).and_then(|peer| self.peers.get_mut(peer)) {
            self.coap.notify(now, &mut peer.coap, id, check);
        }
        self.arm_observation(now, id);
    }

    /// Arms the next look at an observation: its check, or the end of its client's credential.
    pub(super) fn arm_observation(&mut self, now: Instant, id: ObservationId) {
        let Some(observation) = self.subscriptions.get(id) else {
            return;
        };
        let check = observation.confirmed_at.checked_add(self.settings.observe_check);
        let at = [check, observation.terms.grant.until].into_iter().flatten().min();
        if let Some(at) = at {
            self.timers.arm(at.max(now), Timer::Observation(id));
        }
    }

    /// Ends one observation; nothing is sent.
    pub(super) fn end_observation(&mut self, id: ObservationId) {
        if let Some(removed) = self.subscriptions.remove(id) {
            self.forget_removed(removed);
            self.metrics.subscriptions.set(self.subscriptions.len() as u64);
        }
    }

    /// Ends all observations of a peer or connection; nothing is sent.
    pub(super) fn end_observations(&mut self, holder: Holder) {
        while let Some(id) = self.subscriptions.of(holder).first().copied() {
            self.end_observation(id);
        }
    }

    /// Clears away what an observation left behind.
    pub(super) fn forget_removed(&mut self, removed: Removed) {
        let holder = self.place_of(removed.observation.holder);
        if let Some(peer) = holder.and_then(|peer| self.peers.get_mut(peer)) {
            self.coap.cancel(&mut peer.coap, removed.id);
        }
        self.timers.disarm(Timer::Observation(removed.id));
        self.backlog.forget(removed.id);
        self.unsubscribe(removed.unsubscribe);
    }

    pub(super) fn unsubscribe(&mut self, filter_id: Option<FilterId>) {
        if let Some(filter_id) = filter_id {
            self.outputs
                .push_back(Output::Broker(BrokerRequest::Unsubscribe { filter_id }));
        }
    }
}

/// From when on news is a check too, so that an observer of what changes is rarely sent the same twice.
fn due(check: Duration) -> Duration {
    check * 2 / 3
}

/// Whether the client may be sent the message: rights may have changed since it subscribed, and a wildcard may match what
/// it may not read.
pub(super) fn may_receive(
    authorizer: &Authorizer,
    metrics: &GatewayMetrics,
    observation: &Observation,
    message: &Message,
) -> bool {
    let terms = &observation.terms;
    if !authorizer.has_file() && terms.grant.acl.is_none() {
        return true;
    }
    let subject = Subject {
        user: terms.username.as_deref(),
        client: terms.client.as_ref().map(ClientId::as_str),
        identity: terms.identity.as_deref(),
    };
    let topic = message.topic.as_str().get(terms.mounted..).unwrap_or_default();
    let access = Access {
        action: Action::Receive,
        topic,
        qos: message.qos,
        retain: message.retain,
    };
    let decision = authorizer.check(
        &subject,
        terms.grant.superuser,
        terms.grant.acl.as_deref(),
        &access,
    );
    metrics.authorizations.count(Action::Receive, &decision);
    decision.allowed
}

/// The notification of a message, unless it is not for this observer.
fn prepare(
    now: Instant,
    settings: &Settings,
    metrics: &GatewayMetrics,
    observation: &mut Observation,
    message: &Arc<Message>,
    format: Option<u16>,
) -> Option<(Holder, Notification)> {
    if observation.is_own(message) || !may_receive(&settings.authorizer, metrics, observation, message) {
        return None;
    }
    let confirmable = settings.notify_type.confirmable(observation, message)
        || now.saturating_duration_since(observation.confirmed_at) >= due(settings.observe_check);
    observation.last = Some(Arc::clone(message));
    let notification = notification(observation, message, format, confirmable);
    Some((observation.holder, notification))
}

fn notification(
    observation: &mut Observation,
    message: &Message,
    content_format: Option<u16>,
    confirmable: bool,
) -> Notification {
    Notification {
        token: observation.terms.token,
        resource: observation.terms.resource.clone(),
        confirmable,
        observe: observation.next_sequence(),
        code: Code::CONTENT,
        payload: message.payload.clone(),
        content_format,
        expires_at: message.expires_at,
    }
}

impl NotifyType {
    fn confirmable(self, observation: &Observation, message: &Message) -> bool {
        match self {
            Self::Non => false,
            Self::Con => true,
            Self::Qos => {
                let delivered = observation
                    .terms
                    .ceiling
                    .map_or(message.qos, |ceiling| ceiling.min(message.qos));
                observation.terms.qos.unwrap_or(delivered) > Qos::AtMostOnce
            }
        }
    }
}
