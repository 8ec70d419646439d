//! Connections that live on another worker: found through their home worker, fetched, and gone on with here.

use std::time::Instant;

use super::Gateway;
use super::connection::Admission;
use super::directory::Directory;
use super::metrics::ConnectionEvent;
use super::pending::{CLAIM_TIMEOUT, ClaimInFlight, Parked, Pending, unavailable};
use super::request::Stage;
use super::timers::Timer;
use super::workers::{Claim, ClaimError, ClaimProof, MovedConnection, WorkerMessage};
use crate::bridge::contract::Ticket;
use crate::coap::contract::PeerId;
use crate::policy::connections::{Connection, ConnectionKey, Owner};
use crate::types::reason::Limit;
use crate::types::{ClientId, ListenerId, WorkerId};

/// A connection may move on while a claim is on its way; one that misses it more often finds a directory that is wrong.
const MAX_MISSES: u8 = 8;

/// How many requests of one peer wait for one connection.
const MAX_PARKED: usize = 16;

impl Gateway {
    pub(super) fn worker_message(&mut self, now: Instant, message: WorkerMessage) {
        match message {
            WorkerMessage::Register {
                ticket,
                client,
                key,
                worker,
                owner,
            } => {
                self.register(now, ticket, client, key, worker, owner);
            }
            WorkerMessage::Registered { ticket, granted } => self.registered(now, ticket, granted),
            WorkerMessage::Evict { key } => self.end_connection(now, key, ConnectionEvent::Replaced),
            WorkerMessage::Moved {
                client,
                key,
                worker,
                moves,
            } => self.directory.moved(&client, key, worker, moves),
            WorkerMessage::Ended { client, key } => self.directory.ended(&client, key),
            WorkerMessage::Locate(claim) => self.locate(now, claim),
            WorkerMessage::Surrender(claim) => self.surrender(now, claim),
            WorkerMessage::Surrendered { ticket, result } => self.surrendered(now, ticket, result),
            WorkerMessage::Release { key, to } => self.release(now, key, to),
            WorkerMessage::Released { key, kept } => self.released(now, key, kept),
        }
    }

