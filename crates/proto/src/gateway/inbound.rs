//! Datagram in: to its peer, through DTLS where the listener speaks it, into the message layer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Gateway;
use super::events::Told;
use super::metrics::ConnectionEvent;
use super::peers::Peer;
use super::settings::OnClose;
use super::trace::Traced;
use crate::bridge::subscriptions::Holder;
use crate::coap::Source;
use crate::coap::contract::{Event, NotificationOutcome, PeerId};
use crate::session::{DtlsEvent, SessionId};
use crate::types::reason::{DropReason, Limit};
use crate::types::{Identity, ListenerId, PeerAddr};

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
            .listener_settings(listener)
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
            let taken = dtls.handle_datagram(now, from, bytes, &mut self.transmits);
            self.dtls_events(now, listener, bytes);
            if !taken {
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
        let dropped = self.coap.receive(now, &mut peer.coap, bytes);
        if !self.traces.is_empty() {
            self.trace_received(now, id, bytes, dropped);
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
            connections: Vec::new(),
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
        let subscriptions = &self.subscriptions;
        let needed = |id: PeerId, peer: &Peer| {
            !peer.connections.is_empty() || !subscriptions.of(Holder::Peer(id)).is_empty()
        };
        match self.peers.idle_udp_peer(now, idle, needed) {
            Some(peer) => {
                self.peer_gone(now, peer);
                true
            }
            None => false,
        }
    }

    /// Handles what DTLS made of `datagram`, which holds the plaintexts.
    pub(super) fn dtls_events(&mut self, now: Instant, listener: ListenerId, datagram: &[u8]) {
        while let Some(event) = self
            .dtls
            .get_mut(usize::from(listener.0))
            .and_then(Option::as_mut)
            .and_then(|dtls| dtls.poll_event())
        {
            match event {
                DtlsEvent::Plaintext { session, range } => {
                    let plaintext = datagram.get(range).unwrap_or_default();
                    if let Some(peer) = self.peers.seen_on_session(now, session) {
                        self.received(now, peer, plaintext);
                        // The next record may close the session: what this one asked for is answered first.
                        self.settle(now);
                    }
                }
                DtlsEvent::Established {
                    session,
                    address,
                    identity,
                } => {
                    self.session_established(now, listener, session, address, identity);
                }
                DtlsEvent::AddressChanged { session, to } => {
                    if let Some(id) = self.peers.seen_on_session(now, session)
                        && let Some(peer) = self.peers.get_mut(id)
                    {
                        peer.address = to;
                        self.coap.unprove(&mut peer.coap);
                        peer.coap.ask_for_proof();
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
        }
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
            connections: Vec::new(),
            client: None,
            since: now,
            seen_at: now,
            alive_at: None,
            coap: self.coap.peer(id, listener, source, true),
        });
        if !self.traces.is_empty()
            && let Some(info) = self.session_info_of(peer)
        {
            self.trace_peer(now, peer, &Traced::Established(info));
        }
        if self.settings.connection_required {
            self.connect_implicitly(now, peer);
        }
        self.announce_session(peer, None);
    }

    pub(super) fn dtls_timeouts(&mut self, now: Instant) {
        for index in 0..self.dtls.len() {
            if let Some(dtls) = self.dtls.get_mut(index).and_then(Option::as_mut) {
                dtls.handle_timeout(now, &mut self.transmits);
            }
            if let Ok(index) = u16::try_from(index) {
                self.dtls_events(now, ListenerId(index), &[]);
            }
        }
    }

    fn announce_session(&mut self, id: PeerId, reason: Option<&'static str>) {
        let Some(peer) = self.peers.get(id) else { return };
        let Some(client) = self.client_of_session(peer) else {
            return;
        };
        let news = self.news(
            &Told {
                client: &client,
                username: None,
                peer: Some(peer),
            },
            reason,
        );
        self.announce(news);
    }

    /// Ends all that belonged to a peer; its connections stay or end as the listener says.
    pub(super) fn peer_gone(&mut self, now: Instant, id: PeerId) {
        self.announce_session(id, Some("session_ended"));
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let listener = usize::from(peer.listener.0);
        let (connections, session) = (std::mem::take(&mut peer.connections), peer.session);
        let dtls = self
            .settings
            .listeners
            .get(listener)
            .and_then(|settings| settings.dtls.as_ref());
        let ends = session.is_some() && dtls.is_some_and(|dtls| dtls.on_close == OnClose::End);
        for key in connections {
            self.detach(key);
            if ends {
                self.end_connection(now, key, ConnectionEvent::Ended);
            }
        }
        self.end_observations(Holder::Peer(id));
        if let Some(peer) = self.peers.remove(id) {
            self.coap.forget(peer.coap);
        }
        if session.is_none()
            && let Some(metrics) = self.metrics.listeners.get(listener)
        {
            metrics.udp_peers.sub(1);
        }
    }

    /// Handles all that the message layer made of its inputs, and collects what it wants sent.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(event) = self.coap.poll_event() {
            match event {
                Event::Request {
                    peer,
                    exchange,
                    request,
                } => self.request(now, peer, exchange, request),
                Event::Notified {
                    observation, outcome, ..
                } => {
                    self.notified(now, observation, outcome);
                }
                Event::Alive { peer } => self.alive(now, peer),
                Event::Answered { request, result } => self.device_answered(request, result),
            }
        }
        self.flush(now);
    }

    fn notified(
        &mut self,
        now: Instant,
        observation: crate::coap::contract::ObservationId,
        outcome: NotificationOutcome,
    ) {
        match outcome {
            NotificationOutcome::Acknowledged => {
                if let Some(observation) = self.subscriptions.get_mut(observation) {
                    observation.confirmed_at = now;
                }
            }
            NotificationOutcome::Reset | NotificationOutcome::TimedOut => self.end_observation(observation),
        }
    }

    /// An acknowledgement or a ping keeps the connections at that address alive (interface 2.3). They look at it when their
    /// time comes: there may be many, and a ping costs its sender nothing.
    fn alive(&mut self, now: Instant, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.alive_at = Some(now);
        }
    }
}
