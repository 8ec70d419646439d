//! Several gateways as one: built gateways before a real Redis, which each test starts, stops and starts again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    unreachable_pub,
    dead_code,
    reason = "tests fail by panicking, read the clock, and each test binary uses a part of the support"
)]

#[path = "../support/dtls_client.rs"]
mod dtls_client;
#[path = "../support/roaming.rs"]
mod roaming;
#[path = "../backends/servers.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;

mod channel;
mod configuration;
mod engine;
mod forwarding;
mod handshakes;
mod lease;
mod nodes;
mod parts;
mod takeover;
mod view;
mod way;
