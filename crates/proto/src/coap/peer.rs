//! What the message layer knows of one peer. The caller owns it, and keeps the one table of peers.

use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;

use crate::types::standing::Standing;
use crate::types::{ListenerId, PeerAddr};

use super::blockwise::Block;
use super::client::Client;
use super::contract::{PeerId, Response};
use super::echo::Echo;
use super::endpoint::BLOCK_OPTIONS;
use super::kept::Kept;
use super::observe::Observing;
use super::reliability::Outstanding;
use crate::types::hash::IdMap;

/// After this many acknowledgements that belong to nothing, a right one proves no address any more: it may have been guessed.
const MAX_GUESSES: u8 = 16;

/// Bytes that an unproven address may get whatever it sent (RFC 9175, 2.4, item 3).
const SMALL: u64 = 136;

/// How much may be sent to an unproven address for each byte that came from it.
const FACTOR: u64 = 3;

/// While more bytes than these wait for the peer of a stream, its notifications wait in their queue, which is bounded and weighed.
const UNREAD: usize = 64 << 10;

/// Bytes of an empty ACK and a confirmable answer with the smallest block, which are left for asking an address to prove itself.
pub(super) const QUESTION: usize = 48;

/// Bytes of an answer to an unproven address, at most, beside token and body: header, Observe, Content-Format, Max-Age, marker; and the
/// part of a body that goes out when it does not whole.
const ANSWER: usize = 4 + 4 + 3 + 4 + 1;
const PART: usize = 64 + BLOCK_OPTIONS;
const SMALLEST_PART: usize = 16 + BLOCK_OPTIONS;

/// Bytes that a DTLS record adds at least, and at most as long as the peer's Connection ID is short: header, nonce and tag
/// (RFC 6655, 3; RFC 5288, 3; RFC 9146, 4).
const RECORD_LEAST: u64 = 13 + 8 + 8;
const RECORD_MOST: u64 = 13 + 8 + 16 + 9;

/// Where the messages of a peer come from, as far as duplicates are concerned (RFC 7252, 4.5 and 9.1.1). It outlives the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// An address, on a listener for plain UDP.
    Address(ListenerId, PeerAddr),
    /// A DTLS session, by the number that no other session of the process has.
    Session(u64),
}

/// The table in which the caller keeps the peers.
pub trait PeerTable {
    /// The message layer's part of a peer; `None` when there is no such peer any more.
    fn coap(&mut self, id: PeerId) -> Option<&mut Peer>;
}

/// The message layer's part of a peer: message ids, what waits for an answer on either side, and whether its address is proved.
/// Made by [`Endpoint::peer`](super::Endpoint::peer), given back by [`Endpoint::forget`](super::Endpoint::forget).
#[derive(Debug)]
pub struct Peer {
    pub(super) id: PeerId,
    pub(super) listener: ListenerId,
    pub(super) source: Source,
    pub(super) proven: bool,
    is_known: bool,
    guesses: u8,
    /// Most bytes of a message to it.
    pub(super) max_message: usize,
    /// Of a peer at the other end of a stream (RFC 8323): bytes that wait for it to read them. Its messages arrive once and in
    /// order, so that nothing of it is acknowledged, repeated or taken for a duplicate.
    pub(super) unread: Option<usize>,
    /// Whether its next confirmable request is to be answered so that the peer proves its address.
    asked: bool,
    pub(super) mids: Mids,
    /// How often its address changed.
    pub(super) moves: u32,
    /// Bytes that came from its address and went to it while that was not proved.
    received: u64,
    sent: u64,
    /// Whether one of the following waits until the address is proved, or more came from it.
    pub(super) has_unsent: bool,
    /// Confirmable messages of ours by message id.
    pub(super) outstanding: IdMap<u16, Outstanding>,
    /// Separate responses among them.
    pub(super) separate: usize,
    /// What they weigh together.
    pub(super) unacknowledged: usize,
    /// What its waiting notifications were counted as, and with whose.
    pub(super) counted: (Standing, usize),
    /// Requests of it that wait for an answer, as slots of the endpoint's exchanges.
    pub(super) exchanges: Vec<usize>,
    /// How often something was sent to it again.
    pub(super) retransmissions: u64,
    pub(super) observing: Option<Box<Observing>>,
    pub(super) client: Option<Box<Client>>,
    pub(super) echo: Option<Box<Echo>>,
}

