//! Records that reached another node of the group than their session's, and the answers to them.

use std::fmt;
use std::time::Instant;

use super::Gateway;
use super::contract::Output;
use super::kept::listener_mark;
use crate::state::Contents;
use crate::types::reason::DropReason;
use crate::types::{ListenerId, PeerAddr, Transport, WorkerId};

/// A record whose Connection ID is nobody's here, or of a node that does not live: its session may stand where all nodes see it.
#[derive(Debug)]
pub struct Seek {
    /// The worker that has it.
    pub worker: WorkerId,
    /// What names the listener in every node.
    pub listener: u64,
    /// The Connection ID.
    pub cid: [u8; 8],
    /// Who sent it.
    pub from: PeerAddr,
    /// The record, and what followed it.
    pub record: Box<[u8]>,
}

/// What is taken over of a node that is gone: a session, or a connection, with what belongs to it.
pub struct Taken {
    /// Its records, as they go on here.
    pub rows: Vec<Contents>,
    /// Where a record came for the session: the listener by what names it in every node, its sender, and the record.
    pub led_by: Option<(u64, PeerAddr, Box<[u8]>)>,
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Taken").field(&self.rows.len()).finish()
    }
}

/// What another node says.
#[derive(Debug, PartialEq, Eq)]
pub enum NodeMessage {
    /// A record of a session here arrived there.
    Record {
        /// What names the listener in every node.
        listener: u64,
        /// Who sent it, and by which node it is reached.
        from: PeerAddr,
        /// The record, and what followed it.
        bytes: Box<[u8]>,
    },
    /// What a session there sends to a peer that writes to this node.
    Answer {
        /// The lower half of what names the listener.
        listener: u32,
        /// Who gets it.
        to: PeerAddr,
        /// The datagram.
        bytes: Box<[u8]>,
    },
}

impl Gateway {
    pub(super) fn hand_to_node(&mut self, node: u16, listener: ListenerId, from: PeerAddr, record: &[u8]) {
        if let Some(settings) = self.settings.listener(listener) {
            self.agenda.output(Output::Forward {
                node,
                listener: listener_mark(Transport::Dtls, &settings.name),
                from,
                record: record.into(),
            });
        }
    }

    pub(super) fn seek(&mut self, listener: ListenerId, cid: [u8; 8], from: PeerAddr, record: &[u8]) {
        if let Some(settings) = self.settings.listener(listener) {
            self.agenda.output(Output::Seek(Seek {
                worker: self.worker,
                listener: listener_mark(Transport::Dtls, &settings.name),
                cid,
                from,
                record: record.into(),
            }));
        }
    }

    /// Takes in what another node says. Records of which plaintexts may have come, which are events of the session's listener.
    pub(super) fn hear_node(
        &mut self,
        now: Instant,
        message: NodeMessage,
    ) -> Option<(ListenerId, Box<[u8]>)> {
        match message {
            NodeMessage::Record {
                listener,
                from,
                mut bytes,
            } => {
                let listener = self.listener_by(|mark| mark == listener)?;
                if let Some(reason) = self.shuts_out(now, listener, from) {
                    self.dropped(now, listener, from, bytes.len(), reason);
                    return None;
                }
                let dtls = self.dtls.get_mut(usize::from(listener.0));
                if let Some(dtls) = dtls.and_then(Option::as_mut)
                    && !dtls.handle_records_of_node(now, from, &mut bytes, &mut self.transmits)
                {
                    self.count_dropped(listener, DropReason::Dtls);
                }
                Some((listener, bytes))
            }
            NodeMessage::Answer { listener, to, bytes } => {
                let listener = self.listener_by(|mark| mark as u32 == listener)?;
                match self.shuts_out(now, listener, to) {
                    Some(reason) => self.dropped(now, listener, to, bytes.len(), reason),
                    None => self.transmits.push(listener, to, &bytes),
                }
                None
            }
        }
    }

    /// The listener with such a mark. What names none is counted.
    pub(super) fn listener_by(&self, is_it: impl Fn(u64) -> bool) -> Option<ListenerId> {
        let mut listeners = (0..).map(ListenerId).zip(&self.settings.listeners);
        let found = listeners.find(|(_, it)| {
            it.transport() == Transport::Dtls && is_it(listener_mark(Transport::Dtls, &it.name))
        });
        if found.is_none() {
            self.metrics.no_listener.inc();
        }
        found.map(|(id, _)| id)
    }
}
