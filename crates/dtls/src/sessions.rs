//! The established sessions of a listener: found by id, by address or by Connection ID, ordered by idleness.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use slab::Slab;

use portcullis_proto::state::Record;
use portcullis_proto::types::{Identity, PeerAddr};

use super::aead::{Aead, Opened, Seal, SessionKeys};
use super::cid::Cid;
use super::context::Authority;
use super::contract::SessionId;
use super::gate::Gate;
use super::kept::{FAILURES, GATED};
use super::legacy::LegacyRecords;
use super::path::{Budget, Candidate};
use super::record::Header;
use super::replay::ReplayWindow;
use super::suite::Suite;

/// The end of a list of sessions.
pub(super) const NONE: u32 = u32::MAX;

/// For keys that no peer chooses: our own counters and random numbers.
#[derive(Default)]
pub(super) struct OwnKeyHasher(u64);

impl Hasher for OwnKeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

type OwnKeys<K> = HashMap<K, u32, BuildHasherDefault<OwnKeyHasher>>;

/// What the end of a handshake leaves until the peer shows that it knows of it.
pub(super) struct LastFlight {
    /// The client's, to know a duplicate of the hello.
    pub(super) random: [u8; 32],
    /// The server's; none when the client had the last word.
    pub(super) datagrams: Vec<Box<[u8]>>,
    /// It is not repeated before.
    pub(super) not_before: Instant,
}

/// How long after a handshake the network may bring its hello once more.
const DUPLICATES: Duration = Duration::from_secs(5);

/// A peer at an address where nothing shows that it receives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    /// Where it was, as far as that is confirmed.
    pub(super) from: PeerAddr,
    pub(super) budget: Budget,
}

/// The records of a session that did not open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Failures {
    total: u64,
    /// Those of the second that began then.
    recent: u32,
    since: Option<Instant>,
}

impl Failures {
    const SPAN: Duration = Duration::from_secs(1);

    /// Whether one more record may be tried now.
    pub(super) fn may_try(&self, now: Instant, per_second: u32) -> bool {
        self.recent < per_second || self.since.is_none_or(|since| now >= since + Self::SPAN)
    }

    /// As many as an earlier process counted.
    pub(super) const fn so_far(total: u64) -> Self {
        Self {
            total,
            recent: 0,
            since: None,
        }
    }

    /// How many there were in all.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// One more. How many there were in all.
    pub(super) fn count(&mut self, now: Instant) -> u64 {
        if self.since.is_none_or(|since| now >= since + Self::SPAN) {
            (self.since, self.recent) = (Some(now), 0);
        }
        self.recent = self.recent.saturating_add(1);
        self.total += 1;
        self.total
    }
}

/// The Connection IDs of a session.
pub(super) struct CidState {
    pub(super) ours: Cid,
    /// Empty when the peer wants none in the records to it.
    pub(super) theirs: Box<[u8]>,
    pub(super) moved: Option<Moved>,
    /// Whether the peer takes return routability checks, and the address that is checked now.
    pub(super) rrc: bool,
    pub(super) candidate: Option<Box<Candidate>>,
}

/// What opens and seals the records of a session.
pub(super) enum Records {
    /// We do, with an AEAD.
    Own(SessionKeys),
    /// OpenSSL does, with CBC.
    Legacy(Box<LegacyRecords>),
}

impl Records {
    /// Opens the record that `header` was read from, in place; nothing when it is not authentic.
    pub(super) fn open(&mut self, aead: &mut Aead, header: &Header, record: &mut [u8]) -> Option<Opened> {
        match self {
            Self::Own(keys) => aead.open(&keys.client, header, record),
            Self::Legacy(legacy) => legacy.open(header, record),
        }
    }

