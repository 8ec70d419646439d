//! Which listener has which id while the process runs.
//!
//! The ids of those that were there at the start are their places in the file. One that is added gets the next id, one that is
//! removed keeps its own in case it comes back: sessions, counters and connections speak of listeners by id.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::config::{Config, Datagrams, Listener, Problem, Severity, Size};
use crate::net::group::{BindError, open_among, open_stream};
use crate::net::{Buffers, GroupSpec, errno};
use crate::types::{ListenerId, Transport};

/// How many listeners, beyond those at the start, one process has counters for.
pub const SPARE_LISTENERS: usize = 16;

/// One listener, served or not.
#[derive(Debug, Clone)]
struct KnownListener {
    key: String,
    name: String,
    transport: Transport,
    /// As configured; port 0 stands for any.
    bind: SocketAddr,
    buffers: Buffers,
    serves: bool,
}

/// All listeners by id.
#[derive(Debug, Clone)]
pub(super) struct ListenerIds {
    slots: Vec<KnownListener>,
    capacity: usize,
    workers: usize,
}

/// A listener that is about to serve.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) listener: ListenerId,
    /// Whether its id is new.
    pub(super) fresh: bool,
    pub(super) spec: GroupSpec,
    /// One socket per worker, of datagrams.
    pub(super) sockets: Vec<UdpSocket>,
    /// The socket of one for streams.
    pub(super) stream: Option<TcpListener>,
}

impl Opening {
    fn take_sockets(&mut self, among: &[GroupSpec]) -> Result<(), BindError> {
        if self.spec.transport.is_stream() {
            self.stream = Some(open_stream(&self.spec, among)?);
        } else {
            self.sockets = open_among(&self.spec, among)?;
        }
        Ok(())
    }

    /// Where it is bound.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match (self.sockets.first(), &self.stream) {
            (Some(socket), _) => socket.local_addr().ok(),
            (None, stream) => stream.as_ref()?.local_addr().ok(),
        }
    }
}

/// What a new configuration changes.
#[derive(Debug, Default)]
pub(super) struct ListenerChanges {
    /// These stop, and their sockets are closed.
    pub(super) close: Vec<(ListenerId, GroupSpec)>,
    /// These serve, after the others have stopped: one may take the address of another.
    pub(super) open: Vec<Opening>,
    /// What only a restart can do.
    pub(super) needs_restart: Vec<String>,
}

impl ListenerIds {
    pub(super) fn new(config: &Config, workers: usize) -> Self {
        let slot = |listener: &Listener| KnownListener {
            key: listener.key(),
            name: listener.name.clone(),
            transport: listener.transport(),
            bind: listener.bind,
            buffers: buffers(listener),
            serves: true,
        };
        Self {
            slots: config.listeners.iter().map(slot).collect(),
            capacity: config.listeners.len() + SPARE_LISTENERS,
            workers,
        }
    }

