//! What is known of the observations of one peer, and whether the next notification may go.

use std::collections::VecDeque;

use crate::coap::codec::HEADER;
use crate::coap::contract::{Notification, ObservationId};
use crate::coap::endpoint::BLOCK_OPTIONS;
use crate::types::hash::IdMap;

use super::sent_ids::SentIds;

/// What a waiting notification weighs beside its payload.
pub(super) const OVERHEAD: usize = 128;

/// The observations of one peer.
#[derive(Debug, Default)]
pub(crate) struct Observing {
    pub(super) observations: IdMap<ObservationId, Observation>,
    /// Observations whose next notification waits for its turn.
    pub(super) ready: VecDeque<ObservationId>,
    /// Confirmable notifications that wait for their ACK.
    pub(super) outstanding: usize,
    /// Those of them that were retransmitted.
    pub(super) stalled: usize,
    /// Weight of what waits.
    pub(super) weight: usize,
    pub(super) sent_ids: SentIds,
}

#[derive(Debug, Default)]
pub(super) struct Observation {
    pub(super) queue: VecDeque<Notification>,
    pub(super) in_flight: Option<Box<InFlight>>,
    pub(super) is_ready: bool,
    /// Whether the next notification is to be confirmable: its peer rejected one, and it is not known which.
    pub(super) is_doubtful: bool,
    /// The message ids set aside for its non-confirmable notifications.
    pub(super) run: Option<u64>,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) mid: u16,
    pub(super) stalled: bool,
    pub(super) notification: Notification,
}

pub(super) fn weight(notification: &Notification) -> usize {
    notification.payload.len() + OVERHEAD
}

/// Bytes of a notification, at most, when its body is cut to the smallest block or whole, whichever is less.
pub(super) fn least_length(notification: &Notification) -> usize {
    // Observe, Content-Format, payload marker.
    let head = HEADER + notification.token.as_bytes().len() + 4 + 3 + 1;
    head + notification.payload.len().min(BLOCK_OPTIONS + 16)
}

impl Observing {
    /// Whether a confirmable notification may go now.
    pub(in crate::coap) fn permits_confirmable(&self) -> bool {
        self.outstanding == 0 || self.stalled > 0
    }

    /// Whether what is unacknowledged of an observation comes back.
    pub(super) fn returns(&self, id: ObservationId) -> bool {
        let in_flight = self.observations.get(&id).and_then(|it| it.in_flight.as_ref());
        in_flight.is_some_and(|in_flight| in_flight.notification.returns)
    }

    /// The CON of an observation is settled, one way or the other.
    pub(super) fn landed(&mut self, id: ObservationId) -> Option<Box<InFlight>> {
        let landed = self.observations.get_mut(&id)?.in_flight.take()?;
        self.outstanding = self.outstanding.saturating_sub(1);
        self.stalled = self.stalled.saturating_sub(usize::from(landed.stalled));
        Some(landed)
    }

    pub(super) fn forget(&mut self, id: ObservationId) -> VecDeque<Notification> {
        let queue = self
            .observations
            .remove(&id)
            .map(|it| it.queue)
            .unwrap_or_default();
        self.ready.retain(|ready| *ready != id);
        self.weight = self.weight.saturating_sub(queue.iter().map(weight).sum());
        queue
    }

    /// Whether each notification is confirmable that waits, or for whose ACK we wait.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = bool> {
        self.observations.values().flat_map(|it| {
            let waiting = it.queue.iter().map(|notification| notification.confirmable);
            waiting.chain(it.in_flight.iter().map(|_| true))
        })
    }

    pub(crate) fn waiting_weight(&self) -> usize {
        self.weight
    }
}
