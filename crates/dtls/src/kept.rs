//! Sessions in memory that outlives the process: what is written of each, and how the next process reads it.
//!
//! Two words of a record change with the packets, and their order is all that there is to safety: the write number is stored before a
//! record is sealed with it, the read floor after a record opened and before anything comes of it. A process that is killed between any
//! two steps costs a number, and neither repeats a nonce nor takes a record twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use portcullis_proto::coap::skip_message_ids;
use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::session::{RestoreResult, SessionId};
use portcullis_proto::state::{
    Contents, HOT_WORDS, Kind, MARK, ReadBytes, Record, Store, Tenure, WriteBytes,
};
use portcullis_proto::types::reason::Label as _;
use portcullis_proto::types::{Identity, PeerAddr, Proof};

use super::aead::{Aead, SessionKeys};
use super::chains::{Chain, ChainId, Chains};
use super::cid::{CID_LEN, Cid};
use super::context::{Authority, Certified};
use super::gate::Gate;
use super::path::Budget;
use super::record::{Header, MAX_SEQUENCE};
use super::replay::ReplayWindow;
use super::sessions::{CidState, Failures, Moved, NONE, Records, Session};
use super::shared::DtlsShared;
use super::suite::{Algorithm, Suite};

/// The word of a record that holds the next number to seal with.
pub(super) const NUMBER: usize = 0;
/// One more than the highest number that opened.
pub(super) const FLOOR: usize = 1;
/// When it was last heard, in milliseconds since the machine was started.
pub(super) const HEARD: usize = 2;
/// Records that did not open, and [`GATED`].
pub(super) const FAILURES: usize = 3;
/// Set while the peer has to show first that it lives.
pub(super) const GATED: u64 = 1 << 63;

const SESSION: Kind = Kind(1);
const CHAIN: Kind = Kind(2);

const HAS_CID: u8 = 1;
const RESUMED: u8 = 1 << 1;
const RRC: u8 = 1 << 2;
const MOVED: u8 = 1 << 3;
const CERTIFICATE: u8 = 1 << 4;
const RAW_KEY: u8 = 1 << 5;
const LIVE_KEY: u8 = 1 << 6;

/// Where a session that was kept belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What says which listener's it is.
    pub listener: u64,
    /// The first byte of its Connection ID, by which the kernel finds its worker; `None` where it has none.
    pub steered_by: Option<u8>,
}

/// Whether a record may stand where a later run of the machine finds it, by which time the record numbers are not known exactly. Where
/// the nonce is the record number (RFC 7905, 2), one that comes back gives the key away.
#[must_use]
pub fn may_leave_memory(contents: &Contents) -> bool {
    contents.kind != SESSION || read_keys(&contents.body).is_some_and(|it| it.algorithm.explicit_len() > 0)
}

/// What a session goes on with whose record was copied a while ago: how often the process began anew from such copies since this one
/// was made, and bits that nobody draws twice.
#[derive(Debug, Clone, Copy)]
pub struct Inexact {
    /// At least 1.
    pub generations: u64,
    /// 40 of its bits are used.
    pub random: u64,
}

/// Step of the record numbers from one generation to the next: more than are used between two copies of a record, and few enough that
/// clients which watch the upper 16 of the 48 bits go along.
const STEP: u64 = 1 << 24;
/// Records that may have been sealed since the copy was made: copies follow within a second or two, disks that are slow included.
const UNSEEN: u64 = 1 << 22;
/// How many of them the limit of its key is charged with.
const CHARGED: u64 = 1 << 16;
/// Bits of an explicit nonce below the random ones: it counts there. A key is given up before it has counted far beyond them.
const COUNTED: u32 = 24;

impl Inexact {
    /// Has the record of a session go on under three guards: explicit nonces that depend on nothing that was stored, record numbers above
    /// all that were used, so that the peer listens, and a gate, because what the peer sent meanwhile is not known. False when the record
    /// cannot be read, or may not go on. Other records are left as they are.
    #[must_use]
    pub fn apply(self, contents: &mut Contents) -> bool {
        contents.kind != SESSION || self.apply_to_session(contents).is_some()
    }

