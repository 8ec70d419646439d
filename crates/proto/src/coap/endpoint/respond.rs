//! Answers and notifications on their way out: type, message id, blocks, and how long they may be.

use std::time::Instant;

use bytes::Bytes;

use crate::coap::answered::Name;
use crate::coap::blockwise::{Block, Body, etag_of, part};
use crate::coap::codec;
use crate::coap::contract::{Code, Notification, PeerId, ResourceKey, Response, Token};
use crate::coap::echo::Echo;
use crate::coap::metrics::{MessageType, TransferResult};
use crate::coap::options::Options;
use crate::coap::outgoing::{Outgoing, cut_text};
use crate::coap::peer::{Peer, QUESTION};
use crate::coap::reliability::Purpose;
use crate::types::reason::Limit;
use crate::types::standing::Standing;

use super::Endpoint;
use super::exchange::Exchange;

/// Bytes that ETag, Block2 and Size2 take at most.
pub(in crate::coap) const BLOCK_OPTIONS: usize = 24;

/// Separate responses to one peer that may wait for their ACK.
const SEPARATE_PER_PEER: usize = 64;

/// A body with what is known of it already.
struct Whole<'a> {
    body: &'a Bytes,
    /// Its ETag when it comes from the transfers that are kept.
    kept: Option<[u8; 8]>,
    resource: Option<&'a ResourceKey>,
    want: Option<Block>,
    /// Whether more follows that the peer did not ask for: its repetition, or the next notification.
    again: bool,
    /// Whether it is what an unproven address is to acknowledge, or else leaves room for that.
    asks: bool,
}

impl Endpoint {
    /// Answers a confirmable request with an empty message.
    pub(super) fn answer_empty(&mut self, peer: &mut Peer, exchange: &Exchange, kind: MessageType) {
        let answer = codec::empty(kind, exchange.mid);
        if let Some(remembered) = exchange.remembered {
            self.dedup.answered(remembered, &answer);
        }
        self.transmit(peer, &answer);
    }

    /// Answers a request with a response of the gateway's or of this layer.
    pub(super) fn answer(&mut self, now: Instant, peer: &mut Peer, exchange: &Exchange, response: Response) {
        self.answer_with(now, peer, exchange, exchange.validated(response), None, |_| {});
    }

    /// Answers a request for a later block from a body that is kept.
    pub(super) fn answer_from(&mut self, now: Instant, peer: &mut Peer, exchange: &Exchange, kept: Body) {
        let response = Response {
            code: kept.code,
            payload: kept.bytes,
            content_format: kept.content_format,
            observe: None,
            observation: None,
            max_age: kept.max_age,
            etag: None,
            wants_echo: None,
            location: Vec::new(),
        };
        self.answer_with(now, peer, exchange, response, Some(kept.etag), |_| {});
    }

