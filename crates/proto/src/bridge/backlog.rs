//! Notifications for clients that are away or asleep: kept, within bounds, until they are heard of again.

use std::collections::VecDeque;
use std::time::Instant;

use crate::coap::contract::{Notification, ObservationId};
use crate::types::hash::IdMap;

/// What a notification weighs beside its payload, in bytes.
const OVERHEAD: usize = 192;

fn weight(notification: &Notification) -> usize {
    OVERHEAD + notification.payload.len()
}

/// What may wait for one client.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Notifications.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Whether of each topic of an observation only the newest waits.
    pub newest: bool,
}

/// What went because something came.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// For want of room.
    pub dropped: usize,
    /// For a newer one of the same topic.
    pub replaced: usize,
    /// Because their time was over.
    pub expired: usize,
}

/// Notifications by observation.
#[derive(Debug, Default)]
pub struct Backlog {
    waiting: IdMap<ObservationId, VecDeque<Notification>>,
    messages: usize,
    bytes: usize,
}

impl Backlog {
    /// What waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many wait.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Adds one in its place by Observe number: what comes back from where it was not delivered may be older than what waits.
    /// `of_client` are the observations of its client, for which there is `room`; `max_bytes` are kept of all clients. Where it is too
    /// much, the oldest of that observation goes that has most waiting, which may be this very one.
    pub fn push(
        &mut self,
        now: Instant,
        (id, notification): (ObservationId, Notification),
        of_client: &[ObservationId],
        room: Room,
        max_bytes: usize,
    ) -> Gone {
        let mut gone = Gone::default();
        let queue = self.waiting.entry(id).or_default();
        let same = |waiting: &Notification| {
            room.newest && notification.topic.is_some() && waiting.topic == notification.topic
        };
        let mut same_later = queue.iter().filter(|waiting| same(waiting));
        if same_later.any(|waiting| is_later(waiting.observe, notification.observe)) {
            gone.replaced += 1;
            return gone;
        }
        if room.newest || queue.front().is_some_and(|oldest| is_over(now, oldest)) {
            queue.retain(|waiting| {
                if is_over(now, waiting) {
                    gone.expired += 1;
                } else if same(waiting) {
                    gone.replaced += 1;
                } else {
                    return true;
                }
                self.bytes -= weight(waiting);
                self.messages -= 1;
                false
            });
        }
        self.bytes += weight(&notification);
        self.messages += 1;
        let later = |waiting: &&Notification| is_later(waiting.observe, notification.observe);
        let place = queue.len() - queue.iter().rev().take_while(later).count();
        queue.insert(place, notification);
        loop {
            let sizes = of_client.iter().filter_map(|id| {
                let queue = self.waiting.get(id)?;
                let bytes: usize = queue.iter().map(weight).sum();
                Some((*id, queue.len(), bytes))
            });
            let (mut messages, mut bytes, mut most) = (0, 0, None);
            for (id, its, its_bytes) in sizes {
                (messages, bytes) = (messages + its, bytes + its_bytes);
                if most.is_none_or(|(_, more)| its_bytes > more) {
                    most = Some((id, its_bytes));
                }
            }
            let fits = messages <= room.messages && bytes <= room.bytes && self.bytes <= max_bytes;
            let Some((id, _)) = most.filter(|_| !fits) else {
                break;
            };
            self.drop_oldest(id);
            gone.dropped += 1;
        }
        gone
    }

    fn drop_oldest(&mut self, id: ObservationId) {
        let Some(queue) = self.waiting.get_mut(&id) else {
            return;
        };
        if let Some(oldest) = queue.pop_front() {
            self.bytes -= weight(&oldest);
            self.messages -= 1;
        }
        if queue.is_empty() {
            self.waiting.remove(&id);
        }
    }

    /// Drops what waits for an observation; how many.
    pub fn forget(&mut self, id: ObservationId) -> usize {
        self.remove(id).len()
    }

    /// Takes what waits for an observation and is not expired, oldest first, and how many were.
    pub fn take(&mut self, now: Instant, id: ObservationId) -> (Vec<Notification>, usize) {
        let queue = self.remove(id);
        let all = queue.len();
        let left: Vec<_> = queue
            .into_iter()
            .filter(|waiting| !is_over(now, waiting))
            .collect();
        let expired = all - left.len();
        (left, expired)
    }

