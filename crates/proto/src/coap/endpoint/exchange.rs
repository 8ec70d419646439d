//! Requests of peers that wait for their answer, and where the answer goes.

use std::time::Instant;

use crate::coap::blockwise::Block;
use crate::coap::contract::{Code, Event, ExchangeId, PeerId, Request, ResourceKey, Response, Token};
use crate::coap::dedup::Remembered;
use crate::coap::message;
use crate::coap::metrics::MessageType;
use crate::coap::timers::TimerKey;
use crate::types::reason::Limit;

use super::{Endpoint, Timer};

/// How many seconds a client should wait that was refused for want of room.
const RETRY_AFTER: u32 = 5;

/// A request and all that its answer needs.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) peer: PeerId,
    pub(super) token: Token,
    pub(super) mid: u16,
    pub(super) confirmable: bool,
    /// Whether its empty ACK went out already.
    pub(super) acknowledged: bool,
    /// Bytes that an answer may have while the peer is unproven.
    pub(super) limit: usize,
    /// What the answer says about the block of the request.
    pub(super) block1: Option<Block>,
    /// The block of the body that the request wants.
    pub(super) block2: Option<Block>,
    pub(super) no_response: u8,
    pub(super) resource: Option<ResourceKey>,
    pub(super) remembered: Remembered,
    pub(super) timer: Option<TimerKey>,
    pub(super) serial: u32,
}

impl Endpoint {
    /// Answers a request. Does nothing when the request is no longer known.
    pub fn respond(&mut self, now: Instant, exchange: ExchangeId, response: Response) {
        self.saw_time(now);
        if let Some(exchange) = self.take_exchange(exchange) {
            self.answer(now, &exchange, response);
        }
    }

    /// Ends an exchange without an answer: a confirmable request is rejected with RST (RFC 7252, 4.2), any other in silence.
    pub fn refuse(&mut self, now: Instant, exchange: ExchangeId) {
        self.saw_time(now);
        let Some(exchange) = self.take_exchange(exchange) else {
            return;
        };
        let Some(slot) = self.peers.slot(exchange.peer) else {
            return;
        };
        if exchange.confirmable && !exchange.acknowledged {
            let reset = message::empty(MessageType::Rst, exchange.mid);
            self.dedup.answered(exchange.remembered, &reset);
            self.transmit(slot, &reset);
        }
    }

    /// Hands a request to the gateway, or refuses it when too many wait already.
    pub(super) fn deliver(&mut self, now: Instant, slot: usize, mut exchange: Exchange, request: Request) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let most = self.caps.pending_requests;
        if self.exchanges.len() >= most || peer.exchanges.len() >= (most / 16).max(16) {
            self.metrics.limits.inc(Limit::PendingRequests);
            let mut response = Response::new(Code::SERVICE_UNAVAILABLE);
            response.max_age = Some(RETRY_AFTER);
            return self.answer(now, &exchange, response);
        }
        self.exchange_serial = self.exchange_serial.wrapping_add(1);
        exchange.serial = self.exchange_serial;
        let wait = match exchange.confirmable {
            true => self.parameters.separate_after,
            false => self.parameters.non_lifetime,
        };
        let entry = self.exchanges.vacant_entry();
        let at = entry.key();
        exchange.timer = Some(self.timers.set(now + wait, Timer::Exchange { at }));
        peer.exchanges.push(at);
        entry.insert(exchange);
        self.events.push_back(Event::Request {
            peer: peer.id,
            exchange: ExchangeId(u64::from(self.exchange_serial) << 32 | at as u64),
            request,
        });
    }

    /// A request has no answer yet: its ACK goes alone. Long after, nobody waits for the answer any more.
    pub(super) fn on_exchange_timeout(&mut self, now: Instant, at: usize) {
        let Some(exchange) = self.exchanges.get_mut(at) else {
            return;
        };
        exchange.timer = None;
        if exchange.acknowledged || !exchange.confirmable {
            self.remove_exchange(at);
            return;
        }
        exchange.acknowledged = true;
        let wait = self.parameters.exchange_lifetime;
        exchange.timer = Some(self.timers.set(now + wait, Timer::Exchange { at }));
        let (peer, remembered) = (exchange.peer, exchange.remembered);
        let acknowledgement = message::empty(MessageType::Ack, exchange.mid);
        self.dedup.answered(remembered, &acknowledgement);
        if let Some(slot) = self.peers.slot(peer) {
            self.transmit(slot, &acknowledgement);
        }
    }

    fn take_exchange(&mut self, id: ExchangeId) -> Option<Exchange> {
        let at = (id.0 & u64::from(u32::MAX)) as usize;
        let exchange = self.exchanges.get(at)?;
        if u64::from(exchange.serial) != id.0 >> 32 {
            return None;
        }
        self.remove_exchange(at)
    }

    fn remove_exchange(&mut self, at: usize) -> Option<Exchange> {
        let exchange = self.exchanges.try_remove(at)?;
        if let Some(timer) = exchange.timer {
            self.timers.cancel(timer);
        }
        if let Some(peer) = self
            .peers
            .slot(exchange.peer)
            .and_then(|slot| self.peers.get_mut(slot))
            && let Some(position) = peer.exchanges.iter().rposition(|it| *it == at)
        {
            peer.exchanges.swap_remove(position);
        }
        Some(exchange)
    }
}
