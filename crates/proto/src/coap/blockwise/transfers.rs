//! Transfers in progress: bodies that come in by Block1, and bodies of which peers fetch the rest by Block2.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::coap::contract::{PeerId, ResourceKey};
use crate::coap::hash::IdMap;
use crate::coap::metrics::{CoapMetrics, TransferResult};
use crate::types::list::{Links, List};
use crate::types::reason::Limit;

use super::download::Body;
use super::upload::Upload;

/// What a transfer is known by (RFC 7959, 2.4 and 2.5; RFC 9175, 3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// A body that comes in; with the Request-Tag options.
    Upload(PeerId, ResourceKey, Box<[u8]>),
    /// A body that goes out.
    Body(PeerId, ResourceKey),
}

impl Key {
    fn peer(&self) -> PeerId {
        match self {
            Self::Upload(peer, ..) | Self::Body(peer, _) => *peer,
        }
    }
}

#[derive(Debug)]
enum State {
    Upload(Upload),
    Body(Body),
}

#[derive(Debug)]
struct Transfer {
    key: Key,
    links: Links,
    expires: Instant,
    /// Grows with each activity.
    age: u64,
    bytes: usize,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    transfers: usize,
    bytes: usize,
}

/// All transfers of one endpoint. The one that stood still longest makes room for a new one; a peer that holds more than
/// its share makes room of its own.
#[derive(Debug)]
pub(crate) struct Transfers {
    entries: Slab<Transfer>,
    index: HashMap<Key, usize>,
    /// By last activity; every transfer lives equally long after it, so this is the order of expiry too.
    order: List,
    held: Held,
    peers: IdMap<PeerId, Held>,
    max: Held,
    age: u64,
    lifetime: Duration,
    pub(super) metrics: Arc<CoapMetrics>,
}

impl Transfers {
    pub(crate) fn new(transfers: usize, bytes: usize, lifetime: Duration, metrics: Arc<CoapMetrics>) -> Self {
        Self {
            entries: Slab::new(),
            index: HashMap::new(),
            order: List::default(),
            held: Held::default(),
            peers: IdMap::default(),
            max: Held { transfers, bytes },
            age: 0,
            lifetime,
            metrics,
        }
    }

    /// How long a transfer may stand still from now on.
    pub(crate) fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// What the transfers of a peer hold.
    pub(crate) fn bytes_of(&self, peer: PeerId) -> usize {
        let held = match self.held.transfers {
            0 => None,
            _ => self.peers.get(&peer),
        };
        held.map_or(0, |held| held.bytes + held.transfers * size_of::<Transfer>())
    }

    pub(crate) fn max_bytes(&self) -> usize {
        self.max.bytes
    }

    /// Keeps a body of which a peer has seen only a part; it replaces an older one of the same resource.
    pub(crate) fn put_body(&mut self, now: Instant, peer: PeerId, resource: &ResourceKey, body: Body) {
        let key = Key::Body(peer, resource.clone());
        self.remove(&key);
        self.metrics.transfers.inc(TransferResult::DownloadStarted);
        let bytes = body.bytes.len();
        self.insert(now, key, bytes, State::Body(body));
    }

    /// The body that a peer fetches, and marks it as active.
    pub(crate) fn body(&mut self, now: Instant, peer: PeerId, resource: &ResourceKey) -> Option<Body> {
        if self.index.is_empty() {
            return None;
        }
        let at = *self.index.get(&Key::Body(peer, resource.clone()))?;
        self.touch(now, at);
        match &self.entries.get(at)?.state {
            State::Body(body) => Some(body.clone()),
            State::Upload(_) => None,
        }
    }

    /// Forgets a body that a newer, shorter one has replaced.
    pub(crate) fn forget_body(&mut self, peer: PeerId, resource: &ResourceKey) {
        if self.peers.contains_key(&peer) {
            self.remove(&Key::Body(peer, resource.clone()));
        }
    }

    pub(super) fn put_upload(&mut self, now: Instant, key: Key, upload: Upload) {
        self.metrics.transfers.inc(TransferResult::UploadStarted);
        let bytes = upload.bytes.capacity();
        self.insert(now, key, bytes, State::Upload(upload));
    }

    pub(super) fn upload(&mut self, key: &Key) -> Option<&mut Upload> {
        let at = *self.index.get(key)?;
        match &mut self.entries.get_mut(at)?.state {
            State::Upload(upload) => Some(upload),
            State::Body(_) => None,
        }
    }

    pub(super) fn take_upload(&mut self, key: &Key) -> Option<Upload> {
        let at = *self.index.get(key)?;
        match self.remove_at(at)?.state {
            State::Upload(upload) => Some(upload),
            State::Body(_) => None,
        }
    }

