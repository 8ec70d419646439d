//! The peers of a worker: which UDP address or DTLS session stands behind a [`PeerId`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Gateway;
use super::guests::Guests;
use super::traffic::Traffic;
use crate::bridge::subscriptions::AccountHolder;
use crate::coap;
use crate::coap::contract::PeerId;
use crate::policy::connections::Grant;
use crate::policy::ledger::{AccountId, Ledger, Table};
use crate::session::{SecureTransport, SessionId, SessionInfo};
use crate::state::Record;
use crate::types::hash::{IdMap, Keyed};
use crate::types::reason::DropReason;
use crate::types::standing::Standing;
use crate::types::{ClientId, Identity, ListenerId, PeerAddr, WorkerId};

/// Whom a token let in for a whole DTLS session.
#[derive(Debug)]
pub struct Bound {
    /// The client id that was named with it.
    pub client: Option<ClientId>,
    /// The user name that was named with it.
    pub username: Option<Arc<str>>,
    /// What it grants, and until when.
    pub grant: Grant,
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    /// The listener it came to.
    pub listener: ListenerId,
    /// Where it is now.
    pub address: PeerAddr,
    /// Its DTLS session or its stream; `None` over plain UDP.
    pub session: Option<SessionId>,
    /// Whether what it says is protected on its way: by DTLS or TLS.
    pub secure: bool,
    /// Who its handshake proved it to be.
    pub identity: Option<Identity>,
    /// The token that let in its whole session.
    pub bound: Option<Box<Bound>>,
    /// The connections that are used from there.
    pub guests: Guests,
    /// What it makes the gateway keep.
    pub account: AccountId,
    /// In whose share its session is counted.
    pub principal: Option<Arc<str>>,
    /// What it weighs by itself in its account and in that share, in bytes.
    pub weight: usize,
    /// The client id that it named last; changed by `set_client` only.
    pub client: Option<ClientId>,
    /// When it was first seen.
    pub since: Instant,
    /// When its last datagram came.
    pub seen_at: Instant,
    /// When other workers were last told that it lives.
    pub alive_at: Option<Instant>,
    /// Where the next process finds it.
    pub kept: Option<Record>,
    /// What was exchanged with it.
    pub traffic: Traffic,
    /// What the message layer knows of it.
    pub coap: coap::Peer,
}

impl Peer {
    /// Notes that it is known who it is.
    pub(crate) fn set_known(&mut self, ledger: &mut Ledger<AccountHolder>) {
        ledger.raise(self.account, Standing::Known);
        self.coap.set_known();
    }

    /// The client id that operators know it by: named, else proved.
    #[must_use]
    pub(crate) fn known_as(&self) -> Option<ClientId> {
        let proved = || ClientId::shared(&self.identity.as_ref()?.name);
        self.client.clone().or_else(proved)
    }

    /// What is known of its DTLS session.
    #[must_use]
    pub(crate) fn session_info(&self, dtls: &[Option<Box<dyn SecureTransport>>]) -> Option<SessionInfo> {
        let listener = dtls.get(usize::from(self.listener.0))?.as_ref()?;
        listener.session(self.session?)
    }
}

/// A place in the table. Its generation sets apart the peers that had it one after the other.
#[derive(Debug)]
struct Place {
    generation: u32,
    peer: Option<Peer>,
}

/// All peers of a worker. A [`PeerId`] is worker (8 bits), generation (24) and place (32).
pub struct Peers {
    places: Vec<Place>,
    free: Vec<u32>,
    worker: WorkerId,
    by_address: HashMap<(ListenerId, PeerAddr), PeerId, Keyed>,
    by_session: IdMap<SessionId, PeerId>,
    /// By the client id that a peer named last or proved; several peers may name the same.
    by_client: BTreeSet<(ClientId, PeerId)>,
    /// Where the next look for idle peers begins.
    sweep_from: usize,
    /// Where the next look for a stranger that gives way begins.
    evict_from: usize,
}

