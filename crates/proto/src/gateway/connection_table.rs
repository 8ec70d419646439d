//! The connections of this worker, and the peers that their clients speak from, which may be other workers'.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::agenda::Cx;
use super::context::{PeerFacts, RequestContext};
use super::directory::ClientDirectory;
use super::events::{ClientEvent, EventKind, More};
use super::guests::Guest;
use super::kept;
use super::metrics::ConnectionEvent;
use super::news::{self, News};
use super::observations::Observations;
use super::settings::OnClose;
use super::timers::Timer;
use super::workers::{ToPeer, WorkerMessage};
use crate::bridge::subscriptions::AccountHolder;
use crate::coap::contract::{Code, Notification, ObservationId, PeerId};
use crate::invariant;
use crate::policy::connections::{Connection, ConnectionKey, Connections, Presence};
use crate::policy::ledger::Table;
use crate::state::{MARK, Store};
use crate::types::hash::IdMap;
use crate::types::reason::Label as _;
use crate::types::standing::Standing;
use crate::types::{ClientId, PeerAddr};

/// What a connection weighs by itself, in bytes, names apart: its record and its places in the indices.
pub(super) const CONNECTION: usize = 768;

/// A peer that clients with connections here speak from, as its worker tells.
pub(super) struct ClientPeer {
    pub(super) facts: PeerFacts,
    connections: Vec<ConnectionKey>,
    /// Those of them whose client does not count as online, or is listened for.
    absent: Vec<ConnectionKey>,
    /// When it last acknowledged something, or pinged.
    alive_at: Option<Instant>,
    /// How often something was sent to it again.
    pub(super) retransmissions: u64,
}

/// The connections of a worker.
#[derive(Default)]
pub(super) struct ConnectionTable {
    connections: Connections,
    peers: IdMap<PeerId, ClientPeer>,
    /// Where they are kept for the next process.
    store: Option<Arc<Store>>,
}

