//! Sessions that an earlier process left, and those that are left to the next one.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use portcullis_proto::state::MARK;
use portcullis_proto::types::Transmits;
use rand::Rng as _;

use super::super::contract::{CloseReason, DtlsEvent, SessionId};
use super::super::kept::KeptSessions;
use super::super::metrics::RestoreResult;
use super::super::sessions::Session;
use super::DtlsListener;

impl DtlsListener {
    /// Takes over the sessions that an earlier process left, or another node where it `is_taken`. Whom the keys, certificates and lists of now do not let in gets
    /// close_notify. How many went on, and how many did not and why.
    pub fn restore(&mut self, transmits: &mut Transmits, is_taken: bool) -> Vec<(RestoreResult, u64)> {
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
        let counts = if is_taken {
            &self.metrics.restored_from_node
        } else if kept.store().is_inexact() {
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

    /// Lets go of the sessions whose records have these marks, without a word: another node has them.
    pub fn let_go(&mut self, marks: &HashSet<u64>) {
        let is_gone = |session: &&Session| {
            session
                .kept
                .is_some_and(|record| marks.contains(&record.get(MARK)))
        };
        let gone: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(is_gone)
            .map(|session| session.id)
            .collect();
        for key in gone
            .into_iter()
            .filter_map(|id| self.sessions.by_id(id))
            .collect::<Vec<_>>()
        {
            self.end(key, CloseReason::TakenOver);
        }
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
}
