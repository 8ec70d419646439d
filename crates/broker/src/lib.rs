//! The broker behind the gateway: embedded, or any MQTT broker upstream. Both speak [`portcullis_proto::bridge::contract`].
//!
//! ```text
//! worker 0 ──┐ BrokerRequest               ┌── embedded: filters, retained store (redb)
//! worker 1 ──┼──────────────> lane(s) ─────┤
//! worker n ──┘ <──────────── BrokerEvent   └── mqtt: subscriptions, in-flight window, spool, one connection each
//! ```
//! A lane is a task that owns its part whole. The embedded broker is one lane; an upstream has one for each connection,
//! and a topic or filter always goes to the same.

mod clock;
mod embedded;
#[cfg(test)]
mod embedded_tests;
mod layout;
mod link;
mod metrics;
mod mqtt;
mod origin;
mod record;
mod retained;
mod settings;
mod spool;
mod start;
mod status;
#[cfg(test)]
mod testing;
mod topics;

pub use clock::Clock;
#[cfg(feature = "testing")]
pub use link::Played;
pub use link::{Events, Requests, WorkerLink};
pub use metrics::{BrokerMetrics, BrokerSnapshot, ConnectResult, DroppedReason, RefusedReason};
#[cfg(any(test, feature = "testing"))]
pub use mqtt::feed as feed_mqtt;
pub use settings::{BrokerAddress, BrokerKind, BrokerSettings, MqttSettings, Protocol, RetainedLimits};
pub use start::{BrokerRuntime, BrokerStartError, StartFault, start};
pub use status::Status;
