//! What the broker says, to the requests that wait for it and to the observers.

use std::sync::Arc;

use super::answers::unavailable;
use super::context::ReplyTo;
use super::metrics::PublishResult;
use super::observations::{Observations, may_receive};
use super::outbox::Cx;
use super::waiting::{Pending, Waiting};
use crate::bridge::content;
use crate::bridge::contract::{BrokerError, BrokerEvent};
use crate::coap::contract::{Code, ObservationId, Response};
use crate::types::Message;
use crate::types::reason::Limit;

/// Takes in what the broker says.
pub(super) fn broker_event(
    cx: &mut Cx<'_>,
    waiting: &mut Waiting,
    observations: &mut Observations,
    event: BrokerEvent,
) {
    match event {
        BrokerEvent::Message { filters, message } => observations.message(cx, &filters, &message),
        BrokerEvent::Published { ticket, result } => {
            if let Some(Pending::Publish { reply, success }) = waiting.take(ticket) {
                published(cx, reply, success, result);
            }
        }
        BrokerEvent::Retained { ticket, result } => {
            if let Some(Pending::Read { reply, accept }) = waiting.take(ticket) {
                retained(cx, reply, accept, result);
            }
        }
        BrokerEvent::Subscribed { ticket, result } => {
            if let Some(Pending::Subscribe {
                reply,
                accept,
                observation,
            }) = waiting.take(ticket)
            {
                subscribed(cx, observations, (reply, accept), observation, result);
            }
        }
        BrokerEvent::SubscriptionLost { filter_id, error } => {
            let response = refusal(cx, error);
            observations.refuse_filter(cx, filter_id, &response);
        }
    }
}

fn published(cx: &mut Cx<'_>, reply: ReplyTo, success: Code, result: Result<(), BrokerError>) {
    cx.metrics.publishes.inc(match result {
        Ok(()) => PublishResult::Accepted,
        Err(BrokerError::NotAuthorized) => PublishResult::Denied,
        Err(BrokerError::Refused | BrokerError::TooLarge) => PublishResult::Refused,
        Err(BrokerError::Quota | BrokerError::Unavailable) => PublishResult::Unavailable,
    });
    let response = match result {
        Ok(()) => Response::new(success),
        Err(error) => refusal(cx, error),
    };
    cx.outbox.answer(reply, response);
}

fn retained(
    cx: &mut Cx<'_>,
    reply: ReplyTo,
    accept: Option<u16>,
    result: Result<Option<Arc<Message>>, BrokerError>,
) {
    let response = match result {
        Ok(Some(message)) if !message.is_expired(cx.now) => representation(&message, accept),
        Ok(_) if content::is_acceptable(accept) => Response::new(Code::NOT_FOUND),
        Ok(_) => Response::new(Code::NOT_ACCEPTABLE),
        Err(error) => refusal(cx, error),
    };
    cx.outbox.answer(reply, response);
}

fn subscribed(
    cx: &mut Cx<'_>,
    observations: &mut Observations,
    asked: (Option<ReplyTo>, Option<u16>),
    id: ObservationId,
    result: Result<Vec<Arc<Message>>, BrokerError>,
) {
    let (reply, accept) = asked;
    let Some(observation) = observations.get_mut(id) else {
        // Cancelled, or its client went away, before the broker answered.
        if let Some(reply) = reply {
            cx.outbox.answer(reply, Response::new(Code::CONTENT));
        }
        return;
    };
    match (result, reply) {
        (Err(error), Some(reply)) => {
            observations.end(cx, id);
            let response = refusal(cx, error);
            cx.outbox.answer(reply, response);
        }
        (Err(error), None) => {
            let response = refusal(cx, error);
            observations.refuse(cx, id, response);
        }
        (Ok(_), None) => observation.is_live = true,
        (Ok(messages), Some(reply)) => {
            observation.is_live = true;
            begin(cx, observations, id, (reply, accept), messages);
        }
    }
}

/// The answer to a subscription carries the first retained message; a wildcard's others follow as notifications.
fn begin(
    cx: &mut Cx<'_>,
    observations: &mut Observations,
    id: ObservationId,
    (reply, accept): (ReplyTo, Option<u16>),
    messages: Vec<Arc<Message>>,
) {
    let Some(observation) = observations.get_mut(id) else {
        return;
    };
    let own: Vec<_> = messages
        .into_iter()
        .filter(|message| {
            !message.is_expired(cx.now)
                && !observation.is_own(message)
                && may_receive(&cx.settings.authorizer, cx.metrics, observation, message)
        })
        .collect();
    let mut messages = own.into_iter();
    let first = messages.next();
    observation.last.clone_from(&first);
    let mut response = first.map_or_else(
        || Response::new(Code::CONTENT),
        |message| representation(&message, accept),
    );
    if response.code != Code::CONTENT {
        // An error ends an observation before it began (RFC 7641, 4.1).
        observations.end(cx, id);
        return cx.outbox.answer(reply, response);
    }
    response.observe = Some(observation.next_sequence());
    cx.outbox.answer(reply, response);
    for message in messages {
        observations.notify_one(cx, id, &message);
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
        BrokerError::Quota | BrokerError::Unavailable => unavailable(),
    }
}

/// The answer that shows a retained message, or 4.06 when it is of another format than the one asked for.
fn representation(message: &Message, accept: Option<u16>) -> Response {
    let format = message.content_type.as_deref().and_then(content::content_format);
    let acceptable = match format {
        Some(_) => accept.is_none() || accept == format,
        None => content::is_acceptable(accept),
    };
    if !acceptable {
        return Response::new(Code::NOT_ACCEPTABLE);
    }
    Response {
        payload: message.payload.clone(),
        content_format: format,
        ..Response::new(Code::CONTENT)
    }
}
