//! What one identity has of all that is kept, over all workers: a key that leaks, or a device gone mad, takes its share and no
//! more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::limits::Caps;
use crate::types::reason::Limit;

/// What is taken of a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    observations: usize,
    bytes: usize,
}

impl Share {
    /// So many bytes of anything else.
    #[must_use]
    pub const fn bytes(bytes: usize) -> Self {
        Self {
            observations: 0,
            bytes,
        }
    }

    /// An observation of this weight in bytes.
    #[must_use]
    pub const fn observation(bytes: usize) -> Self {
        Self {
            observations: 1,
            bytes,
        }
    }
}

/// The shares of all identities that have anything. It is asked when something begins or ends, never for a datagram.
#[derive(Debug, Default)]
pub struct Shares(Mutex<HashMap<Arc<str>, Share>>);

impl Shares {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `more` for an identity, which gives back `less` as soon as it has it.
    ///
    /// # Errors
    /// With the cap that it would go over; then nothing was taken.
    pub fn take(&self, principal: &Arc<str>, (more, less): (Share, Share), caps: &Caps) -> Result<(), Limit> {
        let mut shares = self.lock();
        let had = shares.get(principal).copied().unwrap_or_default();
        let has = Share {
            observations: had.observations + more.observations,
            bytes: had.bytes + more.bytes,
        };
        if has.observations.saturating_sub(less.observations) > caps.observations_per_identity {
            return Err(Limit::IdentityObservations);
        }
        if has.bytes.saturating_sub(less.bytes) > caps.memory_per_identity {
            return Err(Limit::IdentityMemory);
        }
        shares.insert(Arc::clone(principal), has);
        Ok(())
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, principal: &Arc<str>, share: Share) {
        if let Entry::Occupied(mut entry) = self.lock().entry(Arc::clone(principal)) {
            let has = entry.get_mut();
            has.observations = has.observations.saturating_sub(share.observations);
            has.bytes = has.bytes.saturating_sub(share.bytes);
            if *has == Share::default() {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_its_share_and_what_it_gives_back() {
        let caps = Caps {
            observations_per_identity: 3,
            memory_per_identity: 1_000,
            ..Caps::default()
        };
        let shares = Shares::default();
        let take = |whose, more| shares.take(whose, (more, Share::default()), &caps);
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        for _ in 0..3 {
            assert_eq!(take(&one, Share::observation(100)), Ok(()));
        }
        let refused = take(&one, Share::observation(1));
        assert_eq!(refused, Err(Limit::IdentityObservations));
        assert_eq!(take(&other, Share::observation(500)), Ok(()));
        assert_eq!(take(&other, Share::bytes(400)), Ok(()));
        let refused = take(&other, Share::observation(101));
        assert_eq!(refused, Err(Limit::IdentityMemory));
        let again = (Share::observation(120), Share::observation(100));
        assert_eq!(shares.take(&one, again, &caps), Ok(()), "one in place of another");
        for bytes in [100, 100, 100, 120] {
            shares.give_back(&one, Share::observation(bytes));
        }
        shares.give_back(&other, Share::observation(500));
        shares.give_back(&other, Share::bytes(400));
        assert!(shares.lock().is_empty());
    }
}
