//! The gateway from outside: the built binary over real sockets, each test over plain UDP and again over DTLS.
//!
//! | file | what of the interface |
//! |---|---|
//! | `attributes` | what is known of a client, and what a listener has of its own |
//! | `authentication` | users files, HTTP servers, tokens |
//! | `cwt` | CBOR Web Tokens |
//! | `authorization` | the ACL file |
//! | `bans` | whom an operator keeps out |
//! | `overload` | steps against overload |
//! | `paths` | resources, methods, codes, topics |
//! | `names` | what topics, client ids and user names may be |
//! | `query` | parameters |
//! | `connection` | connection mode |
//! | `connectionless` | the default mode |
//! | `import` | users and keys of other gateways |
//! | `freshness` | requests that are only meant now |
//! | `identity` | what a DTLS handshake proves |
//! | `streams` | CoAP over TCP and TLS |
//! | `websockets` | CoAP over WebSockets |
//! | `observe` | subscribing, retained messages, cancelling |
//! | `collection` | topics that are created |
//! | `conditions` | observing with conditions |
//! | `delivery` | types, order, queues, expiry |
//! | `blockwise` | long bodies in both directions |
//! | `listeners` | sockets, peers and health of a listener |
//! | `message` | duplicates, malformed messages, options |
//! | `migrate` | configurations of EMQX |
//! | `moving` | sessions with a Connection ID over IPv6 |
//! | `workers` | every subscriber on every worker and transport |
//! | `amplification` | what an unproven address gets |
//! | `broker` | what survives a restart |
//! | `metrics` | the scrape |
//! | `preconditions` | If-Match and If-None-Match |
//! | `process` | command line, start, stop |
//! | `translate` | CBOR on the air, JSON behind |
//! | `words` | what commands say |
//! | `tools` | bench, bugreport, doctor |
//! | `sleeping` | devices that sleep |
//! | `restart` | what goes on in the next process |
//! | `power_loss` | what goes on in the next run of the machine |
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
#[path = "../support/mod.rs"]
mod support;

mod amplification;
mod attributes;
mod authentication;
mod authorization;
mod bans;
mod blockwise;
mod broker;
mod collection;
mod conditions;
mod connection;
mod connectionless;
mod cwt;
mod delivery;
mod freshness;
mod identity;
mod import;
mod listeners;
mod message;
mod metrics;
mod migrate;
mod moving;
mod names;
mod observe;
mod outdated;
mod overload;
mod paths;
mod power_loss;
mod preconditions;
mod process;
mod query;
mod restart;
mod sleeping;
mod streams;
mod tools;
mod translate;
mod websockets;
mod words;
mod workers;
