//! Notifications for clients that are away: kept, within bounds, until the client's next session takes its connection over.

use std::collections::VecDeque;
use std::time::Instant;

use crate::coap::contract::{Notification, ObservationId};
use crate::types::hash::IdMap;

/// What a notification weighs beside its payload, in bytes.
const OVERHEAD: usize = 192;

fn weight(notification: &Notification) -> usize {
    OVERHEAD + notification.payload.len()
}

/// Notifications by observation.
#[derive(Debug, Default)]
pub struct Backlog {
    waiting: IdMap<ObservationId, VecDeque<Notification>>,
    bytes: usize,
}

impl Backlog {
    /// What waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds one in its place by Observe number: what comes back from where it was not delivered may be older than what waits.
    /// `per_observation` notifications and `max_bytes` in all are kept. Returns how many older ones of this
    /// observation, or this very one, went for it.
    pub fn push(
        &mut self,
        id: ObservationId,
        notification: Notification,
        per_observation: usize,
        max_bytes: usize,
    ) -> usize {
        let queue = self.waiting.entry(id).or_default();
        let mut dropped = 0;
        self.bytes += weight(&notification);
        let later = |waiting: &&Notification| is_later(waiting.observe, notification.observe);
        let place = queue.len() - queue.iter().rev().take_while(later).count();
        queue.insert(place, notification);
        while queue.len() > per_observation || (self.bytes > max_bytes && !queue.is_empty()) {
            if let Some(oldest) = queue.pop_front() {
                self.bytes -= weight(&oldest);
                dropped += 1;
            }
        }
        if queue.is_empty() {
            self.waiting.remove(&id);
        }
        dropped
    }

    /// Drops what waits for an observation.
    pub fn forget(&mut self, id: ObservationId) {
        if let Some(queue) = self.waiting.remove(&id) {
            self.bytes -= queue.iter().map(weight).sum::<usize>();
        }
    }

    /// Takes what waits for an observation and is not expired, oldest first.
    pub fn take(&mut self, now: Instant, id: ObservationId) -> Vec<Notification> {
        let queue = self.waiting.remove(&id).unwrap_or_default();
        self.bytes -= queue.iter().map(weight).sum::<usize>();
        queue
            .into_iter()
            .filter(|notification| notification.expires_at.is_none_or(|at| at > now))
            .collect()
    }
}

/// Whether one 24-bit Observe number comes after another (RFC 7641, 3.4).
const fn is_later(number: u32, than: u32) -> bool {
    let ahead = number.wrapping_sub(than) & 0x00FF_FFFF;
    ahead != 0 && ahead < 1 << 23
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock_for_tests as clock;
    use crate::coap::contract::{Code, ResourceKey, Token};
    use bytes::Bytes;
    use std::sync::Arc;

    fn notification(observe: u32, expires_at: Option<Instant>) -> Notification {
        Notification {
            token: Token::new(b"t").unwrap(),
            resource: ResourceKey(Arc::from(&b""[..])),
            block_szx: None,
            confirmable: false,
            observe,
            code: Code::CONTENT,
            payload: Bytes::from_static(b"0123456789"),
            content_format: None,
            max_age: None,
            expires_at,
            kept: None,
        }
    }

    #[test]
    fn the_newest_stay_and_bytes_are_given_back() {
        let mut backlog = Backlog::default();
        let id = ObservationId(1);
        let dropped: usize = (0..5)
            .map(|n| backlog.push(id, notification(n, None), 3, 10_000))
            .sum();
        assert_eq!(dropped, 2);
        let kept: Vec<u32> = backlog
            .take(clock(), id)
            .iter()
            .map(|notification| notification.observe)
            .collect();
        assert_eq!(kept, [2, 3, 4]);
        assert_eq!(backlog.bytes, 0);
        assert_eq!(backlog.push(id, notification(9, None), 3, 5), 1);
        assert_eq!((backlog.bytes, backlog.waiting.len()), (0, 0));
    }

    #[test]
    fn what_comes_back_late_stands_where_it_belongs() {
        let mut backlog = Backlog::default();
        let id = ObservationId(1);
        for n in [0x00FF_FFFF, 1, 4, 0x00FF_FFFE, 0, 3, 2] {
            assert_eq!(backlog.push(id, notification(n, None), 9, 10_000), 0);
        }
        let kept = backlog.take(clock(), id);
        let kept: Vec<u32> = kept.iter().map(|notification| notification.observe).collect();
        assert_eq!(kept, [0x00FF_FFFE, 0x00FF_FFFF, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_expired_meanwhile_is_not_delivered() {
        let mut backlog = Backlog::default();
        backlog.push(ObservationId(1), notification(1, Some(clock())), 3, 10_000);
        assert!(backlog.take(clock(), ObservationId(1)).is_empty());
    }
}
