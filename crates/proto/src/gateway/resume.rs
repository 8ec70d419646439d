//! The observations of a connection that moved between workers, at both ends: subscribed anew here and kept there until they
//! stand, so that no message is missed; only then is their client answered.

use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use super::contract::Output;
use super::pending::{CLAIM_TIMEOUT, Parked, Pending};
use super::request::Stage;
use super::timers::Timer;
use super::workers::{Claim, MovedObservation, WorkerMessage};
use crate::bridge::contract::{BrokerError, BrokerRequest, FilterId};
use crate::bridge::handover::{self, Kept};
use crate::bridge::subscriptions::Holder;
use crate::coap::contract::ObservationId;
use crate::policy::connections::ConnectionKey;
use crate::types::message::Qos;
use crate::types::{Message, TopicFilter, WorkerId};

/// How many claims wait until a connection has arrived where they want to take it from.
const MAX_WAITING_CLAIMS: usize = 16;

/// A connection whose observations are on their way back.
pub(super) struct Resuming {
    /// The worker that it left.
    from: WorkerId,
    /// Its observations: their ids there, and here.
    observations: Vec<(ObservationId, ObservationId)>,
    /// How many the broker has yet to confirm.
    left: usize,
    /// What its client asked for when it came here.
    parked: Vec<Parked>,
    /// Workers that want to take it on already.
    claims: Vec<Claim>,
}

/// A connection that moved to another worker, which does not have its observations yet.
pub(super) struct Leaving {
    to: WorkerId,
    /// How many answers of the broker are to come before everything came here.
    fences: usize,
}

impl Gateway {
    /// Keeps what comes for the observations of a connection that moves away.
    pub(super) fn leave_observations(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        to: WorkerId,
    ) -> Vec<MovedObservation> {
        self.forget_leaving(key);
        let ids = self.subscriptions.of(Holder::Connection(key)).to_vec();
        let mut moved = Vec::with_capacity(ids.len());
        for id in ids {
            let waiting = self.backlog.take(now, id);
            let Some(observation) = self.subscriptions.get_mut(id) else {
                continue;
            };
            observation.stage.leave();
            moved.push(MovedObservation {
                left: id,
                terms: observation.terms.clone(),
                sequence: observation.sequence,
                confirmed_at: observation.confirmed_at,
                last: observation.last.clone(),
                waiting,
            });
            self.subscriptions.pass(id, Holder::Moved(key));
        }
        if !moved.is_empty() {
            self.leaving.insert(key, Leaving { to, fences: 0 });
            self.timers.arm(now + 2 * CLAIM_TIMEOUT, Timer::Leaving(key));
        }
        moved
    }

    /// Ends what is left of a connection that moved away.
    pub(super) fn forget_leaving(&mut self, key: ConnectionKey) {
        if self.leaving.remove(&key).is_some() {
            self.timers.disarm(Timer::Leaving(key));
            self.end_observations(Holder::Moved(key));
        }
    }

    /// The other worker's subscriptions stand. What the broker handled before comes here before its next answer.
    pub(super) fn release(&mut self, now: Instant, key: ConnectionKey, to: WorkerId) {
        let ids = self.subscriptions.of(Holder::Moved(key)).to_vec();
        let waiting = self.leaving.get_mut(&key).filter(|leaving| leaving.to == to);
        let Some(leaving) = waiting.filter(|_| !ids.is_empty()) else {
            let kept = Vec::new();
            return self.tell(now, to, WorkerMessage::Released { key, kept });
        };
        leaving.fences = ids.len();
        for id in ids {
            let Some(observation) = self.subscriptions.get(id) else {
                continue;
            };
            let filter = observation.terms.filter.clone();
            let (filter_id, qos) = (observation.filter_id, observation.terms.subscribe_qos);
            self.subscribe_again(Pending::Fence { connection: key }, filter_id, filter, qos);
        }
    }

    /// One observation has had what it can get here.
    pub(super) fn fenced(&mut self, now: Instant, key: ConnectionKey) {
        let Some(leaving) = self.leaving.get_mut(&key) else {
            return;
        };
        leaving.fences = leaving.fences.saturating_sub(1);
        if leaving.fences > 0 {
            return;
        }
        let to = leaving.to;
        let mut kept = Vec::new();
        for id in self.subscriptions.of(Holder::Moved(key)).to_vec() {
            if let Some(observation) = self.subscriptions.get_mut(id)
                && let handover::Stage::Leaving(messages, _) = &mut observation.stage
            {
                kept.push((id, std::mem::take(messages).into_messages()));
            }
        }
        self.forget_leaving(key);
        self.tell(now, to, WorkerMessage::Released { key, kept });
    }

    /// Takes in the observations of a connection that comes here: their ids there, and here.
    pub(super) fn resume_observations(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        moved: Vec<MovedObservation>,
    ) -> Vec<(ObservationId, ObservationId)> {
        moved
            .into_iter()
            .map(|observation| (observation.left, self.resume_observation(now, key, observation)))
            .collect()
    }

