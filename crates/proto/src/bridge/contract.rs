//! What the core asks of a broker and what it is told: the one interface of the embedded broker and MQTT upstream.
//!
//! Each worker asks by [`BrokerRequest`]s and is told by [`BrokerEvent`]s, at once by the embedded broker and over bounded
//! queues otherwise, in order: a message that the broker handled after a subscription arrives after that subscription's
//! [`BrokerEvent::Subscribed`].
//! Each request that [`BrokerRequest::is_answered`] is answered by exactly one event with its ticket.

use std::sync::Arc;

use super::receipt::Receipt;
use crate::coap::contract::Preconditions;
use crate::types::{Message, TopicFilter, TopicName, message::Qos};

/// Most retained messages in one answer. Each is a notification, so that this bounds what one request makes the gateway send.
pub const MAX_RETAINED: usize = 1_024;

/// Ties an answer to its request; unique for one worker over the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A distinct filter of one worker; never used again after its [`BrokerRequest::Unsubscribe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub u64);

/// What a worker asks of the broker.
#[derive(Debug)]
pub enum BrokerRequest {
    /// Publish; answered by [`BrokerEvent::Published`].
    Publish {
        /// Comes back in the answer.
        ticket: Ticket,
        /// The message; an empty payload with `retain` clears the retained message (MQTT 5, 3.3.1.3).
        message: Arc<Message>,
    },
    /// Publish a retained message, or clear one, if its preconditions hold; answered like [`Self::Publish`]. They held a moment ago.
    /// The embedded broker looks again in the same step, MQTT has no way to.
    PublishIf {
        /// Comes back in the answer.
        ticket: Ticket,
        /// The message.
        message: Arc<Message>,
        /// What has to hold of the message that is retained.
        preconditions: Box<Preconditions>,
    },
    /// Subscribe for one more observation. The first request with a `filter_id` makes the subscription, later ones with the
    /// same id only ask for its retained messages. Answered by [`BrokerEvent::Subscribed`].
    Subscribe {
        /// Comes back in the answer.
        ticket: Ticket,
        /// The worker's id for this filter.
        filter_id: FilterId,
        /// The filter, mountpoint included.
        filter: TopicFilter,
        /// The highest QoS the observation wants.
        qos: Qos,
        /// Whether the answer should bring the retained messages that match.
        retained: bool,
    },
    /// The last observation of the filter is gone. Not answered.
    Unsubscribe {
        /// The id that [`BrokerRequest::Subscribe`] gave.
        filter_id: FilterId,
    },
    /// An observation of an earlier process goes on: its filter is subscribed again without retained messages, now or once the broker
    /// can be reached, on the session that the broker kept where it did. Not answered; [`BrokerEvent::SubscriptionLost`] when the broker
    /// does not take it.
    Restore {
        /// The worker's id for this filter.
        filter_id: FilterId,
        /// The filter, mountpoint included.
        filter: TopicFilter,
        /// The highest QoS the observation wants.
        qos: Qos,
    },
    /// An observation of an earlier process does not go on, so that its subscription is nobody's unless others have the filter. Not
    /// answered.
    Abandon {
        /// The filter, mountpoint included.
        filter: TopicFilter,
    },
    /// The worker has said all that it had of an earlier process. Not answered.
    Restored,
    /// Read the retained message of a topic without subscribing; answered by [`BrokerEvent::Retained`].
    ReadRetained {
        /// Comes back in the answer.
        ticket: Ticket,
        /// The topic, mountpoint included.
        topic: TopicName,
    },
}

impl BrokerRequest {
    /// Whether an event with its ticket answers it. One that is not answered is always taken.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        match self {
            Self::Publish { .. }
            | Self::PublishIf { .. }
            | Self::Subscribe { .. }
            | Self::ReadRetained { .. } => true,
            Self::Unsubscribe { .. } | Self::Restore { .. } | Self::Abandon { .. } | Self::Restored => false,
        }
    }
}

/// Why the broker did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerError {
    /// The broker says the gateway may not (MQTT 5 reason 0x87): 4.01.
    NotAuthorized,
    /// Quota exceeded (0x97), or a store is full: 5.03.
    Quota,
    /// The broker, or the way to it, cannot take it now: 5.03 with Max-Age.
    Unavailable,
    /// The broker refuses this kind of subscription or topic (0x8F, 0x90, 0xA2): 4.00.
    Refused,
    /// The message is larger than the broker takes (0x95): 4.13.
    TooLarge,
    /// What is retained changed so that preconditions do not hold: 4.12.
    Changed,
}

impl BrokerError {
    /// Its word in traces.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotAuthorized => "not_authorized",
            Self::Quota => "quota",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::Changed => "changed",
        }
    }
}

/// What the broker tells a worker.
#[derive(Debug)]
pub enum BrokerEvent {
    /// A publish is done: acknowledged by the broker, on disk, or refused.
    Published {
        /// From the request.
        ticket: Ticket,
        /// Success only when nothing can lose it any more as its QoS demands.
        result: Result<(), BrokerError>,
    },
    /// A subscription stands, or was refused.
    Subscribed {
        /// From the request.
        ticket: Ticket,
        /// The retained messages that match, if asked for: at most [`MAX_RETAINED`], in topic order.
        result: Result<Vec<Arc<Message>>, BrokerError>,
    },
    /// A retained message was read; `None` when there is none.
    Retained {
        /// From the request.
        ticket: Ticket,
        /// The message, if there is one.
        result: Result<Option<Arc<Message>>, BrokerError>,
    },
    /// A message was published that filters of this worker match.
    Message {
        /// Which of the worker's filters match; each once.
        filters: Box<[FilterId]>,
        /// The message; its `retain` tells what the publisher asked, delivery is live.
        message: Arc<Message>,
        /// Where the broker keeps the message until it is kept here.
        receipt: Option<Receipt>,
    },
    /// The broker ended this subscription of its own accord (for example refused on re-subscription).
    SubscriptionLost {
        /// The worker's id for the filter.
        filter_id: FilterId,
        /// Why.
        error: BrokerError,
    },
}
