//! The gateway's own timers: silent connections, observers to check, peers to forget, topics that end, workers that do not answer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Gateway, cx};
use crate::coap::contract::ObservationId;
use crate::policy::connections::ConnectionKey;
use crate::types::hash::IdMap;

/// How often idle UDP peers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    Connection(ConnectionKey),
    Observation(ObservationId),
    Forwarded,
    DeviceRequests,
    Topics,
    Sweep,
    Pressure,
    Traces,
}

/// What is due when: at most one time for each thing. It is looked at when its time comes and put back when what it is about
/// lives on, so that no request has to touch it; what ends is taken out, so that nothing is kept of those who come and go.
pub(super) struct Timers {
    queue: BTreeSet<(Instant, Timer)>,
    times: IdMap<Timer, Instant>,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        let mut timers = Self {
            queue: BTreeSet::new(),
            times: IdMap::default(),
        };
        timers.arm(now + SWEEP_EVERY, Timer::Sweep);
        timers.arm(now, Timer::Pressure);
        timers.arm(now, Timer::Topics);
        timers
    }

    /// Sets the time of a thing, in place of an earlier one.
    pub(super) fn arm(&mut self, at: Instant, timer: Timer) {
        if let Some(before) = self.times.insert(timer, at) {
            self.queue.remove(&(before, timer));
        }
        self.queue.insert((at, timer));
    }

    /// Takes a thing out that has ended.
    pub(super) fn disarm(&mut self, timer: Timer) {
        if let Some(at) = self.times.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.queue.len(), self.times.len());
        self.queue.len()
    }

    fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.disarm(timer);
        Some(timer)
    }
}

impl Gateway {
    pub(super) fn due(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Connection(key) => {
                    let (connections, observations) = (&mut self.connections, &mut self.observations);
                    connections.check(&mut cx!(self, now), observations, key);
                }
                Timer::Observation(id) => self.observations.check(&mut cx!(self, now), id),
                Timer::Topics => {
                    let (pending, topics) = (&mut self.pending, &mut self.topics);
                    topics.tick(&mut cx!(self, now), pending);
                }
                Timer::DeviceRequests => self.expire_device_requests(now),
                Timer::Forwarded => self.forwarded.check(&mut cx!(self, now)),
                Timer::Pressure => self.check_pressure(now),
                Timer::Traces => self.check_traces(now),
                Timer::Sweep => {
                    self.sweep(now);
                    self.timers.arm(now + SWEEP_EVERY, Timer::Sweep);
                }
            }
        }
    }
}
