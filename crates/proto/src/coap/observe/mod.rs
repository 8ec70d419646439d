//! Notifications: in order for each observation, one confirmable at a time for each peer, the rest in bounded queues
//! (RFC 7641, 4.5; RFC 7252, 4.7).

mod outcome;
mod state;

use std::collections::VecDeque;
use std::time::Instant;

use crate::types::reason::Limit;

use crate::coap::contract::{Notification, ObservationId, PeerId};
use crate::coap::endpoint::Endpoint;
use crate::coap::metrics::{MessageType, NotificationResult};
use crate::coap::reliability::Purpose;

pub(crate) use state::Observing;
use state::{InFlight, OVERHEAD, RECENT, weight};

impl Endpoint {
    /// Sends a notification, or queues it behind those of its observation and until the peer may get it.
    pub fn notify(
        &mut self,
        now: Instant,
        peer: PeerId,
        observation: ObservationId,
        notification: Notification,
    ) {
        self.saw_time(now);
        let too_large = notification.payload.len() > self.parameters.max_body_size;
        let slot = match self.peers.slot(peer) {
            Some(slot) if !too_large => slot,
            _ => {
                if too_large {
                    self.metrics.limits.inc(Limit::BodySize);
                }
                let confirmable = notification.confirmable;
                return self
                    .metrics
                    .notification(confirmable, NotificationResult::Dropped);
            }
        };
        let Some(it) = self.peers.get_mut(slot) else {
            return;
        };
        let observing = it.observing.get_or_insert_default();
        let entry = observing.observations.entry(observation).or_default();
        entry.queue.push_back(notification);
        let weight = entry.queue.back().map_or(0, weight);
        observing.weight += weight;
        self.queued_bytes += weight;
        self.advance(now, slot, observation, false);
        self.bound_queue(slot, observation);
        self.metrics.queued_bytes.set(self.queued_bytes as u64);
    }

    /// Forgets an observation: what waits and what is outstanding. The others of the peer go on.
    pub fn cancel(&mut self, peer: PeerId, observation: ObservationId) {
        for notification in self.take_pending(peer, observation) {
            let result = NotificationResult::Dropped;
            self.metrics.notification(notification.confirmable, result);
        }
    }

    /// Takes what a peer has not acknowledged of an observation, the outstanding one first, and forgets the observation: for
    /// a client that moved to another peer.
    pub fn take_pending(&mut self, peer: PeerId, observation: ObservationId) -> Vec<Notification> {
        let Some(slot) = self.peers.slot(peer) else {
            return Vec::new();
        };
        let Some(observing) = self.observing(slot) else {
            return Vec::new();
        };
        let mut pending = Vec::new();
        if let Some(landed) = observing.landed(observation) {
            self.settle(slot, landed.mid);
            pending.push(landed.notification);
        }
        pending.extend(self.forget(slot, observation));
        if let Some(now) = self.now {
            self.pump(now, slot);
        }
        pending
    }

    fn observing(&mut self, slot: usize) -> Option<&mut Observing> {
        self.peers.get_mut(slot)?.observing.as_deref_mut()
    }

    fn forget(&mut self, slot: usize, id: ObservationId) -> VecDeque<Notification> {
        let Some(peer) = self.peers.get_mut(slot) else {
            return VecDeque::new();
        };
        let Some(observing) = peer.observing.as_deref_mut() else {
            return VecDeque::new();
        };
        let queue = observing.forget(id);
        if observing.is_idle(peer.proven) {
            peer.observing = None;
        }
        self.queued_bytes = self.queued_bytes.saturating_sub(queue.iter().map(weight).sum());
        self.metrics.queued_bytes.set(self.queued_bytes as u64);
        queue
    }

