//! Metrics, health and the HTTP API.
//!
//! | file | what |
//! |---|---|
//! | [`api`] | the HTTP API |
//! | `dashboard` | the page at `/` |
//! | [`exposition`] | samples of all workers merged into Prometheus families |
//! | [`expose`] | which numbers of which layer become which family |
//! | [`health`] | whether the process lives and serves |
//! | [`monitoring`] | `/metrics`, `/healthz`, `/readyz` |
//! | `places` | places for connections |
//! | [`server`] | HTTP with time-outs and a cap on connections |

pub mod api;
mod dashboard;
pub mod expose;
pub mod exposition;
pub mod health;
pub mod monitoring;
mod places;
pub mod server;

pub use expose::Exposes;
pub use exposition::Exposition;
pub use health::Health;
