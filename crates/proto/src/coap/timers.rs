//! All deadlines of one endpoint in one heap. A cancelled timer leaves at once, so the heap is never longer than what it serves.

use std::time::Instant;

use slab::Slab;

/// A timer that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerKey {
    node: u32,
    serial: u32,
}

#[derive(Debug)]
struct Node<T> {
    what: T,
    position: u32,
    serial: u32,
}

/// A binary heap whose entries know where they are.
#[derive(Debug)]
pub(crate) struct TimerHeap<T> {
    heap: Vec<(Instant, u32)>,
    nodes: Slab<Node<T>>,
    serial: u32,
}

impl<T> TimerHeap<T> {
    pub(crate) fn new() -> Self {
        Self {
            heap: Vec::new(),
            nodes: Slab::new(),
            serial: 0,
        }
    }

    pub(crate) fn set(&mut self, at: Instant, what: T) -> TimerKey {
        let position = self.heap.len();
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let node = self.nodes.insert(Node {
            what,
            position: position as u32,
            serial,
        }) as u32;
        self.heap.push((at, node));
        self.rise(position);
        TimerKey { node, serial }
    }

    /// Takes a timer out. One that fired already is no longer there, and its key is nobody else's.
    pub(crate) fn cancel(&mut self, key: TimerKey) {
        let at = key.node as usize;
        if let Some(node) = self.nodes.get(at).filter(|node| node.serial == key.serial) {
            self.take(node.position as usize);
            self.nodes.try_remove(at);
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// The earliest timer that is due; it is then no longer set.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<T> {
        let (at, key) = *self.heap.first()?;
        if at > now {
            return None;
        }
        self.take(0);
        self.nodes.try_remove(key as usize).map(|node| node.what)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    fn take(&mut self, position: usize) {
        if position >= self.heap.len() {
            return;
        }
        self.heap.swap_remove(position);
        self.note(position);
        self.rise(position);
        self.sink(position);
    }

    fn note(&mut self, position: usize) {
        if let Some((_, key)) = self.heap.get(position)
            && let Some(node) = self.nodes.get_mut(*key as usize)
        {
            node.position = position as u32;
        }
    }

    fn earlier(&self, a: usize, b: usize) -> bool {
        match (self.heap.get(a), self.heap.get(b)) {
            (Some((a, _)), Some((b, _))) => a < b,
            (a, _) => a.is_some(),
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.note(a);
        self.note(b);
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if at >= self.heap.len() || !self.earlier(at, parent) {
                return;
            }
            self.swap(at, parent);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child = if self.earlier(right, left) { right } else { left };
            if child >= self.heap.len() || !self.earlier(child, at) {
                return;
            }
            self.swap(at, child);
            at = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn the_key_of_a_timer_that_fired_cancels_no_other() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let mut timers = TimerHeap::new();
        let old = timers.set(now, 1);
        assert_eq!(timers.pop_due(now), Some(1));
        timers.set(now, 2);
        timers.cancel(old);
        assert_eq!(timers.pop_due(now), Some(2));
    }

    #[test]
    fn timers_fire_in_order_whatever_was_cancelled() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(7);
        let mut timers = TimerHeap::new();
        let mut set = Vec::new();
        for n in 0..2_000_u64 {
            let at = start + Duration::from_millis(rng.random_range(0..500));
            set.push((at, n, timers.set(at, n)));
            if rng.random_bool(0.4) {
                let (_, _, key) = set.swap_remove(rng.random_range(0..set.len()));
                timers.cancel(key);
            }
        }
        assert_eq!(timers.len(), set.len());
        let mut fired = Vec::new();
        for ms in 0..=500 {
            let now = start + Duration::from_millis(ms);
            while let Some(n) = timers.pop_due(now) {
                let at = set.iter().find(|entry| entry.1 == n).unwrap().0;
                assert!(at <= now && at + Duration::from_millis(1) > now);
                fired.push(n);
            }
            assert!(timers.next().is_none_or(|at| at > now));
        }
        fired.sort_unstable();
        let mut expected: Vec<u64> = set.iter().map(|entry| entry.1).collect();
        expected.sort_unstable();
        assert_eq!(fired, expected);
        assert_eq!(timers.len(), 0);
    }
}