    /// Answers with options that only this layer gives.
    pub(super) fn answer_with(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        exchange: &Exchange,
        mut response: Response,
        kept: Option<[u8; 8]>,
        adorn: impl FnOnce(&mut Outgoing<'_>),
    ) {
        let is_valid = response.code == Code::VALID;
        let want = exchange.block2.filter(|_| !is_valid);
        let mut piggybacked = exchange.confirmable && !exchange.acknowledged;
        // Of a request that was done and has an answer with a body the repetition does no harm.
        let has_body = is_valid || !response.payload.is_empty();
        let is_bare = !has_body && response.observe.is_none() && exchange.block1.is_none();
        match exchange.name.filter(|_| is_bare) {
            Some(Name::OfPeer(name)) => peer.note_handled(exchange.mid, response.code, name),
            Some(Name::Shared(name)) => self.answered.note(now, name, response.code),
            None => {}
        }
        if Options::suppresses(exchange.no_response, response.code) && response.code != Code::CONTINUE {
            // The client wants no response of this class: a confirmable request gets its bare ACK (RFC 7967, 2.1).
            if piggybacked {
                self.answer_empty(peer, exchange, MessageType::Ack);
            }
            return;
        }
        if response.payload.len() > self.parameters.max_body_size && kept.is_none() {
            self.metrics.limits.inc(Limit::BodySize);
            response = Response::diagnostic(Code::INTERNAL_SERVER_ERROR, "body is larger than max_body_size");
        }
        let is_first = kept.is_none() && want.is_none_or(|block| block.num == 0);
        let is_whole = peer.takes_whole(&response, want);
        // The first part of a body comes in the ACK: of one by itself, libcoap does not fetch the rest.
        let asks = match piggybacked && is_first && !is_whole {
            true => peer.must_ask(&response, true),
            false => peer.must_ask(&response, false) || (piggybacked && peer.takes_question()),
        };
        if piggybacked && asks {
            self.answer_empty(peer, exchange, MessageType::Ack);
            piggybacked = false;
        }
        let separate = (exchange.confirmable || asks) && !piggybacked;
        let (kind, mid) = match piggybacked {
            true => (MessageType::Ack, exchange.mid),
            // A peer that acknowledges none of its separate responses gets them unreliably.
            false if separate && peer.separate < SEPARATE_PER_PEER => (MessageType::Con, peer.take_mid()),
            false => (MessageType::Non, peer.take_mid()),
        };
        let echo = response.wants_echo.map(|within| {
            let serves = |echo: &Echo| echo.serves(now, within);
            peer.handed_out(now, serves, &mut self.rng)
        });
        let mut outgoing = Outgoing {
            echo,
            code: response.code.0,
            observe: response.observe.map(|number| number & 0x00ff_ffff),
            content_format: response.content_format,
            max_age: response.max_age,
            location: &response.location,
            etag: response
                .etag
                .filter(|_| is_valid || peer.spares_etag(response.payload.len())),
            block1: exchange.block1,
            ..Outgoing::default()
        };
        adorn(&mut outgoing);
        let whole = Whole {
            body: &response.payload,
            kept,
            resource: exchange.resource.as_ref(),
            want,
            // Not for a question that goes at once: with its ACK the bound falls, but the block size stays that of the first block.
            again: kind == MessageType::Con && (exchange.acknowledged || !asks),
            asks,
        };
        self.write(now, peer, outgoing, &whole, (kind, mid, exchange.token));
        if separate {
            self.metrics.separate_responses.inc();
        } else if let Some(remembered) = exchange.remembered {
            self.dedup.answered(remembered, self.outbox.drafted());
        }
        match kind {
            MessageType::Con => {
                let purpose = Purpose::Response(response.observation);
                self.send_confirmable(now, peer, mid, purpose);
            }
            _ => {
                if let (MessageType::Non, Some(id)) = (kind, response.observation) {
                    self.began_with(now, peer, id, mid);
                }
                self.transmit_draft(peer);
            }
        }
    }

    /// Writes a notification to the outbox.
    pub(in crate::coap) fn write_notification(
        &mut self,
        now: Instant,
        peer: &Peer,
        notification: &Notification,
        kind: MessageType,
        mid: u16,
    ) {
        let outgoing = Outgoing {
            code: notification.code.0,
            observe: Some(notification.observe & 0x00ff_ffff).filter(|_| notification.code.class() == 2),
            content_format: notification.content_format,
            max_age: notification.max_age,
            ..Outgoing::default()
        };
        let whole = Whole {
            body: &notification.payload,
            kept: None,
            resource: Some(&notification.resource),
            want: notification.block_szx.and_then(|szx| {
                let fits = notification.payload.len() <= 16 << szx;
                Block::at(0, szx, false).filter(|_| !fits)
            }),
            again: true,
            asks: true,
        };
        self.write(now, peer, outgoing, &whole, (kind, mid, notification.token));
    }

    /// Writes a message to the outbox with as much of a body as it may carry, and keeps the body if the peer must fetch the rest.
    fn write<'a>(
        &mut self,
        now: Instant,
        peer: &Peer,
        mut outgoing: Outgoing<'a>,
        whole: &Whole<'a>,
        (kind, mid, token): (MessageType, u16, Token),
    ) {
        let largest = 16 << self.parameters.max_szx;
        let is_text = Code(outgoing.code).class() != 2;
        let room = match (peer.room(), peer.max_message) {
            (usize::MAX, usize::MAX) => usize::MAX,
            (room, longest) => {
                outgoing.write(self.outbox.draft(), kind, mid, token);
                let head = self.outbox.drafted().len() + 1;
                let room = match whole.again && room / 2 >= head + BLOCK_OPTIONS + 16 {
                    // Half of what an unproven address may still get is kept for what follows, unless it is too short for a block.
                    true => room / 2,
                    // Words are worth less than the answers that follow.
                    false if is_text => (room / 2).min(room.saturating_sub(QUESTION)),
                    false if whole.asks => room,
                    false => room.saturating_sub(QUESTION),
                };
                room.min(longest).saturating_sub(head)
            }
        };
        if is_text {
            outgoing.payload = cut_text(whole.body, room.min(largest));
            return outgoing.write(self.outbox.draft(), kind, mid, token);
        }
        let room = match whole.body.len() <= room {
            true => room,
            false => room.saturating_sub(BLOCK_OPTIONS),
        };
        let most = if peer.is_stream() { usize::MAX } else { largest };
        let part = part(
            whole.body.len(),
            whole.want,
            self.parameters.max_szx,
            (room, most),
        );
        let Some(part) = part else {
            let refusal = Outgoing {
                code: Code::BAD_REQUEST.0,
                block1: outgoing.block1,
                payload: b"no such block",
                ..Outgoing::default()
            };
            return refusal.write(self.outbox.draft(), kind, mid, token);
        };
        outgoing.payload = whole.body.get(part.range).unwrap_or_default();
        outgoing.block2 = part.block;
        let (first, more) = part
            .block
            .map_or((true, false), |block| (block.num == 0, block.more));
        if !first {
            outgoing.observe = None;
        }
        if more || !first {
            let etag = whole
                .kept
                .unwrap_or_else(|| etag_of(whole.body, outgoing.content_format));
            outgoing.etag = Some(etag);
            outgoing.size2 = (first && more).then_some(whole.body.len());
            self.keep(now, (peer.id, peer.standing()), &outgoing, whole, etag);
        } else if let Some(resource) = whole.resource {
            self.transfers.forget_body(peer.id, resource);
        }
        if !first && !more {
            self.metrics.transfers.inc(TransferResult::DownloadDone);
        }
        outgoing.write(self.outbox.draft(), kind, mid, token);
    }

    /// Keeps a body of which the peer got a part, unless it is kept already.
    fn keep(
        &mut self,
        now: Instant,
        peer: (PeerId, Standing),
        outgoing: &Outgoing<'_>,
        whole: &Whole<'_>,
        etag: [u8; 8],
    ) {
        let (None, Some(resource)) = (whole.kept, whole.resource) else {
            return;
        };
        // The rest of what is observed is fetched by GET (RFC 7959, 2.6), however it was subscribed.
        let resource = match outgoing.observe {
            Some(_) => &resource.as_get(),
            None => resource,
        };
        let body = Body {
            bytes: whole.body.clone(),
            code: Code(outgoing.code),
            content_format: outgoing.content_format,
            max_age: outgoing.max_age,
            etag,
        };
        self.transfers.put_body(now, peer, resource, body);
    }
}
