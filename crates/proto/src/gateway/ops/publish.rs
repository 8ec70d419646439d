//! Publish a payload, or clear what is retained.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::NextStep;
use crate::bridge::collection::properties::Properties;
use crate::bridge::collection::topic::Topic;
use crate::bridge::content;
use crate::bridge::contract::BrokerRequest;
use crate::bridge::translate::{NotTranslated, Unfit};
use crate::coap::contract::{Code, Preconditions, Response};
use crate::gateway::agenda::Cx;
use crate::gateway::answers::{other_format, unavailable};
use crate::gateway::asker::Asker;
use crate::gateway::context::{ReplyTo, RequestContext};
use crate::gateway::guard::{authorize, decide};
use crate::gateway::metrics::{PublishResult, TranslationResult};
use crate::gateway::pending_requests::{Awaited, PendingRequests, Publishing};
use crate::gateway::pressure::Pressure;
use crate::gateway::representations::Representations;
use crate::gateway::settings::TopicsMode;
use crate::gateway::topics::{Then, Topics};
use crate::gateway::trace::{About, Carried, Errand};
use crate::policy::authorization::{Access, Action};
use crate::types::Message;
use crate::types::message::{Origin, Qos};
use crate::types::reason::Limit;

/// Hands a payload to the broker.
///
/// # Errors
/// 4.00, 4.01, 4.04 or 4.15 as its topic has it, or 5.03 where it cannot be taken now.
pub(super) fn publish(
    cx: &mut Cx<'_>,
    (pending, topics): (&mut PendingRequests, &Topics),
    pressure: &Pressure,
    context: &RequestContext,
    asker: &Asker,
    text: &str,
) -> Result<NextStep, Response> {
    let params = &context.params;
    let default = cx.settings.publish_qos.of(context.confirmable);
    let qos = params.qos.unwrap_or(default);
    if qos == Qos::AtMostOnce && pressure.refuses_qos0() {
        cx.metrics.limits.inc(Limit::Overload);
        return Err(unavailable());
    }
    let expiry = params.expiry.filter(|seconds| *seconds > 0);
    let topic = asker.topic_to_publish(cx, text)?;
    let created = topics.collection().of_topic(topic.as_str());
    let creates = cx.settings.topics == TopicsMode::Both
        && created.is_none()
        && topics.has_room(context.from.standing)
        && decide(cx, asker, &Access::new(Action::Create, text)).allowed;
    let message = Message {
        payload: context.payload.clone(),
        qos,
        // What was published last is the state of a created topic.
        retain: params.retain.unwrap_or(created.is_some() || creates),
        content_type: context.content_format.map(content::content_type),
        expires_at: expiry.and_then(|seconds| cx.now.checked_add(Duration::from_secs(seconds.into()))),
        origin: origin(context, asker),
        topic,
        correspondence: None,
    };
    may_publish(cx, context, asker, text, &message)?;
    let (message, rest) = translated(cx, context, message)?;
    let format = content::format_of(&message);
    let then = match topics.published_to(cx, message.topic.as_str(), (format, context))? {
        Some(topic) if topic.is_full || !message.retain => Then::Nothing,
        Some(topic) => Then::Filled(topic.id().into()),
        None if creates && !message.payload.is_empty() => {
            let mut topic = Topic::new(
                message.topic.clone(),
                asker.prefix.len(),
                Properties::implicit(text),
            );
            topic.is_full = message.retain;
            Then::Created(Box::new(topic))
        }
        None => Then::Nothing,
    };
    hand_over(
        cx,
        pending,
        (context, asker),
        (message, rest),
        (Code::CHANGED, then),
    )
}

/// The message in the encoding that a rule wants the broker to have, and what follows where it is a batch that becomes one message for
/// each element, the last first.
///
/// # Errors
/// 4.15 where it cannot be translated, and the rule does not let it pass.
fn translated(
    cx: &Cx<'_>,
    context: &RequestContext,
    message: Message,
) -> Result<(Message, Vec<Arc<Message>>), Response> {
    let Some(rule) = cx.settings.translations.of(&message.topic) else {
        return Ok((message, Vec::new()));
    };
    let (payloads, format) = match rule.published(context.content_format, &message.payload, cx.shared.wall())
    {
        Ok(Some(published)) => published,
        Ok(None) => return Ok((message, Vec::new())),
        Err(_) if rule.unfit == Unfit::Pass => {
            cx.metrics.translations.inc(TranslationResult::Passed);
            return Ok((message, Vec::new()));
        }
        Err(NotTranslated(why)) => {
            cx.metrics.translations.inc(TranslationResult::Refused);
            return Err(other_format(why));
        }
    };
    cx.metrics.translations.inc(TranslationResult::Published);
    let content_type = Some(content::content_type(format));
    let mut messages = payloads.into_iter().map(|payload| Message {
        payload,
        content_type: content_type.clone(),
        ..message.clone()
    });
    // A pack of base fields alone has no record.
    let Some(first) = messages.next() else {
        return Err(other_format("an empty batch is no message"));
    };
    let mut rest: Vec<_> = messages.map(Arc::new).collect();
    rest.reverse();
    Ok((first, rest))
}

