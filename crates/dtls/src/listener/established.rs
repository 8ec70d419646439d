//! The life of a session: records opened, addresses proved, alerts and repeated flights answered.

use std::time::{Duration, Instant};

use portcullis_proto::types::{PeerAddr, Transmits};
use rand::Rng;

use super::super::contract::{CloseReason, DtlsEvent, SessionId};
use super::super::kept::FAILURES;
use super::super::metrics::{Alert, RecordDrop};
use super::super::path::{Budget, Candidate, Check};
use super::super::record::{ALERT, RETURN_ROUTABILITY_CHECK};
use super::super::sessions::Moved;
use super::inbound::Inbound;
use super::{DtlsListener, Path};

const FINISHED: u8 = 20;
const WARNING: u8 = 1;
const CLOSE_NOTIFY: u8 = 0;
const NO_RENEGOTIATION: u8 = 100;
/// Warnings that one session is sent.
const MAX_WARNINGS: u8 = 8;
/// The last flight is not repeated more often.
const FLIGHT_PAUSE: Duration = Duration::from_millis(200);

impl DtlsListener {
    /// A record did not open: too many of those end a session.
    pub(super) fn count_failure(&mut self, now: Instant, key: u32, transmits: &mut Transmits) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if session.records.is_over() {
            self.end(key, CloseReason::Alert);
            return;
        }
        let failures = session.failures.count(now);
        if let Some(kept) = session.kept {
            kept.set(FAILURES, session.failures_word());
        }
        if failures >= session.records.failure_limit() {
            self.say_goodbye(key, transmits);
            self.end(key, CloseReason::KeyLimit);
        }
    }

    /// A record with a Connection ID opened: is the peer where it was? Only a record newer than all before moves it, at once, or,
    /// where the peer knows return routability checks, when it has answered there.
    pub(super) fn place(
        &mut self,
        inbound: &Inbound<'_>,
        key: u32,
        len: usize,
        is_newest: bool,
        transmits: &mut Transmits,
    ) {
        let from = inbound.from;
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let address = session.address;
        let Some(cid) = session.cid.as_mut() else { return };
        if from == address {
            if let Some(moved) = &mut cid.moved {
                moved.budget.heard(len);
            }
            return;
        }
        if !is_newest {
            return;
        }
        if cid.rrc {
            let candidate = cid.candidate.take().filter(|candidate| candidate.address == from);
            let mut candidate = candidate.unwrap_or_else(|| Box::new(Candidate::new(from)));
            candidate.budget.heard(len);
            let challenge = candidate.challenge(inbound.now, self.rng.random());
            cid.candidate = Some(candidate);
            if let Some(challenge) = challenge
                && self
                    .seal(
                        key,
                        Path::Candidate,
                        RETURN_ROUTABILITY_CHECK,
                        &challenge,
                        transmits,
                    )
                    .is_ok()
            {
                self.metrics.path_challenges.inc();
            }
            return;
        }
        let confirmed = cid.moved.map_or(address, |moved| moved.from);
        let returns = from == confirmed;
        cid.moved = (!returns).then(|| {
            let mut budget = Budget::default();
            budget.heard(len);
            Moved {
                from: confirmed,
                budget,
            }
        });
        self.relocate(key, from, returns);
    }

    fn relocate(&mut self, key: u32, to: PeerAddr, confirmed: bool) {
        let Some(session) = self.sessions.get(key).map(|session| session.id) else {
            return;
        };
        self.sessions.relocate(key, to);
        self.keep_again(key);
        self.metrics.address_changes.inc();
        self.events.push_back(DtlsEvent::AddressChanged {
            session,
            to,
            confirmed,
        });
    }

    /// A return routability check: the answer to ours moves the session, and theirs is answered where it came from.
    pub(super) fn hear_check(
        &mut self,
        inbound: &Inbound<'_>,
        key: u32,
        check: Option<Check>,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let session = self.sessions.get_mut(key).ok_or(RecordDrop::UnknownSession)?;
        let here = session.address == inbound.from;
        let cid = session.cid.as_mut().filter(|cid| cid.rrc);
        let cid = cid.ok_or(RecordDrop::ContentType)?;
        let candidate = cid.candidate.as_deref();
        let there = candidate.is_some_and(|candidate| candidate.address == inbound.from);
        match check {
            Some(Check::Response(cookie))
                if candidate
                    .is_some_and(|candidate| candidate.is_answered(inbound.now, inbound.from, cookie)) =>
            {
                cid.candidate = None;
                self.relocate(key, inbound.from, true);
                Ok(())
            }
            Some(Check::Challenge(cookie)) if here || there => {
                let path = if here { Path::Bound } else { Path::Candidate };
                let response = Check::response(cookie);
                self.seal(key, path, RETURN_ROUTABILITY_CHECK, &response, transmits)
                    .map_err(|_| RecordDrop::PathCheck)
            }
            Some(Check::Drop) => Ok(()),
            _ => Err(RecordDrop::PathCheck),
        }
    }

    /// The peer showed that it receives where its session is.
    pub fn confirm_address(&mut self, session: SessionId) {
        let Some(key) = self.sessions.by_id(session) else {
            return;
        };
        let session = self.sessions.get_mut(key);
        let moved = session.and_then(|session| session.cid.as_mut()?.moved.take());
        if moved.is_some() {
            self.keep_again(key);
        }
    }

    pub(super) fn hear_alert(
        &mut self,
        key: u32,
        body: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let [level, code] = body else {
            return Err(RecordDrop::BadAlert);
        };
        let session = self.sessions.get(key).ok_or(RecordDrop::UnknownSession)?;
        self.heard_alert(session.address, Alert::from_code(*code));
        if *code == CLOSE_NOTIFY {
            self.say_goodbye(key, transmits);
            self.end(key, CloseReason::CloseNotify);
        } else if *level != WARNING {
            self.end(key, CloseReason::Alert);
        }
        Ok(())
    }

    /// After the handshake a client may only repeat its Finished, because it missed our last flight. What looks like
    /// a new handshake under the old keys is renegotiation, and refused.
    pub(super) fn hear_handshake(
        &mut self,
        now: Instant,
        key: u32,
        kind: Option<u8>,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        if kind == Some(FINISHED) {
            return self.repeat_flight(now, key, transmits);
        }
        let session = self.sessions.get_mut(key).ok_or(RecordDrop::UnknownSession)?;
        if session.warnings < MAX_WARNINGS {
            session.warnings += 1;
            if self
                .seal(key, Path::Bound, ALERT, &[WARNING, NO_RENEGOTIATION], transmits)
                .is_ok()
            {
                self.metrics.alerts_sent.inc(Alert::NoRenegotiation);
            }
        }
        Err(RecordDrop::Renegotiation)
    }

    /// Sends the last flight once more, if it is still kept and did not just leave.
    pub(super) fn repeat_flight(
        &mut self,
        now: Instant,
        key: u32,
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let session = self.sessions.get_mut(key).ok_or(RecordDrop::UnknownSession)?;
        let due = session
            .flight
            .as_ref()
            .filter(|flight| !flight.datagrams.is_empty() && flight.not_before <= now);
        let len = due.map(|flight| flight.datagrams.iter().map(|datagram| datagram.len()).sum());
        if len.is_some_and(|len| session.spend(len))
            && let Some(flight) = &mut session.flight
        {
            flight.not_before = now + FLIGHT_PAUSE;
            // The same bytes once more: no nonce is used for anything else.
            for datagram in &flight.datagrams {
                transmits.push(self.listener, session.address, datagram);
            }
            self.metrics.flights_repeated.inc();
        }
        Err(RecordDrop::RepeatedFlight)
    }

    pub(super) fn drop_flight(&mut self, key: u32) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.flight = None;
        }
    }

    /// Forgets the oldest of the last flights that are kept.
    pub(super) fn forget_flight(&mut self) {
        let key = self
            .flights
            .pop_front()
            .and_then(|(_, id)| self.sessions.by_id(id));
        if let Some(key) = key {
            self.drop_flight(key);
        }
    }
}