impl Peers {
    /// No peers. `secret` keeps senders from choosing addresses that collide.
    #[must_use]
    pub fn new(worker: WorkerId, secret: u64) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            worker,
            by_address: HashMap::with_hasher(Keyed::new(secret)),
            by_session: IdMap::default(),
            by_client: BTreeSet::new(),
            sweep_from: 0,
            evict_from: 0,
        }
    }

    /// The peer at a UDP address, if known.
    pub(crate) fn at_address(&self, listener: ListenerId, address: PeerAddr) -> Option<PeerId> {
        self.by_address.get(&(listener, address)).copied()
    }

    /// The peer of a DTLS session, if known.
    pub(crate) fn on_session(&self, session: SessionId) -> Option<PeerId> {
        self.by_session.get(&session).copied()
    }

    /// Adds the peer that is made for its id.
    pub fn insert(&mut self, peer: impl FnOnce(PeerId) -> Peer) -> PeerId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                peer: None,
            });
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self
            .places
            .get(place as usize)
            .map_or(0, |place| place.generation);
        let id = PeerId(self.worker.first_id() | u64::from(generation) << 32 | u64::from(place));
        let peer = peer(id);
        match peer.session {
            Some(session) => {
                self.by_session.insert(session, id);
            }
            None => {
                self.by_address.insert((peer.listener, peer.address), id);
            }
        }
        if let Some(client) = peer.known_as() {
            self.by_client.insert((client, id));
        }
        if let Some(place) = self.places.get_mut(place as usize) {
            place.peer = Some(peer);
        }
        id
    }

    /// Notes the client id that a peer named last; `None` when that no longer counts.
    pub(crate) fn set_client(&mut self, id: PeerId, client: Option<ClientId>) {
        let Some(peer) = self.get_mut(id) else { return };
        let before = peer.known_as();
        peer.client = client;
        let after = peer.known_as();
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.by_client.remove(&(before, id));
        }
        if let Some(after) = after {
            self.by_client.insert((after, id));
        }
    }

    /// Takes a peer out.
    pub fn remove(&mut self, id: PeerId) -> Option<Peer> {
        let place = self.place_mut(id)?;
        let peer = place.peer.take()?;
        place.generation = (place.generation + 1) & GENERATIONS;
        self.free.push(place_of(id));
        if let Some(client) = peer.known_as() {
            self.by_client.remove(&(client, id));
        }
        match peer.session {
            Some(session) => self.by_session.remove(&session),
            None => self.by_address.remove(&(peer.listener, peer.address)),
        };
        Some(peer)
    }

    /// The UDP peers among the next `places` places that nobody needs: silent for `idle`, and `needed` says no. Each call goes on
    /// where the last one stopped.
    pub fn sweep(
        &mut self,
        now: Instant,
        idle: Duration,
        places: usize,
        needed: impl Fn(PeerId, &Peer) -> bool,
    ) -> Vec<PeerId> {
        let (page, next) = self.page(self.sweep_from, places);
        let unneeded = page.filter(|(id, peer)| {
            let silent = now.saturating_duration_since(peer.seen_at) >= idle;
            peer.session.is_none() && silent && !needed(*id, peer)
        });
        let found = unneeded.map(|(id, _)| id).collect();
        self.sweep_from = next.unwrap_or_default();
        found
    }

    /// Of some places, each time others, the peer that was silent longest of those that may go.
    pub(crate) fn longest_silent(&mut self, places: usize, may_go: impl Fn(&Peer) -> bool) -> Option<PeerId> {
        let (page, next) = self.page(self.evict_from, places);
        let candidates = page.filter(|(_, peer)| may_go(peer));
        let found = candidates.min_by_key(|(_, peer)| peer.seen_at).map(|(id, _)| id);
        self.evict_from = next.unwrap_or_default();
        found
    }

    /// How many places there are, taken or free.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// One peer; none of another worker's.
    #[must_use]
    pub fn get(&self, id: PeerId) -> Option<&Peer> {
        let place = self.places.get(place_of(id) as usize)?;
        place.peer.as_ref().filter(|_| self.is_at(id, place))
    }

    /// One peer, to change.
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.place_mut(id)?.peer.as_mut()
    }

    fn is_at(&self, id: PeerId, place: &Place) -> bool {
        WorkerId::of(id.0) == self.worker && place.generation == generation_of(id)
    }

    fn place_mut(&mut self, id: PeerId) -> Option<&mut Place> {
        let place = self.places.get(place_of(id) as usize)?;
        if !self.is_at(id, place) {
            return None;
        }
        self.places.get_mut(place_of(id) as usize)
    }

    /// The peer that named this client id last, or proved it and named none; of several the one heard of last, as far as it is among
    /// the first of them.
    #[must_use]
    pub(crate) fn of_client(&self, client: &ClientId) -> Option<PeerId> {
        /// How many are looked at: who names the id of another one must not make that costly.
        const LOOKED_AT: usize = 16;
        let from = self.by_client.range((client.clone(), PeerId(0))..);
        let those = from.map_while(|(found, id)| (found == client).then_some(*id));
        those
            .take(LOOKED_AT)
            .max_by_key(|id| self.get(*id).map(|peer| peer.seen_at))
    }

    /// The peers in the next `places` places from `from` on, and where to go on; `None` at the end.
    pub fn page(&self, from: usize, places: usize) -> (impl Iterator<Item = (PeerId, &Peer)>, Option<usize>) {
        let until = from.saturating_add(places).min(self.places.len());
        let page = self.places.get(from..until).unwrap_or_default();
        let peers = page.iter().enumerate().filter_map(move |(offset, place)| {
            let index = u64::try_from(from + offset).ok()?;
            let id = PeerId(self.worker.first_id() | u64::from(place.generation) << 32 | index);
            Some((id, place.peer.as_ref()?))
        });
        (peers, (until < self.places.len()).then_some(until))
    }
}

