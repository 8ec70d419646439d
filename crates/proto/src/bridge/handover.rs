//! Where the messages of an observation go, and how none is missed and none comes twice while it moves between workers.
//!
//! The worker that had the observation keeps what comes until the other one's subscription stands and says so; then it asks
//! the broker once more, and what came until the answer is all that the other one may have missed. Both have seen some of
//! the messages: they are the same in memory, which tells them from equal ones.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::types::Message;

/// Where the messages of an observation go.
#[derive(Debug)]
pub enum Stage {
    /// The broker has not said yet that the subscription stands: nothing comes.
    Asked,
    /// To the client.
    Live(Repeats),
    /// To the worker that its connection moved to; here some may still come a second time.
    Leaving(Kept, Repeats),
    /// They wait for what came at the worker that it left.
    Arriving(Kept),
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is the client's.
    Client,
    /// It waits.
    Waits,
    /// It waits, and an older one had to go for it.
    Displaces,
    /// It is not for this observation, or not for a second time.
    Nobody,
}

impl Stage {
    /// Takes a message of the broker; at most `at_most` wait.
    pub fn take(&mut self, message: &Arc<Message>, at_most: usize) -> Turn {
        let kept = match self {
            Self::Asked => return Turn::Nobody,
            Self::Live(repeats) => {
                return if repeats.contains(message) {
                    Turn::Nobody
                } else {
                    Turn::Client
                };
            }
            Self::Leaving(kept, repeats) => {
                if repeats.contains(message) {
                    return Turn::Nobody;
                }
                kept
            }
            Self::Arriving(kept) => kept,
        };
        if kept.push(message, at_most) {
            Turn::Displaces
        } else {
            Turn::Waits
        }
    }

    /// To the client, from now on.
    #[must_use]
    pub fn live() -> Self {
        Self::Live(Repeats::default())
    }

    /// To the worker that its connection moves to, from now on.
    pub fn leave(&mut self) {
        let repeats = match self {
            Self::Live(repeats) | Self::Leaving(_, repeats) => std::mem::take(repeats),
            Self::Asked | Self::Arriving(_) => Repeats::default(),
        };
        *self = Self::Leaving(Kept::default(), repeats);
    }
}

/// Messages that wait, oldest first.
#[derive(Debug, Default)]
pub struct Kept(VecDeque<Arc<Message>>);

impl Kept {
    /// Adds one; the oldest goes when there are more than `at_most`. Returns whether one went.
    fn push(&mut self, message: &Arc<Message>, at_most: usize) -> bool {
        self.0.push_back(Arc::clone(message));
        let full = self.0.len() > at_most;
        if full {
            self.0.pop_front();
        }
        full
    }

    /// The messages.
    #[must_use]
    pub fn into_messages(self) -> Vec<Arc<Message>> {
        self.0.into()
    }

    /// Puts these messages behind those that came at the worker that was left. Returns all in order, each once, and which
    /// of them may come here still.
    #[must_use]
    pub fn behind(self, mut left: Vec<Arc<Message>>) -> (Vec<Arc<Message>>, Repeats) {
        let new: Vec<_> = self
            .0
            .into_iter()
            .filter(|message| !left.iter().any(|known| Arc::ptr_eq(known, message)))
            .collect();
        // What was published later has come here, so everything that was published before it has.
        let repeats = if new.is_empty() { left.clone() } else { Vec::new() };
        left.extend(new);
        (left, Repeats(repeats))
    }
}

/// Messages that were passed on already, and may come once more before any new one does.
#[derive(Debug, Default)]
pub struct Repeats(Vec<Arc<Message>>);

impl Repeats {
    /// Whether the message is one of them. The first that is not ends them.
    fn contains(&mut self, message: &Arc<Message>) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let known = self.0.iter().any(|known| Arc::ptr_eq(known, message));
        if !known {
            *self = Self::default();
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicName;
    use crate::types::message::Qos;

    fn messages(count: usize) -> Vec<Arc<Message>> {
        let message = || Message {
            topic: TopicName::new("t").unwrap(),
            payload: "alike".into(),
            qos: Qos::AtMostOnce,
            retain: false,
            content_type: None,
            expires_at: None,
            origin: None,
        };
        (0..count).map(|_| Arc::new(message())).collect()
    }

    fn places(all: &[Arc<Message>], some: &[Arc<Message>]) -> Vec<usize> {
        let place = |message| all.iter().position(|known| Arc::ptr_eq(known, message));
        some.iter().map(|message| place(message).unwrap()).collect()
    }

    /// Six equal messages; the old worker saw the first `until`, the new one those after `since`, of which it has `had`.
    #[test]
    fn whoever_is_ahead_each_message_comes_once_and_in_order() {
        let all = messages(6);
        for until in 0..=6 {
            for since in 0..=until {
                for had in since..=6 {
                    let mut kept = Kept::default();
                    for message in &all[since..had] {
                        assert!(!kept.push(message, 6));
                    }
                    let (mut passed, mut repeats) = kept.behind(all[..until].to_vec());
                    for message in &all[had..] {
                        if !repeats.contains(message) {
                            passed.push(Arc::clone(message));
                        }
                    }
                    assert_eq!(places(&all, &passed), [0, 1, 2, 3, 4, 5], "{until} {since} {had}");
                }
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes() {
        let all = messages(3);
        let mut kept = Kept::default();
        let dropped: Vec<bool> = all.iter().map(|message| kept.push(message, 2)).collect();
        assert_eq!(dropped, [false, false, true]);
        assert_eq!(places(&all, &kept.into_messages()), [1, 2]);
    }
}
