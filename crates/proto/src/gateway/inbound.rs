//! Datagram in: to its peer, through DTLS where the listener speaks it, into the message layer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::guests::Guests;
use super::news;
use super::peers::Peer;
use super::trace::Traced;
use super::workers::FromPeer;
use super::{Gateway, cx};
use crate::bridge::subscriptions::Holder;
use crate::coap::Source;
use crate::coap::contract::PeerId;
use crate::policy::authentication::IdentityRole;
use crate::session::{DtlsEvent, SessionId};
use crate::types::reason::{DropReason, Limit};
use crate::types::{ClientId, Identity, ListenerId, PeerAddr, WorkerId};

/// A UDP peer that is silent for this long may be forgotten to make room: EXCHANGE_LIFETIME (RFC 7252, 4.8.2).
pub(super) const UDP_PEER_IDLE: Duration = Duration::from_secs(247);

/// With a full table, one silent for this long has to do.
const UDP_PEER_IDLE_CROWDED: Duration = Duration::from_secs(2);

impl Gateway {
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        listener: ListenerId,
        from: SocketAddr,
        bytes: &mut [u8],
    ) {
        let Some(from) = PeerAddr::new(from) else {
            return self.count_dropped(listener, DropReason::SourcePortZero);
        };
        if !self
            .settings
            .listener(listener)
            .is_some_and(|settings| settings.access.allows(from.ip()))
        {
            return self.dropped(now, listener, from, bytes.len(), DropReason::AccessDenied);
        }
        if self
            .disabled
            .get(usize::from(listener.0))
            .copied()
            .unwrap_or(true)
        {
            return self.dropped(now, listener, from, bytes.len(), DropReason::ListenerStopped);
        }
        if bytes.is_empty() {
            return self.dropped(now, listener, from, 0, DropReason::EmptyDatagram);
        }
        if let Some(dtls) = self
            .dtls
            .get_mut(usize::from(listener.0))
            .and_then(Option::as_mut)
        {
            if !dtls.handle_datagram(now, from, bytes, &mut self.transmits) {
                // Traces have it record by record.
                self.count_dropped(listener, DropReason::Dtls);
            }
        } else if !self.may_send(now, listener, from) {
            self.metrics.limits.inc(Limit::UnprovenRate);
            self.dropped(now, listener, from, bytes.len(), DropReason::Rate);
        } else if let Some(peer) = self.udp_peer(now, listener, from) {
            self.received(now, peer, bytes);
        } else {
            self.metrics.limits.inc(Limit::UdpPeers);
            self.dropped(now, listener, from, bytes.len(), DropReason::Limit);
        }
    }

    /// Whether a datagram over plain UDP is within the rate of its source, which one that has proved its address has not. Asked
    /// before anything is kept or read of it, so that a flood costs little more than receiving it.
    fn may_send(&self, now: Instant, listener: ListenerId, from: PeerAddr) -> bool {
        let per_second = self.settings.unproven_datagrams_per_second;
        if per_second == 0 {
            return true;
        }
        let known = self.peers.at_address(listener, from);
        known.is_some_and(|peer| self.is_proven(peer))
            || self.shared.takes_datagram(now, from.source(), per_second)
    }

    /// Whether the address of a peer is proved.
    pub(super) fn is_proven(&self, peer: PeerId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.coap.is_proven())
    }

    fn received(&mut self, now: Instant, id: PeerId, bytes: &[u8]) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let proven = peer.coap.is_proven();
        let dropped = self.coap.receive(now, &mut peer.coap, bytes);
        if !proven && peer.coap.is_proven() {
            self.proved(id);
        }
        if !self.traces.is_empty() {
            self.trace_received(now, id, bytes, dropped);
        }
    }

    /// A peer showed that it receives where it sends from.
    fn proved(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(id) else { return };
        let dtls = self
            .dtls
            .get_mut(usize::from(peer.listener.0))
            .and_then(Option::as_mut);
        if let (Some(session), Some(dtls)) = (peer.session, dtls) {
            dtls.confirm_address(session);
        }
    }

    fn dropped(
        &mut self,
        now: Instant,
        listener: ListenerId,
        from: PeerAddr,
        len: usize,
        reason: DropReason,
    ) {
        self.count_dropped(listener, reason);
        if !self.traces.is_empty() {
            self.trace_dropped(now, listener, from, len, reason);
        }
    }

    fn count_dropped(&self, listener: ListenerId, reason: DropReason) {
        if let Some(metrics) = self.metrics.listeners.get(usize::from(listener.0)) {
            metrics.dropped.inc(reason);
        }
    }

    fn udp_peer(&mut self, now: Instant, listener: ListenerId, from: PeerAddr) -> Option<PeerId> {
        if let Some(known) = self.peers.seen_at_address(now, listener, from) {
            return Some(known);
        }
        if self.peers.udp_len() >= self.settings.caps.udp_peers
            && !self.forget_idle_udp_peer(now, UDP_PEER_IDLE_CROWDED)
        {
            return None;
        }
        let source = Source::Address(listener, from);
        let peer = self.peers.insert(|id| Peer {
            listener,
            address: from,
            session: None,
            identity: None,
            guests: Guests::default(),
            client: None,
            since: now,
            seen_at: now,
            alive_at: None,
            coap: self.coap.peer(id, listener, source, false),
        });
        if let Some(metrics) = self.metrics.listeners.get(usize::from(listener.0)) {
            metrics.udp_peers.add(1);
        }
        Some(peer)
    }

    /// Forgets a UDP peer that has neither connection nor observation and is silent for `idle`.
    pub(super) fn forget_idle_udp_peer(&mut self, now: Instant, idle: Duration) -> bool {
        let observations = &self.observations;
        let needed = |id: PeerId, peer: &Peer| {
            !peer.guests.is_empty() || !observations.of(Holder::Peer(id)).is_empty()
        };
        match self.peers.idle_udp_peer(now, idle, needed) {
            Some(peer) => {
                self.peer_gone(now, peer);
                true
            }
            None => false,
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
                if let Some(peer) = self.peers.seen_on_session(now, session) {
                    self.received(now, peer, plaintext);
                }
            }
            DtlsEvent::Established {
                session,
                address,
                identity,
            } => {
                self.session_established(now, listener, session, address, identity);
            }
            DtlsEvent::AddressChanged {
                session,
                to,
                confirmed,
            } => {
                if let Some(id) = self.peers.seen_on_session(now, session)
                    && let Some(peer) = self.peers.get_mut(id)
                {
                    peer.address = to;
                    if confirmed {
                        self.coap.set_proven(&mut peer.coap);
                    } else {
                        self.coap.unprove(&mut peer.coap);
                        peer.coap.ask_for_proof();
                    }
                    if !self.traces.is_empty() {
                        self.trace_peer(now, id, &Traced::Moved);
                    }
                }
            }
            DtlsEvent::Closed { session, reason } => {
                if let Some(peer) = self.peers.seen_on_session(now, session) {
                    if !self.traces.is_empty() {
                        self.trace_peer(now, peer, &Traced::Closed(reason));
                    }
                    self.peer_gone(now, peer);
                }
            }
            DtlsEvent::Noted {
                address,
                identity,
                note,
            } => self.trace_note(now, listener, address, identity.as_deref(), note),
        }
        true
    }

    fn session_established(
        &mut self,
        now: Instant,
        listener: ListenerId,
        session: SessionId,
        address: PeerAddr,
        identity: Option<Identity>,
    ) {
        // The handshake's cookie proved the address.
        let source = Source::Session(session.0);
        let peer = self.peers.insert(|id| Peer {
            listener,
            address,
            session: Some(session),
            identity,
            guests: Guests::default(),
            client: None,
            since: now,
            seen_at: now,
            alive_at: None,
            coap: self.coap.peer(id, listener, source, true),
        });
        if !self.traces.is_empty()
            && let Some(info) = self.peers.get(peer).and_then(|it| it.session_info(&self.dtls))
        {
            self.trace_peer(now, peer, &Traced::Established(info));
        }
        if self.settings.connection_required {
            self.connect_implicitly(now, peer);
        }
        self.announce_session(now, peer, None);
    }

    pub(super) fn dtls_timeouts(&mut self, now: Instant) {
        for dtls in self.dtls.iter_mut().flatten() {
            dtls.handle_timeout(now, &mut self.transmits);
        }
    }

    /// Tells of a DTLS session that is a client by itself: connectionless, with an identity that is the client id.
    fn announce_session(&mut self, now: Instant, id: PeerId, reason: Option<&'static str>) {
        let Some(from) = self.peers.get(id).map(|peer| peer.facts(id)) else {
            return;
        };
        let listener = self.settings.listener(from.listener);
        let is_client = listener
            .and_then(|listener| listener.dtls.as_ref())
            .is_some_and(|dtls| dtls.identity == IdentityRole::ClientId);
        if self.settings.connection_required || !is_client {
            return;
        }
        let identity = from.identity().map(|identity| &identity.name);
        if let Some(client) = identity.and_then(ClientId::shared) {
            news::announce(&mut cx!(self, now), &client, None, Some(&from), reason);
        }
    }

    /// Ends all that belonged to a peer, and tells the owners of what was used from there.
    pub(super) fn peer_gone(&mut self, now: Instant, id: PeerId) {
        self.announce_session(now, id, Some("session_ended"));
        if let Some(peer) = self.peers.get_mut(id) {
            for observation in self.observations.of(Holder::Peer(id)) {
                self.coap.cancel(&mut peer.coap, *observation);
            }
        }
        self.observations.end_all(&mut cx!(self, now), Holder::Peer(id));
        self.part_from_owners(id);
        let Some(peer) = self.peers.remove(id) else {
            return;
        };
        let (session, listener) = (peer.session, usize::from(peer.listener.0));
        self.coap.forget(peer.coap);
        if session.is_none()
            && let Some(metrics) = self.metrics.listeners.get(listener)
        {
            metrics.udp_peers.sub(1);
        }
    }

    /// Tells the owners of what was used from a peer that it is gone, and gives them back what it was not sent.
    fn part_from_owners(&mut self, peer: PeerId) {
        let Some(it) = self.peers.get_mut(peer) else {
            return;
        };
        let mut undelivered = if it.guests.is_empty() {
            Vec::new()
        } else {
            self.coap.take_all_pending(&mut it.coap)
        };
        for worker in it.guests.owners() {
            let (notifications, others) = undelivered
                .into_iter()
                .partition(|(observation, _)| WorkerId::of(observation.0) == worker);
            undelivered = others;
            let what = FromPeer::Undelivered {
                notifications,
                parted: None,
            };
            self.outbox.tell_owner(worker, peer, what);
            self.outbox.tell_owner(worker, peer, FromPeer::Gone);
        }
    }
}