impl coap::PeerTable for Peers {
    fn coap(&mut self, id: PeerId) -> Option<&mut coap::Peer> {
        Some(&mut self.get_mut(id)?.coap)
    }
}

const GENERATIONS: u32 = 0x00FF_FFFF;

const fn place_of(id: PeerId) -> u32 {
    id.0 as u32
}

const fn generation_of(id: PeerId) -> u32 {
    (id.0 >> 32) as u32 & GENERATIONS
}

impl Gateway {
    /// Whether the address of a peer is proved.
    pub(super) fn is_proven(&self, peer: PeerId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.coap.is_proven())
    }

    /// Writes down what the message layer keeps for a peer.
    pub(super) fn weigh(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(id) {
            let kept = self.coap.kept(&peer.coap);
            self.ledger.set(peer.account, Table::Blocks, kept.blocks);
            self.ledger.set(peer.account, Table::Queues, kept.queue);
            self.ledger.set(peer.account, Table::Requests, kept.requests);
        }
    }

    /// Looks whether a peer showed by now that it receives where it sends from.
    pub(super) fn proved(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(id).filter(|peer| peer.coap.is_proven()) else {
            return;
        };
        self.ledger.raise(peer.account, Standing::Proven);
        let dtls = self
            .dtls
            .get_mut(usize::from(peer.listener.0))
            .and_then(Option::as_mut);
        if let (Some(session), Some(dtls)) = (peer.session, dtls) {
            dtls.confirm_address(session);
        }
    }

    pub(super) fn count_dropped(&self, listener: ListenerId, reason: DropReason) {
        if let Some(metrics) = self.metrics.listeners.get(usize::from(listener.0)) {
            metrics.dropped.inc(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_for_tests as clock;

    fn insert(peers: &mut Peers, port: u16, seen_at: Instant) -> PeerId {
        let address = PeerAddr::new(([127, 0, 0, 1], port).into()).unwrap();
        let mut endpoint = coap::Endpoint::new(
            coap::contract::CoapSettings::default(),
            crate::types::limits::Caps::default(),
            [0; 32],
            Arc::default(),
        );
        let source = coap::Source::Address(ListenerId(0), address);
        peers.insert(|id| Peer {
            listener: ListenerId(0),
            address,
            session: None,
            secure: false,
            identity: None,
            bound: None,
            guests: Guests::default(),
            principal: None,
            weight: 0,
            client: None,
            since: seen_at,
            alive_at: None,
            seen_at,
            kept: None,
            account: Ledger::new(0, Default::default()).open((), Standing::Unproven),
            traffic: Traffic::default(),
            coap: endpoint.peer(id, ListenerId(0), source, false),
        })
    }

    #[test]
    fn the_peer_of_another_worker_is_none_of_this_ones() {
        let mut peers = [0, 1].map(|worker| Peers::new(WorkerId(worker), 7));
        let [here, there] = peers.each_mut().map(|peers| insert(peers, 9, clock()));
        assert!(peers[0].get(here).is_some() && peers[0].get(there).is_none());
        assert!(peers[0].get_mut(there).is_none() && peers[0].remove(there).is_none());
    }

    #[test]
    fn silent_peers_that_nobody_needs_are_found_in_one_round() {
        let start = clock();
        let later = start + Duration::from_secs(300);
        let mut peers = Peers::new(WorkerId(1), 7);
        let needed = insert(&mut peers, 1, start);
        let idle = insert(&mut peers, 2, start);
        let busy = insert(&mut peers, 3, start);
        peers.get_mut(busy).unwrap().seen_at = later;
        let idle_for = Duration::from_secs(250);
        let round = [2, 2].map(|places| peers.sweep(later, idle_for, places, |id, _| id == needed));
        assert_eq!(round.concat(), [idle]);
        peers.remove(idle);
        let next = insert(&mut peers, 4, later);
        assert!(next != idle && peers.get(idle).is_none() && peers.get(next).is_some());
        assert!(peers.sweep(later, idle_for, 9, |id, _| id == needed).is_empty());
    }
}
