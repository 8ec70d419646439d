//! What happens in the life of a client, told to operators: in the log and on `/api/v1/events`.
//!
//! It is told once per thing that happens and never per message, unless requests are asked for
//! ([`super::settings::Settings::tells_requests`]). What one source can make happen is told within a rate; what is left out is
//! counted and told as a number.

mod limit;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use super::context::{PeerFacts, RequestContext};
use super::peers::Peer;
use super::trace::mask;
use crate::coap::contract::{Code, PeerId, Request, Response};
use crate::labels;
use crate::policy::authorization::{Access, Action, Decision};
use crate::policy::connections::Connection;
use crate::session::HandshakeResult;
use crate::types::reason::Label as _;
use crate::types::{ClientId, ListenerId, PeerAddr};

use limit::Limit;

labels! {
    /// What happened to a client: the kind of an event.
    pub enum EventKind {
        /// A connection was made, or without connections a DTLS session.
        Connected = "connected",
        /// It ended; the reason says why.
        Disconnected = "disconnected",
        /// A DTLS session began whose client has, or will have, a connection of its own.
        SessionStarted = "session_started",
        /// Such a session ended; the reason says why. Its connection may stay.
        SessionEnded = "session_ended",
        /// Sessions of before a restart, as many as `count` says, went on, or did not; the reason says which.
        Restored = "restored",
        /// A newer connection of the same client id took the place of this one.
        TakenOver = "taken_over",
        /// A connection or session went on from another address.
        Moved = "moved",
        /// A client did not acknowledge what was sent to it, or its DTLS session ended: what is for it waits.
        Asleep = "asleep",
        /// A client was silent for longer than its heartbeat or lifetime.
        Lost = "lost",
        /// A client that was asleep or lost was heard of again.
        Awake = "awake",
        /// A DTLS handshake failed; the reason says how.
        HandshakeFailed = "handshake_failed",
        /// A login was refused; the reason says why.
        LoginRefused = "login_refused",
        /// A request named a wrong or unknown token of a connection.
        TokenRefused = "token_refused",
        /// The access rules refused a request; `detail` says by which line.
        Denied = "denied",
        /// Events that one source caused and that were not told one by one.
        LeftOut = "left_out",
        /// A request came; in the log only, at `debug`.
        Request = "request",
        /// It was answered; in the log only, at `debug`.
        Answer = "answer",
    }
}

impl EventKind {
    /// Whether it is one request of many, which only the log tells.
    #[must_use]
    pub const fn is_of_a_request(self) -> bool {
        matches!(self, Self::Request | Self::Answer)
    }

    /// Whether anyone can make it happen as often as they like.
    const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::HandshakeFailed | Self::LoginRefused | Self::TokenRefused | Self::Denied
        )
    }
}

/// Something that happened to a client.
#[derive(Debug, Clone)]
pub struct ClientEvent {
    /// What.
    pub kind: EventKind,
    /// The listener it came to.
    pub listener: ListenerId,
    /// Where it is, or was; `None` while its DTLS session is gone.
    pub address: Option<PeerAddr>,
    /// The client id, named or proved.
    pub client: Option<ClientId>,
    /// The user name.
    pub username: Option<Arc<str>>,
    /// The identity that its handshake proved, or that a failed one named.
    pub identity: Option<Arc<str>>,
    /// Why, by the word that the metrics have for it.
    pub reason: Option<&'static str>,
    /// What else there is to say.
    pub more: More,
}

/// What an event of some kinds has beside who and why.
#[derive(Debug, Clone)]
pub enum More {
    /// Nothing.
    Nothing,
    /// Where it was before.
    From(PeerAddr),
    /// How long the handshake took.
    After(Duration),
    /// How long it had been silent.
    Silent(Duration),
    /// What was denied, and what decided.
    Access {
        /// What was wanted.
        action: Action,
        /// The topic or filter, without the mountpoint.
        topic: Box<str>,
        /// What decided.
        decision: Decision,
    },
    /// How many events were left out.
    Count(u64),
    /// How many sessions it happened to.
    Sessions(u64),
    /// A request.
    Request {
        /// Its method.
        method: Code,
        /// Its path.
        path: Box<str>,
    },
    /// An answer.
    Answer {
        /// Its code.
        code: Code,
        /// How long after the request.
        after: Duration,
    },
}

impl ClientEvent {
    /// Of a peer of which no more is known than where it is.
    pub(super) fn at(kind: EventKind, listener: ListenerId, address: Option<PeerAddr>) -> Self {
        Self {
            kind,
            listener,
            address,
            client: None,
            username: None,
            identity: None,
            reason: None,
            more: More::Nothing,
        }
    }

    /// Of whoever sent a request.
    pub(super) fn of_request(kind: EventKind, context: &RequestContext) -> Self {
        Self {
            client: context.client.clone(),
            username: context.username.clone(),
            ..Self::of_facts(kind, &context.from)
        }
    }

