//! Filters on which the broker may hang up: the subscriptions' side of a trial.

use std::time::{Duration, Instant};

use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::types::TopicFilter;
use portcullis_proto::types::message::Qos;

use super::super::judge::{Judge, Subject};
use super::super::reasons::{self, Refusal};
use super::{Ask, Request, Subscriptions};
use crate::settings::Protocol;

/// Who asks for a filter on trial is answered after this time, whatever became of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request to be tried.
#[derive(Debug)]
pub(in crate::mqtt) enum Tried {
    /// The subscription of this number.
    Subscribe(u32, TopicFilter, Qos),
    Unsubscribe(TopicFilter),
}

impl Subscriptions {
    /// Holds a filter back for a trial if it is suspect.
    pub(super) fn suspect(&mut self, now: Instant, number: u32, (judge, wall): (&Judge, u64)) {
        if judge.is_clean() {
            return;
        }
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        let suspect = judge.suspects(wall, &Subject::Filter(entry.filter.as_str().into()));
        if suspect && entry.on_trial.is_none() && !entry.standing {
            entry.on_trial = Some(now);
            self.on_trial.push_back(number);
        }
    }

    /// The broker hung up over one of these; gives those that cannot be it.
    pub(super) fn accuse(
        &mut self,
        now: Instant,
        sent: Vec<Request>,
        judge: &mut Judge,
        wall: u64,
    ) -> Vec<Request> {
        let (mut numbers, mut others) = (Vec::new(), Vec::new());
        for request in sent {
            match request {
                Request::Subscribe { number, .. } => numbers.push(number),
                Request::Unsubscribe(filter) => self.unsubscribes_on_trial.push_back(filter),
                Request::Fence { .. } => others.push(request),
            }
        }
        let entries = numbers.iter().filter_map(|number| self.entries.get(number));
        let subscribes = entries.map(|entry| &entry.filter);
        let filters = subscribes.chain(&self.unsubscribes_on_trial);
        judge.accuse(
            wall,
            filters.map(|filter| Subject::Filter(filter.as_str().into())),
        );
        for number in numbers {
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.standing = false;
            }
            self.suspect(now, number, (judge, wall));
        }
        others
    }

    /// Whether a filter waits for its trial.
    pub(in crate::mqtt) fn is_on_trial(&self) -> bool {
        !self.on_trial.is_empty() || !self.unsubscribes_on_trial.is_empty()
    }

    /// What is tried next, until [`Self::tried`] or another end of the trial.
    pub(in crate::mqtt) fn next_on_trial(&mut self) -> Option<Tried> {
        while let Some(number) = self.on_trial.front() {
            if let Some(entry) = self.entries.get(number) {
                return Some(Tried::Subscribe(*number, entry.filter.clone(), entry.qos));
            }
            self.on_trial.pop_front();
        }
        self.unsubscribes_on_trial
            .front()
            .cloned()
            .map(Tried::Unsubscribe)
    }

    /// The broker says nothing to what is tried: it waits behind the others.
    pub(in crate::mqtt) fn put_off(&mut self) {
        if let Some(number) = self.on_trial.pop_front() {
            self.on_trial.push_back(number);
        } else if let Some(filter) = self.unsubscribes_on_trial.pop_front() {
            self.unsubscribes_on_trial.push_back(filter);
        }
    }

    /// The broker answered a subscribe on trial; gives its filter. It is asked for again where it is to stand, or refused.
    pub(in crate::mqtt) fn tried(&mut self, now: Instant, number: u32, reason: u8) -> Option<TopicFilter> {
        self.on_trial.retain(|known| *known != number);
        let entry = self.entries.get_mut(&number)?;
        entry.on_trial = None;
        let filter = entry.filter.clone();
        match self.word(reason) {
            Err(refusal) => self.refused_on_trial(now, number, refusal),
            Ok(()) if self.connected => {
                let entry = self.entries.get_mut(&number)?;
                if entry.holders.iter().any(|known| known.active) {
                    let request = entry.renewed(now, number);
                    self.waiting.push_back(request);
                }
                self.after_round(now, number);
            }
            // It is made again with the others.
            Ok(()) => self.leave_if_unused(number),
        }
        Some(filter)
    }

    /// What the broker says to a subscribe.
    pub(in crate::mqtt) fn word(&self, reason: u8) -> Result<(), Refusal> {
        match self.protocol {
            Protocol::V5 => reasons::subscribe(reason),
            Protocol::V4 => reasons::subscribe_v4(reason),
        }
    }

    /// The broker hangs up on a subscribe.
    pub(in crate::mqtt) fn condemned(&mut self, now: Instant, number: u32) {
        self.on_trial.retain(|known| *known != number);
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.on_trial = None;
        }
        let refusal = Refusal {
            error: BrokerError::Refused,
            later: false,
        };
        self.refused_on_trial(now, number, refusal);
    }

    fn refused_on_trial(&mut self, now: Instant, number: u32, refusal: Refusal) {
        let asks = self
            .entries
            .get_mut(&number)
            .map(|entry| std::mem::take(&mut entry.next));
        self.fail(number, asks, refusal.error);
        self.refused(now, number, refusal);
    }

    fn fail(&mut self, number: u32, asks: Option<Vec<Ask>>, error: BrokerError) {
        for ask in asks.into_iter().flatten() {
            self.finish(number, ask, Err(error));
        }
    }

    /// The broker took an unsubscribe on trial: it is meant for the session of the lane's connection.
    pub(in crate::mqtt) fn tried_unsubscribe(&mut self, filter: TopicFilter) {
        self.condemned_unsubscribe(&filter);
        if self.connected {
            self.waiting.push_back(Request::Unsubscribe(filter));
        } else {
            self.gone.push(filter);
        }
    }

    /// The broker hangs up on an unsubscribe: what it goes on sending is for nobody.
    pub(in crate::mqtt) fn condemned_unsubscribe(&mut self, filter: &TopicFilter) {
        self.unsubscribes_on_trial.retain(|known| known != filter);
    }

    /// Answers those who asked for a filter whose trial takes too long.
    pub(super) fn answer_late(&mut self, now: Instant) {
        for at in 0..self.on_trial.len() {
            let Some(number) = self.on_trial.get(at).copied() else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&number) else {
                continue;
            };
            if entry
                .on_trial
                .is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE)
            {
                let asks = std::mem::take(&mut entry.next);
                self.fail(number, Some(asks), BrokerError::Unavailable);
            }
        }
    }
}