    fn remove(&mut self, id: ObservationId) -> VecDeque<Notification> {
        let queue = self.waiting.remove(&id).unwrap_or_default();
        self.bytes -= queue.iter().map(weight).sum::<usize>();
        self.messages -= queue.len();
        queue
    }
}

fn is_over(now: Instant, notification: &Notification) -> bool {
    notification.expires_at.is_some_and(|at| at <= now)
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
    use crate::types::TopicName;
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
            returns: true,
            topic: None,
        }
    }

    const ROOM: Room = Room {
        messages: 9,
        bytes: 10_000,
        newest: false,
    };

    fn push(backlog: &mut Backlog, id: u64, observe: u32, room: Room) -> Gone {
        let what = (ObservationId(id), notification(observe, None));
        backlog.push(clock(), what, &[ObservationId(1), ObservationId(2)], room, 10_000)
    }

    fn taken(backlog: &mut Backlog, id: u64) -> Vec<u32> {
        let (left, _) = backlog.take(clock(), ObservationId(id));
        left.iter().map(|notification| notification.observe).collect()
    }

    #[test]
    fn the_newest_stay_and_bytes_are_given_back() {
        let mut backlog = Backlog::default();
        let room = Room { messages: 3, ..ROOM };
        let dropped: usize = (0..5).map(|n| push(&mut backlog, 1, n, room).dropped).sum();
        assert_eq!(dropped, 2);
        assert_eq!(taken(&mut backlog, 1), [2, 3, 4]);
        assert_eq!((backlog.bytes, backlog.messages), (0, 0));
        let what = (ObservationId(1), notification(9, None));
        let gone = backlog.push(clock(), what, &[ObservationId(1)], ROOM, 5);
        assert_eq!((gone.dropped, backlog.bytes, backlog.waiting.len()), (1, 0, 0));
    }

    #[test]
    fn a_topic_that_says_much_pays_for_the_client_and_not_one_that_says_little() {
        let mut backlog = Backlog::default();
        push(&mut backlog, 1, 7, ROOM);
        for n in 0..100 {
            push(&mut backlog, 2, n, ROOM);
        }
        assert_eq!(taken(&mut backlog, 1), [7]);
        assert_eq!(taken(&mut backlog, 2), (92..100).collect::<Vec<_>>());
        let room = Room {
            bytes: 2 * (OVERHEAD + 10),
            ..ROOM
        };
        for n in 0..5 {
            push(&mut backlog, 1, n, room);
        }
        assert_eq!(taken(&mut backlog, 1), [3, 4]);
    }

    #[test]
    fn of_a_topic_the_newest_waits_where_that_is_wanted() {
        let mut backlog = Backlog::default();
        let room = Room { newest: true, ..ROOM };
        let mut push = |observe, topic: Option<&str>| {
            let mut what = notification(observe, None);
            what.topic = topic.map(|topic| TopicName::new(topic).unwrap());
            let all = [ObservationId(1)];
            backlog
                .push(clock(), (ObservationId(1), what), &all, room, 10_000)
                .replaced
        };
        let pushed = [
            (1, Some("a")),
            (2, Some("b")),
            (3, None),
            (4, Some("a")),
            (5, None),
        ];
        let replaced: usize = pushed.into_iter().map(|(n, topic)| push(n, topic)).sum();
        assert_eq!(replaced, 1);
        // It comes back from where it was not delivered, and a newer one waits.
        assert_eq!(push(1, Some("b")), 1);
        assert_eq!(taken(&mut backlog, 1), [2, 3, 4, 5]);
    }

    #[test]
    fn what_comes_back_late_stands_where_it_belongs() {
        let mut backlog = Backlog::default();
        for n in [0x00FF_FFFF, 1, 4, 0x00FF_FFFE, 0, 3, 2] {
            assert_eq!(push(&mut backlog, 1, n, ROOM), Gone::default());
        }
        assert_eq!(taken(&mut backlog, 1), [0x00FF_FFFE, 0x00FF_FFFF, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_expired_meanwhile_is_not_delivered() {
        let (mut backlog, id) = (Backlog::default(), ObservationId(1));
        let mut push = |observe, expires_at| {
            let what = (id, notification(observe, expires_at));
            backlog.push(clock(), what, &[id], ROOM, 10_000).expired
        };
        assert_eq!((push(1, Some(clock())), push(2, None)), (0, 1));
        push(3, Some(clock()));
        let (left, expired) = backlog.take(clock(), id);
        assert_eq!((left.len(), expired), (1, 1));
    }
}
