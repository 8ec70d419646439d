//! How a peer begins, what it weighs, when it gives way, and what ends with it.

use std::time::{Duration, Instant};

use super::events::EventKind;
use super::guests::Guests;
use super::metrics::ConnectionEvent;
use super::news::{self, News};
use super::peers::Peer;
use super::trace::Traced;
use super::traffic::Traffic;
use super::workers::FromPeer;
use super::{Gateway, cx};
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::Source;
use crate::coap::contract::PeerId;
use crate::policy::ledger::{AccountId, Ledger, Table};
use crate::policy::shares::Share;
use crate::session::CloseReason;
use crate::types::reason::{Label as _, Limit};
use crate::types::standing::Standing;
use crate::types::{ListenerId, PeerAddr, WorkerId};

/// A UDP peer that is silent for this long may be forgotten to make room: EXCHANGE_LIFETIME (RFC 7252, 4.8.2).
pub(super) const UDP_PEER_IDLE: Duration = Duration::from_secs(247);

/// How many places one sweep for silent peers looks at, at least, and how many sweeps go through all of them.
const SWEEP_PLACES: usize = 4096;
const SWEEPS: usize = 24;

/// Of so many places, the one silent longest gives way to a new peer: what a newcomer costs is bounded.
const PLACES_LOOKED_AT: usize = 64;

/// What a peer weighs by itself, in bytes: its record, its places in the indices, and what the message layer keeps of any. What its
/// session weighs comes to it.
const PEER: usize = 640;

impl Gateway {
    /// Makes the peer of an address that none is at; `None` where there is no room for it.
    pub(super) fn new_udp_peer(
        &mut self,
        now: Instant,
        listener: ListenerId,
        from: PeerAddr,
    ) -> Option<PeerId> {
        if !self.ledger.admits(Standing::Unproven, PEER, None) {
            self.metrics.limits.inc(Limit::Memory);
            return None;
        }
        if !self.has_place(now, listener) {
            return None;
        }
        let source = Source::Address(listener, from);
        let ledger = &mut self.ledger;
        let peer = self.peers.insert(|id| Peer {
            account: open_account(ledger, id, Standing::Unproven, PEER),
            principal: None,
            weight: PEER,
            listener,
            address: from,
            session: None,
            secure: false,
            identity: None,
            bound: None,
            guests: Guests::default(),
            client: None,
            since: now,
            seen_at: now,
            alive_at: None,
            kept: None,
            traffic: Traffic::default(),
            coap: self.coap.peer(id, listener, source, false),
        });
        if let Some(metrics) = self.metrics.listeners.get(usize::from(listener.0)) {
            metrics.udp_peers.add(1);
        }
        Some(peer)
    }

    /// Whether a listener may have one more UDP peer. Where it has as many as it may, one that has not proved its address gives way.
    fn has_place(&mut self, now: Instant, listener: ListenerId) -> bool {
        let most = self.settings.listener(listener).map_or(0, |it| it.max_peers);
        let metrics = self.metrics.listeners.get(usize::from(listener.0));
        let have = metrics.map_or(0, |metrics| metrics.udp_peers.get());
        if most == 0 || have < most as u64 {
            return true;
        }
        self.metrics.limits.inc(Limit::Peers);
        let Some(stranger) = self.peers.longest_silent(PLACES_LOOKED_AT, |peer| {
            peer.listener == listener && peer.session.is_none() && !peer.coap.is_proven()
        }) else {
            return false;
        };
        self.peer_gone(now, stranger, CloseReason::Evicted);
        true
    }

    /// What a peer with a session weighs by itself.
    pub(super) fn session_weight(&self, listener: ListenerId) -> usize {
        let dtls = self.dtls.get(usize::from(listener.0)).and_then(Option::as_ref);
        PEER + dtls.map_or(0, |dtls| dtls.session_weight())
    }

    /// Tells of a DTLS session that is a client by itself: connectionless, with an identity that is the client id.
    pub(super) fn announce_session(&mut self, now: Instant, id: PeerId, reason: Option<CloseReason>) {
        if self.peers.get(id).is_none_or(|peer| peer.session.is_none()) {
            return;
        }
        let listener = self.peers.get(id).map(|peer| peer.listener);
        let required = listener.is_some_and(|listener| self.settings.connection_required(listener));
        let kind = match (required, reason) {
            (false, None) => EventKind::Connected,
            (false, Some(_)) => EventKind::Disconnected,
            (true, None) => EventKind::SessionStarted,
            (true, Some(_)) => EventKind::SessionEnded,
        };
        self.tell_of_peer(now, id, kind, |event| match reason {
            Some(reason) => event.because(reason.label()),
            None => event,
        });
        let Some(from) = self.peers.get(id).map(|peer| peer.facts(id, &self.ledger)) else {
            return;
        };
        if required {
            return;
        }
        let listener = self.settings.listener(from.listener);
        let dtls = listener.and_then(|listener| listener.dtls.as_ref());
        let client = dtls
            .zip(from.identity())
            .and_then(|(dtls, identity)| dtls.proved_client(identity));
        if let Some(client) = client {
            let what = reason.map_or(News::Connected, |_| News::Disconnected("session_ended"));
            news::announce(&mut cx!(self, now), &client, (None, None), Some(&from), what);
        }
    }

