//! The peers of a worker: which UDP address or DTLS session stands behind a [`PeerId`].

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::coap::contract::PeerId;
use crate::dtls::contract::SessionId;
use crate::policy::connections::ConnectionKey;
use crate::types::{Identity, ListenerId, PeerAddr};

/// How many candidates one search for an idle peer looks at, so that a full table costs each datagram the same.
const EVICTION_PROBES: usize = 16;

/// One peer.
#[derive(Debug)]
pub struct Peer {
    /// The listener it came to.
    pub listener: ListenerId,
    /// Where it is now.
    pub address: PeerAddr,
    /// Its DTLS session; `None` over plain UDP.
    pub session: Option<SessionId>,
    /// Who its handshake proved it to be.
    pub identity: Option<Identity>,
    /// The connections that are attached to it.
    pub connections: Vec<ConnectionKey>,
    /// When its last datagram came.
    pub seen_at: Instant,
}

/// All peers of a worker.
pub struct Peers {
    by_id: HashMap<PeerId, Peer>,
    by_address: HashMap<(ListenerId, PeerAddr), PeerId>,
    by_session: HashMap<SessionId, PeerId>,
    /// UDP peers with the time they were last looked at, oldest look first.
    udp_order: VecDeque<(PeerId, Instant)>,
    next: u64,
}

impl Peers {
    /// No peers; ids begin after `first_id`, which must set workers apart.
    #[must_use]
    pub fn new(first_id: u64) -> Self {
        Self {
            by_id: HashMap::new(),
            by_address: HashMap::new(),
            by_session: HashMap::new(),
            udp_order: VecDeque::new(),
            next: first_id,
        }
    }

    /// The peer at a UDP address, if known; notes that it was seen.
    pub fn seen_at_address(
        &mut self,
        now: Instant,
        listener: ListenerId,
        address: PeerAddr,
    ) -> Option<PeerId> {
        let id = *self.by_address.get(&(listener, address))?;
        self.by_id.get_mut(&id)?.seen_at = now;
        Some(id)
    }

    /// The peer of a DTLS session, if known; notes that it was seen.
    pub fn seen_on_session(&mut self, now: Instant, session: SessionId) -> Option<PeerId> {
        let id = *self.by_session.get(&session)?;
        self.by_id.get_mut(&id)?.seen_at = now;
        Some(id)
    }

    /// Adds a peer.
    pub fn insert(&mut self, peer: Peer) -> PeerId {
        self.next += 1;
        let id = PeerId(self.next);
        match peer.session {
            Some(session) => {
                self.by_session.insert(session, id);
            }
            None => {
                self.by_address.insert((peer.listener, peer.address), id);
                self.udp_order.push_back((id, peer.seen_at));
            }
        }
        self.by_id.insert(id, peer);
        id
    }

    /// Takes a peer out.
    pub fn remove(&mut self, id: PeerId) -> Option<Peer> {
        let peer = self.by_id.remove(&id)?;
        match peer.session {
            Some(session) => self.by_session.remove(&session),
            None => self.by_address.remove(&(peer.listener, peer.address)),
        };
        Some(peer)
    }

    /// A UDP peer that nobody needs: silent for `idle`, and `needed` says no. Looks at a few of the longest unseen only.
    pub fn idle_udp_peer(
        &mut self,
        now: Instant,
        idle: Duration,
        needed: impl Fn(PeerId, &Peer) -> bool,
    ) -> Option<PeerId> {
        for _ in 0..EVICTION_PROBES.min(self.udp_order.len()) {
            let (id, looked_at) = *self.udp_order.front()?;
            if now.saturating_duration_since(looked_at) < idle {
                return None;
            }
            self.udp_order.pop_front();
            let Some(peer) = self.by_id.get(&id) else { continue };
            if now.saturating_duration_since(peer.seen_at) >= idle && !needed(id, peer) {
                return Some(id);
            }
            // Seen since, or needed: it goes to the end of the line, as if looked at now.
            self.udp_order
                .push_back((id, if needed(id, peer) { now } else { peer.seen_at }));
        }
        None
    }

    /// How many peers speak plain UDP.
    #[must_use]
    pub fn udp_len(&self) -> usize {
        self.by_address.len()
    }

    /// One peer.
    #[must_use]
    pub fn get(&self, id: PeerId) -> Option<&Peer> {
        self.by_id.get(&id)
    }

    /// One peer, to change.
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.by_id.get_mut(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_for_tests as clock;

    fn peer(port: u16, seen_at: Instant) -> Peer {
        Peer {
            listener: ListenerId(0),
            address: PeerAddr::new(([127, 0, 0, 1], port).into()).unwrap(),
            session: None,
            identity: None,
            connections: Vec::new(),
            seen_at,
        }
    }

    #[test]
    fn the_longest_silent_peer_that_nobody_needs_goes_first() {
        let start = clock();
        let later = start + Duration::from_secs(300);
        let mut peers = Peers::new(0);
        let needed = peers.insert(peer(1, start));
        let idle = peers.insert(peer(2, start));
        let busy = peers.insert(peer(3, start));
        peers.get_mut(busy).unwrap().seen_at = later;
        let idle_for = Duration::from_secs(250);
        assert_eq!(
            peers.idle_udp_peer(later, idle_for, |id, _| id == needed),
            Some(idle)
        );
        peers.remove(idle);
        assert_eq!(peers.idle_udp_peer(later, idle_for, |id, _| id == needed), None);
        assert_eq!(peers.udp_len(), 2);
    }
}