    fn apply_to_session(self, contents: &mut Contents) -> Option<()> {
        let keys = read_keys(&contents.body)?;
        let [number, failures] = [*contents.hot.get(NUMBER)?, *contents.hot.get(FAILURES)?];
        let sealed = number.wrapping_sub(keys.unsealed).saturating_add(CHARGED);
        let ceiling = (number + UNSEEN).next_multiple_of(STEP);
        let begin = ceiling.checked_add(self.generations.checked_mul(STEP)?)?;
        if keys.algorithm.explicit_len() == 0 || begin >= MAX_SEQUENCE {
            return None;
        }
        let explicit = self.random << COUNTED;
        let offsets = [explicit.wrapping_sub(begin), begin.wrapping_sub(sealed)];
        let place = contents
            .body
            .get_mut(keys.offsets_at..)?
            .first_chunk_mut::<16>()?;
        place
            .chunks_exact_mut(8)
            .zip(offsets)
            .for_each(|(place, offset)| place.copy_from_slice(&offset.to_be_bytes()));
        *contents.hot.get_mut(NUMBER)? = begin;
        *contents.hot.get_mut(FAILURES)? = failures | GATED;
        skip_message_ids(&mut contents.hot);
        Some(())
    }
}

/// What stands in a session's record around its keys.
struct Keys {
    algorithm: Algorithm,
    keys: SessionKeys,
    unsealed: u64,
    /// Where the explicit nonce and the number of records sealed stand, both as seen from the record number.
    offsets_at: usize,
}

fn read_keys(body: &[u8]) -> Option<Keys> {
    let mut bytes = ReadBytes(body);
    let _listener = bytes.u64()?;
    if bytes.u8()? & HAS_CID != 0 {
        bytes.raw(CID_LEN)?;
        bytes.bytes()?;
    }
    let algorithm = read_suite(&mut bytes)?.algorithm()?;
    let keys = SessionKeys::read(algorithm, &mut bytes)?;
    let offsets_at = body.len() - bytes.0.len();
    let _explicit = bytes.u64()?;
    Some(Keys {
        algorithm,
        keys,
        unsealed: bytes.u64()?,
        offsets_at,
    })
}

fn read_suite(bytes: &mut ReadBytes<'_>) -> Option<Suite> {
    let number: [u8; 2] = bytes.array()?;
    Suite::ALL.iter().find(|suite| suite.id() == number).copied()
}

/// Where a session belongs; `None` when the record is none.
#[must_use]
pub fn place_of(contents: &Contents) -> Option<Place> {
    if contents.kind != SESSION {
        return None;
    }
    let mut bytes = ReadBytes(&contents.body);
    let listener = bytes.u64()?;
    let has_cid = bytes.u8()? & HAS_CID != 0;
    Some(Place {
        listener,
        steered_by: if has_cid { Some(bytes.u8()?) } else { None },
    })
}

/// Whether a record is a session's that another node may go on with: found by a Connection ID, of an AEAD whose nonces do not hang on the record
/// number, and of a client that stands on no certificate of others.
#[must_use]
pub fn may_change_nodes(contents: &Contents) -> bool {
    let flags = ReadBytes(contents.body.get(8..).unwrap_or_default()).u8();
    contents.kind == SESSION
        && flags.is_some_and(|flags| flags & (HAS_CID | CERTIFICATE) == HAS_CID)
        && may_leave_memory(contents)
}

/// The Connection ID by which a session's peer calls it; `None` when the record is none, or it has none.
#[must_use]
pub fn cid_of(contents: &Contents) -> Option<[u8; CID_LEN]> {
    place_of(contents)?.steered_by?;
    ReadBytes(contents.body.get(9..)?).array()
}

/// Whether the first of `records` is of a session and newer than what was taken of it: nobody but its peer can have made it, and it is none of
/// those that are known to have been acted on. It changes nothing.
#[must_use]
pub fn is_next_of(contents: &Contents, records: &[u8]) -> bool {
    let (Some(keys), Some(header)) = (read_keys(&contents.body), Header::parse(records, CID_LEN)) else {
        return false;
    };
    let floor = contents.hot.get(FLOOR).copied().unwrap_or(u64::MAX);
    let Some(record) = records
        .get(..header.record_len())
        .filter(|_| header.sequence >= floor)
    else {
        return false;
    };
    Aead::default()
        .open(&keys.keys.client, &header, &mut record.to_vec())
        .is_some()
}

