//! The observations of a connection that moved here: subscribed anew, and only then is its client answered.

use std::time::Instant;

use super::Gateway;
use super::contract::Output;
use super::pending::{CLAIM_TIMEOUT, Parked, Pending};
use super::request::Stage;
use super::timers::Timer;
use super::workers::MovedObservation;
use crate::bridge::contract::{BrokerError, BrokerRequest, Ticket};
use crate::bridge::subscriptions::Holder;
use crate::coap::contract::ObservationId;
use crate::policy::connections::ConnectionKey;

/// A connection whose observations are on their way back.
pub(super) struct Resuming {
    /// How many the broker has yet to confirm.
    left: usize,
    /// What its client asked for when it came here.
    parked: Vec<Parked>,
}

impl Gateway {
    pub(super) fn resume_observation(&mut self, now: Instant, key: ConnectionKey, moved: MovedObservation) {
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
        let ticket = self.ticket();
        let pending = Pending::Resume {
            connection: key,
            observation: inserted.id,
        };
        self.pending.insert(ticket, pending);
        let filter_id = inserted.filter_id;
        let request = BrokerRequest::Subscribe {
            ticket,
            filter_id,
            filter,
            qos,
            retained: false,
        };
        self.outputs.push_back(Output::Broker(request));
    }

    /// Answers what a client asked for when it came here: at once, or when its observations stand, so that a message that
    /// is published after the answer finds them.
    pub(super) fn go_on_when_resumed(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        left: usize,
        parked: Vec<Parked>,
    ) {
        if left == 0 {
            return self.go_on(now, key, parked);
        }
        if let Some(older) = self.resuming.insert(key, Resuming { left, parked }) {
            self.go_on(now, key, older.parked);
        }
        self.timers.arm(now + CLAIM_TIMEOUT, Timer::Resume(key));
    }

    /// The broker's word on the subscription of an observation that moved here.
    pub(super) fn resumed(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        id: ObservationId,
        error: Option<BrokerError>,
    ) {
        match (error, self.subscriptions.get_mut(id)) {
            (None, Some(observation)) => observation.active = true,
            (Some(error), Some(_)) => self.refuse_observation(now, id, error),
            // Cancelled meanwhile.
            (_, None) => {}
        }
        if let Some(resuming) = self.resuming.get_mut(&key) {
            resuming.left = resuming.left.saturating_sub(1);
            if resuming.left == 0 {
                self.stop_waiting_for(now, key);
            }
        }
    }

    /// The broker takes its time: the client is answered all the same.
    pub(super) fn stop_waiting_for(&mut self, now: Instant, key: ConnectionKey) {
        if let Some(resuming) = self.resuming.remove(&key) {
            self.go_on(now, key, resuming.parked);
        }
    }

    fn go_on(&mut self, now: Instant, key: ConnectionKey, parked: Vec<Parked>) {
        for parked in parked {
            let here = self.connections.get(key).is_some();
            let stage = if here { Stage::Claimed } else { Stage::Fresh };
            self.process(now, parked, stage);
        }
    }

    pub(super) fn take_resumption(&mut self, ticket: Ticket) -> Option<(ConnectionKey, ObservationId)> {
        match self.pending.get(&ticket) {
            Some(Pending::Resume {
                connection,
                observation,
            }) => {
                let found = (*connection, *observation);
                self.pending.remove(&ticket);
                Some(found)
            }
            _ => None,
        }
    }
}
