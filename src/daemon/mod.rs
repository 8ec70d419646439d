//! The process: start, workers, reload, drain, signals.
//!
//! | file | what |
//! |---|---|
//! | [`mod@run`] | from start to end of the process |
//! | [`process_settings`] | what it needs to know of the configuration |
//! | [`assembly`] | the seam at which core and broker are put in |
//! | [`node`] | those parts of a real gateway: core, broker, authentication |
//! | `from_config` | what these are built from: the configuration and the files that it names |
//! | `group` | this node's part in its group |
//! | `reload` | what is on disk now, put in force while it runs |
//! | [`management`] | the process as the HTTP API sees it |
//! | [`listener_ids`], [`listeners`] | listeners that come and go while it runs |
//! | [`workers`] | all workers: start, ask, notice, end |
//! | [`worker`] | one worker: its loop, and the core that it drives |
//! | [`echo`] | the smallest core |
//! | [`systemd`] | the service manager: readiness, watchdog, kept sockets |
//! | `telling` | the thread that tells what happens to clients |
//! | [`probes`] | whether broker and backends let the gateway in, without one that runs |
//! | [`pulse`] | whether every worker moves |
//! | `state`, `memory` | its state directory; how much memory it may have |
//! | [`clock`] | the only reader of the clock |

pub mod assembly;
pub mod clock;
mod databases;
pub mod echo;
mod from_config;
mod group;
mod kept;
pub mod listener_ids;
pub mod listeners;
pub mod logging;
pub mod management;
mod memory;
pub mod metrics;
pub mod node;
pub mod probes;
pub mod process_settings;
pub mod pulse;
mod reload;
pub mod run;
mod state;
mod streams;
pub mod systemd;
mod telling;
pub mod worker;
pub mod workers;

pub use node::serve;
