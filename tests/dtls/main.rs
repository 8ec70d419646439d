//! DTLS through the front door of [`portcullis::dtls`], with OpenSSL as the other side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests"
)]

mod bench;
mod certificates;
#[path = "../support/certs.rs"]
mod certs;
mod composed;
mod connection_ids;
mod cookies;
mod dropped;
#[path = "../support/dtls_client.rs"]
mod dtls_client;
mod ends;
mod gated;
mod handshakes;
mod hostile;
mod legacy;
mod live_keys;
mod loss;
mod names;
mod raw_keys;
mod reload;
mod resumption;
mod rotation;
mod routability;
