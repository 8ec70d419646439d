//! What the broker says, to the requests that wait for it and to the observers.

use std::sync::Arc;

use super::agenda::Cx;
use super::answers::{bad_request, not_acceptable, not_found, unavailable};
use super::context::ReplyTo;
use super::metrics::PublishResult;
use super::notification::{may_receive, remember};
use super::observations::Observations;
use super::ops::publish;
use super::pending_requests::{Awaited, PendingRequests};
use super::representations::Representations;
use super::topics::Topics;
use crate::bridge::content::{self, Representation};
use crate::bridge::contract::{BrokerError, BrokerEvent, Ticket};
use crate::bridge::sample::Sample;
use crate::coap::contract::{Code, ObservationId, Preconditions, Response};
use crate::invariant;
use crate::types::Message;
use crate::types::reason::Limit;

/// Most bytes of retained messages that are translated for one who begins to observe.
const MAX_TRANSLATED: usize = 1 << 20;

/// Takes in what the broker says.
pub(super) fn broker_event(
    cx: &mut Cx<'_>,
    (pending, observations, topics): (&mut PendingRequests, &mut Observations, &mut Topics),
    event: BrokerEvent,
) {
    match event {
        BrokerEvent::Message {
            filters,
            message,
            receipt,
        } => {
            if filters.iter().any(|filter| topics.is_own(*filter)) {
                topics.told(cx, observations, &message);
            }
            observations.message(cx, &filters, &message);
            if let Some(receipt) = receipt {
                receipt.taken();
            }
        }
        BrokerEvent::Published { ticket, result } => {
            publish_ended(cx, (pending, observations, topics), ticket, result);
        }
        BrokerEvent::Retained { ticket, result } => match pending.take(ticket) {
            Some(Awaited::Read {
                reply,
                accept,
                preconditions,
            }) => {
                let response = retained(cx, accept, preconditions.as_deref(), result);
                cx.agenda.answer(reply, response);
            }
            Some(Awaited::Judge(publishing)) => {
                let reply = publishing.reply;
                let judged = match result {
                    Ok(message) => publish::judged(cx, pending, *publishing, message.as_deref()),
                    Err(error) => {
                        cx.metrics.publishes.inc(publish_result(Err(error)));
                        Err(refusal(cx, error))
                    }
                };
                match judged {
                    Ok(then) => {
                        topics.follow_up(cx, observations, then);
                    }
                    Err(response) => cx.agenda.answer(reply, response),
                }
            }
            _ => {}
        },
        BrokerEvent::Subscribed { ticket, result } => {
            let error = result.as_ref().err().copied();
            cx.agenda.notes.answered(cx.now, ticket, error);
            match pending.take(ticket) {
                Some(Awaited::Subscribe { reply, observation }) => {
                    subscribed(cx, observations, reply, observation, result);
                }
                Some(Awaited::Collection) => topics.subscribed(cx, observations, result),
                _ => {}
            }
        }
        BrokerEvent::SubscriptionLost { filter_id, .. } if topics.is_own(filter_id) => topics.lost(cx),
        BrokerEvent::SubscriptionLost { filter_id, error } => {
            let response = refusal(cx, error);
            observations.refuse_filter(cx, filter_id, &response);
        }
    }
}

fn publish_ended(
    cx: &mut Cx<'_>,
    (pending, observations, topics): (&mut PendingRequests, &mut Observations, &mut Topics),
    ticket: Ticket,
    result: Result<(), BrokerError>,
) {
    let about = cx.agenda.notes.answered(cx.now, ticket, result.err());
    match pending.take(ticket) {
        Some(Awaited::Publish {
            reply,
            success,
            then,
            rest,
        }) => {
            if result.is_ok() && !rest.is_empty() {
                cx.metrics.publishes.inc(PublishResult::Accepted);
                return publish::go_on(cx, pending, rest, (reply, success, then), about);
            }
            let is_first = result.is_ok() && topics.follow_up(cx, observations, then);
            let success = if is_first { Code::CREATED } else { success };
            published(cx, reply, success, result);
        }
        Some(Awaited::Change(change)) => {
            let refused = result.err().map(|error| refusal(cx, error));
            topics.stepped(cx, (pending, observations), *change, refused);
        }
        _ => {}
    }
}

