//! Any MQTT broker upstream, through rumqttc.
//!
//! ```text
//! requests ──> lane ── pipeline ──> client ─┐
//!               │ │      └─ spool           ├─ one connection (rumqttc event loop in a task of its own)
//! events <──────┘ └── subscriptions <───────┘
//! ```
//! rumqttc moves packets. What must not be lost (publishes in flight, the spool, subscriptions) is ours: a connection that
//! ends is thrown away whole, and the next one is told everything again.

mod backoff;
mod duplicates;
mod lane;
mod options;
mod packet_ids;
mod pipeline;
mod spooling;
mod subscriptions;
mod suspicion;
mod v4;
mod v5;
mod wire;

pub(super) use lane::{Lane, LaneParts};
pub(super) use options::check_files;

use rumqttc::Outgoing;
use wire::Happening;

/// Largest packet in bytes, either way.
const MAX_PACKET: usize = 64 << 20;

/// What an outgoing packet means to the lane.
fn sent(outgoing: &Outgoing) -> Option<Happening> {
    match outgoing {
        Outgoing::Publish(pkid) => Some(Happening::Sent(*pkid)),
        Outgoing::Subscribe(pkid) => Some(Happening::Subscribing(*pkid)),
        Outgoing::Unsubscribe(pkid) => Some(Happening::Unsubscribing(*pkid)),
        _ => None,
    }
}
