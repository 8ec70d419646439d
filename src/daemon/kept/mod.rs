//! Where state is kept for the next process, and how what an earlier one left comes to the workers of now.
//!
//! Memory that outlived the process is exact and comes first. Where there is none, as after a power loss, and a copy on disk is kept, the
//! memories are filled from that ([`disk`]), and the thread of [`copier`] keeps the copy up to date.

mod copier;
mod disk;
mod filling;
pub(super) mod group;
mod seal;
mod watched;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::config::state_key::{self, StateKey};
use crate::config::{Config, Keep};
use crate::dtls::{self, DtlsShared, KeptSessions, adopt_chains};
use crate::gateway::kept::{self as gateway, Place, listener_mark};
use crate::gateway::restore::Restored;
use crate::net::memory::{self, Mapped};
use crate::net::shm::{self, ShmDirectory};
use crate::session::RestoreResult;
use crate::state::{CELL_BYTES, Clock, Contents, Kind, MARK, Record, Store, Tenure, Unusable, digest};
use crate::types::{Transport, WorkerId};

use self::copier::{Copying, DiskMetrics};
use self::disk::Disk;
use self::group::Showing;
use self::watched::Watched;
use super::{clock, systemd};

/// A worker's memory is a multiple of this many bytes, and at least as many.
const STEP: u64 = 1 << 20;
/// What one worker keeps at most: cells are numbered with 32 bits.
const MOST: u64 = 64 << 30;

/// What is kept of each worker.
#[derive(Default)]
pub(super) struct KeptState {
    workers: Vec<Arc<KeptSessions>>,
    copying: Option<Copying>,
    /// Those that are to be written where the group sees them.
    watched: Vec<(u64, Watched)>,
    tenure: Option<Arc<Tenure>>,
    showing: Option<Showing>,
    disk: Arc<DiskMetrics>,
    /// Its lock is held as long as the process lives.
    _directory: Option<ShmDirectory>,
}

/// Who keeps the memories while no process is there.
enum Home {
    Manager,
    Directory(ShmDirectory),
}

impl Home {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Mapped> {
        match self {
            Self::Manager => {
                let mapped = Mapped::anonymous(name, bytes)?;
                systemd::keep_memory(name, mapped.descriptor.as_fd());
                Ok(mapped)
            }
            Self::Directory(directory) => Mapped::over(directory.create(name, bytes)?),
        }
    }

    fn remove(&self, name: &str) {
        match self {
            Self::Manager => systemd::forget_memory(name),
            Self::Directory(directory) => directory.remove(name),
        }
    }

    /// Forgets all that is there.
    fn discard(self, found: Vec<(Mapped, String)>) {
        for (mapped, name) in found {
            mapped.discard();
            self.remove(&name);
        }
        if let Self::Directory(directory) = self
            && let Err(error) = directory.discard()
        {
            tracing::debug!(%error, "the directory for kept state stays");
        }
    }

    /// What is there. A service manager passed `stored` at the start.
    fn memories(&self, stored: Vec<(OwnedFd, String)>) -> Vec<(Mapped, String)> {
        let (found, map): (_, fn(OwnedFd) -> io::Result<Mapped>) = match self {
            Self::Manager => (stored, Mapped::kept),
            Self::Directory(directory) => {
                let found = directory.memories().unwrap_or_else(|error| {
                    warn!(%error, path = %directory.path().display(), "kept state cannot be read");
                    Vec::new()
                });
                (found, Mapped::over)
            }
        };
        let mut mapped = Vec::new();
        for (descriptor, name) in found {
            match map(descriptor) {
                Ok(memory) => mapped.push((memory, name)),
                Err(error) => {
                    warn!(%error, name, "kept state cannot be used");
                    self.remove(&name);
                }
            }
        }
        mapped
    }
}

/// A memory that can be used.
struct Kept {
    mapped: Mapped,
    name: String,
    store: Arc<Store>,
}