/// The message ids of ours: ascending from a random one, or from where an earlier process stopped.
#[derive(Debug)]
pub(super) struct Mids {
    next: u16,
    kept: Option<Kept>,
}

impl Mids {
    pub(super) const fn next(&self) -> u16 {
        self.next
    }

    pub(super) fn keep(&mut self, kept: Kept) {
        self.kept = Some(kept);
    }

    pub(super) fn go_on(&mut self, next: u16, kept: Kept) {
        *self = Self {
            next,
            kept: Some(kept),
        };
    }

    pub(super) const fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    pub(super) const fn kept_mut(&mut self) -> Option<&mut Kept> {
        self.kept.as_mut()
    }

    fn advance(&mut self, next: u16) {
        self.next = next;
        if let Some(kept) = &self.kept {
            kept.set_mid(next);
        }
    }

    /// The first of so many consecutive ids, none of which still waits for an ACK.
    pub(super) fn take(&mut self, count: u16, outstanding: &IdMap<u16, Outstanding>) -> u16 {
        let mut first = self.next;
        while let Some(waits) = outstanding.keys().find(|mid| mid.wrapping_sub(first) < count) {
            first = waits.wrapping_add(1);
        }
        self.advance(first.wrapping_add(count));
        first
    }
}

impl Peer {
    pub(super) fn new(
        id: PeerId,
        listener: ListenerId,
        source: Source,
        proven: bool,
        rng: &mut StdRng,
    ) -> Self {
        Self {
            id,
            listener,
            source,
            proven,
            is_known: false,
            guesses: 0,
            max_message: usize::MAX,
            unread: None,
            asked: false,
            mids: Mids {
                next: rng.random(),
                kept: None,
            },
            moves: 0,
            received: 0,
            sent: 0,
            has_unsent: false,
            outstanding: IdMap::default(),
            separate: 0,
            unacknowledged: 0,
            counted: (Standing::Unproven, 0),
            exchanges: Vec::new(),
            retransmissions: 0,
            observing: None,
            client: None,
            echo: None,
        }
    }

    /// Whether its address is proved.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// What is known of it, which decides who makes room for whom.
    pub(super) fn standing(&self) -> Standing {
        match (self.is_known, self.proven) {
            (true, _) => Standing::Known,
            (false, true) => Standing::Proven,
            (false, false) => Standing::Unproven,
        }
    }

    /// What the notifications weigh that wait for it.
    pub(super) fn queue_weight(&self) -> usize {
        self.observing
            .as_ref()
            .map_or(0, |observing| observing.waiting_weight())
    }

    /// Notes that it is known who it is: by checked credentials, or by its handshake. It says nothing of its address.
    pub(crate) fn set_known(&mut self) {
        self.is_known = true;
    }

    /// Bounds the messages to it, in bytes: what its DTLS takes in a record (RFC 6066, 4; RFC 8449). Bodies go in blocks that fit.
    pub fn set_max_message(&mut self, bytes: usize) {
        self.max_message = bytes;
    }

    /// Notes that it is at the other end of a stream (RFC 8323).
    pub(crate) fn set_stream(&mut self) {
        self.unread = Some(0);
    }

    /// Whether it is at the other end of a stream.
    pub(super) const fn is_stream(&self) -> bool {
        self.unread.is_some()
    }

    /// Whether it leaves so much unread that notifications wait.
    pub(super) fn is_behind(&self) -> bool {
        self.unread.is_some_and(|unread| unread > UNREAD)
    }

