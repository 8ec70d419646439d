//! Taking over the sockets that the service manager kept over a restart, so that no datagram is lost meanwhile.
//!
//! Each socket is stored under a name that says its listener and its worker. A group is taken over only as a whole and only if
//! it is what the configuration asks for; else all of it is closed and opened anew.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use super::group::{self, GroupSpec};

/// The name under which the socket of `worker` is stored: no colon and no control character, as the service manager asks.
#[must_use]
pub fn stored_name(spec: &GroupSpec, worker: usize) -> String {
    let name: String = spec
        .name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .take(128)
        .collect();
    format!("{}.{name}.{worker}", spec.transport.label())
}

/// What became of the stored sockets.
#[derive(Debug, Default)]
pub struct Inherited {
    /// For each listener its sockets in worker order, or none.
    pub groups: Vec<Option<Vec<UdpSocket>>>,
    /// Names of stored sockets that fit nothing. They are closed here; the service manager has to forget them too
    /// before their ports are free.
    pub stale: Vec<String>,
}

/// Sorts stored sockets into the listeners that they belong to.
#[must_use]
pub fn match_groups(specs: &[GroupSpec], stored: Vec<(OwnedFd, String)>) -> Inherited {
    let mut stored: Vec<(Option<UdpSocket>, String)> = stored
        .into_iter()
        .map(|(fd, name)| (Some(fd.into()), name))
        .collect();
    let mut inherited = Inherited::default();
    for spec in specs {
        let group = take_group(spec, &mut stored);
        inherited.groups.push(group);
    }
    inherited.stale = stored
        .into_iter()
        .filter_map(|(socket, name)| socket.map(|_| name))
        .collect();
    inherited.stale.dedup();
    inherited
}

/// All of a group and nothing but it: a socket of a worker that is gone would still get its share of the datagrams.
fn take_group(spec: &GroupSpec, stored: &mut [(Option<UdpSocket>, String)]) -> Option<Vec<UdpSocket>> {
    let beyond = stored_name(spec, spec.workers);
    if spec.transport.is_stream() || stored.iter().any(|(_, name)| *name == beyond) {
        return None;
    }
    let mut places = Vec::with_capacity(spec.workers);
    for worker in 0..spec.workers {
        let wanted = stored_name(spec, worker);
        let mut found = stored.iter().enumerate().filter(|(_, (socket, name))| {
            *name == wanted && socket.as_ref().is_some_and(|it| group::fits(spec, it))
        });
        let (place, _) = found.next()?;
        if found.next().is_some() {
            return None;
        }
        places.push(place);
    }
    let group: Vec<UdpSocket> = places
        .iter()
        .filter_map(|place| stored.get_mut(*place).and_then(|(socket, _)| socket.take()))
        .collect();
    (group::prepare_group(spec, &group).is_ok() && group.len() == spec.workers).then_some(group)
}
