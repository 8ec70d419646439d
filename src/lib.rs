//! Portcullis: a DTLS-first CoAP gateway for the network edge.
//!
//! This crate is the process: files to a running node ([`daemon`]) and the commands ([`cli`]). What a datagram goes through are
//! the crates under `crates/`, named here as one library for tests and benches:
//!
//! | crate | kind | what it knows |
//! |---|---|---|
//! | `proto` | pure | [`types`], [`coap`], [`policy`], [`bridge`], and [`gateway`], which composes them |
//! | [`dtls`] | pure | datagram to plaintext and identity, and back |
//! | [`stream`] | edge | CoAP over TCP and TLS: frames, signalling, connections |
//! | [`net`] | edge | sockets, batches of datagrams, errno judgement |
//! | [`broker`] | edge | the embedded broker, and MQTT upstream |
//! | [`auth`] | edge | authentication backends: users file, HTTP, JSON Web Tokens |
//! | [`redis`] | edge | speaking to Redis or Valkey |
//! | [`group`] | edge | several gateways as one: leases, what they share, how they speak with each other |
//! | [`config`] | edge | files to checked types |
//! | [`admin`] | edge | metrics, health, HTTP API, dashboard |
//!
//! Dependencies point one way: `proto` knows none of the others.

pub use portcullis_admin as admin;
pub use portcullis_auth as auth;
pub use portcullis_broker as broker;
pub use portcullis_config as config;
pub use portcullis_dtls as dtls;
pub use portcullis_group as group;
pub use portcullis_net as net;
pub use portcullis_redis as redis;
pub use portcullis_stream as stream;

pub use portcullis_proto::{bridge, coap, gateway, labels, metrics, policy, session, state, types};

pub mod daemon;

pub mod cli;