    /// The largest block size exponent of which a request with a block fits, up to `most` (RFC 7959, 2.2).
    pub(super) fn largest_szx(&self, most: u8) -> u8 {
        const HEAD: usize = 128;
        let fits = |szx: &u8| self.max_message.saturating_sub(HEAD) >= 16 << szx;
        (0..=most).rev().find(fits).unwrap_or(0)
    }

    /// How often something was sent to it again because it was not acknowledged.
    #[must_use]
    pub fn retransmissions(&self) -> u64 {
        self.retransmissions
    }

    /// Has its next confirmable request answered by an empty ACK and a confirmable response, whose ACK proves its address: one
    /// that only publishes acknowledges nothing otherwise.
    pub fn ask_for_proof(&mut self) {
        self.asked = true;
    }

    /// Whether it is to be asked for proof with the answer to a confirmable request; it is asked once.
    pub(super) fn takes_question(&mut self) -> bool {
        std::mem::take(&mut self.asked) && !self.proven
    }

    /// Whether this answer has to be one that the peer acknowledges: after it too little of what an unproven address may get would
    /// be left to ask for its proof, and so for any answer. A body that goes `in_parts` may begin with the smallest.
    pub(super) fn must_ask(&self, response: &Response, in_parts: bool) -> bool {
        let part = if in_parts { SMALLEST_PART } else { PART };
        let least = ANSWER + response.payload.len().min(part) + QUESTION;
        !self.proven
            && response.code.class() == 2
            && (self.room() as u64) < least as u64 + self.record(RECORD_MOST)
    }

    /// Whether this answer can go whole, as a confirmable message after an empty ACK if need be, when the request wants such blocks.
    pub(super) fn takes_whole(&self, response: &Response, want: Option<Block>) -> bool {
        const EMPTY_ACK: usize = 4;
        const TOKEN: usize = 8;
        let len = response.payload.len();
        let around = (EMPTY_ACK + ANSWER + TOKEN) as u64 + self.record(RECORD_MOST);
        want.is_none_or(|want| len <= 16 << want.szx)
            && (len as u64).saturating_add(around) <= self.room() as u64
    }

    /// Whether an ETag goes with a body of so many bytes: an unproven address gets none that would leave too little for another such
    /// answer.
    pub(super) fn spares_etag(&self, len: usize) -> bool {
        const ETAG_AND_TOKEN: usize = 1 + 8 + 8;
        self.proven || 2 * (len + ANSWER + ETAG_AND_TOKEN) <= self.room()
    }

    /// The message id for the next message of ours.
    pub(super) fn take_mid(&mut self) -> u16 {
        self.mids.take(1, &self.outstanding)
    }

    /// Notes an acknowledgement that belongs to nothing.
    pub(super) fn guessed(&mut self) {
        self.guesses = self.guesses.saturating_add(1);
    }

    /// Whether an acknowledgement of what went to it after so many moves is proof of its address.
    pub(super) fn is_believed(&self, moves: u32) -> bool {
        self.guesses < MAX_GUESSES && moves == self.moves
    }

    /// The Echo value to be handed out: that of before while it is good for that, else a new one.
    pub(super) fn handed_out(
        &mut self,
        now: Instant,
        is_good: impl FnOnce(&Echo) -> bool,
        rng: &mut StdRng,
    ) -> [u8; 8] {
        match &mut self.echo {
            Some(echo) if is_good(echo) => echo.value(),
            echo => echo.insert(Box::new(Echo::new(now, rng))).value(),
        }
    }

    pub(super) fn prove(&mut self) {
        self.proven = true;
    }