    /// Answers what a client asked for when it came here: at once, or when its observations stand, so that a message that
    /// is published after the answer finds them.
    pub(super) fn go_on_when_resumed(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        from: WorkerId,
        observations: Vec<(ObservationId, ObservationId)>,
        parked: Vec<Parked>,
    ) {
        if observations.is_empty() {
            return self.go_on(now, key, parked);
        }
        let resuming = Resuming {
            from,
            left: observations.len(),
            observations,
            parked,
            claims: Vec::new(),
        };
        self.resuming.insert(key, resuming);
        self.timers.arm(now + CLAIM_TIMEOUT, Timer::Resume(key));
    }

    fn resume_observation(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        moved: MovedObservation,
    ) -> ObservationId {
        let (filter, qos) = (moved.terms.filter.clone(), moved.terms.subscribe_qos);
        let inserted = self
            .subscriptions
            .insert(now, Holder::Connection(key), moved.terms);
        if let Some(observation) = self.subscriptions.get_mut(inserted.id) {
            observation.sequence = moved.sequence;
            observation.confirmed_at = moved.confirmed_at;
            observation.last = moved.last;
        }
        for notification in moved.waiting {
            self.keep_for_later(inserted.id, notification);
        }
        self.metrics.subscriptions.set(self.subscriptions.len() as u64);
        self.arm_observation(now, inserted.id);
        let pending = Pending::Resume {
            connection: key,
            observation: inserted.id,
        };
        self.subscribe_again(pending, inserted.filter_id, filter, qos);
        inserted.id
    }

    fn subscribe_again(&mut self, pending: Pending, filter_id: FilterId, filter: TopicFilter, qos: Qos) {
        let ticket = self.ticket();
        self.pending.insert(ticket, pending);
        let request = BrokerRequest::Subscribe {
            ticket,
            filter_id,
            filter,
            qos,
            retained: false,
        };
        self.outputs.push_back(Output::Broker(request));
    }

    /// The broker's word on the subscription of an observation that moved here.
    pub(super) fn resumed(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        id: ObservationId,
        error: Option<BrokerError>,
    ) {
        let waits = self.resuming.get(&key).is_some_and(|resuming| resuming.left > 0);
        match (error, self.subscriptions.get_mut(id)) {
            (None, Some(observation)) if waits => {
                observation.stage = handover::Stage::Arriving(Kept::default());
            }
            (None, Some(observation)) => observation.stage = handover::Stage::live(),
            (Some(error), Some(_)) => self.refuse_observation(now, id, error),
            // Cancelled meanwhile.
            (_, None) => {}
        }
        let Some(resuming) = self.resuming.get_mut(&key).filter(|_| waits) else {
            return;
        };
        resuming.left -= 1;
        if resuming.left == 0 {
            let (from, to) = (resuming.from, self.worker);
            self.tell(now, from, WorkerMessage::Release { key, to });
        }
    }

    /// What came at the worker that was left is here: from now on the messages go to the client.
    pub(super) fn released(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        mut kept: Vec<(ObservationId, Vec<Arc<Message>>)>,
    ) {
        let Some(resuming) = self.resuming.remove(&key) else {
            return;
        };
        self.timers.disarm(Timer::Resume(key));
        for (there, here) in &resuming.observations {
            let before = kept
                .iter_mut()
                .find(|(id, _)| id == there)
                .map(|(_, messages)| std::mem::take(messages));
            self.begin_to_pass_on(now, *here, before.unwrap_or_default());
        }
        self.arrive(now, key, resuming);
    }

    fn begin_to_pass_on(&mut self, now: Instant, id: ObservationId, before: Vec<Arc<Message>>) {
        let Some(observation) = self.subscriptions.get_mut(id) else {
            return;
        };
        let handover::Stage::Arriving(kept) = &mut observation.stage else {
            return;
        };
        let (messages, repeats) = std::mem::take(kept).behind(before);
        observation.stage = handover::Stage::Live(repeats);
        for message in messages.iter().filter(|message| !message.is_expired(now)) {
            self.pass_on(now, id, message);
        }
    }

    /// The broker, or the worker that was left, takes its time: the client is answered all the same.
    pub(super) fn stop_waiting_for(&mut self, now: Instant, key: ConnectionKey) {
        let Some(resuming) = self.resuming.remove(&key) else {
            return;
        };
        for (_, here) in &resuming.observations {
            self.begin_to_pass_on(now, *here, Vec::new());
        }
        self.arrive(now, key, resuming);
    }

    fn arrive(&mut self, now: Instant, key: ConnectionKey, resuming: Resuming) {
        self.go_on(now, key, resuming.parked);
        for claim in resuming.claims {
            self.surrender(now, claim);
        }
    }

    pub(super) fn go_on(&mut self, now: Instant, key: ConnectionKey, parked: Vec<Parked>) {
        for parked in parked {
            let here = self.connections.get(key).is_some();
            let stage = if here { Stage::Claimed } else { Stage::Fresh };
            self.process(now, parked, stage);
        }
    }

    /// Sets a claim aside that wants a connection which has not quite arrived; gives it back when there is none such.
    pub(super) fn after_arrival(&mut self, key: ConnectionKey, claim: Claim) -> Result<(), Claim> {
        match self.resuming.get_mut(&key) {
            Some(resuming) if resuming.claims.len() < MAX_WAITING_CLAIMS => {
                resuming.claims.push(claim);
                Ok(())
            }
            _ => Err(claim),
        }
    }
}
