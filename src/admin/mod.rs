//! Metrics, health and the HTTP API.
