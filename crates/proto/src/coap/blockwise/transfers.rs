//! Transfers in progress: bodies that come in by Block1, and bodies of which peers fetch the rest by Block2. They are weighed in
//! bytes, and who proved least makes room first (interface 2.7; RFC 7959, 7.2).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::coap::contract::{PeerId, ResourceKey};
use crate::coap::metrics::{CoapMetrics, TransferResult};
use crate::types::hash::{IdMap, Keyed};
use crate::types::list::{Links, List};
use crate::types::reason::{Label as _, Limit};
use crate::types::standing::{ByStanding, Standing};

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

    /// Bytes of the key, and of a transfer beside its body: the entry, and its places in the indices.
    fn weight(&self) -> usize {
        let chosen = match self {
            Self::Upload(_, resource, tag) => resource.0.len() + tag.len(),
            Self::Body(_, resource) => resource.0.len(),
        };
        size_of::<Transfer>() + 128 + chosen
    }
}

#[derive(Debug)]
enum Content {
    Upload(Upload),
    Body(Body),
}

impl Content {
    fn weight(&self) -> usize {
        match self {
            Self::Upload(upload) => upload.bytes.capacity(),
            Self::Body(body) => body.bytes.len(),
        }
    }
}

#[derive(Debug)]
struct Transfer {
    key: Key,
    standing: Standing,
    /// Whether more than its first block was asked for or came.
    went_on: bool,
    by_age: Links,
    of_peer: Links,
    expires: Instant,
    bytes: usize,
    content: Content,
}

/// The transfers of one standing, in order of the last activity.
#[derive(Debug, Default)]
struct OfStanding {
    /// Of which only the first block was seen: they go first.
    begun: List,
    going_on: List,
    bytes: usize,
}

impl OfStanding {
    fn list(&mut self, went_on: bool) -> &mut List {
        match went_on {
            false => &mut self.begun,
            true => &mut self.going_on,
        }
    }

    fn oldest(&self) -> Option<usize> {
        self.begun.oldest().or(self.going_on.oldest())
    }
}

#[derive(Debug, Default)]
struct OfPeer {
    transfers: List,
    bytes: usize,
}

/// All transfers of one endpoint.
#[derive(Debug)]
pub(crate) struct Transfers {
    entries: Slab<Transfer>,
    index: HashMap<Key, usize, Keyed>,
    classes: ByStanding<OfStanding>,
    peers: IdMap<PeerId, OfPeer>,
    most: usize,
    lifetime: Duration,
    pub(super) metrics: Arc<CoapMetrics>,
}

impl Transfers {
    /// `most` bytes for all of them together. `hasher` keeps senders from choosing resources that collide.
    pub(crate) fn new(most: usize, lifetime: Duration, hasher: Keyed, metrics: Arc<CoapMetrics>) -> Self {
        Self {
            entries: Slab::new(),
            index: HashMap::with_hasher(hasher),
            classes: ByStanding::default(),
            peers: IdMap::default(),
            most,
            lifetime,
            metrics,
        }
    }

    /// How long a transfer may stand still from now on.
    pub(crate) fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// So many bytes for all of them from now on.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// What the transfers of a peer weigh.
    pub(crate) fn bytes_of(&self, peer: PeerId) -> usize {
        match self.entries.is_empty() {
            true => 0,
            false => self.peers.get(&peer).map_or(0, |mine| mine.bytes),
        }
    }

    /// The longest body that one of this standing may send: what is put together may take twice its length meanwhile.
    pub(crate) fn longest_body(&self, standing: Standing) -> usize {
        standing.share_of(self.most) / 2
    }

    /// Keeps a body of which a peer has seen only a part; it replaces an older one of the same resource.
    pub(crate) fn put_body(
        &mut self,
        now: Instant,
        (peer, standing): (PeerId, Standing),
        resource: &ResourceKey,
        body: Body,
    ) {
        let key = Key::Body(peer, resource.clone());
        self.remove(&key);
        self.metrics.transfers.inc(TransferResult::DownloadStarted);
        self.insert(now, key, standing, Content::Body(body));
    }

    /// The body that a peer fetches, and marks it as active.
    pub(crate) fn body(
        &mut self,
        now: Instant,
        (peer, standing): (PeerId, Standing),
        resource: &ResourceKey,
    ) -> Option<Body> {
        if self.index.is_empty() {
            return None;
        }
        let at = *self.index.get(&Key::Body(peer, resource.clone()))?;
        let Content::Body(body) = &self.entries.get(at)?.content else {
            return None;
        };
        let body = body.clone();
        self.goes_on(now, at, standing);
        Some(body)
    }

    /// Forgets a body that a newer, shorter one has replaced.
    pub(crate) fn forget_body(&mut self, peer: PeerId, resource: &ResourceKey) {
        if self.peers.contains_key(&peer) {
            self.remove(&Key::Body(peer, resource.clone()));
        }
    }

