//! Which sequence numbers were seen (RFC 6347, 4.1.2.6).

/// The last 64 sequence numbers of one epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ReplayWindow {
    /// One more than the highest number seen.
    next: u64,
    /// Bit `n` stands for `next - 1 - n`.
    seen: u64,
}

impl ReplayWindow {
    /// A window in which everything below `floor` counts as seen.
    pub(super) const fn above(floor: u64) -> Self {
        Self {
            next: floor,
            seen: u64::MAX,
        }
    }

    /// One more than the highest number seen.
    pub(super) const fn floor(self) -> u64 {
        self.next
    }

    /// Whether `sequence` was not seen before and is not too old to tell.
    #[must_use]
    pub(super) fn is_fresh(&self, sequence: u64) -> bool {
        match self.next.checked_sub(sequence) {
            None | Some(0) => true,
            Some(age @ 1..=64) => self.seen >> (age - 1) & 1 == 0,
            Some(_) => false,
        }
    }

    /// Whether `sequence` is higher than all before.
    #[must_use]
    pub(super) fn is_newest(&self, sequence: u64) -> bool {
        sequence >= self.next
    }

    /// Remembers `sequence`; where records are protected, only after its record proved authentic.
    pub(super) fn mark(&mut self, sequence: u64) {
        if sequence >= self.next {
            let step = sequence - self.next + 1;
            self.seen = if step >= 64 { 0 } else { self.seen << step };
            self.seen |= 1;
            self.next = sequence + 1;
        } else {
            let age = self.next - sequence;
            if age <= 64 {
                self.seen |= 1 << (age - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn it_agrees_with_a_set_of_everything_seen() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut window, mut seen) = (ReplayWindow::default(), BTreeSet::new());
        for _ in 0..100_000 {
            let top = seen.last().copied().unwrap_or(0u64);
            let sequence = (top + rng.random_range(0..8)).saturating_sub(rng.random_range(0..80));
            let fresh = !seen.contains(&sequence) && seen.last().is_none_or(|top| sequence + 64 > *top);
            assert_eq!(window.is_fresh(sequence), fresh, "{sequence} under {top}");
            assert_eq!(
                window.is_newest(sequence),
                seen.last().is_none_or(|top| sequence > *top)
            );
            if fresh {
                window.mark(sequence);
                seen.insert(sequence);
            }
        }
    }

    #[test]
    fn a_jump_forgets_what_fell_out() {
        let mut window = ReplayWindow::default();
        window.mark(0);
        window.mark(64);
        assert!(!window.is_fresh(0));
        assert!(window.is_fresh(1));
        window.mark(1 << 47);
        assert!(!window.is_fresh(64));
    }
}
