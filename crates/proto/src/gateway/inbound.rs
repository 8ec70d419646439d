//! Datagram in: to its peer, through DTLS where the listener speaks it, into the message layer.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Gateway;
use crate::coap::contract::PeerId;
use crate::policy::bans::BanKind;
use crate::session::StreamEvent;
use crate::types::reason::{DropReason, Limit};
use crate::types::standing::Standing;
use crate::types::{ListenerId, PeerAddr};

/// How exactly the order is kept in which peers were heard: moving one to the end for each datagram would cost the packet path.
const GRAIN: Duration = Duration::from_secs(1);

impl Gateway {
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        listener: ListenerId,
        (from, local): (SocketAddr, Option<IpAddr>),
        bytes: &mut [u8],
    ) {
        let Some(from) = PeerAddr::new(from).map(|from| from.writing_to(local)) else {
            return self.count_dropped(listener, DropReason::SourcePortZero);
        };
        if let Some(reason) = self.shuts_out(now, listener, from) {
            return self.dropped(now, listener, from, bytes.len(), reason);
        }
        if bytes.is_empty() {
            return self.dropped(now, listener, from, 0, DropReason::EmptyDatagram);
        }
        if self.is_health_request(listener, bytes) && self.may_send(now, listener, from) {
            self.answer_health(listener, from);
        } else if let Some(dtls) = self
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
        } else if let Some(peer) = self
            .peers
            .at_address(listener, from)
            .or_else(|| self.new_udp_peer(now, listener, from))
        {
            self.received(now, peer, bytes);
        } else {
            self.dropped(now, listener, from, bytes.len(), DropReason::Limit);
        }
    }

    /// Something happened to a stream. Whom the listener does not serve, its stream is ended as soon as it is open.
    pub(super) fn stream(&mut self, now: Instant, listener: ListenerId, from: PeerAddr, event: StreamEvent) {
        if matches!(event, StreamEvent::Opened { .. })
            && let Some(reason) = self.shuts_out(now, listener, from)
        {
            self.dropped(now, listener, from, 0, reason);
            return self.transmits.push_end(listener, from);
        }
        let index = usize::from(listener.0);
        let Some(dtls) = self.dtls.get_mut(index).and_then(Option::as_mut) else {
            return self.transmits.push_end(listener, from);
        };
        let written = dtls.handle_stream(now, from, event, &mut self.transmits);
        if let Some(session) = written
            && let Some(id) = self.peers.on_session(session)
            && let Some(peer) = self.peers.get_mut(id)
        {
            self.coap.written(now, &mut peer.coap, dtls.queued(session));
            self.weigh(id);
        }
    }

    /// Why the listener does not serve an address at all.
    pub(super) fn shuts_out(&self, now: Instant, listener: ListenerId, from: PeerAddr) -> Option<DropReason> {
        let settings = self.settings.listener(listener);
        if !settings.is_some_and(|settings| settings.access.allows(from.ip())) {
            return Some(DropReason::AccessDenied);
        }
        if self.bans.has_address(now, from.ip()) {
            self.metrics.bans.inc(BanKind::Address);
            return Some(DropReason::Banned);
        }
        let is_stopped = self.disabled.get(usize::from(listener.0)).copied();
        is_stopped.unwrap_or(true).then_some(DropReason::ListenerStopped)
    }

    fn is_health_request(&self, listener: ListenerId, bytes: &[u8]) -> bool {
        let health = self.settings.listener(listener).and_then(|it| it.health.as_ref());
        health.is_some_and(|health| *health.request == *bytes)
    }

    fn answer_health(&mut self, listener: ListenerId, from: PeerAddr) {
        if let Some(health) = self.settings.listener(listener).and_then(|it| it.health.as_ref()) {
            self.transmits.push(listener, from, &health.reply);
        }
        if let Some(metrics) = self.metrics.listeners.get(usize::from(listener.0)) {
            metrics.health_requests.inc();
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

    pub(super) fn received(&mut self, now: Instant, id: PeerId, bytes: &[u8]) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if now.saturating_duration_since(peer.seen_at) >= GRAIN {
            self.ledger.touch(peer.account);
        }
        peer.seen_at = now;
        peer.traffic.received(bytes.len());
        let proven = peer.coap.is_proven();
        if !proven && self.ledger.is_half_full(Standing::Unproven) {
            // Who shows that it receives there is no stranger any more before strangers have to give way.
            peer.coap.ask_for_proof();
        }
        let dropped = self.coap.receive(now, &mut peer.coap, bytes);
        self.weigh(id);
        if !proven {
            self.proved(id);
        }
        if !self.traces.is_empty() {
            self.trace_received(now, id, bytes, dropped);
        }
    }

    pub(super) fn dropped(
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
}
