//! What happens outside of sessions, noted for those who watch a peer. While nobody does, only failed handshakes are.

use std::time::{Duration, Instant};

use portcullis_proto::types::PeerAddr;

use super::super::contract::{DtlsEvent, DtlsNote};
use super::super::handshake::Pending;
use super::super::metrics::{Alert, HandshakeResult};
use super::DtlsListener;

impl DtlsListener {
    /// Whether to tell of all handshakes, alerts and dropped records by [`DtlsEvent::Noted`].
    pub fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    pub(super) fn note(&mut self, address: PeerAddr, note: DtlsNote) {
        if self.watched || matches!(note, DtlsNote::Failed { .. }) {
            self.events.push_back(DtlsEvent::Noted {
                address,
                identity: None,
                note,
            });
        }
    }

    fn note_of(&mut self, pending: &Pending, note: DtlsNote) {
        if self.watched || matches!(note, DtlsNote::Failed { .. }) {
            self.events.push_back(DtlsEvent::Noted {
                address: pending.address,
                identity: pending.named_identity(),
                note,
            });
        }
    }

    /// Counts a handshake that failed before there was anything of it.
    pub(super) fn refuse_at(&mut self, address: PeerAddr, result: HandshakeResult) {
        self.metrics.handshakes.inc(result);
        let after = Duration::ZERO;
        self.note(address, DtlsNote::Failed { result, after });
    }

    /// Counts a handshake that failed.
    pub(super) fn fail(&mut self, now: Instant, pending: &Pending, result: HandshakeResult) {
        if result == HandshakeResult::WrongKey {
            self.guess_other(pending);
        }
        self.metrics.handshakes.inc(result);
        let after = now.saturating_duration_since(pending.started);
        self.note_of(pending, DtlsNote::Failed { result, after });
    }

    /// Counts an alert that a handshake's peer was sent.
    pub(super) fn sent_alert(&mut self, pending: &Pending, alert: Alert) {
        self.metrics.alerts_sent.inc(alert);
        self.note_of(pending, DtlsNote::AlertSent(alert));
    }

    /// Counts an alert that a peer sent.
    pub(super) fn heard_alert(&mut self, address: PeerAddr, alert: Alert) {
        self.metrics.alerts_received.inc(alert);
        self.note(address, DtlsNote::AlertReceived(alert));
    }
}