    /// Fetches the connection that a request names, and sets the request aside until then.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        client: ClientId,
        owner: Owner,
        proof: ClaimProof,
        parked: Parked,
    ) {
        let peer = parked.peer;
        // A second request of the same peer joins the claim that is under way: it would find the connection gone.
        let ticket = self.claiming.get(&(peer, client.clone()));
        let requests = match ticket.and_then(|ticket| self.pending.get_mut(ticket)) {
            Some(Pending::Claim(claim)) => Some(&mut claim.parked),
            Some(Pending::Create(creation)) => Some(&mut creation.parked),
            _ => None,
        };
        match requests {
            Some(requests) if requests.len() < MAX_PARKED => requests.push(parked),
            Some(_) => {
                self.metrics.limits.inc(Limit::PendingRequests);
                self.respond(now, parked.arrived, parked.exchange, unavailable());
            }
            None => self.begin_claim(now, client, owner, proof, peer, vec![parked]),
        }
    }

    pub(super) fn claim_for_handshake(&mut self, now: Instant, client: ClientId, owner: Owner, peer: PeerId) {
        self.begin_claim(now, client, owner, ClaimProof::Identity, peer, Vec::new());
    }

    fn begin_claim(
        &mut self,
        now: Instant,
        client: ClientId,
        owner: Owner,
        proof: ClaimProof,
        peer: PeerId,
        parked: Vec<Parked>,
    ) {
        let implicit = matches!(proof, ClaimProof::Identity);
        let exchanges: Vec<_> = parked
            .iter()
            .map(|parked| (parked.arrived, parked.exchange))
            .collect();
        let in_flight = ClaimInFlight {
            client: client.clone(),
            peer,
            implicit,
            parked,
        };
        match self.wait(Pending::Claim(Box::new(in_flight))) {
            Ok(ticket) => {
                self.claiming.insert((peer, client.clone()), ticket);
                self.timers.arm(now + CLAIM_TIMEOUT, Timer::Claim(ticket));
                let home = Directory::home(&client, self.settings.workers);
                let claim = Claim {
                    ticket,
                    client,
                    claimant: self.worker,
                    owner,
                    proof,
                    misses: 0,
                };
                self.tell(now, home, WorkerMessage::Locate(claim));
            }
            Err(response) => {
                for (arrived, exchange) in exchanges {
                    self.respond(now, arrived, exchange, response.clone());
                }
            }
        }
    }

    /// At the home worker: passes a claim on to whoever has the connection.
    fn locate(&mut self, now: Instant, claim: Claim) {
        match self.directory.find(&claim.client) {
            Some(worker) => self.tell(now, worker, WorkerMessage::Surrender(claim)),
            None => {
                let result = Err(ClaimError::Unknown);
                self.tell(
                    now,
                    claim.claimant,
                    WorkerMessage::Surrendered {
                        ticket: claim.ticket,
                        result,
                    },
                );
            }
        }
    }

    /// At the worker that has the connection: hands it over if the claim is good.
    pub(super) fn surrender(&mut self, now: Instant, claim: Claim) {
        let arriving = self.connections.of_client(&claim.client).map(|it| it.key);
        let claim = match arriving {
            Some(key) => match self.after_arrival(key, claim) {
                Ok(()) => return,
                Err(claim) => claim,
            },
            None => claim,
        };
        let home = Directory::home(&claim.client, self.settings.workers);
        let result = match self.connections.of_client(&claim.client) {
            None if claim.misses < MAX_MISSES => {
                // It went on, or ended, which its home has been told meanwhile.
                let misses = claim.misses + 1;
                return self.tell(now, home, WorkerMessage::Locate(Claim { misses, ..claim }));
            }
            None => Err(ClaimError::Unknown),
            Some(connection) if !claim.proof.proves(connection, &claim.owner) => Err(ClaimError::Refused),
            Some(connection) => {
                let key = connection.key;
                self.pack(now, key, claim.claimant).ok_or(ClaimError::Unknown)
            }
        };
        let moved = result.as_ref().ok().map(|moved| WorkerMessage::Moved {
            client: claim.client,
            key: moved.key,
            worker: claim.claimant,
            moves: moved.moves,
        });
        let ticket = claim.ticket;
        // In this order: whoever the home sends after it finds it there.
        self.tell(now, claim.claimant, WorkerMessage::Surrendered { ticket, result });
        if let Some(moved) = moved {
            self.tell(now, home, moved);
        }
    }

    fn pack(&mut self, now: Instant, key: ConnectionKey, to: WorkerId) -> Option<Box<MovedConnection>> {
        self.detach(key);
        let connection = self.connections.remove(key)?;
        self.timers.disarm(Timer::Connection(key));
        self.metrics.connections.set(self.connections.len() as u64);
        let observations = self.leave_observations(now, key, to);
        let Connection {
            client,
            token,
            owner,
            username,
            created_at,
            grant,
            moves,
            ..
        } = connection;
        Some(Box::new(MovedConnection {
            key,
            from: self.worker,
            client,
            token,
            owner,
            username,
            created_at,
            grant,
            moves: moves.saturating_add(1),
            observations,
        }))
    }

    /// At the claimant: the connection arrived, or not.
    fn surrendered(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<Box<MovedConnection>, ClaimError>,
    ) {
        let Some(Pending::Claim(claim)) = self.pending.remove(&ticket) else {
            // Given up meanwhile: the connection is taken in all the same, or it would be lost.
            if let Ok(moved) = result {
                self.unpack(now, *moved, None, Vec::new());
            }
            return;
        };
        let ClaimInFlight {
            client,
            peer,
            implicit,
            parked,
        } = *claim;
        self.timers.disarm(Timer::Claim(ticket));
        self.claiming.remove(&(peer, client.clone()));
        match result {
            Ok(moved) => {
                self.metrics.connection_events.inc(ConnectionEvent::Moved);
                self.unpack(now, *moved, Some(peer), parked);
            }
            Err(ClaimError::Unknown) if implicit => {
                let waiting: Vec<_> = parked
                    .iter()
                    .map(|parked| (parked.arrived, parked.exchange))
                    .collect();
                if let Err(response) = self.create(now, client, peer, None, parked, Admission::default()) {
                    for (arrived, exchange) in waiting {
                        self.respond(now, arrived, exchange, response.clone());
                    }
                }
            }
            Err(_) => {
                let mut parked = parked.into_iter();
                if let Some(first) = parked.next() {
                    let response = self.wrong_token(now, first.peer);
                    self.respond(now, first.arrived, first.exchange, response);
                }
                // The others may have presented a better token.
                for parked in parked {
                    self.process(now, parked, Stage::Fresh);
                }
            }
        }
    }

    /// Takes a connection in; then what was asked of it goes on.
    fn unpack(&mut self, now: Instant, moved: MovedConnection, peer: Option<PeerId>, parked: Vec<Parked>) {
        let key = moved.key;
        if self.connections.of_client(&moved.client).is_some() {
            // Its client created a newer one here while this one was on its way.
            let to = self.worker;
            self.tell(now, moved.from, WorkerMessage::Release { key, to });
            return self.go_on(now, key, parked);
        }
        let listener = peer
            .and_then(|peer| self.peers.get(peer))
            .map(|peer| peer.listener);
        let connection = Connection {
            key,
            client: moved.client,
            token: moved.token,
            owner: moved.owner,
            username: moved.username,
            peer: None,
            listener: listener.unwrap_or(ListenerId(0)),
            seen_at: now,
            created_at: moved.created_at,
            grant: moved.grant,
            moves: moved.moves,
        };
        let observations = self.resume_observations(now, key, moved.observations);
        self.adopt(now, connection, peer);
        self.go_on_when_resumed(now, key, moved.from, observations, parked);
    }

    /// No worker answered a claim in time.
    pub(super) fn claim_timed_out(&mut self, now: Instant, ticket: Ticket) {
        if !matches!(self.pending.get(&ticket), Some(Pending::Claim(_))) {
            return;
        }
        let Some(Pending::Claim(claim)) = self.pending.remove(&ticket) else {
            return;
        };
        self.claiming.remove(&(claim.peer, claim.client));
        for parked in claim.parked {
            self.respond(now, parked.arrived, parked.exchange, unavailable());
        }
    }
}
