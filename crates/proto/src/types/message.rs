//! A published message on its way between CoAP and the broker.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::{ClientId, TopicName};

/// MQTT quality of service (MQTT 5, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// At most once.
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl Qos {
    /// The QoS of the number 0, 1 or 2.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// 0, 1 or 2.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// Who published a message, as far as no-local needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The publishing peer, unique in the process over its lifetime.
    pub peer: u64,
    /// The client id it named or proved, if any.
    pub client: Option<ClientId>,
}

/// What a request and its answer have over MQTT 5 (4.10).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Correspondence {
    /// Where the answer goes; of a request.
    pub response_topic: Option<TopicName>,
    /// What the answer brings back.
    pub correlation_data: Option<Bytes>,
}

/// A published message. Shared by reference between workers and never changed.
#[derive(Debug, Clone)]
pub struct Message {
    /// Where it was published, mountpoint included.
    pub topic: TopicName,
    /// The payload, byte for byte as published.
    pub payload: Bytes,
    /// The QoS it was published with.
    pub qos: Qos,
    /// Whether the publisher asked to retain it.
    pub retain: bool,
    /// MQTT 5 content type; CoAP Content-Formats are carried as their media type.
    pub content_type: Option<Arc<str>>,
    /// When it is worthless; `None` never.
    pub expires_at: Option<Instant>,
    /// Who published it; `None` when it came from outside this process.
    pub origin: Option<Origin>,
    /// What belongs to a request or an answer; of what the broker has only that of requests to the gateway itself.
    pub correspondence: Option<Arc<Correspondence>>,
}

impl Message {
    /// A message with nothing beside: not retained, always of worth, and of nobody in this process.
    #[must_use]
    pub const fn new(topic: TopicName, payload: Bytes, qos: Qos) -> Self {
        Self {
            topic,
            payload,
            qos,
            retain: false,
            content_type: None,
            expires_at: None,
            origin: None,
            correspondence: None,
        }
    }

    /// Whether its time is over at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