    /// Its address is another one: proof starts anew. Whoever had the old one knows the message ids that went there, so the
    /// next ones lie elsewhere, far from those that the peer may still remember.
    pub(super) fn unprove(&mut self, rng: &mut StdRng) {
        self.proven = false;
        self.guesses = 0;
        self.echo = None;
        self.moves = self.moves.wrapping_add(1);
        (self.received, self.sent) = (0, 0);
        self.mids
            .advance(self.mids.next.wrapping_add(rng.random_range(0..0xC000)));
    }

    /// Notes that a message of so many bytes came from it.
    pub(super) fn came(&mut self, len: usize) {
        if !self.proven {
            let record = self.record(RECORD_LEAST);
            self.received = self.received.saturating_add(len as u64 + record);
        }
    }

    /// How long a message may be that goes to it now.
    pub(super) fn room(&self) -> usize {
        if self.proven {
            return usize::MAX;
        }
        let left = self.allowance().saturating_sub(self.sent);
        left.saturating_sub(self.record(RECORD_MOST)) as usize
    }

    /// Whether more than half of what an unproven address may get has gone there.
    pub(super) fn is_nearly_spent(&self) -> bool {
        !self.proven && self.sent.saturating_mul(2) > self.allowance()
    }

    /// Takes a message of so many bytes from what may be sent to it; false when it is too long.
    pub(super) fn spend(&mut self, len: usize) -> bool {
        if self.proven {
            return true;
        }
        let fits = len <= self.room();
        if fits {
            self.sent += len as u64 + self.record(RECORD_MOST);
        }
        fits
    }

    fn allowance(&self) -> u64 {
        self.received.saturating_mul(FACTOR).max(SMALL)
    }

    fn record(&self, bytes: u64) -> u64 {
        match self.source {
            Source::Address(..) => 0,
            Source::Session(_) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn peer(source: Source) -> (Peer, StdRng) {
        let mut rng = StdRng::seed_from_u64(1);
        (Peer::new(PeerId(1), ListenerId(0), source, false, &mut rng), rng)
    }

    #[test]
    fn message_ids_wrap_and_pass_over_those_in_use() {
        let (mut peer, _) = peer(Source::Session(1));
        peer.mids.next = u16::MAX;
        peer.outstanding.insert(0, Outstanding::for_test());
        assert_eq!(
            [peer.take_mid(), peer.take_mid(), peer.take_mid()],
            [u16::MAX, 1, 2]
        );
    }

    #[test]
    fn an_etag_costs_an_unproven_address_no_answer() {
        let address = PeerAddr::new(([192, 0, 2, 1], 5_683).into()).unwrap();
        let (mut peer, _) = peer(Source::Address(ListenerId(0), address));
        assert!(peer.spares_etag(20) && !peer.spares_etag(60));
        peer.prove();
        assert!(peer.spares_etag(60));
    }

    #[test]
    fn an_unproven_address_gets_three_times_what_it_sent_or_136_bytes_in_all() {
        let address = PeerAddr::new(([192, 0, 2, 1], 5_683).into()).unwrap();
        let (mut peer, mut rng) = peer(Source::Address(ListenerId(0), address));
        peer.came(20);
        assert!(!peer.is_nearly_spent() && peer.spend(100) && peer.is_nearly_spent());
        assert!(!peer.spend(37), "136 bytes in all");
        assert!(peer.spend(36) && !peer.spend(1));
        peer.came(40);
        assert_eq!(peer.room(), 3 * 60 - 136);
        peer.prove();
        assert_eq!(peer.room(), usize::MAX);
        assert!(peer.spend(100_000));
        let before = peer.mids.next;
        peer.unprove(&mut rng);
        assert_eq!(peer.room(), 136, "the new address begins with what any other has");
        assert_ne!(peer.mids.next, before);
    }

    #[test]
    fn records_are_counted_with_what_dtls_adds() {
        let (mut peer, _) = peer(Source::Session(1));
        peer.came(100);
        let mut wire = 0;
        while peer.spend(4) {
            wire += 4 + 37;
        }
        assert!(wire <= 3 * (100 + 29), "{wire}");
    }
}
