//! Connections, observations and UDP peers in memory that outlives the process, and how the next one takes them over.
//!
//! What belongs to another record names it by a number, its mark: an observation its connection, or the session or UDP peer that it
//! is of; a connection where its client is. Sessions are the transport's; what is restored of them comes as events.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::directory::ClientDirectory;
use super::events::{ClientEvent, EventKind, More};
use super::inbound::UDP_PEER_IDLE;
use super::metrics::ConnectionEvent;
use super::settings::Settings;
use super::workers::WorkerMessage;
use super::{Gateway, cx};
use crate::bridge::conditions::Conditions;
use crate::bridge::contract::BrokerRequest;
use crate::bridge::subscriptions::{AccountHolder, Terms, skip_sequence};
use crate::coap::answered::ANSWERED;
use crate::coap::contract::{PeerId, ResourceKey, Token};
use crate::coap::skip_message_ids;
use crate::gateway::connection_table::CONNECTION as CONNECTION_WEIGHT;
use crate::policy::attributes::Attributes;
use crate::policy::authorization::{Access, Action};
use crate::policy::connections::{Connection, ConnectionKey, ConnectionToken, Grant, Owner, Presence};
use crate::policy::extra_acl::ExtraAcl;
use crate::policy::pattern::Subject;
use crate::session::RestoreResult;
use crate::state::{Clock, Contents, HOT_WORDS, Kind, MARK, ReadBytes, Record, Store, WriteBytes, digest};
use crate::types::hash::IdMap;
use crate::types::message::Qos;
use crate::types::reason::Label as _;
use crate::types::standing::Standing;
use crate::types::{ClientId, Identity, ListenerId, PeerAddr, Proof, TopicFilter, Transport, WorkerId};

const PEER: Kind = Kind(3);
const CONNECTION: Kind = Kind(4);
const OBSERVATION: Kind = Kind(5);
pub(super) const NOTIFICATION: Kind = Kind(6);

/// The word of a connection's record with the mark of the peer that its client is at.
const AT: usize = 1;

/// The word of a connection's record with the lifetime that its client named, in seconds; 0 where it named none.
const LIFETIME: usize = 2;

/// Where a record belongs after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To the worker that the kernel leads its address to, which is most likely the one that had it.
    Stays,
    /// To this worker, of as many as there are.
    Worker(WorkerId),
    /// To the worker of the record with this mark.
    With(u64),
}

/// What says which listener something belongs to, whatever its id is.
#[must_use]
pub fn listener_mark(transport: Transport, name: &str) -> u64 {
    digest(format!("{}.{name}", transport.label()).as_bytes())
}

/// Where a record of the gateway belongs; `None` when it is none.
#[must_use]
pub fn place_of(contents: &Contents, workers: u8) -> Option<Place> {
    match contents.kind {
        PEER | ANSWERED => Some(Place::Stays),
        CONNECTION => {
            let token = ReadBytes(&contents.body).raw(ConnectionToken::LEN)?;
            ConnectionToken::worker(token, workers).map(Place::Worker)
        }
        OBSERVATION | NOTIFICATION => contents.hot.get(MARK).copied().map(Place::With),
        _ => None,
    }
}

/// Whether a record is worth anything to a later run of the machine: who repeats a request does so within seconds.
#[must_use]
pub fn outlasts(kind: Kind) -> bool {
    kind != ANSWERED
}

/// Has a record that was copied a while ago go on with message ids and Observe numbers beyond those that were used since.
pub fn make_inexact(contents: &mut Contents) {
    match contents.kind {
        PEER => skip_message_ids(&mut contents.hot),
        OBSERVATION => skip_sequence(&mut contents.hot),
        _ => {}
    }
}

pub(super) fn hot(mark: u64) -> [u64; HOT_WORDS] {
    let mut hot = [0; HOT_WORDS];
    if let Some(word) = hot.get_mut(MARK) {
        *word = mark;
    }
    hot
}

/// Where observations are kept, and the marks of what has some.
#[derive(Default)]
pub(super) struct KeptObservations {
    store: Option<Arc<Store>>,
    holders: IdMap<AccountHolder, u64>,
}

impl KeptObservations {
    pub(super) fn new(store: Option<Arc<Store>>) -> Self {
        Self {
            store,
            holders: IdMap::default(),
        }
    }

    /// Notes the mark of what may hold observations.
    pub(super) fn note_holder(&mut self, holder: AccountHolder, mark: Option<u64>) {
        if let Some(mark) = mark {
            self.holders.insert(holder, mark);
        }
    }

