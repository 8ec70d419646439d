//! Recognises our own messages when an upstream broker hands them back, for no-local.
//!
//! With MQTT 5 a number goes along as a user property, meaningless to others and to a later process. MQTT 3.1.1 has no
//! room for it: there a message that returns is recognised by topic and payload, as long as it is among the latest.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_proto::types::message::{Message, Origin};

/// The name of the user property.
pub(super) const ORIGIN_PROPERTY: &str = "portcullis-origin";
/// Publishes whose origin is remembered.
const REMEMBERED: usize = 65_536;

/// What is sent along with a message (and kept with it in the spool) so that its origin can be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OriginTag {
    /// A random number of this process: tags of others mean nothing here.
    pub(super) process: u64,
    /// Which publish it was.
    pub(super) number: u64,
}

impl OriginTag {
    pub(super) fn to_text(self) -> String {
        format!("{:016x}-{:x}", self.process, self.number)
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let (process, number) = text.split_once('-')?;
        Some(Self {
            process: u64::from_str_radix(process, 16).ok()?,
            number: u64::from_str_radix(number, 16).ok()?,
        })
    }
}

/// The origins of the latest publishes, shared by all lanes: a message may come back on another connection.
#[derive(Debug, Clone)]
pub(super) struct Origins {
    process: u64,
    by_content: bool,
    hasher: RandomState,
    latest: Arc<Mutex<Latest>>,
}

#[derive(Debug, Default)]
struct Latest {
    first: u64,
    origins: VecDeque<(Origin, u64)>,
    by_content: HashMap<u64, u64>,
}

impl Origins {
    /// `by_content` for MQTT 3.1.1.
    pub(super) fn new(by_content: bool) -> Self {
        let hasher = RandomState::new();
        Self {
            process: hasher.hash_one("process"),
            by_content,
            hasher,
            latest: Arc::default(),
        }
    }

    /// Remembers where `message` comes from.
    pub(super) fn remember(&self, message: &Message) -> Option<OriginTag> {
        let origin = message.origin.clone()?;
        let content = if self.by_content { self.content(message) } else { 0 };
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.origins.len() == REMEMBERED {
            if let Some((_, content)) = latest.origins.pop_front()
                && latest.by_content.get(&content) == Some(&latest.first)
            {
                latest.by_content.remove(&content);
            }
            latest.first += 1;
        }
        let number = latest.first + latest.origins.len() as u64;
        latest.origins.push_back((origin, content));
        if self.by_content {
            latest.by_content.insert(content, number);
        }
        Some(OriginTag {
            process: self.process,
            number,
        })
    }

    /// Where a message from the broker comes from, if it was published here.
    pub(super) fn recall(&self, tag: Option<OriginTag>, message: &Message) -> Option<Origin> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let number = if self.by_content {
            *latest.by_content.get(&self.content(message))?
        } else {
            tag.filter(|tag| tag.process == self.process)?.number
        };
        let at = usize::try_from(number.checked_sub(latest.first)?).ok()?;
        latest.origins.get(at).map(|(origin, _)| origin.clone())
    }

    fn content(&self, message: &Message) -> u64 {
        self.hasher.hash_one((message.topic.as_str(), &message.payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    fn published(peer: u64, payload: &str) -> Message {
        Message {
            origin: Some(Origin { peer, client: None }),
            ..message("t", payload)
        }
    }

    #[test]
    fn a_tag_brings_back_the_origin_and_a_foreign_one_does_not() {
        let origins = Origins::new(false);
        let tag = origins.remember(&published(7, "x")).unwrap();
        assert_eq!(OriginTag::from_text(&tag.to_text()), Some(tag));
        assert_eq!(origins.recall(Some(tag), &message("t", "x")).unwrap().peer, 7);
        let foreign = OriginTag {
            process: tag.process ^ 1,
            ..tag
        };
        assert_eq!(origins.recall(Some(foreign), &message("t", "x")), None);
        assert_eq!(origins.recall(None, &message("t", "x")), None);
        assert_eq!(origins.remember(&message("t", "x")), None);
    }

    #[test]
    fn only_the_latest_are_remembered() {
        for by_content in [false, true] {
            let origins = Origins::new(by_content);
            let first = origins.remember(&published(1, "first")).unwrap();
            for peer in 2..=REMEMBERED as u64 + 1 {
                origins.remember(&published(peer, &peer.to_string())).unwrap();
            }
            assert_eq!(origins.recall(Some(first), &message("t", "first")), None);
            let second = OriginTag {
                number: first.number + 1,
                ..first
            };
            assert_eq!(origins.recall(Some(second), &message("t", "2")).unwrap().peer, 2);
        }
    }

    #[test]
    fn without_tags_topic_and_payload_tell() {
        let origins = Origins::new(true);
        origins.remember(&published(7, "x"));
        assert_eq!(origins.recall(None, &message("t", "x")).unwrap().peer, 7);
        assert_eq!(origins.recall(None, &message("t", "y")), None);
    }
}
