//! Looking for the retained messages that a filter with wildcards matches, a piece at a time: such a filter may match none
//! of very many, and nobody else is to wait for that.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use portcullis_proto::bridge::contract::MAX_RETAINED;
use portcullis_proto::types::{Message, TopicFilter, TopicName};

use super::Retained;

/// A search under way.
#[derive(Debug)]
pub(crate) struct Search {
    filter: TopicFilter,
    /// How far it has come.
    reached: Option<TopicName>,
    found: BTreeSet<TopicName>,
}

impl Search {
    /// One that has looked nowhere yet.
    pub(crate) fn new(filter: TopicFilter) -> Self {
        Self {
            filter,
            reached: None,
            found: BTreeSet::new(),
        }
    }

    /// What is searched for.
    pub(crate) fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// A message was retained meanwhile: where the search has been already, it did not see it.
    pub(crate) fn note(&mut self, topic: &TopicName) {
        let passed = self.reached.as_ref().is_some_and(|reached| topic <= reached);
        if passed && self.filter.matches(topic) {
            self.found.insert(topic.clone());
        }
    }

    /// Looks at up to `most` topics more. Returns whether that was the end: there are no more, or [`MAX_RETAINED`] are found.
    pub(crate) fn go_on(&mut self, retained: &Retained, now: Instant, most: usize) -> bool {
        let text = self.filter.as_str();
        let prefix = text.find(['+', '#']).and_then(|wildcard| text.get(..wildcard));
        // `a/#` matches `a` too, so the slash before a wildcard is no part of what all matches begin with.
        let prefix = prefix.unwrap_or(text);
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let from = match &self.reached {
            Some(reached) => Bound::Excluded(reached.as_str()),
            None => Bound::Included(prefix),
        };
        let mut left = most;
        let mut last: Option<&TopicName> = None;
        for (topic, message) in retained.messages.range::<str, _>((from, Bound::Unbounded)) {
            if !topic.as_str().starts_with(prefix) || self.found.len() >= MAX_RETAINED {
                return true;
            }
            if left == 0 {
                self.reached = last.cloned();
                return false;
            }
            left -= 1;
            last = Some(topic);
            if self.filter.matches(topic) && !message.is_expired(now) {
                self.found.insert(topic.clone());
            }
        }
        true
    }

    /// What was found, as it is now: at most [`MAX_RETAINED`] messages in topic order, and whether there may be more.
    pub(crate) fn end(self, retained: &Retained, now: Instant) -> (Vec<Arc<Message>>, bool) {
        let full = self.found.len() >= MAX_RETAINED;
        let found = self.found.iter().filter_map(|topic| retained.get(topic, now));
        (found.take(MAX_RETAINED).collect(), full)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::retained::RetainedLimits;
    use crate::testing::{clock, message};

    fn store(names: impl IntoIterator<Item = impl AsRef<str>>) -> Retained {
        let mut retained = Retained::new(RetainedLimits::default());
        for name in names {
            retained.insert(Arc::new(message(name.as_ref(), "x")));
        }
        retained
    }

    fn search(filter: &str) -> Search {
        Search::new(TopicFilter::new(filter).unwrap())
    }

    fn topics(found: &[Arc<Message>]) -> Vec<&str> {
        found.iter().map(|message| message.topic.as_str()).collect()
    }

    #[test]
    fn wildcards_find_what_the_filter_matches_in_topic_order_however_small_the_steps() {
        let names = ["a", "a/b", "a/b/c", "a-x", "ab", "b/b", "$SYS/a", "/a", "a//c"];
        let retained = store(names);
        let now = (clock().now)();
        for text in ["a/#", "#", "+", "+/b", "a/+/c", "$SYS/#", "/+", "+/+"] {
            let mut wanted: Vec<&str> = names
                .into_iter()
                .filter(|name| search(text).filter.matches(&TopicName::new(name).unwrap()))
                .collect();
            wanted.sort_unstable();
            for most in [1, 2, 100] {
                let mut search = search(text);
                while !search.go_on(&retained, now, most) {}
                let (found, more) = search.end(&retained, now);
                assert_eq!((topics(&found), more), (wanted.clone(), false), "{text}");
            }
        }
    }

    #[test]
    fn what_changes_behind_a_search_is_found_as_it_is_at_the_end() {
        let now = (clock().now)();
        let mut retained = store(["a/1", "a/2", "a/3", "a/4"]);
        let mut search = search("+/#");
        assert!(!search.go_on(&retained, now, 3));
        for topic in ["a/0", "a/5", "b"] {
            retained.insert(Arc::new(message(topic, "new")));
            search.note(&TopicName::new(topic).unwrap());
        }
        retained.insert(Arc::new(message("a/1", "newer")));
        retained.remove(&TopicName::new("a/2").unwrap());
        let mut short = message("a/3", "x");
        short.expires_at = Some(now + Duration::from_secs(1));
        retained.insert(Arc::new(short));
        assert!(search.go_on(&retained, now, 100));
        let (found, _) = search.end(&retained, now + Duration::from_secs(2));
        assert_eq!(topics(&found), ["a/0", "a/1", "a/4", "a/5", "b"]);
        assert_eq!(found[1].payload, "newer");
    }

    #[test]
    fn a_search_ends_with_what_one_answer_takes() {
        let now = (clock().now)();
        let retained = store((0..MAX_RETAINED + 50).map(|n| format!("t/{n:05}")));
        let mut search = search("t/+");
        assert!(search.go_on(&retained, now, usize::MAX));
        let (found, more) = search.end(&retained, now);
        assert_eq!((found.len(), more), (MAX_RETAINED, true));
        assert_eq!(
            found.last().unwrap().topic.as_str(),
            format!("t/{:05}", MAX_RETAINED - 1)
        );
    }
}
