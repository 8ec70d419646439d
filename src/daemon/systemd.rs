//! What the service manager is told, and the sockets that it keeps. Without one, nothing happens.

use std::io::{self, Read};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use crate::net::GroupSpec;
use crate::net::group::{BindError, open_groups};
use crate::net::inherit::{Inherited, match_groups, stored_name};
use crate::net::mmsg::take_passed_descriptors;

/// What the names of memories begin with. No socket's does.
const MEMORY: &str = "state.";

/// Tells the service manager; it may be gone, which is no reason to fail.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}

/// READY=1: every listener serves, which `systemctl start` waits for.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line on how it goes.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it. The time lets the service manager tell this reload from an earlier one.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The process begins to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// WATCHDOG=1: every worker has moved since the last time.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How soon the service manager wants to hear [`alive`]; none when it does not.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Whether there is a service manager.
#[must_use]
pub fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// What the service manager kept over a restart.
#[derive(Debug, Default)]
pub struct Passed {
    /// Sockets by their names.
    pub sockets: Vec<(OwnedFd, String)>,
    /// Memories by theirs.
    pub memories: Vec<(OwnedFd, String)>,
}

/// What the service manager passed at the start; nothing the second time.
#[must_use]
pub fn passed() -> Passed {
    let stored = take_passed_descriptors().unwrap_or_else(|error| {
        warn!(%error, "what the service manager passed cannot be used");
        Vec::new()
    });
    let (memories, sockets) = stored.into_iter().partition(|(_, name)| name.starts_with(MEMORY));
    Passed { sockets, memories }
}

/// Hands a memory to the service manager.
pub fn keep_memory(name: &str, memory: BorrowedFd<'_>) {
    // Nothing can be waited for on memory, which the service manager would do otherwise.
    let states = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        NotifyState::Custom("FDPOLL=0"),
    ];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[memory]) {
        warn!(%error, name, "the service manager does not keep the state of a worker");
    }
}

/// Makes the service manager let go of a memory.
pub fn forget_memory(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// The sockets of all listeners: those that the service manager kept over a restart, and new ones for the rest.
///
/// # Errors
/// As [`open_groups`].
pub fn sockets(
    specs: &[GroupSpec],
    stored: Vec<(OwnedFd, String)>,
) -> Result<Vec<Vec<UdpSocket>>, Vec<BindError>> {
    let Inherited { groups, stale } = match_groups(specs, stored);
    if !stale.is_empty() {
        info!(sockets = ?stale, "the service manager kept sockets that do not fit the configuration; they are closed");
        forget_names(&stale);
    }
    let missing: Vec<GroupSpec> = specs
        .iter()
        .zip(&groups)
        .filter(|(_, group)| group.is_none())
        .map(|(spec, _)| spec.clone())
        .collect();
    let mut opened = open_groups(&missing)?.into_iter();
    Ok(groups
        .into_iter()
        .filter_map(|group| group.or_else(|| opened.next()))
        .collect())
}

/// Hands the sockets to the service manager, so that no datagram is lost while the process restarts.
pub fn keep(specs: &[GroupSpec], groups: &[Vec<UdpSocket>]) {
    for (spec, group) in specs.iter().zip(groups) {
        for (worker, socket) in group.iter().enumerate() {
            let name = stored_name(spec, worker);
            let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
            if let Err(error) = sd_notify::notify_with_fds(&states, &[socket.as_fd()]) {
                debug!(%error, name, "the service manager does not keep a socket");
                return;
            }
        }
    }
}

/// Makes the service manager close the sockets of a listener that ended.
pub fn forget(spec: &GroupSpec) {
    let names: Vec<String> = (0..spec.workers)
        .map(|worker| stored_name(spec, worker))
        .collect();
    forget_names(&names);
}

/// Makes the service manager close stored sockets, and waits until it has: their ports are taken as long.
fn forget_names(names: &[String]) {
    for name in names {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
    if let Err(error) = barrier() {
        debug!(%error, "the service manager did not confirm");
    }
}

/// Waits until the service manager has read all that it was told: it closes the descriptor that came last
/// (sd_notify_barrier).
fn barrier() -> io::Result<()> {
    let (mut reader, writer) = io::pipe()?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()])?;
    drop(writer);
    let (done, closed) = std::sync::mpsc::channel();
    // A reader of its own: a pipe has no time-out, and a manager that does not know barriers must not hold up the start.
    std::thread::spawn(move || {
        let mut byte = [0];
        drop(done.send(reader.read(&mut byte)));
    });
    closed
        .recv_timeout(Duration::from_secs(5))
        .map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(())
}