    /// Appends one sealed record to `out`. With CBC only data and the goodbye can be sealed, and every alert is that.
    pub(super) fn seal(&mut self, aead: &mut Aead, what: &Seal<'_>, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Own(keys) => aead.seal(&keys.server, what, out).ok(),
            Self::Legacy(legacy) => legacy.seal(what.kind, what.plaintext, out),
        }
    }

    pub(super) const fn is_legacy(&self) -> bool {
        matches!(self, Self::Legacy(_))
    }

    /// Records that may be sealed with one key. With CBC every record has a random vector of its own.
    pub(super) const fn seal_limit(&self) -> u64 {
        match self {
            Self::Own(keys) => keys.algorithm().seal_limit(),
            Self::Legacy(_) => u64::MAX,
        }
    }

    /// Records that may fail to open before the keys are given up. A tag of 32 bytes is not guessed.
    pub(super) const fn failure_limit(&self) -> u64 {
        match self {
            Self::Own(keys) => keys.algorithm().failure_limit(),
            Self::Legacy(_) => u64::MAX,
        }
    }

    /// Records that may fail to open within a second.
    pub(super) const fn failures_per_second(&self) -> Option<u32> {
        match self {
            Self::Own(keys) => keys.algorithm().failures_per_second(),
            Self::Legacy(_) => None,
        }
    }

    /// Whether OpenSSL ended the session.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Legacy(legacy) if legacy.is_over())
    }
}

/// An established session.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) address: PeerAddr,
    pub(super) authority: Authority,
    pub(super) suite: Suite,
    pub(super) resumed: bool,
    pub(super) records: Records,
    pub(super) window: ReplayWindow,
    pub(super) next_sequence: u64,
    pub(super) next_explicit: u64,
    /// Records that were sealed with its key.
    pub(super) sealed: u64,
    pub(super) failures: Failures,
    pub(super) established_at: Instant,
    /// When its idleness began, to within [`SessionTable::grain`].
    pub(super) heard: Instant,
    /// Most bytes of plaintext in a record to the peer.
    pub(super) max_plaintext: u16,
    /// Warnings that it was sent; they are few.
    pub(super) warnings: u8,
    pub(super) cid: Option<Box<CidState>>,
    pub(super) flight: Option<Box<LastFlight>>,
    /// Until the peer has shown that it lives.
    pub(super) gate: Option<Box<Gate>>,
    /// Where the next process finds it.
    pub(super) kept: Option<Record>,
    pub(super) newer: u32,
    pub(super) older: u32,
}

/// What a [`Session`] is made from.
pub(super) struct NewSession {
    pub(super) id: SessionId,
    pub(super) address: PeerAddr,
    pub(super) authority: Authority,
    pub(super) now: Instant,
    pub(super) random: [u8; 32],
    pub(super) finished: super::handshake::Finished,
}

impl Session {
    /// Takes `len` bytes off what may be sent where the peer is now; false when it may not have that much there.
    pub(super) fn spend(&mut self, len: usize) -> bool {
        let moved = self.cid.as_mut().and_then(|cid| cid.moved.as_mut());
        moved.is_none_or(|moved| moved.budget.spend(len))
    }

    /// What its record says of records that did not open, and of its gate.
    pub(super) fn failures_word(&self) -> u64 {
        self.failures.total() | if self.gate.is_some() { GATED } else { 0 }
    }

    /// Whether a hello with this random is the network's second copy of the one that made this session. That comes within
    /// seconds; later, or once the peer has shown that it knows of its session, it is a device that rebooted without randomness.
    pub(super) fn was_made_by(&self, random: &[u8; 32], now: Instant) -> bool {
        let flight = self.flight.as_ref();
        flight.is_some_and(|flight| flight.random == *random) && now < self.established_at + DUPLICATES
    }

    /// Whether a handshake proved who the peer is. Those of whom nothing is known give way first.
    const fn is_known(&self) -> bool {
        self.authority.identity.is_some()
    }

    pub(super) fn new(new: NewSession) -> Self {
        let finished = new.finished;
        let flight = Some(Box::new(LastFlight {
            random: new.random,
            datagrams: finished.flight,
            not_before: new.now,
        }));
        Self {
            id: new.id,
            address: new.address,
            authority: new.authority,
            suite: finished.suite,
            resumed: finished.resumed,
            records: finished.records,
            window: finished.window,
            next_sequence: finished.write.sequence,
            next_explicit: finished.write.explicit,
            sealed: 0,
            failures: Failures::default(),
            established_at: new.now,
            heard: new.now,
            max_plaintext: u16::try_from(finished.max_plaintext).unwrap_or(u16::MAX),
            warnings: 0,
            cid: finished.cid.map(|(ours, theirs)| {
                Box::new(CidState {
                    ours,
                    theirs,
                    moved: None,
                    rrc: finished.rrc,
                    candidate: None,
                })
            }),
            flight,
            gate: None,
            kept: None,
            newer: NONE,
            older: NONE,
        }
    }
}

