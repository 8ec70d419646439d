//! The retained messages of the embedded broker: in memory for reading, on disk so that they survive.

mod database;
mod disk;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

pub(super) use disk::{Disk, Durable, Opened, Reports, RetainedError};
pub(super) use search::Search;

use portcullis_proto::types::{Message, TopicName};

/// What a retained message weighs beside its payload and texts.
const OVERHEAD: usize = 256;

/// Bounds of the store.
#[derive(Debug, Clone, Copy)]
pub struct RetainedLimits {
    /// Most messages.
    pub max_messages: usize,
    /// Most bytes: payloads, topics, and a fixed share for each message.
    pub max_bytes: usize,
}

impl Default for RetainedLimits {
    fn default() -> Self {
        Self {
            max_messages: 100_000,
            max_bytes: 256 << 20,
        }
    }
}

/// The store is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The retained messages in memory.
#[derive(Debug)]
pub(super) struct Retained {
    messages: BTreeMap<TopicName, Arc<Message>>,
    expiries: BTreeSet<(Instant, TopicName)>,
    bytes: usize,
    limits: RetainedLimits,
}

fn weight(message: &Message) -> usize {
    let content_type = message.content_type.as_deref().map_or(0, str::len);
    OVERHEAD + message.payload.len() + message.topic.as_str().len() + content_type
}

impl Retained {
    pub(super) fn new(limits: RetainedLimits) -> Self {
        Self {
            messages: BTreeMap::new(),
            expiries: BTreeSet::new(),
            bytes: 0,
            limits,
        }
    }

    /// Whether `message` fits in.
    pub(super) fn check(&self, message: &Message) -> Result<(), Full> {
        let replaced = self.messages.get(&message.topic).map(|old| weight(old));
        let count = self.messages.len() + usize::from(replaced.is_none());
        let bytes = self.bytes - replaced.unwrap_or(0) + weight(message);
        if count > self.limits.max_messages || bytes > self.limits.max_bytes {
            return Err(Full);
        }
        Ok(())
    }

    /// Keeps the message in place of an older one.
    pub(super) fn insert(&mut self, message: Arc<Message>) {
        self.remove(&message.topic);
        if let Some(at) = message.expires_at {
            self.expiries.insert((at, message.topic.clone()));
        }
        self.bytes += weight(&message);
        self.messages.insert(message.topic.clone(), message);
    }

    /// Forgets the message of `topic`; whether there was one.
    pub(super) fn remove(&mut self, topic: &TopicName) -> bool {
        let Some(old) = self.messages.remove(topic) else {
            return false;
        };
        self.bytes -= weight(&old);
        if let Some(at) = old.expires_at {
            self.expiries.remove(&(at, topic.clone()));
        }
        true
    }

    /// The message of `topic`, unless its time is over.
    pub(super) fn get(&self, topic: &TopicName, now: Instant) -> Option<Arc<Message>> {
        self.messages
            .get(topic)
            .filter(|message| !message.is_expired(now))
            .cloned()
    }

    /// All messages, those whose time is over included.
    pub(super) fn all(&self) -> Vec<Arc<Message>> {
        self.messages.values().cloned().collect()
    }

    /// Takes out the topic of one message whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Option<TopicName> {
        let (at, topic) = self.expiries.first()?;
        if *at > now {
            return None;
        }
        let topic = topic.clone();
        self.remove(&topic);
        Some(topic)
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// What they weigh in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{clock, message};

    #[test]
    fn a_message_is_gone_when_its_time_is_over() {
        let mut retained = Retained::new(RetainedLimits::default());
        let now = (clock().now)();
        let mut short = message("a", "x");
        short.expires_at = Some(now + Duration::from_secs(5));
        retained.insert(Arc::new(short.clone()));
        let name = TopicName::new("a").unwrap();
        assert!(retained.get(&name, now + Duration::from_secs(4)).is_some());
        assert!(retained.get(&name, now + Duration::from_secs(5)).is_none());
        assert_eq!(retained.expire(now + Duration::from_secs(4)), None);
        assert_eq!(retained.expire(now + Duration::from_secs(5)), Some(name));
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
        short.expires_at = None;
        retained.insert(Arc::new(short));
        assert_eq!(retained.expire(now + Duration::from_secs(500)), None);
    }

    #[test]
    fn a_replaced_message_leaves_no_weight_and_no_expiry_behind() {
        let mut retained = Retained::new(RetainedLimits::default());
        let now = (clock().now)();
        let mut short = message("a", "xxxxx");
        short.expires_at = Some(now + Duration::from_secs(5));
        retained.insert(Arc::new(short));
        retained.insert(Arc::new(message("a", "y")));
        assert_eq!(retained.expire(now + Duration::from_secs(50)), None);
        assert_eq!(retained.bytes(), weight(&message("a", "y")));
    }

    #[test]
    fn the_store_is_bounded_by_count_and_bytes_and_still_replaces() {
        let limits = RetainedLimits {
            max_messages: 2,
            max_bytes: 1000,
        };
        let mut retained = Retained::new(limits);
        retained.insert(Arc::new(message("a", "x")));
        retained.insert(Arc::new(message("b", "x")));
        assert_eq!(retained.check(&message("c", "x")), Err(Full));
        assert_eq!(retained.check(&message("b", "y")), Ok(()));
        assert_eq!(retained.check(&message("b", &"y".repeat(900))), Err(Full));
        retained.remove(&TopicName::new("a").unwrap());
        assert_eq!(retained.check(&message("c", "x")), Ok(()));
    }
}
