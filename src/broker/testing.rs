//! What the tests of this folder share.

use bytes::Bytes;

use super::clock::Clock;
use crate::types::TopicName;
use crate::types::message::{Message, Qos};

pub(super) fn clock() -> Clock {
    Clock {
        now: || tokio::time::Instant::now().into_std(),
        wall: || std::fs::metadata("/proc/self").unwrap().modified().unwrap(),
    }
}

pub(super) fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: Qos::AtLeastOnce,
        retain: false,
        content_type: None,
        expires_at: None,
        origin: None,
    }
}