/// What names a memory in the copy of it.
fn id_of(name: &str) -> u64 {
    digest(name.as_bytes())
}

impl KeptState {
    /// Takes up what an earlier process left, `stored` by a service manager, in /dev/shm or on disk, and makes room for what this one keeps,
    /// `bytes` for each worker. Whatever is in the way costs the devices handshakes and does not keep the process from starting.
    ///
    /// # Errors
    /// The key for what is on disk is none, or others can read it.
    pub(super) fn open(
        config: &Config,
        bytes: usize,
        shared: &DtlsShared,
        stored: Vec<(OwnedFd, String)>,
        tenure: &Arc<Tenure>,
    ) -> Result<Self, String> {
        shm::remove_leftovers();
        let home = if systemd::is_there() {
            Home::Manager
        } else {
            match ShmDirectory::open(&config.node.state_dir) {
                Ok(Some(directory)) => Home::Directory(directory),
                Ok(None) => {
                    warn!("another process keeps the state of this state directory: this one keeps none");
                    return Ok(Self::default());
                }
                Err(error) => {
                    warn!(%error, "there is no place to keep state: devices shake hands after a restart");
                    return Ok(Self::default());
                }
            }
        };
        if let (Home::Manager, Keep::Disk) = (&home, config.state.keep)
            && let Ok(Some(other)) = ShmDirectory::open(&config.node.state_dir)
            && let Err(error) = other.discard()
        {
            // What stands there from a start without the manager is not what went on from disk since.
            warn!(%error, "kept state of a start without the service manager stays");
        }
        let found = home.memories(stored);
        let key = match config.state.keep {
            Keep::Disk => disk_key(config)?,
            _ => {
                Disk::remove(&config.node.state_dir);
                None
            }
        };
        if config.state.keep == Keep::None {
            home.discard(found);
            return Ok(Self::default());
        }
        let placed = match place(&home, found, bytes, config, key.as_ref()) {
            Ok(placed) => placed,
            Err(error) => {
                warn!(%error, "there is no memory to keep state in: devices shake hands after a restart");
                return Ok(Self::default());
            }
        };
        let Placed {
            stores,
            mut lost,
            disk,
        } = placed;
        let words = stores.iter().filter_map(|(_, store)| store.crash_mark());
        memory::note_crash_in(words.collect());
        let metrics = Arc::<DiskMetrics>::default();
        let copying = key.map(|key| {
            let place = (config.node.state_dir.clone(), key);
            Copying::start(place, stores.iter().cloned(), disk, Arc::clone(&metrics))
        });
        let copying = copying.transpose().unwrap_or_else(|error| {
            warn!(%error, "no thread for what is kept on disk: it is kept in memory alone");
            None
        });
        let tenure = (config.state.keep == Keep::Group).then(|| Arc::clone(tenure));
        let watched = match &tenure {
            Some(_) => group::watch(stores.iter().cloned()),
            None => Vec::new(),
        };
        let kept = |(_, store)| KeptSessions::new(store, shared, std::mem::take(&mut lost), tenure.clone());
        Ok(Self {
            workers: stores.into_iter().map(kept).collect(),
            copying,
            watched,
            tenure,
            showing: None,
            disk: metrics,
            _directory: match home {
                Home::Manager => None,
                Home::Directory(directory) => Some(directory),
            },
        })
    }

    /// How the copy on disk is.
    pub(super) fn disk_metrics(&self) -> Arc<DiskMetrics> {
        Arc::clone(&self.disk)
    }

    /// Writes what is kept where the group sees it from now on, and takes over what nodes leave that are gone; nothing where nothing is kept.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn show(&mut self, shown: group::Shown) -> io::Result<()> {
        if let Some(tenure) = &self.tenure {
            let watched = std::mem::take(&mut self.watched);
            self.showing = Some(Showing::start(watched, Arc::clone(tenure), shown)?);
        }
        Ok(())
    }

    /// The workers have ended: what others see is made whole, and the copy on disk.
    pub(super) fn finish(&mut self) {
        if let Some(showing) = self.showing.take() {
            showing.finish();
        }
        if let Some(copying) = self.copying.take() {
            copying.finish();
        }
    }

    /// How many workers keep something.
    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Where a worker keeps its sessions.
    pub(super) fn of(&self, worker: WorkerId) -> Option<Arc<KeptSessions>> {
        self.workers.get(usize::from(worker.0)).cloned()
    }
}

