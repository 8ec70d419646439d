//! `mqtt/connection`: connections made, used and closed (interface 2.3).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::NextStep;
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::{Code, Response};
use crate::gateway::agenda::Cx;
use crate::gateway::answers::unavailable;
use crate::gateway::connection_table::{CONNECTION, ConnectionTable};
use crate::gateway::context::{ConnectionOperation, PeerFacts, ReplyTo, RequestContext};
use crate::gateway::directory::ClientDirectory;
use crate::gateway::metrics::ConnectionEvent;
use crate::gateway::observations::Observations;
use crate::gateway::pending_requests::{Awaited, Creation, PendingRequests};
use crate::gateway::settings::Settings;
use crate::gateway::workers::WorkerMessage;
use crate::policy::connections::{Connection, ConnectionKey, ConnectionToken, Grant, Presence};
use crate::types::ClientId;
use crate::types::reason::Limit;
use crate::types::standing::Standing;

/// A connection to be made.
pub(in crate::gateway) struct Wish {
    pub(in crate::gateway) client: ClientId,
    pub(in crate::gateway) from: PeerFacts,
    /// What its client gets as answer; `None` when the handshake is the connection.
    pub(in crate::gateway) reply: Option<ReplyTo>,
    /// Requests that wait for it.
    pub(in crate::gateway) joining: Vec<RequestContext>,
    pub(in crate::gateway) username: Option<Arc<str>>,
    pub(in crate::gateway) grant: Grant,
    /// How long it may be silent, in seconds, where its client says so.
    pub(in crate::gateway) lifetime: Option<u32>,
    /// What is known of who wants it.
    pub(in crate::gateway) standing: Standing,
    /// The connection that the home worker believes in, and that has ended.
    pub(in crate::gateway) ended: Option<ConnectionKey>,
}

/// Begins a connection; the home worker of its client id has the last word.
///
/// # Errors
/// 5.03 where there is no room.
pub(in crate::gateway) fn create(
    cx: &mut Cx<'_>,
    pending: &mut PendingRequests,
    table: &ConnectionTable,
    wish: Wish,
) -> Result<(), Response> {
    if table.of_client(&wish.client).is_none() && !cx.ledger.admits(wish.standing, CONNECTION, None) {
        cx.metrics.limits.inc(Limit::Memory);
        return Err(unavailable());
    }
    pending.room(cx)?;
    let Wish {
        client,
        from,
        reply,
        joining,
        username,
        grant,
        lifetime,
        ended,
        standing,
    } = wish;
    let key = ConnectionKey(cx.agenda.ticket().0);
    let (owner, join) = (from.owner.clone(), reply.is_none());
    let connection = Connection {
        key,
        client: client.clone(),
        token: ConnectionToken::generate(cx.worker, cx.rng),
        owner: owner.clone(),
        username,
        peer: None,
        listener: from.listener,
        lifetime: granted_lifetime(cx.settings, lifetime),
        presence: Presence::Online,
        is_held: false,
        is_listened_for: false,
        seen_at: cx.now,
        created_at: cx.now,
        returning: 0,
        kept: None,
        standing,
        grant,
    };
    let peer = from.id;
    let creation = Creation {
        connection,
        from,
        reply,
        joining,
    };
    let ticket = pending.wait(cx, Awaited::Create(Box::new(creation)))?;
    if join {
        pending.set_join(peer, ticket);
    }
    let home = ClientDirectory::home(&client, cx.settings.workers);
    cx.agenda.tell(
        home,
        WorkerMessage::Register {
            ticket,
            client,
            key,
            owner,
            join,
            ended,
        },
    );
    Ok(())
}

/// The home worker agreed: the connection is made, in place of an older one of its client, and its client answered.
pub(in crate::gateway) fn made(
    cx: &mut Cx<'_>,
    table: &mut ConnectionTable,
    observations: &mut Observations,
    connection: Connection,
    from: &PeerFacts,
    reply: Option<ReplyTo>,
) {
    let key = connection.key;
    let payload = Bytes::copy_from_slice(connection.token.as_bytes());
    let lifetime = connection.lifetime;
    if let Some(older) = table.of_client(&connection.client).map(|older| older.key) {
        table.end(cx, observations, older, ConnectionEvent::Replaced);
    }
    cx.metrics.connection_events.inc(match reply {
        Some(_) => ConnectionEvent::Created,
        None => ConnectionEvent::Implicit,
    });
    let mark = table.insert(cx, connection);
    observations.note_holder(AccountHolder::Connection(key), mark);
    observations.set_sleeps(key, lifetime.is_some());
    table.attach(cx, observations, key, from);
    table.announce(cx, key, None);
    if let Some(reply) = reply {
        let response = Response {
            payload,
            max_age: lifetime.map(seconds),
            ..Response::new(Code::CREATED)
        };
        cx.agenda.answer(reply, response);
    }
}

/// Does what is asked of a connection that stands.
pub(in crate::gateway) fn use_connection(
    cx: &mut Cx<'_>,
    table: &mut ConnectionTable,
    observations: &mut Observations,
    key: ConnectionKey,
    (operation, lifetime): (ConnectionOperation, Option<u32>),
) -> NextStep {
    if operation == ConnectionOperation::Close {
        table.end(cx, observations, key, ConnectionEvent::Closed);
        return NextStep::Answer(Response::new(Code::DELETED));
    }
    let granted = granted_lifetime(cx.settings, lifetime);
    if lifetime.is_some() {
        table.set_lifetime(cx, observations, key, granted);
    }
    NextStep::Answer(Response {
        max_age: granted.map(seconds),
        ..Response::new(Code::CHANGED)
    })
}

/// The lifetime that a client gets for the one that it names: 0 is none of its own, and what is too long is cut.
fn granted_lifetime(settings: &Settings, wanted: Option<u32>) -> Option<Duration> {
    let wanted = wanted.filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(wanted.into()).min(settings.sleep.max_lifetime))
}

fn seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)
}
