//! What the process needs to know of the configuration.

use std::net::SocketAddr;
use std::num::NonZero;
use std::time::Duration;

use crate::config::{self, Config, LogLevel};
use crate::net::{Buffers, GroupSpec};
use crate::types::Transport;

use super::listener_ids::buffers;

/// How long answers in flight are waited for when the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// What the process needs to know of the configuration; all values are checked.
#[derive(Debug, Clone)]
pub struct ProcessSettings {
    /// The listeners, in the order of their [`crate::types::ListenerId`].
    pub listeners: Vec<ListenerAddress>,
    /// How many workers; see [`resolve_workers`].
    pub workers: NonZero<u8>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; `None` nowhere.
    pub metrics: Option<SocketAddr>,
    /// What is logged, as tracing directives: `info`, or `info,portcullis::dtls=debug`.
    pub log_filter: String,
    /// How it is written.
    pub log_format: LogFormat,
    /// How long answers in flight are waited for when the process stops.
    pub grace: Duration,
    /// Whether a stop ends every DTLS session although the next process would find it.
    pub goodbye: bool,
}

/// A listener, as far as sockets and metrics go.
#[derive(Debug, Clone)]
pub struct ListenerAddress {
    /// Its name, which is its metric label.
    pub name: String,
    /// How its peers speak.
    pub transport: Transport,
    /// The address of its UDP socket; port 0 is any that is free.
    pub bind: SocketAddr,
    /// What its sockets may hold.
    pub buffers: Buffers,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text for each event.
    Text,
    /// One JSON object per line.
    Json,
}

impl From<&Config> for ProcessSettings {
    fn from(config: &Config) -> Self {
        let listeners = config.listeners.iter().map(|listener| ListenerAddress {
            name: listener.name.clone(),
            transport: listener.transport(),
            bind: listener.bind,
            buffers: buffers(listener),
        });
        Self {
            listeners: listeners.collect(),
            workers: resolve_workers(config.node.workers),
            metrics: config.metrics.bind,
            log_filter: log_filter(config.log.level),
            log_format: match config.log.format {
                config::LogFormat::Text => LogFormat::Text,
                config::LogFormat::Json => LogFormat::Json,
            },
            grace: GRACE,
            goodbye: config.state.goodbye,
        }
    }
}

/// The level is that of our own lines: what libraries say below a warning is not known to be free of secrets.
pub(super) fn log_filter(level: LogLevel) -> String {
    match level {
        LogLevel::Error => "error".to_owned(),
        level => format!("warn,portcullis={}", level.label()),
    }
}

impl ProcessSettings {
    /// What each listener's sockets have to be.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupSpec> {
        let group = |listener: &ListenerAddress| GroupSpec {
            transport: listener.transport,
            name: listener.name.clone(),
            bind: listener.bind,
            workers: usize::from(self.workers.get()),
            buffers: listener.buffers,
        };
        self.listeners.iter().map(group).collect()
    }
}

/// The number of workers: as configured, or for 0 one per core that the process may use; at most 255, because the first
/// byte of a Connection ID names the worker.
#[must_use]
pub fn resolve_workers(configured: u8) -> NonZero<u8> {
    NonZero::new(configured).unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        NonZero::new(u8::try_from(cores).unwrap_or(u8::MAX)).unwrap_or(NonZero::<u8>::MIN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_workers_means_one_per_core() {
        assert_eq!(resolve_workers(3).get(), 3);
        let cores = std::thread::available_parallelism().unwrap().get();
        assert_eq!(usize::from(resolve_workers(0).get()), cores.min(255));
    }
}
