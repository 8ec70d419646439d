//! Requests of ours to devices: confirmable, one at a time for each peer, block-wise in both directions (RFC 7252, 4.7; RFC 7959).

use std::collections::VecDeque;
use std::time::Instant;

use rand::Rng;

use crate::types::reason::{DropReason, Limit};

use super::blockwise::Block;
use super::codec::{self, Message};
use super::contract::{Code, Event, OutgoingRequest, RequestError, RequestId, Response, Token};
use super::endpoint::{Endpoint, Timeout};
use super::metrics::MessageType;
use super::options::{ETag, Options};
use super::outgoing::Outgoing;
use super::peer::Peer;
use super::reliability::{Outstanding, Purpose};
use super::timers::TimerKey;

/// Requests that may wait for one peer.
const WAITING: usize = 16;

/// The requests of ours to one peer.
#[derive(Debug, Default)]
pub(crate) struct Client {
    active: Option<Active>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    request: OutgoingRequest,
    deadline: TimerKey,
}

/// A request that is under way.
#[derive(Debug)]
struct Active {
    id: RequestId,
    request: OutgoingRequest,
    deadline: TimerKey,
    token: Token,
    mid: u16,
    /// How often the peer had moved when the token went to it.
    moves: u32,
    /// Block size exponent, the smaller of ours and the device's.
    szx: u8,
    /// Bytes of the payload that the device has, and that were sent last.
    uploaded: usize,
    sent: usize,
    /// The answer as far as it came.
    answer: Vec<u8>,
    etag: Option<ETag>,
    downloading: bool,
}

/// What to do after a response.
enum Next {
    /// Ask on.
    Send,
    /// It is over.
    Finish(Result<Response, RequestError>),
}

impl Active {
    fn new(waiting: Waiting, szx: u8) -> Self {
        Self {
            id: waiting.id,
            request: waiting.request,
            deadline: waiting.deadline,
            token: Token::default(),
            mid: 0,
            moves: 0,
            szx,
            uploaded: 0,
            sent: 0,
            answer: Vec::new(),
            etag: None,
            downloading: false,
        }
    }

    /// Writes the next message of the request; `None` when it cannot be said in blocks of this size.
    fn write(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let mut outgoing = Outgoing {
            code: self.request.method.0,
            path: &self.request.path,
            query: &self.request.query,
            content_format: self.request.content_format,
            ..Outgoing::default()
        };
        let (payload, size) = (&self.request.payload, 16 << self.szx);
        if self.downloading {
            outgoing.block2 = Some(Block::at(self.answer.len(), self.szx, false)?);
        } else {
            let end = payload.len().min(self.uploaded + size);
            outgoing.payload = payload.get(self.uploaded..end)?;
            self.sent = outgoing.payload.len();
            if payload.len() > size || self.uploaded > 0 {
                Block::at(payload.len(), self.szx, false)?;
                outgoing.block1 = Some(Block::at(self.uploaded, self.szx, end < payload.len())?);
                outgoing.size1 = (self.uploaded == 0).then_some(payload.len());
            }
        }
        outgoing.write(out, MessageType::Con, self.mid, self.token);
        Some(())
    }

    fn on_response(&mut self, code: Code, options: &Options, payload: &[u8], max_body: usize) -> Next {
        let bad = Next::Finish(Err(RequestError::BadResponse));
        match (code, options.block1) {
            (Code::CONTINUE, Some(block)) if !self.downloading => {
                let done = self.uploaded + self.sent;
                if block.num as usize != self.uploaded >> (self.szx + 4) || done >= self.request.payload.len()
                {
                    return bad;
                }
                self.uploaded = done;
                self.szx = self.szx.min(block.szx);
                return Next::Send;
            }
            (Code::CONTINUE, _) => return bad,
            // It would take the body in smaller blocks (RFC 7959, 2.9.3).
            (Code::REQUEST_ENTITY_TOO_LARGE, Some(block)) if block.szx < self.szx && self.uploaded == 0 => {
                self.szx = block.szx;
                return Next::Send;
            }
            _ => {}
        }
        let whole = |payload: Vec<u8>| {
            Next::Finish(Ok(Response {
                payload: payload.into(),
                content_format: options.content_format,
                max_age: options.max_age,
                ..Response::new(code)
            }))
        };
        let Some(block) = options.block2.filter(|_| code.class() == 2) else {
            return match self.downloading && code.class() == 2 {
                true => bad,
                false if payload.len() > max_body => bad,
                false => whole(payload.to_vec()),
            };
        };
        let fits = block.fits(payload.len());
        let continues =
            block.offset() == self.answer.len() && (!self.downloading || self.etag == options.etag);
        if !fits || !continues || self.answer.len() + payload.len() > max_body {
            return bad;
        }
        self.answer.extend_from_slice(payload);
        if !block.more {
            return whole(std::mem::take(&mut self.answer));
        }
        self.etag = options.etag;
        self.szx = self.szx.min(block.szx);
        self.downloading = true;
        Next::Send
    }
}

