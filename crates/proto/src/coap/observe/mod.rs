//! Notifications: in order for each observation, one confirmable at a time for each peer, the rest in bounded queues
//! (RFC 7641, 4.5; RFC 7252, 4.7).

mod outcome;
mod sent_ids;
mod state;

use std::collections::VecDeque;
use std::time::Instant;

use crate::types::reason::{Label as _, Limit};
use crate::types::standing::Standing;

use crate::coap::contract::{Event, Notification, NotificationOutcome, ObservationId};
use crate::coap::endpoint::Endpoint;
use crate::coap::metrics::{MessageType, NotificationResult};
use crate::coap::peer::Peer;
use crate::coap::reliability::Purpose;

pub(crate) use state::Observing;
use state::{InFlight, OVERHEAD, Observation, least_length, weight};

impl Endpoint {
    /// Sends a notification, or queues it behind those of its observation and until the peer may get it.
    pub fn notify(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        observation: ObservationId,
        notification: Notification,
    ) {
        self.saw_time(now);
        if notification.payload.len() > self.parameters.max_body_size {
            self.metrics.limits.inc(Limit::BodySize);
            let result = NotificationResult::Dropped;
            return self.metrics.notification(notification.confirmable, result);
        }
        let weight = weight(&notification);
        let observing = peer.observing.get_or_insert_default();
        let entry = observing.observations.entry(observation).or_default();
        entry.queue.push_back(notification);
        observing.weight += weight;
        self.advance(now, peer, observation, false);
        self.bound_queue(peer, observation);
    }

    /// Forgets an observation: what waits and what is outstanding. The others of the peer go on.
    pub fn cancel(&mut self, peer: &mut Peer, observation: ObservationId) {
        for (_, notification) in self.take_pending(peer, [observation]) {
            let result = NotificationResult::Dropped;
            self.metrics.notification(notification.confirmable, result);
        }
    }

    /// Takes what a peer has not acknowledged of some observations, of each the outstanding one first, and forgets those: for a client
    /// that moved to another peer, or sleeps.
    pub fn take_pending(
        &mut self,
        peer: &mut Peer,
        observations: impl IntoIterator<Item = ObservationId>,
    ) -> Vec<(ObservationId, Notification)> {
        let mut pending = Vec::new();
        for id in observations {
            let of_this = self.take_of(peer, id);
            pending.extend(of_this.into_iter().map(|notification| (id, notification)));
        }
        if let Some(now) = self.now {
            self.pump(now, peer);
        }
        pending
    }

    /// As [`Endpoint::take_pending`] of all observations of a peer: for a peer that ends.
    pub(crate) fn take_all_pending(&mut self, peer: &mut Peer) -> Vec<(ObservationId, Notification)> {
        let observing = peer.observing.as_deref();
        let ids: Vec<_> = observing.map_or_else(Vec::new, |it| it.observations.keys().copied().collect());
        self.take_pending(peer, ids)
    }

    fn take_of(&mut self, peer: &mut Peer, id: ObservationId) -> Vec<Notification> {
        let mut pending = Vec::new();
        let observing = peer.observing.as_deref_mut();
        if let Some(landed) = observing.and_then(|observing| observing.landed(id)) {
            self.settle(peer, landed.mid);
            landed.notification.note_sent_as(None);
            pending.push(landed.notification);
        }
        pending.extend(self.forget_observation(peer, id));
        pending
    }

    fn forget_observation(&mut self, peer: &mut Peer, id: ObservationId) -> VecDeque<Notification> {
        let Some(observing) = peer.observing.as_deref_mut() else {
            return VecDeque::new();
        };
        let queue = observing.forget(id);
        if observing.observations.is_empty() {
            peer.observing = None;
        }
        self.weigh_queue(peer);
        queue
    }

    /// Counts what waits for a peer with what waits for its likes.
    pub(in crate::coap) fn weigh_queue(&mut self, peer: &mut Peer) {
        let counted = (peer.standing(), peer.queue_weight());
        let (standing, weight) = std::mem::replace(&mut peer.counted, counted);
        if (standing, weight) != counted {
            let before = self.queued.of_mut(standing);
            *before = before.saturating_sub(weight);
            *self.queued.of_mut(counted.0) += counted.1;
            self.metrics.queued_bytes.set(self.all_queued() as u64);
        }
    }

    fn all_queued(&self) -> usize {
        Standing::ALL
            .iter()
            .map(|standing| self.queued.of(*standing))
            .sum()
    }

    /// Drops the oldest while an observation holds more than it may, or its peer and those of the same standing together do.
    fn bound_queue(&mut self, peer: &mut Peer, id: ObservationId) {
        let all = self.caps.queued_bytes;
        let standing = peer.standing();
        let share = standing.share_of(all);
        loop {
            self.weigh_queue(peer);
            let crowded = *self.queued.of(standing) > share || self.all_queued() > all;
            let Some(observing) = peer.observing.as_deref_mut() else {
                return;
            };
            let greedy = observing.weight > (share / 8).max(OVERHEAD);
            let Some(entry) = observing.observations.get_mut(&id) else {
                return;
            };
            let most = match entry.queue.front() {
                Some(oldest) if oldest.returns => self.caps.queued_for_sleeper,
                _ => self.caps.queued_per_observation,
            };
            if !(crowded || greedy || entry.queue.len() > most) {
                return;
            }
            let Some(dropped) = entry.queue.pop_front() else {
                return;
            };
            observing.weight = observing.weight.saturating_sub(weight(&dropped));
            self.metrics.limits.inc(Limit::QueuedNotifications);
            let result = NotificationResult::Dropped;
            self.metrics.notification(dropped.confirmable, result);
        }
    }

