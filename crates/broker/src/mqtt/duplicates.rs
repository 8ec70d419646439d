//! Copies of one message that a broker sends because several of our filters match it (MQTT 3.1.1, 3.3.5).
//!
//! 3.1.1 says neither whether a broker does so nor which filter a copy belongs to. So each message is matched here and
//! passed on to all filters at the first copy; further copies are suppressed. Whether the broker sends copies at all is
//! learned from the first message that several filters match: once one of them stayed single, nothing is suppressed any
//! more, so that two equal messages in a row are two.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use portcullis_proto::types::Message;

/// Copies come within this time.
const WINDOW: Duration = Duration::from_secs(1);
/// Messages watched at once.
const MAX_WATCHED: usize = 4_096;

#[derive(Debug)]
struct Watched {
    first: Instant,
    /// How many more copies may come.
    left: usize,
    seen: bool,
}

/// What is known of the broker's copies.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    hasher: RandomState,
    watched: HashMap<u64, Watched>,
    /// A message that several filters match came only once.
    single: bool,
    /// It came several times.
    copies: bool,
}

impl Duplicates {
    /// Whether this is a further copy of a message that `matches` filters (at least two) match.
    pub(super) fn is_duplicate(&mut self, now: Instant, message: &Message, matches: usize) -> bool {
        self.learn(now);
        if self.single {
            return false;
        }
        let key = self.hasher.hash_one((message.topic.as_str(), &message.payload));
        if let Some(watched) = self.watched.get_mut(&key) {
            watched.seen = true;
            watched.left -= 1;
            self.copies = true;
            if watched.left == 0 {
                self.watched.remove(&key);
            }
            return true;
        }
        if self.watched.len() < MAX_WATCHED {
            let watched = Watched {
                first: now,
                left: matches - 1,
                seen: false,
            };
            self.watched.insert(key, watched);
        }
        false
    }

    fn learn(&mut self, now: Instant) {
        let over = |watched: &Watched| now.saturating_duration_since(watched.first) >= WINDOW;
        let stayed_single = self
            .watched
            .values()
            .any(|watched| !watched.seen && over(watched));
        self.single |= stayed_single && !self.copies;
        if self.single {
            self.watched.clear();
        }
        self.watched.retain(|_, watched| !over(watched));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{clock, message};

    #[test]
    fn copies_are_suppressed_and_equal_messages_are_not() {
        let mut duplicates = Duplicates::default();
        let now = (clock().now)();
        let message = message("t", "x");
        for _ in 0..3 {
            assert!(!duplicates.is_duplicate(now, &message, 3));
            assert!(duplicates.is_duplicate(now, &message, 3));
            assert!(duplicates.is_duplicate(now, &message, 3));
        }
    }

    #[test]
    fn a_broker_that_sends_no_copies_is_noticed() {
        let mut duplicates = Duplicates::default();
        let now = (clock().now)();
        assert!(!duplicates.is_duplicate(now, &message("t", "x"), 2));
        assert!(!duplicates.is_duplicate(now + WINDOW, &message("t", "x"), 2));
        assert!(!duplicates.is_duplicate(now + WINDOW, &message("t", "x"), 2));
    }
}
