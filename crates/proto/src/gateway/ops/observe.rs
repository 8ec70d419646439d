//! Begin and end observations (RFC 7641).

use super::NextStep;
use crate::bridge::contract::BrokerRequest;
use crate::bridge::subscriptions::Terms;
use crate::bridge::uri::RetainHandling;
use crate::coap::contract::{Code, Response};
use crate::gateway::agenda::Cx;
use crate::gateway::answers::{bad_request, unavailable};
use crate::gateway::asker::Asker;
use crate::gateway::context::RequestContext;
use crate::gateway::guard::authorize;
use crate::gateway::observations::Observations;
use crate::gateway::pending_requests::{Awaited, PendingRequests};
use crate::gateway::settings::{DefaultQos, NotifyType};
use crate::policy::authorization::{Access, Action};
use crate::types::message::Qos;
use crate::types::standing::Standing;

/// Begins an observation and has the broker subscribe for it.
///
/// # Errors
/// 4.00, 4.01, or 5.03 where there is no room.
pub(super) fn begin(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
    observations: &mut Observations,
    context: &RequestContext,
    asker: Asker,
    text: &str,
) -> Result<NextStep, Response> {
    let filter = asker.filter(cx, text)?;
    let params = &context.params;
    let one_state = params
        .conditions
        .as_ref()
        .is_some_and(|conditions| conditions.concern_one_state());
    if one_state && filter.has_wildcard() {
        return Err(bad_request(
            "conditions are about one topic: no + and no # with them",
        ));
    }
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
    pending.room(cx)?;
    // Where each message's own QoS decides how it is notified, the broker must not lower it on the way here.
    let by_message = params.qos.or(ceiling).is_none() && matches!(cx.settings.notify_type, NotifyType::Qos);
    let subscribe_qos = if by_message {
        qos.max(Qos::AtLeastOnce)
    } else {
        qos
    };
    let known = cx
        .ledger
        .of(asker.holder)
        .map(|account| cx.ledger.standing(account));
    let principal = asker.principal().filter(|_| known == Some(Standing::Known));
    let terms = Terms {
        token: context.token,
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
        return Err(unavailable());
    }
    let at = Some(context.from.id);
    let (observation, filter_id, known) = observations.insert(cx, asker.holder, at, terms);
    let awaited = Awaited::Subscribe {
        reply: Some(context.reply),
        observation,
    };
    let ticket = pending.wait(cx, awaited)?;
    cx.agenda.broker(BrokerRequest::Subscribe {
        ticket,
        filter_id,
        filter,
        qos: subscribe_qos,
        retained: match params.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !known,
            RetainHandling::DoNotSend => false,
        },
    });
    Ok(NextStep::Wait)
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
