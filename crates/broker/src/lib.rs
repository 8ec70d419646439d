//! The broker behind the gateway: embedded, or any MQTT broker upstream. Both speak [`portcullis_proto::bridge::contract`].
//!
//! ```text
//! worker ── call ────────────────────────> embedded: filters, retained messages; beside it the keeper, and their disk (redb)
//! worker ── batches of BrokerRequest ────> lane(s): subscriptions, in-flight window, spool, one connection each
//! worker <───── batches of BrokerEvent ─── either, and other workers
//! ```
//! The embedded broker runs on the workers' own threads. An upstream has a lane for each connection, a task that owns its
//! part whole, and a topic or filter always goes to the same.

mod aside;
mod clock;
mod embedded;
mod layout;
mod link;
mod metrics;
mod mqtt;
mod notes;
mod origin;
mod private;
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
pub use link::WorkerLink;
pub use metrics::{BrokerMetrics, BrokerSnapshot, ConnectResult, DroppedReason, RefusedReason};
#[cfg(any(test, feature = "testing"))]
pub use mqtt::feed as feed_mqtt;
pub use mqtt::probe;
pub use settings::{BrokerAddress, BrokerKind, BrokerSettings, MqttSettings, Protocol, RetainedLimits};
pub use start::{BrokerRuntime, BrokerStartError, StartFault, start};
pub use status::Status;