    /// Names in the order of the ids.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|slot| slot.name.as_str())
    }

    /// How many listeners have open sockets.
    pub(super) fn serving(&self) -> usize {
        self.slots.iter().filter(|slot| slot.serves).count()
    }

    /// For each id the place of its listener in `config`, if it is there.
    pub(super) fn places(&self, config: &Config) -> Vec<Option<usize>> {
        let place = |slot: &KnownListener| {
            config
                .listeners
                .iter()
                .position(|listener| listener.key() == slot.key)
        };
        self.slots.iter().map(place).collect()
    }

    /// The same after the moves.
    pub(super) fn after(&self, changes: &ListenerChanges) -> Self {
        let mut after = self.clone();
        for (listener, _) in &changes.close {
            if let Some(slot) = after.slots.get_mut(usize::from(listener.0)) {
                slot.serves = false;
            }
        }
        for opening in &changes.open {
            let spec = &opening.spec;
            match after.slots.get_mut(usize::from(opening.listener.0)) {
                Some(slot) => (slot.serves, slot.bind, slot.buffers) = (true, spec.bind, spec.buffers),
                None => after.slots.push(KnownListener {
                    key: format!("listeners.{}.{}", spec.transport.label(), spec.name),
                    name: spec.name.clone(),
                    transport: spec.transport,
                    bind: spec.bind,
                    buffers: spec.buffers,
                    serves: true,
                }),
            }
        }
        after
    }

    /// What has to move to come from `old` to `new`, with the sockets that it takes. What cannot be done now is named, and in
    /// `new` it is then as it was.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub(super) fn changes(&self, old: &Config, new: &mut Config) -> Result<ListenerChanges, Vec<Problem>> {
        let mut changes = ListenerChanges::default();
        let mut wanted = self.wanted(new, &mut changes);
        let specs: Vec<GroupSpec> = new.listeners.iter().map(|listener| self.spec(listener)).collect();
        let mut problems = Vec::new();
        wanted.retain_mut(|opening| match opening.take_sockets(&specs) {
            Ok(()) => true,
            Err(error) => {
                if self.is_our_own(opening, &error) {
                    self.leave(opening, &mut changes, old, new);
                } else {
                    problems.push(problem(&opening.spec, &error, new));
                }
                false
            }
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        changes.open = wanted;
        Ok(changes)
    }

    /// Whom to close, and whom to open, without sockets yet.
    fn wanted(&self, new: &mut Config, changes: &mut ListenerChanges) -> Vec<Opening> {
        let mut open = Vec::new();
        let mut next = self.slots.len();
        new.listeners.retain(|listener| {
            let key = listener.key();
            let place = self.slots.iter().position(|slot| slot.key == key);
            let slot = place.and_then(|place| self.slots.get(place));
            let (Ok(id), fresh) = (u16::try_from(place.unwrap_or(next)), place.is_none()) else {
                return false;
            };
            if let Some(slot) = slot.filter(|slot| slot.serves && slot.bind == listener.bind) {
                let wanted = buffers(listener);
                let fields = [
                    ("receive_buffer", slot.buffers.receive != wanted.receive),
                    ("send_buffer", slot.buffers.send != wanted.send),
                ];
                let changed = fields.iter().filter(|(_, changed)| *changed);
                changes
                    .needs_restart
                    .extend(changed.map(|(field, _)| format!("{key}.{field}")));
                return true;
            }
            if fresh && next >= self.capacity {
                changes.needs_restart.push(key);
                return false;
            }
            if let Some(slot) = slot.filter(|slot| slot.serves) {
                changes.close.push((ListenerId(id), self.spec_of(slot)));
            }
            next += usize::from(fresh);
            open.push(Opening {
                listener: ListenerId(id),
                fresh,
                spec: self.spec(listener),
                sockets: Vec::new(),
                stream: None,
            });
            true
        });
        for (slot, id) in self.slots.iter().zip(0..) {
            let stays = new.listeners.iter().any(|listener| listener.key() == slot.key);
            if slot.serves && !stays {
                changes.close.push((ListenerId(id), self.spec_of(slot)));
            }
        }
        open
    }

    /// Whether an address is taken by a listener of this very process, which a restart would sort out.
    fn is_our_own(&self, opening: &Opening, error: &BindError) -> bool {
        let port = opening.spec.bind.port();
        errno::is_in_use(error.io_error())
            && self
                .slots
                .iter()
                .filter(|slot| slot.transport.is_stream() == opening.spec.transport.is_stream())
                .any(|slot| slot.serves && port != 0 && slot.bind.port() == port)
    }

    /// Leaves a listener as it was, and those whose port it was to get.
    fn leave(&self, opening: &Opening, changes: &mut ListenerChanges, old: &Config, new: &mut Config) {
        let spec = &opening.spec;
        let table = format!("listeners.{}.{}", spec.transport.label(), spec.name);
        let as_it_was = old.listeners.iter().find(|listener| listener.key() == table);
        let here = new.listeners.iter().position(|listener| listener.key() == table);
        match (as_it_was, here) {
            (Some(was), Some(here)) => {
                if let Some(listener) = new.listeners.get_mut(here) {
                    listener.bind = was.bind;
                }
                changes
                    .close
                    .retain(|(listener, _)| *listener != opening.listener);
                changes.needs_restart.push(format!("{table}.bind"));
            }
            (None, Some(here)) => {
                new.listeners.remove(here);
                changes.needs_restart.push(table);
            }
            (_, None) => {}
        }
        let (same_port, close): (Vec<_>, Vec<_>) =
            std::mem::take(&mut changes.close)
                .into_iter()
                .partition(|(_, closing)| {
                    closing.transport.is_stream() == spec.transport.is_stream()
                        && closing.bind.port() == spec.bind.port()
                });
        changes.close = close;
        for (_, closing) in same_port {
            let key = format!("listeners.{}.{}", closing.transport.label(), closing.name);
            let is_gone = !new.listeners.iter().any(|listener| listener.key() == key);
            let was = old.listeners.iter().find(|listener| listener.key() == key);
            if let Some(was) = was.filter(|_| is_gone) {
                new.listeners.push(was.clone());
                changes.needs_restart.push(key);
            }
        }
    }

    fn spec(&self, listener: &Listener) -> GroupSpec {
        GroupSpec {
            transport: listener.transport(),
            name: listener.name.clone(),
            bind: listener.bind,
            workers: self.workers,
            buffers: buffers(listener),
        }
    }

    fn spec_of(&self, slot: &KnownListener) -> GroupSpec {
        GroupSpec {
            transport: slot.transport,
            name: slot.name.clone(),
            bind: slot.bind,
            workers: self.workers,
            buffers: slot.buffers,
        }
    }
}

