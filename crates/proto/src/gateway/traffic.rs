//! What a peer sent and got: plain numbers in its own record.

/// Longest topic that is remembered, in bytes; the rest of a longer one is left out.
const MAX_TOPIC: usize = 128;

/// What was exchanged with a peer since it came.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Datagrams, or plaintexts of records, that came.
    pub messages_received: u64,
    /// Their bytes, those of CoAP alone.
    pub bytes_received: u64,
    /// Messages that were sent, again or not.
    pub messages_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Publishes that it asked for.
    pub publishes_received: u64,
    /// Notifications for it.
    pub publishes_sent: u64,
    /// The topic that it published to last, as it named it; empty before.
    pub last_topic: String,
}

impl Traffic {
    pub(super) fn received(&mut self, bytes: usize) {
        self.messages_received += 1;
        self.bytes_received += bytes as u64;
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.messages_sent += 1;
        self.bytes_sent += bytes as u64;
    }

    /// Counts a publish. The room for the topic is made once.
    pub(super) fn published(&mut self, topic: &str) {
        self.publishes_received += 1;
        let fits = |at: &usize| topic.is_char_boundary(*at);
        let most = (0..=MAX_TOPIC.min(topic.len())).rev().find(fits).unwrap_or(0);
        self.last_topic.clear();
        if self.last_topic.capacity() == 0 {
            self.last_topic.reserve_exact(MAX_TOPIC);
        }
        self.last_topic.push_str(topic.get(..most).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_topic_takes_the_same_room_however_long_it_is() {
        let mut traffic = Traffic::default();
        for topic in ["a/b", &"ä/".repeat(500), "c"] {
            traffic.published(topic);
            assert_eq!(traffic.last_topic.capacity(), MAX_TOPIC);
            assert!(topic.starts_with(&traffic.last_topic) && traffic.last_topic.len() <= MAX_TOPIC);
        }
        assert_eq!(
            (traffic.publishes_received, traffic.last_topic.as_str()),
            (3, "c")
        );
    }
}
