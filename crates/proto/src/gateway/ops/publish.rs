//! Publish a payload, or clear what is retained.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::NextStep;
use crate::bridge::content;
use crate::bridge::contract::BrokerRequest;
use crate::coap::contract::{Code, Response};
use crate::gateway::agenda::Cx;
use crate::gateway::answers::unavailable;
use crate::gateway::asker::Asker;
use crate::gateway::context::RequestContext;
use crate::gateway::guard::authorize;
use crate::gateway::pending_requests::{Awaited, PendingRequests};
use crate::gateway::pressure::Pressure;
use crate::policy::authorization::{Access, Action};
use crate::types::Message;
use crate::types::message::{Origin, Qos};
use crate::types::reason::Limit;

/// Hands a payload to the broker.
///
/// # Errors
/// 4.00, 4.01, or 5.03 where it cannot be taken now.
pub(super) fn publish(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
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
    let message = Message {
        topic: asker.topic_to_publish(cx, text)?,
        payload: context.payload.clone(),
        qos,
        retain: params.retain,
        content_type: context.content_format.map(content::content_type),
        expires_at: expiry.and_then(|seconds| cx.now.checked_add(Duration::from_secs(seconds.into()))),
        origin: origin(context, asker),
    };
    may_publish(cx, context, asker, text, &message)?;
    hand_over(cx, pending, context, message, Code::CHANGED)
}

/// Has the broker clear what is retained.
///
/// # Errors
/// As [`publish`].
pub(super) fn clear(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
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
    };
    may_publish(cx, context, asker, text, &message)?;
    hand_over(cx, pending, context, message, Code::DELETED)
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
    context: &RequestContext,
    message: Message,
    success: Code,
) -> Result<NextStep, Response> {
    let reply = context.reply;
    let ticket = pending.wait(cx, Awaited::Publish { reply, success })?;
    cx.agenda.broker(BrokerRequest::Publish {
        ticket,
        message: Arc::new(message),
    });
    Ok(NextStep::Wait)
}