/// The ends of a list of sessions.
#[derive(Clone, Copy)]
struct Ages {
    newest: u32,
    oldest: u32,
}

const NOBODY: Ages = Ages {
    newest: NONE,
    oldest: NONE,
};

/// Sessions in order of idleness: those of whom nothing is known, then the others, and each kind with records of its own.
#[derive(Clone, Copy)]
struct Lists {
    unknown: [Ages; 2],
    known: [Ages; 2],
}

impl Lists {
    /// The list that a session is in.
    const fn of(&mut self, session: &Session) -> &mut Ages {
        let [own, legacy] = if session.is_known() {
            &mut self.known
        } else {
            &mut self.unknown
        };
        if session.records.is_legacy() { legacy } else { own }
    }
}

/// All established sessions of a listener.
pub(super) struct SessionTable {
    slots: Slab<Session>,
    by_id: OwnKeys<u64>,
    by_cid: OwnKeys<u64>,
    /// Sessions without a Connection ID: they are found by it.
    by_address: HashMap<PeerAddr, u32>,
    /// Sessions with a Connection ID, the last that was seen at the address: they are only replaced by it.
    cid_at: HashMap<PeerAddr, u32>,
    lists: Lists,
    legacy: usize,
    gated: usize,
    /// How exactly idleness is kept: moving a session to the front for each record would cost the packet path.
    pub(super) grain: Duration,
}

