//! The peers of one endpoint and what the message layer knows of each.

use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;
use slab::Slab;

use crate::types::ListenerId;

use super::client::Client;
use super::contract::PeerId;
use super::echo::Echo;
use super::hash::IdMap;
use super::list::{Links, List};
use super::observe::Observing;
use super::reliability::Outstanding;

/// After this many acknowledgements that belong to nothing, a right one proves no address any more: it may have been guessed.
const MAX_GUESSES: u8 = 16;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) listener: ListenerId,
    /// Whether it shows its address by what it sends: a peer over plain UDP.
    evictable: bool,
    pub(crate) proven: bool,
    guesses: u8,
    next_mid: u16,
    pub(crate) last_seen: Option<Instant>,
    links: Links,
    /// Confirmable messages of ours by message id.
    pub(crate) outstanding: IdMap<u16, Outstanding>,
    /// Separate responses among them.
    pub(crate) separate: usize,
    /// Requests of it that wait for an answer, as slots of the endpoint's exchanges.
    pub(crate) exchanges: Vec<usize>,
    /// How often something was sent to it again.
    pub(crate) retransmissions: u64,
    pub(crate) observing: Option<Box<Observing>>,
    pub(crate) client: Option<Box<Client>>,
    pub(crate) echo: Option<Box<Echo>>,
}

impl Peer {
    /// The message id for the next message of ours: ascending from a random one, passing over those that still wait for an ACK.
    pub(crate) fn take_mid(&mut self) -> u16 {
        let mut mid = self.next_mid;
        for _ in 0..=self.outstanding.len() {
            if !self.outstanding.contains_key(&mid) {
                break;
            }
            mid = mid.wrapping_add(1);
        }
        self.next_mid = mid.wrapping_add(1);
        mid
    }

    /// Notes an acknowledgement that belongs to nothing.
    pub(crate) fn guessed(&mut self) {
        self.guesses = self.guesses.saturating_add(1);
    }

    /// Whether an acknowledgement of it is proof of its address.
    pub(crate) fn is_believed(&self) -> bool {
        self.guesses < MAX_GUESSES
    }
}

/// All peers. Those over plain UDP stand in order of their last message, the unproven apart from the proven.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    slab: Slab<Peer>,
    by_id: IdMap<PeerId, usize>,
    unproven: List,
    proven: List,
}

impl Peers {
    pub(crate) fn add(&mut self, id: PeerId, listener: ListenerId, proven: bool, rng: &mut StdRng) {
        if self.by_id.contains_key(&id) {
            return;
        }
        let slot = self.slab.insert(Peer {
            id,
            listener,
            evictable: !proven,
            proven,
            guesses: 0,
            next_mid: rng.random(),
            last_seen: None,
            links: Links::default(),
            outstanding: IdMap::default(),
            separate: 0,
            exchanges: Vec::new(),
            retransmissions: 0,
            observing: None,
            client: None,
            echo: None,
        });
        self.by_id.insert(id, slot);
        if !proven {
            self.unproven
                .push_newest(&mut self.slab, slot, |peer| &mut peer.links);
        }
    }

    pub(crate) fn remove(&mut self, slot: usize) -> Option<Peer> {
        let peer = self.slab.get(slot)?;
        if peer.evictable {
            let list = match peer.proven {
                true => &mut self.proven,
                false => &mut self.unproven,
            };
            list.remove(&mut self.slab, slot, |peer| &mut peer.links);
        }
        let peer = self.slab.try_remove(slot)?;
        self.by_id.remove(&peer.id);
        Some(peer)
    }

    pub(crate) fn slot(&self, id: PeerId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&Peer> {
        self.slab.get(slot)
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut Peer> {
        self.slab.get_mut(slot)
    }

    /// Notes that a message of the peer arrived.
    pub(crate) fn saw(&mut self, now: Instant, slot: usize) {
        let Some(peer) = self.slab.get_mut(slot) else {
            return;
        };
        peer.last_seen = Some(now);
        if peer.evictable {
            let list = match peer.proven {
                true => &mut self.proven,
                false => &mut self.unproven,
            };
            list.remove(&mut self.slab, slot, |peer| &mut peer.links);
            list.push_newest(&mut self.slab, slot, |peer| &mut peer.links);
        }
    }

    pub(crate) fn set_proven(&mut self, slot: usize) {
        let Some(peer) = self.slab.get_mut(slot) else {
            return;
        };
        if std::mem::replace(&mut peer.proven, true) {
            return;
        }
        peer.echo = None;
        if peer.evictable {
            self.unproven.remove(&mut self.slab, slot, |peer| &mut peer.links);
            self.proven
                .push_newest(&mut self.slab, slot, |peer| &mut peer.links);
        }
    }

    /// The peer over plain UDP to give up first: the unproven one that was silent longest, else the proven one.
    pub(crate) fn oldest(&self) -> Option<PeerId> {
        let slot = self.unproven.oldest().or(self.proven.oldest())?;
        self.slab.get(slot).map(|peer| peer.id)
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn unproven_peers_are_given_up_before_proven_ones_and_the_silent_first() {
        let mut rng = StdRng::seed_from_u64(1);
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let mut peers = Peers::default();
        for id in 0..4 {
            peers.add(PeerId(id), ListenerId(0), id == 3, &mut rng);
        }
        let slot = |peers: &Peers, id| peers.slot(PeerId(id)).unwrap();
        peers.set_proven(slot(&peers, 0));
        peers.saw(now + Duration::from_secs(1), slot(&peers, 1));
        let mut order = Vec::new();
        while let Some(oldest) = peers.oldest() {
            order.push(oldest.0);
            peers.remove(slot(&peers, oldest.0));
        }
        assert_eq!(order, [2, 1, 0], "a DTLS session is never given up here");
        assert_eq!(peers.len(), 1);
    }

    #[test]
    fn message_ids_wrap_and_pass_over_those_in_use() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut peers = Peers::default();
        peers.add(PeerId(1), ListenerId(0), true, &mut rng);
        let peer = peers.get_mut(peers.slot(PeerId(1)).unwrap()).unwrap();
        peer.next_mid = u16::MAX;
        peer.outstanding.insert(0, Outstanding::for_test());
        assert_eq!(
            [peer.take_mid(), peer.take_mid(), peer.take_mid()],
            [u16::MAX, 1, 2]
        );
    }
}
