//! MQTT as the lane sees it, the same for both protocol versions.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::metrics::ConnectResult;
use crate::origin::OriginTag;
use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::types::message::{Message, Qos};

use super::{v4, v5};

/// Most publishes that wait for their acknowledgement.
pub(super) const MAX_IN_FLIGHT: u16 = 1_000;
/// Most publishes at QoS 2 to a broker that does not tell how many it takes: mosquitto takes 20 and reorders more.
pub(super) const MAX_AT_QOS2: u16 = 20;
/// Requests that the client takes before the event loop has sent them.
pub(super) const CLIENT_QUEUE: usize = MAX_IN_FLIGHT as usize + 256;

/// What the broker said of itself when it accepted the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    /// It still knows our subscriptions.
    pub(super) session_present: bool,
    /// Packet identifiers before they repeat: the publishes it takes without acknowledging one.
    pub(super) in_flight: u16,
    /// How many of these at QoS 2.
    pub(super) at_qos2: u16,
    /// The highest QoS it takes.
    pub(super) max_qos: Qos,
    /// Whether it keeps retained messages.
    pub(super) retain: bool,
    /// Whether it names the matching subscriptions with each message.
    pub(super) names_subscriptions: bool,
    /// The largest packet it takes, in bytes.
    pub(super) max_packet: usize,
}

/// A refused publish or subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the worker is told.
    pub(super) error: BrokerError,
    /// Whether the broker may take it later: its quota is exceeded, or it is not up to it now.
    pub(super) later: bool,
}

impl Refusal {
    pub(super) const fn now(error: BrokerError) -> Self {
        Self { error, later: false }
    }

    pub(super) const fn for_now(error: BrokerError) -> Self {
        Self { error, later: true }
    }
}

/// A message from the broker.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) qos: Qos,
    /// It is a retained message, sent because of a subscription.
    pub(super) retained: bool,
    pub(super) content_type: Option<Arc<str>>,
    /// Seconds until it is worthless.
    pub(super) expiry: Option<u32>,
    /// The subscriptions that it matches, if the broker names them.
    pub(super) subscriptions: Vec<usize>,
    pub(super) origin: Option<OriginTag>,
}

/// How a connection, or the attempt at one, ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// For an attempt: how it ended.
    pub(super) result: ConnectResult,
    pub(super) text: String,
    /// The broker closed it, rather than the network or we.
    pub(super) by_broker: bool,
}

/// What happens on a connection.
#[derive(Debug)]
pub(super) enum Happening {
    /// The broker accepted it.
    Connected(Greeting),
    /// The oldest publish that was handed over is on its way, with this packet identifier (0 at QoS 0).
    Sent(u16),
    /// The oldest subscribe is on its way.
    Subscribing(u16),
    /// The oldest unsubscribe is on its way.
    Unsubscribing(u16),
    /// A publish is done.
    Acknowledged(u16, Result<(), Refusal>),
    /// A subscribe is done.
    Subscribed(u16, Result<(), Refusal>),
    /// An unsubscribe is done.
    Unsubscribed(u16),
    /// A message.
    Message(Inbound),
    /// It is over; nothing follows.
    Ended(Ending),
}

/// A publish as it goes out.
#[derive(Debug)]
pub(super) struct Outbound<'a> {
    pub(super) message: &'a Message,
    pub(super) qos: Qos,
    /// Seconds until it is worthless.
    pub(super) expiry: Option<u32>,
    pub(super) origin: Option<OriginTag>,
}

/// A subscription as it goes out.
#[derive(Debug)]
pub(super) struct Subscription<'a> {
    pub(super) filter: &'a str,
    pub(super) qos: Qos,
    /// Its number, where the broker is to name it.
    pub(super) number: Option<u32>,
    /// Whether the retained messages are wanted; MQTT 3.1.1 always sends them.
    pub(super) retained: bool,
}

/// The sending half of a connection. It takes a request or has no room for it; it never waits.
#[derive(Debug)]
pub(super) enum Client {
    V5(rumqttc::v5::AsyncClient),
    V4(rumqttc::AsyncClient),
}

impl Client {
    /// Hands over a publish; false when there is no room.
    pub(super) fn publish(&self, publish: &Outbound<'_>) -> bool {
        match self {
            Self::V5(client) => v5::publish(client, publish),
            Self::V4(client) => v4::publish(client, publish),
        }
    }

    /// Hands over a subscribe; false when there is no room.
    pub(super) fn subscribe(&self, subscription: &Subscription<'_>) -> bool {
        match self {
            Self::V5(client) => v5::subscribe(client, subscription),
            Self::V4(client) => v4::subscribe(client, subscription),
        }
    }

    /// Hands over an unsubscribe; false when there is no room.
    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        match self {
            Self::V5(client) => client.try_unsubscribe(filter).is_ok(),
            Self::V4(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    /// Says goodbye; the will is not sent then.
    pub(super) fn disconnect(&self) {
        let sent = match self {
            Self::V5(client) => client.try_disconnect().is_ok(),
            Self::V4(client) => client.try_disconnect().is_ok(),
        };
        if !sent {
            tracing::debug!("no room for the goodbye to the broker");
        }
    }
}

/// One connection, from the attempt to its end: made anew each time, nothing of an old one is used again.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) happenings: mpsc::Receiver<Vec<Happening>>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    pub(super) fn new(
        client: Client,
        happenings: mpsc::Receiver<Vec<Happening>>,
        task: tokio::task::JoinHandle<()>,
    ) -> Self {
        Self {
            client,
            happenings,
            task,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}