    /// Whether there was room for it.
    pub(super) fn put_upload(&mut self, now: Instant, key: Key, standing: Standing, upload: Upload) -> bool {
        self.metrics.transfers.inc(TransferResult::UploadStarted);
        self.insert(now, key.clone(), standing, Content::Upload(upload));
        self.index.contains_key(&key)
    }

    pub(super) fn upload(&mut self, key: &Key) -> Option<&mut Upload> {
        let at = *self.index.get(key)?;
        match &mut self.entries.get_mut(at)?.content {
            Content::Upload(upload) => Some(upload),
            Content::Body(_) => None,
        }
    }

    pub(super) fn take_upload(&mut self, key: &Key) -> Option<Upload> {
        let at = *self.index.get(key)?;
        match self.remove_at(at)?.content {
            Content::Upload(upload) => Some(upload),
            Content::Body(_) => None,
        }
    }

    /// After a block of an upload came: accounts for its bytes and marks it as active.
    pub(super) fn grown(&mut self, now: Instant, key: &Key, standing: Standing) {
        if let Some(at) = self.index.get(key).copied() {
            self.goes_on(now, at, standing);
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let at = self.index.get(key).copied();
        at.and_then(|at| self.remove_at(at)).is_some()
    }

    pub(crate) fn remove_peer(&mut self, peer: PeerId) {
        while let Some(at) = self.peers.get(&peer).and_then(|mine| mine.transfers.oldest()) {
            self.remove_at(at);
        }
    }

    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let oldest = self.oldest_of_each().filter_map(|at| self.entries.get(at));
        oldest.map(|entry| entry.expires).min()
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        loop {
            let is_due = |at: &usize| self.entries.get(*at).is_some_and(|entry| entry.expires <= now);
            let Some(due) = self.oldest_of_each().find(is_due) else {
                return;
            };
            self.metrics.transfers.inc(TransferResult::Expired);
            self.remove_at(due);
        }
    }