/// What the sockets of a listener may hold.
pub(super) fn buffers(listener: &Listener) -> Buffers {
    let bytes = |size: fn(&Datagrams) -> Size| {
        let size = listener
            .datagrams
            .as_ref()
            .map_or(0, |datagrams| size(datagrams).0);
        usize::try_from(size).unwrap_or(usize::MAX)
    };
    Buffers {
        receive: bytes(|datagrams| datagrams.receive_buffer),
        send: bytes(|datagrams| datagrams.send_buffer),
    }
}

fn problem(spec: &GroupSpec, error: &BindError, config: &Config) -> Problem {
    let (key, said) = (spec.key(), error.to_string());
    let message = said.strip_prefix(&key).unwrap_or(&said);
    Problem {
        file: config.source.clone().unwrap_or_default(),
        place: None,
        message: message.trim_start_matches([':', ' ']).to_owned(),
        key,
        severity: Severity::Error,
        unreadable: false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{PathBase, parse};

    fn config(listeners: &[(&str, &str)]) -> Config {
        let tables: String = listeners
            .iter()
            .map(|(name, bind)| format!("[listeners.udp.{name}]\nbind = \"{bind}\"\n"))
            .collect();
        parse(
            &tables,
            Path::new("t.toml"),
            &PathBase::of_file(Path::new("t.toml")),
        )
        .unwrap()
    }

    fn ids(changes: &ListenerChanges) -> (Vec<u16>, Vec<u16>) {
        (
            changes.close.iter().map(|(listener, _)| listener.0).collect(),
            changes.open.iter().map(|opening| opening.listener.0).collect(),
        )
    }

    const ANY: &str = "127.0.0.1:0";

    #[test]
    fn one_that_is_added_gets_a_new_id_and_one_that_comes_back_its_old_one() {
        let first = config(&[("a", ANY), ("b", ANY)]);
        let slots = ListenerIds::new(&first, 2);
        let mut second = config(&[("c", ANY), ("b", ANY)]);
        let changes = slots.changes(&first, &mut second).unwrap();
        assert_eq!(ids(&changes), (vec![0], vec![2]));
        assert_eq!(changes.open[0].sockets.len(), 2);
        let slots = slots.after(&changes);
        assert_eq!(slots.places(&second), [None, Some(1), Some(0)]);
        assert_eq!(slots.serving(), 2);
        let mut third = config(&[("a", ANY), ("b", ANY), ("c", ANY)]);
        let changes = slots.changes(&second, &mut third).unwrap();
        assert_eq!(ids(&changes), (vec![], vec![0]));
        assert!(!changes.open[0].fresh);
    }

    #[test]
    fn another_address_closes_and_opens() {
        let first = config(&[("a", ANY)]);
        let slots = ListenerIds::new(&first, 1);
        let mut second = config(&[("a", "127.0.0.2:0")]);
        let changes = slots.changes(&first, &mut second).unwrap();
        assert_eq!(ids(&changes), (vec![0], vec![0]));
    }

    #[test]
    fn a_renamed_listener_whose_port_is_still_taken_by_the_old_one_waits_for_a_restart() {
        let taken = UdpSocket::bind(ANY).unwrap();
        let bind = taken.local_addr().unwrap().to_string();
        let first = config(&[("a", &bind)]);
        let slots = ListenerIds::new(&first, 1);
        let mut second = config(&[("b", &bind)]);
        let changes = slots.changes(&first, &mut second).unwrap();
        assert_eq!(ids(&changes), (vec![], vec![]));
        assert_eq!(changes.needs_restart, ["listeners.udp.b", "listeners.udp.a"]);
        assert_eq!(second.listeners, first.listeners);
    }

    #[test]
    fn a_port_of_someone_else_is_a_problem_of_its_key() {
        let taken = UdpSocket::bind(ANY).unwrap();
        let first = config(&[("a", ANY)]);
        let slots = ListenerIds::new(&first, 1);
        let mut second = config(&[("a", ANY), ("b", &taken.local_addr().unwrap().to_string())]);
        let problems = slots.changes(&first, &mut second).unwrap_err();
        assert_eq!(problems[0].key, "listeners.udp.b.bind");
        assert!(
            problems[0].message.starts_with("cannot listen on"),
            "{}",
            problems[0].message
        );
    }

    #[test]
    fn there_are_counters_for_so_many_and_no_more() {
        let first = config(&[("a", ANY)]);
        let slots = ListenerIds::new(&first, 1);
        let names: Vec<String> = (0..=SPARE_LISTENERS).map(|n| format!("n{n}")).collect();
        let all: Vec<(&str, &str)> = [("a", ANY)]
            .into_iter()
            .chain(names.iter().map(|name| (name.as_str(), ANY)))
            .collect();
        let mut second = config(&all);
        let changes = slots.changes(&first, &mut second).unwrap();
        assert_eq!(changes.open.len(), SPARE_LISTENERS);
        assert_eq!(
            changes.needs_restart,
            [format!("listeners.udp.n{SPARE_LISTENERS}")]
        );
    }
}
