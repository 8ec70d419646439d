//! Requests that other workers have to answer, and whether those are there.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::agenda::Cx;
use super::answers::unavailable;
use super::context::ReplyTo;
use super::timers::Timer;
use super::workers::WorkerMessage;
use crate::coap::contract::{ExchangeId, Response};
use crate::types::WorkerId;
use crate::types::hash::IdMap;
use crate::types::reason::Limit;

/// A worker takes a request in within microseconds. One that has not done so by then is in trouble.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often workers that owe an answer are asked whether they are there.
const EVERY: Duration = Duration::from_millis(500);

struct Hop {
    reply: ReplyTo,
    to: WorkerId,
    at: Instant,
}

/// Requests on their way to other workers, or in their hands.
#[derive(Default)]
pub(super) struct Forwarded {
    hops: IdMap<ExchangeId, Hop>,
    /// By worker: everything that was sent until then has been taken in.
    taken_in: IdMap<WorkerId, Instant>,
}

impl Forwarded {
    /// Notes that a request goes to a worker.
    ///
    /// # Errors
    /// 5.03 where too many are out already.
    pub(super) fn add(&mut self, cx: &mut Cx<'_>, reply: ReplyTo, to: WorkerId) -> Result<(), Response> {
        if self.hops.len() >= cx.settings.caps.pending_requests {
            cx.metrics.limits.inc(Limit::PendingRequests);
            return Err(unavailable());
        }
        if self.hops.is_empty() {
            cx.timers.arm(cx.now + EVERY, Timer::Forwarded);
        }
        let at = cx.now;
        self.hops.insert(reply.exchange, Hop { reply, to, at });
        Ok(())
    }

    /// A request came back, with its answer or without.
    pub(super) fn came_back(&mut self, exchange: ExchangeId) {
        // Most answers are this worker's own.
        if !self.hops.is_empty() {
            self.hops.remove(&exchange);
        }
    }

    /// A worker has taken in all that it was sent until `at`.
    pub(super) fn heard(&mut self, worker: WorkerId, at: Instant) {
        self.taken_in.insert(worker, at);
    }

    /// Answers requests 5.03 whose worker does not take them in, and asks the others whether they are there. What a worker took
    /// in, it answers: when, is the broker's matter.
    pub(super) fn check(&mut self, cx: &mut Cx<'_>) {
        let Self { hops, taken_in } = self;
        hops.retain(|_, hop| {
            let taken = taken_in.get(&hop.to).is_some_and(|until| *until >= hop.at);
            let given_up = !taken && hop.at + PATIENCE <= cx.now;
            if given_up {
                cx.agenda.answer(hop.reply, unavailable());
            }
            !given_up
        });
        let (from, at) = (cx.worker, cx.now);
        for to in hops.values().map(|hop| hop.to).collect::<HashSet<_>>() {
            cx.agenda.tell(to, WorkerMessage::AreYouThere(from, at));
        }
        if !hops.is_empty() {
            cx.timers.arm(cx.now + EVERY, Timer::Forwarded);
        }
    }

    /// Answers everything 5.03: this worker stops.
    pub(super) fn give_up(&mut self, cx: &mut Cx<'_>) {
        for (_, hop) in self.hops.drain() {
            cx.agenda.answer(hop.reply, unavailable());
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.hops.len()
    }
}
