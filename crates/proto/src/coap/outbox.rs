//! Datagrams that wait to be handed to the transport, in one buffer that is used again.

use super::contract::PeerId;

/// More capacity than this is given back once it is empty.
const KEPT: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<(PeerId, usize)>,
}

impl Outbox {
    pub(crate) fn push(&mut self, peer: PeerId, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.ends.push((peer, self.bytes.len()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn drain(&mut self, mut take: impl FnMut(PeerId, &[u8])) {
        let mut start = 0;
        for (peer, end) in self.ends.drain(..) {
            take(peer, self.bytes.get(start..end).unwrap_or_default());
            start = end;
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
    }
}