/// Has the broker clear what is retained.
///
/// # Errors
/// As [`publish`].
pub(super) fn clear(
    cx: &mut Cx<'_>,
    (pending, topics): (&mut PendingRequests, &Topics),
    context: &RequestContext,
    asker: &Asker,
    text: &str,
) -> Result<NextStep, Response> {
    let message = Message {
        topic: asker.topic_to_publish(cx, text)?,
        payload: Bytes::new(),
        qos: cx.settings.publish_qos.of(context.confirmable),
        retain: true,
        content_type: None,
        expires_at: None,
        origin: origin(context, asker),
        correspondence: None,
    };
    may_publish(cx, context, asker, text, &message)?;
    let created = topics.used(cx, message.topic.as_str())?;
    let then = created.map_or(Then::Nothing, |topic| Then::Emptied(topic.id().into()));
    hand_over(
        cx,
        pending,
        (context, asker),
        (message, Vec::new()),
        (Code::DELETED, then),
    )
}

fn origin(context: &RequestContext, asker: &Asker) -> Option<Origin> {
    Some(Origin {
        peer: context.from.id.0,
        client: asker.client.clone(),
    })
}

fn may_publish(
    cx: &mut Cx<'_>,
    context: &RequestContext,
    asker: &Asker,
    text: &str,
    message: &Message,
) -> Result<(), Response> {
    let access = Access {
        action: Action::Publish,
        topic: text,
        qos: message.qos,
        retain: message.retain,
    };
    authorize(cx, context, asker, &access)
}

fn hand_over(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
    (context, asker): (&RequestContext, &Asker),
    (message, rest): (Message, Vec<Arc<Message>>),
    (success, then): (Code, Then),
) -> Result<NextStep, Response> {
    let publishing = Publishing {
        reply: context.reply,
        message: Arc::new(message),
        rest,
        success,
        then,
        preconditions: context.preconditions.clone(),
        about: cx
            .agenda
            .notes
            .is_on()
            .then(|| Box::new(About::asker(context, asker))),
    };
    if publishing.preconditions.is_none() && !matches!(publishing.then, Then::Filled(_)) {
        return send(cx, pending, publishing).map(|()| NextStep::Wait);
    }
    let topic = publishing.message.topic.clone();
    let ticket = pending.wait(cx, Awaited::Judge(Box::new(publishing)))?;
    cx.agenda.broker(BrokerRequest::ReadRetained { ticket, topic });
    Ok(NextStep::Wait)
}

fn send(cx: &mut Cx<'_>, pending: &mut PendingRequests, publishing: Publishing) -> Result<(), Response> {
    let Publishing {
        reply,
        message,
        rest,
        success,
        then,
        preconditions,
        about,
    } = publishing;
    let awaited = Awaited::Publish {
        reply,
        success,
        then,
        rest,
    };
    let ticket = pending.wait(cx, awaited)?;
    cx.agenda
        .notes
        .asked(cx.now, ticket, about.map(|about| *about), Errand::Publish, || {
            Carried::of(&message)
        });
    cx.agenda.broker(match preconditions {
        Some(preconditions) => BrokerRequest::PublishIf {
            ticket,
            message,
            preconditions,
        },
        None => BrokerRequest::Publish { ticket, message },
    });
    Ok(())
}

/// Goes on with a batch of which the broker took what it was given.
pub(in crate::gateway) fn go_on(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
    mut rest: Vec<Arc<Message>>,
    (reply, success, then): (ReplyTo, Code, Then),
    about: Option<About>,
) {
    let Some(message) = rest.pop() else { return };
    let publishing = Publishing {
        reply,
        message,
        rest,
        success,
        then,
        preconditions: None,
        about: about.map(Box::new),
    };
    if let Err(response) = send(cx, pending, publishing) {
        cx.metrics.publishes.inc(PublishResult::Unavailable);
        cx.agenda.answer(reply, response);
    }
}

/// Goes on with a publish that what is retained decides about. Whether it found data there that nobody here had heard of.
///
/// # Errors
/// 4.12 where its preconditions do not hold, or 5.03 where too much waits.
pub(in crate::gateway) fn judged(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
    mut publishing: Publishing,
    retained: Option<&Message>,
) -> Result<Then, Response> {
    let state = retained.filter(|message| !message.is_expired(cx.now));
    if let Some(preconditions) = &mut publishing.preconditions {
        let etag = state.map(content::etag_of);
        if !preconditions.hold(etag) {
            let is_met = state.is_some_and(|state| Representations::of(cx, state).meet(preconditions));
            let Some(etag) = etag.filter(|_| is_met) else {
                cx.metrics.publishes.inc(PublishResult::Precondition);
                return Err(Preconditions::failed());
            };
            // The broker knows the message by what it has itself.
            preconditions.any_of = vec![etag.into()];
        }
    }
    let known = match (&publishing.then, state) {
        (Then::Filled(_), Some(_)) => std::mem::replace(&mut publishing.then, Then::Nothing),
        _ => Then::Nothing,
    };
    send(cx, pending, publishing).inspect_err(|_| cx.metrics.publishes.inc(PublishResult::Unavailable))?;
    Ok(known)
}
