//! Requests of peers that wait for their answer, and where the answer goes.

use std::time::Instant;

use crate::coap::answered::Name;
use crate::coap::blockwise::Block;
use crate::coap::contract::{Code, Event, ExchangeId, PeerId, Request, ResourceKey, Response, Token};
use crate::coap::dedup::Remembered;
use crate::coap::metrics::MessageType;
use crate::coap::peer::{Peer, PeerTable};
use crate::coap::timers::TimerKey;
use crate::types::reason::Limit;
use crate::types::standing::Standing;

use super::{Endpoint, Timeout};

/// How many seconds a client should wait that was refused for want of room.
pub(super) const RETRY_AFTER: u32 = 5;

/// A request and all that its answer needs.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) peer: PeerId,
    /// What was known of the peer when it asked.
    pub(super) standing: Standing,
    pub(super) token: Token,
    pub(super) mid: u16,
    pub(super) confirmable: bool,
    /// Whether its empty ACK went out already.
    pub(super) acknowledged: bool,
    /// What the answer says about the block of the request.
    pub(super) block1: Option<Block>,
    /// The block of the body that the request wants.
    pub(super) block2: Option<Block>,
    pub(super) no_response: u8,
    /// The ETags of what the client has already.
    pub(super) known: Vec<[u8; 8]>,
    pub(super) resource: Option<ResourceKey>,
    /// Of a message that may come again.
    pub(super) remembered: Option<Remembered>,
    /// What names it to the next process; `None` where that will not know its peer.
    pub(super) name: Option<Name>,
    pub(super) timer: Option<TimerKey>,
    pub(super) serial: u32,
}

impl Exchange {
    /// The response, or 2.03 where the client has what it would bring (RFC 7252, 5.9.1.3). Who asks for a later block, and says of which
    /// body, has not got it all.
    pub(super) fn validated(&self, response: Response) -> Response {
        let is_known = response.etag.is_some_and(|etag| self.known.contains(&etag))
            && self.block2.is_none_or(|block| block.num == 0)
            && (response.code, response.observe) == (Code::CONTENT, None);
        if !is_known {
            return response;
        }
        Response {
            etag: response.etag,
            max_age: response.max_age,
            ..Response::new(Code::VALID)
        }
    }
}

impl Endpoint {
    /// Answers a request. Does nothing when the request is no longer known.
    pub fn respond(
        &mut self,
        now: Instant,
        peers: &mut impl PeerTable,
        exchange: ExchangeId,
        response: Response,
    ) {
        self.saw_time(now);
        if let Some((peer, exchange)) = self.take_exchange(peers, exchange) {
            self.answer(now, peer, &exchange, response);
        }
    }

    /// Ends an exchange without an answer: a confirmable request is rejected with RST (RFC 7252, 4.2), any other in silence.
    pub fn refuse(&mut self, now: Instant, peers: &mut impl PeerTable, exchange: ExchangeId) {
        self.saw_time(now);
        if let Some((peer, exchange)) = self.take_exchange(peers, exchange)
            && exchange.confirmable
            && !exchange.acknowledged
        {
            self.answer_empty(peer, &exchange, MessageType::Rst);
        }
    }

    /// Hands a request to the gateway, or refuses it when too many wait already.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        mut exchange: Exchange,
        request: Request,
    ) {
        let (all, standing) = (self.caps.pending_requests, peer.standing());
        if *self.waiting.of(standing) >= standing.share_of(all)
            || self.exchanges.len() >= all
            || peer.exchanges.len() >= (all / 16).max(16)
        {
            self.metrics.limits.inc(Limit::PendingRequests);
            let mut response = Response::new(Code::SERVICE_UNAVAILABLE);
            response.max_age = Some(RETRY_AFTER);
            return self.answer(now, peer, &exchange, response);
        }
        self.exchange_serial = self.exchange_serial.wrapping_add(1);
        exchange.serial = self.exchange_serial;
        exchange.standing = standing;
        *self.waiting.of_mut(standing) += 1;
        let wait = match exchange.confirmable {
            true => self.parameters.separate_after,
            false => self.parameters.non_lifetime,
        };
        let entry = self.exchanges.vacant_entry();
        let at = entry.key();
        exchange.timer = Some(self.timers.set(now + wait, Timeout::Exchange { at }));
        peer.exchanges.push(at);
        entry.insert(exchange);
        self.events.push_back(Event::Request {
            peer: peer.id,
            exchange: ExchangeId(u64::from(self.exchange_serial) << 32 | at as u64),
            request,
        });
    }

    /// A request has no answer yet: its ACK goes alone. Long after, nobody waits for the answer any more.
    pub(super) fn on_exchange_timeout(&mut self, now: Instant, peer: &mut Peer, at: usize) {
        let Some(exchange) = self.exchanges.get_mut(at) else {
            return;
        };
        exchange.timer = None;
        if exchange.acknowledged || !exchange.confirmable {
            self.remove_exchange(peer, at);
            return;
        }
        exchange.acknowledged = true;
        let wait = self.parameters.exchange_lifetime;
        exchange.timer = Some(self.timers.set(now + wait, Timeout::Exchange { at }));
        let exchange = exchange.clone();
        self.answer_empty(peer, &exchange, MessageType::Ack);
    }

    fn take_exchange<'a>(
        &mut self,
        peers: &'a mut impl PeerTable,
        id: ExchangeId,
    ) -> Option<(&'a mut Peer, Exchange)> {
        let at = (id.0 & u64::from(u32::MAX)) as usize;
        let exchange = self.exchanges.get(at)?;
        if u64::from(exchange.serial) != id.0 >> 32 {
            return None;
        }
        let peer = peers.coap(exchange.peer)?;
        let exchange = self.remove_exchange(peer, at);
        Some((peer, exchange))
    }

    pub(super) fn remove_exchange(&mut self, peer: &mut Peer, at: usize) -> Exchange {
        let exchange = self.exchanges.remove(at);
        let waiting = self.waiting.of_mut(exchange.standing);
        *waiting = waiting.saturating_sub(1);
        if let Some(timer) = exchange.timer {
            self.timers.cancel(timer);
        }
        peer.exchanges.retain(|it| *it != at);
        exchange
    }
}