    /// The mark that it had.
    pub(super) fn forget_holder(&mut self, holder: AccountHolder) -> Option<u64> {
        self.holders.remove(&holder)
    }

    /// What names a holder in the records.
    pub(super) fn mark_of(&self, holder: AccountHolder) -> Option<u64> {
        self.holders.get(&holder).copied()
    }

    /// Writes an observation down; `None` where its holder is not kept, or there is no room.
    pub(super) fn keep(&self, holder: AccountHolder, terms: &Terms) -> Option<Record> {
        let (store, mark) = (self.store.as_ref()?, self.holders.get(&holder)?);
        let mut out = WriteBytes::default();
        out.u8(u8::from(matches!(holder, AccountHolder::Connection(_))));
        write_terms(&mut out, terms, store.clock());
        store.put(OBSERVATION, &hot(*mark), out.as_slice())
    }

    pub(super) fn free(&self, record: Option<Record>) {
        if let (Some(store), Some(record)) = (&self.store, record) {
            store.free(record);
        }
    }
}

/// Writes a connection down; `None` when there is no room.
pub(super) fn keep_connection(store: &Store, connection: &Connection, mark: u64) -> Option<Record> {
    let clock = store.clock();
    let mut out = WriteBytes::default();
    out.raw(connection.token.as_bytes())
        .bytes(connection.client.as_str().as_bytes());
    write_owner(&mut out, &connection.owner);
    write_text(&mut out, connection.username.as_deref());
    out.u64(clock.millis(connection.created_at))
        .u8(connection.standing as u8);
    write_grant(&mut out, &connection.grant, clock);
    store.put(CONNECTION, &hot(mark), out.as_slice())
}

/// Notes how long the client of a connection may be silent.
pub(super) fn note_lifetime(connection: &Connection) {
    if let Some(record) = &connection.kept {
        record.set(
            LIFETIME,
            connection.lifetime.map_or(0, |lifetime| lifetime.as_secs()),
        );
    }
}

/// Notes where the client of a connection is; 0 nowhere.
pub(super) fn note_place(connection: &Connection, mark: u64) {
    if let Some(record) = &connection.kept {
        record.set(AT, mark);
    }
}

fn write_text(out: &mut WriteBytes, text: Option<&str>) {
    match text {
        None => out.u8(0),
        Some(text) => out.u8(1).bytes(text.as_bytes()),
    };
}

fn read_text<'a>(bytes: &mut ReadBytes<'a>) -> Option<Option<&'a str>> {
    match bytes.u8()? {
        0 => Some(None),
        _ => Some(Some(std::str::from_utf8(bytes.bytes()?).ok()?)),
    }
}

fn write_owner(out: &mut WriteBytes, owner: &Owner) {
    let proof = |proof| match proof {
        Proof::Psk => 2,
        Proof::Certificate => 3,
        Proof::RawKey => 4,
    };
    match owner {
        Owner::Udp => out.u8(0),
        Owner::Dtls(None) => out.u8(1),
        Owner::Dtls(Some(identity)) => out.u8(proof(identity.proof)).bytes(identity.name.as_bytes()),
    };
}

fn read_owner(bytes: &mut ReadBytes<'_>) -> Option<Owner> {
    let proof = match bytes.u8()? {
        0 => return Some(Owner::Udp),
        1 => return Some(Owner::Dtls(None)),
        2 => Proof::Psk,
        3 => Proof::Certificate,
        4 => Proof::RawKey,
        _ => return None,
    };
    let name = std::str::from_utf8(bytes.bytes()?).ok()?;
    Some(Owner::Dtls(Some(Identity::new(name, proof))))
}

fn write_grant(out: &mut WriteBytes, grant: &Grant, clock: Clock) {
    let acl = grant.acl.as_ref().map(|acl| acl.to_json().to_string());
    out.u8(u8::from(grant.superuser));
    write_text(out, acl.as_deref());
    out.u64(grant.until.map_or(0, |until| clock.millis(until)));
    out.u8(u8::try_from(grant.attributes.iter().count()).unwrap_or(u8::MAX));
    for (name, value) in grant.attributes.iter() {
        out.bytes(name.as_bytes()).bytes(value.as_bytes());
    }
}

