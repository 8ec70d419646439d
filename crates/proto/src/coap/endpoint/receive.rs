//! A datagram on its way in: every one ends as an event, an answer, or one named reason.

use std::time::Instant;

use bytes::Bytes;

use crate::coap::answered::{Name, name_of};
use crate::coap::blockwise::{Assembled, Block, Key, Piece};
use crate::coap::codec::{self, Message};
use crate::coap::contract::{Code, Event, NotificationOutcome, Request, ResourceKey, Response};
use crate::coap::dedup::Seen;
use crate::coap::kept::{bare_answer, fingerprint};
use crate::coap::metrics::MessageType;
use crate::coap::options::{OptionFault, Options};
use crate::coap::peer::Peer;
use crate::coap::reliability::Purpose;
use crate::types::reason::{DropReason, Limit};

use super::Endpoint;
use super::exchange::{Exchange, RETRY_AFTER};

impl Endpoint {
    /// Takes one datagram, which is one message; why it was dropped, if it was.
    pub fn receive(&mut self, now: Instant, peer: &mut Peer, datagram: &[u8]) -> Option<DropReason> {
        self.saw_time(now);
        peer.came(datagram.len());
        let message = match Message::parse(datagram) {
            Ok(message) => message,
            Err(malformed) => {
                self.metrics.dropped(peer.listener, malformed.reason);
                if let Some(mid) = malformed.reset {
                    self.transmit(peer, &codec::empty(MessageType::Rst, mid));
                }
                return Some(malformed.reason);
            }
        };
        if let Some(listener) = self.metrics.listener(peer.listener) {
            listener.received.inc(message.kind, message.code);
        }
        let dropped = self.dispatch(now, peer, message, datagram);
        if let Some(reason) = dropped {
            self.metrics.dropped(peer.listener, reason);
        }
        if !peer.proven {
            // What it sent may have made room for what waits.
            self.pump(now, peer);
        }
        dropped
    }

    fn dispatch(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        message: Message<'_>,
        datagram: &[u8],
    ) -> Option<DropReason> {
        match message.kind {
            MessageType::Rst => {
                let known = self.on_reset(now, peer, message.mid);
                (!known).then_some(DropReason::Unmatched)
            }
            MessageType::Ack if message.code == Code::EMPTY => {
                let known = self.on_acknowledgement(now, peer, message.mid).is_some();
                (!known).then_some(DropReason::Unmatched)
            }
            MessageType::Ack => self.on_piggybacked(now, peer, &message),
            MessageType::Con if message.code == Code::EMPTY => {
                self.transmit(peer, &codec::empty(MessageType::Rst, message.mid));
                self.events.push_back(Event::Alive { peer: peer.id });
                None
            }
            MessageType::Con | MessageType::Non => {
                if peer.is_stream() {
                    return match message.code.is_request() {
                        true => self.on_request(now, peer, message, datagram),
                        false => self.on_separate_response(now, peer, &message, datagram),
                    };
                }
                if let Some(reason) = self.on_duplicate(now, peer, message.mid, datagram) {
                    return Some(reason);
                }
                let mut answer = peer.answered_before(now, &message, datagram);
                if answer.is_none() {
                    let code = self.answered.before(now, peer.source, datagram);
                    answer = code.map(|code| bare_answer(code, &message));
                }
                if let Some(answer) = answer {
                    self.metrics.duplicates.inc();
                    if message.kind == MessageType::Con {
                        self.transmit(peer, &answer);
                    }
                    return Some(DropReason::Duplicate);
                }
                match message.code.is_request() {
                    true => self.on_request(now, peer, message, datagram),
                    false => self.on_separate_response(now, peer, &message, datagram),
                }
            }
        }
    }

    fn on_duplicate(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        mid: u16,
        datagram: &[u8],
    ) -> Option<DropReason> {
        let Seen::Duplicate(answer) = self.dedup.look_up(now, peer.source, mid, datagram) else {
            return None;
        };
        self.metrics.duplicates.inc();
        if let Some(answer) = answer {
            self.outbox.draft().extend_from_slice(answer);
            self.transmit_draft(peer);
        }
        Some(DropReason::Duplicate)
    }