const fn publish_result(result: Result<(), BrokerError>) -> PublishResult {
    match result {
        Ok(()) => PublishResult::Accepted,
        Err(BrokerError::NotAuthorized) => PublishResult::Denied,
        Err(BrokerError::Changed) => PublishResult::Precondition,
        Err(BrokerError::Refused | BrokerError::TooLarge) => PublishResult::Refused,
        Err(BrokerError::Quota | BrokerError::Unavailable) => PublishResult::Unavailable,
    }
}

fn published(cx: &mut Cx<'_>, reply: ReplyTo, success: Code, result: Result<(), BrokerError>) {
    cx.metrics.publishes.inc(publish_result(result));
    let response = match result {
        Ok(()) => Response::new(success),
        Err(error) => refusal(cx, error),
    };
    cx.agenda.answer(reply, response);
}

fn retained(
    cx: &Cx<'_>,
    accept: Option<u16>,
    preconditions: Option<&Preconditions>,
    result: Result<Option<Arc<Message>>, BrokerError>,
) -> Response {
    let message = match result {
        Ok(message) => message.filter(|message| !message.is_expired(cx.now)),
        Err(error) => return refusal(cx, error),
    };
    let shown = message.as_deref().map(|message| Representations::of(cx, message));
    let meets = |preconditions: &Preconditions| match &shown {
        Some(shown) => shown.meet(preconditions),
        None => preconditions.hold(None),
    };
    if !preconditions.is_none_or(meets) {
        return Preconditions::failed();
    }
    match shown {
        Some(shown) => shown
            .for_accept(accept)
            .map_or_else(other_format, |shown| Response {
                etag: Some(shown.etag()),
                ..content_response(shown)
            }),
        None if content::accepts(accept, None) => not_found("nothing is retained there"),
        None => other_format(),
    }
}

fn subscribed(
    cx: &mut Cx<'_>,
    observations: &mut Observations,
    reply: Option<ReplyTo>,
    id: ObservationId,
    result: Result<Vec<Arc<Message>>, BrokerError>,
) {
    let Some(observation) = observations.get_mut(id) else {
        // Cancelled, or its client went away, before the broker answered.
        if let Some(reply) = reply {
            cx.agenda.answer(reply, Response::new(Code::CONTENT));
        }
        return;
    };
    match (result, reply) {
        (Err(error), Some(reply)) => {
            observations.end(cx, id);
            let response = refusal(cx, error);
            cx.agenda.answer(reply, response);
        }
        (Err(error), None) => {
            let response = refusal(cx, error);
            observations.refuse(cx, id, response);
        }
        (Ok(messages), None) => {
            observation.is_live = true;
            catch_up(cx, observations, id, &messages);
        }
        (Ok(messages), Some(reply)) => {
            observation.is_live = true;
            begin(cx, observations, id, reply, messages);
        }
    }
}

/// What is retained, for an observation that went on without an answer of its own: its client may have missed what came last.
fn catch_up(cx: &mut Cx<'_>, observations: &mut Observations, id: ObservationId, messages: &[Arc<Message>]) {
    for message in messages {
        let Some(observation) = observations.get_mut(id).filter(|it| it.watch.is_none()) else {
            return;
        };
        if message.is_expired(cx.now)
            || observation.is_own(message)
            || !may_receive(&cx.settings.authorizer, cx.metrics, observation, message)
        {
            continue;
        }
        let accept = observation.terms.accept;
        if let Some(shown) = Representations::of(cx, message).for_accept(accept) {
            observations.notify_one(cx, id, message, shown);
        }
    }
}

