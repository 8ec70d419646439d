//! New keys, certificates and settings for what comes next; established sessions stay unless they lost their right.

use portcullis_proto::types::Transmits;

use super::super::contract::{CloseReason, DtlsSettings, SessionId};
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
        let mut evict = |listener: &mut Self, least: Option<SessionId>| {
            let key = least.and_then(|id| listener.sessions.by_id(id));
            if let Some(key) = key {
                listener.say_goodbye(key, transmits);
                listener.end(key, CloseReason::Evicted);
            }
            key.is_some()
        };
        while self.sessions.legacy_len() > self.settings.legacy_max_sessions
            && evict(self, self.sessions.least_legacy(true))
        {}
        while self.sessions.len() > self.settings.max_sessions.max(1)
            && evict(self, self.sessions.least(true))
        {}
    }
}
