//! The MQTT upstream against a real mosquitto on loopback, driven as a worker drives it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "tests stop at the first surprise and run on the real clock"
)]

mod cluster;
mod crash;
mod delivery;
mod harness;
mod outage;
mod proxy;
mod publish;
mod script;
mod subscribe;
mod transport;
