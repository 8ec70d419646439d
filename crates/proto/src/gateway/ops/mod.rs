//! What clients ask for, one file each: a request and the parts that it needs in, the next step out.

pub(super) mod connect;
pub(super) mod observe;
pub(super) mod publish;
pub(super) mod read;

use super::caller::Caller;
use super::context::{RequestContext, TopicOperation};
use super::metrics::PublishResult;
use super::observations::Observations;
use super::outbox::Cx;
use super::pressure::Pressure;
use super::waiting::Waiting;
use crate::coap::contract::{Code, Response};

/// What to do with a request next.
pub(super) enum Step {
    /// Answer it.
    Answer(Response),
    /// Nothing: its answer comes later.
    Wait,
}

/// Does what is asked of a topic.
///
/// # Errors
/// With the answer that refuses it.
pub(super) fn topic(
    cx: &mut Cx<'_>,
    waiting: &mut Waiting,
    observations: &mut Observations,
    pressure: &Pressure,
    (context, operation, text): (&RequestContext, TopicOperation, &str),
    caller: Caller,
) -> Result<Step, Response> {
    let result = match operation {
        TopicOperation::Publish => publish::publish(cx, waiting, pressure, context, &caller, text),
        TopicOperation::Clear => publish::clear(cx, waiting, context, &caller, text),
        TopicOperation::Read => read::read(cx, waiting, context, &caller, text),
        TopicOperation::Subscribe => observe::begin(cx, waiting, observations, context, caller, text),
        TopicOperation::Unsubscribe => observe::stop(cx, observations, context, &caller, text),
    };
    if context.publishes()
        && let Err(response) = &result
    {
        cx.metrics.publishes.inc(match response.code {
            Code::UNAUTHORIZED => PublishResult::Denied,
            Code::SERVICE_UNAVAILABLE => PublishResult::Unavailable,
            _ => PublishResult::Invalid,
        });
    }
    result
}
