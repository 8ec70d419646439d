//! The core composed: one [`contract::Input`], one [`contract::Output`], one deadline.
//!
//! A datagram enters at [`Gateway::handle`] and goes through the files in this order: `inbound` (DTLS, message layer),
//! `route` (what it asks, who asks, which worker has the connection that it names), `owner` and `ops` (what is done),
//! `broker_events` (what the broker says to it), `delivery` and the message layer (back to the peer). An operation is a function of the
//! request and of the parts that it needs; what it wants done it leaves in the `agenda`.

mod agenda;
mod answers;
mod asker;
mod banned;
mod broker_events;
mod connection_table;
pub mod context;
pub mod contract;
mod control;
mod delivery;
mod device_requests;
pub mod directory;
pub mod events;
mod forwarded;
mod guard;
pub mod guests;
mod inbound;
pub mod kept;
mod kept_notifications;
pub mod metrics;
pub mod news;
mod observations;
mod ops;
mod owner;
pub mod peers;
mod pending_requests;
mod pressure;
mod representations;
mod route;
pub mod settings;
mod shared;
#[cfg(test)]
mod tests;
mod timers;
mod topics;
pub mod trace;
pub mod traffic;
pub mod workers;

use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::bridge::contract::Ticket;
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::RequestError;
use crate::coap::{CoapMetrics, Endpoint};
use crate::policy::bans::Bans;
use crate::policy::ledger::Ledger;
use crate::session::{SecureSource, SecureTransport};
use crate::state::Store;
use crate::types::{ListenerId, Transmits, WorkerId};

use agenda::Agenda;
use connection_table::ConnectionTable;
use contract::{ControlRequest, Input, Output};
use device_requests::DeviceRequests;
use directory::ClientDirectory;
use forwarded::Forwarded;
use guard::Guard;
use kept::{Found, Restored};
use metrics::{ConnectionEvent, GatewayMetrics};
use observations::Observations;
use peers::Peers;
use pressure::Pressure;
pub use shared::Shared;

use pending_requests::PendingRequests;
use settings::{ListenerSettings, Settings};
use timers::Timers;
use topics::Topics;
use trace::Traces;
use workers::WorkerMessage;

/// The surroundings of an operation, borrowed from a gateway apart from its other parts.
macro_rules! cx {
    ($gateway:ident, $now:expr) => {
        $crate::gateway::agenda::Cx {
            now: $now,
            worker: $gateway.worker,
            settings: &$gateway.settings,
            shared: &$gateway.shared,
            metrics: &$gateway.metrics,
            rng: &mut $gateway.rng,
            timers: &mut $gateway.timers,
            ledger: &mut $gateway.ledger,
            agenda: &mut $gateway.agenda,
        }
    };
}
use cx;

/// What one worker's gateway is made of.
pub struct Parts {
    /// Which worker.
    pub worker: WorkerId,
    /// The settings, shared by all workers.
    pub settings: Arc<Settings>,
    /// What all workers count together.
    pub shared: Arc<Shared>,
    /// For each listener what it needs to speak DTLS; `None` for plain UDP.
    pub dtls: Vec<Option<Arc<dyn SecureSource>>>,
    /// This worker's counters of the CoAP layer.
    pub coap_metrics: Arc<CoapMetrics>,
    /// This worker's counters of the gateway.
    pub metrics: Arc<GatewayMetrics>,
    /// 256 bits from the operating system, different for each worker.
    pub seed: [u8; 32],
    /// Where this worker keeps what the next process goes on from; `None` nowhere.
    pub store: Option<Arc<Store>>,
}

/// The gateway of one worker: every peer whose packets reach it, and the connections and observations that it owns.
pub struct Gateway {
    worker: WorkerId,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    metrics: Arc<GatewayMetrics>,
    rng: StdRng,
    timers: Timers,
    /// What all of the following weighs, by whom.
    ledger: Ledger<AccountHolder>,
    agenda: Agenda,
    transmits: Transmits,
    dtls: Vec<Option<Box<dyn SecureTransport>>>,
    coap: Endpoint,
    peers: Peers,
    /// By listener: whether an operator stopped it.
    disabled: Vec<bool>,
    guard: Guard,
    bans: Arc<Bans>,
    pressure: Pressure,
    forwarded: Forwarded,
    pending: PendingRequests,
    connections: ConnectionTable,
    observations: Observations,
    topics: Topics,
    directory: ClientDirectory,
    device_requests: DeviceRequests,
    traces: Traces,
    /// Where what the next process goes on from is kept.
    store: Option<Arc<Store>>,
    found: Found,
    restored: Restored,
}

