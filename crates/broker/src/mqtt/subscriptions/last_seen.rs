//! What observers of a filter have seen last of each topic.
//!
//! After a lost session the retained messages tell what changed meanwhile. They come for everything, so what was passed
//! on before is told apart by its hash.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use portcullis_proto::types::Message;

/// Topics remembered for one filter; beyond it, nothing is, and retained messages are not asked for again.
const MAX_TOPICS: usize = 1_024;

/// The hashes of the topics and their latest payloads.
#[derive(Debug, Default)]
pub(super) struct LastSeen {
    latest: HashMap<u64, u64>,
    too_many: bool,
}

impl LastSeen {
    /// Observers have seen this message.
    pub(super) fn note(&mut self, hasher: &RandomState, message: &Message) {
        if self.too_many {
            return;
        }
        if self.latest.len() >= MAX_TOPICS {
            *self = Self {
                latest: HashMap::new(),
                too_many: true,
            };
            return;
        }
        self.latest.insert(
            hasher.hash_one(message.topic.as_str()),
            hasher.hash_one(&message.payload),
        );
    }

    /// Whether observers have not seen this as the latest of its topic.
    pub(super) fn is_news(&self, hasher: &RandomState, message: &Message) -> bool {
        let latest = self.latest.get(&hasher.hash_one(message.topic.as_str()));
        !self.too_many && latest != Some(&hasher.hash_one(&message.payload))
    }

    /// Whether news can be told.
    pub(super) fn is_useful(&self) -> bool {
        !self.too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    #[test]
    fn only_what_changed_is_news() {
        let hasher = RandomState::new();
        let mut seen = LastSeen::default();
        assert!(seen.is_news(&hasher, &message("t", "1")));
        seen.note(&hasher, &message("t", "1"));
        assert!(!seen.is_news(&hasher, &message("t", "1")));
        assert!(seen.is_news(&hasher, &message("t", "2")));
        assert!(seen.is_news(&hasher, &message("u", "1")));
        for topic in 0..=MAX_TOPICS {
            seen.note(&hasher, &message(&topic.to_string(), "1"));
        }
        assert!(!seen.is_useful() && !seen.is_news(&hasher, &message("t", "2")));
    }
}