impl Endpoint {
    /// Sends a request to a device, after those that wait for it already. Ends with [`Event::Answered`].
    pub fn request(&mut self, now: Instant, peer: &mut Peer, id: RequestId, request: OutgoingRequest) {
        self.saw_time(now);
        let client = peer.client.get_or_insert_default();
        if client.waiting.len() >= WAITING || self.requests >= self.caps.pending_requests {
            self.metrics.limits.inc(Limit::PendingRequests);
            return self.tell_answer(id, Err(RequestError::Busy));
        }
        self.requests += 1;
        let at = now.checked_add(request.timeout).unwrap_or(now);
        let timer = Timeout::Request {
            peer: peer.id,
            request: id,
        };
        let deadline = self.timers.set(at, timer);
        client.waiting.push_back(Waiting {
            id,
            request,
            deadline,
        });
        self.start_request(now, peer);
    }

    /// Begins the next request to a peer unless one is under way.
    pub(super) fn start_request(&mut self, now: Instant, peer: &mut Peer) {
        let szx = peer.largest_szx(self.parameters.max_szx);
        let Some(client) = peer.client.as_deref_mut() else {
            return;
        };
        if client.active.is_some() {
            return;
        }
        // One confirmable message at a time (NSTART; RFC 7252, 4.7).
        let observing = peer.observing.as_deref();
        if !client.waiting.is_empty() && observing.is_some_and(|it| !it.permits_confirmable()) {
            return;
        }
        match client.waiting.pop_front() {
            Some(waiting) => {
                client.active = Some(Active::new(waiting, szx));
                self.send_request(now, peer);
            }
            None => peer.client = None,
        }
    }

    /// Sends what comes next of the active request. Each message has a token of its own, so that a late answer to an earlier
    /// one is not taken for the answer to this.
    fn send_request(&mut self, now: Instant, peer: &mut Peer) {
        let token: [u8; 8] = self.rng.random();
        let (mid, moves) = (peer.take_mid(), peer.moves);
        let Some(active) = peer.active() else { return };
        active.token = Token::new(&token).unwrap_or_default();
        (active.mid, active.moves) = (mid, moves);
        let id = active.id;
        match active.write(self.outbox.draft()) {
            Some(()) => self.send_confirmable(now, peer, mid, Purpose::Request(id)),
            None => self.finish_request(now, peer, Err(RequestError::BadResponse)),
        }
    }

    fn finish_request(&mut self, now: Instant, peer: &mut Peer, result: Result<Response, RequestError>) {
        let client = peer.client.as_deref_mut();
        let Some(active) = client.and_then(|client| client.active.take()) else {
            return;
        };
        self.timers.cancel(active.deadline);
        self.settle_request(peer, active.mid, active.id);
        self.requests = self.requests.saturating_sub(1);
        self.tell_answer(active.id, result);
        self.pump(now, peer);
    }

    fn tell_answer(&mut self, request: RequestId, result: Result<Response, RequestError>) {
        self.events.push_back(Event::Answered { request, result });
    }

    /// Ends every request to a peer.
    pub(super) fn fail_requests(&mut self, peer: &mut Peer, error: RequestError) {
        let Some(client) = peer.client.take() else { return };
        let active = client.active.map(|it| (it.id, it.deadline));
        let waiting = client.waiting.into_iter().map(|it| (it.id, it.deadline));
        for (id, deadline) in active.into_iter().chain(waiting) {
            self.timers.cancel(deadline);
            self.requests = self.requests.saturating_sub(1);
            self.tell_answer(id, Err(error));
        }
    }

    /// Gives up a request that its peer has not acknowledged: it ends with [`RequestError::Unreached`]. One that it has goes on.
    pub fn give_up(&mut self, now: Instant, peer: &mut Peer, id: RequestId) {
        if let Some(mid) = peer.active().filter(|active| active.id == id).map(|it| it.mid) {
            if let Some(Purpose::Request(_)) = peer.purpose(mid) {
                self.finish_request(now, peer, Err(RequestError::Unreached));
            }
            return;
        }
        let Some(client) = peer.client.as_deref_mut() else {
            return;
        };
        let at = client.waiting.iter().position(|waiting| waiting.id == id);
        if let Some(waiting) = at.and_then(|at| client.waiting.remove(at)) {
            self.timers.cancel(waiting.deadline);
            self.requests = self.requests.saturating_sub(1);
            self.tell_answer(id, Err(RequestError::Unreached));
        }
    }

