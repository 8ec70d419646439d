//! `mqtt/connection`: create, heartbeat, close (interface 2.3), and what becomes of a connection afterwards.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Gateway;
use super::contract::Output;
use super::directory::{Directory, Registration};
use super::events::Told;
use super::metrics::ConnectionEvent;
use super::pending::{Creation, Parked, Pending, bad_request, unauthorized, unavailable};
use super::request::{Found, Stage, Step};
use super::settings::IdentityUse;
use super::timers::Timer;
use super::workers::{ClaimProof, WorkerMessage};
use crate::bridge::contract::Ticket;
use crate::bridge::subscriptions::Holder;
use crate::bridge::uri::Params;
use crate::coap::contract::{Code, ExchangeId, PeerId, Response};
use crate::policy::connections::{Connection, ConnectionKey, ConnectionToken, Grant, Owner};
use crate::types::reason::{Label as _, Limit};
use crate::types::{ClientId, WorkerId};

/// What a client was let in as.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pub(super) username: Option<Arc<str>>,
    pub(super) grant: Grant,
}

impl Gateway {
    pub(super) fn connection_request(
        &mut self,
        now: Instant,
        parked: &Parked,
        params: &Params<'_>,
        stage: Stage,
    ) -> Result<Step, Response> {
        if parked.request.method == Code::POST {
            let Some(client) = self.client_of(parked.peer, params)? else {
                return Err(bad_request("clientid is required"));
            };
            let grant = match stage {
                Stage::Admitted(grant) => grant,
                Stage::Fresh | Stage::Claimed => match self.admit(now, parked, Some(&client), params)? {
                    Some(grant) => grant,
                    None => return Ok(Step::Authenticate),
                },
            };
            let username = self.username_of(parked.peer, params);
            let admission = Admission { username, grant };
            self.create(
                now,
                client,
                parked.peer,
                Some(parked.exchange),
                Vec::new(),
                admission,
            )?;
            return Ok(Step::Waiting);
        }
        let key = match self.connection_of(now, parked.peer, params)? {
            Found::Here(key) => key,
            Found::Elsewhere { client, owner, proof } => return Ok(Step::Claim { client, owner, proof }),
        };
        if parked.request.method == Code::PUT {
            return Ok(Step::Answer(Response::new(Code::CHANGED)));
        }
        self.end_connection(now, key, ConnectionEvent::Closed);
        Ok(Step::Answer(Response::new(Code::DELETED)))
    }

    /// Begins a connection; its home worker has the last word.
    pub(super) fn create(
        &mut self,
        now: Instant,
        client: ClientId,
        peer: PeerId,
        exchange: Option<ExchangeId>,
        parked: Vec<Parked>,
        admission: Admission,
    ) -> Result<(), Response> {
        let known = self.connections.of_client(&client).is_some();
        if !known && self.connections.len() >= self.settings.caps.connections {
            self.metrics.limits.inc(Limit::Connections);
            return Err(unavailable());
        }
        let Some(listener) = self.peers.get(peer).map(|peer| peer.listener) else {
            return Err(unavailable());
        };
        let key = ConnectionKey(self.ticket().0);
        let owner = self.owner_of(peer);
        let connection = Connection {
            key,
            client: client.clone(),
            token: ConnectionToken::generate(&mut self.rng),
            owner: owner.clone(),
            username: admission.username,
            peer: None,
            listener,
            seen_at: now,
            created_at: now,
            moves: 0,
            grant: admission.grant,
        };
        let creation = Creation {
            connection,
            peer,
            exchange,
            parked,
        };
        let ticket = self.wait(Pending::Create(Box::new(creation)))?;
        if exchange.is_none() {
            self.claiming.insert((peer, client.clone()), ticket);
        }
        let home = Directory::home(&client, self.settings.workers);
        let worker = self.worker;
        self.tell(
            now,
            home,
            WorkerMessage::Register {
                ticket,
                client,
                key,
                worker,
                owner,
            },
        );
        Ok(())
    }

