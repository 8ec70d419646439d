//! Subscriptions that are made again after a lost session, where the broker does not take them at once.
//!
//! A cluster that has just lost a node accepts connections before it can serve them, and refuses subscribes for some
//! seconds. Observers had their subscription, so they are not told of such a refusal: it is asked for again for a while.

use std::time::{Duration, Instant};

use super::super::reasons::Refusal;
use super::{Entry, LONGEST_ROUND, Request, Subscriptions};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// A subscription that was refused for so long is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// A subscription with observers that the broker refused to make again.
#[derive(Debug)]
pub(super) struct Renewal {
    begun: Instant,
    wait: Duration,
    /// When it is asked for again; `None` while it is.
    at: Option<Instant>,
}

impl Subscriptions {
    /// Whether a refused subscription is asked for again later. Its observers keep it until then.
    pub(super) fn renew_later(&mut self, now: Instant, number: u32, refusal: Refusal) -> bool {
        let Some(entry) = self.entries.get_mut(&number) else {
            return false;
        };
        let observed = entry.holders.iter().any(|known| known.active);
        if entry.standing || !observed || !refusal.later {
            return false;
        }
        let renewal = entry.renewal.get_or_insert(Renewal {
            begun: now,
            wait: FIRST_WAIT,
            at: None,
        });
        if now.saturating_duration_since(renewal.begun) >= PATIENCE {
            return false;
        }
        if renewal.at.is_none() {
            tracing::warn!(
                filter = ?entry.filter.as_str(),
                again_in = ?renewal.wait,
                "the broker does not take a subscription again"
            );
            renewal.at = now.checked_add(renewal.wait);
            renewal.wait = (renewal.wait * 2).min(LONGEST_WAIT);
            self.renewing.push(number);
        }
        true
    }

    /// Asks again for what is due.
    pub(super) fn renew(&mut self, now: Instant) {
        for number in std::mem::take(&mut self.renewing) {
            let Some(entry) = self.entries.get_mut(&number) else {
                continue;
            };
            let Some(renewal) = &mut entry.renewal else {
                continue;
            };
            if renewal.at.take_if(|at| *at <= now).is_some() {
                self.waiting.push_back(entry.renewed(now, number));
            } else {
                self.renewing.push(number);
            }
        }
    }
}

impl Entry {
    /// The request that makes the subscription again.
    pub(super) fn renewed(&mut self, now: Instant, number: u32) -> Request {
        self.renewed_until = now.checked_add(LONGEST_ROUND);
        Request::Subscribe {
            number,
            retained: self.seen.is_useful(),
            serial: 0,
        }
    }
}
