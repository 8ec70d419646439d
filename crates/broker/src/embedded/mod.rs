//! The embedded broker: each worker matches and answers what its own peers publish, on its own thread.
//!
//! What workers share is two tables. The *filters* are read for every publish and written for a subscription that comes or
//! goes. The *store* of retained messages is locked for what retains, reads or wants retained messages. Whoever needs both takes
//! the store first, and under its lock hands over what it has for other workers, so that observers everywhere see
//! the retained messages of a topic in the order in which the store took them. A thread of its own, the *keeper*, follows up
//! on the disk, looks through large stores, and forgets what has expired.
//!
//! Observers at the worker of a publisher get a message at once, unless messages of other workers wait there: those may be what
//! the publisher followed up on, and go first.

mod access;
mod keeper;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use portcullis_proto::bridge::contract::FilterId;
use portcullis_proto::types::{TopicFilter, TopicName};

pub(super) use access::{Access, Own};
pub(super) use keeper::Keeper;
pub(super) use store::Store;

use super::clock::Clock;
use super::metrics::LaneMetrics;
use super::topics::{FilterTable, Sums};

/// A worker, and its filter.
type Subscriber = (usize, FilterId);

/// How often the keeper steps aside for workers that wait for the store, before its own turn comes.
const STEPS_ASIDE: usize = 64;

/// What the workers and the keeper share.
pub(super) struct Shared {
    clock: Clock,
    filters: RwLock<Filters>,
    store: Mutex<Store>,
    /// Workers that wait for the store.
    waiting: AtomicUsize,
    /// Wakes the keeper to search.
    search: Notify,
}

impl Shared {
    pub(super) fn new(clock: Clock, store: Store, metrics: Arc<LaneMetrics>) -> Self {
        Self {
            clock,
            filters: RwLock::new(Filters {
                table: FilterTable::default(),
                subscribed: HashMap::new(),
                metrics,
            }),
            store: Mutex::new(store),
            waiting: AtomicUsize::new(0),
            search: Notify::new(),
        }
    }

    /// The store, for a worker.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        store
    }

    /// The store, for the keeper: a lock is no queue, and whoever takes it over and over keeps it from the others.
    fn store_after_workers(&self) -> MutexGuard<'_, Store> {
        for _ in 0..STEPS_ASIDE {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
            std::thread::yield_now();
        }
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_keeper(&self) {
        self.search.notify_one();
    }

    fn matching(&self, topic: &TopicName, sums: &mut Sums, found: &mut Vec<Subscriber>) {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.table.matching(topic, sums, found);
    }

    fn subscribe(&self, subscriber: Subscriber, filter: &TopicFilter) {
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        filters.subscribe(subscriber, filter);
    }

    fn unsubscribe(&self, subscriber: Subscriber) {
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        filters.unsubscribe(subscriber);
    }
}

/// The filters of all workers.
struct Filters {
    table: FilterTable<Subscriber>,
    subscribed: HashMap<Subscriber, TopicFilter>,
    /// Its gauges of the filters are written under the lock of this.
    metrics: Arc<LaneMetrics>,
}

impl Filters {
    fn subscribe(&mut self, subscriber: Subscriber, filter: &TopicFilter) {
        if let std::collections::hash_map::Entry::Vacant(new) = self.subscribed.entry(subscriber) {
            self.table.insert(filter, subscriber);
            new.insert(filter.clone());
            self.show();
        }
    }

    fn unsubscribe(&mut self, subscriber: Subscriber) {
        if let Some(filter) = self.subscribed.remove(&subscriber) {
            self.table.remove(&filter, subscriber);
            self.show();
        }
    }

    fn show(&self) {
        self.metrics.subscriptions.set(self.subscribed.len() as u64);
        self.metrics.filter_bytes.set(self.table.bytes() as u64);
    }
}
