//! The handshakes in flight of a listener: found by address, woken on time, the one silent for longest first to go.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use portcullis_proto::types::PeerAddr;

use super::handshake::Pending;

/// All handshakes in flight of a listener.
#[derive(Default)]
pub(super) struct PendingTable {
    by_address: HashMap<PeerAddr, Box<Pending>>,
    wakes: BTreeMap<(Instant, u64), PeerAddr>,
    by_silence: BTreeMap<(Instant, u64), PeerAddr>,
}

impl PendingTable {
    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    pub(super) fn get(&self, address: PeerAddr) -> Option<&Pending> {
        self.by_address.get(&address).map(AsRef::as_ref)
    }

    /// Takes a handshake out to work on it; [`Self::put`] it back, or it is over.
    pub(super) fn take(&mut self, address: PeerAddr) -> Option<Box<Pending>> {
        let pending = self.by_address.remove(&address)?;
        self.wakes.remove(&(pending.wakes, pending.id));
        self.by_silence.remove(&(pending.heard, pending.id));
        Some(pending)
    }

    /// Adds a handshake, to be woken when it wants to be.
    pub(super) fn put(&mut self, now: Instant, mut pending: Box<Pending>) {
        pending.wakes = pending.next_wake(now);
        self.wakes.insert((pending.wakes, pending.id), pending.address);
        self.by_silence
            .insert((pending.heard, pending.id), pending.address);
        self.by_address.insert(pending.address, pending);
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.wakes.first_key_value().map(|((wakes, _), _)| *wakes)
    }

    /// Takes out a handshake whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Box<Pending>> {
        let ((wakes, _), address) = self.wakes.first_key_value()?;
        let address = (*wakes <= now).then_some(*address)?;
        self.take(address)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The handshake that was not heard of for longest.
    pub(super) fn most_silent(&self) -> Option<&Pending> {
        self.get(*self.by_silence.first_key_value()?.1)
    }
}
