//! How notifications end: acknowledged, reset, given up (RFC 7641, 3.6 and 4.5).

use std::time::Instant;

use crate::coap::contract::{Event, NotificationOutcome, ObservationId};
use crate::coap::endpoint::Endpoint;
use crate::coap::metrics::NotificationResult;
use crate::coap::peer::Peer;

impl Endpoint {
    pub(in crate::coap) fn notification_acknowledged(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        id: ObservationId,
    ) {
        if let Some(observing) = peer.observing.as_deref_mut() {
            observing.landed(id);
        }
        self.metrics.con_notifications.inc(NotificationResult::Acked);
        self.tell(peer, id, NotificationOutcome::Acknowledged);
        self.advance(now, peer, id, true);
        self.pump(now, peer);
    }

    pub(in crate::coap) fn notification_reset(&mut self, now: Instant, peer: &mut Peer, id: ObservationId) {
        self.end(now, peer, id, NotificationOutcome::Reset, Some(true));
    }

    pub(in crate::coap) fn notification_timed_out(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        id: ObservationId,
    ) {
        let observing = peer.observing.as_deref_mut();
        let returns = observing.is_some_and(|observing| observing.returns(id));
        if !returns {
            return self.end(now, peer, id, NotificationOutcome::TimedOut, Some(true));
        }
        self.metrics.con_notifications.inc(NotificationResult::Timeout);
        let notifications = self.take_of(peer, id);
        // Who has it back says whether the others wait too.
        self.events.push_back(Event::Unanswered {
            peer: peer.id,
            observation: id,
            notifications,
        });
    }

    /// What became of the separate response that began an observation: its client cannot tell it from a notification.
    pub(in crate::coap) fn beginning_concluded(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        id: ObservationId,
        outcome: NotificationOutcome,
    ) {
        match outcome {
            NotificationOutcome::Acknowledged => self.tell(peer, id, outcome),
            _ => self.end(now, peer, id, outcome, None),
        }
    }

    /// One retransmission time-out went by without an answer: the other observations wait no longer for this one.
    pub(in crate::coap) fn notification_stalled(&mut self, now: Instant, peer: &mut Peer, id: ObservationId) {
        let Some(observing) = peer.observing.as_deref_mut() else {
            return;
        };
        if let Some(entry) = observing.observations.get_mut(&id)
            && let Some(in_flight) = &mut entry.in_flight
            && !std::mem::replace(&mut in_flight.stalled, true)
        {
            observing.stalled += 1;
        }
        self.pump(now, peer);
    }

    /// A RST that names no confirmable message of ours may name a notification that was sent as NON (RFC 7641, 3.6). Where too many
    /// were sent to remember all, each observation is asked about by its next one.
    pub(in crate::coap) fn non_notification_reset(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        mid: u16,
    ) -> bool {
        let lifetime = (now, self.parameters.non_lifetime);
        let Some(observing) = peer.observing.as_deref_mut() else {
            return false;
        };
        let Some(id) = observing.sent_ids.find(lifetime, mid) else {
            let doubtful = observing.sent_ids.is_incomplete(lifetime);
            for observation in observing.observations.values_mut() {
                observation.is_doubtful |= doubtful;
            }
            return doubtful;
        };
        if observing.observations.contains_key(&id) {
            self.end(now, peer, id, NotificationOutcome::Reset, Some(false));
        }
        true
    }

    /// Ends an observation for the sake of a notification that was confirmable or not, or of the response that began it.
    fn end(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        id: ObservationId,
        outcome: NotificationOutcome,
        confirmable: Option<bool>,
    ) {
        let observing = peer.observing.as_deref_mut();
        let landed = observing.and_then(|observing| observing.landed(id));
        if let Some(landed) = landed.filter(|_| confirmable != Some(true)) {
            self.settle(peer, landed.mid);
            self.metrics.con_notifications.inc(NotificationResult::Dropped);
        }
        for notification in self.forget_observation(peer, id) {
            let result = NotificationResult::Dropped;
            self.metrics.notification(notification.confirmable, result);
        }
        let result = match outcome {
            NotificationOutcome::TimedOut => NotificationResult::Timeout,
            _ => NotificationResult::Reset,
        };
        if let Some(confirmable) = confirmable {
            self.metrics.notification(confirmable, result);
        }
        self.tell(peer, id, outcome);
        self.pump(now, peer);
    }

    fn tell(&mut self, peer: &Peer, observation: ObservationId, outcome: NotificationOutcome) {
        self.events.push_back(Event::Notified {
            peer: peer.id,
            observation,
            outcome,
        });
    }
}