    fn on_request(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        message: Message<'_>,
        datagram: &[u8],
    ) -> Option<DropReason> {
        let confirmable = message.kind == MessageType::Con;
        let lifetime = match confirmable {
            true => self.parameters.exchange_lifetime,
            false => self.parameters.non_lifetime,
        };
        let from = (peer.source, peer.proven);
        let remembered =
            (!peer.is_stream()).then(|| self.dedup.remember(now, from, message.mid, datagram, lifetime));
        let mut exchange = Exchange {
            peer: peer.id,
            standing: peer.standing(),
            token: message.token,
            mid: message.mid,
            confirmable,
            acknowledged: false,
            block1: None,
            block2: None,
            no_response: 0,
            known: Vec::new(),
            resource: None,
            remembered,
            // Where a peer is kept from this request on, this one still has its place with the others.
            name: match peer.is_kept() {
                true => Some(Name::OfPeer(fingerprint(datagram))),
                false if self.answered.is_kept() => name_of(peer.source, datagram).map(Name::Shared),
                false => None,
            },
            timer: None,
            serial: 0,
        };
        let options = Options::read(&message).and_then(|options| match peer.is_stream() {
            true => Ok(options),
            false => options.without_bert(),
        });
        match options {
            Ok(mut options) => {
                exchange.no_response = options.no_response;
                exchange.known = std::mem::take(&mut options.known);
                self.on_options(now, peer, exchange, options, message);
            }
            Err(OptionFault::Critical(_)) if !confirmable && !peer.is_stream() => {
                return Some(DropReason::CriticalOption);
            }
            Err(fault) => {
                let response = match fault {
                    OptionFault::Critical(number) => Response::diagnostic(
                        Code::BAD_OPTION,
                        format!("cannot obey critical option {number}"),
                    ),
                    OptionFault::BlockSize => {
                        Response::diagnostic(Code::BAD_REQUEST, "block size exponent 7 is reserved")
                    }
                };
                self.answer(now, peer, &exchange, response);
            }
        }
        None
    }

    /// A request whose options can be obeyed as far as their form goes.
    fn on_options(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        exchange: Exchange,
        mut options: Options,
        message: Message<'_>,
    ) {
        if options.proxy {
            let response = Response::diagnostic(Code::PROXYING_NOT_SUPPORTED, "this is no proxy");
            return self.answer(now, peer, &exchange, response);
        }
        let echoed = options.echo;
        options.echo_issued = peer
            .echo
            .as_ref()
            .zip(echoed)
            .and_then(|(echo, echoed)| echo.issued(echoed));
        if !self.check_address(now, peer, echoed) && self.settings.challenge_unproven {
            return self.challenge(now, peer, &exchange);
        }
        self.on_blocks(now, peer, exchange, options, message);
    }

    /// Whether the peer has proved its address, now or before.
    fn check_address(&mut self, now: Instant, peer: &mut Peer, echoed: Option<[u8; 8]>) -> bool {
        if peer.proven {
            return true;
        }
        let fresh = match (&peer.echo, echoed) {
            (Some(echo), Some(echoed)) => echo.proves(now, echoed),
            _ => false,
        };
        if fresh {
            peer.prove();
            self.pump(now, peer);
        }
        fresh
    }

    /// Asks for the proof of address (RFC 9175, 2.3).
    fn challenge(&mut self, now: Instant, peer: &mut Peer, exchange: &Exchange) {
        let value = peer.handed_out(now, |echo| echo.is_current(now), &mut self.rng);
        self.answer_with(
            now,
            peer,
            exchange,
            Response::new(Code::UNAUTHORIZED),
            None,
            |outgoing| {
                outgoing.echo = Some(value);
            },
        );
    }

