//! The message layer of all peers of one worker: datagrams and answers in, events and datagrams out.

mod ending;
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
use crate::types::reason::Limit;
use crate::types::standing::ByStanding;

use crate::state::Store;

use super::answered::Answered;
use super::blockwise::Transfers;
use super::codec::type_of;
use super::contract::{CoapSettings, Code, Event, PeerId, RequestId};
use super::dedup::Dedup;
use super::metrics::CoapMetrics;
use super::outbox::Outbox;
use super::parameters::Parameters;
use super::peer::{Peer, Source};
use super::timers::TimerHeap;
use crate::types::hash::Keyed;

use exchange::Exchange;
pub(super) use respond::BLOCK_OPTIONS;

/// What is to be done when a timer fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timeout {
    /// A confirmable message of ours was not acknowledged in time.
    Retransmit { peer: PeerId, mid: u16 },
    /// A request of a peer waits for its answer too long.
    Exchange { at: usize },
    /// The time for a request of ours is up.
    Request { peer: PeerId, request: RequestId },
}

/// What is kept for one peer, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Bodies of block-wise transfers, in both directions.
    pub blocks: usize,
    /// Notifications that wait, and what waits for an acknowledgement.
    pub queue: usize,
    /// Its requests that wait for an answer.
    pub requests: usize,
}

/// The CoAP message layer of all peers of one worker: what they share. It owns no socket, no clock and no [`Peer`]:
///
/// ```text
/// peer / forget                            a peer came, a peer is gone
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
    pub(super) dedup: Dedup,
    pub(super) answered: Answered,
    pub(super) transfers: Transfers,
    pub(super) timers: TimerHeap<Timeout>,
    pub(super) events: VecDeque<Event>,
    exchanges: Slab<Exchange>,
    exchange_serial: u32,
    pub(super) outbox: Outbox,
    /// Where the resource of a request is put together.
    scratch: Vec<u8>,
    /// Requests of peers among them, by what is known of those.
    waiting: ByStanding<usize>,
    /// Weight of notifications that wait, by what is known of whom they are for.
    pub(super) queued: ByStanding<usize>,
    /// Requests of ours that wait for an answer.
    pub(super) requests: usize,
}

impl Endpoint {
    /// Keeps for the next process which requests over plain UDP were answered lately, and goes on with what an earlier one answered.
    pub(crate) fn keep_answered(&mut self, now: Instant, store: &Store) {
        self.answered = Answered::keep_in(store, now, self.parameters.exchange_lifetime);
    }

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
            dedup: Dedup::new(caps.remembered_exchanges, secret, Arc::clone(&metrics)),
            answered: Answered::default(),
            transfers: Transfers::new(
                caps.transfer_bytes,
                parameters.exchange_lifetime,
                Keyed::new(secret),
                Arc::clone(&metrics),
            ),
            timers: TimerHeap::new(),
            events: VecDeque::new(),
            exchanges: Slab::new(),
            exchange_serial: 0,
            outbox: Outbox::default(),
            scratch: Vec::new(),
            waiting: ByStanding::default(),
            queued: ByStanding::default(),
            requests: 0,
            settings,
            caps,
            metrics,
        }
    }

    /// New settings and caps for what comes next; what is under way keeps its timers.
    pub fn reconfigure(&mut self, settings: CoapSettings, caps: Caps) {
        self.caps = caps;
        self.dedup.set_capacity(caps.remembered_exchanges);
        self.transfers.set_most(caps.transfer_bytes);
        self.parameters = Parameters::new(&settings);
        self.transfers.set_lifetime(self.parameters.exchange_lifetime);
        self.settings = settings;
    }

    /// A new peer. `proven` says that its address is proved already, as that of a DTLS session by its cookie.
    pub fn peer(&mut self, id: PeerId, listener: ListenerId, source: Source, proven: bool) -> Peer {
        Peer::new(id, listener, source, proven, &mut self.rng)
    }

    /// Bytes of the exchanges that are remembered (RFC 7252, 4.5), of unproven and of proven addresses: they outlive their peers.
    #[must_use]
    pub(crate) fn exchanges_kept(&self) -> [usize; 2] {
        self.dedup.kept()
    }

    /// What is kept for a peer beside its record.
    #[must_use]
    pub fn kept(&self, peer: &Peer) -> Kept {
        Kept {
            blocks: self.transfers.bytes_of(peer.id),
            queue: peer.queue_weight() + peer.unacknowledged + peer.unread.unwrap_or_default(),
            requests: peer.exchanges.len() * size_of::<Exchange>(),
        }
    }

    /// Notes that a peer moved to an address that proved nothing yet. What is sent there is bounded until an acknowledgement or an
    /// Echo comes from it; what was sent before counts for neither.
    pub fn unprove(&mut self, peer: &mut Peer) {
        peer.unprove(&mut self.rng);
    }

    /// The next event, oldest first. Drain them after each call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
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

    pub(super) fn saw_time(&mut self, now: Instant) {
        self.now = self.now.max(Some(now));
    }

    /// Hands a datagram to the transport and counts it; not when it is more than an unproven address may get.
    pub(super) fn transmit(&mut self, peer: &mut Peer, datagram: &[u8]) -> bool {
        self.outbox.draft().extend_from_slice(datagram);
        self.transmit_draft(peer)
    }

    /// As [`Endpoint::transmit`], of what was written to the outbox.
    pub(super) fn transmit_draft(&mut self, peer: &mut Peer) -> bool {
        let draft = self.outbox.drafted();
        let [first, code, ..] = draft else { return false };
        let draft_len = draft.len();
        if !peer.spend(draft.len()) {
            self.metrics.limits.inc(Limit::UnprovenBytes);
            return false;
        }
        if let Some(listener) = self.metrics.listener(peer.listener) {
            listener.sent.inc(type_of(*first), Code(*code));
        }
        if let Some(unread) = &mut peer.unread {
            *unread += draft_len;
        }
        self.outbox.push(peer.id);
        true
    }
}