    pub(super) fn request_reset(&mut self, now: Instant, peer: &mut Peer, id: RequestId) {
        if peer.active().is_some_and(|active| active.id == id) {
            self.finish_request(now, peer, Err(RequestError::Reset));
        }
    }

    /// The retransmissions of a request are used up.
    pub(super) fn request_unreached(&mut self, now: Instant, peer: &mut Peer, id: RequestId) {
        if peer.active().is_some_and(|active| active.id == id) {
            self.finish_request(now, peer, Err(RequestError::Unreached));
        }
    }

    /// The time for a request is up.
    pub(super) fn request_timed_out(&mut self, now: Instant, peer: &mut Peer, id: RequestId) {
        if let Some(mid) = peer.active().filter(|active| active.id == id).map(|it| it.mid) {
            let error = match peer.purpose(mid) {
                Some(Purpose::Request(_)) => RequestError::Unreached,
                _ => RequestError::Timeout,
            };
            return self.finish_request(now, peer, Err(error));
        }
        let Some(client) = peer.client.as_deref_mut() else {
            return;
        };
        let before = client.waiting.len();
        client.waiting.retain(|waiting| waiting.id != id);
        if client.waiting.len() < before {
            self.requests = self.requests.saturating_sub(1);
            self.tell_answer(id, Err(RequestError::Unreached));
        }
    }

    /// An ACK with a response in it.
    pub(super) fn on_piggybacked(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        message: &Message<'_>,
    ) -> Option<DropReason> {
        let is_request = matches!(peer.purpose(message.mid), Some(Purpose::Request(_)));
        if is_request && !peer.awaits(message.token) {
            return Some(DropReason::UnexpectedResponse);
        }
        if self.on_acknowledgement(now, peer, message.mid).is_none() {
            return Some(DropReason::Unmatched);
        }
        if is_request {
            self.on_response(now, peer, message);
        }
        None
    }

    /// A response that came as CON or NON.
    pub(super) fn on_separate_response(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        message: &Message<'_>,
        datagram: &[u8],
    ) -> Option<DropReason> {
        let confirmable = message.kind == MessageType::Con;
        if !peer.awaits(message.token) {
            if confirmable {
                self.transmit(peer, &codec::empty(MessageType::Rst, message.mid));
            }
            return Some(DropReason::UnexpectedResponse);
        }
        let (lifetime, verdict) = match confirmable {
            true => (self.parameters.exchange_lifetime, Options::read(message).is_ok()),
            false => (self.parameters.non_lifetime, true),
        };
        let from = (peer.source, peer.proven);
        if peer.is_stream() {
            self.on_response(now, peer, message);
            return None;
        }
        let remembered = self.dedup.remember(now, from, message.mid, datagram, lifetime);
        if confirmable {
            // A response with an unknown critical option is rejected (RFC 7252, 5.4.1).
            let kind = match verdict {
                true => MessageType::Ack,
                false => MessageType::Rst,
            };
            let answer = codec::empty(kind, message.mid);
            self.dedup.answered(remembered, &answer);
            self.transmit(peer, &answer);
        }
        // The random token shows that the peer got our request.
        if peer.active().map(|active| active.moves) == Some(peer.moves) {
            peer.prove();
        }
        self.on_response(now, peer, message);
        None
    }

    /// A response to the active request.
    fn on_response(&mut self, now: Instant, peer: &mut Peer, message: &Message<'_>) {
        let max_body = self.parameters.max_body_size;
        let Some((mid, id)) = peer.active().map(|active| (active.mid, active.id)) else {
            return;
        };
        let is_stream = peer.unread.is_some();
        let options = Options::read(message).and_then(|options| match is_stream {
            true => Ok(options),
            false => options.without_bert(),
        });
        let Some(active) = peer.active() else { return };
        let next = match options {
            Ok(options) => active.on_response(message.code, &options, message.payload, max_body),
            Err(_) => Next::Finish(Err(RequestError::BadResponse)),
        };
        // The response may overtake the ACK of the request (RFC 7252, 5.2.2).
        self.settle_request(peer, mid, id);
        match next {
            Next::Send => self.send_request(now, peer),
            Next::Finish(result) => self.finish_request(now, peer, result),
        }
        self.pump(now, peer);
    }
}

impl Peer {
    fn active(&mut self) -> Option<&mut Active> {
        self.client.as_deref_mut()?.active.as_mut()
    }

    /// Whether a request of ours is new to it: not acknowledged, and not repeated.
    pub(super) fn is_asked_anew(&self) -> bool {
        let active = self.client.as_deref().and_then(|client| client.active.as_ref());
        active.is_some_and(|active| self.outstanding.get(&active.mid).is_some_and(Outstanding::is_new))
    }

    fn awaits(&mut self, token: Token) -> bool {
        self.active().is_some_and(|active| active.token == token)
    }
}