impl Gateway {
    /// A gateway with what an earlier process left, and nothing else.
    #[must_use]
    pub fn new(now: Instant, parts: Parts) -> Self {
        let Parts {
            worker,
            settings,
            shared,
            dtls,
            coap_metrics,
            metrics,
            seed,
            store,
        } = parts;
        let mut rng = StdRng::from_seed(seed);
        let dtls = dtls
            .into_iter()
            .zip(&settings.listeners)
            .enumerate()
            .map(|(index, (source, listener))| {
                let id = ListenerId(u16::try_from(index).ok()?);
                open_transport(id, worker, listener, source.as_deref(), &mut rng)
            })
            .collect();
        let coap = Endpoint::new(
            settings.coap.clone(),
            settings.caps,
            random_seed(&mut rng),
            coap_metrics,
        );
        let mut gateway = Self {
            worker,
            guard: Guard::new(now, &settings, &mut rng),
            bans: Arc::default(),
            timers: Timers::new(now),
            ledger: Ledger::new(settings.caps.memory, Arc::clone(&metrics.standing_bytes)),
            agenda: Agenda::new(worker),
            transmits: Transmits::default(),
            dtls,
            coap,
            peers: Peers::new(worker, rng.random()),
            disabled: vec![false; settings.listeners.len()],
            pressure: Pressure::new(now),
            forwarded: Forwarded::default(),
            pending: PendingRequests::default(),
            connections: ConnectionTable::new(store.clone()),
            observations: Observations::new(worker, store.clone()),
            topics: Topics::new(worker),
            store,
            found: Found::default(),
            restored: Restored::default(),
            directory: ClientDirectory::default(),
            device_requests: DeviceRequests::default(),
            traces: Traces::default(),
            shared,
            metrics,
            settings,
            rng,
        };
        gateway.restore(now);
        gateway
    }

