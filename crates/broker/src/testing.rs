//! What the tests of this folder share.

use bytes::Bytes;

use super::clock::Clock;
use portcullis_proto::types::TopicName;
use portcullis_proto::types::message::{Message, Qos};

#[expect(clippy::disallowed_methods, reason = "tests run on the real clock")]
pub(super) fn clock() -> Clock {
    Clock {
        now: std::time::Instant::now,
        wall: std::time::SystemTime::now,
    }
}

pub(super) fn message(topic: &str, payload: &str) -> Message {
    Message::new(
        TopicName::new(topic).unwrap(),
        Bytes::copy_from_slice(payload.as_bytes()),
        Qos::AtLeastOnce,
    )
}