    /// Drops the oldest while an observation holds more than it may, or all together do.
    fn bound_queue(&mut self, slot: usize, id: ObservationId) {
        let (most, all) = (self.caps.queued_per_observation, self.caps.queued_bytes);
        loop {
            let queued = self.queued_bytes;
            let Some(observing) = self.observing(slot) else {
                return;
            };
            let too_heavy = queued > all || observing.weight > (all / 8).max(OVERHEAD);
            let Some(entry) = observing.observations.get_mut(&id) else {
                return;
            };
            if entry.queue.len() <= most && !too_heavy {
                return;
            }
            let Some(dropped) = entry.queue.pop_front() else {
                return;
            };
            observing.weight = observing.weight.saturating_sub(weight(&dropped));
            self.queued_bytes = self.queued_bytes.saturating_sub(weight(&dropped));
            self.metrics.limits.inc(Limit::QueuedNotifications);
            let result = NotificationResult::Dropped;
            self.metrics.notification(dropped.confirmable, result);
        }
    }

    /// Sends what may go of one observation; what may not is put in line. With `in_turn` a confirmable one is put in line behind
    /// the other observations even if it could go now. False when the peer may get nothing confirmable now.
    fn advance(&mut self, now: Instant, slot: usize, id: ObservationId, in_turn: bool) -> bool {
        loop {
            let Some(peer) = self.peers.get_mut(slot) else {
                return true;
            };
            let proven = peer.proven;
            let Some(observing) = peer.observing.as_deref_mut() else {
                return true;
            };
            let Some(entry) = observing.observations.get(&id) else {
                return true;
            };
            let Some(front) = entry.queue.front() else {
                return true;
            };
            if entry.in_flight.is_some() {
                return true;
            }
            let expired = front.expires_at.is_some_and(|at| at <= now);
            let permit = observing.permits(proven, front.confirmable);
            if !expired && (permit.is_none() || (permit == Some(true) && in_turn)) {
                if let Some(entry) = observing.observations.get_mut(&id)
                    && !std::mem::replace(&mut entry.is_ready, true)
                {
                    observing.ready.push_back(id);
                }
                return permit.is_some();
            }
            let Some(entry) = observing.observations.get_mut(&id) else {
                return true;
            };
            let Some(notification) = entry.queue.pop_front() else {
                return true;
            };
            observing.weight = observing.weight.saturating_sub(weight(&notification));
            self.queued_bytes = self.queued_bytes.saturating_sub(weight(&notification));
            if expired {
                let result = NotificationResult::Expired;
                self.metrics.notification(notification.confirmable, result);
            } else {
                self.send_notification(now, slot, id, notification, permit == Some(true));
            }
        }
    }

    /// Lets the observations of a peer that wait have their turn, as far as they may.
    pub(in crate::coap) fn pump(&mut self, now: Instant, slot: usize) {
        while let Some(observing) = self.observing(slot)
            && let Some(id) = observing.ready.pop_front()
        {
            if let Some(entry) = observing.observations.get_mut(&id) {
                entry.is_ready = false;
            }
            if !self.advance(now, slot, id, false) {
                // It stays first in line.
                if let Some(observing) = self.observing(slot)
                    && let Some(id) = observing.ready.pop_back()
                {
                    observing.ready.push_front(id);
                }
                break;
            }
        }
        self.metrics.queued_bytes.set(self.queued_bytes as u64);
    }

    fn send_notification(
        &mut self,
        now: Instant,
        slot: usize,
        id: ObservationId,
        notification: Notification,
        confirmable: bool,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let mid = peer.take_mid();
        let kind = match confirmable {
            true => MessageType::Con,
            false => MessageType::Non,
        };
        let datagram = self.encode_notification(now, slot, &notification, kind, mid);
        // A confirmable one is counted when it is known what became of it, so that each is counted once.
        if !confirmable {
            self.metrics.notification(false, NotificationResult::Sent);
        }
        if let Some(observing) = self.observing(slot) {
            observing.unconfirmed = observing.unconfirmed.saturating_add(1);
            let entry = observing.observations.entry(id).or_default();
            entry.last_sent = Some(now);
            if confirmable {
                observing.outstanding += 1;
                entry.in_flight = Some(InFlight {
                    mid,
                    stalled: false,
                    notification,
                });
            } else {
                if let Some(recent) = entry.recent.get_mut(entry.sent % RECENT) {
                    *recent = mid;
                }
                entry.sent += 1;
            }
        }
        match confirmable {
            true => self.send_confirmable(now, slot, mid, datagram, Purpose::Notification(id)),
            false => self.transmit(slot, &datagram),
        }
    }
}
