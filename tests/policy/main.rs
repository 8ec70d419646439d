//! Authentication, authorization and limits against the real things: a running mosquitto, files that mosquitto_passwd
//! and openssl write, HTTP servers and a JWK set endpoint.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests may fail loudly and read the clock"
)]

mod acl;
#[path = "../support/certs.rs"]
mod certs;
mod file;
mod http;
mod jwt;
mod mosquitto;
mod pool;
mod support;
