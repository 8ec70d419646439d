//! What is due: flights and pings to repeat, handshakes to give up, sessions that were idle too long.

use std::time::Instant;

use portcullis_proto::types::Transmits;

use super::super::contract::CloseReason;
use super::super::handshake::Pending;
use super::super::metrics::HandshakeResult;
use super::DtlsListener;

impl DtlsListener {
    /// Does what is due at `now`: repeats flights and pings, gives up handshakes, ends idle sessions.
    pub fn handle_timeout(&mut self, now: Instant, transmits: &mut Transmits) {
        while let Some(pending) = self.pendings.take_due(now) {
            self.wake(now, pending, transmits);
        }
        self.count_half_open();
        while self.flights.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_flight();
        }
        self.repeat_pings(now, transmits);
        let idle_timeout = self.settings.idle_timeout;
        while let Some(idle) = self
            .sessions
            .most_idle()
            .filter(|session| session.heard + idle_timeout <= now)
        {
            let Some(key) = self.sessions.by_id(idle.id) else {
                break;
            };
            self.say_goodbye(key, transmits);
            self.end(key, CloseReason::Idle);
        }
    }

    fn wake(&mut self, now: Instant, mut pending: Box<Pending>, transmits: &mut Transmits) {
        let alive = now < pending.deadline && pending.repeat_flight();
        self.flush(&mut pending, transmits);
        if alive {
            self.pendings.put(now, pending);
        } else {
            self.give_up(now, &pending, HandshakeResult::Timeout, transmits);
        }
    }
}