impl ConnectionTable {
    /// No connections; those to come are kept in `store`.
    pub(super) fn new(store: Option<Arc<Store>>) -> Self {
        Self {
            store,
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn get(&self, key: ConnectionKey) -> Option<&Connection> {
        self.connections.get(key)
    }

    pub(super) fn of_client(&self, client: &ClientId) -> Option<&Connection> {
        self.connections.of_client(client)
    }

    /// The connections after one, in the order of their keys.
    pub(super) fn after(&self, key: Option<ConnectionKey>) -> impl Iterator<Item = &Connection> {
        self.connections.after(key)
    }

    /// Where the client of a connection is.
    pub(super) fn place(&self, connection: &Connection) -> Option<&ClientPeer> {
        self.peers.get(&connection.peer?)
    }

    /// The connection that a request names and may use: by the key that its handshake proved, else by client id and token.
    pub(super) fn named(
        &self,
        context: &RequestContext,
        proved: Option<ConnectionKey>,
    ) -> Option<&Connection> {
        let connection = match proved {
            Some(key) => self.get(key)?,
            None => {
                let token = context.params.token.as_deref()?;
                let connection = self.of_client(context.client.as_ref()?)?;
                connection.token.matches(token).then_some(connection)?
            }
        };
        (connection.owner == context.from.owner).then_some(connection)
    }

    /// Takes a new connection in; the client's older one must have ended. What names it in the records that the next process finds.
    pub(super) fn insert(&mut self, cx: &mut Cx<'_>, mut connection: Connection) -> Option<u64> {
        if let (None, Some(store)) = (connection.kept, &self.store) {
            connection.kept = kept::keep_connection(store, &connection, cx.rng.random());
            kept::note_lifetime(&connection);
        }
        let mark = connection.kept.map(|record| record.get(MARK));
        arm(cx, &connection);
        let account = cx
            .ledger
            .open(AccountHolder::Connection(connection.key), connection.standing);
        let names =
            connection.client.as_str().len() + connection.username.as_ref().map_or(0, |name| name.len());
        cx.ledger.set(account, Table::Connections, CONNECTION + names);
        cx.metrics.connection_states.add(connection.presence, 1);
        self.connections.insert(connection);
        cx.metrics.connections.set(self.connections.len() as u64);
        mark
    }

    /// The client of a connection says how long it may be silent; nothing of its own where it means the heartbeat.
    pub(super) fn set_lifetime(
        &mut self,
        cx: &mut Cx<'_>,
        observations: &mut Observations,
        key: ConnectionKey,
        lifetime: Option<Duration>,
    ) {
        observations.set_sleeps(key, lifetime.is_some());
        if let Some(connection) = self.connections.get_mut(key) {
            connection.lifetime = lifetime;
            kept::note_lifetime(connection);
            arm(cx, connection);
        }
    }

    /// A client did not acknowledge what was sent to it. Where it said that it sleeps, all that is for it waits until it is heard of;
    /// else the observation ends (RFC 7641, 4.5).
    pub(super) fn unanswered(
        &mut self,
        cx: &mut Cx<'_>,
        observations: &mut Observations,
        id: ObservationId,
        notifications: Vec<Notification>,
    ) {
        let holder = observations.get(id).map(|observation| observation.holder);
        let sleeper = holder.and_then(|holder| match holder {
            AccountHolder::Connection(key) => self.get(key).filter(|it| it.lifetime.is_some()),
            AccountHolder::Peer(_) => None,
        });
        let Some(key) = sleeper.map(|connection| connection.key) else {
            return observations.end(cx, id);
        };
        let notifications = notifications.into_iter().map(|notification| (id, notification));
        observations.take_back(cx, notifications.collect());
        self.fall_asleep(cx, observations, key);
    }

    /// A client did not acknowledge a request; others may wait for it.
    pub(super) fn unreached(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, key: ConnectionKey) {
        let Some(connection) = self.get(key) else { return };
        if connection.lifetime.is_some() {
            self.fall_asleep(cx, observations, key);
        } else if connection.presence == Presence::Online {
            self.set_presence(cx, key, Presence::Asleep);
        }
    }

    /// Says by [`WorkerMessage::Heard`] when the client of a connection is heard of.
    pub(super) fn listen_for(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.is_listened_for = true;
        if let Some(peer) = connection.peer.and_then(|id| self.peers.get_mut(&id))
            && !peer.absent.contains(&key)
        {
            peer.absent.push(key);
        }
    }

    /// Nothing is sent to the client of a connection until it is heard of.
    fn fall_asleep(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut connection.is_held, true)
            && let Some(peer) = connection.peer
        {
            let ids = observations.set_away(key);
            connection.returning += usize::from(!ids.is_empty());
            cx.agenda.tell_peer(peer, ToPeer::Hold(key, ids));
        }
        if connection.presence == Presence::Online {
            self.set_presence(cx, key, Presence::Asleep);
        }
    }

    /// The client of a connection was heard of, and gets what waited for it.
    fn wake(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let was_held = std::mem::replace(&mut connection.is_held, false);
        if let (true, 0, Some(peer)) = (was_held, connection.returning, connection.peer) {
            observations.set_at(cx, key, peer);
        }
        if let Some(peer) = connection.peer.and_then(|id| self.peers.get_mut(&id)) {
            peer.absent.retain(|other| *other != key);
        }
        if std::mem::take(&mut connection.is_listened_for) {
            let heard = WorkerMessage::Heard(connection.client.clone());
            cx.agenda.tell(cx.worker, heard);
        }
        self.set_presence(cx, key, Presence::Online);
    }

    /// What is known of whether the client of a connection can be reached changes.
    fn set_presence(&mut self, cx: &mut Cx<'_>, key: ConnectionKey, presence: Presence) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut connection.presence, presence);
        if before == presence {
            return;
        }
        let states = &cx.metrics.connection_states;
        states.set(before, states.get(before).saturating_sub(1));
        states.add(presence, 1);
        if let Some(peer) = connection.peer.and_then(|id| self.peers.get_mut(&id)) {
            peer.absent.retain(|other| *other != key);
            if presence != Presence::Online {
                peer.absent.push(key);
            }
        }
        let Some(connection) = self.get(key) else { return };
        let from = self.place(connection).map(|peer| &peer.facts);
        let kind = match presence {
            Presence::Online => EventKind::Awake,
            Presence::Asleep => EventKind::Asleep,
            Presence::Lost => EventKind::Lost,
        };
        let silent = cx.now.saturating_duration_since(self.last_sign(connection));
        let place = (connection.listener, from.map(|from| from.address));
        cx.agenda.events.tell(cx.now, kind, place, || {
            ClientEvent::of_connection(kind, connection, from).with(More::Silent(silent))
        });
        let known = (connection.username.as_deref(), Some(&connection.grant.attributes));
        news::announce(
            cx,
            &connection.client,
            known,
            from,
            News::Presence(presence, silent),
        );
    }

    /// A valid request, or a handshake, used the connection: it lives on, and its observations are where that came from.
    pub(super) fn use_from(
        &mut self,
        cx: &mut Cx<'_>,
        observations: &mut Observations,
        key: ConnectionKey,
        from: &PeerFacts,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.seen_at = cx.now;
        let is_awaited = connection.lifetime.is_some() && !connection.is_held;
        if let Some(account) = cx.ledger.of(AccountHolder::Connection(key)) {
            cx.ledger.touch(account);
            cx.ledger.raise(account, from.standing);
        }
        if connection.peer != Some(from.id) {
            self.tell_moved(cx, key, from);
            cx.metrics.connection_events.inc(ConnectionEvent::Moved);
            self.part(cx, observations, key);
            self.attach(cx, observations, key, from);
        } else if let Some(peer) = self.peers.get_mut(&from.id) {
            peer.facts.address = from.address;
            if is_awaited {
                cx.agenda.tell_peer(from.id, ToPeer::Nudge);
            }
        }
        self.wake(cx, observations, key);
    }

    /// A request that was refused shows that its client is there, and keeps no connection alive (interface 2.3). What the gateway
    /// or the broker could not take now is no fault of it, and neither is what it asked for in vain.
    pub(super) fn take_back(&mut self, key: ConnectionKey, seen_at: Instant, refusal: Code) {
        let is_in_vain = matches!(
            refusal,
            Code::NOT_FOUND
                | Code::REQUEST_ENTITY_INCOMPLETE
                | Code::PRECONDITION_FAILED
                | Code::TOO_MANY_REQUESTS
        );
        let is_refused = refusal.class() == 4 && !is_in_vain;
        if let Some(connection) = self.connections.get_mut(key).filter(|_| is_refused) {
            connection.seen_at = seen_at;
        }
    }

    /// The client of a connection is at a peer from now on.
    pub(super) fn attach(
        &mut self,
        cx: &mut Cx<'_>,
        observations: &mut Observations,
        key: ConnectionKey,
        from: &PeerFacts,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            invariant!(false, "who attaches a connection has just seen it");
            return;
        };
        connection.peer = Some(from.id);
        connection.is_held = false;
        if connection.listener != from.listener {
            connection.listener = from.listener;
            arm(cx, connection);
        }
        kept::note_place(connection, from.mark);
        let peer = self.peers.entry(from.id).or_insert_with(|| ClientPeer {
            facts: from.clone(),
            connections: Vec::new(),
            absent: Vec::new(),
            alive_at: None,
            retransmissions: 0,
        });
        peer.connections.push(key);
        let guest = Guest {
            key,
            is_known: connection.standing == Standing::Known,
            client: connection.client.clone(),
            username: connection.username.clone(),
        };
        cx.agenda.tell_peer(from.id, ToPeer::Attach(guest));
        if connection.returning == 0 {
            observations.set_at(cx, key, from.id);
        }
    }

