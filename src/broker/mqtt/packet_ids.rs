//! When a request that takes a packet identifier may be handed to rumqttc.
//!
//! It gives identifiers in turn and begins again after `cycle` of them, whether or not the one whose turn it is is still
//! in use; then it stalls. So nothing is handed over that would come round to a request that still waits.

use std::collections::BTreeSet;

/// The requests with an identifier on one connection, in the order in which they were handed over.
#[derive(Debug)]
pub(super) struct PacketIds {
    cycle: u64,
    issued: u64,
    waiting: BTreeSet<u64>,
}

impl PacketIds {
    pub(super) fn new(cycle: u16) -> Self {
        Self {
            cycle: u64::from(cycle),
            issued: 0,
            waiting: BTreeSet::new(),
        }
    }

    /// Whether the next identifier is free.
    pub(super) fn free(&self) -> bool {
        self.waiting
            .first()
            .is_none_or(|oldest| self.issued - oldest < self.cycle)
    }

    /// Takes the next identifier; gives what to hand to [`Self::done`].
    pub(super) fn take(&mut self) -> u64 {
        let request = self.issued;
        self.issued += 1;
        self.waiting.insert(request);
        request
    }

    /// The request was acknowledged.
    pub(super) fn done(&mut self, request: u64) {
        self.waiting.remove(&request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_never_taken_twice_at_once() {
        let mut ids = PacketIds::new(3);
        let first = ids.take();
        let second = ids.take();
        let third = ids.take();
        assert!(!ids.free());
        ids.done(second);
        assert!(!ids.free(), "the first one's turn comes next");
        ids.done(first);
        assert!(ids.free());
        ids.take();
        assert!(ids.free());
        ids.take();
        assert!(!ids.free());
        ids.done(third);
        assert!(ids.free());
    }
}
