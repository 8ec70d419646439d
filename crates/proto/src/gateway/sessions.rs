//! What the listener of a session makes of it: established, restored, moved, closed; and its plaintexts.

use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use super::contract::Output;
use super::events::{EventKind, More};
use super::guests::Guests;
use super::peer_life::{UDP_PEER_IDLE, open_account};
use super::peers::Peer;
use super::trace::Traced;
use super::traffic::Traffic;
use super::workers::WorkerMessage;
use crate::coap::Source;
use crate::coap::contract::PeerId;
use crate::policy::shares::Share;
use crate::session::{CloseReason, DtlsEvent, DtlsNote, SessionId};
use crate::types::reason::Limit;
use crate::types::standing::Standing;
use crate::types::{Identity, ListenerId, PeerAddr, WorkerId};

/// A session that is ready to be used.
struct Opened {
    session: SessionId,
    address: PeerAddr,
    identity: Option<Identity>,
    /// Whether the peer was seen to receive there; the cookie of a handshake shows that.
    proven: bool,
    since: Instant,
    heard: Instant,
}

impl Gateway {
    pub(super) fn dtls_timeouts(&mut self, now: Instant) {
        for dtls in self.dtls.iter_mut().flatten() {
            dtls.handle_timeout(now, &mut self.transmits);
        }
    }

    /// Handles one thing that DTLS made of `datagram`, which holds the plaintexts; false when there is none.
    pub(super) fn dtls_event(&mut self, now: Instant, listener: ListenerId, datagram: &[u8]) -> bool {
        let dtls = self
            .dtls
            .get_mut(usize::from(listener.0))
            .and_then(Option::as_mut);
        let Some(event) = dtls.and_then(|dtls| dtls.poll_event()) else {
            return false;
        };
        match event {
            DtlsEvent::Plaintext { session, range } => {
                let plaintext = datagram.get(range).unwrap_or_default();
                if let Some(peer) = self.peers.on_session(session) {
                    self.received(now, peer, plaintext);
                }
            }
            DtlsEvent::Established {
                session,
                address,
                identity,
            } => {
                let opened = Opened {
                    session,
                    address,
                    identity,
                    proven: true,
                    since: now,
                    heard: now,
                };
                self.session_established(now, listener, opened);
            }
            DtlsEvent::Restored {
                session,
                address,
                identity,
                confirmed,
                since,
                heard,
            } => {
                let opened = Opened {
                    session,
                    address,
                    identity,
                    proven: confirmed,
                    since,
                    heard,
                };
                self.session_restored(now, listener, opened);
            }
            DtlsEvent::Elsewhere { worker, from, range } => {
                self.hand_record_on(worker, listener, from, datagram.get(range).unwrap_or_default());
            }
            DtlsEvent::OfNode { node, from, range } => {
                self.hand_to_node(node, listener, from, datagram.get(range).unwrap_or_default());
            }
            DtlsEvent::Nobodys { cid, from, range } => {
                self.seek(listener, cid, from, datagram.get(range).unwrap_or_default());
            }
            DtlsEvent::AddressChanged {
                session,
                to,
                confirmed,
            } => self.session_moved(now, session, to, confirmed),
            DtlsEvent::Closed { session, reason } => self.session_closed(now, session, reason),
            DtlsEvent::KeysWanted {
                ticket,
                address,
                identity,
            } => self.agenda.output(Output::FindKeys {
                listener,
                ticket,
                from: address,
                identity,
            }),
            DtlsEvent::Noted {
                address,
                identity,
                note,
            } => self.noted(now, (listener, address), identity.as_deref(), note),
        }
        true
    }

    /// A handshake made a session.
    fn session_established(&mut self, now: Instant, listener: ListenerId, opened: Opened) {
        let Some(peer) = self.open_session(now, listener, opened) else {
            return;
        };
        if let Some(it) = self.peers.get_mut(peer)
            && let Some(record) = it.kept
        {
            it.coap.keep_in(record);
        }
        if !self.traces.is_empty()
            && let Some(info) = self.peers.get(peer).and_then(|it| it.session_info(&self.dtls))
        {
            self.trace_peer(now, peer, &Traced::Established(info));
        }
        if self.settings.connection_required(listener) {
            self.connect_implicitly(now, peer);
        }
        self.announce_session(now, peer, None);
        self.heard_peer(now, peer);
    }

