//! What the DTLS listeners of all workers share, so that it does not matter which of them a datagram reaches.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use portcullis_proto::types::mac::{Sha256, hmac, mac};
use portcullis_proto::types::source_rates::{Allowance, SourceRates};
use portcullis_proto::types::{Identity, ListenerId, PeerAddr, WorkerId};

use super::chains::Chains;
use super::cookie::CookieSecrets;
use super::nodes::NodeIds;
use super::psk::{PskKey, PskKeys};

/// Hellos without a cookie may come this many times as often as handshakes: anyone can send them in anyone's name,
/// and the limit must not lock that one out.
const UNPROVEN_SHARE: u32 = 25;
/// How many seconds' worth a source may have at once.
const BURST: u32 = 2;
/// How many sources are counted at the same time: they may be anybody's.
const HELLO_SOURCES: usize = 65_536;
/// How many that have shown that they receive at their address.
const HANDSHAKE_SOURCES: usize = 16_384;
/// How many listeners.
const LISTENERS: usize = 1_024;

/// Records of sessions of other nodes that a source may send in a second, as many as devices behind one address do: anyone can send
/// them in anyone's name.
const FORWARDS: u32 = 2_000;
/// Those of all sources.
const ALL_FORWARDS: u32 = 20_000;

/// Records of sessions of nodes that are gone that a source may have looked for in a second; those of all.
const LOOKUPS: u32 = 200;
const ALL_LOOKUPS: u32 = 2_000;

/// How many guesses of keys are remembered.
const GUESSES: usize = 4096;

/// What all workers make their cookies from, and what each source has had of hellos and handshakes. A hello that comes back
/// on another worker's socket verifies, and a source has no more for sending from many ports.
#[derive(Debug)]
pub struct DtlsShared {
    pub(super) cookies: CookieSecrets,
    hellos: SourceRates,
    handshakes: SourceRates,
    /// Handshakes by listener.
    listeners: SourceRates,
    /// Records of sessions of other nodes, by source.
    forwards: SourceRates,
    all_forwards: SourceRates,
    /// Records of sessions of nodes that are gone, by source.
    lookups: SourceRates,
    all_lookups: SourceRates,
    /// What client certificates stand on.
    pub(super) chains: Chains,
    /// How many sessions each identity has, over all workers and listeners.
    sessions: Mutex<HashMap<Identity, usize>>,
    /// Which of two keys to take where they cannot be tried, by identity and source: the mark of the one that was right last, or
    /// not tried last. By source, so that nobody else's wrong key turns a device away.
    guesses: Mutex<HashMap<(Arc<str>, IpAddr), u64>>,
    /// Restored sessions without a Connection ID, by where their peers are: the kernel may lead their records to another worker
    /// than before.
    restored: Mutex<HashMap<(ListenerId, PeerAddr), WorkerId>>,
    /// How many those are.
    restored_len: AtomicUsize,
    /// The nodes of the group.
    pub(super) nodes: NodeIds,
}

impl DtlsShared {
    /// From random bytes. `base` is any instant; times count from it.
    #[must_use]
    pub fn new(master: [u8; 32], base: Instant) -> Arc<Self> {
        let master = Zeroizing::new(master);
        let cookies = CookieSecrets::new(master.clone(), base);
        Self::with_cookies(&master, base, cookies)
    }

    /// The same for a node of a group, whose cookies are made from `secret`, that all of them have, and the time of day
    /// ([`DtlsShared::set_wall`]): a hello may come back to another node than the one that asked for its cookie.
    #[must_use]
    pub fn of_group(secret: [u8; 32], master: [u8; 32], base: Instant) -> Arc<Self> {
        let cookies = CookieSecrets::common(Zeroizing::new(secret), base);
        let shared = Self::with_cookies(&Zeroizing::new(master), base, cookies);
        // What is given out before this node has a lease names nobody, and not whom chance names.
        shared.nodes.set(None, []);
        shared
    }

    fn with_cookies(master: &Zeroizing<[u8; 32]>, base: Instant, cookies: CookieSecrets) -> Arc<Self> {
        let secret = |label: &[u8]| {
            let mac = mac(&hmac::<Sha256, _>(master), &[label]);
            let (words, _) = mac.as_chunks::<8>();
            [0, 1].map(|n| words.get(n).map_or(0, |word| u64::from_be_bytes(*word)))
        };
        Arc::new(Self {
            hellos: SourceRates::new(base, HELLO_SOURCES, secret(b"hellos")),
            handshakes: SourceRates::new(base, HANDSHAKE_SOURCES, secret(b"handshakes")),
            listeners: SourceRates::new(base, LISTENERS, secret(b"listeners")),
            forwards: SourceRates::new(base, HELLO_SOURCES, secret(b"forwards")),
            all_forwards: SourceRates::new(base, 1, secret(b"all forwards")),
            cookies,
            lookups: SourceRates::new(base, HELLO_SOURCES, secret(b"lookups")),
            all_lookups: SourceRates::new(base, 1, secret(b"all lookups")),
            chains: Chains::default(),
            sessions: Mutex::default(),
            guesses: Mutex::default(),
            restored: Mutex::default(),
            restored_len: AtomicUsize::new(0),
            nodes: NodeIds::default(),
        })
    }

