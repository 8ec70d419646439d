//! The core composed: one [`contract::Input`], one [`contract::Output`], one deadline.
//!
//! A datagram enters at [`Gateway::handle`] and goes through the files in this order: `inbound` (DTLS, message layer),
//! `request` (which resource, who asks), `connection` or `topic` (what is done), `broker_events` (what the broker says to it),
//! and back through `outbound`. `claims` and `workers` are about connections that live on another worker.

mod admission;
mod broker_events;
mod claims;
mod connection;
pub mod contract;
mod control;
pub mod directory;
mod events;
mod inbound;
pub mod metrics;
mod notify;
mod outbound;
pub mod peers;
mod pending;
mod pressure;
mod request;
mod resume;
pub mod settings;
mod shared;
#[cfg(test)]
mod tests;
mod timers;
mod topic;
pub mod trace;
pub mod workers;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::bridge::backlog::Backlog;
use crate::bridge::contract::Ticket;
use crate::bridge::subscriptions::Subscriptions;
use crate::coap::contract::{PeerId, RequestId};
use crate::coap::{CoapMetrics, Endpoint};
use crate::policy::connections::{ConnectionKey, Connections};
use crate::policy::rate::{Rate, RateTable};
use crate::policy::verdict_cache::VerdictCache;
use crate::session::{SecureSource, SecureTransport};
use crate::types::{ClientId, ListenerId, Transmits, WorkerId};

use contract::{Input, Output};
use directory::Directory;
use metrics::GatewayMetrics;
use peers::Peers;
use pending::Pending;
use pressure::Pressure;
use resume::{Leaving, Resuming};
pub use shared::Shared;

use settings::{ListenerSettings, Settings};
use timers::Timers;
use trace::Traces;

/// Clients whose request rate is watched at the same time, per worker; 16 bytes each.
const REQUEST_RATE_PLACES: usize = 65_536;

/// Verdicts that are remembered, and for how long; a credential's own end comes first.
const VERDICTS: usize = 16_384;
const VERDICT_TIME: Duration = Duration::from_secs(10);

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
}

/// The gateway of one worker: every peer whose packets reach it, their connections and observations.
pub struct Gateway {
    worker: WorkerId,
    settings: Arc<Settings>,
    rng: StdRng,
    transmits: Transmits,
    outputs: VecDeque<Output>,
    dtls: Vec<Option<Box<dyn SecureTransport>>>,
    coap: Endpoint,
    peers: Peers,
    /// By listener: whether an operator stopped it.
    disabled: Vec<bool>,
    connections: Connections,
    subscriptions: Subscriptions,
    backlog: Backlog,
    directory: Directory,
    pending: HashMap<Ticket, Pending>,
    /// Claims and implicit creations under way, by who waits for them.
    claiming: HashMap<(PeerId, ClientId), Ticket>,
    /// Connections that moved here and whose observations do not stand yet.
    resuming: HashMap<ConnectionKey, Resuming>,
    /// Connections that moved away and whose observations do not stand there yet.
    leaving: HashMap<ConnectionKey, Leaving>,
    timers: Timers,
    pressure: Pressure,
    /// Requests to devices under way, by the ticket of who asked.
    device_requests: HashMap<RequestId, u64>,
    shared: Arc<Shared>,
    /// Logins that were right just now, so that a client whose every request carries its credentials is not asked about
    /// each time.
    verdicts: VerdictCache,
    /// When the backends were last replaced.
    verdicts_since: Instant,
    request_rates: RateTable,
    traces: Traces,
    metrics: Arc<GatewayMetrics>,
    next_ticket: u64,
}

impl Gateway {
    /// A gateway without peers.
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
        // The worker's index in the upper byte keeps ids of different workers apart.
        let first_id = u64::from(worker.0) << 56;
        Self {
            worker,
            transmits: Transmits::default(),
            outputs: VecDeque::new(),
            dtls,
            coap,
            peers: Peers::new(worker),
            disabled: vec![false; settings.listeners.len()],
            connections: Connections::default(),
            subscriptions: Subscriptions::new(first_id),
            backlog: Backlog::default(),
            directory: Directory::default(),
            pending: HashMap::new(),
            claiming: HashMap::new(),
            resuming: HashMap::new(),
            leaving: HashMap::new(),
            timers: Timers::new(now),
            pressure: Pressure::new(now),
            device_requests: HashMap::new(),
            shared,
            verdicts: VerdictCache::new(random_seed(&mut rng), VERDICTS, VERDICT_TIME),
            verdicts_since: now,
            request_rates: RateTable::new(
                now,
                Rate::per_second(settings.requests_per_second),
                REQUEST_RATE_PLACES,
                &mut rng,
            ),
            traces: Traces::default(),
            metrics,
            next_ticket: first_id,
            settings,
            rng,
        }
    }

    /// Takes an input in. Datagrams to send and outputs may follow.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram {
                listener,
                from,
                bytes,
            } => self.datagram(now, listener, from, bytes),
            Input::Broker(event) => self.broker_event(now, event),
            Input::Authenticated { ticket, verdict } => self.authenticated(now, ticket, verdict),
            Input::Worker(message) => self.worker_message(now, message),
            Input::Control { ticket, request } => self.control(now, ticket, request),
        }
        self.settle(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.coap.handle_timeout(now, &mut self.peers);
        self.dtls_timeouts(now);
        self.due(now);
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
        self.outputs.pop_front()
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
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