    /// Puts the body of a request together, serves later blocks of a body that is kept, and hands on what is whole.
    fn on_blocks(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        mut exchange: Exchange,
        mut options: Options,
        message: Message<'_>,
    ) {
        let method = message.code;
        let resource = ResourceKey::read(&message, &mut self.scratch);
        exchange.resource = Some(resource.clone());
        let payload = if let Some(block) = options.block1 {
            let key = Key::Upload(
                exchange.peer,
                resource.clone(),
                options.request_tag.as_slice().into(),
            );
            let piece = Piece {
                block,
                payload: message.payload,
                size1: options.size1,
                content_format: options.content_format,
                max_body: self.parameters.max_body_size,
                standing: peer.standing(),
            };
            let assembled = self.transfers.assemble(now, key, piece);
            let szx = block.szx_within(self.parameters.max_szx);
            match assembled {
                Assembled::Whole(body) => {
                    exchange.block1 = Some(Block { more: false, ..block });
                    body
                }
                Assembled::Continue => {
                    // A smaller size than the client's asks it to go on with that one (RFC 7959, 2.3, figure 9).
                    exchange.block1 = Some(Block {
                        more: true,
                        szx,
                        ..block
                    });
                    return self.answer(now, peer, &exchange, Response::new(Code::CONTINUE));
                }
                Assembled::Refused(Code::REQUEST_ENTITY_TOO_LARGE, why) => {
                    return self.too_large(now, peer, &exchange, why);
                }
                Assembled::Refused(code, why) => {
                    exchange.block1 = Some(Block { more: false, ..block });
                    let mut response = Response::diagnostic(code, why);
                    response.max_age = (code == Code::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER);
                    return self.answer(now, peer, &exchange, response);
                }
            }
        } else if message.payload.len() > self.parameters.max_body_size {
            self.metrics.limits.inc(Limit::BodySize);
            return self.too_large(now, peer, &exchange, "body is too large");
        } else {
            Bytes::copy_from_slice(message.payload)
        };
        exchange.block2 = options.block2;
        if options.block2.is_some_and(|block| block.num > 0) {
            // Only the first block belongs to an observation (RFC 7959, 2.6).
            options.observe = None;
            let from = (peer.id, peer.standing());
            let kept = match self.transfers.body(now, from, &resource) {
                // Some fetch the rest of what they observe by the method that they subscribed with.
                None if method == Code::POST => self.transfers.body(now, from, &resource.as_get()),
                kept => kept,
            };
            if let Some(kept) = kept {
                return self.answer_from(now, peer, &exchange, kept);
            }
            if matches!(method, Code::POST | Code::PUT | Code::DELETE) {
                let why = "the body is no longer here, and doing the request again is not safe";
                let response = Response::diagnostic(Code::REQUEST_ENTITY_INCOMPLETE, why);
                return self.answer(now, peer, &exchange, response);
            }
        }
        let request = Request {
            method,
            confirmable: exchange.confirmable || peer.is_stream(),
            token: exchange.token,
            observe: options.observe,
            content_format: options.content_format,
            accept: options.accept,
            payload,
            echo_issued: options.echo_issued,
            preconditions: options.preconditions,
            resource,
            block_szx: options.block2.map(|block| block.szx),
        };
        self.deliver(now, peer, exchange, request);
    }

    /// 4.13 with what would be small enough (RFC 7959, 2.9.3).
    fn too_large(&mut self, now: Instant, peer: &mut Peer, exchange: &Exchange, why: &str) {
        let most = self.transfers.longest_body(peer.standing());
        let max = self.parameters.max_body_size.min(most);
        let response = Response::diagnostic(Code::REQUEST_ENTITY_TOO_LARGE, why);
        self.answer_with(now, peer, exchange, response, None, |outgoing| {
            outgoing.size1 = Some(max)
        });
    }

    /// Notes that the address of a peer is proved by other means, such as a DTLS cookie or a path response (RFC 9853).
    pub fn set_proven(&mut self, peer: &mut Peer) {
        peer.prove();
        if let Some(now) = self.now {
            self.pump(now, peer);
        }
    }

    /// Notes how many bytes still wait for the peer of a stream to read them, as it has read some; what waited for that goes.
    pub fn written(&mut self, now: Instant, peer: &mut Peer, unread: usize) {
        self.saw_time(now);
        peer.unread = Some(unread);
        if !peer.is_behind() {
            self.pump(now, peer);
        }
    }

    /// A RST. Whether it belonged to a message of ours.
    fn on_reset(&mut self, now: Instant, peer: &mut Peer, mid: u16) -> bool {
        match self.conclude(peer, mid, false) {
            Some(Purpose::Notification(observation)) => self.notification_reset(now, peer, observation),
            Some(Purpose::Request(request)) => self.request_reset(now, peer, request),
            Some(Purpose::Response(began)) => {
                if let Some(id) = began {
                    self.beginning_concluded(now, peer, id, NotificationOutcome::Reset);
                }
                self.pump(now, peer);
            }
            None => {
                let known = self.non_notification_reset(now, peer, mid);
                if !known {
                    peer.guessed();
                }
                return known;
            }
        }
        true
    }
}
