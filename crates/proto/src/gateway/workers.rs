//! What workers say to each other, and each to itself.
//!
//! A peer with its message layer lives where its datagrams arrive, a connection with its rights and observations at the worker
//! that its token names: the owner. A parsed request, and what becomes of a peer, travels to the owner ([`FromPeer`]);
//! answers and notifications travel back ([`ToPeer`]). The home worker of a client id decides who has it.

use std::sync::Arc;
use std::time::Instant;

use super::context::{PeerFacts, ReplyTo, RequestContext};
use crate::bridge::contract::Ticket;
use crate::coap::contract::{
    Notification, NotificationOutcome, ObservationId, OutgoingRequest, PeerId, RequestError, RequestId,
    Response,
};
use crate::policy::connections::{ConnectionKey, Owner};
use crate::types::{ClientId, PeerAddr, WorkerId};

/// A message from one worker to another.
#[derive(Debug)]
pub enum WorkerMessage {
    /// To the owner of connections or observations: about a peer of the sender's.
    FromPeer {
        /// Whose.
        peer: PeerId,
        /// What.
        what: FromPeer,
    },
    /// To the worker of a peer: what is for it.
    ToPeer {
        /// Which.
        peer: PeerId,
        /// What.
        what: ToPeer,
    },
    /// To the home worker: a peer of mine creates this connection, whose key names me.
    Register {
        /// Comes back in the answer.
        ticket: Ticket,
        /// The client id.
        client: ClientId,
        /// The key it will have.
        key: ConnectionKey,
        /// Who may use it.
        owner: Owner,
        /// Whether one that the same owner has already will do: its handshake is its connection.
        join: bool,
        /// The connection that the home worker believes in, and that has ended.
        ended: Option<ConnectionKey>,
    },
    /// From the home worker: the answer to `Register`.
    Registered {
        /// From the request.
        ticket: Ticket,
        /// What it decided.
        registration: Registration,
    },
    /// From the home worker: this connection was replaced by a newer one of the same client.
    Evict {
        /// Which.
        key: ConnectionKey,
    },
    /// To the home worker: this connection ended.
    Ended {
        /// The client id.
        client: ClientId,
        /// Its key.
        key: ConnectionKey,
    },
    /// To the worker that sent a request of ours to a device: the device answered, or did not.
    Answered {
        /// Which request.
        request: RequestId,
        /// The answer.
        result: Result<Response, RequestError>,
    },
    /// Whoever is asked answers at once, and so shows that it took in what was sent before.
    AreYouThere {
        /// Who asks.
        from: WorkerId,
        /// When.
        at: Instant,
    },
    /// The answer to `AreYouThere`.
    Here {
        /// Who answers.
        from: WorkerId,
        /// From the question.
        at: Instant,
    },
}

impl WorkerMessage {
    /// Whether the sender goes on if a full channel refuses it: a request is answered 5.03, a notification is dropped and
    /// counted. Everything else has to arrive.
    #[must_use]
    pub const fn may_be_refused(&self) -> bool {
        self.asks()
            || matches!(
                self,
                Self::ToPeer {
                    what: ToPeer::Notify { .. },
                    ..
                }
            )
    }

    /// Whether it is a request to be answered.
    #[must_use]
    pub const fn asks(&self) -> bool {
        matches!(
            self,
            Self::FromPeer {
                what: FromPeer::Request { .. },
                ..
            }
        )
    }

    /// Whether it ends the wait for one that [`WorkerMessage::asks`].
    #[must_use]
    pub const fn answers(&self) -> bool {
        matches!(
            self,
            Self::ToPeer {
                what: ToPeer::Answer { .. } | ToPeer::NotHere { .. },
                ..
            }
        )
    }
}

/// What the home worker decided about a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// It may be made.
    Granted,
    /// Its owner has this one already.
    Exists(ConnectionKey),
    /// The client id belongs to another DTLS identity.
    Refused,
}

/// What the owner of a connection hears of a peer.
#[derive(Debug)]
pub enum FromPeer {
    /// It sent a request that names a connection.
    Request {
        /// The request.
        context: Box<RequestContext>,
        /// The connection, where the handshake is proof enough; else the token is.
        proved: Option<ConnectionKey>,
    },
    /// It made a handshake that is its connection.
    Established {
        /// The peer.
        from: Box<PeerFacts>,
        /// The connection.
        key: ConnectionKey,
    },
    /// It showed that it lives: it acknowledged something, or pinged.
    Alive {
        /// Where it is now.
        address: PeerAddr,
        /// How often something was sent to it again.
        retransmissions: u64,
    },
    /// It is gone.
    Gone,
    /// What became of a notification. After a reset or a time-out its message layer has forgotten the observation.
    Notified {
        /// Of which observation.
        observation: ObservationId,
        /// What became of it.
        outcome: NotificationOutcome,
    },
    /// What it was not sent, or did not acknowledge.
    Undelivered {
        /// By observation, oldest first.
        notifications: Vec<(ObservationId, Notification)>,
        /// The connection that parted from it, if this is all that it had.
        parted: Option<ConnectionKey>,
    },
}

/// What the worker of a peer does for the owner of a connection.
#[derive(Debug)]
pub enum ToPeer {
    /// Send the answer to a request.
    Answer {
        /// Which.
        reply: ReplyTo,
        /// The answer.
        response: Response,
    },
    /// Send a notification.
    Notify {
        /// Of which observation.
        observation: ObservationId,
        /// The notification.
        notification: Notification,
    },
    /// Forget an observation.
    Cancel {
        /// Which.
        observation: ObservationId,
    },
    /// Know that a connection is used from there.
    Attach {
        /// Whether whoever made it is known by checked credentials or by the handshake.
        known: bool,
        /// Which.
        key: ConnectionKey,
        /// Its client.
        client: ClientId,
        /// The user name that it was authenticated with.
        username: Option<Arc<str>>,
    },
    /// A connection is no longer used from there: give back what waits of its observations, if it has any.
    Part {
        /// Which.
        key: ConnectionKey,
        /// Its observations.
        observations: Vec<ObservationId>,
    },
    /// The connection that a handshake proved is not here: find out where it is, and ask again.
    NotHere {
        /// The request.
        context: Box<RequestContext>,
        /// The connection.
        key: ConnectionKey,
    },
    /// Send a request of ours.
    Request {
        /// Comes back with the answer.
        id: RequestId,
        /// The request.
        request: OutgoingRequest,
    },
    /// An operator ended its connection: its DTLS session ends too.
    Kick,
}
