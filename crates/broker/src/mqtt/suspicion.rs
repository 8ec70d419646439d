//! A message at which the broker hangs up would be sent again, and end the connection again, for ever.
//!
//! After three connections that the broker ended right after something was sent and before it acknowledged anything,
//! messages go out one at a time. One at which three more connections end is given up, and the rest goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_proto::types::message::Message;

const FRUITLESS: u32 = 3;
const STRIKES: u32 = 3;
const RIGHT_AFTER: Duration = Duration::from_secs(2);

/// How the last connections ended while a message was on its way.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    fruitless: u32,
    suspect: Option<(Arc<str>, usize)>,
    strikes: u32,
    last_send: Option<Instant>,
}

impl Suspicion {
    /// Whether no message may be sent while another is under way.
    pub(super) fn one_at_a_time(&self) -> bool {
        self.fruitless >= FRUITLESS
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.last_send = Some(now);
    }

    pub(super) fn acknowledged(&mut self) {
        self.strikes = 0;
        self.fruitless = 0;
    }

    /// The connection ended; `under_way` is the oldest message that was sent on it and not acknowledged.
    pub(super) fn lost(&mut self, now: Instant, by_broker: bool, under_way: Option<&Message>) {
        let sent = self.last_send.take();
        let just_sent = sent.is_some_and(|at| now.saturating_duration_since(at) < RIGHT_AFTER);
        let Some(message) = under_way.filter(|_| by_broker && just_sent) else {
            return;
        };
        if !self.one_at_a_time() {
            self.fruitless += 1;
            return;
        }
        let suspect = (Arc::from(message.topic.as_str()), message.payload.len());
        if self.suspect.as_ref() == Some(&suspect) {
            self.strikes += 1;
        } else {
            self.strikes = 1;
            self.suspect = Some(suspect);
        }
    }

    /// Whether this message is to be given up.
    pub(super) fn condemns(&self, message: &Message) -> bool {
        self.strikes >= STRIKES
            && self.suspect.as_ref().is_some_and(|(topic, length)| {
                **topic == *message.topic.as_str() && *length == message.payload.len()
            })
    }
}
