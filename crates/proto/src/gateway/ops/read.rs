//! Read what is retained.

use super::Step;
use crate::bridge::contract::BrokerRequest;
use crate::coap::contract::Response;
use crate::gateway::caller::Caller;
use crate::gateway::context::RequestContext;
use crate::gateway::guard::authorize;
use crate::gateway::outbox::Cx;
use crate::gateway::waiting::{Pending, Waiting};
use crate::policy::authorization::{Access, Action};

/// Asks the broker for a retained message.
///
/// # Errors
/// 4.00, 4.01, or 5.03 where too much waits.
pub(super) fn read(
    cx: &mut Cx<'_>,
    waiting: &mut Waiting,
    context: &RequestContext,
    caller: &Caller,
    text: &str,
) -> Result<Step, Response> {
    let topic = caller.topic(text)?;
    authorize(cx, caller, &Access::new(Action::Receive, text))?;
    let pending = Pending::Read {
        reply: context.reply,
        accept: context.accept,
    };
    let ticket = waiting.wait(cx, pending)?;
    cx.outbox.broker(BrokerRequest::ReadRetained { ticket, topic });
    Ok(Step::Wait)
}