/// Counts the times in the record of a session by another clock, and forgets by which address of its machine a node spoke to the peer. False where it
/// does not read back.
#[must_use]
pub fn shift_session(contents: &mut Contents, by: impl Fn(u64) -> u64) -> bool {
    let moved = || {
        let keys = read_keys(&contents.body)?;
        let established = keys.offsets_at + 16;
        let address = established + 8 + 2;
        let [since, at] = [established, address].map(|at| contents.body.get(at..));
        let since = by(u64::from_be_bytes(*since?.first_chunk()?));
        let at = PeerAddr::from_bytes(at?.first_chunk()?)?.writing_to(None);
        Some((established, since.to_be_bytes(), address, at.to_bytes()))
    };
    let Some((established, since, address, at)) = moved() else {
        return false;
    };
    if let Some(place) = contents
        .body
        .get_mut(established..)
        .and_then(<[u8]>::first_chunk_mut)
    {
        *place = since;
    }
    if let Some(place) = contents.body.get_mut(address..).and_then(<[u8]>::first_chunk_mut) {
        *place = at;
    }
    if let Some(heard) = contents.hot.get_mut(HEARD) {
        *heard = by(*heard);
    }
    true
}

/// Gives every store the issuers that any of them has, so that a session finds its own in whichever it comes to.
pub fn adopt_chains(from: &[Arc<Store>], to: &[Arc<Store>]) {
    let mut all: HashMap<Vec<u8>, Contents> = HashMap::new();
    for store in from {
        let records = store.found(CHAIN);
        for record in &records {
            if let Some(contents) = store.contents(*record) {
                all.insert(contents.body.to_vec(), contents);
            }
        }
        store.leave(records);
    }
    for store in to {
        let records = store.found(CHAIN);
        let has: Vec<_> = records
            .iter()
            .filter_map(|record| store.contents(*record))
            .collect();
        let missing = all
            .values()
            .filter(|it| !has.iter().any(|has| has.body == it.body));
        let added = missing
            .filter_map(|it| store.put(it.kind, &it.hot, &it.body))
            .collect();
        store.leave(records);
        store.leave(added);
    }
}

/// The sessions of one worker in its store, with the issuers that they stand on, each kept once.
pub struct KeptSessions {
    store: Arc<Store>,
    chains: Mutex<HashMap<ChainId, (Record, usize)>>,
    /// What was lost before any session was looked at.
    lost: Mutex<Vec<(RestoreResult, u64)>>,
    /// Where other nodes may take them over: whether they are this one's for sure.
    tenure: Option<Arc<Tenure>>,
}

impl std::fmt::Debug for KeptSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeptSessions").field(&self.store).finish()
    }
}

