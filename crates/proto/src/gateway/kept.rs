//! Connections, observations and UDP peers in memory that outlives the process.
//!
//! What belongs to another record names it by a number, its mark: an observation its connection, or the session or UDP peer that it
//! is of; a connection where its client is. Sessions are the transport's; what is restored of them comes as events.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;

use super::Gateway;
use super::settings::Settings;
use crate::bridge::conditions::Conditions;
use crate::bridge::subscriptions::{AccountHolder, Terms, skip_sequence};
use crate::coap::answered::ANSWERED;
use crate::coap::contract::{PeerId, ResourceKey, Token};
use crate::coap::skip_message_ids;
use crate::policy::attributes::Attributes;
use crate::policy::connections::{Connection, ConnectionToken, Grant, Owner};
use crate::policy::extra_acl::ExtraAcl;
use crate::state::{Clock, Contents, HOT_WORDS, Kind, MARK, ReadBytes, Record, Store, WriteBytes, digest};
use crate::types::hash::IdMap;
use crate::types::message::Qos;
use crate::types::{ClientId, Identity, ListenerId, Proof, TopicFilter, Transport, WorkerId};

pub(super) const PEER: Kind = Kind(3);
pub(super) const CONNECTION: Kind = Kind(4);
pub(super) const OBSERVATION: Kind = Kind(5);
pub(super) const NOTIFICATION: Kind = Kind(6);

/// The word of a connection's record with the mark of the peer that its client is at.
pub(super) const AT: usize = 1;

/// The word of a connection's record with the lifetime that its client named, in seconds; 0 where it named none.
pub(super) const LIFETIME: usize = 2;

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

/// Whom a record belongs with: the mark of the session that a connection's client is at; none where it is no connection, or is nowhere.
#[must_use]
pub fn session_of(contents: &Contents) -> Option<u64> {
    let at = contents.hot.get(AT).copied()?;
    (contents.kind == CONNECTION && at != 0).then_some(at)
}

/// The worker whose a connection is, by what its client shows; none where the record is none.
#[must_use]
pub fn owner_worker(contents: &Contents, workers: u8) -> Option<WorkerId> {
    match place_of(contents, workers)? {
        Place::Worker(worker) => Some(worker),
        Place::Stays | Place::With(_) => None,
    }
}

/// What a record is to those who keep records of one mark together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A connection, to which others belong.
    Connection,
    /// Belongs to a connection or a session.
    Belongs,
}

/// The role of a record of the gateway that may go on at another node; `None` where it is none.
#[must_use]
pub fn role_of(contents: &Contents) -> Option<Role> {
    match contents.kind {
        CONNECTION => Some(Role::Connection),
        OBSERVATION | NOTIFICATION => Some(Role::Belongs),
        _ => None,
    }
}

/// Counts the times in a record of the gateway by another clock. False where it does not read back.
#[must_use]
pub fn shift_times(contents: &mut Contents, by: impl Fn(u64) -> u64) -> bool {
    let Some(places) = times_in(contents) else {
        return false;
    };
    for at in places {
        if let Some(place) = contents.body.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = by(u64::from_be_bytes(*place)).to_be_bytes();
        }
    }
    true
}

/// Where in a record times stand.
fn times_in(contents: &Contents) -> Option<Vec<usize>> {
    let mut bytes = ReadBytes(&contents.body);
    let (all, mut places) = (contents.body.len(), Vec::new());
    match contents.kind {
        CONNECTION => {
            bytes.raw(ConnectionToken::LEN)?;
            bytes.bytes()?;
            read_owner(&mut bytes)?;
            read_text(&mut bytes)?;
            places.push(all - bytes.0.len());
            bytes.u64()?;
            bytes.u8()?;
            places.push(skip_to_end_of_grant(&mut bytes, all)?);
        }
        OBSERVATION => {
            bytes.u8()?;
            for _ in 0..2 {
                bytes.bytes()?;
            }
            bytes.u8()?;
            bytes.bytes()?;
            // Mountpoint and Content-Format, then four words of a byte.
            bytes.raw(2 + 4 + 4)?;
            read_conditions(&mut bytes)?;
            for _ in 0..4 {
                read_text(&mut bytes)?;
            }
            places.push(skip_to_end_of_grant(&mut bytes, all)?);
        }
        NOTIFICATION => {
            bytes.bytes()?;
            bytes.raw(4 + 1 + 1 + 4 + 8)?;
            places.push(all - bytes.0.len());
            bytes.u64()?;
        }
        _ => return None,
    }
    Some(places)
}

/// Where in a record the time stands at which a grant ends.
fn skip_to_end_of_grant(bytes: &mut ReadBytes<'_>, all: usize) -> Option<usize> {
    bytes.u8()?;
    read_text(bytes)?;
    let at = all - bytes.0.len();
    bytes.u64().map(|_| at)
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

pub(super) fn read_text<'a>(bytes: &mut ReadBytes<'a>) -> Option<Option<&'a str>> {
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

pub(super) fn read_owner(bytes: &mut ReadBytes<'_>) -> Option<Owner> {
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

pub(super) fn read_grant(bytes: &mut ReadBytes<'_>, clock: Clock) -> Option<Grant> {
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

pub(super) fn read_terms(bytes: &mut ReadBytes<'_>, settings: &Settings, clock: Clock) -> Option<Terms> {
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

impl Gateway {
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
}