fn read_grant(bytes: &mut ReadBytes<'_>, clock: Clock) -> Option<Grant> {
    let superuser = bytes.u8()? != 0;
    let acl = match read_text(bytes)? {
        None => None,
        Some(text) => Some(Arc::new(
            ExtraAcl::from_json(&serde_json::from_str(text).ok()?).ok()?,
        )),
    };
    let until = match bytes.u64()? {
        0 => None,
        millis => Some(clock.instant(millis)),
    };
    let mut attributes = Vec::new();
    for _ in 0..bytes.u8()? {
        let name = std::str::from_utf8(bytes.bytes()?).ok()?;
        attributes.push((name, std::str::from_utf8(bytes.bytes()?).ok()?));
    }
    Some(Grant {
        superuser,
        acl,
        attributes: Attributes::new(attributes).ok()?,
        until,
    })
}

fn write_conditions(out: &mut WriteBytes, conditions: Option<&Conditions>) {
    let Some(it) = conditions else {
        out.u8(0);
        return;
    };
    out.u8(1);
    for number in [it.greater, it.less, it.step] {
        // No condition is compared with what is no number.
        out.u64(number.unwrap_or(f64::NAN).to_bits());
    }
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1);
    for time in [it.min_period, it.max_period, it.min_evaluation, it.max_evaluation] {
        out.u64(time.map_or(u64::MAX, nanos));
    }
    let edge = it.edge.map_or(2, u8::from);
    out.u8(edge).u8(u8::from(it.band)).u8(u8::from(it.confirmable));
}

fn read_conditions(bytes: &mut ReadBytes<'_>) -> Option<Option<Box<Conditions>>> {
    if bytes.u8()? == 0 {
        return Some(None);
    }
    let mut number = || Some(Some(f64::from_bits(bytes.u64()?)).filter(|number| !number.is_nan()));
    let (greater, less, step) = (number()?, number()?, number()?);
    let mut time = || {
        Some(
            Some(bytes.u64()?)
                .filter(|nanos| *nanos < u64::MAX)
                .map(Duration::from_nanos),
        )
    };
    let (min_period, max_period) = (time()?, time()?);
    let (min_evaluation, max_evaluation) = (time()?, time()?);
    let conditions = Conditions {
        greater,
        less,
        step,
        min_period,
        max_period,
        min_evaluation,
        max_evaluation,
        edge: Some(bytes.u8()?).filter(|edge| *edge < 2).map(|edge| edge == 1),
        band: bytes.u8()? != 0,
        confirmable: bytes.u8()? != 0,
    };
    conditions.check().ok()?;
    Some(Some(Box::new(conditions)))
}

fn write_terms(out: &mut WriteBytes, terms: &Terms, clock: Clock) {
    let qos = |qos: Option<Qos>| qos.map_or(u8::MAX, Qos::number);
    out.bytes(terms.token.as_bytes())
        .bytes(&terms.resource.0)
        .u8(terms.block_szx.unwrap_or(u8::MAX))
        .bytes(terms.filter.as_str().as_bytes())
        .u16(u16::try_from(terms.mounted).unwrap_or_default())
        .u32(terms.accept.map_or(u32::MAX, u32::from))
        .u8(qos(terms.qos))
        .u8(qos(terms.ceiling))
        .u8(qos(Some(terms.subscribe_qos)))
        .u8(u8::from(terms.no_local));
    write_conditions(out, terms.conditions.as_deref());
    write_text(out, terms.client.as_ref().map(ClientId::as_str));
    write_text(out, terms.username.as_deref());
    write_text(out, terms.identity.as_deref());
    write_text(out, terms.principal.as_deref());
    write_grant(out, &terms.grant, clock);
}

fn read_terms(bytes: &mut ReadBytes<'_>, settings: &Settings, clock: Clock) -> Option<Terms> {
    let token = Token::new(bytes.bytes()?)?;
    let resource = ResourceKey(bytes.bytes()?.into());
    let block_szx = Some(bytes.u8()?).filter(|szx| *szx < 7);
    let filter = std::str::from_utf8(bytes.bytes()?).ok()?;
    let filter: TopicFilter = settings.caps.topics.filter(filter).ok()?;
    let mounted = usize::from(bytes.u16()?);
    let accept = u16::try_from(bytes.u32()?).ok();
    let (qos, ceiling) = (Qos::from_number(bytes.u8()?), Qos::from_number(bytes.u8()?));
    let subscribe_qos = Qos::from_number(bytes.u8()?)?;
    let no_local = bytes.u8()? != 0;
    let conditions = read_conditions(bytes)?;
    let client = match read_text(bytes)? {
        None => None,
        Some(text) => Some(ClientId::new(text)?),
    };
    Some(Terms {
        token,
        // That of its holder, which is known when that is found.
        listener: ListenerId(u16::MAX),
        resource,
        block_szx,
        filter,
        mounted,
        accept,
        qos,
        ceiling,
        subscribe_qos,
        no_local,
        conditions,
        client,
        username: read_text(bytes)?.map(Into::into),
        identity: read_text(bytes)?.map(Into::into),
        principal: read_text(bytes)?.map(Into::into),
        grant: read_grant(bytes, clock)?,
    })
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
}

