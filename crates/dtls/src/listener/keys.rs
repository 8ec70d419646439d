//! Which pre-shared key a handshake has.

use std::sync::Arc;
use std::time::Instant;

use super::super::certificates;
use super::super::contract::DtlsEvent;
use super::super::handshake::{Pending, Progress};
use super::super::psk::identity_text;
use super::DtlsListener;

impl DtlsListener {
    /// Goes on with a handshake that waits for its key, as far as that is known.
    pub(super) fn choose_key(&mut self, now: Instant, pending: &mut Pending) -> Progress {
        if let Some(identity) = pending.asks_for() {
            let keys = self.context.psks().and_then(|psks| psks.get(identity)).cloned();
            if keys.is_none() && self.context.asks_for_keys() && !identity.is_empty() {
                let identity = identity_text(identity).into();
                self.want_keys(pending, identity);
                return Progress::Waiting;
            }
            let (shared, source) = (&self.shared, pending.address.source());
            let progress = pending.give_keys(keys, |keys| shared.guess(keys, source));
            if progress != Progress::Waiting {
                return progress;
            }
        }
        pending.try_keys(&mut self.aead, now)
    }

    fn want_keys(&mut self, pending: &mut Pending, identity: Arc<str>) {
        pending.wait_for_keys();
        self.asked.insert(pending.id, pending.address);
        self.events.push_back(DtlsEvent::KeysWanted {
            ticket: pending.id,
            address: pending.address,
            identity,
        });
    }

    /// A handshake ended well: its key was used, and is the one to take again where two cannot be tried.
    pub(super) fn note_key(&self, pending: &Pending) {
        if let Some(key) = pending.key() {
            key.note_use(unix_seconds());
        }
        if let Some((keys, key)) = pending.guess() {
            let is_newest = keys.keys().first().is_some_and(|first| Arc::ptr_eq(first, key));
            self.shared
                .guess_next(keys, pending.address.source(), (!is_newest).then_some(key));
        }
    }

    /// The Finished of a handshake whose key was guessed did not open: the next one takes the other.
    pub(super) fn guess_other(&self, pending: &Pending) {
        if let Some((keys, key)) = pending.guess() {
            let other = keys.keys().iter().find(|other| !Arc::ptr_eq(other, key));
            self.shared.guess_next(keys, pending.address.source(), other);
        }
    }
}

/// What is shown to people is the time of the machine; 0 where it is not known.
pub(crate) fn unix_seconds() -> u64 {
    let now = certificates::now();
    now.and_then(|now| u64::try_from(now).ok()).unwrap_or_default()
}
