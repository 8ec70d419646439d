//! The owner's side of a connection: requests that use it, whichever worker their datagrams came to.

use super::agenda::Cx;
use super::asker::Asker;
use super::connection_table::ConnectionTable;
use super::context::{RequestContext, Target};
use super::guard::wrong_token;
use super::observations::Observations;
use super::ops::{self, NextStep, connect};
use super::pending_requests::PendingRequests;
use super::pressure::Pressure;
use super::topics::Topics;
use crate::coap::contract::Response;
use crate::policy::connections::ConnectionKey;

/// What a worker keeps, as far as requests need it.
pub(super) type Tables<'a> = (
    &'a mut PendingRequests,
    &'a mut Observations,
    &'a mut Topics,
    &'a mut ConnectionTable,
);

/// What became of a request for a connection.
pub(super) enum Served {
    /// It was served.
    NextStep(NextStep),
    /// The connection that its handshake proved has ended.
    NotHere(ConnectionKey),
}

/// Serves a request that names a connection of this worker by client id and token, or by the key that its handshake proved.
///
/// # Errors
/// With the answer that refuses it; 4.01 for a wrong token.
pub(super) fn serve(
    cx: &mut Cx<'_>,
    (pending, observations, topics, table): Tables<'_>,
    pressure: &Pressure,
    context: &RequestContext,
    proved: Option<ConnectionKey>,
) -> Result<Served, Response> {
    let Some(connection) = table.named(context, proved) else {
        return proved
            .map(Served::NotHere)
            .ok_or_else(|| wrong_token(cx, context));
    };
    let (key, seen_at) = (connection.key, table.last_sign(connection));
    let step = match &context.target {
        Target::Connection(operation) => {
            table.use_from(cx, observations, key, &context.from);
            let asked = (*operation, context.params.lifetime);
            connect::use_connection(cx, table, observations, key, asked)
        }
        Target::Topic(operation, text) => {
            let asker = Asker::connection(cx.settings, context, connection)?;
            table.use_from(cx, observations, key, &context.from);
            let asked = (context, *operation, text.as_str());
            let answer = ops::topic(cx, (pending, observations, topics), pressure, asked, asker);
            answer.inspect_err(|refusal| table.take_back(key, seen_at, refusal.code))?
        }
        Target::Collection(operation) => {
            let asker = Asker::connection(cx.settings, context, connection)?;
            table.use_from(cx, observations, key, &context.from);
            let answer = ops::collection::collection(cx, pending, topics, context, operation, &asker);
            answer.inspect_err(|refusal| table.take_back(key, seen_at, refusal.code))?
        }
        Target::Discovery => NextStep::Answer(ops::collection::discover(cx, topics, context, None)),
    };
    Ok(Served::NextStep(step))
}
