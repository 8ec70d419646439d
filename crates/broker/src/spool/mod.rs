//! Store and forward: messages that were accepted while the broker is away, or is slow, wait here on disk.
//!
//! ```text
//! lane ── Command ──> thread: Log over Directory (segments, head) ── Report ──> lane
//! ```
//! The thread takes all commands that wait, writes all records among them with one fsync, and reports in order.

mod copy;
mod disk;
mod former;
mod frame;
mod log;
mod recovery;
mod room;
mod thread;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;

pub(super) use copy::{CopyError, copy_all};
pub(super) use log::{Append, AppendError};
pub(super) use thread::{Command, Report, Spool, SpoolState};