impl SessionTable {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self {
            slots: Slab::new(),
            by_id: OwnKeys::default(),
            by_cid: OwnKeys::default(),
            by_address: HashMap::new(),
            cid_at: HashMap::new(),
            lists: Lists {
                unknown: [NOBODY; 2],
                known: [NOBODY; 2],
            },
            legacy: 0,
            gated: 0,
            grain: Self::grain_for(idle_timeout),
        }
    }

    pub(super) fn grain_for(idle_timeout: Duration) -> Duration {
        (idle_timeout / 16).min(Duration::from_secs(1))
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn cid_len(&self) -> usize {
        self.by_cid.len()
    }

    /// How many have a suite of CBC.
    pub(super) const fn legacy_len(&self) -> usize {
        self.legacy
    }

    /// How many have to show first that they live.
    pub(super) const fn gated_len(&self) -> usize {
        self.gated
    }

    /// The peer of a session has to show that it lives.
    pub(super) fn close_gate(&mut self, key: u32, gate: Gate) {
        if let Some(session) = self.slots.get_mut(key as usize)
            && session.gate.replace(Box::new(gate)).is_none()
        {
            self.gated += 1;
            if let Some(kept) = session.kept {
                kept.set(FAILURES, session.failures_word());
            }
        }
    }

    /// The peer of a session showed that it lives.
    pub(super) fn open_gate(&mut self, key: u32) {
        if let Some(session) = self.slots.get_mut(key as usize)
            && session.gate.take().is_some()
        {
            self.gated -= 1;
            if let Some(kept) = session.kept {
                kept.set(FAILURES, session.failures_word());
            }
        }
    }

    pub(super) fn get(&self, key: u32) -> Option<&Session> {
        self.slots.get(key as usize)
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut Session> {
        self.slots.get_mut(key as usize)
    }

    pub(super) fn by_id(&self, id: SessionId) -> Option<u32> {
        self.by_id.get(&id.0).copied()
    }

    pub(super) fn by_cid(&self, cid: Cid) -> Option<u32> {
        self.by_cid.get(&u64::from_be_bytes(cid)).copied()
    }

    pub(super) fn by_address(&self, address: PeerAddr) -> Option<u32> {
        self.by_address.get(&address).copied()
    }

    pub(super) fn cid_at(&self, address: PeerAddr) -> Option<u32> {
        self.cid_at.get(&address).copied()
    }

    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.slots.iter().map(|(_, session)| session.id).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().map(|(_, session)| session)
    }

    /// Adds a session as the least idle. Nothing may stand where it is found.
    pub(super) fn insert(&mut self, session: Session) {
        let (id, address) = (session.id, session.address);
        let cid = session.cid.as_ref().map(|cid| cid.ours);
        self.legacy += usize::from(session.records.is_legacy());
        self.gated += usize::from(session.gate.is_some());
        let Ok(key) = u32::try_from(self.slots.insert(session)) else {
            return;
        };
        self.by_id.insert(id.0, key);
        if let Some(cid) = cid {
            self.by_cid.insert(u64::from_be_bytes(cid), key);
            self.cid_at.insert(address, key);
        } else {
            self.by_address.insert(address, key);
        }
        self.link(key);
    }

    pub(super) fn remove(&mut self, key: u32) -> Option<Session> {
        self.slots.get(key as usize)?;
        self.unlink(key);
        let session = self.slots.try_remove(key as usize)?;
        self.by_id.remove(&session.id.0);
        self.legacy -= usize::from(session.records.is_legacy());
        self.gated -= usize::from(session.gate.is_some());
        if let Some(cid) = &session.cid {
            self.by_cid.remove(&u64::from_be_bytes(cid.ours));
            if self.cid_at.get(&session.address) == Some(&key) {
                self.cid_at.remove(&session.address);
            }
        } else {
            self.by_address.remove(&session.address);
        }
        Some(session)
    }

    /// Moves a session with a Connection ID to another address.
    pub(super) fn relocate(&mut self, key: u32, to: PeerAddr) {
        let Some(session) = self.slots.get_mut(key as usize) else {
            return;
        };
        let from = std::mem::replace(&mut session.address, to);
        if self.cid_at.get(&from) == Some(&key) {
            self.cid_at.remove(&from);
        }
        self.cid_at.insert(to, key);
    }

    /// A session was heard. Whether its idleness begins anew.
    pub(super) fn touch(&mut self, key: u32, now: Instant) -> bool {
        let grain = self.grain;
        let Some(session) = self.slots.get_mut(key as usize) else {
            return false;
        };
        let begins = now.saturating_duration_since(session.heard) >= grain;
        if begins {
            session.heard = now;
            self.unlink(key);
            self.link(key);
        }
        begins
    }

    /// The session that was silent for longest.
    pub(super) fn most_idle(&self) -> Option<&Session> {
        let Lists { unknown, known } = &self.lists;
        self.oldest(unknown.iter().chain(known))
    }

    /// The session that gives way to a new one: of those of which nothing is known the one silent longest, else, where the new
    /// one has an identity, of all.
    pub(super) fn least(&self, identified: bool) -> Option<SessionId> {
        let Lists { unknown, known } = &self.lists;
        let known = || self.oldest(known.iter()).filter(|_| identified);
        self.oldest(unknown.iter()).or_else(known).map(|least| least.id)
    }

    /// The same of those with a suite of CBC.
    pub(super) fn least_legacy(&self, identified: bool) -> Option<SessionId> {
        let Lists { unknown, known } = &self.lists;
        let known = || self.oldest(known.iter().skip(1)).filter(|_| identified);
        let least = self.oldest(unknown.iter().skip(1)).or_else(known);
        least.map(|least| least.id)
    }

    /// The session of an identity that was silent longest.
    pub(super) fn most_idle_of(&self, identity: &Identity) -> Option<SessionId> {
        let first_of = |ages: &Ages| {
            let mut next = self.get(ages.oldest);
            while let Some(session) = next
                && session.authority.identity.as_ref() != Some(identity)
            {
                next = self.get(session.newer);
            }
            next
        };
        let own = self.lists.known.iter().filter_map(first_of);
        own.min_by_key(|session| session.heard).map(|session| session.id)
    }

    /// The session of these lists that was silent for longest.
    fn oldest<'a>(&'a self, lists: impl Iterator<Item = &'a Ages>) -> Option<&'a Session> {
        let each = lists.filter_map(|ages| self.get(ages.oldest));
        each.min_by_key(|session| session.heard)
    }

    fn link(&mut self, key: u32) {
        let Some(session) = self.slots.get_mut(key as usize) else {
            return;
        };
        let ages = self.lists.of(session);
        let before = std::mem::replace(&mut ages.newest, key);
        session.newer = NONE;
        session.older = before;
        match self.slots.get_mut(before as usize) {
            Some(before) => before.newer = key,
            None => ages.oldest = key,
        }
    }

    fn unlink(&mut self, key: u32) {
        let Some(session) = self.slots.get(key as usize) else {
            return;
        };
        let (newer, older) = (session.newer, session.older);
        let ages = self.lists.of(session);
        match self.slots.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => ages.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => ages.oldest = newer,
        }
    }
}