    /// Parts a connection from its peer. What its observations still had to get waits for the next one, and nothing overtakes
    /// it.
    fn part(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, key: ConnectionKey) {
        self.note_life(key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(id) = connection.peer.take() else { return };
        kept::note_place(connection, 0);
        let observations = observations.set_away(key);
        connection.returning += usize::from(!observations.is_empty());
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.connections.retain(|other| *other != key);
            peer.absent.retain(|other| *other != key);
            if peer.connections.is_empty() {
                self.peers.remove(&id);
            }
        }
        cx.agenda.tell_peer(id, ToPeer::Part(key, observations));
    }

    /// A peer gave back all that it had for a connection that parted from it.
    pub(super) fn parted(
        &mut self,
        cx: &mut Cx<'_>,
        observations: &mut Observations,
        key: ConnectionKey,
        notifications: Vec<(ObservationId, Notification)>,
    ) {
        observations.take_back(cx, notifications);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.returning = connection.returning.saturating_sub(1);
        if let (0, false, Some(peer)) = (connection.returning, connection.is_held, connection.peer) {
            observations.set_at(cx, key, peer);
        }
    }

    /// A peer is gone; its connections stay or end as the listener says.
    pub(super) fn peer_gone(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let listener = cx.settings.listener(peer.facts.listener);
        let ends = listener
            .and_then(|listener| listener.dtls.as_ref())
            .is_some_and(|dtls| dtls.on_close == OnClose::End);
        for key in peer.connections.clone() {
            if ends {
                self.end(cx, observations, key, ConnectionEvent::Ended);
            } else {
                self.part(cx, observations, key);
                self.set_presence(cx, key, Presence::Asleep);
            }
        }
    }

