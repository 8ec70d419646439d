//! The core composed: one [`contract::Input`], one [`contract::Output`], one deadline.
//!
//! A datagram enters at [`Gateway::handle`] and goes through the files in this order: `inbound` and `sessions` (DTLS, message layer),
//! `route` (what it asks, who asks, which worker has the connection that it names), `owner` and `ops` (what is done),
//! `broker_events` (what the broker says to it), `delivery` and the message layer (back to the peer). An operation is a function of the
//! request and of the parts that it needs; what it wants done it leaves in the `agenda`.
//!
//! The files call each other downwards only: this one, `turn`, `sessions` and `inbound`, `control`, `delivery`, `route`, `banned`, `peer_life`.

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
pub mod nodes;
mod notification;
mod observations;
mod ops;
mod owner;
mod peer_life;
pub mod peers;
mod pending_requests;
mod pressure;
mod representations;
pub mod restore;
mod route;
mod sessions;
pub mod settings;
mod shared;
mod take_over;
#[cfg(test)]
mod tests;
mod timers;
mod topics;
pub mod trace;
pub mod traffic;
mod turn;
pub mod workers;

use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::bridge::contract::Ticket;
use crate::bridge::subscriptions::AccountHolder;
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
use metrics::GatewayMetrics;
use observations::Observations;
use peers::Peers;
use pressure::Pressure;
use restore::{Found, Origin, Restored};
pub use shared::Shared;

use pending_requests::PendingRequests;
use settings::{ListenerSettings, Settings};
use timers::Timers;
use topics::Topics;
use trace::Traces;

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
        gateway.restore(now, Origin::Process);
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
