//! The MQTT upstream against a real mosquitto on loopback, driven as a worker drives it, and by the whole gateway.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::let_underscore_must_use,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "tests stop at the first surprise, run on the real clock, and use a part of the support"
)]

mod cluster;
mod crash;
mod delivery;
mod doctor;
mod fleet;
mod harness;
mod judged;
mod kills;
mod outage;
mod proxy;
mod publish;
mod requests;
mod restart;
mod script;
mod subscribe;
mod transport;
mod whole;

#[path = "../support/mod.rs"]
mod support;
