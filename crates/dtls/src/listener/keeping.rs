//! What outlives the process: sessions written down as they are made, and taken over by the next one.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use portcullis_proto::state::Record;
use portcullis_proto::types::{PeerAddr, WorkerId};
use rand::Rng as _;

use super::super::contract::{DtlsEvent, SessionId};
use super::super::kept::KeptSessions;
use super::super::metrics::{NotKept, RecordDrop};
use super::super::sessions::{Records, Session};
use super::DtlsListener;

impl DtlsListener {
    /// Keeps sessions for the next process; `mark` says that they are this listener's, whatever its id is then.
    pub fn keep_in(&mut self, kept: Arc<KeptSessions>, mark: u64) {
        self.tenure = kept.tenure().cloned();
        self.kept = Some((kept, mark));
    }

    /// Writes a new session down.
    pub(super) fn keep(&mut self, id: SessionId) {
        let Some((kept, listener)) = &self.kept else {
            return;
        };
        let key = self.sessions.by_id(id);
        let Some(session) = key.and_then(|key| self.sessions.get_mut(key)) else {
            return;
        };
        session.kept = kept.keep(session, *listener, self.rng.random());
        let why = match (&session.kept, &session.records) {
            (None, Records::Legacy(_)) => NotKept::Cbc,
            (None, Records::Own(_)) => NotKept::Full,
            (Some(_), Records::Own(keys))
                if keys.algorithm().explicit_len() == 0 && kept.store().is_watched() =>
            {
                NotKept::ChaCha20
            }
            (Some(_), _) => return,
        };
        self.metrics.not_kept.inc(why);
    }

    /// Writes a session down anew, because something of it changed that is no number.
    pub(super) fn keep_again(&mut self, key: u32) {
        if let (Some((kept, listener)), Some(session)) = (&self.kept, self.sessions.get(key)) {
            kept.keep_again(session, *listener);
        }
    }

    /// Where a session is kept.
    #[must_use]
    pub fn kept(&self, session: SessionId) -> Option<Record> {
        self.sessions.get(self.sessions.by_id(session)?)?.kept
    }

    pub(super) fn keep_heard(&self, key: u32, now: Instant) {
        let record = self.sessions.get(key).and_then(|session| session.kept);
        if let (Some((kept, _)), Some(record)) = (&self.kept, record) {
            kept.heard(record, now);
        }
    }

    pub(super) fn keep_no_more(&self, session: &Session) {
        if let Some((kept, _)) = &self.kept {
            kept.forget(session);
        }
        if session.cid.is_none() {
            self.shared.nothing_restored_at(self.listener, session.address);
        }
    }

    /// A protected record from an address without a session here: that of a session of before a restart may be another worker's.
    pub(super) fn hand_on(&mut self, from: PeerAddr, range: Range<usize>) -> Result<(), RecordDrop> {
        let worker: Option<WorkerId> = self.shared.worker_of(self.listener, from);
        let worker = worker.filter(|worker| *worker != self.worker);
        let worker = worker.ok_or(RecordDrop::UnknownSession)?;
        self.events
            .push_back(DtlsEvent::Elsewhere { worker, from, range });
        Ok(())
    }
}
