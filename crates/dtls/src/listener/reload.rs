//! New keys, certificates and settings for what comes next; established sessions stay unless they lost their right.

use portcullis_proto::types::Transmits;

use super::super::contract::{CloseReason, DtlsSettings};
use super::super::sessions::SessionTable;
use super::DtlsListener;

impl DtlsListener {
    /// Takes new settings, and the keys and certificates that its source has now. Sessions that these would not let in, whose
    /// PSK identity was removed or has another key, whose client certificate or one of its issuers is revoked, expired or not
    /// trusted any more, or that have none where one is required now, end with close_notify and `Closed{Revoked}`. Handshakes in flight go on
    /// and are judged by the new material when they finish.
    pub fn reconfigure(&mut self, settings: DtlsSettings, transmits: &mut Transmits) {
        self.sessions.grain = SessionTable::grain_for(settings.idle_timeout);
        self.context = self.source.current();
        self.settings = settings;
        let lost: Vec<_> = self
            .sessions
            .iter()
            .filter(|session| !self.context.still_authorizes(&session.authority))
            .map(|session| session.id)
            .collect();
        for id in lost {
            if let Some(key) = self.sessions.by_id(id) {
                self.say_goodbye(key, transmits);
                self.end(key, CloseReason::Revoked);
            }
        }
        while self.sessions.len() > self.settings.max_sessions.max(1) {
            let least = self.sessions.least(true);
            let Some(key) = least.and_then(|id| self.sessions.by_id(id)) else {
                break;
            };
            self.say_goodbye(key, transmits);
            self.end(key, CloseReason::Evicted);
        }
    }
}
