//! Records that reached another node of the group than their session's, and the answers to them.

use std::time::Instant;

use super::Gateway;
use super::contract::Output;
use super::kept::listener_mark;
use crate::types::reason::DropReason;
use crate::types::{ListenerId, PeerAddr, Transport};

/// What another node says.
#[derive(Debug)]
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

    pub(super) fn hear_node(&mut self, now: Instant, message: NodeMessage) {
        match message {
            NodeMessage::Record {
                listener,
                from,
                mut bytes,
            } => {
                let Some(listener) = self.listener_by(|mark| mark == listener) else {
                    return self.metrics.no_listener.inc();
                };
                match self.shuts_out(now, listener, from) {
                    Some(reason) => self.dropped(now, listener, from, bytes.len(), reason),
                    None => self.records_of_node(now, listener, from, &mut bytes),
                }
            }
            NodeMessage::Answer { listener, to, bytes } => {
                let Some(listener) = self.listener_by(|mark| mark as u32 == listener) else {
                    return self.metrics.no_listener.inc();
                };
                match self.shuts_out(now, listener, to) {
                    Some(reason) => self.dropped(now, listener, to, bytes.len(), reason),
                    None => self.transmits.push(listener, to, &bytes),
                }
            }
        }
    }

    fn records_of_node(&mut self, now: Instant, listener: ListenerId, from: PeerAddr, records: &mut [u8]) {
        let dtls = self.dtls.get_mut(usize::from(listener.0));
        if let Some(dtls) = dtls.and_then(Option::as_mut)
            && !dtls.handle_records_of_node(now, from, records, &mut self.transmits)
        {
            self.count_dropped(listener, DropReason::Dtls);
        }
        self.dtls_events(now, listener, records);
    }

    fn listener_by(&self, is_it: impl Fn(u64) -> bool) -> Option<ListenerId> {
        let mut listeners = (0..).map(ListenerId).zip(&self.settings.listeners);
        let found = listeners.find(|(_, it)| {
            it.transport() == Transport::Dtls && is_it(listener_mark(Transport::Dtls, &it.name))
        });
        found.map(|(id, _)| id)
    }
}
