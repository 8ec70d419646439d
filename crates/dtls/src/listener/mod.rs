//! One DTLS listener of one worker: datagrams in, datagrams and events out.
//!
//! ```text
//! datagram ──> records ──> tls12_cid       by Connection ID      ┐
//!                          epoch 1         by address            ├─> live session, else handshake in flight
//!                          ClientHello     cookie, then always a new handshake beside what lives
//!                          other epoch 0   handshake in flight, or nothing
//! ```
//! `inbound` takes datagrams apart, `outbound` seals what is sent, `opening` is the life of a handshake, `established` that of a session,
//! `ending` how both end and `timeouts` when, `reload` what new settings change, `keeping` what outlives the process and `restoring` how the
//! next one has it, `gated` who has to show that it lives, `keys` which pre-shared key a handshake has. None calls one that calls it.

mod ending;
mod established;
mod gated;
mod inbound;
mod keeping;
pub(super) mod keys;
mod opening;
mod outbound;
mod reload;
mod restoring;
mod timeouts;
mod watch;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use portcullis_proto::session::{SendError, SessionInfo};
use portcullis_proto::state::Tenure;
use portcullis_proto::types::reason::Label as _;
use portcullis_proto::types::{ListenerId, PeerAddr, Transmits, WorkerId};

use super::aead::{Aead, Seal};
use super::context::DtlsContext;
use super::contract::{DtlsEvent, DtlsSettings, SessionId};
use super::cookie::Cookies;
use super::effort::Effort;
use super::kept::{KeptSessions, NUMBER};
use super::metrics::DtlsMetrics;
use super::pendings::PendingTable;
use super::record::{ALERT, MAX_PLAINTEXT, MAX_SEQUENCE};
use super::sessions::SessionTable;
use super::shared::DtlsShared;
use super::source::ContextCell;

/// The server's last flight is kept this long for a peer that may not have it.
const FLIGHT_KEPT: Duration = Duration::from_secs(120);
/// Bits of the counter in a [`SessionId`]; above it stand the worker (8 bits) and the listener (16 bits).
const ID_COUNTER_BITS: u32 = 40;

/// Most bytes that a record is longer than its plaintext, Connection ID apart.
const RECORD_EXPANSION: usize = 38;

/// Which of a peer's addresses a record goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// The one that its session is bound to.
    Bound,
    /// The one that is being checked.
    Candidate,
    /// Where a record came from: no more goes there than came.
    At(PeerAddr),
}

/// One DTLS listener of one worker. It owns its sessions and its handshakes in flight, and does no I/O.
pub struct DtlsListener {
    listener: ListenerId,
    worker: WorkerId,
    /// Where new keys and certificates come from.
    source: Arc<ContextCell>,
    /// Those in force.
    context: Arc<DtlsContext>,
    settings: DtlsSettings,
    metrics: Arc<DtlsMetrics>,
    rng: StdRng,
    cookies: Cookies,
    effort: Effort,
    aead: Aead,
    sessions: SessionTable,
    pendings: PendingTable,
    events: VecDeque<DtlsEvent>,
    flights: VecDeque<(Instant, SessionId)>,
    /// When to look after the gates of whom.
    pings: BTreeSet<(Instant, SessionId)>,
    shared: Arc<DtlsShared>,
    next_session: u64,
    next_pending: u64,
    /// Where the handshakes are for whose keys somebody was asked, by their ids. Each question has its answer.
    asked: HashMap<u64, PeerAddr>,
    spare: Vec<u8>,
    /// The session whose record the gateway has in hand: what it sends now is the answer, and goes where the datagram came from.
    answering: Option<SessionId>,
    asked_from: Option<PeerAddr>,
    /// Whether hellos without a cookie are left without an answer.
    refuses_unproven: bool,
    /// Whether someone wants to know what happens outside of sessions.
    watched: bool,
    /// Where sessions are kept for the next process, and what says that they are this listener's.
    kept: Option<(Arc<KeptSessions>, u64)>,
    /// Where other nodes may take sessions over: whether they are this one's for sure.
    tenure: Option<Arc<Tenure>>,
    /// While they are not: who showed here when that it lives.
    proofs: HashMap<SessionId, Instant>,
}

impl DtlsListener {
    /// A listener without sessions. `seed` is for the Connection IDs and ids it hands out; `shared` is the same for
    /// all workers; `metrics` has no other writer.
    #[must_use]
    pub fn new(
        listener: ListenerId,
        worker: WorkerId,
        source: Arc<ContextCell>,
        settings: DtlsSettings,
        seed: [u8; 32],
        shared: Arc<DtlsShared>,
        metrics: Arc<DtlsMetrics>,
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let sessions = SessionTable::new(settings.idle_timeout);
        // A listener that is made anew goes on somewhere else, so that no id comes back.
        let next_session = rng.random::<u64>();
        Self {
            listener,
            worker,
            context: source.current(),
            source,
            settings,
            metrics,
            rng,
            cookies: Cookies::new(Arc::clone(&shared)),
            effort: Effort::default(),
            aead: Aead::default(),
            sessions,
            pendings: PendingTable::default(),
            events: VecDeque::new(),
            flights: VecDeque::new(),
            pings: BTreeSet::new(),
            shared,
            next_session,
            next_pending: 0,
            asked: HashMap::new(),
            spare: Vec::new(),
            answering: None,
            asked_from: None,
            refuses_unproven: false,
            watched: false,
            kept: None,
            tenure: None,
            proofs: HashMap::new(),
        }
    }

