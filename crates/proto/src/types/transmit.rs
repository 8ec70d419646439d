//! Datagrams that wait to be sent.

use super::{ListenerId, PeerAddr};

#[derive(Debug, Clone, Copy)]
struct Entry {
    listener: ListenerId,
    to: PeerAddr,
    start: usize,
    end: usize,
}

/// Datagrams that wait to be sent: one buffer for all of them, reused after [`Transmits::clear`].
#[derive(Debug, Default)]
pub struct Transmits {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Transmits {
    /// Adds one datagram.
    pub fn push(&mut self, listener: ListenerId, to: PeerAddr, datagram: &[u8]) {
        self.push_with(listener, to, |buffer| buffer.extend_from_slice(datagram));
    }

    /// Adds the datagram that `build` appends to the buffer; nothing when it appends nothing.
    pub fn push_with(&mut self, listener: ListenerId, to: PeerAddr, build: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        build(&mut self.bytes);
        let end = self.bytes.len();
        if end > start {
            self.entries.push(Entry {
                listener,
                to,
                start,
                end,
            });
        }
    }

    /// Ends the stream of a peer, once what was added before has left: an entry without bytes.
    pub fn push_end(&mut self, listener: ListenerId, to: PeerAddr) {
        let at = self.bytes.len();
        self.entries.push(Entry {
            listener,
            to,
            start: at,
            end: at,
        });
    }

    /// The datagrams, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (ListenerId, PeerAddr, &[u8])> {
        self.entries.iter().map(|entry| {
            (
                entry.listener,
                entry.to,
                self.bytes.get(entry.start..entry.end).unwrap_or_default(),
            )
        })
    }

    /// How many datagrams wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets all of them and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}
