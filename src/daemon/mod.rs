//! The process: start, workers, reload, drain, signals.