impl KeptSessions {
    /// Over a store whose records are where they belong. `lost` is what could not be read of earlier ones; with a `tenure` other nodes may
    /// take them over.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        shared: &DtlsShared,
        lost: Vec<(RestoreResult, u64)>,
        tenure: Option<Arc<Tenure>>,
    ) -> Arc<Self> {
        let mut chains = HashMap::new();
        for record in store.found(CHAIN) {
            let mark = store.restoring(record);
            let chain = store
                .contents(record)
                .and_then(|contents| shared.chains.restore(&contents.body));
            mark.finish();
            // A second one is of a start that was cut short.
            let is_new = chain.is_some_and(|chain| chains.insert(chain.id(), (record, chain)).is_none());
            if !is_new {
                store.free(record);
            }
        }
        let chains = chains.into_iter().map(|(id, (record, _))| (id, (record, 0)));
        Arc::new(Self {
            chains: Mutex::new(chains.collect()),
            store,
            lost: Mutex::new(lost),
            tenure,
        })
    }

    /// Where the records are.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Where other nodes may take sessions over.
    pub(super) const fn tenure(&self) -> Option<&Arc<Tenure>> {
        self.tenure.as_ref()
    }

    /// The same, for what is kept beside sessions.
    #[must_use]
    pub fn shared_store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    pub(super) fn take_lost(&self) -> Vec<(RestoreResult, u64)> {
        std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The records of a listener that were found.
    pub(super) fn of_listener(&self, listener: u64) -> Vec<(Record, Contents)> {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for record in self.store.found(SESSION) {
            match self.store.contents(record) {
                Some(it) if place_of(&it).is_some_and(|place| place.listener == listener) => {
                    ours.push((record, it));
                }
                _ => others.push(record),
            }
        }
        self.store.leave(others);
        ours
    }

    fn chains(&self) -> MutexGuard<'_, HashMap<ChainId, (Record, usize)>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more session stands on a chain.
    pub(super) fn lean_on(&self, chain: &Chain) -> Option<()> {
        let mut chains = self.chains();
        if let Some((_, count)) = chains.get_mut(&chain.id()) {
            *count += 1;
            return Some(());
        }
        let mut bytes = WriteBytes::default();
        chain.write(&mut bytes)?;
        let record = self.store.put(CHAIN, &[0; HOT_WORDS], bytes.as_slice())?;
        chains.insert(chain.id(), (record, 1));
        Some(())
    }

    fn part_from(&self, chain: &Chain) {
        let mut chains = self.chains();
        let Some((record, count)) = chains.get_mut(&chain.id()) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.store.free(*record);
            chains.remove(&chain.id());
        }
    }

    /// Writes a session down; `None` when there is no room, or its records are not ours. `mark` names it to records of others.
    pub(super) fn keep(&self, session: &Session, listener: u64, mark: u64) -> Option<Record> {
        let body = write(session, listener, |at| self.store.clock().millis(at))?;
        let chain = session.authority.certificate.as_ref().map(|it| it.chain());
        if let Some(chain) = chain {
            self.lean_on(chain)?;
        }
        let mut hot = [0; HOT_WORDS];
        let words = [
            (NUMBER, session.next_sequence),
            (FLOOR, session.window.floor()),
            (HEARD, self.store.clock().millis(session.heard)),
            (FAILURES, session.failures_word()),
            (MARK, mark),
        ];
        for (at, word) in words {
            if let Some(place) = hot.get_mut(at) {
                *place = word;
            }
        }
        let record = self.store.put(SESSION, &hot, body.as_slice());
        if let (None, Some(chain)) = (record, chain) {
            self.part_from(chain);
        }
        record
    }

    /// Writes a session down anew, because something of it changed that is no number. Without room for that the old stays: it
    /// names an address where the peer was.
    pub(super) fn keep_again(&self, session: &Session, listener: u64) {
        let body = write(session, listener, |at| self.store.clock().millis(at));
        if let (Some(record), Some(body)) = (session.kept, body) {
            let _room = self.store.rewrite(record, body.as_slice());
        }
    }

    /// Forgets a session.
    pub(super) fn forget(&self, session: &Session) {
        if let Some(record) = session.kept {
            self.store.free(record);
            if let Some(certificate) = &session.authority.certificate {
                self.part_from(certificate.chain());
            }
        }
    }

    /// Notes when a session was heard.
    pub(super) fn heard(&self, record: Record, now: Instant) {
        record.set(HEARD, self.store.clock().millis(now));
    }

    /// Lets go of the issuers on which no session stands.
    pub(super) fn forget_unused(&self) {
        self.chains().retain(|_, (record, count)| {
            if *count == 0 {
                self.store.free(*record);
            }
            *count > 0
        });
    }

    /// The session that a record holds, under an id of now. `mid` is random, for the ping that opens its gate.
    pub(super) fn read(
        &self,
        id: SessionId,
        record: Record,
        contents: &Contents,
        (chains, mid): (&Chains, u16),
    ) -> Option<Session> {
        let find = |chain: &ChainId| {
            let (record, _) = *self.chains().get(chain)?;
            chains.restore(&self.store.contents(record)?.body)
        };
        let instant = |millis| self.store.clock().instant(millis);
        let mut session = read(id, contents, find, instant)?;
        session.kept = Some(record);
        session.gate = (record.get(FAILURES) & GATED != 0).then(|| Box::new(Gate::new(mid)));
        Some(session)
    }
}

fn write(session: &Session, listener: u64, millis: impl Fn(Instant) -> u64) -> Option<WriteBytes> {
    let Records::Own(keys) = &session.records else {
        return None;
    };
    let authority = &session.authority;
    let cid = session.cid.as_deref();
    let flags = [
        (cid.is_some(), HAS_CID),
        (session.resumed, RESUMED),
        (cid.is_some_and(|cid| cid.rrc), RRC),
        (cid.is_some_and(|cid| cid.moved.is_some()), MOVED),
        (authority.certificate.is_some(), CERTIFICATE),
        (authority.raw_key.is_some(), RAW_KEY),
        (authority.has_live_key, LIVE_KEY),
    ];
    let flags = flags
        .iter()
        .filter(|(set, _)| *set)
        .fold(0, |all, (_, flag)| all | flag);
    let mut out = WriteBytes::default();
    out.u64(listener).u8(flags);
    if let Some(cid) = cid {
        out.raw(&cid.ours).bytes(&cid.theirs);
    }
    out.raw(&session.suite.id());
    keys.write(&mut out);
    out.u64(session.next_explicit.wrapping_sub(session.next_sequence))
        .u64(session.next_sequence.wrapping_sub(session.sealed))
        .u64(millis(session.established_at))
        .u16(session.max_plaintext)
        .raw(&session.address.to_bytes())
        .u64(authority.psk_mark);
    if let Some(certificate) = &authority.certificate {
        certificate.write(&mut out);
    }
    if let Some(fingerprint) = &authority.raw_key {
        out.raw(fingerprint.as_slice());
    }
    if let Some(identity) = &authority.identity {
        let proof = match identity.proof {
            Proof::Psk => 1,
            Proof::Certificate => 2,
            Proof::RawKey => 3,
        };
        out.u8(proof).bytes(identity.name.as_bytes());
        for (name, value) in identity.attributes.iter() {
            out.bytes(name.as_bytes()).bytes(value.as_bytes());
        }
    } else {
        out.u8(0);
    }
    Some(out)
}

