//! What an operation works with and what it leaves to be done.

use std::collections::VecDeque;
use std::time::Instant;

use rand::rngs::StdRng;

use super::context::{PeerFacts, ReplyTo};
use super::contract::Output;
use super::events::{ClientEvent, EventKind, Events};
use super::metrics::GatewayMetrics;
use super::settings::Settings;
use super::shared::Shared;
use super::timers::Timers;
use super::trace::Notes;
use super::workers::{FromPeer, ToPeer, WorkerMessage};
use crate::bridge::contract::{BrokerRequest, Ticket};
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::{PeerId, Response};
use crate::policy::ledger::{AccountId, Ledger};
use crate::types::WorkerId;
use crate::types::reason::Limit;

/// The surroundings of an operation: what it reads, and where it puts what is to be done.
pub(super) struct Cx<'a> {
    pub(super) now: Instant,
    pub(super) worker: WorkerId,
    pub(super) settings: &'a Settings,
    pub(super) shared: &'a Shared,
    pub(super) metrics: &'a GatewayMetrics,
    pub(super) rng: &'a mut StdRng,
    pub(super) timers: &'a mut Timers,
    pub(super) ledger: &'a mut Ledger<AccountHolder>,
    pub(super) agenda: &'a mut Agenda,
}

impl Cx<'_> {
    /// Tells operators of something that happened to a peer; `what` is made only if it is told.
    pub(super) fn tell(&mut self, kind: EventKind, at: &PeerFacts, what: impl FnOnce() -> ClientEvent) {
        let place = (at.listener, Some(at.address));
        self.agenda.events.tell(self.now, kind, place, what);
    }

    /// Whether an account may grow by `bytes`, others giving way if they must.
    pub(super) fn may_grow(&self, account: AccountId, bytes: usize) -> bool {
        let standing = self.ledger.standing(account);
        let admitted = self.ledger.admits(standing, bytes, Some(account));
        if !admitted {
            self.metrics.limits.inc(Limit::Memory);
        }
        admitted
    }
}

/// What is to be done: by the edge, and by this worker for itself.
pub(super) struct Agenda {
    worker: WorkerId,
    outputs: VecDeque<Output>,
    /// What operators are told.
    pub(super) events: Events,
    /// What traces are told.
    pub(super) notes: Notes,
    /// What this worker tells itself, by the same messages as the others.
    own: VecDeque<WorkerMessage>,
    last_id: u64,
}

impl Agenda {
    pub(super) fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            outputs: VecDeque::new(),
            events: Events::default(),
            notes: Notes::default(),
            own: VecDeque::new(),
            last_id: worker.first_id(),
        }
    }

    /// The next thing for the edge to do.
    pub(super) fn poll(&mut self) -> Option<Output> {
        let event = || self.events.poll().map(|event| Output::Event(Box::new(event)));
        self.outputs.pop_front().or_else(event)
    }

    /// The next message of this worker to itself.
    pub(super) fn poll_own(&mut self) -> Option<WorkerMessage> {
        self.own.pop_front()
    }

    /// A number that names something, unique for the process.
    pub(super) fn ticket(&mut self) -> Ticket {
        self.last_id += 1;
        Ticket(self.last_id)
    }

    pub(super) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn broker(&mut self, request: BrokerRequest) {
        self.outputs.push_back(Output::Broker(request));
    }

    /// Tells a worker, which may be this one.
    pub(super) fn tell(&mut self, to: WorkerId, message: WorkerMessage) {
        if to == self.worker {
            self.own.push_back(message);
        } else {
            self.outputs.push_back(Output::Worker { to, message });
        }
    }

    /// Tells the owner of something about a peer of this worker.
    pub(super) fn tell_owner(&mut self, owner: WorkerId, peer: PeerId, what: FromPeer) {
        self.tell(owner, WorkerMessage::FromPeer(peer, what));
    }

    /// Tells the worker of a peer of something for it.
    pub(super) fn tell_peer(&mut self, peer: PeerId, what: ToPeer) {
        self.tell(WorkerId::of(peer.0), WorkerMessage::ToPeer(peer, what));
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, reply: ReplyTo, response: Response) {
        self.tell_peer(reply.peer, ToPeer::Answer(reply, response));
    }
}
