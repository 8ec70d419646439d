//! Read what is retained.

use super::NextStep;
use crate::bridge::contract::BrokerRequest;
use crate::coap::contract::Response;
use crate::gateway::agenda::Cx;
use crate::gateway::asker::Asker;
use crate::gateway::context::RequestContext;
use crate::gateway::guard::authorize;
use crate::gateway::pending_requests::{Awaited, PendingRequests};
use crate::gateway::topics::Topics;
use crate::policy::authorization::{Access, Action};

/// Asks the broker for a retained message.
///
/// # Errors
/// 4.00, 4.01, 4.04 where there is no such topic, or 5.03 where too much waits.
pub(super) fn read(
    cx: &mut Cx<'_>,
    (pending, topics): (&mut PendingRequests, &Topics),
    context: &RequestContext,
    asker: &Asker,
    text: &str,
) -> Result<NextStep, Response> {
    let topic = asker.topic(cx, text)?;
    authorize(cx, context, asker, &Access::new(Action::Receive, text))?;
    topics.used(cx, topic.as_str())?;
    let awaited = Awaited::Read {
        reply: context.reply,
        accept: context.accept,
        preconditions: context.preconditions.clone(),
    };
    let ticket = pending.wait(cx, awaited)?;
    cx.agenda.broker(BrokerRequest::ReadRetained { ticket, topic });
    Ok(NextStep::Wait)
}
