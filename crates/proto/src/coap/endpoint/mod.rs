//! The message layer of all peers of one worker: datagrams and answers in, events and datagrams out.

mod exchange;
mod receive;
mod respond;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slab::Slab;

use crate::types::ListenerId;
use crate::types::limits::Caps;

use super::blockwise::Transfers;
use super::contract::{CoapSettings, Code, Event, PeerId, RequestError, RequestId};
use super::dedup::Dedup;
use super::message::type_of;
use super::metrics::{CoapMetrics, NotificationResult};
use super::outbox::Outbox;
use super::parameters::Parameters;
use super::peers::Peers;
use super::timers::Timers;

use exchange::Exchange;

/// What is to be done when a timer fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// A confirmable message of ours was not acknowledged in time.
    Retransmit { slot: usize, mid: u16 },
    /// A request of a peer waits for its answer too long.
    Exchange { at: usize },
    /// The time for a request of ours is up.
    Request { slot: usize, request: RequestId },
}

/// The CoAP message layer of all peers of one worker. It owns no socket and no clock:
///
/// ```text
/// receive / respond / notify / request     any number of times
/// poll_event                               until it returns none
/// drain_transmits                          datagrams to send
/// poll_timeout                             when to call handle_timeout
/// ```
#[derive(Debug)]
pub struct Endpoint {
    settings: CoapSettings,
    pub(super) parameters: Parameters,
    pub(super) caps: Caps,
    pub(super) rng: StdRng,
    pub(super) metrics: Arc<CoapMetrics>,
    /// The latest time that a caller named.
    pub(super) now: Option<Instant>,
    pub(super) peers: Peers,
    pub(super) dedup: Dedup,
    pub(super) transfers: Transfers,
    pub(super) timers: Timers<Timer>,
    pub(super) events: VecDeque<Event>,
    exchanges: Slab<Exchange>,
    exchange_serial: u32,
    outbox: Outbox,
    /// Separate responses that wait for their ACK.
    pub(super) separate: usize,
    /// Weight of notifications that wait.
    pub(super) queued_bytes: usize,
    /// Requests of ours that wait for an answer.
    pub(super) requests: usize,
}

impl Endpoint {
    /// An endpoint without peers. `seed` feeds message ids, tokens, Echo values and the spread of retransmissions; it must be random
    /// and secret, since a peer over plain UDP proves its address with them.
    #[must_use]
    pub fn new(settings: CoapSettings, caps: Caps, seed: [u8; 32], metrics: Arc<CoapMetrics>) -> Self {
        let parameters = Parameters::new(&settings);
        let mut rng = StdRng::from_seed(seed);
        let secret = rng.random();
        Self {
            parameters,
            rng,
            now: None,
            peers: Peers::default(),
            dedup: Dedup::new(caps.remembered_exchanges, secret, Arc::clone(&metrics)),
            transfers: Transfers::new(
                caps.transfers,
                caps.transfer_bytes,
                parameters.exchange_lifetime,
                Arc::clone(&metrics),
            ),
            timers: Timers::new(),
            events: VecDeque::new(),
            exchanges: Slab::new(),
            exchange_serial: 0,
            outbox: Outbox::default(),
            separate: 0,
            queued_bytes: 0,
            requests: 0,
            settings,
            caps,
            metrics,
        }
    }

    /// New settings for what comes next; what is under way keeps its timers.
    pub fn reconfigure(&mut self, settings: CoapSettings) {
        self.parameters = Parameters::new(&settings);
        self.transfers.set_lifetime(self.parameters.exchange_lifetime);
        self.settings = settings;
    }

    /// Makes a peer known. `proven` says that its address needs no proof, as for DTLS sessions; such a peer is never one of
    /// [`Endpoint::oldest_idle`]. A peer that is known already stays as it is.
    pub fn add_peer(&mut self, peer: PeerId, listener: ListenerId, proven: bool) {
        self.peers.add(peer, listener, proven, &mut self.rng);
    }