    /// At the home worker: decides, and ends the older connection of the client.
    pub(super) fn register(
        &mut self,
        now: Instant,
        ticket: Ticket,
        client: ClientId,
        key: ConnectionKey,
        worker: WorkerId,
        owner: Owner,
    ) {
        let registration = self.directory.register(client, key, worker, owner);
        if let Registration::Replaces(old_worker, old_key) = registration {
            self.tell(now, old_worker, WorkerMessage::Evict { key: old_key });
        }
        let granted = registration != Registration::Refused;
        self.tell(now, worker, WorkerMessage::Registered { ticket, granted });
    }

    /// The home worker has decided.
    pub(super) fn registered(&mut self, now: Instant, ticket: Ticket, granted: bool) {
        let Some(Pending::Create(creation)) = self.pending.remove(&ticket) else {
            return;
        };
        let Creation {
            connection,
            peer,
            exchange,
            parked,
        } = *creation;
        if exchange.is_none() {
            self.claiming.remove(&(peer, connection.client.clone()));
        }
        if !granted {
            self.metrics.connection_events.inc(ConnectionEvent::Refused);
            let refusal = || unauthorized("Login Failed: clientid belongs to another identity");
            if let Some(exchange) = exchange {
                self.respond(now, now, exchange, refusal());
            }
            for parked in parked {
                self.respond(now, parked.arrived, parked.exchange, refusal());
            }
            return;
        }
        let key = connection.key;
        let token = Bytes::copy_from_slice(connection.token.as_bytes());
        if let Some(older) = self
            .connections
            .of_client(&connection.client)
            .map(|older| older.key)
        {
            self.end_connection(now, older, ConnectionEvent::Replaced);
        }
        let implicit = exchange.is_none();
        let event = if implicit {
            ConnectionEvent::Implicit
        } else {
            ConnectionEvent::Created
        };
        self.metrics.connection_events.inc(event);
        self.adopt(now, connection, Some(peer));
        self.announce_connection(key, None);
        if self.peers.get(peer).is_none() {
            // Its peer went away meanwhile: nobody knows the token.
            return self.end_connection(now, key, ConnectionEvent::Ended);
        }
        if let Some(exchange) = exchange {
            let response = Response {
                payload: token,
                ..Response::new(Code::CREATED)
            };
            self.respond(now, now, exchange, response);
        }
        for parked in parked {
            self.process(now, parked, Stage::Claimed);
        }
    }

    /// Takes a new or moved connection in.
    pub(super) fn adopt(&mut self, now: Instant, connection: Connection, peer: Option<PeerId>) {
        let key = connection.key;
        if let Some(deadline) = connection.deadline(self.settings.heartbeat) {
            self.timers.arm(deadline, Timer::Connection(key));
        }
        self.connections.insert(connection);
        self.metrics.connections.set(self.connections.len() as u64);
        if let Some(peer) = peer {
            self.attach(now, key, peer);
        }
    }

