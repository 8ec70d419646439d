//! What cannot fail, and is heard of if it does.

use std::sync::atomic::{AtomicU64, Ordering};

static BROKEN: AtomicU64 = AtomicU64::new(0);

/// How often an [`crate::invariant!`] did not hold since the process began: `invariants_broken_total`.
#[must_use]
pub fn broken() -> u64 {
    BROKEN.load(Ordering::Relaxed)
}

/// Counts an [`crate::invariant!`] that did not hold.
#[cold]
pub fn note_broken() {
    BROKEN.fetch_add(1, Ordering::Relaxed);
}

/// Says what always holds. Where it does not, a build with debug assertions (tests, fuzzing) panics, and a release counts it and goes
/// on with what follows.
#[macro_export]
macro_rules! invariant {
    ($holds:expr, $what:literal) => {
        if !$holds {
            debug_assert!(false, $what);
            $crate::types::invariant::note_broken();
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_holds_goes_unnoticed() {
        let before = super::broken();
        invariant!(1 + 1 == 2, "sums are right");
        assert_eq!(super::broken(), before);
    }

    #[test]
    #[should_panic(expected = "sums are right")]
    fn what_does_not_hold_is_heard_of() {
        invariant!(1 + 1 == 3, "sums are right");
    }
}
