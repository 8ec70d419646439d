//! Requests over plain UDP that were answered lately, in memory that outlives the process: who repeats one after a kill is answered again,
//! and what it asked for is not done again. Peers that are kept have places of their own for this, the others share these.

use std::time::{Duration, Instant};

use crate::state::{Clock, HOT_WORDS, Kind, MARK, Record, Store, digest};

use super::contract::Code;
use super::peer::Source;

/// What a record with some of them is.
pub(crate) const ANSWERED: Kind = Kind(7);

/// How many requests are remembered: with 500 a second, the last 6 seconds, in which a repetition of most comes (RFC 7252, 4.8.2).
const RECORDS: usize = 256;
const OF_RECORD: usize = MARK;

/// Where it is noted that a request was answered, by what names it there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name {
    /// With its peer.
    OfPeer(u32),
    /// With those of others.
    Shared(u64),
}

/// The requests.
#[derive(Debug, Default)]
pub(super) struct Answered {
    records: Vec<Record>,
    clock: Option<Clock>,
    next: usize,
    /// Those that an earlier process answered, by what names them.
    before: Vec<(u64, Code)>,
    doubts_until: Option<Instant>,
}

/// What names a request: 40 bits of its bytes and of where it came from; `None` in a session, which is kept itself.
pub(super) fn name_of(source: Source, datagram: &[u8]) -> Option<u64> {
    let Source::Address(_, address) = source else {
        return None;
    };
    Some((digest(datagram).rotate_left(17) ^ digest(&address.to_bytes())) >> 24)
}

/// The time of a request, in steps of eight seconds.
fn step(clock: Clock, now: Instant) -> u16 {
    (clock.millis(now) >> 13) as u16
}

impl Answered {
    /// Goes on with what an earlier process left in a store. A request is repeated within `lifetime`.
    pub(super) fn keep_in(store: &Store, now: Instant, lifetime: Duration) -> Self {
        let clock = store.clock();
        let mut it = Self {
            clock: Some(clock),
            doubts_until: now.checked_add(lifetime),
            ..Self::default()
        };
        it.records = store.found(ANSWERED);
        for record in it.records.drain(RECORDS.min(it.records.len())..) {
            store.free(record);
        }
        let words = it
            .records
            .iter()
            .flat_map(|record| (0..OF_RECORD).map(|at| record.get(at)));
        let is_young = |word: &u64| {
            let age = step(clock, now).wrapping_sub((*word >> 40) as u16);
            *word != 0 && u64::from(age) <= (lifetime.as_millis() as u64 >> 13) + 1
        };
        let read = |word: u64| (word & u64::MAX >> 24, Code((word >> 56) as u8));
        it.before = words.filter(is_young).map(read).collect();
        it.before.sort_unstable_by_key(|(name, _)| *name);
        while it.records.len() < RECORDS
            && let Some(record) = store.put(ANSWERED, &[0; HOT_WORDS], &[])
        {
            it.records.push(record);
        }
        it
    }

    /// Whether requests are to be noted.
    pub(super) const fn is_kept(&self) -> bool {
        !self.records.is_empty()
    }

    /// Notes a request that is being answered with a code and nothing else.
    pub(super) fn note(&mut self, now: Instant, name: u64, code: Code) {
        if let (Some(record), Some(clock)) = (self.records.get(self.next / OF_RECORD), self.clock) {
            let word = u64::from(code.0) << 56 | u64::from(step(clock, now)) << 40 | name;
            record.set(self.next % OF_RECORD, word);
            self.next = (self.next + 1) % (self.records.len() * OF_RECORD);
        }
    }

    /// How an earlier process answered this very request.
    pub(super) fn before(&mut self, now: Instant, source: Source, datagram: &[u8]) -> Option<Code> {
        self.doubts_until?;
        if self.doubts_until.is_some_and(|until| until <= now) {
            (self.doubts_until, self.before) = (None, Vec::new());
        }
        let name = name_of(source, datagram)?;
        let at = self.before.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        self.before.get(at).map(|(_, code)| *code)
    }
}
