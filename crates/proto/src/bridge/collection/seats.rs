//! How many observe each created topic, counted once for all workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::TopicName;

/// The counts, by topic. Locked when a created topic is observed, changed or deleted, and for nothing else.
#[derive(Debug, Default)]
pub struct Seats(Mutex<HashMap<TopicName, Arc<AtomicU32>>>);

impl Seats {
    fn counts(&self) -> MutexGuard<'_, HashMap<TopicName, Arc<AtomicU32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more observer of a topic; `None` when `most` observe it already.
    #[must_use]
    pub fn take(&self, topic: &TopicName, most: u32) -> Option<Seat> {
        let count = Arc::clone(self.counts().entry(topic.clone()).or_default());
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < most).then_some(taken + 1)
            })
            .ok()?;
        Some(Seat(Some(count)))
    }

    /// Forgets a topic that was deleted; who still observes it counts no more.
    pub fn forget(&self, topic: &TopicName) {
        self.counts().remove(topic);
    }
}

/// The place of one observer; given back when it is dropped.
#[derive(Debug)]
pub struct Seat(Option<Arc<AtomicU32>>);

impl Seat {
    /// Gives the place back now if more than `most` are taken. Whether it did.
    pub(crate) fn give_up_over(&mut self, most: u32) -> bool {
        let Some(count) = &self.0 else { return false };
        let given = count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken > most).then(|| taken - 1)
            })
            .is_ok();
        if given {
            self.0 = None;
        }
        given
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_given_back_and_given_up_once() {
        let seats = Seats::default();
        let topic = TopicName::new("a").unwrap();
        let mut one = seats.take(&topic, 2).unwrap();
        let mut two = seats.take(&topic, 2).unwrap();
        assert!(seats.take(&topic, 2).is_none());
        assert!(!one.give_up_over(2));
        assert!(one.give_up_over(1));
        assert!(!two.give_up_over(1));
        drop(one);
        assert!(seats.take(&topic, 1).is_none());
        drop(two);
        let three = seats.take(&topic, 1).unwrap();
        seats.forget(&topic);
        assert!(seats.take(&topic, 1).is_some());
        drop(three);
    }
}