    /// Takes an input in. Datagrams to send and outputs may follow.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram {
                listener,
                from,
                local,
                bytes,
            } => {
                self.datagram(now, listener, (from, local), bytes);
                self.dtls_events(now, listener, bytes);
            }
            Input::Stream {
                listener,
                from,
                event,
            } => {
                self.stream(now, listener, from, event);
                self.dtls_events(now, listener, &[]);
            }
            Input::Broker(event) => {
                let parts = (&mut self.pending, &mut self.observations, &mut self.topics);
                broker_events::broker_event(&mut cx!(self, now), parts, event);
            }
            Input::Authenticated { ticket, verdict } => self.authenticated(now, Ticket(ticket), verdict),
            Input::KeysFound {
                listener,
                ticket,
                answer,
            } => {
                let place = self.dtls.get_mut(usize::from(listener.0));
                if let Some(dtls) = place.and_then(Option::as_mut) {
                    dtls.give_keys(now, ticket, answer, &mut self.transmits);
                    self.dtls_events(now, listener, &[]);
                }
            }
            Input::Worker(message) => self.worker_message(now, message),
            Input::Refused(message) => self.refused(message),
            Input::Control { ticket, request } => {
                let ends = matches!(request, ControlRequest::Drain { .. });
                if ends {
                    self.give_up(now);
                }
                self.control(now, ticket, request);
                self.all_dtls_events(now);
                if let (true, Some(store)) = (ends, &self.store) {
                    // What is dropped from here on is the next process's.
                    store.seal();
                }
            }
        }
        self.settle(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.coap.handle_timeout(now, &mut self.peers);
        self.dtls_timeouts(now);
        self.all_dtls_events(now);
        self.due(now);
        self.settle(now);
    }

    /// Handles what DTLS made of `datagram`, which holds the plaintexts. What one record asks for is answered before the next,
    /// which may close the session.
    fn dtls_events(&mut self, now: Instant, listener: ListenerId, datagram: &[u8]) {
        while self.dtls_event(now, listener, datagram) {
            self.settle(now);
        }
    }

    fn all_dtls_events(&mut self, now: Instant) {
        for listener in (0..self.settings.listeners.len()).filter_map(|index| u16::try_from(index).ok()) {
            self.dtls_events(now, ListenerId(listener), &[]);
        }
    }

    /// Does all that follows from what was taken in, and collects what is to be sent.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.coap.poll_event() {
                self.coap_event(now, event);
            } else if let Some(message) = self.agenda.poll_own() {
                self.worker_message(now, message);
            } else if let Some(holder) = self.ledger.gives_way() {
                self.give_way(now, holder);
            } else {
                break;
            }
        }
        self.trace_notes(now);
        self.flush(now);
    }

    /// Hands what the message layer wants sent to the sockets, through DTLS where the peer has a session.
    fn flush(&mut self, now: Instant) {
        let Self {
            coap,
            peers,
            dtls,
            transmits,
            traces,
            settings,
            ..
        } = self;
        coap.drain_transmits(|id, bytes| {
            let Some(peer) = peers.get_mut(id) else { return };
            peer.traffic.sent(bytes.len());
            let sealed = match peer.session {
                None => {
                    transmits.push(peer.listener, peer.address, bytes);
                    true
                }
                // A session that cannot seal any more says so as an event of its own.
                Some(session) => dtls
                    .get_mut(usize::from(peer.listener.0))
                    .and_then(Option::as_mut)
                    .is_some_and(|dtls| dtls.send(session, bytes, transmits).is_ok()),
            };
            if !traces.is_empty() {
                traces.sent(now, &peer.seen(id, settings), bytes, sealed);
            }
        });
    }

    fn worker_message(&mut self, now: Instant, message: WorkerMessage) {
        match message {
            WorkerMessage::FromPeer(peer, what) => self.hear_of_peer(now, peer, what),
            WorkerMessage::ToPeer(peer, what) => self.serve_peer(now, peer, what),
            WorkerMessage::Register {
                ticket,
                client,
                key,
                owner,
                join,
                ended,
            } => {
                let ended = ended.filter(|ended| self.directory.ended(&client, *ended));
                let (registration, older) = self.directory.register(client, key, owner, join);
                for key in ended.into_iter().chain(older) {
                    self.agenda.tell(key.worker(), WorkerMessage::Evict(key));
                }
                let answer = WorkerMessage::Registered(ticket, registration);
                self.agenda.tell(key.worker(), answer);
            }
            WorkerMessage::Registered(ticket, registration) => self.registered(now, ticket, registration),
            WorkerMessage::Evict(key) => {
                let (connections, observations) = (&mut self.connections, &mut self.observations);
                let client = connections.get(key).map(|connection| connection.client.clone());
                connections.end(&mut cx!(self, now), observations, key, ConnectionEvent::Replaced);
                if let Some(client) = client {
                    self.pass_requests_on(now, &client);
                }
            }
            WorkerMessage::PassOn(passed) => match self.directory.worker_of(&passed.client) {
                Some(worker) => self.agenda.tell(worker, WorkerMessage::TakeOver(passed)),
                None => {
                    let answer = WorkerMessage::Answered(passed.id, Err(RequestError::Gone));
                    self.agenda.tell(WorkerId::of(passed.id.0), answer);
                }
            },
            WorkerMessage::TakeOver(passed) => self.take_over_request(now, *passed),
            WorkerMessage::Ended(client, key) => {
                self.directory.ended(&client, key);
            }
            WorkerMessage::Answered(request, result) => self.device_answered(now, request, result),
            WorkerMessage::Heard(client) => self.heard(now, &client),
            WorkerMessage::AreYouThere(from, at) => {
                self.agenda.tell(from, WorkerMessage::Here(self.worker, at));
            }
            WorkerMessage::Record {
                listener,
                from,
                mut bytes,
            } => self.record_from_elsewhere(now, listener, from, &mut bytes),
            WorkerMessage::Known { client, key, owner } => {
                let (_, older) = self.directory.register(client, key, owner, false);
                if let Some(older) = older {
                    self.agenda.tell(older.worker(), WorkerMessage::Evict(older));
                }
            }
            WorkerMessage::Seek { mark, key } => {
                self.found_at(now, mark, key);
            }
            WorkerMessage::Here(from, at) => self.forwarded.heard(from, at),
        }
    }

    /// Answers everything that waits with 5.03: nobody will be there for what it waits for.
    fn give_up(&mut self, now: Instant) {
        let mut cx = cx!(self, now);
        self.pending.give_up(&mut cx);
        self.forwarded.give_up(&mut cx);
        self.settle(now);
    }

    /// When [`Gateway::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let dtls = self
            .dtls
            .iter()
            .flatten()
            .filter_map(|dtls| dtls.poll_timeout())
            .min();
        [self.coap.poll_timeout(), dtls, self.timers.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The datagrams to send.
    #[must_use]
    pub fn transmits(&self) -> &Transmits {
        &self.transmits
    }

    /// The datagrams of [`Gateway::transmits`] were sent, or could not be.
    pub fn transmits_sent(&mut self) {
        self.transmits.clear();
    }

    /// The next thing to do for it.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.agenda.poll()
    }
}

fn open_transport(
    id: ListenerId,
    worker: WorkerId,
    settings: &ListenerSettings,
    source: Option<&dyn SecureSource>,
    rng: &mut StdRng,
) -> Option<Box<dyn SecureTransport>> {
    let transport = settings.dtls.as_ref()?.transport.clone();
    Some(source?.open(id, worker, transport, random_seed(rng)))
}

fn random_seed(rng: &mut StdRng) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}
