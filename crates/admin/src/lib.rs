//! Metrics, health and the HTTP API.
//!
//! | file | what |
//! |---|---|
//! | [`api`] | the HTTP API |
//! | `compress` | answers in gzip |
//! | `dashboard` | the page at `/` |
//! | [`events`] | what happens to clients: in the log, kept, and to those who listen |
//! | [`exposition`] | samples of all workers merged into Prometheus families |
//! | [`expose`] | who has numbers to show, and whose they are |
//! | [`health`] | whether the process lives and serves |
//! | [`local`] | the Unix socket of the management interface |
//! | [`monitoring`] | `/metrics`, `/healthz`, `/readyz` |
//! | [`operator`] | the operator at the broker |
//! | `places` | places for connections |
//! | [`server`] | HTTP with time-outs and a cap on connections |

pub mod api;
mod compress;
mod dashboard;
mod event_lines;
pub mod events;
pub mod expose;
pub mod exposition;
pub mod health;
pub mod local;
pub mod monitoring;
pub mod operator;
mod places;
pub mod server;

pub use exposition::Exposition;
pub use health::Health;
