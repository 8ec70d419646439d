//! A record that somebody holds: it goes with whoever holds it last, and stays where the process ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::layout::record_bytes;
use super::{HOT_WORDS, Kind, Record, Store};

/// A record that is freed once nobody holds it any more.
#[derive(Debug)]
pub struct Held {
    store: Arc<Store>,
    /// None once it was given up: its place is another's then. Whoever holds it may be on another thread than who gives it up.
    record: Mutex<Option<Record>>,
    bytes: usize,
    /// What all that are held like it take.
    all: Arc<AtomicUsize>,
}

impl Held {
    /// Writes a record down, and counts its bytes in `all`; `None` when there is no room for it.
    #[must_use]
    pub fn put(
        store: &Arc<Store>,
        kind: Kind,
        hot: &[u64; HOT_WORDS],
        body: &[u8],
        all: &Arc<AtomicUsize>,
    ) -> Option<Self> {
        let record = store.put(kind, hot, body)?;
        Some(Self::over(store, record, body.len(), all))
    }

    /// Holds a record of an earlier process, whose body has so many bytes.
    #[must_use]
    pub fn over(store: &Arc<Store>, record: Record, len: usize, all: &Arc<AtomicUsize>) -> Self {
        let bytes = record_bytes(len);
        all.fetch_add(bytes, Ordering::Relaxed);
        Self {
            store: Arc::clone(store),
            record: Mutex::new(Some(record)),
            bytes,
            all: Arc::clone(all),
        }
    }

    /// One of the record's words; 0 once it was given up.
    #[must_use]
    pub fn get(&self, at: usize) -> u64 {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.map_or(0, |record| record.get(at))
    }

    /// Stores one of the record's words, unless it was given up.
    pub fn set(&self, at: usize, value: u64) {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = *record {
            record.set(at, value);
        }
    }

    /// Bytes that it takes in the store.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frees the record although somebody holds it; false when that was done before.
    pub fn give_up(&self) -> bool {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        self.free(record.take())
    }

    fn free(&self, record: Option<Record>) -> bool {
        if let Some(record) = record {
            self.store.free(record);
            self.all.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        record.is_some()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let record = self
            .record
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // What a panic unwinds is not over: the next process goes on with it.
        if !std::thread::panicking() {
            self.free(record);
        }
    }
}
