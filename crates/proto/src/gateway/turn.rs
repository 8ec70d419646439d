//! All that follows from what was taken in, until nothing does: events of the sessions and of the message layer, messages of workers to
//! themselves, who gives way; then what is to be sent.

use std::time::Instant;

use super::device_requests::Elsewhere;
use super::metrics::ConnectionEvent;
use super::workers::WorkerMessage;
use super::{Gateway, cx};
use crate::types::reason::DropReason;
use crate::types::{ListenerId, PeerAddr};

impl Gateway {
    /// Does all that follows from what was taken in, and collects what is to be sent.
    pub(super) fn settle(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.coap.poll_event() {
                self.coap_event(now, event);
            } else if let Some(message) = self.agenda.poll_own() {
                self.worker_message(now, message);
            } else if let Some(holder) = self.ledger.gives_way() {
                self.give_way(now, holder);
            } else {
                break;
            }
        }
        self.trace_notes(now);
        self.flush(now);
    }

    /// Handles what DTLS made of `datagram`, which holds the plaintexts. What one record asks for is answered before the next,
    /// which may close the session.
    pub(super) fn dtls_events(&mut self, now: Instant, listener: ListenerId, datagram: &[u8]) {
        while self.dtls_event(now, listener, datagram) {
            self.settle(now);
        }
    }

    pub(super) fn all_dtls_events(&mut self, now: Instant) {
        for listener in (0..self.settings.listeners.len()).filter_map(|index| u16::try_from(index).ok()) {
            self.dtls_events(now, ListenerId(listener), &[]);
        }
    }

    /// Hands what the message layer wants sent to the sockets, through DTLS where the peer has a session.
    fn flush(&mut self, now: Instant) {
        let Self {
            coap,
            peers,
            dtls,
            transmits,
            traces,
            settings,
            ..
        } = self;
        coap.drain_transmits(|id, bytes| {
            let Some(peer) = peers.get_mut(id) else { return };
            peer.traffic.sent(bytes.len());
            let sealed = match peer.session {
                None => {
                    transmits.push(peer.listener, peer.address, bytes);
                    true
                }
                // A session that cannot seal any more says so as an event of its own.
                Some(session) => dtls
                    .get_mut(usize::from(peer.listener.0))
                    .and_then(Option::as_mut)
                    .is_some_and(|dtls| dtls.send(session, bytes, transmits).is_ok()),
            };
            if !traces.is_empty() {
                traces.sent(now, &peer.seen(id, settings), bytes, sealed);
            }
        });
    }

    pub(super) fn worker_message(&mut self, now: Instant, message: WorkerMessage) {
        match message {
            WorkerMessage::FromPeer(peer, what) => self.hear_of_peer(now, peer, what),
            WorkerMessage::ToPeer(peer, what) => self.serve_peer(now, peer, what),
            WorkerMessage::Register {
                ticket,
                client,
                key,
                owner,
                join,
                ended,
            } => {
                let ended = ended.filter(|ended| self.directory.ended(&client, *ended));
                let (registration, older) = self.directory.register(client, key, owner, join);
                for key in ended.into_iter().chain(older) {
                    self.agenda.tell(key.worker(), WorkerMessage::Evict(key));
                }
                let answer = WorkerMessage::Registered(ticket, registration);
                self.agenda.tell(key.worker(), answer);
            }
            WorkerMessage::Registered(ticket, registration) => self.registered(now, ticket, registration),
            WorkerMessage::Evict(key) => {
                let (connections, observations) = (&mut self.connections, &mut self.observations);
                let client = connections.get(key).map(|connection| connection.client.clone());
                connections.end(&mut cx!(self, now), observations, key, ConnectionEvent::Replaced);
                if let Some(client) = client {
                    self.pass_requests_on(now, &client, &Elsewhere::AtItsConnection);
                }
            }
            WorkerMessage::PassOn(passed) => match self.directory.worker_of(&passed.client) {
                Some(worker) => self.agenda.tell(worker, WorkerMessage::TakeOver(passed)),
                None => self.send_back(passed),
            },
            WorkerMessage::TakeOver(passed) => self.take_over_request(now, *passed),
            WorkerMessage::TakeBack(passed) => self.take_back_request(now, *passed),
            WorkerMessage::Awaits(client, worker) => self.device_requests.awaited.add(client, worker),
            WorkerMessage::AwaitsNoMore(client, worker) => {
                self.device_requests.awaited.remove(&client, worker);
            }
            WorkerMessage::Came(arrival) => self.came_elsewhere(now, *arrival),
            WorkerMessage::ConnectionGone(client) => self.connection_gone(&client),
            WorkerMessage::Ended(client, key) => {
                self.directory.ended(&client, key);
            }
            WorkerMessage::Answered(request, result) => self.device_answered(now, request, result),
            WorkerMessage::Heard(client) => self.heard(now, &client),
            WorkerMessage::AreYouThere(from, at) => {
                self.agenda.tell(from, WorkerMessage::Here(self.worker, at));
            }
            WorkerMessage::Record {
                listener,
                from,
                mut bytes,
            } => self.record_from_elsewhere(now, listener, from, &mut bytes),
            WorkerMessage::Known { client, key, owner } => {
                let (_, older) = self.directory.register(client, key, owner, false);
                if let Some(older) = older {
                    self.agenda.tell(older.worker(), WorkerMessage::Evict(older));
                }
            }
            WorkerMessage::Seek { mark, key } => {
                self.found_at(now, mark, key);
            }
            WorkerMessage::OfNode(message) => {
                if let Some((listener, records)) = self.hear_node(now, message) {
                    self.dtls_events(now, listener, &records);
                }
            }
            WorkerMessage::Here(from, at) => self.forwarded.heard(from, at),
        }
    }

    /// A protected record that came to another worker: the session of before the restart is here.
    fn record_from_elsewhere(
        &mut self,
        now: Instant,
        listener: ListenerId,
        from: PeerAddr,
        record: &mut [u8],
    ) {
        let dtls = self.dtls.get_mut(usize::from(listener.0));
        if let Some(dtls) = dtls.and_then(Option::as_mut)
            && !dtls.handle_datagram(now, from, record, &mut self.transmits)
        {
            self.count_dropped(listener, DropReason::Dtls);
        }
        self.dtls_events(now, listener, record);
    }
}
