//! Other people's clients against the built gateway. A tool that is missing fails the run.
//!
//! | file | which |
//! |---|---|
//! | `cookies` | clients whose address changes between the hello and its cookie |
//! | `libcoap` | `coap-client-openssl`, `coap-client-gnutls`: every feature of the interface that they speak |
//! | `made_keys` | the lines that come with a new key, as printed |
//! | `names` | clients that ask for a server by name |
//! | `quickstart` | the lines that `portcullis run` prints, as printed |
//! | `californium` | Californium from Maven, by `make test-peers` |
//! | `aiocoap` | aiocoap, with tinydtls |
//! | `raw_keys` | devices with raw public keys |
//! | `rotation` | a device that is given a new key |
//! | `stacks` | what device stacks offer, and what they get |
//! | `table` | DTLS stacks by suite and credentials: the table of `docs/interop.md` |
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

#[path = "../support/mod.rs"]
mod support;

mod aiocoap;
mod californium;
mod cookies;
mod libcoap;
mod made_keys;
mod names;
mod quickstart;
#[cfg(openssl_rpk)]
mod raw_keys;
mod rotation;
mod stacks;
mod table;
mod tool;