    /// After an upload grew: accounts for its bytes and marks it as active.
    pub(super) fn grown(&mut self, now: Instant, key: &Key) {
        let Some(at) = self.index.get(key).copied() else {
            return;
        };
        self.touch(now, at);
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        if let State::Upload(upload) = &entry.state {
            let more = upload.bytes.capacity().saturating_sub(entry.bytes);
            entry.bytes += more;
            let peer = entry.key.peer();
            self.held.bytes += more;
            self.peers.entry(peer).or_default().bytes += more;
            self.make_room(peer);
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let at = self.index.get(key).copied();
        at.and_then(|at| self.remove_at(at)).is_some()
    }

    pub(crate) fn remove_peer(&mut self, peer: PeerId) {
        if !self.peers.contains_key(&peer) {
            return;
        }
        let mine: Vec<usize> = self.of_peer(peer).collect();
        for at in mine {
            self.remove_at(at);
        }
    }

    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        Some(self.entries.get(self.order.oldest()?)?.expires)
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(at) = self.order.oldest()
            && self.entries.get(at).is_some_and(|entry| entry.expires <= now)
        {
            self.metrics.transfers.inc(TransferResult::Expired);
            self.remove_at(at);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        debug_assert_eq!(self.index.len(), self.entries.len());
        debug_assert_eq!(self.order.len(), self.entries.len());
        debug_assert_eq!(self.held.transfers, self.entries.len());
        self.entries.len()
    }

    fn of_peer(&self, peer: PeerId) -> impl Iterator<Item = usize> + '_ {
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.key.peer() == peer)
            .map(|(at, _)| at)
    }

    fn touch(&mut self, now: Instant, at: usize) {
        self.order.remove(&mut self.entries, at, |entry| &mut entry.links);
        self.order
            .push_newest(&mut self.entries, at, |entry| &mut entry.links);
        self.age += 1;
        if let Some(entry) = self.entries.get_mut(at) {
            entry.expires = now + self.lifetime;
            entry.age = self.age;
        }
    }

    fn insert(&mut self, now: Instant, key: Key, bytes: usize, state: State) {
        let peer = key.peer();
        self.age += 1;
        let at = self.entries.insert(Transfer {
            key: key.clone(),
            links: Links::default(),
            expires: now + self.lifetime,
            age: self.age,
            bytes,
            state,
        });
        self.index.insert(key, at);
        self.order
            .push_newest(&mut self.entries, at, |entry| &mut entry.links);
        for held in [&mut self.held, self.peers.entry(peer).or_default()] {
            held.transfers += 1;
            held.bytes += bytes;
        }
        self.make_room(peer);
    }

    fn make_room(&mut self, newest: PeerId) {
        let share = Held {
            transfers: (self.max.transfers / 8).max(4),
            bytes: self.max.bytes / 4,
        };
        while let Some(mine) = self.peers.get(&newest).copied()
            && mine.transfers > 1
            && (mine.transfers > share.transfers || mine.bytes > share.bytes)
        {
            let oldest = self
                .of_peer(newest)
                .min_by_key(|at| self.entries.get(*at).map(|entry| entry.age));
            let Some(oldest) = oldest else { break };
            self.evict(oldest);
        }
        while self.held.transfers > self.max.transfers || self.held.bytes > self.max.bytes {
            let Some(oldest) = self.order.oldest() else { break };
            self.evict(oldest);
        }
    }

    fn evict(&mut self, at: usize) {
        self.metrics.limits.inc(Limit::Transfers);
        self.metrics.transfers.inc(TransferResult::Expired);
        self.remove_at(at);
    }

    fn remove_at(&mut self, at: usize) -> Option<Transfer> {
        self.order.remove(&mut self.entries, at, |entry| &mut entry.links);
        let entry = self.entries.try_remove(at)?;
        self.index.remove(&entry.key);
        self.held.transfers = self.held.transfers.saturating_sub(1);
        self.held.bytes = self.held.bytes.saturating_sub(entry.bytes);
        let peer = entry.key.peer();
        if let Some(mine) = self.peers.get_mut(&peer) {
            mine.transfers = mine.transfers.saturating_sub(1);
            mine.bytes = mine.bytes.saturating_sub(entry.bytes);
            if mine.transfers == 0 {
                self.peers.remove(&peer);
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::coap::contract::Code;

    fn body(len: usize) -> Body {
        Body {
            bytes: Bytes::from(vec![0; len]),
            code: Code::CONTENT,
            content_format: None,
            max_age: None,
            etag: [0; 8],
        }
    }

    fn resource(n: u8) -> ResourceKey {
        ResourceKey(Arc::from([n].as_slice()))
    }

    #[test]
    fn a_full_table_forgets_what_stood_still_longest() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let metrics = Arc::new(CoapMetrics::new(0));
        let mut transfers = Transfers::new(2, 1_000, Duration::from_secs(9), Arc::clone(&metrics));
        transfers.put_body(now, PeerId(1), &resource(1), body(10));
        transfers.put_body(now, PeerId(2), &resource(1), body(10));
        assert!(transfers.body(now, PeerId(1), &resource(1)).is_some());
        transfers.put_body(now, PeerId(3), &resource(1), body(10));
        assert!(transfers.body(now, PeerId(2), &resource(1)).is_none());
        transfers.put_body(now, PeerId(4), &resource(1), body(995));
        assert_eq!(transfers.len(), 1);
        assert_eq!(metrics.limits.get(Limit::Transfers), 3);
        transfers.expire(now + Duration::from_secs(9));
        assert_eq!((transfers.len(), transfers.held.bytes), (0, 0));
        assert!(transfers.peers.is_empty());
    }

    #[test]
    fn a_greedy_peer_makes_room_of_its_own() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let mut transfers =
            Transfers::new(64, 1 << 20, Duration::from_secs(9), Arc::new(CoapMetrics::new(0)));
        transfers.put_body(now, PeerId(1), &resource(0), body(10));
        for n in 0..100 {
            transfers.put_body(now, PeerId(2), &resource(n), body(10));
        }
        assert_eq!(transfers.len(), 9);
        assert!(transfers.body(now, PeerId(1), &resource(0)).is_some());
        assert!(transfers.body(now, PeerId(2), &resource(99)).is_some());
        transfers.remove_peer(PeerId(2));
        assert_eq!(transfers.len(), 1);
    }
}
