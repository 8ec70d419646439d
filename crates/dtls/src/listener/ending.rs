//! How sessions and handshakes end: closed, timed out, evicted.

use std::time::Instant;

use portcullis_proto::types::Transmits;

use super::super::contract::{CloseReason, DtlsEvent, SessionId};
use super::super::handshake::Pending;
use super::super::metrics::{Alert, HandshakeResult};
use super::super::record::ALERT;
use super::{DtlsListener, Path};

const CLOSE_NOTIFY: [u8; 2] = [1, 0];

impl DtlsListener {
    /// Ends a session with close_notify. No event tells of it.
    pub fn close(
        &mut self,
        _now: Instant,
        session: SessionId,
        reason: CloseReason,
        transmits: &mut Transmits,
    ) {
        if let Some(key) = self.sessions.by_id(session) {
            self.say_goodbye(key, transmits);
            self.forget(key, reason);
        }
    }

    /// Ends all sessions with close_notify, and forgets the handshakes in flight. No event tells of it.
    pub fn close_all(&mut self, now: Instant, reason: CloseReason, transmits: &mut Transmits) {
        for session in self.sessions.ids() {
            self.close(now, session, reason, transmits);
        }
        self.pendings.clear();
        self.count_half_open();
    }

    /// Lets a handshake go, and tells its peer. What was heard of it before says more than `result`.
    pub(super) fn give_up(
        &mut self,
        now: Instant,
        pending: &Pending,
        result: HandshakeResult,
        transmits: &mut Transmits,
    ) {
        self.fail(now, pending, pending.doubt.unwrap_or(result));
        let (alert, record) = pending.farewell();
        transmits.push(self.listener, pending.address, &record);
        self.sent_alert(pending, alert);
    }

    /// Sends close_notify, if anything can be sent.
    pub(super) fn say_goodbye(&mut self, key: u32, transmits: &mut Transmits) {
        if self
            .seal(key, Path::Bound, ALERT, &CLOSE_NOTIFY, transmits)
            .is_ok()
        {
            self.metrics.alerts_sent.inc(Alert::CloseNotify);
        }
    }

    /// Ends a session, and tells of it.
    pub(super) fn end(&mut self, key: u32, reason: CloseReason) {
        if let Some(session) = self.forget(key, reason) {
            self.events.push_back(DtlsEvent::Closed { session, reason });
        }
    }

    pub(super) fn forget(&mut self, key: u32, reason: CloseReason) -> Option<SessionId> {
        let session = self.sessions.remove(key)?;
        self.keep_no_more(&session);
        self.proofs.remove(&session.id);
        if let Some(identity) = &session.authority.identity {
            self.shared.session_ended(identity);
        }
        self.metrics.closed.inc(reason);
        self.count_sessions();
        Some(session.id)
    }

    pub(super) fn count_sessions(&self) {
        self.metrics.sessions.set(self.sessions.len() as u64);
        self.metrics.gated_sessions.set(self.sessions.gated_len() as u64);
        self.metrics.cid_sessions.set(self.sessions.cid_len() as u64);
        self.metrics
            .legacy_sessions
            .set(self.sessions.legacy_len() as u64);
    }
}
