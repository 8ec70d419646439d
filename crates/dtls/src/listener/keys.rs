//! Which pre-shared key a handshake has.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::super::handshake::{Pending, Progress};
use super::DtlsListener;

impl DtlsListener {
    /// Goes on with a handshake that waits for its key, as far as that is known.
    pub(super) fn choose_key(&mut self, now: Instant, pending: &mut Pending) -> Progress {
        if let Some(identity) = pending.asks_for() {
            let keys = self.context.psks().and_then(|psks| psks.get(identity)).cloned();
            let (shared, source) = (&self.shared, pending.address.source());
            let progress = pending.give_keys(keys, |keys| shared.guess(keys, source));
            if progress != Progress::Waiting {
                return progress;
            }
        }
        pending.try_keys(&mut self.aead, now)
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

#[expect(
    clippy::disallowed_methods,
    reason = "what is shown to people is the time of the machine"
)]
fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
