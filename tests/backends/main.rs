//! The databases that decide about logins, and those that know keys: the built gateway before real servers, which each test starts and stops.
//!
//! What the servers are filled and the gateway is configured with is what `docs/authentication.md` says, word for word.
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
#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod key_servers;
mod keys;
mod ldap;
mod login_servers;
mod mongodb;
mod mysql;
mod page;
mod postgresql;
mod rate;
mod redis;
mod servers;
mod slow;
mod tries;
