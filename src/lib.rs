//! Portcullis: a DTLS-first CoAP gateway for the network edge.
//!
//! ```text
//! net ──> dtls ──> coap ──> policy ──> bridge ──> broker        a datagram on its way in
//!  net <── dtls <── coap <────────────── bridge <── broker       a message on its way out
//! ```
//!
//! | folder | kind | what it knows |
//! |---|---|---|
//! | [`types`] | core | words all others share |
//! | [`net`] | edge | sockets, batches of datagrams, errno judgement |
//! | [`dtls`] | core | datagram to plaintext and identity, and back |
//! | [`coap`] | core | plaintext to exchange: message layer, block-wise, observe |
//! | [`policy`] | core | connections and tokens, authentication verdicts, ACL, rates |
//! | [`bridge`] | core | resource to topic: publish, subscribe, retained, notify |
//! | [`gateway`] | core | those four composed: one `Input`, one `Output`, one deadline |
//! | [`broker`] | edge | the embedded broker, and MQTT upstream |
//! | [`auth`] | edge | authentication backends: users file, HTTP, JSON Web Tokens |
//! | [`admin`] | edge | metrics, health, HTTP API |
//! | [`config`], [`daemon`], [`cli`] | edge | files to checked types; the process; the commands |
//!
//! The core takes `now` and an input and returns outputs; `tests/arch.rs` keeps it so.

pub mod types;

pub mod net;

pub mod dtls;

pub mod coap;

pub mod policy;

pub mod bridge;

pub mod gateway;

pub mod broker;

pub mod auth;

pub mod admin;

pub mod config;

pub mod daemon;

pub mod cli;

/// A point in time for tests to count from.
#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need one instant to start from; the core never reads it"
)]
pub(crate) fn clock_for_tests() -> std::time::Instant {
    std::time::Instant::now()
}
