//! What workers say to each other, and each to itself.
//!
//! A peer with its message layer lives where its datagrams arrive, a connection with its rights and observations at the worker
//! that its token names: the owner. A parsed request, and what becomes of a peer, travels to the owner ([`FromPeer`]);
//! answers and notifications travel back ([`ToPeer`]). The home worker of a client id decides who has it.

use std::time::Instant;

use super::context::{PeerFacts, ReplyTo, RequestContext};
use super::device_requests::Addressee;
use super::guests::Guest;
use super::nodes::NodeMessage;
use crate::bridge::contract::Ticket;
use crate::coap::contract::{
    Notification, NotificationOutcome, ObservationId, OutgoingRequest, PeerId, RequestError, RequestId,
    Response,
};
use crate::policy::connections::{ConnectionKey, Owner};
use crate::types::{ClientId, ListenerId, PeerAddr, WorkerId};

/// A message from one worker to another.
#[derive(Debug)]
pub enum WorkerMessage {
    /// To the owner of connections or observations: news of a peer of the sender's.
    FromPeer(PeerId, FromPeer),
    /// To the worker of a peer: what is for it.
    ToPeer(PeerId, ToPeer),
    /// To the home worker: a peer of mine creates this connection, whose key names me.
    Register {
        /// Comes back in [`WorkerMessage::Registered`].
        ticket: Ticket,
        /// The client id that it is for.
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
    /// From the home worker: what it decided about a [`WorkerMessage::Register`].
    Registered(Ticket, Registration),
    /// From the home worker: this connection was replaced by a newer one of the same client.
    Evict(ConnectionKey),
    /// To the home worker: this connection of the client ended.
    Ended(ClientId, ConnectionKey),
    /// To itself: a client for which requests wait was heard of.
    Heard(ClientId),
    /// To the home worker: a request that waits for a client whose connection there is was replaced by one of another worker, which
    /// takes it over and answers it.
    PassOn(Box<PassedRequest>),
    /// From the home worker, or from where it waited: take this over.
    TakeOver(Box<PassedRequest>),
    /// To the worker that was asked for it: its client is gone again from where it was passed to, or there is no room for it there.
    TakeBack(Box<PassedRequest>),
    /// To all others: requests wait for this client at that worker.
    Awaits(ClientId, WorkerId),
    /// To all others: none does any more.
    AwaitsNoMore(ClientId, WorkerId),
    /// To the worker where requests wait for a client: it was heard of elsewhere.
    Came(Box<Arrival>),
    /// To itself: the connection of a client for which requests wait has ended.
    ConnectionGone(ClientId),
    /// To the worker that had a request sent to a device: the device answered, or did not.
    Answered(RequestId, Result<Response, RequestError>),
    /// Whoever is asked answers the sender at once with the time of the question, and so shows that it took in what it was sent
    /// before.
    AreYouThere(WorkerId, Instant),
    /// To the home worker: a connection of before a restart goes on, and nobody else has its client id.
    Known {
        /// The client whose it is.
        client: ClientId,
        /// Its key now.
        key: ConnectionKey,
        /// Who may use it.
        owner: Owner,
    },
    /// To all others: who has the peer with this mark has the client of a connection of before a restart.
    Seek {
        /// What names the peer in the records of the earlier process.
        mark: u64,
        /// The connection; its key names its worker.
        key: ConnectionKey,
    },
    /// To the worker of a session of before a restart: a protected record for it that the kernel led elsewhere.
    Record {
        /// The listener that it came to.
        listener: ListenerId,
        /// Who sent it.
        from: PeerAddr,
        /// The record.
        bytes: Box<[u8]>,
    },
    /// Another node of the group says something.
    OfNode(NodeMessage),
    /// This worker is there, and had taken in by then what it was asked at that time.
    Here(WorkerId, Instant),
}

impl WorkerMessage {
    /// Whether the sender goes on if a full channel refuses it: a request is answered 5.03, a notification or a record is dropped and
    /// counted. Everything else has to arrive.
    #[must_use]
    pub const fn may_be_refused(&self) -> bool {
        self.asks() || matches!(self, Self::ToPeer(_, ToPeer::Notify(..)) | Self::Record { .. })
    }

    /// Whether it is a request to be answered.
    #[must_use]
    pub const fn asks(&self) -> bool {
        matches!(self, Self::FromPeer(_, FromPeer::Request(..)))
    }

    /// Whether it ends the wait for one that [`WorkerMessage::asks`].
    #[must_use]
    pub const fn answers(&self) -> bool {
        matches!(self, Self::ToPeer(_, ToPeer::Answer(..) | ToPeer::NotHere(..)))
    }
}

/// A request to a device that goes from worker to worker with its client.
#[derive(Debug)]
pub struct PassedRequest {
    /// What the worker that was asked for it calls it; that one is told what comes of it.
    pub id: RequestId,
    /// Whom it is for.
    pub client: ClientId,
    /// Who that was when it was asked for.
    pub(super) of: Addressee,
    /// What is asked of the device.
    pub request: OutgoingRequest,
    /// How long it waits.
    pub until: Instant,
}

/// A client that was heard of.
#[derive(Debug)]
pub struct Arrival {
    /// Which.
    pub client: ClientId,
    /// Who has its name there.
    pub(super) of: Addressee,
    /// The worker that heard of it.
    pub at: WorkerId,
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
    /// It sent a request that names a connection: this one, where its handshake is proof enough, else by client id and token.
    Request(Box<RequestContext>, Option<ConnectionKey>),
    /// It made a handshake that is this connection.
    Established(Box<PeerFacts>, ConnectionKey),
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
    Notified(ObservationId, NotificationOutcome),
    /// What it was not sent, or did not acknowledge, oldest first for each observation.
    Undelivered(Vec<(ObservationId, Notification)>),
    /// The same, and it is all that it had of this connection, which parted from it.
    Parted(ConnectionKey, Vec<(ObservationId, Notification)>),
    /// Nobody acknowledged a notification: that one, and what waited behind it. Its message layer has forgotten the observation.
    Unanswered(ObservationId, Vec<Notification>),
}

/// What the worker of a peer does for the owner of a connection.
#[derive(Debug)]
pub enum ToPeer {
    /// Send the answer to a request.
    Answer(ReplyTo, Response),
    /// Send a notification of an observation.
    Notify(ObservationId, Notification),
    /// Forget an observation.
    Cancel(ObservationId),
    /// Know that a connection is used from there.
    Attach(Guest),
    /// A connection is no longer used from there: give back what waits of its observations, if it has any.
    Part(ConnectionKey, Vec<ObservationId>),
    /// The client of a connection sleeps: give back what waits of its observations, and say at once when it is heard of.
    Hold(ConnectionKey, Vec<ObservationId>),
    /// The client of a connection was heard of, and may sleep soon: repeat what it has not acknowledged.
    Nudge,
    /// The connection that a handshake proved is not here: find out where it is, and ask again.
    NotHere(Box<RequestContext>, ConnectionKey),
    /// Send a request of ours, whose id comes back with the answer.
    Request(RequestId, OutgoingRequest),
    /// Give up a request of ours that was not acknowledged, for its client is somewhere else.
    GiveUp(RequestId),
    /// An operator ended its connection: its DTLS session ends too.
    Kick,
}
