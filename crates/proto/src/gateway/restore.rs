//! How a gateway takes over what an earlier process left of its UDP peers, connections, observations and notifications.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection_table::CONNECTION as CONNECTION_WEIGHT;
use super::directory::ClientDirectory;
use super::events::{ClientEvent, EventKind, More};
use super::kept::{
    AT, CONNECTION, LIFETIME, NOTIFICATION, OBSERVATION, PEER, listener_mark, read_grant, read_owner,
    read_terms, read_text,
};
use super::metrics::ConnectionEvent;
use super::peer_life::UDP_PEER_IDLE;
use super::pending_requests::Awaited;
use super::workers::WorkerMessage;
use super::{Gateway, cx};
use crate::bridge::contract::BrokerRequest;
use crate::bridge::subscriptions::{AccountHolder, Terms};
use crate::coap::contract::PeerId;
use crate::policy::authorization::{Access, Action};
use crate::policy::connections::{Connection, ConnectionKey, ConnectionToken, Presence};
use crate::policy::pattern::Subject;
use crate::session::RestoreResult;
use crate::state::{Contents, Kind, MARK, ReadBytes, Record, Store};
use crate::types::hash::IdMap;
use crate::types::reason::Label as _;
use crate::types::standing::Standing;
use crate::types::{ClientId, ListenerId, PeerAddr, Transport, WorkerId};

/// Whose what goes on was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// An earlier process of this node.
    Process,
    /// A node of the group that is gone: the broker knows nothing of it as this one's.
    Node,
}

/// What an earlier process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Session,
    Peer,
    Connection,
    Observation,
    Notification,
}

impl Left {
    const fn words(self) -> &'static str {
        match self {
            Self::Session => "DTLS sessions",
            Self::Peer => "UDP peers",
            Self::Connection => "connections",
            Self::Observation => "observations",
            Self::Notification => "notifications",
        }
    }
}

/// What became of all that an earlier process left.
#[derive(Debug, Default)]
pub struct Restored(BTreeMap<(Left, RestoreResult), u64>);

impl Restored {
    fn add(&mut self, what: Left, result: RestoreResult, count: u64) {
        *self.0.entry((what, result)).or_default() += count;
    }

    /// What goes on, in words; nothing where nothing does.
    #[must_use]
    pub fn goes_on(&self) -> String {
        let ok = self
            .0
            .iter()
            .filter(|((_, result), _)| *result == RestoreResult::Ok);
        let words = ok.map(|((what, _), count)| format!("{count} {}", what.words()));
        words.collect::<Vec<_>>().join(", ")
    }