    /// Every transfer lives equally long after its last activity, so these expire first.
    fn oldest_of_each(&self) -> impl Iterator<Item = usize> + '_ {
        self.classes()
            .flat_map(|class| [class.begun.oldest(), class.going_on.oldest()])
            .flatten()
    }

    fn classes(&self) -> impl Iterator<Item = &OfStanding> {
        Standing::ALL.iter().map(|standing| self.classes.of(*standing))
    }

    fn of_least_standing(&self) -> Option<usize> {
        self.classes().find_map(OfStanding::oldest)
    }

    fn bytes(&self) -> usize {
        self.classes().map(|class| class.bytes).sum()
    }

    fn insert(&mut self, now: Instant, key: Key, standing: Standing, content: Content) {
        let at = self.entries.insert(Transfer {
            key: key.clone(),
            standing,
            went_on: false,
            by_age: Links::default(),
            of_peer: Links::default(),
            expires: now + self.lifetime,
            bytes: 0,
            content,
        });
        self.index.insert(key, at);
        self.link(at);
        self.make_room(at);
    }

    fn goes_on(&mut self, now: Instant, at: usize, standing: Standing) {
        self.unlink(at);
        if let Some(entry) = self.entries.get_mut(at) {
            entry.expires = now + self.lifetime;
            (entry.standing, entry.went_on) = (standing, true);
        }
        self.link(at);
        self.make_room(at);
    }

    /// Weighs a transfer, and puts it in line as the newest.
    fn link(&mut self, at: usize) {
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        entry.bytes = entry.key.weight() + entry.content.weight();
        let (peer, bytes) = (entry.key.peer(), entry.bytes);
        let (class, went_on) = (self.classes.of_mut(entry.standing), entry.went_on);
        class.bytes += bytes;
        class
            .list(went_on)
            .push_newest(&mut self.entries, at, |entry| &mut entry.by_age);
        let mine = self.peers.entry(peer).or_default();
        mine.bytes += bytes;
        mine.transfers
            .push_newest(&mut self.entries, at, |entry| &mut entry.of_peer);
    }

    fn unlink(&mut self, at: usize) {
        let Some(entry) = self.entries.get(at) else {
            return;
        };
        let (peer, bytes) = (entry.key.peer(), entry.bytes);
        let (class, went_on) = (self.classes.of_mut(entry.standing), entry.went_on);
        class.bytes = class.bytes.saturating_sub(bytes);
        class
            .list(went_on)
            .remove(&mut self.entries, at, |entry| &mut entry.by_age);
        if let Some(mine) = self.peers.get_mut(&peer) {
            mine.bytes = mine.bytes.saturating_sub(bytes);
            mine.transfers
                .remove(&mut self.entries, at, |entry| &mut entry.of_peer);
            if mine.transfers.is_empty() {
                self.peers.remove(&peer);
            }
        }
    }

    /// A peer that has more than a quarter of what its standing may have makes room of its own, then each standing does that has
    /// more than its share, then whoever proved least.
    fn make_room(&mut self, newest: usize) {
        let Some((peer, standing)) = self
            .entries
            .get(newest)
            .map(|entry| (entry.key.peer(), entry.standing))
        else {
            return;
        };
        let share = standing.share_of(self.most);
        while let Some(mine) = self.peers.get(&peer)
            && mine.bytes > share / 4
            && mine.transfers.len() > 1
            && let Some(oldest) = mine.transfers.oldest()
        {
            self.evict(oldest);
        }
        while self.classes.of(standing).bytes > share
            && let Some(oldest) = self.classes.of(standing).oldest()
        {
            self.evict(oldest);
        }
        while self.bytes() > self.most
            && let Some(oldest) = self.of_least_standing()
        {
            self.evict(oldest);
        }
    }

    fn evict(&mut self, at: usize) {
        self.metrics.limits.inc(Limit::Transfers);
        self.metrics.transfers.inc(TransferResult::Expired);
        self.remove_at(at);
    }

    fn remove_at(&mut self, at: usize) -> Option<Transfer> {
        self.unlink(at);
        let entry = self.entries.try_remove(at)?;
        self.index.remove(&entry.key);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock_for_tests as clock;
    use crate::coap::contract::Code;

    /// Bytes of a transfer of one of these resources without a body.
    fn empty() -> usize {
        Key::Body(PeerId(0), resource(0)).weight()
    }

    /// With room for so many of `body` bytes each.
    fn transfers(count: usize, body: usize) -> (Transfers, Arc<CoapMetrics>) {
        let metrics = Arc::new(CoapMetrics::new(0));
        let most = count * (empty() + body);
        let lifetime = Duration::from_secs(9);
        (
            Transfers::new(most, lifetime, Keyed::new(7), Arc::clone(&metrics)),
            metrics,
        )
    }

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

    fn is_kept(transfers: &mut Transfers, peer: (PeerId, Standing), n: u8) -> bool {
        transfers.body(clock(), peer, &resource(n)).is_some()
    }

    #[test]
    fn first_blocks_of_strangers_go_before_what_goes_on_and_before_what_others_have() {
        let (mut transfers, metrics) = transfers(16, 10);
        let peer = |n, standing| (PeerId(n), standing);
        let [stranger, proven, known] = [
            peer(1, Standing::Unproven),
            peer(2, Standing::Proven),
            peer(3, Standing::Known),
        ];
        for it in [stranger, proven, known] {
            transfers.put_body(clock(), it, &resource(0), body(10));
        }
        assert!(is_kept(&mut transfers, stranger, 0), "it goes on");
        for n in 10..200 {
            transfers.put_body(clock(), peer(n, Standing::Unproven), &resource(0), body(10));
        }
        for it in [stranger, proven, known] {
            assert!(is_kept(&mut transfers, it, 0), "{it:?}");
        }
        assert_eq!((transfers.entries.len(), transfers.peers.len()), (6, 6));
        assert_eq!(metrics.limits.get(Limit::Transfers), 187);
        for n in 200..400 {
            transfers.put_body(clock(), peer(n, Standing::Known), &resource(0), body(10));
        }
        assert!(!is_kept(&mut transfers, stranger, 0) && !is_kept(&mut transfers, proven, 0));
        assert!(
            is_kept(&mut transfers, known, 0),
            "the others had seen one block only"
        );
        let most = transfers.longest_body(Standing::Unproven);
        assert_eq!(most * 2, transfers.most / 4);
        transfers.put_body(clock(), stranger, &resource(1), body(10));
        assert!(!is_kept(&mut transfers, stranger, 1), "the known fill it");
        transfers.expire(clock() + Duration::from_secs(60));
        assert!(transfers.index.is_empty() && transfers.peers.is_empty() && transfers.entries.is_empty());
        assert_eq!((transfers.bytes(), transfers.next_expiry()), (0, None));
    }

    #[test]
    fn who_proved_more_meanwhile_is_weighed_there() {
        let (mut transfers, _) = transfers(16, 10);
        transfers.put_body(clock(), (PeerId(1), Standing::Unproven), &resource(0), body(10));
        assert!(is_kept(&mut transfers, (PeerId(1), Standing::Known), 0));
        assert_eq!(transfers.classes.of(Standing::Unproven).bytes, 0);
        assert_eq!(
            transfers.classes.of(Standing::Known).bytes,
            transfers.bytes_of(PeerId(1))
        );
    }

    #[test]
    fn a_greedy_peer_makes_room_of_its_own() {
        let (mut transfers, _) = transfers(64, 10);
        let (one, greedy) = ((PeerId(1), Standing::Known), (PeerId(2), Standing::Known));
        transfers.put_body(clock(), one, &resource(0), body(10));
        for n in 0..100 {
            transfers.put_body(clock(), greedy, &resource(n), body(10));
        }
        assert_eq!(transfers.entries.len(), 17);
        assert!(is_kept(&mut transfers, one, 0));
        assert!(is_kept(&mut transfers, greedy, 99));
        transfers.remove_peer(PeerId(2));
        assert_eq!((transfers.entries.len(), transfers.bytes_of(PeerId(2))), (1, 0));
    }
}