    /// Of a peer as its worker knows it.
    pub(super) fn of_facts(kind: EventKind, from: &PeerFacts) -> Self {
        Self {
            identity: from.identity().map(|identity| Arc::clone(&identity.name)),
            ..Self::at(kind, from.listener, Some(from.address))
        }
    }

    /// Of a connection whose client is, or was last, at `from`.
    pub(super) fn of_connection(kind: EventKind, connection: &Connection, from: Option<&PeerFacts>) -> Self {
        let told = match from {
            Some(from) => Self::of_facts(kind, from),
            None => Self::at(kind, connection.listener, None),
        };
        Self {
            client: Some(connection.client.clone()),
            username: connection.username.clone(),
            ..told
        }
    }

    /// Of a peer, under the name that operators know it by.
    fn of_peer(kind: EventKind, peer: &Peer) -> Self {
        let mut guests = peer.guests.iter();
        let only = guests.next().filter(|_| guests.next().is_none());
        Self {
            client: peer.known_as().or_else(|| Some(only?.client.clone())),
            username: only.and_then(|guest| guest.username.clone()),
            identity: peer.identity.as_ref().map(|identity| Arc::clone(&identity.name)),
            ..Self::at(kind, peer.listener, Some(peer.address))
        }
    }

    pub(super) fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    pub(super) fn with(mut self, more: More) -> Self {
        self.more = more;
        self
    }

    /// Of a request that the access rules refused.
    pub(super) fn denied(context: &RequestContext, access: &Access<'_>, decision: Decision) -> Self {
        let told = Self::of_request(EventKind::Denied, context).because(decision.reason.label());
        told.with(More::Access {
            action: access.action,
            topic: mask(access.topic).into(),
            decision,
        })
    }
}

/// What one worker has to tell.
#[derive(Default)]
pub(super) struct Events {
    limit: Limit,
    told: VecDeque<ClientEvent>,
}

impl Events {
    /// Tells of something, unless its source has had its share; `what` is made only if it is told.
    pub(super) fn tell(
        &mut self,
        now: Instant,
        kind: EventKind,
        (listener, address): (ListenerId, Option<PeerAddr>),
        what: impl FnOnce() -> ClientEvent,
    ) {
        if kind.is_of_a_request() || self.limit.admits(now, kind.is_failure(), (listener, address)) {
            self.told.push_back(what());
        }
    }

    /// The next to hand out.
    pub(super) fn poll(&mut self) -> Option<ClientEvent> {
        self.told.pop_front()
    }

    /// Tells how much was left out of what sources caused whose time is over.
    pub(super) fn tell_left_out(&mut self, now: Instant) {
        let told = self.limit.over(now).map(|((listener, address), count)| {
            ClientEvent::at(EventKind::LeftOut, listener, address).with(More::Count(count))
        });
        self.told.extend(told);
    }
}

impl Gateway {
    /// Tells of something that happened to a peer.
    pub(super) fn tell_of_peer(
        &mut self,
        now: Instant,
        id: PeerId,
        kind: EventKind,
        more: impl FnOnce(ClientEvent) -> ClientEvent,
    ) {
        if let Some(peer) = self.peers.get(id) {
            let place = (peer.listener, Some(peer.address));
            let what = || more(ClientEvent::of_peer(kind, peer));
            self.agenda.events.tell(now, kind, place, what);
        }
    }

    /// Tells of a handshake that failed.
    pub(super) fn tell_failed_handshake(
        &mut self,
        now: Instant,
        (listener, address): (ListenerId, PeerAddr),
        identity: Option<&str>,
        (result, after): (HandshakeResult, Duration),
    ) {
        let (kind, place) = (EventKind::HandshakeFailed, (listener, Some(address)));
        self.agenda.events.tell(now, kind, place, || ClientEvent {
            identity: identity.map(Arc::from),
            reason: Some(result.label()),
            more: More::After(after),
            ..ClientEvent::at(kind, listener, Some(address))
        });
    }

    /// Tells of a request, where the log wants each.
    pub(super) fn tell_request(&mut self, now: Instant, id: PeerId, request: &Request) {
        let (method, path) = (request.method, || request.resource.path().collect::<Vec<_>>());
        self.tell_of_peer(now, id, EventKind::Request, |event| {
            // Parameters may have slipped into it.
            let path: Vec<_> = path()
                .into_iter()
                .map(|segment| mask(&String::from_utf8_lossy(segment)))
                .collect();
            event.with(More::Request {
                method,
                path: path.join("/").into(),
            })
        });
    }

    /// Tells of the answer to a request, where the log wants each.
    pub(super) fn tell_answer(&mut self, now: Instant, id: PeerId, arrived: Instant, answer: &Response) {
        let (code, after) = (answer.code, now.saturating_duration_since(arrived));
        self.tell_of_peer(now, id, EventKind::Answer, |event| {
            event.with(More::Answer { code, after })
        });
    }
}
