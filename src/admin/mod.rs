//! Metrics, health and the HTTP API.

pub mod api;
