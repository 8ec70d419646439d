//! How a broker learns that a message of it is kept, so that it need not keep it any longer.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The messages of one connection to a broker that are kept by now.
pub struct Receipts {
    taken: Mutex<Vec<u64>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Receipts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipts").finish_non_exhaustive()
    }
}

impl Receipts {
    /// None yet; `wake` is called on the thread of whoever took a message.
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            taken: Mutex::default(),
            wake: Box::new(wake),
        }
    }

    /// The receipt of the message with this number.
    #[must_use]
    pub fn of(self: &Arc<Self>, number: u64) -> Receipt {
        Receipt {
            message: Arc::new(Message {
                number,
                receipts: Arc::clone(self),
                is_lost: AtomicBool::new(false),
            }),
            is_taken: false,
        }
    }

    /// The numbers of those that were taken since the last call, in no order.
    #[must_use]
    pub fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct Message {
    number: u64,
    receipts: Arc<Receipts>,
    is_lost: AtomicBool,
}

impl Drop for Message {
    fn drop(&mut self) {
        if !*self.is_lost.get_mut() {
            let taken = &self.receipts.taken;
            taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.number);
            (self.receipts.wake)();
        }
    }
}

/// What goes along with a message to each worker that it is for. The broker keeps the message until all have [`Receipt::taken`] it; one
/// that is dropped instead, because the process ends, has it sent again.
#[derive(Debug)]
pub struct Receipt {
    message: Arc<Message>,
    is_taken: bool,
}

impl Clone for Receipt {
    fn clone(&self) -> Self {
        Self {
            message: Arc::clone(&self.message),
            is_taken: false,
        }
    }
}

impl Receipt {
    /// The message is kept for all whom it is for here, or there is nobody, or a limit dropped it.
    pub fn taken(mut self) {
        self.is_taken = true;
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.is_taken {
            self.message.is_lost.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn a_message_is_kept_once_all_have_taken_it_and_never_when_one_did_not() {
        let woken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&woken);
        let receipts = Arc::new(Receipts::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let (first, second) = (receipts.of(1), receipts.of(2));
        let others = [first.clone(), second.clone()];
        first.taken();
        second.taken();
        assert!(receipts.take().is_empty());
        let [first, second] = others;
        drop(second);
        first.taken();
        assert_eq!((receipts.take(), woken.load(Ordering::Relaxed)), (vec![1], 1));
    }
}
