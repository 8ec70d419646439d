//! Datagram in: to its peer, through DTLS where the listener speaks it, into the message layer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::contract::Output;
use super::events::{EventKind, More};
use super::guests::Guests;
use super::metrics::ConnectionEvent;
use super::news::{self, News};
use super::peers::Peer;
use super::trace::Traced;
use super::traffic::Traffic;
use super::workers::{FromPeer, WorkerMessage};
use super::{Gateway, cx};
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::Source;
use crate::coap::contract::PeerId;
use crate::policy::bans::BanKind;
use crate::policy::ledger::{AccountId, Ledger, Table};
use crate::policy::shares::Share;
use crate::session::{CloseReason, DtlsEvent, DtlsNote, SessionId, StreamEvent};
use crate::types::reason::{DropReason, Label as _, Limit};
use crate::types::standing::Standing;
use crate::types::{Identity, ListenerId, PeerAddr, WorkerId};

/// A UDP peer that is silent for this long may be forgotten to make room: EXCHANGE_LIFETIME (RFC 7252, 4.8.2).
pub(super) const UDP_PEER_IDLE: Duration = Duration::from_secs(247);

/// How many places one sweep for silent peers looks at, at least, and how many sweeps go through all of them.
const SWEEP_PLACES: usize = 4096;
const SWEEPS: usize = 24;

/// Of so many places, the one silent longest gives way to a new peer: what a newcomer costs is bounded.
const PLACES_LOOKED_AT: usize = 64;

/// How exactly the order is kept in which peers were heard: moving one to the end for each datagram would cost the packet path.
const GRAIN: Duration = Duration::from_secs(1);

/// What a peer weighs by itself, in bytes: its record, its places in the indices, and what the message layer keeps of any. What its
/// session weighs comes to it.
const PEER: usize = 640;

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
        } else if let Some(peer) = self.udp_peer(now, listener, from) {
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
    fn shuts_out(&self, now: Instant, listener: ListenerId, from: PeerAddr) -> Option<DropReason> {
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

    /// Whether the address of a peer is proved.
    pub(super) fn is_proven(&self, peer: PeerId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.coap.is_proven())
    }

    fn received(&mut self, now: Instant, id: PeerId, bytes: &[u8]) {
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

    /// Writes down what the message layer keeps for a peer.
    pub(super) fn weigh(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(id) {
            let kept = self.coap.kept(&peer.coap);
            self.ledger.set(peer.account, Table::Blocks, kept.blocks);
            self.ledger.set(peer.account, Table::Queues, kept.queue);
            self.ledger.set(peer.account, Table::Requests, kept.requests);
        }
    }

    /// Looks whether a peer showed by now that it receives where it sends from.
    fn proved(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(id).filter(|peer| peer.coap.is_proven()) else {
            return;
        };
        self.ledger.raise(peer.account, Standing::Proven);
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

    pub(super) fn count_dropped(&self, listener: ListenerId, reason: DropReason) {
        if let Some(metrics) = self.metrics.listeners.get(usize::from(listener.0)) {
            metrics.dropped.inc(reason);
        }
    }

    pub(super) fn udp_peer(&mut self, now: Instant, listener: ListenerId, from: PeerAddr) -> Option<PeerId> {
        if let Some(known) = self.peers.at_address(listener, from) {
            return Some(known);
        }
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
                let record = datagram.get(range).unwrap_or_default();
                self.hand_record_on(worker, listener, from, record);
            }
            DtlsEvent::AddressChanged {
                session,
                to,
                confirmed,
            } => {
                self.session_moved(now, session, to, confirmed);
            }
            DtlsEvent::Closed { session, reason } => {
                self.session_closed(now, session, reason);
            }
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

    fn hand_record_on(&mut self, to: WorkerId, listener: ListenerId, from: PeerAddr, record: &[u8]) {
        let message = WorkerMessage::Record {
            listener,
            from,
            bytes: record.into(),
        };
        self.agenda.tell(to, message);
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

    /// What a peer with a session weighs by itself.
    fn session_weight(&self, listener: ListenerId) -> usize {
        let dtls = self.dtls.get(usize::from(listener.0)).and_then(Option::as_ref);
        PEER + dtls.map_or(0, |dtls| dtls.session_weight())
    }

    /// A protected record that came to another worker: the session of before the restart is here.
    pub(super) fn record_from_elsewhere(
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

    pub(super) fn dtls_timeouts(&mut self, now: Instant) {
        for dtls in self.dtls.iter_mut().flatten() {
            dtls.handle_timeout(now, &mut self.transmits);
        }
    }

    /// Tells of a DTLS session that is a client by itself: connectionless, with an identity that is the client id.
    fn announce_session(&mut self, now: Instant, id: PeerId, reason: Option<CloseReason>) {
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
        let (session, listener) = (peer.session, usize::from(peer.listener.0));
        self.ledger.close(peer.account);
        if let Some(principal) = &peer.principal {
            let weight = self.session_weight(peer.listener);
            self.shared.shares.give_back(principal, Share::bytes(weight));
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

fn open_account(
    ledger: &mut Ledger<AccountHolder>,
    peer: PeerId,
    standing: Standing,
    bytes: usize,
) -> AccountId {
    let account = ledger.open(AccountHolder::Peer(peer), standing);
    ledger.set(account, Table::Peers, bytes);
    account
}