fn read(
    id: SessionId,
    contents: &Contents,
    chain: impl FnOnce(&ChainId) -> Option<Arc<Chain>>,
    instant: impl Fn(u64) -> Instant,
) -> Option<Session> {
    let mut bytes = ReadBytes(&contents.body);
    let word = |at: usize| contents.hot.get(at).copied().unwrap_or_default();
    let _listener = bytes.u64()?;
    let flags = bytes.u8()?;
    let has = |flag| flags & flag != 0;
    let cid: Option<(Cid, Box<[u8]>)> = if has(HAS_CID) {
        Some((bytes.array::<CID_LEN>()?, bytes.bytes()?.into()))
    } else {
        None
    };
    let suite = read_suite(&mut bytes)?;
    let keys = SessionKeys::read(suite.algorithm()?, &mut bytes)?;
    let (explicit, unsealed) = (bytes.u64()?, bytes.u64()?);
    let established_at = instant(bytes.u64()?);
    let max_plaintext = bytes.u16()?;
    let address = PeerAddr::from_bytes(&bytes.array()?)?;
    let mut authority = read_authority(&mut bytes, has(CERTIFICATE), has(RAW_KEY), chain)?;
    authority.has_live_key = has(LIVE_KEY);
    let sequence = word(NUMBER);
    Some(Session {
        id,
        address,
        authority,
        suite,
        resumed: has(RESUMED),
        records: Records::Own(keys),
        window: ReplayWindow::above(word(FLOOR)),
        next_sequence: sequence,
        next_explicit: sequence.wrapping_add(explicit),
        sealed: sequence.wrapping_sub(unsealed),
        failures: Failures::so_far(word(FAILURES) & !GATED),
        established_at,
        heard: instant(word(HEARD)),
        max_plaintext,
        warnings: 0,
        cid: cid.map(|(ours, theirs)| {
            Box::new(CidState {
                ours,
                theirs,
                // Where it was before is not known any more; what it may be sent begins anew.
                moved: has(MOVED).then(|| Moved {
                    from: address,
                    budget: Budget::default(),
                }),
                rrc: has(RRC),
                candidate: None,
            })
        }),
        flight: None,
        gate: None,
        kept: None,
        newer: NONE,
        older: NONE,
    })
}

fn read_authority(
    bytes: &mut ReadBytes<'_>,
    certificate: bool,
    raw_key: bool,
    chain: impl FnOnce(&ChainId) -> Option<Arc<Chain>>,
) -> Option<Authority> {
    let psk_mark = bytes.u64()?;
    let certificate = if certificate {
        Some(Box::new(Certified::read(bytes, chain)?))
    } else {
        None
    };
    let raw_key = if raw_key {
        Some(Box::new(bytes.array()?))
    } else {
        None
    };
    let proof = match bytes.u8()? {
        0 => None,
        1 => Some(Proof::Psk),
        2 => Some(Proof::Certificate),
        3 => Some(Proof::RawKey),
        _ => return None,
    };
    let identity = match proof {
        Some(proof) => {
            let identity = Identity::new(std::str::from_utf8(bytes.bytes()?).ok()?, proof);
            let mut attributes = Vec::new();
            while !bytes.0.is_empty() {
                attributes.push((
                    std::str::from_utf8(bytes.bytes()?).ok()?,
                    std::str::from_utf8(bytes.bytes()?).ok()?,
                ));
            }
            Some(Identity {
                attributes: Attributes::new(attributes).ok()?,
                ..identity
            })
        }
        None => None,
    };
    Some(Authority {
        identity,
        psk_mark,
        has_live_key: false,
        certificate,
        raw_key,
    })
}
