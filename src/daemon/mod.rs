//! The process: start, workers, reload, drain, signals.
//!
//! | file | what |
//! |---|---|
//! | [`mod@run`] | from start to end of the process |
//! | [`plan`] | what it needs to know of the configuration |
//! | [`build`] | the seam at which core and broker are put in |
//! | [`node`] | those parts: core, broker, authentication |
//! | [`site`] | the process as the management interface sees it |
//! | [`slots`], [`listeners`] | listeners that come and go while it runs |
//! | [`workers`] | all workers: start, ask, notice, end |
//! | [`worker`] | one worker: its loop |
//! | [`core`] | what a worker drives |
//! | [`echo`] | the smallest core |
//! | [`manager`] | the service manager: readiness, watchdog, kept sockets |
//! | [`pulse`] | whether every worker moves |
//! | [`clock`] | the only reader of the clock |

pub mod build;
pub mod clock;
pub mod core;
pub mod echo;
pub mod listeners;
pub mod logging;
pub mod manager;
mod materials;
mod memory;
pub mod metrics;
pub mod node;
pub mod plan;
pub mod pulse;
mod reload;
mod renew;
pub mod run;
pub mod site;
pub mod slots;
mod state;
pub mod worker;
pub mod workers;

pub use node::serve;