    /// A valid request used the connection: it lives on, and its observations are where the request came from.
    pub(super) fn use_connection(&mut self, now: Instant, key: ConnectionKey, peer: PeerId) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.seen_at = now;
        if connection.peer != Some(peer) {
            self.metrics.connection_events.inc(ConnectionEvent::Moved);
            self.detach(key);
            self.attach(now, key, peer);
        }
    }

    fn attach(&mut self, now: Instant, key: ConnectionKey, peer: PeerId) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(home) = self.peers.get_mut(peer) else {
            return;
        };
        connection.peer = Some(peer);
        connection.listener = home.listener;
        home.connections.push(key);
        let observations = self.subscriptions.of(Holder::Connection(key)).to_vec();
        for id in observations {
            for notification in self.backlog.take(now, id) {
                self.coap.notify(now, &mut home.coap, id, notification);
            }
        }
    }

    /// Parts a connection from its peer; what its observations still had to get waits for the next one.
    pub(super) fn detach(&mut self, key: ConnectionKey) {
        self.note_life(key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(id) = connection.peer.take() else { return };
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        peer.connections.retain(|other| *other != key);
        let observations = self.subscriptions.of(Holder::Connection(key)).to_vec();
        let pending: Vec<_> = observations
            .into_iter()
            .map(|id| (id, self.coap.take_pending(&mut peer.coap, id)))
            .collect();
        for (observation, notifications) in pending {
            for notification in notifications {
                self.keep_for_later(observation, notification);
            }
        }
    }

    /// When the client of a connection last showed that it lives: by a valid request, or at its peer by an acknowledgement or
    /// a ping.
    pub(super) fn last_sign(&self, connection: &Connection) -> Instant {
        let peer = connection.peer.and_then(|peer| self.peers.get(peer));
        let alive = peer.and_then(|peer| peer.alive_at);
        alive.map_or(connection.seen_at, |alive| alive.max(connection.seen_at))
    }

    /// Writes the last sign of life down with the connection.
    pub(super) fn note_life(&mut self, key: ConnectionKey) {
        let sign = self
            .connections
            .get(key)
            .map(|connection| self.last_sign(connection));
        if let (Some(sign), Some(connection)) = (sign, self.connections.get_mut(key)) {
            connection.seen_at = sign;
        }
    }

    fn announce_connection(&mut self, key: ConnectionKey, reason: Option<&'static str>) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (client, username) = (connection.client.clone(), connection.username.clone());
        let peer = connection.peer.and_then(|peer| self.peers.get(peer));
        let news = self.news(
            &Told {
                client: &client,
                username: username.as_deref(),
                peer,
            },
            reason,
        );
        self.announce(news);
    }

    /// Ends a connection and its observations, here and at its home worker.
    pub(super) fn end_connection(&mut self, now: Instant, key: ConnectionKey, event: ConnectionEvent) {
        self.announce_connection(key, Some(event.label()));
        self.detach(key);
        self.end_observations(Holder::Connection(key));
        let Some(connection) = self.connections.remove(key) else {
            return;
        };
        self.timers.disarm(Timer::Connection(key));
        self.metrics.connection_events.inc(event);
        self.metrics.connections.set(self.connections.len() as u64);
        let home = Directory::home(&connection.client, self.settings.workers);
        self.tell(
            now,
            home,
            WorkerMessage::Ended {
                client: connection.client,
                key,
            },
        );
    }

    /// Where the handshake proves the client id, the handshake is the connection (interface 2.5).
    pub(super) fn connect_implicitly(&mut self, now: Instant, peer: PeerId) {
        let (IdentityUse::ClientId, Some(identity)) = self.bound_identity(peer) else {
            return;
        };
        let Some(client) = ClientId::new(&identity.name) else {
            return;
        };
        let owner = self.owner_of(peer);
        match self.connections.of_client(&client) {
            Some(connection) if connection.owner == owner => {
                let key = connection.key;
                self.use_connection(now, key, peer);
            }
            Some(_) => {}
            None => self.claim_for_handshake(now, client, owner, peer),
        }
    }

    /// Tells another worker, or does it at once where the other is this one.
    pub(super) fn tell(&mut self, now: Instant, to: WorkerId, message: WorkerMessage) {
        if to == self.worker {
            self.worker_message(now, message);
        } else {
            self.outputs.push_back(Output::Worker { to, message });
        }
    }
}

impl ClaimProof {
    /// Whether it gives the right to use `connection` to a peer that speaks as `owner`.
    pub(super) fn proves(&self, connection: &Connection, owner: &Owner) -> bool {
        connection.owner == *owner
            && match self {
                Self::Token(token) => connection.token.matches(token),
                Self::Identity => true,
            }
    }
}
