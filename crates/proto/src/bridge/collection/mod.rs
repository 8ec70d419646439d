//! The topic collection of draft-ietf-core-coap-pubsub-21: which topics were created, and with what properties.
//!
//! | file | what |
//! |---|---|
//! | [`properties`] | topic properties as a CBOR map |
//! | [`topic`] | a topic: properties, data, id; how it is kept |
//! | [`seats`] | how many observe each, over all workers |

pub mod properties;
pub mod seats;
pub mod topic;

use std::collections::{BTreeMap, HashMap};

use topic::Topic;

use crate::types::TopicName;

/// Most topics that can be created. Peers that proved nothing may fill a quarter, those known by no credential half. It is below
/// [`crate::bridge::contract::MAX_RETAINED`], since the broker hands back all at once what it keeps of them.
pub const MAX_TOPICS: usize = 1_000;

/// The topics that were created, as a worker knows them.
#[derive(Debug, Default)]
pub struct Collection {
    topics: BTreeMap<Box<str>, Topic>,
    by_topic: HashMap<TopicName, Box<str>>,
}

impl Collection {
    /// A topic by its id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Topic> {
        self.topics.get(id)
    }

    /// The topic whose data is at this topic of the broker.
    #[must_use]
    pub fn of_topic(&self, topic: &str) -> Option<&Topic> {
        // Most sites create no topics.
        if self.by_topic.is_empty() {
            return None;
        }
        self.topics.get(self.by_topic.get(topic)?)
    }

    /// Marks whether there is data; the topic, where that changed.
    pub(crate) fn set_full(&mut self, id: &str, is_full: bool) -> Option<&Topic> {
        let topic = self.topics.get_mut(id)?;
        (std::mem::replace(&mut topic.is_full, is_full) != is_full).then_some(topic)
    }

    /// Adds a topic, or puts it in place of that of its id.
    pub fn insert(&mut self, topic: Topic) {
        self.remove(topic.id());
        self.by_topic.insert(topic.topic().clone(), topic.id().into());
        self.topics.insert(topic.id().into(), topic);
    }

    /// Takes a topic out.
    pub fn remove(&mut self, id: &str) -> Option<Topic> {
        let topic = self.topics.remove(id)?;
        if self.by_topic.get(topic.topic()).is_some_and(|of| **of == *id) {
            self.by_topic.remove(topic.topic());
        }
        Some(topic)
    }

    /// All topics in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }
}
