//! Messages that stand apart because the broker may hang up on them: the pipeline's side of a trial.

use std::time::Instant;

use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::types::message::Qos;

use super::judge::Subject;
use super::pipeline::{Pipeline, Settled};
use super::reasons;
use super::session::{Sent, Session};
use crate::metrics::{DroppedReason, RefusedReason};

impl Pipeline {
    /// The next message to try: its token, its topic, and whether it is to be tried alone. One of a topic at a time, since
    /// their order counts.
    pub(super) fn next_apart(&mut self, now: Instant, taken: &[&Subject]) -> Option<(u64, Subject, bool)> {
        let wall = self.clock.wall_millis();
        loop {
            let entry = self
                .window
                .apart()
                .iter()
                .find(|entry| !taken.contains(&&Subject::topic(&entry.message)))?;
            let (token, subject) = (entry.token, Subject::topic(&entry.message));
            if entry.message.is_expired(now) {
                self.settle(token, now, Settled::Dropped(DroppedReason::Expired));
            } else if let Some(error) = self.judge.verdict(wall, &entry.message) {
                self.settle(token, now, Settled::Condemned(error));
            } else {
                let close = self.judge.is_close(&subject);
                return Some((token, subject, close));
            }
        }
    }

    /// Sends a message on trial.
    pub(super) fn try_apart(&mut self, now: Instant, token: u64, session: &mut Session) -> Sent {
        let max_qos = self.max_qos();
        let Some(entry) = self.window.entry(token) else {
            return Sent::Full;
        };
        let qos = entry.tried_at.unwrap_or(entry.message.qos).min(max_qos);
        let mut outbound = entry.outbound(now, qos);
        outbound.exchange = None;
        let sent = session.publish(now, &outbound);
        match sent {
            Sent::TooLarge => self.settle(token, now, Settled::Refused(BrokerError::TooLarge)),
            Sent::Unconfirmed(_) => session.confirm_soon(),
            Sent::Packet(_) | Sent::Full => {}
        }
        self.metrics
            .sent
            .add(u64::from(matches!(sent, Sent::Packet(_) | Sent::Unconfirmed(_))));
        sent
    }

    /// The broker answered a message on trial: what stands behind it goes with the others again.
    pub(super) fn tried(&mut self, now: Instant, token: u64, subject: &Subject, reason: u8) {
        let Some(entry) = self.window.entry(token) else {
            return;
        };
        let (bytes, tried_at) = (entry.message.payload.len(), entry.tried_at);
        self.judge.acquit(subject, bytes);
        if let (Some(qos), 0..0x80) = (tried_at, reason) {
            self.limit_qos(qos);
        }
        // What the broker may take later is sent again with the others.
        if !reasons::publish(reason).is_err_and(|refusal| refusal.later) {
            self.on_answered(now, token, reason);
        }
        let spooling = &mut self.spooling;
        self.window
            .put_back(subject, |old, new| spooling.renamed(old, new));
    }

    /// The broker says nothing to a message on trial: its topic waits behind the others, and who waits for an answer that no disk
    /// can give is told that there is none.
    pub(super) fn put_off(&mut self, now: Instant, token: u64, subject: &Subject) {
        if self
            .window
            .entry(token)
            .is_some_and(|entry| entry.number.is_none() && !entry.writing)
        {
            self.settle(token, now, Settled::Refused(BrokerError::Unavailable));
        }
        self.window.put_off(subject);
    }

    /// The broker hung up on a message alone.
    pub(super) fn condemn(&mut self, now: Instant, token: u64, subject: &Subject, reason: Option<u8>) {
        let (max_qos, proved_qos) = (self.max_qos(), self.proved_qos);
        let Some(entry) = self.window.entry(token) else {
            return;
        };
        let qos = entry.tried_at.unwrap_or(entry.message.qos).min(max_qos);
        if qos > proved_qos {
            entry.tried_at = Some(match qos {
                Qos::ExactlyOnce => Qos::AtLeastOnce,
                _ => Qos::AtMostOnce,
            });
            return;
        }
        let (topic, bytes, retain) = (
            entry.message.topic.clone(),
            entry.message.payload.len(),
            entry.message.retain,
        );
        let error = match reason.map(reasons::publish) {
            Some(Err(refusal)) if refusal.error != BrokerError::Unavailable => refusal.error,
            _ => BrokerError::Refused,
        };
        tracing::error!(
            topic = ?topic.as_str(),
            bytes,
            retain,
            "the broker hangs up on a message; it and its like are refused"
        );
        self.judge
            .condemn(self.clock.wall_millis(), subject, bytes, retain);
        self.settle(token, now, Settled::Condemned(error));
    }

    /// The broker hung up on the request for a filter.
    pub(super) fn condemn_filter(&mut self, subject: &Subject, request: &'static str) {
        if let Subject::Filter(filter) = subject {
            tracing::error!(?filter, request, "the broker hangs up on a filter; it is refused");
        }
        self.metrics.refusals.inc(RefusedReason::HungUp);
        self.judge.condemn(self.clock.wall_millis(), subject, 0, false);
    }
}
