//! Requests that wait: for the broker, for the home worker of a client id, for an authentication backend.

use std::net::IpAddr;
use std::sync::Arc;

use super::agenda::Cx;
use super::answers::unavailable;
use super::context::{PeerFacts, ReplyTo, RequestContext};
use super::metrics::PublishResult;
use super::topics::{Change, Then};
use super::trace::About;
use crate::bridge::contract::Ticket;
use crate::coap::contract::{Code, ObservationId, PeerId, Preconditions, Response};
use crate::policy::connections::Connection;
use crate::policy::failures::Class;
use crate::policy::verdict_cache::CredentialHash;
use crate::types::Message;
use crate::types::hash::IdMap;
use crate::types::reason::Limit;

/// What an answer is waited for.
pub(super) enum Awaited {
    /// The broker's word on a publish.
    Publish {
        reply: ReplyTo,
        success: Code,
        /// What follows for the topic.
        then: Then,
        /// Of a batch what the broker is yet to be given, the last first.
        rest: Vec<Arc<Message>>,
    },
    /// What is retained where a publish depends on it.
    Judge(Box<Publishing>),
    /// The broker's word on a step of a change to the topic collection.
    Change(Box<Change>),
    /// What the broker keeps of the topic collection.
    Collection,
    /// The retained message for a plain GET.
    Read {
        reply: ReplyTo,
        accept: Option<u16>,
        preconditions: Option<Box<Preconditions>>,
    },
    /// The broker's word on a subscription; no reply when an operator asked for it.
    Subscribe {
        reply: Option<ReplyTo>,
        observation: ObservationId,
    },
    /// The home worker's word on a new connection.
    Create(Box<Creation>),
    /// An authentication backend's word.
    PendingLogin(Box<PendingLogin>),
}

/// A publish that waits to be judged by what is retained.
pub(super) struct Publishing {
    pub(super) reply: ReplyTo,
    pub(super) message: Arc<Message>,
    /// What follows of a batch, the last first.
    pub(super) rest: Vec<Arc<Message>>,
    pub(super) success: Code,
    pub(super) then: Then,
    pub(super) preconditions: Option<Box<Preconditions>>,
    /// Who publishes, while somebody traces.
    pub(super) about: Option<Box<About>>,
}

/// A connection that is made as soon as its home worker agrees.
pub(super) struct Creation {
    pub(super) connection: Connection,
    pub(super) from: PeerFacts,
    /// What its client gets as answer; `None` when the handshake is the connection.
    pub(super) reply: Option<ReplyTo>,
    /// Requests that wait for the connection.
    pub(super) joining: Vec<RequestContext>,
}

/// A request whose credentials a backend is asked about.
pub(super) struct PendingLogin {
    pub(super) context: RequestContext,
    pub(super) hash: CredentialHash,
    /// What was charged for it as a failure that it may turn out to be.
    pub(super) charge: Option<(Class, IpAddr)>,
}

/// What waits at a worker.
#[derive(Default)]
pub(super) struct PendingRequests {
    pending: IdMap<Ticket, Awaited>,
    /// By peer: the creation of the connection that its handshake is.
    joins: IdMap<PeerId, Ticket>,
}

impl PendingRequests {
    /// Sets something aside until its ticket comes back.
    ///
    /// # Errors
    /// 5.03 when too much waits already.
    pub(super) fn wait(&mut self, cx: &mut Cx<'_>, pending: Awaited) -> Result<Ticket, Response> {
        self.room(cx)?;
        let ticket = cx.agenda.ticket();
        self.pending.insert(ticket, pending);
        Ok(ticket)
    }

    /// As [`PendingRequests::wait`], under a ticket that was given out before.
    pub(super) fn wait_as(&mut self, cx: &Cx<'_>, ticket: Ticket, pending: Awaited) -> Result<(), Response> {
        self.room(cx)?;
        self.pending.insert(ticket, pending);
        Ok(())
    }

    /// Whether one thing more may wait.
    ///
    /// # Errors
    /// 5.03 when too much waits already.
    pub(super) fn room(&self, cx: &Cx<'_>) -> Result<(), Response> {
        if self.pending.len() < cx.settings.caps.pending_requests {
            return Ok(());
        }
        cx.metrics.limits.inc(Limit::PendingRequests);
        Err(unavailable())
    }

    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Awaited> {
        let pending = self.pending.remove(&ticket)?;
        if let Awaited::Create(creation) = &pending
            && creation.reply.is_none()
        {
            self.joins.remove(&creation.from.id);
        }
        Some(pending)
    }

    /// Notes that requests of a peer wait for the connection that its handshake is.
    pub(super) fn set_join(&mut self, peer: PeerId, ticket: Ticket) {
        self.joins.insert(peer, ticket);
    }

    /// The requests of a peer that wait for the connection that its handshake is, while it is made.
    pub(super) fn joining(&mut self, peer: PeerId) -> Option<&mut Vec<RequestContext>> {
        match self.pending.get_mut(self.joins.get(&peer)?)? {
            Awaited::Create(creation) => Some(&mut creation.joining),
            _ => None,
        }
    }

    /// Answers everything that waits with 5.03: nobody will be there for what it waits for.
    pub(super) fn give_up(&mut self, cx: &mut Cx<'_>) {
        self.joins.clear();
        for pending in std::mem::take(&mut self.pending).into_values() {
            match pending {
                Awaited::Publish { reply, .. } => {
                    cx.metrics.publishes.inc(PublishResult::Unavailable);
                    cx.agenda.answer(reply, unavailable());
                }
                Awaited::Judge(publishing) => {
                    cx.metrics.publishes.inc(PublishResult::Unavailable);
                    cx.agenda.answer(publishing.reply, unavailable());
                }
                Awaited::Read { reply, .. }
                | Awaited::Subscribe {
                    reply: Some(reply), ..
                } => cx.agenda.answer(reply, unavailable()),
                Awaited::Change(change) => {
                    if let Some(reply) = change.reply {
                        cx.agenda.answer(reply, unavailable());
                    }
                }
                Awaited::Subscribe { reply: None, .. } | Awaited::Collection => {}
                Awaited::Create(creation) => {
                    let joining = creation.joining.iter().map(|context| context.reply);
                    for reply in creation.reply.into_iter().chain(joining) {
                        cx.agenda.answer(reply, unavailable());
                    }
                }
                Awaited::PendingLogin(login) => cx.agenda.answer(login.context.reply, unavailable()),
            }
        }
    }
}