    /// Overload, or its end: how long a session may be idle now, and whether peers that have not proved their address are
    /// kept from beginning a handshake.
    pub fn set_pressure(&mut self, idle_timeout: Duration, refuse_unproven: bool) {
        self.settings.idle_timeout = idle_timeout;
        self.refuses_unproven = refuse_unproven;
    }

    /// What happened, oldest first. `Established` comes before anything else of its session, `Closed` after.
    pub fn poll_event(&mut self) -> Option<DtlsEvent> {
        let event = self.events.pop_front();
        self.answering = match &event {
            Some(DtlsEvent::Plaintext { session, .. }) => Some(*session),
            _ => None,
        };
        event
    }

    /// Seals one record of any type to a session.
    fn seal(
        &mut self,
        key: u32,
        path: Path,
        kind: u8,
        plaintext: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), SendError> {
        let session = self.sessions.get_mut(key).ok_or(SendError::NoSession)?;
        let limit = session.records.seal_limit().min(self.settings.records_per_key);
        // The last one is kept for the goodbye.
        let last = u64::from(kind != ALERT);
        if session.next_sequence >= MAX_SEQUENCE || session.sealed + last >= limit {
            return Err(SendError::KeyLimit);
        }
        let cid_len = session.cid.as_ref().map_or(0, |cid| cid.theirs.len());
        let len = plaintext.len() + cid_len + RECORD_EXPANSION;
        let candidate = session.cid.as_mut().and_then(|cid| cid.candidate.as_mut());
        let (address, within) = match (path, candidate) {
            (Path::Candidate, Some(candidate)) => (candidate.address, candidate.budget.spend(len)),
            (Path::At(address), _) => (address, true),
            _ => (session.address, session.spend(len)),
        };
        if !within {
            self.metrics.unconfirmed_held.inc();
            return Err(SendError::Unconfirmed);
        }
        let cid: &[u8] = session.cid.as_ref().map_or(&[], |cid| &cid.theirs);
        let what = Seal {
            kind,
            sequence: session.next_sequence,
            explicit: session.next_explicit,
            cid,
            plaintext,
        };
        if let Some(kept) = session.kept {
            // Before: a process that is killed from here on costs a number, and never uses one twice.
            kept.set(NUMBER, session.next_sequence + 1);
        }
        let mut sealed = None;
        let (records, aead) = (&mut session.records, &mut self.aead);
        transmits.push_with(self.listener, address, |out| {
            sealed = records.seal(aead, &what, out);
        });
        sealed.ok_or(SendError::Internal)?;
        session.next_sequence += 1;
        session.sealed += 1;
        session.next_explicit = session.next_explicit.wrapping_add(1);
        Ok(())
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let idle = self
            .sessions
            .most_idle()
            .map(|session| session.heard + self.settings.idle_timeout);
        let flight = self.flights.front().map(|(until, _)| *until);
        let ping = self.pings.first().map(|(at, _)| *at);
        [self.pendings.next_wake(), idle, flight, ping]
            .into_iter()
            .flatten()
            .min()
    }

    /// Most bytes that [`Self::send`] takes for a session: what its peer takes in a record.
    #[must_use]
    pub fn max_plaintext(&self, session: SessionId) -> usize {
        let session = self
            .sessions
            .by_id(session)
            .and_then(|key| self.sessions.get(key));
        session.map_or(MAX_PLAINTEXT, |session| usize::from(session.max_plaintext))
    }

    /// What is known of a session.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<SessionInfo> {
        let session = self.sessions.get(self.sessions.by_id(session)?)?;
        Some(SessionInfo {
            address: session.address,
            identity: session.authority.identity.clone(),
            suite: session.suite.label(),
            cid: session.cid.is_some(),
            established_at: session.established_at,
            resumed: session.resumed,
            max_plaintext: usize::from(session.max_plaintext),
        })
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.len() == 0
    }

    /// How many handshakes are in flight.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.pendings.len()
    }

    fn new_session_id(&mut self) -> SessionId {
        let counter = self.next_session & ((1 << ID_COUNTER_BITS) - 1);
        self.next_session = self.next_session.wrapping_add(1);
        let owner = u64::from(self.worker.0) << 16 | u64::from(self.listener.0);
        SessionId(owner << ID_COUNTER_BITS | counter)
    }

    fn count_half_open(&self) {
        self.metrics.half_open.set(self.pendings.len() as u64);
    }
}
