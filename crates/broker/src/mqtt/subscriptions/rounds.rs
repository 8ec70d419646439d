//! Rounds: subscribe (again), collect the retained messages that come because of it, answer those who asked.

use std::sync::Arc;
use std::time::Instant;

use crate::metrics::RefusedReason;
use portcullis_proto::bridge::contract::BrokerEvent;
use portcullis_proto::types::message::Message;

use super::super::judge::Judge;
use super::super::reasons::Refusal;
use super::{
    Ask, Holder, LONGEST_PAUSE, LONGEST_ROUND, MAX_COLLECTED_BYTES, MAX_RETAINED, QUIET, Request, Round,
    Subscriptions,
};

impl Subscriptions {
    pub(super) fn ask(&mut self, now: Instant, number: u32, ask: Ask) {
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        entry.next.push(ask);
        if entry.round.is_none() && entry.on_trial.is_none() {
            self.begin_round(now, number);
        }
    }

    pub(super) fn begin_round(&mut self, now: Instant, number: u32) {
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        let asks = std::mem::take(&mut entry.next);
        let retained = asks.iter().any(Ask::wants_retained);
        self.last_serial += 1;
        let serial = self.last_serial;
        entry.round = Some(Round {
            serial,
            bytes: 0,
            asks,
            begun: now,
            acknowledged: false,
            fenced: !retained,
            stirred: false,
            quiet_since: now,
        });
        self.in_round.push(number);
        self.waiting.push_back(Request::Subscribe {
            number,
            retained,
            serial,
        });
        if retained {
            self.waiting.push_back(Request::fence(number, serial));
        }
    }

    pub(in crate::mqtt) fn on_unsubscribed(&mut self, now: Instant, packet: u16) {
        let Some(request) = self.by_packet.remove(&packet) else {
            return;
        };
        if let Request::Fence { number, serial, .. } = request
            && let Some(round) = self.round(number).filter(|round| round.serial == serial)
        {
            round.quiet_since = now;
            round.fenced = !std::mem::take(&mut round.stirred);
            if !round.fenced {
                self.waiting.push_back(Request::fence(number, serial));
            }
        }
    }

    pub(in crate::mqtt) fn on_subscribed(
        &mut self,
        now: Instant,
        packet: u16,
        reason: u8,
        judge: &mut Judge,
    ) {
        let Some(request) = self.by_packet.remove(&packet) else {
            return;
        };
        let result = self.word(reason);
        let Request::Subscribe { number, serial, .. } = request else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        if let Err(refusal) = result {
            judge.note(now, "filter", entry.filter.as_str(), reason);
            self.metrics.refusals.inc(RefusedReason::of(refusal.error));
            return self.refused(now, number, refusal);
        }
        entry.standing = true;
        entry.renewal = None;
        let Some(round) = entry.round.as_mut().filter(|round| round.serial == serial) else {
            return;
        };
        round.acknowledged = true;
        let (waiting, ready): (Vec<Ask>, Vec<Ask>) = std::mem::take(&mut round.asks)
            .into_iter()
            .partition(Ask::wants_retained);
        round.asks = waiting;
        for ask in ready {
            self.finish(number, ask, Ok(()));
        }
        self.end_round_if_over(now, number);
    }

    /// The broker refuses a filter: those who ask are told, and so are its holders when it was to be made again and will not
    /// be.
    pub(super) fn refused(&mut self, now: Instant, number: u32, refusal: Refusal) {
        let error = refusal.error;
        let kept = self.renew_later(now, number, refusal);
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        entry.asked = entry.standing;
        let asks = entry.round.take().map(|round| round.asks).unwrap_or_default();
        let lost: Vec<Holder> = if entry.standing || kept {
            Vec::new()
        } else {
            entry
                .holders
                .iter()
                .filter(|known| known.active)
                .map(|known| known.holder)
                .collect()
        };
        entry.holders.retain(|known| !lost.contains(&known.holder));
        for holder in lost {
            self.by_holder.remove(&holder);
            self.tell(
                holder.0,
                BrokerEvent::SubscriptionLost {
                    filter_id: holder.1,
                    error,
                },
            );
        }
        for ask in asks {
            self.finish(number, ask, Err(error));
        }
        self.after_round(now, number);
    }

    pub(super) fn after_round(&mut self, now: Instant, number: u32) {
        if self
            .entries
            .get(&number)
            .is_some_and(|entry| !entry.next.is_empty())
        {
            self.begin_round(now, number);
        } else {
            self.leave_if_unused(number);
        }
    }

    pub(super) fn end_round_if_over(&mut self, now: Instant, number: u32) {
        let Some(entry) = self.entries.get_mut(&number) else {
            return;
        };
        let Some(round) = &entry.round else { return };
        // The broker may hold this round's behind what it sends for another.
        let quiet_since = self
            .stirred_at
            .map_or(round.quiet_since, |at| at.max(round.quiet_since));
        let single = !entry.filter.has_wildcard() && round.asks.iter().all(|ask| !ask.collected.is_empty());
        let quiet = round.fenced && now.saturating_duration_since(quiet_since) >= QUIET;
        let over = round.asks.is_empty() || single || quiet;
        let late = now.saturating_duration_since(round.quiet_since) >= LONGEST_PAUSE
            || now.saturating_duration_since(round.begun) >= LONGEST_ROUND;
        if !(round.acknowledged && (over || late)) {
            return;
        }
        let asks = entry.round.take().map(|round| round.asks).unwrap_or_default();
        for ask in asks {
            self.finish(number, ask, Ok(()));
        }
        self.after_round(now, number);
    }

    pub(super) fn collect(&mut self, now: Instant, found: &[u32], message: &Arc<Message>) {
        self.stirred_at = Some(now);
        for number in found {
            let Some(round) = self.round(*number) else {
                continue;
            };
            round.quiet_since = now;
            let fence_again = std::mem::take(&mut round.fenced) && round.asks.iter().any(Ask::wants_retained);
            round.stirred = !fence_again;
            let serial = round.serial;
            round.bytes = round.bytes.saturating_add(message.payload.len());
            let mut cut = false;
            for ask in round.asks.iter_mut().filter(|ask| ask.wants_retained()) {
                if ask.collected.len() < MAX_RETAINED && round.bytes < MAX_COLLECTED_BYTES {
                    ask.collected.insert(message.topic.clone(), Arc::clone(message));
                } else {
                    cut |= !std::mem::replace(&mut ask.cut, true);
                }
            }
            if cut && let Some(entry) = self.entries.get(number) {
                self.notes.cut(now, entry.filter.as_str());
            }
            if fence_again {
                self.waiting.push_back(Request::fence(*number, serial));
            }
            self.end_round_if_over(now, *number);
        }
    }

    /// Ends rounds whose time has come.
    pub(in crate::mqtt) fn tick(&mut self, now: Instant) {
        self.renew(now);
        self.answer_late(now);
        for number in std::mem::take(&mut self.in_round) {
            self.end_round_if_over(now, number);
            if self.round(number).is_some() && !self.in_round.contains(&number) {
                self.in_round.push(number);
            }
        }
    }

    /// Whether [`Self::tick`] is to be called soon.
    pub(in crate::mqtt) fn is_collecting(&self) -> bool {
        !self.in_round.is_empty()
    }

    pub(super) fn round(&mut self, number: u32) -> Option<&mut Round> {
        self.entries.get_mut(&number)?.round.as_mut()
    }
}