    /// A peer showed that it lives. Its connections look at it when their time comes, but for those whose client was absent: there
    /// may be many, and a ping costs its sender nothing.
    pub(super) fn peer_alive(
        &mut self,
        cx: &mut Cx<'_>,
        observations: &mut Observations,
        (id, address): (PeerId, PeerAddr),
        retransmissions: u64,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.alive_at = Some(cx.now);
        peer.facts.address = address;
        peer.retransmissions = retransmissions;
        for key in peer.absent.clone() {
            self.wake(cx, observations, key);
        }
    }

    /// When the client of a connection last showed that it lives: by a valid request, or at its peer by an acknowledgement or
    /// a ping.
    pub(super) fn last_sign(&self, connection: &Connection) -> Instant {
        let alive = self.place(connection).and_then(|peer| peer.alive_at);
        alive.map_or(connection.seen_at, |alive| alive.max(connection.seen_at))
    }

    /// Writes the last sign of life down with the connection.
    fn note_life(&mut self, key: ConnectionKey) {
        let sign = self.get(key).map(|connection| self.last_sign(connection));
        if let (Some(sign), Some(connection)) = (sign, self.connections.get_mut(key)) {
            connection.seen_at = sign;
        }
    }

    /// Ends a connection that was silent for too long, or whose credential has expired.
    pub(super) fn check(&mut self, cx: &mut Cx<'_>, observations: &mut Observations, key: ConnectionKey) {
        self.note_life(key);
        let Some(connection) = self.get(key) else { return };
        let heartbeat = cx.settings.heartbeat(connection.listener);
        if connection
            .deadline(heartbeat)
            .is_some_and(|deadline| deadline <= cx.now)
        {
            return self.end(cx, observations, key, ConnectionEvent::Expired);
        }
        if connection.lost_at(heartbeat).is_some_and(|at| at <= cx.now) {
            self.set_presence(cx, key, Presence::Lost);
        }
        if let Some(connection) = self.get(key) {
            arm(cx, connection);
        }
    }

    /// The heartbeat is another from now on.
    pub(super) fn arm_all(&self, cx: &mut Cx<'_>) {
        for connection in self.connections.iter() {
            arm(cx, connection);
        }
    }

