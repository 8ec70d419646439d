//! When a request that takes a packet identifier may be handed to rumqttc.
//!
//! It gives identifiers in turn and begins again after `cycle` of them, whether or not the one whose turn it is is still
//! in use; then it stalls. So nothing is handed over that would come round to a request that still waits.

use std::collections::BTreeSet;
use std::time::Instant;

/// The requests with an identifier on one connection, in the order in which they were handed over.
#[derive(Debug)]
pub(super) struct PacketIds {
    cycle: u64,
    issued: u64,
    waiting: BTreeSet<u64>,
    /// Since when the oldest request is the oldest.
    oldest_since: Option<Instant>,
}

impl PacketIds {
    pub(super) fn new(cycle: u16) -> Self {
        Self {
            cycle: u64::from(cycle),
            issued: 0,
            waiting: BTreeSet::new(),
            oldest_since: None,
        }
    }

    /// Whether the next identifier is free.
    pub(super) fn free(&self) -> bool {
        self.waiting
            .first()
            .is_none_or(|oldest| self.issued - oldest < self.cycle)
    }

    /// Takes the next identifier; gives what to hand to [`Self::done`].
    pub(super) fn take(&mut self, now: Instant) -> u64 {
        let request = self.issued;
        self.issued += 1;
        if self.waiting.is_empty() {
            self.oldest_since = Some(now);
        }
        self.waiting.insert(request);
        request
    }

    /// The request was acknowledged.
    pub(super) fn done(&mut self, now: Instant, request: u64) {
        let oldest = self.waiting.first() == Some(&request);
        self.waiting.remove(&request);
        if oldest {
            self.oldest_since = (!self.waiting.is_empty()).then_some(now);
        }
    }

    /// Whether the broker acknowledged anything, or had nothing to acknowledge.
    pub(super) fn were_of_use(&self) -> bool {
        self.waiting.is_empty() || self.issued > self.waiting.len() as u64
    }

    /// Since when the broker owes the acknowledgement of the oldest request; `None` when it owes none.
    ///
    /// A request's time begins when the one before it is done: over a slow line a thousand of them are handed over at once
    /// and each takes its turn, which is no reason to give the line up.
    pub(super) fn owed_since(&self) -> Option<Instant> {
        self.oldest_since
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::clock;

    #[test]
    fn an_identifier_is_never_taken_twice_at_once() {
        let now = (clock().now)();
        let mut ids = PacketIds::new(3);
        let first = ids.take(now);
        let second = ids.take(now);
        let third = ids.take(now);
        assert!(!ids.free());
        ids.done(now, second);
        assert!(!ids.free(), "the first one's turn comes next");
        ids.done(now, first);
        assert!(ids.free());
        ids.take(now);
        assert!(ids.free());
        ids.take(now);
        assert!(!ids.free());
        ids.done(now, third);
        assert!(ids.free());
    }

    #[test]
    fn what_the_broker_owes_is_timed_from_the_moment_it_is_the_oldest() {
        let begun = (clock().now)();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut ids = PacketIds::new(10);
        assert_eq!(ids.owed_since(), None);
        let first = ids.take(at(0));
        let second = ids.take(at(1));
        let third = ids.take(at(2));
        assert!(!ids.were_of_use());
        ids.done(at(3), second);
        assert_eq!(
            ids.owed_since(),
            Some(at(0)),
            "a later one does not excuse the first"
        );
        assert!(ids.were_of_use());
        ids.done(at(9), first);
        assert_eq!(ids.owed_since(), Some(at(9)));
        ids.done(at(10), third);
        assert_eq!(ids.owed_since(), None);
        ids.take(at(20));
        assert_eq!(ids.owed_since(), Some(at(20)));
    }
}
