//! The pure core of Portcullis: no socket, clock, task, file or global randomness; `now` and an input go in, outputs and one
//! deadline come out.
//!
//! | folder | what it knows |
//! |---|---|
//! | [`types`] | words all others share |
//! | [`session`] | the contract of what protects datagrams (DTLS) |
//! | [`state`] | records in memory that outlives the process |
//! | [`coap`] | plaintext to exchange: message layer, block-wise, observe |
//! | [`policy`] | connections and tokens, authentication verdicts, ACL, rates |
//! | [`bridge`] | resource to topic: publish, subscribe, retained, notify |
//! | [`gateway`] | those composed: one `Input`, one `Output`, one deadline |
#![forbid(unsafe_code)]

pub mod types;

pub mod session;

pub mod state;

pub mod coap;

pub mod policy;

pub mod bridge;

pub mod gateway;

/// A point in time for tests to count from.
#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need one instant to start from; the core never reads it"
)]
pub(crate) fn clock_for_tests() -> std::time::Instant {
    std::time::Instant::now()
}