    /// Forgets some of the UDP peers that have neither connection nor observation and are silent.
    pub(super) fn sweep(&mut self, now: Instant) {
        let observations = &self.observations;
        let needed = |id: PeerId, peer: &Peer| {
            !peer.guests.is_empty() || !observations.of(AccountHolder::Peer(id)).is_empty()
        };
        let idle = self.pressure.idle(UDP_PEER_IDLE);
        let places = SWEEP_PLACES.max(self.peers.places() / SWEEPS);
        for peer in self.peers.sweep(now, idle, places, needed) {
            self.peer_gone(now, peer, CloseReason::Idle);
        }
    }

    /// Ends what gives way for want of memory.
    pub(super) fn give_way(&mut self, now: Instant, holder: AccountHolder) {
        self.metrics.limits.inc(Limit::Memory);
        match holder {
            AccountHolder::Peer(id) => self.end_peer(now, id, CloseReason::Evicted),
            AccountHolder::Connection(key) => {
                let (connections, observations) = (&mut self.connections, &mut self.observations);
                connections.end(&mut cx!(self, now), observations, key, ConnectionEvent::Evicted);
            }
        }
    }

    /// Ends a peer, with its DTLS session if it has one.
    pub(super) fn end_peer(&mut self, now: Instant, id: PeerId, reason: CloseReason) {
        self.close_session(now, id, reason);
        self.peer_gone(now, id, reason);
    }

    /// Ends what a client whose connection was ended still has at its peer: its DTLS session. Several clients may share a UDP
    /// address: that of the others stays.
    pub(super) fn kick_peer(&mut self, now: Instant, id: PeerId) {
        if self.close_session(now, id, CloseReason::Kicked) {
            self.peer_gone(now, id, CloseReason::Kicked);
        } else {
            self.peers.set_client(id, None);
        }
    }

    /// Ends the DTLS session of a peer; false where it has none.
    pub(super) fn close_session(&mut self, now: Instant, id: PeerId, reason: CloseReason) -> bool {
        let place = self.peers.get(id).map(|peer| (peer.listener, peer.session));
        let Some((listener, Some(session))) = place else {
            return false;
        };
        if !self.traces.is_empty() {
            self.trace_peer(now, id, &Traced::Closed(reason));
        }
        let dtls = self.dtls.get_mut(usize::from(listener.0));
        if let Some(dtls) = dtls.and_then(Option::as_mut) {
            dtls.close(now, session, reason, &mut self.transmits);
        }
        true
    }

    /// Ends all that belonged to a peer, and tells the owners of what was used from there.
    pub(super) fn peer_gone(&mut self, now: Instant, id: PeerId, reason: CloseReason) {
        self.announce_session(now, id, Some(reason));
        if let Some(peer) = self.peers.get_mut(id) {
            for observation in self.observations.of(AccountHolder::Peer(id)) {
                self.coap.cancel(&mut peer.coap, *observation);
            }
        }
        self.observations
            .end_all(&mut cx!(self, now), AccountHolder::Peer(id));
        self.part_from_owners(id);
        let Some(peer) = self.peers.remove(id) else {
            return;
        };
        if let (None, Some(store), Some(record)) = (peer.session, &self.store, peer.kept) {
            store.free(record);
        }
        self.found.forget(peer.kept);
        let (session, listener) = (peer.session, usize::from(peer.listener.0));
        self.ledger.close(peer.account);
        if let Some(principal) = &peer.principal {
            self.shared.shares.give_back(principal, Share::bytes(peer.weight));
        }
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
            let what = FromPeer::Undelivered(notifications);
            self.agenda.tell_owner(worker, peer, what);
            self.agenda.tell_owner(worker, peer, FromPeer::Gone);
        }
    }
}

pub(super) fn open_account(
    ledger: &mut Ledger<AccountHolder>,
    peer: PeerId,
    standing: Standing,
    bytes: usize,
) -> AccountId {
    let account = ledger.open(AccountHolder::Peer(peer), standing);
    ledger.set(account, Table::Peers, bytes);
    account
}
