//! What outlives the process: sessions written down as they are made, and taken over by the next one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use portcullis_proto::state::Record;
use portcullis_proto::types::{PeerAddr, Transmits, WorkerId};
use rand::Rng as _;

use super::super::contract::{CloseReason, DtlsEvent, SessionId};
use super::super::kept::KeptSessions;
use super::super::metrics::{NotKept, RecordDrop, RestoreResult};
use super::super::sessions::{Records, Session};
use super::DtlsListener;

impl DtlsListener {
    /// Keeps sessions for the next process; `mark` says that they are this listener's, whatever its id is then.
    pub fn keep_in(&mut self, kept: Arc<KeptSessions>, mark: u64) {
        self.kept = Some((kept, mark));
    }

    /// Takes over the sessions that an earlier process left. Whom the keys, certificates and lists of now do not let in gets
    /// close_notify. How many went on, and how many did not and why.
    pub fn restore(&mut self, transmits: &mut Transmits) -> Vec<(RestoreResult, u64)> {
        let Some((kept, mark)) = self.kept.clone() else {
            return Vec::new();
        };
        let mut results = BTreeMap::new();
        for (result, count) in kept.take_lost() {
            *results.entry(result).or_default() += count;
        }
        let mut sessions = Vec::new();
        for (record, contents) in kept.of_listener(mark) {
            let restoring = kept.store().restoring(record);
            let (id, mid) = (self.new_session_id(), self.rng.random());
            let session = kept.read(id, record, &contents, (&self.shared.chains, mid));
            restoring.finish();
            match session {
                Some(session) => sessions.push(session),
                None => {
                    kept.store().free(record);
                    *results.entry(RestoreResult::Damaged).or_default() += 1;
                }
            }
        }
        sessions.sort_by_key(|session| session.heard);
        for session in sessions {
            let result = self.take_over(&kept, session, transmits);
            *results.entry(result).or_default() += 1;
        }
        kept.forget_unused();
        self.count_sessions();
        let counts = if kept.store().is_inexact() {
            &self.metrics.restored_from_disk
        } else {
            &self.metrics.restored
        };
        for (result, count) in &results {
            counts.add(*result, *count);
        }
        results.into_iter().collect()
    }

    fn take_over(
        &mut self,
        kept: &KeptSessions,
        session: Session,
        transmits: &mut Transmits,
    ) -> RestoreResult {
        let cid = session.cid.as_ref().map(|cid| cid.ours);
        let is_twice = match cid {
            Some(cid) => self.sessions.by_cid(cid).is_some(),
            None => self.sessions.by_address(session.address).is_some(),
        };
        if let (Some(certificate), false) = (&session.authority.certificate, is_twice)
            && kept.lean_on(certificate.chain()).is_none()
        {
            return RestoreResult::Limit;
        }
        let identity = session.authority.identity.clone();
        let of_identity = identity.as_ref().map_or(0, |it| self.shared.sessions_of(it));
        if is_twice
            || self.sessions.len() >= self.settings.max_sessions.max(1)
            || of_identity >= self.settings.sessions_per_identity
        {
            kept.forget(&session);
            return RestoreResult::Limit;
        }
        let (id, address, worker) = (session.id, session.address, self.worker);
        let authorized = self.context.still_authorizes(&session.authority);
        let confirmed = session.cid.as_ref().is_none_or(|cid| cid.moved.is_none());
        let (since, heard) = (session.established_at, session.heard);
        if let Some(identity) = &identity {
            self.shared.session_began(identity);
        }
        if cid.is_none() {
            self.shared.session_restored(self.listener, address, worker);
        }
        self.sessions.insert(session);
        if !authorized {
            if let Some(key) = self.sessions.by_id(id) {
                self.say_goodbye(key, transmits);
                self.forget(key, CloseReason::Revoked);
            }
            return RestoreResult::Revoked;
        }
        self.events.push_back(DtlsEvent::Restored {
            session: id,
            address,
            identity,
            confirmed,
            since,
            heard,
        });
        RestoreResult::Ok
    }

    /// Ends for the process: sessions that the next one finds hear nothing, the others get close_notify.
    pub fn leave(&mut self, now: Instant, transmits: &mut Transmits) {
        let lost = self.sessions.iter().filter(|session| session.kept.is_none());
        let lost: Vec<SessionId> = lost.map(|session| session.id).collect();
        for session in lost {
            self.close(now, session, CloseReason::Shutdown, transmits);
        }
        self.pendings.clear();
        self.count_half_open();
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
