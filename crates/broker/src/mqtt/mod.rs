//! Any MQTT broker upstream.
//!
//! ```text
//! requests ──> lane ── pipeline ──> session ── connection (TCP or TLS)
//!               │ │      └─ spool      │
//! events <──────┘ └── subscriptions <──┘
//! ```
//! The session moves packets. What must not be lost (publishes in flight, the spool, subscriptions) is outside of it: a
//! connection that ends is thrown away whole, and the next one is told everything again, but for what the broker may have
//! hung up on, which is tried on another connection first.

mod apart;
mod arrivals;
mod backoff;
mod codec;
mod connection;
mod duplicates;
mod exchanges;
mod faults;
mod judge;
mod lane;
mod options;
mod pipeline;
mod presence;
mod probe;
mod reasons;
mod requests;
mod session;
mod spooling;
mod subscriptions;
mod trial;
mod window;

pub use probe::probe;

pub(super) use lane::{Lane, LaneParts};
pub(super) use options::check_files;
#[cfg(any(test, feature = "testing"))]
pub use session::feed;
