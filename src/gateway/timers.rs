//! The gateway's own timers: silent connections, observers to check, peers to forget, claims that nobody answers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::Gateway;
use super::inbound::UDP_PEER_IDLE;
use super::metrics::ConnectionEvent;
use crate::bridge::contract::Ticket;
use crate::coap::contract::ObservationId;
use crate::policy::connections::ConnectionKey;

/// How often idle UDP peers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How many idle UDP peers one sweep forgets at most, so that it never holds up the packets.
const SWEEP_BATCH: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Connection(ConnectionKey),
    Observation(ObservationId),
    Claim(Ticket),
    Resume(ConnectionKey),
    Leaving(ConnectionKey),
    Sweep,
    Pressure,
}

/// What is due when. An entry is looked at when its time comes and put back when the thing it is about lives on, so that
/// no request has to touch it.
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heap: BinaryHeap::from([
                Reverse((now + SWEEP_EVERY, Timer::Sweep)),
                Reverse((now, Timer::Pressure)),
            ]),
        }
    }

    pub(super) fn arm(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}

impl Gateway {
    pub(super) fn due(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Connection(key) => self.check_connection(now, key),
                Timer::Observation(id) => self.check_observation(now, id),
                Timer::Claim(ticket) => self.claim_timed_out(now, ticket),
                Timer::Resume(key) => self.stop_waiting_for(now, key),
                Timer::Leaving(key) => self.forget_leaving(key),
                Timer::Pressure => self.check_pressure(now),
                Timer::Sweep => {
                    let idle = self.pressure.idle(UDP_PEER_IDLE);
                    let forgotten = (0..SWEEP_BATCH)
                        .take_while(|_| self.forget_idle_udp_peer(now, idle))
                        .count();
                    // A full batch means that there is more: go on soon, but let packets through in between.
                    let pause = if forgotten == SWEEP_BATCH {
                        Duration::from_millis(10)
                    } else {
                        SWEEP_EVERY
                    };
                    self.timers.arm(now + pause, Timer::Sweep);
                }
            }
        }
    }

    fn check_connection(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        match connection.deadline(self.settings.heartbeat) {
            Some(deadline) if deadline <= now => self.end_connection(now, key, ConnectionEvent::Expired),
            Some(deadline) => self.timers.arm(deadline, Timer::Connection(key)),
            None => {}
        }
    }
}