    /// Whether each connection is known where its client is, and nowhere else.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let known = |connection: &Connection| {
            let place = self.place(connection);
            connection.peer.is_none() || place.is_some_and(|peer| peer.connections.contains(&connection.key))
        };
        let attached = |(id, peer): (&PeerId, &ClientPeer)| {
            let here = |key: &ConnectionKey| self.get(*key).is_some_and(|it| it.peer == Some(*id));
            !peer.connections.is_empty() && peer.connections.iter().all(here)
        };
        self.connections.iter().all(known) && self.peers.iter().all(attached)
    }

    /// Tells that a connection goes on from elsewhere.
    fn tell_moved(&self, cx: &mut Cx<'_>, key: ConnectionKey, to: &PeerFacts) {
        let Some(connection) = self.get(key) else { return };
        let before = self.place(connection).map(|peer| peer.facts.address);
        let kind = EventKind::Moved;
        cx.tell(kind, to, || {
            let told = ClientEvent::of_connection(kind, connection, Some(to));
            told.with(before.map_or(More::Nothing, More::From))
        });
    }

    /// Tells that the client of a connection came, or with a reason that it went.
    pub(super) fn announce(&self, cx: &mut Cx<'_>, key: ConnectionKey, reason: Option<&'static str>) {
        if let Some(connection) = self.get(key) {
            let from = self.place(connection).map(|peer| &peer.facts);
            let kinds: &[EventKind] = match reason {
                None => &[EventKind::Connected],
                Some(why) if why == ConnectionEvent::Replaced.label() => {
                    &[EventKind::TakenOver, EventKind::Disconnected]
                }
                Some(_) => &[EventKind::Disconnected],
            };
            for kind in kinds {
                let place = (connection.listener, from.map(|from| from.address));
                cx.agenda.events.tell(cx.now, *kind, place, || ClientEvent {
                    reason,
                    ..ClientEvent::of_connection(*kind, connection, from)
                });
            }
            let known = (connection.username.as_deref(), Some(&connection.grant.attributes));
            let what = reason.map_or(News::Connected, News::Disconnected);
            news::announce(cx, &connection.client, known, from, what);
        }
    }

    /// Ends a connection and its observations, here and at its client's home worker.
    pub(super) fn end(
        &mut self,
        cx: &mut Cx<'_>,
        observations: &mut Observations,
        key: ConnectionKey,
        event: ConnectionEvent,
    ) {
        self.announce(cx, key, Some(event.label()));
        if let Some(connection) = self.get(key).filter(|connection| connection.is_listened_for) {
            let gone = WorkerMessage::ConnectionGone(connection.client.clone());
            cx.agenda.tell(cx.worker, gone);
        }
        observations.end_all(cx, AccountHolder::Connection(key));
        self.part(cx, observations, key);
        let Some(Connection {
            client,
            kept,
            presence,
            ..
        }) = self.connections.remove(key)
        else {
            return;
        };
        let states = &cx.metrics.connection_states;
        states.set(presence, states.get(presence).saturating_sub(1));
        if let (Some(store), Some(record)) = (&self.store, kept) {
            store.free(record);
        }
        cx.timers.disarm(Timer::Connection(key));
        if let Some(account) = cx.ledger.of(AccountHolder::Connection(key)) {
            cx.ledger.close(account);
        }
        cx.metrics.connection_events.inc(event);
        cx.metrics.connections.set(self.connections.len() as u64);
        let home = ClientDirectory::home(&client, cx.settings.workers);
        cx.agenda.tell(home, WorkerMessage::Ended(client, key));
    }
}

fn arm(cx: &mut Cx<'_>, connection: &Connection) {
    let heartbeat = cx.settings.heartbeat(connection.listener);
    let lost_at = connection.lost_at(heartbeat);
    let lost_at = lost_at.filter(|_| connection.presence != Presence::Lost);
    if let Some(at) = connection.deadline(heartbeat).into_iter().chain(lost_at).min() {
        cx.timers.arm(at, Timer::Connection(connection.key));
    }
}
