//! What clients ask for, one file each: a request and the parts that it needs in, the next step out.

pub(super) mod collection;
pub(super) mod connect;
pub(super) mod observe;
pub(super) mod publish;
pub(super) mod read;

use super::agenda::Cx;
use super::asker::Asker;
use super::context::{RequestContext, TopicOperation};
use super::metrics::PublishResult;
use super::observations::Observations;
use super::pending_requests::PendingRequests;
use super::pressure::Pressure;
use super::topics::Topics;
use crate::coap::contract::{Code, Response};

/// What to do with a request next.
pub(super) enum NextStep {
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
    (pending, observations, topics): (&mut PendingRequests, &mut Observations, &Topics),
    pressure: &Pressure,
    (context, operation, text): (&RequestContext, TopicOperation, &str),
    asker: Asker,
) -> Result<NextStep, Response> {
    let result = match operation {
        TopicOperation::Publish => publish::publish(cx, (pending, topics), pressure, context, &asker, text),
        TopicOperation::Clear => publish::clear(cx, (pending, topics), context, &asker, text),
        TopicOperation::Read => read::read(cx, (pending, topics), context, &asker, text),
        TopicOperation::Subscribe => {
            observe::begin(cx, (pending, observations, topics), context, asker, text)
        }
        TopicOperation::Unsubscribe => observe::stop(cx, observations, context, &asker, text),
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