/// The key for what is on disk; none where it cannot be made, which costs no device anything yet.
fn disk_key(config: &Config) -> Result<Option<StateKey>, String> {
    let file = state_key::file(config);
    match state_key::prepare(config) {
        Ok(None) => {}
        Ok(Some(damage)) => error!(
            damage,
            file = %file.display(),
            "the key of what is kept on disk is damaged and was set aside under the name it has with \".damaged\"; what it sealed is lost"
        ),
        Err(error) => {
            warn!(error, "kept state cannot be sealed: it is kept in memory alone");
            return Ok(None);
        }
    }
    state_key::read(&file).map(Some)
}

/// What could not be read.
type Lost = Vec<(RestoreResult, u64)>;

/// One store for each worker, by its id, with the records that belong there.
struct Placed {
    stores: Vec<(u64, Arc<Store>)>,
    lost: Lost,
    /// The file that they were filled from.
    disk: Option<Disk>,
}

fn place(
    home: &Home,
    found: Vec<(Mapped, String)>,
    bytes: usize,
    config: &Config,
    key: Option<&StateKey>,
) -> io::Result<Placed> {
    let mut clock = Clock {
        now: clock::now(),
        up: memory::uptime(),
        ahead: Duration::ZERO,
    };
    let (boot, mut lost) = (boot(), Vec::new());
    let bytes = (bytes as u64 / STEP * STEP).clamp(STEP, MOST);
    let workers = config.worker_count();
    let (mut ours, mut others): (Vec<Option<Kept>>, Vec<Kept>) =
        ((0..workers).map(|_| None).collect(), vec![]);
    for (mapped, name) in found {
        match Store::open(mapped.memory(), clock, boot) {
            Ok(store) => {
                lost.push((RestoreResult::Damaged, store.damaged()));
                lost.push((RestoreResult::Poisoned, store.poisoned()));
                let fits = store.capacity() as u64 == bytes / CELL_BYTES as u64;
                let place = ours.get_mut(usize::from(store.worker()));
                let store = Arc::new(store);
                let kept = Kept { mapped, name, store };
                match place {
                    Some(place @ None) if fits => *place = Some(kept),
                    _ => others.push(kept),
                }
            }
            Err(why) => {
                lost.extend(match why {
                    Unusable::Layout => Some((RestoreResult::Layout, 1)),
                    Unusable::Boot => Some((RestoreResult::Boot, 1)),
                    Unusable::Unfinished => None,
                });
                mapped.discard();
                home.remove(&name);
            }
        }
    }
    let exact = ours.iter().flatten().chain(&others).next();
    let mut disk = None;
    if let Some(kept) = exact {
        clock = kept.store.clock();
    } else if let Some(key) = key {
        disk = filling::begin(&config.node.state_dir, key, &mut clock, &mut lost);
    }
    let mut stores = Vec::new();
    for (worker, place) in (0..).zip(ours) {
        stores.push(match place {
            Some(kept) => (id_of(&kept.name), kept.store),
            None => create(home, worker, bytes, clock, boot)?,
        });
    }
    let before: Vec<_> = others.iter().map(|kept| Arc::clone(&kept.store)).collect();
    let now: Vec<_> = stores.iter().map(|(_, store)| Arc::clone(store)).collect();
    if let Some(disk) = &disk {
        filling::fill(disk, &now, &mut lost);
    }
    let all: Vec<_> = now.iter().chain(&before).cloned().collect();
    adopt_chains(&all, &now);
    let listeners: Vec<u64> = config
        .listeners
        .iter()
        .map(|listener| listener_mark(Transport::Dtls, &listener.name))
        .collect();
    let gone = move_records(&all, &now, &listeners);
    lost.push((RestoreResult::Gone, gone));
    now.iter().for_each(|store| store.filled());
    for kept in others {
        kept.mapped.discard();
        home.remove(&kept.name);
    }
    lost.retain(|(_, count)| *count > 0);
    Ok(Placed { stores, lost, disk })
}

