//! Sessions whose peers have to show first that they live.

use std::time::{Duration, Instant};

use portcullis_proto::types::{PeerAddr, Transmits};
use rand::Rng as _;

use super::super::aead::Opened;
use super::super::contract::{CloseReason, DtlsEvent, SendError};
use super::super::gate::{Gate, Unanswered};
use super::super::kept::FLOOR;
use super::super::metrics::{RecordDrop, RestoreResult};
use super::super::record::{APPLICATION_DATA, Header};
use super::super::replay::ReplayWindow;
use super::inbound::Inbound;
use super::{DtlsListener, Path};

/// How long it counts that a peer showed that it lives, while it is not sure that no other node has its session.
const PROOF: Duration = Duration::from_secs(10);

impl DtlsListener {
    /// A record of a gated session opened. Nothing comes of it but a ping, unless it answers one: then the gate is open, and everything
    /// below that record counts as seen.
    pub(super) fn hear_gated(
        &mut self,
        inbound: &mut Inbound<'_>,
        at: usize,
        header: &Header,
        (key, opened): (u32, &Opened),
        transmits: &mut Transmits,
    ) -> Result<(), RecordDrop> {
        let session = self.sessions.get_mut(key).ok_or(RecordDrop::UnknownSession)?;
        let is_newest = session.window.is_newest(header.sequence);
        // Not stored: it only keeps one record from being answered with more than one ping.
        session.window.mark(header.sequence);
        let range = at + opened.plaintext.start..at + opened.plaintext.end;
        let plaintext = inbound.datagram.get(range.clone()).unwrap_or_default();
        let gate = session.gate.as_mut().ok_or(RecordDrop::UnknownSession)?;
        if opened.kind != APPLICATION_DATA || !gate.is_answer(plaintext) {
            if opened.kind == APPLICATION_DATA {
                gate.hold(plaintext);
            }
            if gate.heard(inbound.now, inbound.from) {
                self.ping(inbound.now, key, inbound.from, transmits);
            }
            return Err(RecordDrop::Gated);
        }
        let (id, held) = (session.id, gate.held());
        session.window = ReplayWindow::above(header.sequence + 1);
        if let Some(kept) = session.kept {
            // In this order: a process that is killed in between leaves it gated.
            kept.set(FLOOR, session.window.floor());
        }
        self.sessions.open_gate(key);
        if self
            .tenure
            .as_ref()
            .is_some_and(|tenure| !tenure.holds(inbound.now))
        {
            self.proofs.insert(id, inbound.now);
        }
        self.count_sessions();
        if self.sessions.touch(key, inbound.now) {
            self.keep_heard(key, inbound.now);
        }
        self.place(inbound, key, header.record_len(), is_newest, transmits);
        // In the place of the answer, which is as long.
        if let (Some(held), Some(place)) = (held, inbound.datagram.get_mut(range.clone()))
            && place.len() == held.len()
        {
            place.copy_from_slice(&held);
            self.events.push_back(DtlsEvent::Plaintext { session: id, range });
        }
        Ok(())
    }

    /// While it is not sure whose a session is that stands where other nodes see it, nothing of it is acted on unless its peer showed here a moment
    /// ago that it lives: a peer that another node speaks to does not hear this one any more.
    pub(super) fn doubt(&mut self, now: Instant, key: u32) {
        let (Some(tenure), Some((kept, _))) = (&self.tenure, &self.kept) else {
            return;
        };
        if tenure.holds(now) {
            if !self.proofs.is_empty() {
                self.proofs.clear();
            }
            return;
        }
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let is_shown = session.kept.is_some_and(|record| kept.store().is_shown(record));
        let proof = self.proofs.get(&session.id);
        if is_shown && session.gate.is_none() && proof.is_none_or(|at| now >= *at + PROOF) {
            let mid = self.rng.random();
            self.sessions.close_gate(key, Gate::new(mid));
            self.count_sessions();
        }
    }

    fn ping(&mut self, now: Instant, key: u32, to: PeerAddr, transmits: &mut Transmits) {
        if !self.has_pinged(key, Path::At(to), transmits) {
            return;
        }
        let session = self.sessions.get_mut(key);
        let named = session.and_then(|session| Some((session.gate.as_mut()?.sent(now)?, session.id)));
        self.pings.extend(named);
    }

    /// Pings, and ends a session that has no number left for that: its gate would stay shut. Whether the ping was sent.
    fn has_pinged(&mut self, key: u32, path: Path, transmits: &mut Transmits) -> bool {
        let sent = self.send_ping(key, path, transmits);
        if sent == Err(SendError::KeyLimit) {
            self.say_goodbye(key, transmits);
            self.end(key, CloseReason::KeyLimit);
        }
        sent.is_ok()
    }

    fn send_ping(&mut self, key: u32, path: Path, transmits: &mut Transmits) -> Result<(), SendError> {
        let session = self.sessions.get(key).ok_or(SendError::NoSession)?;
        let ping = session.gate.as_ref().ok_or(SendError::NoSession)?.ping();
        self.seal(key, path, APPLICATION_DATA, &ping, transmits)
    }

    /// Something is sent to a session: where it is gated, a ping goes before.
    pub(super) fn ping_before(&mut self, key: u32, transmits: &mut Transmits) {
        let gate = self.sessions.get(key).and_then(|session| session.gate.as_ref());
        if gate.is_none_or(|gate| !gate.is_quiet()) || self.send_ping(key, Path::Bound, transmits).is_err() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(key)
            && let Some(gate) = &mut session.gate
        {
            // Any instant that is over: what time it is, is known when it is asked for.
            gate.sent_before(session.heard);
            self.pings.insert((session.heard, session.id));
        }
    }

    /// Pings again who did not answer, and gives up who does not.
    pub(super) fn repeat_pings(&mut self, now: Instant, transmits: &mut Transmits) {
        while let Some((named, id)) = self.pings.first().copied().filter(|(named, _)| *named <= now) {
            self.pings.pop_first();
            let Some(key) = self.sessions.by_id(id) else {
                continue;
            };
            let gate = self
                .sessions
                .get_mut(key)
                .and_then(|session| session.gate.as_mut());
            let Some((what, next)) = gate.and_then(|gate| gate.unanswered(named, now)) else {
                continue;
            };
            self.pings.extend(next.map(|next| (next, id)));
            match what {
                Unanswered::Wait => {}
                // One that cannot be sent just now is as one that is lost.
                Unanswered::Ping => _ = self.has_pinged(key, Path::Bound, transmits),
                Unanswered::GiveUp => {
                    self.metrics.restored_from_disk.inc(RestoreResult::Unanswered);
                    self.say_goodbye(key, transmits);
                    self.end(key, CloseReason::Unanswered);
                }
            }
        }
    }
}
