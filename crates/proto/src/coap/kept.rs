//! What of the message layer outlives the process: the next message id, and the last requests that were answered.

use std::time::Instant;

use crate::state::{HOT_WORDS, Record, digest};

use super::codec::{Message, Writer};
use super::contract::{Code, Notification};
use super::metrics::MessageType;
use super::peer::Peer;

/// The word of a peer's record with its next message id, and above that the place of the next answered request.
const MIDS: usize = 4;
/// The first of the words with requests that were answered.
const HANDLED: usize = 5;
/// How many of those are remembered: a peer has one on its way (RFC 7252, 4.7), and a few more where it does not keep to that.
const REMEMBERED: usize = 8;

/// The word of a notification's record with the message id that it was sent under, and [`SENT`].
const SENT_AS: usize = 0;
const SENT: u64 = 1 << 16;

/// How far message ids go on from those that an inexact record names: what the peer was sent meanwhile is far less, and one that it has
/// seen lately it would acknowledge and throw away (RFC 7252, 4.4).
const SKIPPED: u16 = 4096;

/// Has the words of a peer's record that was copied a while ago name message ids that none was used of since.
pub fn skip_message_ids(hot: &mut [u64; HOT_WORDS]) {
    if let Some(word) = hot.get_mut(MIDS) {
        *word = *word & !0xffff | u64::from((*word as u16).wrapping_add(SKIPPED));
    }
}

impl Notification {
    /// The message id under which an earlier process sent it to the same peer: whoever has it already knows it by that.
    pub(super) fn sent_as(&self) -> Option<u16> {
        let word = self.kept.as_ref()?.get(SENT_AS);
        (word & SENT != 0).then_some(word as u16)
    }

    /// Notes the message id under which it is sent; `None` where it is to go to another peer.
    pub(super) fn note_sent_as(&self, mid: Option<u16>) {
        if let Some(kept) = &self.kept {
            kept.set(SENT_AS, mid.map_or(0, |mid| SENT | u64::from(mid)));
        }
    }
}

/// Where a peer's part is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    record: Record,
    /// Which place the next answered request takes.
    next: u8,
    /// Until then a request may be one that an earlier process answered.
    doubts_until: Option<Instant>,
}

impl Kept {
    /// Stores the next message id, before any is used that lies below it.
    pub(super) fn set_mid(&self, mid: u16) {
        self.record.set(MIDS, u64::from(self.next) << 16 | u64::from(mid));
    }
}

/// What names a request of a peer: its bytes, with the message id among them.
pub(super) fn fingerprint(datagram: &[u8]) -> u32 {
    digest(datagram) as u32
}

/// An answer that is a code and nothing else.
pub(super) fn bare_answer(code: Code, message: &Message<'_>) -> Vec<u8> {
    let mut answer = Vec::new();
    Writer::new(&mut answer, MessageType::Ack, code, message.mid, message.token);
    answer
}

const fn entry(mid: u16, code: Code, fingerprint: u32) -> u64 {
    (mid as u64) << 48 | (code.0 as u64) << 32 | fingerprint as u64
}

impl Peer {
    /// Keeps its part in `record` from now on.
    pub fn keep_in(&mut self, record: Record) {
        let kept = Kept {
            record,
            next: 0,
            doubts_until: None,
        };
        kept.set_mid(self.mids.next());
        self.mids.keep(kept);
    }

    /// Goes on where an earlier process stopped; until then a message of it may be one that that process answered.
    pub fn go_on(&mut self, record: Record, until: Instant) {
        let word = record.get(MIDS);
        let kept = Kept {
            record,
            // What was answered last is overwritten last.
            next: (word >> 16) as u8,
            doubts_until: Some(until),
        };
        self.mids.go_on(word as u16, kept);
    }

    /// Whether requests that were answered are to be noted.
    pub(super) fn is_kept(&self) -> bool {
        self.mids.kept().is_some()
    }

    /// Notes a request that is being answered with a code and nothing else: the next process answers it again like that, and does
    /// not do it again.
    pub(super) fn note_handled(&mut self, mid: u16, code: Code, fingerprint: u32) {
        let next_mid = self.mids.next();
        if let Some(kept) = self.mids.kept_mut() {
            let at = usize::from(kept.next) % REMEMBERED;
            kept.record.set(HANDLED + at, entry(mid, code, fingerprint));
            kept.next = kept.next.wrapping_add(1);
            kept.set_mid(next_mid);
        }
    }

    /// The answer of an earlier process to this very request.
    pub(super) fn answered_before(
        &self,
        now: Instant,
        message: &Message<'_>,
        datagram: &[u8],
    ) -> Option<Vec<u8>> {
        let kept = self.mids.kept()?;
        kept.doubts_until.filter(|until| now < *until)?;
        let is_it = |word: &u64| {
            let code = Code((word >> 32) as u8);
            code.0 != 0 && *word == entry(message.mid, code, fingerprint(datagram))
        };
        let word = (HANDLED..HANDLED + REMEMBERED)
            .map(|at| kept.record.get(at))
            .find(is_it)?;
        Some(bare_answer(Code((word >> 32) as u8), message))
    }
}