    /// A session of an earlier process goes on. Nobody is told: its client was there all the time.
    fn session_restored(&mut self, now: Instant, listener: ListenerId, opened: Opened) {
        let Some(id) = self.open_session(now, listener, opened) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if let Some(record) = peer.kept {
            peer.coap.go_on(record, now + UDP_PEER_IDLE);
        }
        self.found.session(peer.kept, id);
    }

    /// Makes the peer of a session; none, and no session either, where there is no room for it.
    fn open_session(&mut self, now: Instant, listener: ListenerId, opened: Opened) -> Option<PeerId> {
        let session = opened.session;
        let source = Source::Session(session.0);
        let standing = match opened.identity {
            Some(_) => Standing::Known,
            None => Standing::Proven,
        };
        let weight = self.session_weight(listener);
        let (shares, caps) = (&self.shared.shares, &self.settings.caps);
        let mut principal = opened
            .identity
            .as_ref()
            .map(|identity| Arc::clone(&identity.name));
        let admitted = match &principal {
            _ if !self.ledger.admits(standing, weight, None) => Err(Limit::Memory),
            Some(name) => shares.take(name, (Share::bytes(weight), Share::default()), caps),
            None => Ok(()),
        };
        principal = principal.filter(|_| admitted.is_ok());
        let ledger = &mut self.ledger;
        let peer = self.peers.insert(|id| Peer {
            account: open_account(ledger, id, standing, weight),
            principal,
            weight,
            listener,
            address: opened.address,
            session: Some(session),
            secure: self.settings.transport(listener).is_secure(),
            identity: opened.identity,
            bound: None,
            guests: Guests::default(),
            client: None,
            since: opened.since,
            seen_at: opened.heard,
            alive_at: None,
            kept: None,
            traffic: Traffic::default(),
            coap: self.coap.peer(id, listener, source, opened.proven),
        });
        let dtls = self.dtls.get(usize::from(listener.0)).and_then(Option::as_ref);
        if let (Some(dtls), Some(it)) = (dtls, self.peers.get_mut(peer)) {
            it.coap.set_max_message(dtls.max_plaintext(session));
            if dtls.is_stream() {
                it.coap.set_stream();
            }
            it.kept = dtls.kept(session);
            if standing == Standing::Known {
                it.coap.set_known();
            }
        }
        if let Err(limit) = admitted {
            self.metrics.limits.inc(limit);
            self.end_peer(now, peer, CloseReason::Evicted);
            return None;
        }
        let identity = self.peers.get(peer).and_then(|peer| peer.identity.clone());
        if let Some(kind) = self.session_ban(now, listener, identity.as_ref()) {
            self.metrics.bans.inc(kind);
            self.end_peer(now, peer, CloseReason::Banned);
            return None;
        }
        Some(peer)
    }

    fn session_moved(&mut self, now: Instant, session: SessionId, to: PeerAddr, confirmed: bool) {
        let Some(id) = self.peers.on_session(session) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut peer.address, to);
        if confirmed {
            self.coap.set_proven(&mut peer.coap);
            self.alive(now, id);
        } else {
            self.coap.unprove(&mut peer.coap);
            peer.coap.ask_for_proof();
        }
        if !self.traces.is_empty() {
            self.trace_peer(now, id, &Traced::Moved);
        }
        self.tell_of_peer(now, id, EventKind::Moved, |event| event.with(More::From(before)));
    }

    fn session_closed(&mut self, now: Instant, session: SessionId, reason: CloseReason) {
        if let Some(peer) = self.peers.on_session(session) {
            if !self.traces.is_empty() {
                self.trace_peer(now, peer, &Traced::Closed(reason));
            }
            self.peer_gone(now, peer, reason);
        }
    }

    fn noted(
        &mut self,
        now: Instant,
        (listener, address): (ListenerId, PeerAddr),
        identity: Option<&str>,
        note: DtlsNote,
    ) {
        if let DtlsNote::Failed { result, after } = note {
            self.tell_failed_handshake(now, (listener, address), identity, (result, after));
        }
        if !self.traces.is_empty() {
            self.trace_note(now, listener, address, identity, note);
        }
    }

    fn hand_record_on(&mut self, to: WorkerId, listener: ListenerId, from: PeerAddr, record: &[u8]) {
        let message = WorkerMessage::Record {
            listener,
            from,
            bytes: record.into(),
        };
        self.agenda.tell(to, message);
    }
}