impl Gateway {
    /// What became of all that an earlier process left.
    #[must_use]
    pub const fn restored(&self) -> &Restored {
        &self.restored
    }

    /// Has a UDP peer be found by the next process, with what it holds; sessions are already. Its mark; none where nothing is kept.
    pub(super) fn keep_peer(&mut self, id: PeerId) -> Option<u64> {
        let store = self.store.clone()?;
        let peer = self.peers.get_mut(id)?;
        let record = match (peer.kept, peer.session) {
            (Some(record), _) => record,
            (None, Some(_)) => return None,
            (None, None) => {
                let listener = self.settings.listener(peer.listener)?;
                let mut out = WriteBytes::default();
                out.u64(listener_mark(Transport::Udp, &listener.name))
                    .raw(&peer.address.to_bytes());
                let record = store.put(PEER, &hot(self.rng.random()), out.as_slice())?;
                peer.coap.keep_in(record);
                peer.kept = Some(record);
                record
            }
        };
        let mark = record.get(MARK);
        self.observations.note_holder(AccountHolder::Peer(id), Some(mark));
        Some(mark)
    }

    /// Takes over what an earlier process left. Nobody is told: its clients were there all the time.
    pub(super) fn restore(&mut self, now: Instant) {
        for (listener, dtls) in (0..).map(ListenerId).zip(&mut self.dtls) {
            let results = dtls.as_mut().map(|dtls| dtls.restore(&mut self.transmits));
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
            self.coap.keep_answered(now, &store);
            let metrics = Arc::clone(&self.metrics);
            let [observations, notifications] = metrics.restored(store.is_inexact());
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
                    let result = it.restore_observation(now, &store, record, contents, &connections);
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
                    let of_peer = it.found.peers.get(&mark).copied().map(AccountHolder::Peer);
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
        for peer in std::mem::take(&mut self.found.sessions) {
            let joins = self.peers.get(peer).is_some_and(|peer| {
                peer.guests.is_empty() && self.settings.connection_required(peer.listener)
            });
            if joins {
                self.connect_implicitly(now, peer);
            }
        }
        if self.store.is_some() {
            self.agenda.broker(BrokerRequest::Restored);
        }
        self.settle(now);
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
            .udp_peer(now, listener, address)
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

    /// Whether the client of a connection is at a peer of this worker, which its owner is then told.
    pub(super) fn found_at(&mut self, now: Instant, mark: u64, key: ConnectionKey) -> bool {
        let peer = self.found.peers.get(&mark).copied();
        let facts = peer.and_then(|id| Some(self.peers.get(id)?.facts(id, &self.ledger)));
        let Some(facts) = facts else { return false };
        if key.worker() == self.worker {
            let (connections, observations) = (&mut self.connections, &mut self.observations);
            connections.attach(&mut cx!(self, now), observations, key, &facts);
        } else {
            self.established(now, facts, key);
        }
        true
    }

    fn restore_observation(
        &mut self,
        now: Instant,
        store: &Store,
        record: Record,
        contents: &Contents,
        connections: &HashMap<u64, ConnectionKey>,
    ) -> Result<(), RestoreResult> {
        let mut bytes = ReadBytes(&contents.body);
        let of_connection = bytes.u8().ok_or(RestoreResult::Damaged)? != 0;
        let terms = read_terms(&mut bytes, &self.settings, store.clock()).ok_or(RestoreResult::Damaged)?;
        let filter = terms.filter.clone();
        let of_connection = of_connection.then_some(connections);
        let result = self.take_over_observation(now, record, terms, of_connection);
        if result.is_err() {
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
            let peer = *self.found.peers.get(&mark).ok_or(RestoreResult::Gone)?;
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
        let filter_id = self.observations.go_on(&mut cx, holder, at, terms, record);
        cx.agenda.broker(BrokerRequest::Restore {
            filter_id,
            filter,
            qos,
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
