//! Which observation a non-confirmable notification belonged to, for as long as its peer may reject it (RFC 7641, 3.6 and 4.5).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::coap::contract::ObservationId;

/// Message ids that an observation sets aside at a time, at most. Ids of observations that take turns then lie in few runs.
const LONGEST_RUN: u16 = 64;

/// Runs that are kept for one peer, 40 bytes each: 128 observations with a message a second are within it.
const RUNS: usize = 1_024;

/// Consecutive message ids that belong to one observation.
#[derive(Debug)]
struct Run {
    observation: ObservationId,
    first: u16,
    len: u16,
    used: u16,
    since: Instant,
}

/// The message ids of the non-confirmable notifications of one peer. Each is known for NON_LIFETIME after it was sent, and no
/// more than a quarter longer.
#[derive(Debug, Default)]
pub(super) struct SentIds {
    runs: VecDeque<Run>,
    /// How many runs went before those that are kept.
    gone: u64,
    /// When a run had to go before its time.
    lost: Option<Instant>,
}

impl SentIds {
    /// The id for the next notification of an observation. `current` is the run that it uses; `reserve` sets consecutive ids aside.
    pub(super) fn next(
        &mut self,
        (now, lifetime): (Instant, Duration),
        observation: ObservationId,
        current: &mut Option<u64>,
        reserve: impl FnOnce(u16) -> u16,
    ) -> u16 {
        let run = current.and_then(|number| self.run(number));
        let len = match run {
            Some(run) if run.used < run.len && now < run.since + lifetime / 4 => {
                run.used += 1;
                return run.first.wrapping_add(run.used - 1);
            }
            // As many as were needed before, twice as many where those did not last.
            Some(run) if now >= run.since + lifetime / 4 => run.used,
            Some(run) => (run.len * 2).min(LONGEST_RUN),
            None => 1,
        };
        let first = reserve(len);
        *current = Some(self.push((now, lifetime), observation, first, len));
        first
    }

    /// Notes an id that an observation used.
    pub(super) fn note(&mut self, now: (Instant, Duration), observation: ObservationId, mid: u16) {
        self.push(now, observation, mid, 1);
    }

    /// The observation that a message id belonged to.
    pub(super) fn find(&self, (now, lifetime): (Instant, Duration), mid: u16) -> Option<ObservationId> {
        let named = |run: &&Run| mid.wrapping_sub(run.first) < run.used && now < run.since + lifetime * 5 / 4;
        self.runs.iter().rev().find(named).map(|run| run.observation)
    }

    /// Whether ids are forgotten that a peer may still name.
    pub(super) fn is_incomplete(&self, (now, lifetime): (Instant, Duration)) -> bool {
        self.lost.is_some_and(|at| now < at + lifetime)
    }

    fn run(&mut self, number: u64) -> Option<&mut Run> {
        let at = usize::try_from(number.checked_sub(self.gone)?).ok()?;
        self.runs.get_mut(at)
    }

    fn push(
        &mut self,
        (now, lifetime): (Instant, Duration),
        observation: ObservationId,
        first: u16,
        len: u16,
    ) -> u64 {
        while let Some(oldest) = self.runs.front() {
            let expired = oldest.since + lifetime * 5 / 4 <= now;
            if !expired && self.runs.len() < RUNS {
                break;
            }
            if !expired {
                self.lost = Some(now);
            }
            self.runs.pop_front();
            self.gone += 1;
        }
        self.runs.push_back(Run {
            observation,
            first,
            len,
            used: 1,
            since: now,
        });
        self.gone + self.runs.len() as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_for_tests as clock;

    const LIFETIME: Duration = Duration::from_secs(145);

    struct Sender {
        ids: SentIds,
        runs: [Option<u64>; 300],
        next: u16,
    }

    impl Sender {
        fn new() -> Self {
            Self {
                ids: SentIds::default(),
                runs: [None; 300],
                next: 65_000,
            }
        }

        fn send(&mut self, now: Instant, observation: usize) -> u16 {
            let id = ObservationId(observation as u64);
            let next = &mut self.next;
            self.ids
                .next((now, LIFETIME), id, &mut self.runs[observation], |len| {
                    *next = next.wrapping_add(len);
                    next.wrapping_sub(len)
                })
        }
    }

    #[test]
    fn every_id_of_the_lifetime_is_known_although_observations_take_turns() {
        let start = clock();
        let mut sender = Sender::new();
        let mut sent = Vec::new();
        // Four observations, 25 messages a second each.
        for n in 0..400 * 100_usize {
            let now = start + Duration::from_millis(10) * n as u32;
            sent.push((now, n % 4, sender.send(now, n % 4)));
        }
        let end = sent.last().unwrap().0;
        for (at, observation, mid) in sent.iter().rev().take_while(|(at, ..)| *at + LIFETIME > end) {
            let found = sender.ids.find((end, LIFETIME), *mid);
            assert_eq!(found, Some(ObservationId(*observation as u64)), "{:?}", end - *at);
        }
        assert!(sender.ids.runs.len() < 400, "{}", sender.ids.runs.len());
        assert!(!sender.ids.is_incomplete((end, LIFETIME)));
    }

    #[test]
    fn an_id_is_forgotten_after_its_lifetime() {
        let start = clock();
        let mut sender = Sender::new();
        let mid = sender.send(start, 1);
        let known = |seconds| {
            let at = start + Duration::from_secs(seconds);
            sender.ids.find((at, LIFETIME), mid).is_some()
        };
        assert!(known(144) && !known(182));
    }

    #[test]
    fn a_peer_of_many_observations_has_a_bounded_memory_and_it_is_known_that_ids_are_lost() {
        let now = clock();
        let mut sender = Sender::new();
        for round in 0..200 {
            for observation in 0..300 {
                sender.send(now, observation);
            }
            assert!(sender.ids.runs.len() <= RUNS, "{round}");
        }
        assert!(sender.ids.is_incomplete((now, LIFETIME)));
    }

    #[test]
    fn a_slow_observation_sets_no_ids_aside_that_it_does_not_need() {
        let start = clock();
        let mut sender = Sender::new();
        for n in 0..1_000 {
            sender.send(start + Duration::from_secs(60) * n, 7);
        }
        assert_eq!(sender.next.wrapping_sub(65_000), 1_000);
        assert!(sender.ids.runs.len() <= 4);
    }
}
