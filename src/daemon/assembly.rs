//! What the process is made of beyond sockets and threads: the seam at which the core and the broker are put in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::admin::api::handle::Reloaded;
use crate::auth::AuthHandle;
use crate::broker::WorkerLink;
use crate::config::{Config, Problems};
use crate::gateway::contract::ControlRequest;
use crate::gateway::nodes::Seek;
use crate::group::Links;
use crate::stream::Gate;
use crate::types::WorkerId;
use crate::types::metrics::Exposes;

use super::listeners::ListenerStep;
use super::management::Controls;
use super::worker::core::Core;

/// Makes the parts of the process and renews them on reload. Lives on the main thread.
pub trait Assembly {
    /// What each worker runs.
    type Core: Core + 'static;

    /// The parts of one worker; asked for once per worker, in order, before any of them runs.
    ///
    /// # Errors
    /// The process does not start.
    fn worker(&mut self, worker: WorkerId) -> Result<WorkerParts<Self::Core>, StartError>;

    /// By listener where its connections come in; none where it is for datagrams.
    fn gates(&self) -> Vec<Option<Arc<Gate>>> {
        Vec::new()
    }

    /// What all workers and the broker have to show in a scrape; asked for once, after the workers.
    fn exposes(&mut self) -> Vec<Box<dyn Exposes>>;

    /// Everything serves; called once.
    ///
    /// # Errors
    /// What manages the process cannot be had: it ends.
    fn serving(&mut self, controls: Controls) -> Result<(), StartError>;

    /// Whether what the process depends on is there, for `/readyz`; the error says what is missing. Called by another
    /// thread.
    fn readiness(&self) -> Box<dyn Fn() -> Result<(), String> + Send + Sync>;

    /// One line on how it goes, for the service manager: for example how the broker is.
    fn status(&self) -> String;

    /// How many listeners serve, when that can change.
    fn listeners(&self) -> Option<usize> {
        None
    }

    /// Reads the files again. What is broken stays as it was. Every worker is asked what is returned.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn reload(&mut self) -> Result<Renewed, Problems>;

    /// Whether a configuration could be put in force, as far as no file shows it.
    ///
    /// # Errors
    /// Why not.
    fn could(&self, config: Config) -> Result<(), Problems> {
        drop(config);
        Ok(())
    }

    /// Replaces keys whose time is over; asked for every hour. Every worker is asked what is returned.
    fn rotate(&mut self) -> Option<ControlRequest> {
        None
    }

    /// Takes keys that the other nodes of a group use; asked for once a second. Every worker is asked what is returned.
    fn take_shared(&mut self) -> Option<ControlRequest> {
        None
    }

    /// Tells the core the time of day; once a second.
    fn tell_time(&self);

    /// How full the store on disk is, 0.0 to 1.0.
    fn store_fullness(&self) -> f64;

    /// The workers have ended: write what has to be kept, within `patience`.
    fn finish(&mut self, patience: Duration) -> impl Future<Output = ()>;
}

/// What a reload brings.
#[derive(Debug)]
pub struct Renewed {
    /// What every worker is asked.
    pub request: ControlRequest,
    /// Then, which listeners come and go.
    pub listeners: Vec<ListenerStep>,
    /// What whoever asked for the reload is told.
    pub report: Reloaded,
}

/// The parts of one worker.
pub struct WorkerParts<C> {
    /// Makes the core, on the thread of the worker.
    pub core: Box<dyn FnOnce() -> C + Send>,
    /// Its way to the broker and back.
    pub broker: WorkerLink,
    /// The authentication backends; without them no login can be decided.
    pub auth: Option<AuthHandle>,
    /// Its way to the other nodes of the group.
    pub links: Option<Arc<Links>>,
    /// Where it has sessions looked for that nobody has.
    pub seeks: Option<mpsc::Sender<Seek>>,
}

/// Why the process did not start or did not go on, with its exit code (sysexits.h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartError {
    /// 78 configuration, 69 something it needs is taken, 71 the system refuses something, 70 it failed.
    pub code: ExitReason,
    /// One line for each thing that is wrong, with what to do about it.
    pub lines: Vec<String>,
}

/// Why a process ended, as exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitReason {
    /// EX_UNAVAILABLE: a port or a lock is taken.
    Unavailable = 69,
    /// EX_SOFTWARE: a part of it failed.
    Software = 70,
    /// EX_OSERR: the system refuses something.
    System = 71,
    /// EX_CONFIG: the configuration, or a file that it names.
    Config = 78,
}

impl StartError {
    /// An error with one thing that is wrong.
    pub fn new(code: ExitReason, line: impl Into<String>) -> Self {
        Self {
            code,
            lines: vec![line.into()],
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl std::error::Error for StartError {}
