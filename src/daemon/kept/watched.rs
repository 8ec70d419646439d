//! A store whose records are copied elsewhere behind its worker's back: which of them are to be written anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::state::{Contents, HOT_WORDS, Record, Store, digest};

/// A record whose numbers rose by this is written anew,
const MANY: u64 = 64;
/// and after this time one of which any word changed.
const OFTEN: Duration = Duration::from_secs(10);

/// What stands in the copy of a record.
pub(super) struct Known {
    kind_and_body: u64,
    hot: u64,
    first: [u64; 2],
    at: Instant,
    /// Whether it is not known to stand there.
    is_doubtful: bool,
}

impl Known {
    pub(super) fn of(contents: &Contents, at: Instant) -> Self {
        let kind = u64::from(contents.kind.0).rotate_left(32);
        Self {
            kind_and_body: digest(&contents.body) ^ kind,
            hot: digest_of(&contents.hot),
            first: first_of(&contents.hot),
            at,
            is_doubtful: false,
        }
    }

    /// What stands there does not count: it is to be written anew.
    pub(super) const fn doubt(&mut self) {
        self.is_doubtful = true;
    }

    /// It was written.
    pub(super) const fn confirm(&mut self) {
        self.is_doubtful = false;
    }

    /// Whether it is not known to stand there.
    pub(super) const fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Whether it was written longer ago than that.
    pub(super) fn is_older(&self, now: Instant, than: Duration) -> bool {
        now.saturating_duration_since(self.at) >= than
    }

    /// Whether the words of a record moved so far that it is to be written anew.
    fn is_due(&self, record: Record, now: Instant) -> bool {
        let hot: [u64; HOT_WORDS] = std::array::from_fn(|at| record.get(at));
        let rose = |(now, then): (u64, &u64)| now.wrapping_sub(*then) >= MANY;
        let far = first_of(&hot).into_iter().zip(&self.first).any(rose);
        self.is_doubtful || ((far || now >= self.at + OFTEN) && digest_of(&hot) != self.hot)
    }
}

fn digest_of(hot: &[u64; HOT_WORDS]) -> u64 {
    digest(hot.map(u64::to_le_bytes).as_flattened())
}

fn first_of(hot: &[u64; HOT_WORDS]) -> [u64; 2] {
    hot.first_chunk().copied().unwrap_or_default()
}

/// A store, and what stands in the copy of it.
pub(super) struct Watched {
    pub(super) store: Arc<Store>,
    pub(super) known: HashMap<u32, Known>,
}

/// What is to be written for a place: what stands there, or nothing where that is to go.
pub(super) type Due = (u32, Option<Contents>);

impl Watched {
    /// Watches a store from now on.
    pub(super) fn new(store: Arc<Store>) -> Self {
        store.watch();
        Self {
            store,
            known: HashMap::new(),
        }
    }

    /// What is to be written for a place that changed, if anything is: of records that are to be copied, `is_copied`, and that stand in the copy as they are for
    /// longer than `fresh`.
    pub(super) fn look_at(
        &self,
        index: u32,
        now: Instant,
        fresh: Duration,
        is_copied: impl Fn(&Contents) -> bool,
    ) -> Option<Due> {
        let known = self.known.get(&index);
        let gone = || known.map(|_| (index, None));
        let Some(record) = self.store.record_at(index) else {
            return gone();
        };
        let Some(contents) = self.store.snapshot(record) else {
            // Half of it is another's: the next time.
            self.store.look_again(index);
            return None;
        };
        if !is_copied(&contents) {
            return gone();
        }
        let is = Known::of(&contents, now);
        let same = |it: &&Known| !it.is_doubtful && it.kind_and_body == is.kind_and_body && it.hot == is.hot;
        let is_fresh = |it: &Known| !it.is_older(now, fresh);
        let stands = known.filter(same).is_some_and(is_fresh);
        (!stands).then_some((index, Some(contents)))
    }

    /// Places whose words moved far enough.
    pub(super) fn moved(&self, now: Instant) -> impl Iterator<Item = u32> + '_ {
        let is_due = move |(index, known): (&u32, &Known)| {
            let record = self.store.record_at(*index)?;
            known.is_due(record, now).then_some(*index)
        };
        self.known.iter().filter_map(is_due)
    }
}
