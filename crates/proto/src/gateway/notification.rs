//! What becomes of a message for one observer: whether it is for them, what they are shown of it, and how it travels.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::agenda::Cx;
use super::kept::KeptObservations;
use super::kept_notifications::KeptNotifications;
use super::metrics::{ConditionResult, GatewayMetrics};
use super::representations::Representations;
use super::settings::NotifyType;
use super::trace::About;
use crate::bridge::conditions::Decision;
use crate::bridge::content::Representation;
use crate::bridge::sample::Sample;
use crate::bridge::subscriptions::{Observation, State};
use crate::coap::contract::{Code, Notification};
use crate::policy::authorization::{Access, Action, Authorizer};
use crate::policy::ledger::Table;
use crate::policy::pattern::Subject;
use crate::types::message::Qos;
use crate::types::reason::Limit;
use crate::types::{ClientId, Message};

/// From when on news is a check too, so that an observer of what changes is rarely sent the same twice.
fn due(check: Duration) -> Duration {
    check * 2 / 3
}

/// Notes for traces that a message is for an observer who can be reached.
fn note(cx: &mut Cx<'_>, observation: &Observation, message: &Message) {
    if cx.agenda.notes.is_on()
        && let Some(peer) = observation.at
    {
        let terms = &observation.terms;
        let who = (
            terms.client.as_ref(),
            terms.username.as_ref(),
            terms.identity.as_ref(),
        );
        let about = About::observer(peer, terms.listener, who);
        cx.agenda.notes.delivered(about, message);
    }
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
    // A mountpoint leads nobody to where the gateway is at home.
    if terms.mounted > 0 && authorizer.is_of_gateway(message.topic.as_str()) {
        return false;
    }
    let topic = message.topic.as_str().get(terms.mounted..).unwrap_or_default();
    if !authorizer.has_file() && terms.grant.acl.is_none() && !authorizer.is_of_gateway(topic) {
        return true;
    }
    let subject = Subject {
        user: terms.username.as_deref(),
        client: terms.client.as_ref().map(ClientId::as_str),
        identity: terms.identity.as_deref(),
        attributes: Some(&terms.grant.attributes),
    };
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

/// Whether the observer is to get it although the process is killed: it was published so, and is acknowledged, or waits for a client
/// that is away.
fn is_reliable(observation: &Observation, message: &Message, notification: &Notification) -> bool {
    message.qos > Qos::AtMostOnce && (notification.confirmable || observation.at.is_none())
}

/// What an observer is shown of a message; nothing where that is not for it.
pub(super) fn shown_to(
    cx: &Cx<'_>,
    observation: &Observation,
    message: &Message,
    shown: &Representations<'_>,
) -> Option<Representation> {
    if !observation.is_live || observation.is_own(message) {
        return None;
    }
    let shown = shown.for_accept(observation.terms.accept)?;
    may_receive(&cx.settings.authorizer, cx.metrics, observation, message).then_some(shown)
}

/// Whether a message meets the conditions of its observer, where there are any.
pub(super) fn meets_conditions(
    cx: &Cx<'_>,
    observation: &mut Observation,
    sample: impl FnOnce() -> Option<Sample>,
) -> bool {
    let Some(watch) = observation.watch.as_deref_mut() else {
        return true;
    };
    let sample = sample();
    let unfit = watch.conditions().fit(sample).is_err();
    let mut decision = watch.take(cx.now, sample);
    if decision == Decision::Wait && observation.last.is_none() {
        // There was no room to keep it until then.
        watch.report(cx.now, sample);
        decision = Decision::Notify;
    }
    cx.metrics.conditions.inc(match decision {
        _ if unfit => ConditionResult::Unfit,
        Decision::Notify => ConditionResult::Notified,
        Decision::Wait => ConditionResult::Waited,
        Decision::Withhold => ConditionResult::Withheld,
    });
    decision == Decision::Notify
}

/// Whether a notification, of a message or of nothing, goes as CON. Who asks for notifications that nobody published shows more
/// often that it is still there.
pub(super) fn confirmable(cx: &Cx<'_>, observation: &Observation, message: Option<&Message>) -> bool {
    /// Periods of `c.pmax` between two signs of life.
    const PERIODS: u32 = 60;
    let conditions = observation.terms.conditions.as_deref();
    let period = conditions.and_then(|conditions| conditions.max_period);
    let check = observation.check.unwrap_or(cx.settings.observe_check);
    let every = period.map_or(check, |period| check.min(period.saturating_mul(PERIODS)));
    let unheard = cx.now.saturating_duration_since(observation.confirmed_at);
    let notify_type = cx.settings.notify_type(observation.terms.listener);
    unheard >= due(every)
        // Else it would not show that its client does not get it.
        || observation.sleeps && notify_type != NotifyType::Non
        || conditions.is_some_and(|conditions| conditions.confirmable)
        || notify_type.confirmable(observation, message)
}

/// Keeps the last message for a check, unless those of the holder's standing have half of what they may have: the check then has
/// no body, and the other half stays for what is asked of us.
pub(super) fn remember(
    cx: &mut Cx<'_>,
    observation: &mut Observation,
    (message, shown): (&Arc<Message>, &Representation),
    sample: impl FnOnce() -> Option<Sample>,
) {
    let before = observation.weight_of_last();
    observation.last = Some(Arc::clone(message));
    observation.state = observation.watch.is_some().then(|| {
        Box::new(State {
            shown: shown.clone(),
            rules: Arc::clone(&cx.settings.translations),
            sample: sample(),
        })
    });
    let mut after = observation.weight_of_last();
    if before == after {
        return;
    }
    let Some(account) = cx.ledger.of(observation.holder) else {
        return;
    };
    if after > before && cx.ledger.is_half_full(cx.ledger.standing(account)) {
        cx.metrics.limits.inc(Limit::Memory);
        (observation.last, observation.state) = (None, None);
        after = 0;
    }
    cx.ledger.add(
        account,
        Table::Observations,
        after.cast_signed() - before.cast_signed(),
    );
}

/// The notification of a message; kept, where it is to outlive a kill.
pub(super) fn of(
    cx: &mut Cx<'_>,
    observation: &mut Observation,
    message: &Message,
    shown: Representation,
    (holders, kept): (&KeptObservations, &mut KeptNotifications),
) -> Notification {
    let confirmable = confirmable(cx, observation, Some(message));
    note(cx, observation, message);
    let mut notification = carrying(observation, message, shown, confirmable);
    if is_reliable(observation, message, &notification) {
        kept.keep(cx.metrics, holders.mark_of(observation.holder), &mut notification);
    }
    notification
}

/// The next notification of an observation, with a message.
pub(super) fn carrying(
    observation: &mut Observation,
    message: &Message,
    shown: Representation,
    confirmable: bool,
) -> Notification {
    Notification {
        payload: shown.payload,
        content_format: shown.format,
        expires_at: message.expires_at,
        topic: Some(message.topic.clone()),
        ..empty(observation, confirmable)
    }
}

/// The next notification of an observation, without a body.
pub(super) fn empty(observation: &mut Observation, confirmable: bool) -> Notification {
    Notification {
        token: observation.terms.token,
        resource: observation.terms.resource.clone(),
        block_szx: observation.terms.block_szx,
        confirmable,
        observe: observation.next_sequence(),
        code: Code::CONTENT,
        payload: Bytes::new(),
        content_format: None,
        max_age: observation.max_age(),
        expires_at: None,
        kept: None,
        returns: observation.sleeps && confirmable,
        topic: None,
    }
}

impl NotifyType {
    fn confirmable(self, observation: &Observation, message: Option<&Message>) -> bool {
        match self {
            Self::Non => false,
            Self::Con => true,
            Self::Qos => {
                let published = message.map_or(Qos::AtMostOnce, |message| message.qos);
                let delivered = observation
                    .terms
                    .ceiling
                    .map_or(published, |ceiling| ceiling.min(published));
                observation.terms.qos.unwrap_or(delivered) > Qos::AtMostOnce
            }
        }
    }
}
