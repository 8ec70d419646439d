//! Which subscriptions a message matches: a table of plain topics beside a trie of filters with wildcards.

use std::collections::HashMap;

use portcullis_proto::types::{TopicFilter, TopicName};

/// Most levels of a filter. It bounds the depth of the trie, and with it the work and the stack that a match needs;
/// mosquitto has the same limit.
pub(super) const MAX_LEVELS: usize = 200;

/// Whether a topic or filter has more than [`MAX_LEVELS`] levels.
pub(super) fn too_deep(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'/').count() >= MAX_LEVELS
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, Self>,
    plus: Option<Box<Self>>,
    /// Filters that end here.
    here: Vec<T>,
    /// Filters that end here with `#`.
    below: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            children: HashMap::new(),
            plus: None,
            here: Vec::new(),
            below: Vec::new(),
        }
    }
}

impl<T: Copy + PartialEq> Node<T> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.below.is_empty()
    }

    fn insert(&mut self, filter: &str, value: T) {
        let mut node = self;
        for level in filter.split('/') {
            node = match level {
                "#" => return node.below.push(value),
                "+" => node.plus.get_or_insert_default(),
                level => node.children.entry(level.into()).or_default(),
            };
        }
        node.here.push(value);
    }

    /// Removes the value and every node that holds nothing any more; recursion ends at [`MAX_LEVELS`].
    fn remove(&mut self, filter: Option<&str>, value: T) {
        let Some(filter) = filter else {
            return forget(&mut self.here, value);
        };
        let (level, rest) = match filter.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (filter, None),
        };
        match level {
            "#" => forget(&mut self.below, value),
            "+" => {
                if let Some(child) = &mut self.plus {
                    child.remove(rest, value);
                    if child.is_empty() {
                        self.plus = None;
                    }
                }
            }
            level => {
                if let Some(child) = self.children.get_mut(level) {
                    child.remove(rest, value);
                    if child.is_empty() {
                        self.children.remove(level);
                    }
                }
            }
        }
    }

    /// Recursion ends at the depth of the trie, so at [`MAX_LEVELS`], however many levels the topic has.
    fn matching(&self, topic: Option<&str>, wildcards: bool, found: &mut Vec<T>) {
        if wildcards {
            found.extend_from_slice(&self.below);
        }
        let Some(topic) = topic else {
            found.extend_from_slice(&self.here);
            return;
        };
        let (level, rest) = match topic.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (topic, None),
        };
        if let Some(child) = self.children.get(level) {
            child.matching(rest, true, found);
        }
        if let Some(child) = self.plus.as_ref().filter(|_| wildcards) {
            child.matching(rest, true, found);
        }
    }
}

fn forget<T: PartialEq>(values: &mut Vec<T>, value: T) {
    if let Some(at) = values.iter().position(|other| *other == value) {
        values.swap_remove(at);
    }
    if values.is_empty() {
        *values = Vec::new();
    }
}

/// The filters of all subscribers, each with the values that subscribed it.
#[derive(Debug)]
pub(super) struct FilterTable<T> {
    plain: HashMap<Box<str>, Vec<T>>,
    wild: Node<T>,
}

impl<T> Default for FilterTable<T> {
    fn default() -> Self {
        Self {
            plain: HashMap::new(),
            wild: Node::default(),
        }
    }
}

impl<T: Copy + PartialEq> FilterTable<T> {
    /// Adds a filter of at most [`MAX_LEVELS`] levels; a value may be added once for each filter.
    pub(super) fn insert(&mut self, filter: &TopicFilter, value: T) {
        if filter.has_wildcard() {
            self.wild.insert(filter.as_str(), value);
        } else {
            self.plain.entry(filter.as_str().into()).or_default().push(value);
        }
    }

    /// Removes what [`Self::insert`] added; nothing when it did not.
    pub(super) fn remove(&mut self, filter: &TopicFilter, value: T) {
        if filter.has_wildcard() {
            self.wild.remove(Some(filter.as_str()), value);
        } else if let Some(values) = self.plain.get_mut(filter.as_str()) {
            forget(values, value);
            if values.is_empty() {
                self.plain.remove(filter.as_str());
            }
        }
    }

    /// Appends the values of all filters that match `topic`.
    pub(super) fn matching(&self, topic: &TopicName, found: &mut Vec<T>) {
        if let Some(values) = self.plain.get(topic.as_str()) {
            found.extend_from_slice(values);
        }
        if !self.wild.is_empty() {
            let wildcards = !topic.as_str().starts_with('$');
            self.wild.matching(Some(topic.as_str()), wildcards, found);
        }
    }

    /// Whether no filter is there.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.wild.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn text(rng: &mut StdRng, words: &[&str], filter: bool) -> String {
        let levels = rng.random_range(1..=5);
        let mut out: Vec<&str> = (0..levels).map(|_| *words.choose(rng).unwrap()).collect();
        if filter {
            for level in &mut out {
                if rng.random_bool(0.25) {
                    *level = "+";
                }
            }
            if rng.random_bool(0.3) {
                out.push("#");
            }
            if rng.random_bool(0.02) {
                return "#".into();
            }
        }
        out.join("/")
    }

    #[test]
    fn the_table_finds_what_a_naive_matcher_finds() {
        let words = ["", "a", "b", "c", "$SYS", "temp"];
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..60 {
            let mut table = FilterTable::default();
            let mut naive: Vec<(TopicFilter, u32)> = Vec::new();
            for value in 0..rng.random_range(1..120) {
                let Ok(filter) = TopicFilter::new(&text(&mut rng, &words, true)) else {
                    continue;
                };
                table.insert(&filter, value);
                naive.push((filter, value));
                if rng.random_bool(0.3) {
                    let (filter, value) = naive.swap_remove(rng.random_range(0..naive.len()));
                    table.remove(&filter, value);
                }
            }
            for _ in 0..200 {
                let Ok(topic) = TopicName::new(&text(&mut rng, &words, false)) else {
                    continue;
                };
                let mut found = Vec::new();
                table.matching(&topic, &mut found);
                found.sort_unstable();
                let mut wanted: Vec<u32> = naive
                    .iter()
                    .filter(|(f, _)| f.matches(&topic))
                    .map(|(_, v)| *v)
                    .collect();
                wanted.sort_unstable();
                assert_eq!(found, wanted, "{topic}");
            }
            for (filter, value) in naive {
                table.remove(&filter, value);
            }
            assert!(table.is_empty());
        }
    }

    #[test]
    fn deep_filters_and_topics_are_told_apart() {
        assert!(!too_deep(&vec!["a"; MAX_LEVELS].join("/")));
        assert!(too_deep(&vec!["a"; MAX_LEVELS + 1].join("/")));
    }

    #[test]
    fn a_topic_of_32768_levels_does_not_exhaust_the_stack() {
        let mut table = FilterTable::default();
        table.insert(&TopicFilter::new("#").unwrap(), 1);
        table.insert(&TopicFilter::new(&vec!["+"; MAX_LEVELS].join("/")).unwrap(), 2);
        let mut found = Vec::new();
        table.matching(&TopicName::new(&"/".repeat(32_767)).unwrap(), &mut found);
        assert_eq!(found, [1]);
    }
}