    /// Tells the time of day, since 1970, at `now`; alone nothing goes by it.
    pub fn set_wall(&self, now: Instant, wall: Duration) {
        self.cookies.set_wall(now, wall);
    }

    /// The nodes of the group that this one is of.
    #[must_use]
    pub const fn nodes(&self) -> &NodeIds {
        &self.nodes
    }

    fn restored(&self) -> MutexGuard<'_, HashMap<(ListenerId, PeerAddr), WorkerId>> {
        self.restored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `worker` has the restored session at an address.
    pub(super) fn session_restored(&self, listener: ListenerId, address: PeerAddr, worker: WorkerId) {
        let mut restored = self.restored();
        restored.insert((listener, address), worker);
        self.restored_len.store(restored.len(), Ordering::Release);
    }

    /// The worker that has the restored session at an address. It costs nothing where no session was restored.
    pub(super) fn worker_of(&self, listener: ListenerId, address: PeerAddr) -> Option<WorkerId> {
        if self.restored_len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.restored().get(&(listener, address)).copied()
    }

    /// Nothing of before a restart is at an address any more: what was there ended, or another session took its place.
    pub(super) fn nothing_restored_at(&self, listener: ListenerId, address: PeerAddr) {
        if self.restored_len.load(Ordering::Acquire) > 0 {
            let mut restored = self.restored();
            restored.remove(&(listener, address));
            self.restored_len.store(restored.len(), Ordering::Release);
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Identity, usize>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sessions an identity has.
    pub fn sessions_of(&self, identity: &Identity) -> usize {
        self.sessions().get(identity).copied().unwrap_or_default()
    }

    /// It has one more.
    pub fn session_began(&self, identity: &Identity) {
        *self.sessions().entry(identity.clone()).or_default() += 1;
    }

    /// It has one less.
    pub fn session_ended(&self, identity: &Identity) {
        let mut sessions = self.sessions();
        if let Some(count) = sessions.get_mut(identity) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                sessions.remove(identity);
            }
        }
    }

    /// Which of two keys to take for a client at `source`; nothing is the newest.
    pub(super) fn guess(&self, keys: &PskKeys, source: IpAddr) -> Option<Arc<PskKey>> {
        let guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = guesses.get(&(Arc::clone(keys.name()), source))?;
        keys.marked(*mark).cloned()
    }

    /// Takes `key` for a client at `source` from now on; nothing is the newest.
    pub(super) fn guess_next(&self, keys: &PskKeys, source: IpAddr, key: Option<&Arc<PskKey>>) {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (Arc::clone(keys.name()), source);
        let Some(key) = key else {
            guesses.remove(&at);
            return;
        };
        if guesses.len() >= GUESSES {
            // Each that is forgotten costs its device one more handshake.
            guesses.clear();
        }
        guesses.insert(at, key.mark());
    }

    /// Whether `source` may have one more answer to a hello without a cookie; `per_second` is for handshakes, 0 is no limit.
    pub(super) fn takes_hello(&self, now: Instant, source: IpAddr, per_second: u32) -> bool {
        let allowance = Allowance::per_second(per_second.saturating_mul(UNPROVEN_SHARE), BURST);
        self.hellos.take(now, source, allowance).is_ok()
    }

    /// Whether `source` may begin one more handshake.
    pub(super) fn takes_handshake(&self, now: Instant, source: IpAddr, per_second: u32) -> bool {
        let allowance = Allowance::per_second(per_second, BURST);
        self.handshakes.take(now, source, allowance).is_ok()
    }

    /// Whether one more datagram of `source` may be handed on to another node.
    pub(super) fn takes_forward(&self, now: Instant, source: IpAddr) -> bool {
        let (its, all) = (
            Allowance::per_second(FORWARDS, 1),
            Allowance::per_second(ALL_FORWARDS, 1),
        );
        self.forwards.take(now, source, its).is_ok() && self.all_forwards.take(now, (), all).is_ok()
    }

    /// Whether it may be looked for the session of one more record of `source` where all nodes see it.
    pub(super) fn takes_lookup(&self, now: Instant, source: IpAddr) -> bool {
        let (its, all) = (
            Allowance::per_second(LOOKUPS, 1),
            Allowance::per_second(ALL_LOOKUPS, 1),
        );
        self.lookups.take(now, source, its).is_ok() && self.all_lookups.take(now, (), all).is_ok()
    }

    /// Whether the listener may begin one more handshake.
    pub(super) fn takes_listener(&self, now: Instant, listener: ListenerId, allowance: Allowance) -> bool {
        self.listeners.take(now, listener, allowance).is_ok()
    }
}
