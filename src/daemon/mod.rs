//! The process: start, workers, reload, drain, signals.

pub mod clock;
pub mod core;
pub mod echo;
pub mod metrics;
pub mod plan;
pub mod worker;
