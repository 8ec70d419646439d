//! Datagrams that wait to be handed to the transport, in one buffer that is used again. Messages are written into it where they stay.

use super::contract::PeerId;

/// More capacity than this is given back once it is empty.
const KEPT: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<(PeerId, usize)>,
}

impl Outbox {
    /// Where to write the next datagram, behind those that wait. What was written there before and not pushed is gone.
    pub(crate) fn draft(&mut self) -> &mut Vec<u8> {
        self.bytes.truncate(self.committed());
        &mut self.bytes
    }

    /// What was written there.
    pub(crate) fn drafted(&self) -> &[u8] {
        self.bytes.get(self.committed()..).unwrap_or_default()
    }

    /// What was written there waits to be sent.
    pub(crate) fn push(&mut self, peer: PeerId) {
        self.ends.push((peer, self.bytes.len()));
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

    fn committed(&self) -> usize {
        self.ends.last().map_or(0, |(_, end)| *end)
    }
}