/// The answer to a subscription carries the first retained message; a wildcard's others follow as notifications.
fn begin(
    cx: &mut Cx<'_>,
    observations: &mut Observations,
    id: ObservationId,
    reply: ReplyTo,
    messages: Vec<Arc<Message>>,
) {
    let Some(observation) = observations.get_mut(id) else {
        invariant!(false, "an observation that has just begun is there");
        return;
    };
    if observation.seat.is_some() && messages.iter().all(|message| message.is_expired(cx.now)) {
        observations.end(cx, id);
        return cx
            .agenda
            .answer(reply, not_found("nothing was published to the topic yet"));
    }
    let mut budget = MAX_TRANSLATED;
    let (fitting, others): (Vec<_>, Vec<_>) = messages
        .into_iter()
        .filter(|message| {
            !message.is_expired(cx.now)
                && !observation.is_own(message)
                && may_receive(&cx.settings.authorizer, cx.metrics, observation, message)
        })
        .map(|message| {
            let shown = Representations::of(cx, &message);
            let shown = match budget {
                0 => shown.as_it_is_for(observation.terms.accept),
                _ => shown.for_accept(observation.terms.accept),
            };
            let is_translated = shown
                .as_ref()
                .is_some_and(|it| it.payload.as_ptr() != message.payload.as_ptr());
            budget = budget.saturating_sub(if is_translated { message.payload.len() } else { 0 });
            (message, shown)
        })
        .partition(|(_, shown)| shown.is_some());
    if fitting.is_empty() && !others.is_empty() {
        // An error ends an observation before it began (RFC 7641, 4.1).
        observations.end(cx, id);
        return cx.agenda.answer(reply, other_format());
    }
    let mut messages = fitting.into_iter();
    let first = messages
        .next()
        .and_then(|(message, shown)| Some((message, shown?)));
    let mut sample = None;
    if let Some(watch) = observation.watch.as_deref_mut() {
        let state = first.as_ref().map(|(state, _)| state);
        sample = state.and_then(|state| Sample::of(content::format_of(state), &state.payload));
        if let Some(Err(what)) = state.map(|_| watch.conditions().fit(sample)) {
            observations.end(cx, id);
            return cx.agenda.answer(reply, bad_request(what));
        }
        watch.report(cx.now, sample);
    }
    if let Some((message, shown)) = &first {
        remember(cx, observation, (message, shown), || sample);
    }
    let shown = first.map(|(_, shown)| shown);
    let mut response = shown.map_or_else(|| Response::new(Code::CONTENT), content_response);
    response.observe = Some(observation.next_sequence());
    response.observation = Some(id);
    let has_conditions = observation.watch.is_some();
    response.max_age = observation.max_age();
    cx.agenda.answer(reply, response);
    if has_conditions {
        observations.arm(cx, id);
    }
    for (message, shown) in messages {
        if let Some(shown) = shown {
            observations.notify_one(cx, id, &message, shown);
        }
    }
}

fn refusal(cx: &Cx<'_>, error: BrokerError) -> Response {
    match error {
        BrokerError::NotAuthorized => Response::diagnostic(Code::UNAUTHORIZED, "refused by the broker"),
        BrokerError::Refused => Response::diagnostic(Code::BAD_REQUEST, "refused by the broker"),
        BrokerError::TooLarge => {
            cx.metrics.limits.inc(Limit::BodySize);
            Response::diagnostic(Code::REQUEST_ENTITY_TOO_LARGE, "larger than the broker takes")
        }
        BrokerError::Changed => Preconditions::failed(),
        BrokerError::Quota | BrokerError::Unavailable => unavailable(),
    }
}

/// The answer that shows a retained message.
fn content_response(shown: Representation) -> Response {
    Response {
        payload: shown.payload,
        content_format: shown.format,
        ..Response::new(Code::CONTENT)
    }
}

fn other_format() -> Response {
    not_acceptable("it is of another Content-Format")
}