    /// What does not, and why, in words.
    #[must_use]
    pub fn does_not(&self) -> String {
        let not = self
            .0
            .iter()
            .filter(|((_, result), _)| *result != RestoreResult::Ok);
        let words = not.map(|((what, why), count)| format!("{count} {} ({})", what.words(), why.label()));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// What of an earlier process a gateway found again, while it still asks for it.
#[derive(Default)]
pub(super) struct Found {
    /// Sessions and UDP peers by their marks.
    peers: IdMap<u64, PeerId>,
    /// Sessions in the order in which they came back.
    sessions: Vec<PeerId>,
}

impl Found {
    /// A session goes on.
    pub(super) fn session(&mut self, record: Option<Record>, peer: PeerId) {
        self.sessions.push(peer);
        if let Some(record) = record {
            self.peers.insert(record.get(MARK), peer);
        }
    }

    /// What a mark names is gone.
    pub(super) fn forget(&mut self, record: Option<Record>) {
        // Most were not found, but begun here.
        if let (Some(record), false) = (record, self.peers.is_empty()) {
            self.peers.remove(&record.get(MARK));
        }
    }

    /// The session or UDP peer with a mark.
    pub(super) fn peer(&self, mark: u64) -> Option<PeerId> {
        self.peers.get(&mark).copied()
    }
}

impl Gateway {
    /// What became of all that an earlier process left.
    #[must_use]
    pub const fn restored(&self) -> &Restored {
        &self.restored
    }

    /// Takes over what an earlier process left, or another node. Nobody is told: its clients were there all the time.
    pub(super) fn restore(&mut self, now: Instant, origin: Origin) {
        let is_taken = origin == Origin::Node;
        for (listener, dtls) in (0..).map(ListenerId).zip(&mut self.dtls) {
            let results = dtls
                .as_mut()
                .map(|dtls| dtls.restore(&mut self.transmits, is_taken));
            for (result, count) in results.into_iter().flatten() {
                self.restored.add(Left::Session, result, count);
                let what = ClientEvent::at(EventKind::Restored, listener, None).because(result.label());
                self.agenda
                    .events
                    .tell(now, EventKind::Restored, (listener, None), || {
                        what.with(More::Sessions(count))
                    });
            }
        }
        self.all_dtls_events(now);
        if let Some(store) = self.store.clone() {
            if !is_taken {
                self.coap.keep_answered(now, &store);
            }
            let metrics = Arc::clone(&self.metrics);
            let [observations, notifications] = metrics.restored(origin, store.is_inexact());
            self.restore_each(now, &store, (PEER, Left::Peer), |it, record, contents| {
                it.restore_peer(now, record, contents)
            });
            let mut connections = HashMap::new();
            self.restore_each(
                now,
                &store,
                (CONNECTION, Left::Connection),
                |it, record, contents| {
                    let key = it.restore_connection(now, &store, record, contents)?;
                    connections.insert(record.get(MARK), key);
                    Ok(())
                },
            );
            self.restore_each(
                now,
                &store,
                (OBSERVATION, Left::Observation),
                |it, record, contents| {
                    let result =
                        it.restore_observation(now, &store, (record, contents), &connections, origin);
                    observations.inc(result.err().unwrap_or(RestoreResult::Ok));
                    result
                },
            );
            let mut waiting = Vec::new();
            self.restore_each(
                now,
                &store,
                (NOTIFICATION, Left::Notification),
                |it, record, contents| {
                    let mark = record.get(MARK);
                    let of_connection = connections.get(&mark).copied().map(AccountHolder::Connection);
                    let of_peer = it.found.peer(mark).map(AccountHolder::Peer);
                    let holder = of_connection.or(of_peer).ok_or(RestoreResult::Gone);
                    let read = |holder| it.observations.read_notification(holder, record, contents);
                    let result = holder.and_then(read);
                    notifications.inc(result.as_ref().err().copied().unwrap_or(RestoreResult::Ok));
                    let (observation, notification) = result?;
                    waiting.push((mark, observation, notification));
                    Ok(())
                },
            );
            self.observations.go_on_with(&mut cx!(self, now), waiting);
        }
        if !is_taken {
            self.join_found(now);
            if self.store.is_some() {
                self.agenda.broker(BrokerRequest::Restored);
            }
        }
        self.settle(now);
    }

    /// Has the sessions that were found have the connections that their handshakes were, where they have none.
    pub(super) fn join_found(&mut self, now: Instant) {
        for peer in std::mem::take(&mut self.found.sessions) {
            let joins = self.peers.get(peer).is_some_and(|peer| {
                peer.guests.is_empty() && self.settings.connection_required(peer.listener)
            });
            if joins {
                self.connect_implicitly(now, peer);
            }
        }
    }

    /// Restores the records of a kind, each under its mark, and forgets those of which nothing comes.
    fn restore_each(
        &mut self,
        now: Instant,
        store: &Store,
        (kind, what): (Kind, Left),
        mut restore: impl FnMut(&mut Self, Record, &Contents) -> Result<(), RestoreResult>,
    ) {
        for record in store.found(kind) {
            let restoring = store.restoring(record);
            let restored = match store.contents(record) {
                Some(contents) => restore(self, record, &contents),
                None => Err(RestoreResult::Damaged),
            };
            restoring.finish();
            self.restored
                .add(what, restored.err().unwrap_or(RestoreResult::Ok), 1);
            if restored.is_err() {
                store.free(record);
            }
            // What waits to be said to this worker itself, as that a connection is used from a peer.
            self.settle(now);
        }
    }

    fn listener_of(&self, mark: u64) -> Option<ListenerId> {
        let listeners = (0..).map(ListenerId).zip(&self.settings.listeners);
        let mut udp = listeners.filter(|(_, listener)| listener.dtls.is_none());
        udp.find(|(_, listener)| listener_mark(Transport::Udp, &listener.name) == mark)
            .map(|(id, _)| id)
    }

    fn restore_peer(
        &mut self,
        now: Instant,
        record: Record,
        contents: &Contents,
    ) -> Result<(), RestoreResult> {
        let mut bytes = ReadBytes(&contents.body);
        let listener = bytes.u64().ok_or(RestoreResult::Damaged)?;
        let listener = self.listener_of(listener).ok_or(RestoreResult::Gone)?;
        let address = bytes.array().and_then(|bytes| PeerAddr::from_bytes(&bytes));
        let address = address.ok_or(RestoreResult::Damaged)?;
        if self.peers.at_address(listener, address).is_some() {
            return Err(RestoreResult::Limit);
        }
        // That it received there has to be shown anew: what it is sent until then is little.
        let id = self
            .new_udp_peer(now, listener, address)
            .ok_or(RestoreResult::Limit)?;
        if let Some(peer) = self.peers.get_mut(id) {
            peer.kept = Some(record);
            peer.coap.go_on(record, now + UDP_PEER_IDLE);
            peer.coap.ask_for_proof();
        }
        self.found.peers.insert(record.get(MARK), id);
        Ok(())
    }

    fn restore_connection(
        &mut self,
        now: Instant,
        store: &Store,
        record: Record,
        contents: &Contents,
    ) -> Result<ConnectionKey, RestoreResult> {
        let key = ConnectionKey(self.agenda.ticket().0);
        let read = || {
            let mut bytes = ReadBytes(&contents.body);
            Some(Connection {
                key,
                token: ConnectionToken::restore(bytes.raw(ConnectionToken::LEN)?)?,
                client: ClientId::new(std::str::from_utf8(bytes.bytes()?).ok()?)?,
                owner: read_owner(&mut bytes)?,
                username: read_text(&mut bytes)?.map(Into::into),
                created_at: store.clock().instant(bytes.u64()?),
                standing: *Standing::ALL.get(usize::from(bytes.u8()?))?,
                grant: read_grant(&mut bytes, store.clock())?,
                peer: None,
                listener: ListenerId(0),
                lifetime: Some(record.get(LIFETIME))
                    .filter(|seconds| *seconds > 0)
                    .map(|seconds| Duration::from_secs(seconds).min(self.settings.sleep.max_lifetime)),
                presence: Presence::Online,
                is_held: false,
                is_listened_for: false,
                // While nobody was there it could not show that it lives.
                seen_at: now,
                returning: 0,
                kept: Some(record),
            })
        };
        let connection = read().ok_or(RestoreResult::Damaged)?;
        if connection.grant.until.is_some_and(|until| until <= now) {
            return Err(RestoreResult::Revoked);
        }
        let is_twice = self.connections.of_client(&connection.client).is_some();
        if is_twice || !self.ledger.admits(connection.standing, CONNECTION_WEIGHT, None) {
            return Err(RestoreResult::Limit);
        }
        let (client, owner) = (connection.client.clone(), connection.owner.clone());
        let at = record.get(AT);
        self.observations.set_sleeps(key, connection.lifetime.is_some());
        let mark = self.connections.insert(&mut cx!(self, now), connection);
        self.observations
            .note_holder(AccountHolder::Connection(key), mark);
        self.metrics.connection_events.inc(ConnectionEvent::Restored);
        let workers = self.settings.workers;
        let home = ClientDirectory::home(&client, workers);
        self.agenda
            .tell(home, WorkerMessage::Known { client, key, owner });
        if at != 0 && !self.found_at(now, at, key) {
            let others = (0..workers).map(WorkerId).filter(|worker| *worker != self.worker);
            for worker in others {
                self.agenda.tell(worker, WorkerMessage::Seek { mark: at, key });
            }
        }
        Ok(key)
    }

    fn restore_observation(
        &mut self,
        now: Instant,
        store: &Store,
        (record, contents): (Record, &Contents),
        connections: &HashMap<u64, ConnectionKey>,
        origin: Origin,
    ) -> Result<(), RestoreResult> {
        let mut bytes = ReadBytes(&contents.body);
        let of_connection = bytes.u8().ok_or(RestoreResult::Damaged)? != 0;
        let terms = read_terms(&mut bytes, &self.settings, store.clock()).ok_or(RestoreResult::Damaged)?;
        let filter = terms.filter.clone();
        let of_connection = of_connection.then_some(connections);
        let result = self.take_over_observation(now, record, terms, of_connection, origin);
        if result.is_err() && origin == Origin::Process {
            self.agenda.broker(BrokerRequest::Abandon { filter });
        }
        result
    }

    /// `of` are the connections that are there again, where it was one's.
    fn take_over_observation(
        &mut self,
        now: Instant,
        record: Record,
        mut terms: Terms,
        of: Option<&HashMap<u64, ConnectionKey>>,
        origin: Origin,
    ) -> Result<(), RestoreResult> {
        let mark = record.get(MARK);
        let (holder, at) = if let Some(connections) = of {
            let key = *connections.get(&mark).ok_or(RestoreResult::Gone)?;
            let at = self.connections.get(key).and_then(|connection| connection.peer);
            terms.listener = self
                .connections
                .get(key)
                .map_or(terms.listener, |connection| connection.listener);
            (AccountHolder::Connection(key), at)
        } else {
            let peer = self.found.peer(mark).ok_or(RestoreResult::Gone)?;
            (AccountHolder::Peer(peer), Some(peer))
        };
        if let Some(peer) = at.and_then(|id| self.peers.get(id)) {
            terms.listener = peer.listener;
        }
        if !self.may_still_observe(now, &terms) {
            return Err(RestoreResult::Revoked);
        }
        if let (AccountHolder::Peer(id), Some(_)) = (holder, &terms.principal)
            && let Some(peer) = self.peers.get_mut(id)
        {
            peer.set_known(&mut self.ledger);
        }
        if let AccountHolder::Peer(id) = holder {
            self.observations.note_holder(holder, Some(mark));
            if terms.client.is_some() {
                self.peers.set_client(id, terms.client.clone());
            }
        }
        let mut cx = cx!(self, now);
        if !self.observations.has_room(&cx, holder, &terms) {
            return Err(RestoreResult::Limit);
        }
        let (filter, qos) = (terms.filter.clone(), terms.subscribe_qos);
        let ticket = match origin {
            Origin::Process => None,
            Origin::Node => {
                self.pending.room(&cx).map_err(|_| RestoreResult::Limit)?;
                Some(cx.agenda.ticket())
            }
        };
        let (observation, filter_id) = self.observations.go_on(&mut cx, holder, at, terms, record);
        let Some(ticket) = ticket else {
            cx.agenda.broker(BrokerRequest::Restore {
                filter_id,
                filter,
                qos,
            });
            return Ok(());
        };
        let awaited = Awaited::Subscribe {
            reply: None,
            observation,
        };
        // There was room just now.
        _ = self.pending.wait_as(&cx, ticket, awaited);
        cx.agenda.broker(BrokerRequest::Subscribe {
            ticket,
            filter_id,
            filter,
            qos,
            retained: true,
        });
        Ok(())
    }

    /// Whether the rules of now let a client observe what it observed.
    fn may_still_observe(&self, now: Instant, terms: &Terms) -> bool {
        let subject = Subject {
            user: terms.username.as_deref(),
            client: terms.client.as_ref().map(ClientId::as_str),
            identity: terms.identity.as_deref(),
            attributes: Some(&terms.grant.attributes),
        };
        let access = Access {
            action: Action::Subscribe,
            topic: terms.filter.as_str().get(terms.mounted..).unwrap_or_default(),
            qos: terms.qos.unwrap_or(terms.subscribe_qos),
            retain: false,
        };
        let grant = &terms.grant;
        let decision =
            self.settings
                .authorizer
                .check(&subject, grant.superuser, grant.acl.as_deref(), &access);
        decision.allowed && grant.until.is_none_or(|until| now < until)
    }
}