    /// Forgets all of a peer. Requests of ours to it end with [`RequestError::Gone`]; other events about it no longer come.
    pub fn remove_peer(&mut self, peer: PeerId) {
        let Some(slot) = self.peers.slot(peer) else { return };
        self.fail_requests(slot, RequestError::Gone);
        let Some(gone) = self.peers.remove(slot) else {
            return;
        };
        self.dedup.remove_peer(peer);
        self.transfers.remove_peer(peer);
        for outstanding in gone.outstanding.values() {
            self.timers.cancel(outstanding.timer());
        }
        self.separate = self.separate.saturating_sub(gone.separate);
        for at in gone.exchanges {
            if let Some(timer) = self.exchanges.try_remove(at).and_then(|exchange| exchange.timer) {
                self.timers.cancel(timer);
            }
        }
        if let Some(observing) = gone.observing {
            for confirmable in observing.unsettled() {
                self.metrics
                    .notification(confirmable, NotificationResult::Dropped);
            }
            self.queued_bytes = self.queued_bytes.saturating_sub(observing.waiting_weight());
            self.metrics.queued_bytes.set(self.queued_bytes as u64);
        }
        self.events.retain(|event| match event {
            Event::Request { peer: of, .. }
            | Event::Notified { peer: of, .. }
            | Event::Alive { peer: of } => *of != peer,
            Event::Answered { .. } => true,
        });
    }

    /// Notes that the address of a peer is proved by other means, such as a valid token.
    pub fn set_proven(&mut self, peer: PeerId) {
        let Some(slot) = self.peers.slot(peer) else { return };
        self.peers.set_proven(slot);
        if let Some(now) = self.now {
            self.pump(now, slot);
        }
    }

    /// Whether the address of a peer is proved.
    #[must_use]
    pub fn is_proven(&self, peer: PeerId) -> bool {
        let slot = self.peers.slot(peer);
        slot.and_then(|slot| self.peers.get(slot))
            .is_some_and(|peer| peer.proven)
    }

    /// How often something was sent to a peer again because it was not acknowledged.
    #[must_use]
    pub fn retransmissions(&self, peer: PeerId) -> u64 {
        let slot = self.peers.slot(peer);
        slot.and_then(|slot| self.peers.get(slot))
            .map_or(0, |peer| peer.retransmissions)
    }

    /// When the last well-formed message of a peer arrived; `None` before the first one, or when it is not known.
    #[must_use]
    pub fn idle_since(&self, peer: PeerId) -> Option<Instant> {
        self.peers.get(self.peers.slot(peer)?)?.last_seen
    }

    /// The peer over plain UDP to give up first when there are too many: of the unproven ones the one silent longest, else of
    /// the proven ones. Takes constant time.
    #[must_use]
    pub fn oldest_idle(&self) -> Option<PeerId> {
        self.peers.oldest()
    }

    /// How many peers are known.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// The next event, oldest first. Drain them after each call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether datagrams wait to be sent.
    #[must_use]
    pub fn has_transmits(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Hands out the datagrams that wait to be sent, oldest first, each with its peer.
    pub fn drain_transmits(&mut self, take: impl FnMut(PeerId, &[u8])) {
        self.outbox.drain(take);
    }

    /// When [`Endpoint::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.timers.next(),
            self.dedup.next_expiry(),
            self.transfers.next_expiry(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.saw_time(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Retransmit { slot, mid } => self.on_retransmit(now, slot, mid),
                Timer::Exchange { at } => self.on_exchange_timeout(now, at),
                Timer::Request { slot, request } => self.request_timed_out(now, slot, request),
            }
        }
        self.dedup.expire(now);
        self.transfers.expire(now);
    }

    pub(super) fn saw_time(&mut self, now: Instant) {
        self.now = self.now.max(Some(now));
    }

    /// Hands a datagram to the transport and counts it.
    pub(super) fn transmit(&mut self, slot: usize, datagram: &[u8]) {
        let (Some(peer), [first, code, ..]) = (self.peers.get(slot), datagram) else {
            return;
        };
        if let Some(listener) = self.metrics.listener(peer.listener) {
            listener.sent.inc(type_of(*first), Code(*code));
        }
        self.outbox.push(peer.id, datagram);
    }
}
