//! The messages held in memory: a window of them in the order in which they go out, and those that stand apart.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::origin::OriginTag;
use portcullis_proto::bridge::contract::Ticket;
use portcullis_proto::types::message::{Message, Qos};

use super::codec::Outbound;
use super::exchanges::Exchange;
use super::judge::Subject;

/// Messages in the window beyond which later ones go to the spool, or are refused without one.
const MAX_WINDOW: usize = 4_096;
const MAX_WINDOW_BYTES: usize = 32 << 20;
/// Messages that stand apart beyond which later ones are refused or go to the spool.
const MAX_APART: usize = 4_096;

/// Who waits for the answer to a publish.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) worker: usize,
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Ascending in the window.
    pub(super) token: u64,
    pub(super) message: Arc<Message>,
    pub(super) origin: Option<OriginTag>,
    /// Nobody waits for the status messages, nor for what came from the spool.
    pub(super) answer: Option<Answer>,
    pub(super) internal: bool,
    /// Its number in the spool.
    pub(super) number: Option<u64>,
    /// It is on its way into the spool.
    pub(super) writing: bool,
    /// The spool did not take it; it is not tried again.
    pub(super) refused_by_spool: bool,
    pub(super) since: Instant,
    pub(super) done: bool,
    /// It went out at QoS 2, and is not released to its end.
    pub(super) exchange: Option<Exchange>,
    /// The QoS at which it is tried apart, in case its own is what the broker does not take.
    pub(super) tried_at: Option<Qos>,
}

impl Entry {
    /// A message that nobody waits for.
    pub(super) fn new(now: Instant, message: Arc<Message>, origin: Option<OriginTag>) -> Self {
        Self {
            token: 0,
            message,
            origin,
            answer: None,
            internal: false,
            number: None,
            writing: false,
            refused_by_spool: false,
            since: now,
            done: false,
            exchange: None,
            tried_at: None,
        }
    }

    /// The message as it goes out at `qos`.
    pub(super) fn outbound(&self, now: Instant, qos: Qos) -> Outbound<'_> {
        let expiry = self.message.expires_at.map(|at| {
            let left = at.saturating_duration_since(now);
            u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
        });
        Outbound {
            message: &self.message,
            qos,
            expiry,
            origin: self.origin,
            exchange: self.exchange.map(|exchange| exchange.packet),
        }
    }
}

/// All that is held. An entry is known by its token, wherever it stands.
#[derive(Debug, Default)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// Payload bytes of these.
    bytes: usize,
    /// How many of them, from the front, were sent.
    sent: usize,
    /// What the broker may hang up on, in order; not among the entries.
    apart: VecDeque<Entry>,
    last_token: u64,
}

impl Window {
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < MAX_WINDOW && self.bytes < MAX_WINDOW_BYTES && self.apart.len() < MAX_APART
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are held, those that stand apart included.
    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.apart.len()
    }

    /// Takes an entry in, behind all others.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.message.payload.len();
        let token = self.token();
        self.entries.push_back(Entry { token, ..entry });
    }

    /// A token that nothing else has, above all others.
    pub(super) fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    pub(super) fn entry(&mut self, token: u64) -> Option<&mut Entry> {
        match self.entries.binary_search_by_key(&token, |entry| entry.token) {
            Ok(at) => self.entries.get_mut(at),
            Err(_) => self.apart.iter_mut().find(|entry| entry.token == token),
        }
    }

    /// The entries of the window, in order.
    pub(super) fn entries(&self) -> &VecDeque<Entry> {
        &self.entries
    }

    /// What stands apart, in order.
    pub(super) fn apart(&self) -> &VecDeque<Entry> {
        &self.apart
    }

    /// The entries that were sent.
    pub(super) fn sent(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().take(self.sent)
    }

    pub(super) fn sent_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().take(self.sent)
    }

    /// The entry that goes out next, among the first `open`.
    pub(super) fn next(&self, open: usize) -> Option<&Entry> {
        self.entries.get(self.sent).filter(|_| self.sent < open)
    }

    /// The next one was sent.
    pub(super) fn advance(&mut self) {
        self.sent += 1;
    }

    /// Takes the entry that is next out of the window.
    pub(super) fn set_apart(&mut self) {
        if let Some(entry) = self.entries.remove(self.sent) {
            self.bytes -= entry.message.payload.len();
            self.apart.push_back(entry);
        }
    }

    /// Puts an entry that stands apart behind the others that do.
    pub(super) fn keep_apart(&mut self, entry: Entry) {
        self.apart.push_back(entry);
    }

    /// Puts what stands apart for `subject` behind the others that do.
    pub(super) fn put_off(&mut self, subject: &Subject) {
        let behind = self.take_apart(subject);
        self.apart.extend(behind);
    }

    fn take_apart(&mut self, subject: &Subject) -> VecDeque<Entry> {
        let (of_subject, others) = std::mem::take(&mut self.apart)
            .into_iter()
            .partition(|entry| Subject::topic(&entry.message) == *subject);
        self.apart = others;
        of_subject
    }

    /// Puts what stands apart for `subject` back, ahead of what was not sent; `renamed` hears of new tokens.
    pub(super) fn put_back(&mut self, subject: &Subject, renamed: impl FnMut(u64, u64)) {
        let place = self.sent.min(self.entries.len());
        for entry in self.take_apart(subject).into_iter().rev() {
            self.bytes += entry.message.payload.len();
            self.entries.insert(place, entry);
        }
        self.renumber(place, renamed);
    }

    /// Makes an entry that was sent the next one again. What was sent behind it stays sent: the broker took it, or will say that it
    /// did not.
    pub(super) fn send_again(&mut self, token: u64, renamed: impl FnMut(u64, u64)) {
        let Ok(at) = self.entries.binary_search_by_key(&token, |entry| entry.token) else {
            return;
        };
        let Some(mut entry) = self.entries.remove(at) else {
            return;
        };
        self.sent -= 1;
        let place = self.sent.min(self.entries.len());
        let before = place.checked_sub(1).and_then(|before| self.entries.get(before));
        entry.token = before.map_or(entry.token, |before| before.token.max(entry.token));
        self.entries.insert(place, entry);
        self.renumber(place, renamed);
    }

    /// Gives the entries from `place` on new tokens: none of them is known elsewhere yet, but to the spool.
    fn renumber(&mut self, place: usize, mut renamed: impl FnMut(u64, u64)) {
        for entry in self.entries.iter_mut().skip(place) {
            self.last_token += 1;
            renamed(entry.token, self.last_token);
            entry.token = self.last_token;
        }
    }

    /// Lets go of what is done, up to the first that is not.
    pub(super) fn shrink(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.done) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.message.payload.len();
                self.sent = self.sent.saturating_sub(1);
            }
        }
        self.apart.retain(|entry| !entry.done);
    }

    /// Gives everything up that is not done and not our own: what stands apart, then the others.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        (self.bytes, self.sent) = (0, 0);
        let entries = std::mem::take(&mut self.entries);
        let all = std::mem::take(&mut self.apart).into_iter().chain(entries);
        all.filter(|entry| !entry.done && !entry.internal).collect()
    }
}