fn create(
    home: &Home,
    worker: u8,
    bytes: u64,
    clock: Clock,
    boot: [u64; 2],
) -> io::Result<(u64, Arc<Store>)> {
    let mut unique = [0; 8];
    openssl::rand::rand_bytes(&mut unique)?;
    let name = format!("state.{worker}-{}", hex::encode(unique));
    let mapped = home.create(&name, bytes)?;
    let store = Store::create(mapped.memory(), clock, boot, worker).ok_or(io::ErrorKind::OutOfMemory)?;
    Ok((id_of(&name), Arc::new(store)))
}

/// Moves the records of all stores to where the packets of their peers will arrive. How many sessions are of no listener of now.
fn move_records(from: &[Arc<Store>], to: &[Arc<Store>], listeners: &[u64]) -> u64 {
    let (mut marks, mut with, mut gone) = (HashMap::new(), Vec::new(), 0);
    for store in from {
        let mut stay = Vec::new();
        for record in store.found(Kind::ANY) {
            let Some(contents) = store.contents(record) else {
                continue;
            };
            let stays = usize::from(store.worker());
            let worker = match (
                dtls::place_of(&contents),
                gateway::place_of(&contents, to.len() as u8),
            ) {
                (Some(place), _) if !listeners.contains(&place.listener) => {
                    store.free(record);
                    gone += 1;
                    continue;
                }
                (Some(place), _) => place.steered_by.map_or(stays, usize::from),
                (None, Some(Place::Worker(worker))) => usize::from(worker.0),
                (None, Some(Place::Stays)) => stays,
                (None, Some(Place::With(mark))) => {
                    with.push((store, record, contents, mark));
                    continue;
                }
                (None, None) => {
                    stay.push(record);
                    continue;
                }
            } % to.len().max(1);
            marks.insert(record.get(MARK), worker);
            stay.extend(move_record(store, record, &contents, to.get(worker)));
        }
        store.leave(stay);
    }
    for (store, record, contents, mark) in with {
        match marks.get(&mark) {
            Some(worker) => store.leave(
                move_record(store, record, &contents, to.get(*worker))
                    .into_iter()
                    .collect(),
            ),
            None => store.free(record),
        }
    }
    gone
}

/// Moves a record into another store; it itself where that is its own.
fn move_record(
    store: &Arc<Store>,
    record: Record,
    contents: &Contents,
    to: Option<&Arc<Store>>,
) -> Option<Record> {
    let Some(to) = to.filter(|to| !Arc::ptr_eq(to, store)) else {
        return Some(record);
    };
    // In this order: a process that is killed in between leaves two of it, of which the next one takes one.
    if let Some(moved) = to.put(contents.kind, &contents.hot, &contents.body) {
        to.leave(vec![moved]);
    }
    store.free(record);
    None
}

/// What names this run of the machine, where that can be read: a unit may hide it, and memory does not outlive it anyway.
fn boot() -> [u64; 2] {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id = u128::from_str_radix(&id.trim().replace('-', ""), 16).unwrap_or_default();
    [(id >> 64) as u64, id as u64]
}

/// Says what a worker goes on with, and what it does not.
pub(super) fn report(worker: WorkerId, restored: &Restored) {
    let (goes_on, does_not) = (restored.goes_on(), restored.does_not());
    if !does_not.is_empty() {
        warn!(
            worker = worker.0,
            goes_on, does_not, "not all of before the restart goes on"
        );
    } else if !goes_on.is_empty() {
        info!(worker = worker.0, goes_on, "what was before the restart goes on");
    }
}
