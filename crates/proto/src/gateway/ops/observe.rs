//! Begin and end observations (RFC 7641).

use super::{NextStep, read};
use crate::bridge::conditions::Conditions;
use crate::bridge::contract::BrokerRequest;
use crate::bridge::subscriptions::Terms;
use crate::coap::contract::{Code, Response};
use crate::gateway::agenda::Cx;
use crate::gateway::answers::{bad_request, unavailable};
use crate::gateway::asker::Asker;
use crate::gateway::context::RequestContext;
use crate::gateway::guard::authorize;
use crate::gateway::observations::Observations;
use crate::gateway::pending_requests::{Awaited, PendingRequests};
use crate::gateway::settings::{DefaultQos, NotifyType};
use crate::gateway::topics::Topics;
use crate::gateway::trace::{About, Carried, Errand};
use crate::policy::authorization::{Access, Action};
use crate::types::message::Qos;
use crate::types::standing::Standing;
use crate::types::{ListenerId, TopicFilter};

/// Begins an observation and has the broker subscribe for it.
///
/// # Errors
/// 4.00, 4.01, 4.04 where there is no such topic, or 5.03 where there is no room.
pub(super) fn begin(
    cx: &mut Cx<'_>,
    (pending, observations, topics): (&mut PendingRequests, &mut Observations, &Topics),
    context: &RequestContext,
    asker: Asker,
    text: &str,
) -> Result<NextStep, Response> {
    let filter = asker.filter(cx, text)?;
    let params = &context.params;
    check_conditions(params.conditions.as_deref(), &filter)?;
    let (qos, ceiling) = match cx.settings.subscribe_qos {
        DefaultQos::Fixed(qos) => (params.qos.unwrap_or(qos), Some(qos)),
        coap @ DefaultQos::Coap => (params.qos.unwrap_or(coap.of(context.confirmable)), None),
    };
    let access = Access {
        action: Action::Subscribe,
        topic: text,
        qos,
        retain: false,
    };
    authorize(cx, context, &asker, &access)?;
    let created = match filter.has_wildcard() {
        true => None,
        false => topics.used(cx, filter.as_str())?,
    };
    pending.room(cx)?;
    let seat = created.map(|topic| {
        let own = observations.seat_of(asker.holder, &filter);
        let most = topic.properties().max_subscribers.unwrap_or(u32::MAX);
        own.or_else(|| cx.shared.seats.take(topic.topic(), most))
    });
    let Some(seat) = seat.map_or(Some(None), |seat| seat.map(Some)) else {
        // An answer without Observe says that there is no place (RFC 7641, 4.1).
        return read::read(cx, (pending, topics), context, &asker, text);
    };
    let listener = context.from.listener;
    let subscribe_qos = subscribe_qos(cx, listener, qos, params.qos.or(ceiling).is_some());
    let known = cx
        .ledger
        .of(asker.holder)
        .map(|account| cx.ledger.standing(account));
    let principal = asker.principal().filter(|_| known == Some(Standing::Known));
    let about = cx.agenda.notes.is_on().then(|| About::asker(context, &asker));
    let terms = Terms {
        token: context.token,
        listener,
        resource: context.resource.as_get(),
        block_szx: context.block_szx,
        filter: filter.clone(),
        mounted: asker.prefix.len(),
        accept: context.accept,
        qos: params.qos,
        ceiling,
        subscribe_qos,
        no_local: params.no_local,
        conditions: params.conditions.clone(),
        client: asker.client,
        username: asker.username,
        identity: asker.identity,
        grant: asker.grant,
        principal,
    };
    if !observations.has_room(cx, asker.holder, &terms) {
        observations.keep_seat(asker.holder, &terms.filter, seat);
        return Err(unavailable());
    }
    let at = Some(context.from.id);
    let check = created.and_then(|topic| topic.properties().observer_check);
    let (observation, filter_id, known) = observations.insert(cx, asker.holder, at, terms);
    observations.sit(cx, observation, seat, check);
    let awaited = Awaited::Subscribe {
        reply: Some(context.reply),
        observation,
    };
    let ticket = pending.wait(cx, awaited)?;
    cx.agenda
        .notes
        .asked(cx.now, ticket, about, Errand::Subscribe, || {
            Carried::filter(&filter, subscribe_qos)
        });
    cx.agenda.broker(BrokerRequest::Subscribe {
        ticket,
        filter_id,
        filter,
        qos: subscribe_qos,
        // Whether there is a created topic to observe, what is retained shows.
        retained: created.is_some() || params.retain_handling.sends(known),
    });
    Ok(NextStep::Wait)
}

/// Whether the conditions of an observation can be about its filter.
///
/// # Errors
/// 4.00 when they are about one state, and the filter is about many.
fn check_conditions(conditions: Option<&Conditions>, filter: &TopicFilter) -> Result<(), Response> {
    if conditions.is_some_and(Conditions::concern_one_state) && filter.has_wildcard() {
        return Err(bad_request(
            "conditions are about one topic: no + and no # with them",
        ));
    }
    Ok(())
}

/// The QoS to subscribe with. Where each message's own QoS decides how it is notified, the broker must not lower it on the way here.
fn subscribe_qos(cx: &Cx<'_>, listener: ListenerId, qos: Qos, decided: bool) -> Qos {
    if !decided && matches!(cx.settings.notify_type(listener), NotifyType::Qos) {
        qos.max(Qos::AtLeastOnce)
    } else {
        qos
    }
}

/// Ends an observation; not one of another token, which is another one (RFC 7641, 3.6 and 4.1).
///
/// # Errors
/// 4.00 where the filter is none.
pub(super) fn stop(
    cx: &mut Cx<'_>,
    observations: &mut Observations,
    context: &RequestContext,
    asker: &Asker,
    text: &str,
) -> Result<NextStep, Response> {
    let filter = asker.filter(cx, text)?;
    if let Some(id) = observations.find(asker.holder, &filter)
        && observations
            .get(id)
            .is_some_and(|observation| observation.terms.token == context.token)
    {
        observations.end(cx, id);
    }
    Ok(NextStep::Answer(Response::new(Code::NO_CONTENT)))
}
