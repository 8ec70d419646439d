//! Notifications: in order for each observation, one confirmable at a time for each peer, the rest in bounded queues
//! (RFC 7641, 4.5; RFC 7252, 4.7).

use std::collections::VecDeque;
use std::time::Instant;

use crate::types::reason::Limit;

use super::contract::{Event, Notification, NotificationOutcome, ObservationId, PeerId};
use super::endpoint::Endpoint;
use super::hash::IdMap;
use super::metrics::{MessageType, NotificationResult};
use super::reliability::Purpose;

/// Notifications that an unproven peer gets before it must acknowledge one.
const UNCONFIRMED: u32 = 16;

/// What a waiting notification weighs beside its payload.
const OVERHEAD: usize = 128;

/// Message ids of non-confirmable notifications that a RST may still name, for each observation.
const RECENT: usize = 8;

/// The observations of one peer.
#[derive(Debug, Default)]
pub(crate) struct Observing {
    observations: IdMap<ObservationId, Observation>,
    /// Observations whose next notification waits for its turn.
    ready: VecDeque<ObservationId>,
    /// Confirmable notifications that wait for their ACK.
    outstanding: usize,
    /// Those of them that were retransmitted.
    stalled: usize,
    /// Notifications since the peer was last known to be where it says.
    unconfirmed: u32,
    /// Weight of what waits.
    weight: usize,
}

#[derive(Debug, Default)]
struct Observation {
    queue: VecDeque<Notification>,
    in_flight: Option<InFlight>,
    is_ready: bool,
    recent: [u16; RECENT],
    sent: usize,
    last_sent: Option<Instant>,
}

#[derive(Debug)]
struct InFlight {
    mid: u16,
    stalled: bool,
    notification: Notification,
}

fn weight(notification: &Notification) -> usize {
    notification.payload.len() + OVERHEAD
}

impl Observing {
    /// Whether a notification may go now, and if so whether as CON.
    fn permits(&self, proven: bool, confirmable: bool) -> Option<bool> {
        if !proven && self.unconfirmed >= UNCONFIRMED {
            return (self.outstanding == 0).then_some(true);
        }
        match confirmable {
            true => (self.outstanding == 0 || self.stalled > 0).then_some(true),
            false => Some(false),
        }
    }

    /// The CON of an observation is settled, one way or the other.
    fn landed(&mut self, id: ObservationId) -> Option<InFlight> {
        let landed = self.observations.get_mut(&id)?.in_flight.take()?;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.stalled = self.stalled.saturating_sub(usize::from(landed.stalled));
        Some(landed)
    }

    fn forget(&mut self, id: ObservationId) -> VecDeque<Notification> {
        let queue = self
            .observations
            .remove(&id)
            .map(|it| it.queue)
            .unwrap_or_default();
        self.ready.retain(|ready| *ready != id);
        self.weight = self.weight.saturating_sub(queue.iter().map(weight).sum());
        queue
    }

    /// Whether nothing of it is worth keeping. An unproven peer does not lose its count by observing anew.
    fn is_idle(&self, proven: bool) -> bool {
        self.observations.is_empty() && (proven || self.unconfirmed == 0)
    }

    /// Whether each notification is confirmable that waits, or for whose ACK we wait.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = bool> {
        self.observations.values().flat_map(|it| {
            let waiting = it.queue.iter().map(|notification| notification.confirmable);
            waiting.chain(it.in_flight.iter().map(|_| true))
        })
    }

    pub(super) fn waiting_weight(&self) -> usize {
        self.weight
    }
}

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
    pub(super) fn pump(&mut self, now: Instant, slot: usize) {
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

    pub(super) fn notification_acknowledged(&mut self, now: Instant, slot: usize, id: ObservationId) {
        if let Some(observing) = self.observing(slot) {
            observing.landed(id);
            observing.unconfirmed = 0;
        }
        self.metrics.con_notifications.inc(NotificationResult::Acked);
        self.tell(slot, id, NotificationOutcome::Acknowledged);
        self.advance(now, slot, id, true);
        self.pump(now, slot);
    }

    pub(super) fn notification_reset(&mut self, now: Instant, slot: usize, id: ObservationId) {
        self.end(now, slot, id, NotificationOutcome::Reset);
    }

    pub(super) fn notification_timed_out(&mut self, now: Instant, slot: usize, id: ObservationId) {
        self.end(now, slot, id, NotificationOutcome::TimedOut);
    }

    /// One retransmission time-out went by without an answer: the other observations wait no longer for this one.
    pub(super) fn notification_stalled(&mut self, now: Instant, slot: usize, id: ObservationId) {
        let Some(observing) = self.observing(slot) else {
            return;
        };
        if let Some(entry) = observing.observations.get_mut(&id)
            && let Some(in_flight) = &mut entry.in_flight
            && !std::mem::replace(&mut in_flight.stalled, true)
        {
            observing.stalled += 1;
        }
        self.pump(now, slot);
    }

    /// A RST that names no confirmable message of ours may name a notification that was sent as NON (RFC 7641, 3.6).
    pub(super) fn non_notification_reset(&mut self, now: Instant, slot: usize, mid: u16) -> bool {
        let lifetime = self.parameters.non_lifetime;
        let Some(observing) = self.observing(slot) else {
            return false;
        };
        let named = observing.observations.iter().filter(|(_, it)| {
            it.recent.iter().take(it.sent).any(|recent| *recent == mid)
                && it.last_sent.is_some_and(|at| now < at + lifetime)
        });
        let Some(id) = named
            .max_by_key(|(id, it)| (it.last_sent, **id))
            .map(|(id, _)| *id)
        else {
            return false;
        };
        self.end_with(now, slot, id, NotificationOutcome::Reset, false);
        true
    }

    fn end(&mut self, now: Instant, slot: usize, id: ObservationId, outcome: NotificationOutcome) {
        self.end_with(now, slot, id, outcome, true);
    }

    fn end_with(
        &mut self,
        now: Instant,
        slot: usize,
        id: ObservationId,
        outcome: NotificationOutcome,
        confirmable: bool,
    ) {
        let landed = self.observing(slot).and_then(|observing| observing.landed(id));
        if let Some(landed) = landed.filter(|_| !confirmable) {
            self.settle(slot, landed.mid);
            self.metrics.con_notifications.inc(NotificationResult::Dropped);
        }
        for notification in self.forget(slot, id) {
            let result = NotificationResult::Dropped;
            self.metrics.notification(notification.confirmable, result);
        }
        let result = match outcome {
            NotificationOutcome::TimedOut => NotificationResult::Timeout,
            _ => NotificationResult::Reset,
        };
        self.metrics.notification(confirmable, result);
        self.tell(slot, id, outcome);
        self.pump(now, slot);
    }

    fn tell(&mut self, slot: usize, observation: ObservationId, outcome: NotificationOutcome) {
        if let Some(peer) = self.peers.get(slot).map(|peer| peer.id) {
            self.events.push_back(Event::Notified {
                peer,
                observation,
                outcome,
            });
        }
    }
}