    /// Sends what may go of one observation; what may not is put in line. With `in_turn` a confirmable one is put in line behind
    /// the other observations even if it could go now. False when the peer may get nothing confirmable now.
    fn advance(&mut self, now: Instant, peer: &mut Peer, id: ObservationId, in_turn: bool) -> bool {
        loop {
            let observing = peer.observing.as_deref();
            let permits = observing.and_then(|it| permit(peer, it, it.observations.get(&id)?));
            let Some(observing) = peer.observing.as_deref_mut() else {
                return true;
            };
            let Some(entry) = observing.observations.get_mut(&id) else {
                return true;
            };
            let (Some(front), Some(permit)) = (entry.queue.front(), permits) else {
                return true;
            };
            if entry.in_flight.is_some() {
                return true;
            }
            let expired = front.expires_at.is_some_and(|at| at <= now);
            if !expired && (permit.is_none() || (permit == Some(true) && in_turn)) {
                if !std::mem::replace(&mut entry.is_ready, true) {
                    observing.ready.push_back(id);
                }
                return permit.is_some();
            }
            let Some(notification) = entry.queue.pop_front() else {
                return true;
            };
            observing.weight = observing.weight.saturating_sub(weight(&notification));
            if expired {
                let result = NotificationResult::Expired;
                self.metrics.notification(notification.confirmable, result);
            } else {
                self.send_notification(now, peer, id, notification, permit == Some(true));
            }
        }
    }

    /// Sends what waits for a peer, as far as it may go: confirmable messages, then its observations in turn.
    pub(in crate::coap) fn pump(&mut self, now: Instant, peer: &mut Peer) {
        self.send_waiting(peer);
        self.start_request(now, peer);
        while let Some(observing) = peer.observing.as_deref_mut()
            && let Some(id) = observing.ready.pop_front()
        {
            if let Some(entry) = observing.observations.get_mut(&id) {
                entry.is_ready = false;
            }
            if !self.advance(now, peer, id, false) {
                // It stays first in line.
                if let Some(observing) = peer.observing.as_deref_mut()
                    && let Some(id) = observing.ready.pop_back()
                {
                    observing.ready.push_front(id);
                }
                break;
            }
        }
        self.weigh_queue(peer);
    }

    fn send_notification(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        id: ObservationId,
        notification: Notification,
        confirmable: bool,
    ) {
        let lifetime = (now, self.parameters.non_lifetime);
        let observing = peer.observing.get_or_insert_default();
        let entry = observing.observations.entry(id).or_default();
        entry.is_doubtful = false;
        if !confirmable {
            let (mids, outstanding) = (&mut peer.mids, &peer.outstanding);
            let mid = observing.sent_ids.next(lifetime, id, &mut entry.run, |count| {
                mids.take(count, outstanding)
            });
            self.write_notification(now, peer, &notification, MessageType::Non, mid);
            // A confirmable one is counted when it is known what became of it, so that each is counted once.
            self.metrics.notification(false, NotificationResult::Sent);
            self.transmit_draft(peer);
            if notification.confirmable && peer.is_stream() {
                // The stream does what an acknowledgement is waited for elsewhere.
                self.events.push_back(Event::Notified {
                    peer: peer.id,
                    observation: id,
                    outcome: NotificationOutcome::Acknowledged,
                });
            }
            return;
        }
        let again = notification
            .sent_as()
            .filter(|mid| !peer.outstanding.contains_key(mid));
        let mid = again.unwrap_or_else(|| peer.mids.take(1, &peer.outstanding));
        notification.note_sent_as(Some(mid));
        self.write_notification(now, peer, &notification, MessageType::Con, mid);
        let observing = peer.observing.get_or_insert_default();
        observing.outstanding += 1;
        let entry = observing.observations.entry(id).or_default();
        entry.in_flight = Some(Box::new(InFlight {
            mid,
            stalled: false,
            notification,
        }));
        self.send_confirmable(now, peer, mid, Purpose::Notification(id));
    }

    /// Notes a non-confirmable response that began an observation, and that its peer may reject like a notification.
    pub(in crate::coap) fn began_with(&self, now: Instant, peer: &mut Peer, id: ObservationId, mid: u16) {
        let observing = peer.observing.get_or_insert_default();
        observing.observations.entry(id).or_default();
        observing
            .sent_ids
            .note((now, self.parameters.non_lifetime), id, mid);
    }
}

/// Whether the next notification of an observation may go now, and if so whether as CON; `None` when there is none. An unproven address
/// gets what fits into its budget, and is asked to acknowledge one while something is left to ask again.
fn permit(peer: &Peer, observing: &Observing, observation: &Observation) -> Option<Option<bool>> {
    let notification = observation.queue.front()?;
    if peer.is_stream() {
        return Some((!peer.is_behind()).then_some(false));
    }
    let mut confirmable = notification.confirmable || observation.is_doubtful;
    if !peer.proven {
        let (room, least) = (peer.room(), least_length(notification));
        if least > room {
            return Some(None);
        }
        confirmable |= peer.is_nearly_spent() || least > room / 2;
    }
    let may_go = !confirmable || (observing.permits_confirmable() && !peer.is_asked_anew());
    Some(may_go.then_some(confirmable))
}
