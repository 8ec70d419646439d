//! What workers say to each other: where a connection lives, and its move from one to another.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use crate::bridge::contract::Ticket;
use crate::bridge::subscriptions::Terms;
use crate::coap::contract::{Notification, ObservationId};
use crate::policy::connections::{ConnectionKey, ConnectionToken, Grant, Owner};
use crate::types::{ClientId, Message, WorkerId};

/// What proves that a peer may take a connection over.
#[derive(Clone)]
pub enum ClaimProof {
    /// The token that create returned.
    Token(Zeroizing<Vec<u8>>),
    /// The identity that the handshake proved, which is the client id.
    Identity,
}

impl fmt::Debug for ClaimProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(..)",
            Self::Identity => "Identity",
        })
    }
}

/// A worker asks for a connection that one of its peers wants to use.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Comes back in the answer.
    pub ticket: Ticket,
    /// Whose connection.
    pub client: ClientId,
    /// The asking worker.
    pub claimant: WorkerId,
    /// How the peer speaks to us.
    pub owner: Owner,
    /// What it presents.
    pub proof: ClaimProof,
    /// How often it came to a worker that did not have the connection.
    pub misses: u8,
}

/// Why a connection was not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimError {
    /// Nobody has it.
    Unknown,
    /// The token is wrong, or the peer is another.
    Refused,
}

/// An observation on the move.
#[derive(Debug)]
pub struct MovedObservation {
    /// Its id at the worker that it left.
    pub left: ObservationId,
    /// What it was asked to be.
    pub terms: Terms,
    /// The last Observe number sent.
    pub sequence: u32,
    /// When the client last showed that it wants it.
    pub confirmed_at: Instant,
    /// What it was last sent.
    pub last: Option<Arc<Message>>,
    /// What it was not sent yet, or not acknowledged.
    pub waiting: Vec<Notification>,
}

/// A connection on the move.
#[derive(Debug)]
pub struct MovedConnection {
    /// Its key, which it keeps.
    pub key: ConnectionKey,
    /// The worker that it left.
    pub from: WorkerId,
    /// The client id.
    pub client: ClientId,
    /// Its token.
    pub token: ConnectionToken,
    /// Who may use it.
    pub owner: Owner,
    /// The user name that it was authenticated with.
    pub username: Option<Arc<str>>,
    /// When it was created.
    pub created_at: Instant,
    /// What its authentication granted.
    pub grant: Grant,
    /// How often it has moved.
    pub moves: u32,
    /// Its observations.
    pub observations: Vec<MovedObservation>,
}

/// A message from one worker to another.
#[derive(Debug)]
pub enum WorkerMessage {
    /// To the home worker: a peer of mine creates this connection.
    Register {
        /// Comes back in the answer.
        ticket: Ticket,
        /// The client id.
        client: ClientId,
        /// The key it will have.
        key: ConnectionKey,
        /// The asking worker.
        worker: WorkerId,
        /// Who may use it.
        owner: Owner,
    },
    /// From the home worker: the answer to `Register`.
    Registered {
        /// From the request.
        ticket: Ticket,
        /// Whether the connection may be made.
        granted: bool,
    },
    /// From the home worker: this connection was replaced by a newer one of the same client.
    Evict {
        /// Which.
        key: ConnectionKey,
    },
    /// To the home worker: this connection goes to another.
    Moved {
        /// The client id.
        client: ClientId,
        /// Its key.
        key: ConnectionKey,
        /// The worker that gets it.
        worker: WorkerId,
        /// How often it has moved with that.
        moves: u32,
    },
    /// To the home worker: this connection ended.
    Ended {
        /// The client id.
        client: ClientId,
        /// Its key.
        key: ConnectionKey,
    },
    /// To the home worker: who has this client's connection?
    Locate(Claim),
    /// From the home worker to the one that has it: hand it over if the claim is good.
    Surrender(Claim),
    /// To the claimant: the connection, or why not.
    Surrendered {
        /// From the claim.
        ticket: Ticket,
        /// The connection.
        result: Result<Box<MovedConnection>, ClaimError>,
    },
    /// From the claimant: the observations of the connection stand with me; what came for them at your end?
    Release {
        /// Its key.
        key: ConnectionKey,
        /// The claimant.
        to: WorkerId,
    },
    /// To the claimant: the answer to `Release`.
    Released {
        /// The connection's key.
        key: ConnectionKey,
        /// By the observations' ids at the worker that they left: what came since, in order.
        kept: Vec<(ObservationId, Vec<Arc<Message>>)>,
    },
}
