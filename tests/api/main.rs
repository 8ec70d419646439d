//! The management interface, served as it is by the daemon, over real gateways.
//!
//! | file | what |
//! |---|---|
//! | `access` | tokens, roles, pages of other sites, the audit line, bounds |
//! | `clients` | listing, showing, kicking, subscribing, asking devices |
//! | `changes` | configuration, listeners, users, keys, reload |
//! | `commands` | the command line and the built gateway |
//! | `listeners` | listeners that come and go |
//! | `following` | commands that go on until told to stop |
//! | `messages` | published, retained, listened to; reload and config show |
//! | `manners` | hanging up, holding all places |
//! | `emqx` | what tools that were written for EMQX ask for |
//! | `events` | what happens to clients, in the log and as server-sent events |
//! | `document` | OpenAPI against what is served |
//! | `dashboard` | the files of the page, and what only it asks for |
//! | `named_files` | what a file that is named says of itself |
//! | `scale` | a hundred thousand sessions |
//! | `tls` | HTTPS |
//! | `trace` | following one device |
//! | `waiting` | requests that wait for devices that sleep |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::unreachable,
    clippy::let_underscore_must_use,
    clippy::print_stderr,
    unreachable_pub,
    dead_code,
    reason = "tests fail by panicking, read the clock, and each test binary uses a part of the support"
)]

#[path = "../support/dtls_client.rs"]
mod dtls_client;
#[path = "../support/mod.rs"]
mod support;

mod access;
mod bans;
mod changes;
mod clients;
mod commands;
mod dashboard;
mod document;
mod emqx;
mod events;
mod following;
mod http;
mod listeners;
mod manners;
mod messages;
mod named_files;
mod scale;
mod site;
mod tls;
mod tokens;
mod trace;
mod waiting;

/// One UDP listener; the API without tokens.
const PLAIN: &str = "[listeners.udp.default]\nbind = \"127.0.0.1:0\"\n";
