//! Between a peer's worker and the owner of what it uses: each half does what the other asks. Where both are one worker, it asks
//! itself.

use std::time::{Duration, Instant};

use super::answers::unavailable;
use super::workers::{FromPeer, ToPeer, WorkerMessage};
use super::{Gateway, cx};
use crate::coap::contract::{Event, ObservationId, PeerId, RequestError};
use crate::policy::connections::ConnectionKey;
use crate::types::WorkerId;
use crate::types::reason::{DropReason, Limit};

/// How often another worker hears that a peer lives, where no heartbeat asks for more.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

impl Gateway {
    /// Takes in what the message layer made of its inputs.
    pub(super) fn coap_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Request {
                peer,
                exchange,
                request,
            } => self.request(now, peer, exchange, request),
            Event::Notified {
                peer,
                observation,
                outcome,
            } => {
                let what = FromPeer::Notified(observation, outcome);
                self.agenda.tell_owner(owner(observation), peer, what);
            }
            Event::Unanswered {
                peer,
                observation,
                notifications,
            } => {
                let what = FromPeer::Unanswered(observation, notifications);
                self.agenda.tell_owner(owner(observation), peer, what);
            }
            Event::Alive { peer } => self.alive(now, peer),
            Event::Answered { request, result } => {
                let message = WorkerMessage::Answered(request, result);
                self.agenda.tell(WorkerId::of(request.0), message);
            }
        }
    }

    /// An acknowledgement or a ping keeps the connections at that address alive (interface 2.3). Other workers hear of it in time
    /// and no oftener: a ping costs its sender nothing.
    pub(super) fn alive(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let every = self
            .settings
            .heartbeat(peer.listener)
            .map_or(SIGN_OF_LIFE, |heartbeat| heartbeat / 4);
        let has_guests = !peer.guests.is_empty();
        let due = peer.alive_at.is_none_or(|told| told + every <= now);
        if due {
            peer.alive_at = Some(now);
        }
        let address = peer.address;
        let retransmissions = peer.coap.retransmissions();
        if !has_guests {
            return self.heard_peer(now, id);
        }
        let Some(peer) = self.peers.get(id) else { return };
        for owner in peer.guests.owners().filter(|owner| due || *owner == self.worker) {
            let what = FromPeer::Alive {
                address,
                retransmissions,
            };
            self.agenda.tell_owner(owner, id, what);
        }
    }

    /// Does what the owner of a connection or observation wants done for a peer of this worker.
    pub(super) fn serve_peer(&mut self, now: Instant, peer: PeerId, what: ToPeer) {
        let Self { coap, peers, .. } = self;
        match what {
            ToPeer::Answer(reply, response) => {
                self.forwarded.came_back(reply.exchange);
                self.metrics
                    .request_seconds
                    .observe(now.saturating_duration_since(reply.arrived));
                if self.settings.tells_requests {
                    self.tell_answer(now, peer, reply.arrived, &response);
                }
                let Self { coap, peers, .. } = self;
                coap.respond(now, peers, reply.exchange, response);
            }
            ToPeer::Notify(observation, notification) => match peers.get_mut(peer) {
                Some(it) => {
                    it.traffic.publishes_sent += 1;
                    coap.notify(now, &mut it.coap, observation, notification);
                    self.weigh(peer);
                }
                None => {
                    let what = FromPeer::Undelivered(vec![(observation, notification)]);
                    self.agenda.tell_owner(owner(observation), peer, what);
                }
            },
            ToPeer::Cancel(observation) => {
                if let Some(peer) = peers.get_mut(peer) {
                    coap.cancel(&mut peer.coap, observation);
                }
            }
            ToPeer::Attach(guest) => match peers.get_mut(peer) {
                Some(peer) => {
                    if guest.is_known {
                        peer.set_known(&mut self.ledger);
                    }
                    peer.guests.add(guest);
                }
                None => self.agenda.tell_owner(guest.key.worker(), peer, FromPeer::Gone),
            },
            ToPeer::Part(key, observations) => {
                if let Some(peer) = peers.get_mut(peer) {
                    peer.guests.remove(key);
                }
                self.give_back(peer, key, observations);
            }
            ToPeer::Hold(key, observations) => {
                if let Some(peer) = peers.get_mut(peer) {
                    peer.alive_at = None;
                }
                self.give_back(peer, key, observations);
            }
            ToPeer::Nudge => {
                if let Some(peer) = peers.get_mut(peer) {
                    coap.nudge(&mut peer.coap);
                }
            }
            ToPeer::NotHere(context, key) => self.not_here(now, *context, key),
            ToPeer::Request(id, request) => match peers.get_mut(peer) {
                Some(peer) => coap.request(now, &mut peer.coap, id, request),
                None => {
                    let message = WorkerMessage::Answered(id, Err(RequestError::Gone));
                    self.agenda.tell(WorkerId::of(id.0), message);
                }
            },
            ToPeer::GiveUp(id) => {
                if let Some(peer) = peers.get_mut(peer) {
                    coap.give_up(now, &mut peer.coap, id);
                }
            }
            ToPeer::Kick => self.kick_peer(now, peer),
        }
    }

    /// Gives back to a connection what waits of its observations.
    fn give_back(&mut self, id: PeerId, key: ConnectionKey, observations: Vec<ObservationId>) {
        if observations.is_empty() {
            return;
        }
        let Self { coap, peers, .. } = self;
        let notifications = match peers.get_mut(id) {
            Some(peer) => coap.take_pending(&mut peer.coap, observations),
            None => Vec::new(),
        };
        let what = FromPeer::Parted(key, notifications);
        self.agenda.tell_owner(key.worker(), id, what);
    }

    /// Takes in what a peer sent to a connection or observation of this worker, or what became of it.
    pub(super) fn hear_of_peer(&mut self, now: Instant, peer: PeerId, what: FromPeer) {
        let mut cx = cx!(self, now);
        let (connections, observations) = (&mut self.connections, &mut self.observations);
        match what {
            FromPeer::Request(context, proved) => self.serve(now, *context, proved),
            FromPeer::Established(from, key) => connections.use_from(&mut cx, observations, key, &from),
            FromPeer::Alive {
                address,
                retransmissions,
            } => connections.peer_alive(&mut cx, observations, (peer, address), retransmissions),
            FromPeer::Gone => connections.peer_gone(&mut cx, observations, peer),
            FromPeer::Notified(observation, outcome) => observations.notified(&mut cx, observation, outcome),
            FromPeer::Parted(key, notifications) => {
                connections.parted(&mut cx, observations, key, notifications)
            }
            FromPeer::Unanswered(observation, notifications) => {
                connections.unanswered(&mut cx, observations, observation, notifications);
            }
            FromPeer::Undelivered(notifications) => observations.take_back(&mut cx, notifications),
        }
    }

    /// Whether the client of a connection is at a peer of this worker, which its owner is then told.
    pub(super) fn found_at(&mut self, now: Instant, mark: u64, key: ConnectionKey) -> bool {
        let peer = self.found.peer(mark);
        let facts = peer.and_then(|id| Some(self.peers.get(id)?.facts(id, &self.ledger)));
        let Some(facts) = facts else { return false };
        if key.worker() == self.worker {
            let (connections, observations) = (&mut self.connections, &mut self.observations);
            connections.attach(&mut cx!(self, now), observations, key, &facts);
        } else {
            self.established(now, facts, key);
        }
        true
    }

    /// A message that may be refused found the way to its worker full.
    pub(super) fn refused(&mut self, message: WorkerMessage) {
        match message {
            WorkerMessage::FromPeer(_, FromPeer::Request(context, _)) => {
                self.metrics.limits.inc(Limit::Channel);
                self.agenda.answer(context.reply, unavailable());
            }
            WorkerMessage::ToPeer(_, ToPeer::Notify(..)) => {
                self.metrics.limits.inc(Limit::QueuedNotifications)
            }
            WorkerMessage::Record { listener, .. } => {
                self.metrics.limits.inc(Limit::Channel);
                self.count_dropped(listener, DropReason::Limit);
            }
            _ => {}
        }
    }
}

/// The worker that has an observation.
const fn owner(observation: ObservationId) -> WorkerId {
    WorkerId::of(observation.0)
}
