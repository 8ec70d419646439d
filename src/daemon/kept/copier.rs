//! The thread that copies kept state to disk, behind the workers' backs: they store their words in memory as ever, and it looks what
//! changed. What is to be copied is told by a bit for each place, so that nothing piles up however slow the disk is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::config::state_key::StateKey;
use crate::dtls::may_leave_memory;
use crate::gateway::kept::outlasts;
use crate::state::{Contents, Store};
use crate::types::metrics::Counter;

use super::super::clock;
use super::disk::{Counted, Disk, Place};
use super::watched::{Due, Known, Watched};

/// What changed in this time is written in one transaction.
const TOGETHER: Duration = Duration::from_millis(100);
/// How often words are looked at that change with each packet.
const LOOK: Duration = Duration::from_secs(1);
/// Records of one transaction.
const MOST: usize = 4096;
/// After a failure the disk is left alone for this long.
const PAUSE: Duration = Duration::from_secs(5);
/// What is still to be written when the process ends may take this long.
const LAST: Duration = Duration::from_secs(4);

portcullis_proto::metrics! {
    /// How the copy on disk is.
    pub struct DiskMetrics {
        /// Records of kept state that stand on disk.
        pub records: Counter = gauge "state_disk_records" [],
        /// Bytes of the file with kept state.
        pub bytes: Counter = gauge "state_disk_bytes" [],
        /// Transactions of kept state that the disk did not take; what they held is written once it does.
        pub failures: Counter = counter "state_disk_failures_total" [],
        /// 1 while the disk does not take kept state: what is new would not outlast a power loss.
        pub failed: Counter = gauge "state_disk_failed" [],
    }
}

/// Copies stores to the file in a state directory.
struct Copier {
    directory: PathBuf,
    key: StateKey,
    stores: Vec<(u64, Watched)>,
    /// None until the next attempt to open it.
    disk: Option<Disk>,
    /// What stands on disk of stores that are no more. It goes when all that is now is there.
    stale: Vec<Place>,
    next_look: Instant,
    not_before: Instant,
    metrics: Arc<DiskMetrics>,
}

impl Copier {
    /// Writes what is to be written now. Whether that was all.
    fn turn(&mut self, now: Instant) -> bool {
        if self.disk.is_none() && (now < self.not_before || !self.open(now)) {
            return true;
        }
        let looks = now >= self.next_look;
        let (mut rows, mut all) = (Vec::new(), true);
        for (at, (_, copied)) in self.stores.iter().enumerate() {
            let room = MOST.saturating_sub(rows.len());
            let mut places = copied.store.take_changed(room);
            if looks {
                let moved = copied.moved(now);
                places.extend(moved.take(room.saturating_sub(places.len())));
            }
            all &= places.len() < room;
            rows.extend(
                places
                    .into_iter()
                    .filter_map(|index| Some((at, copied.look_at(index, now, Duration::MAX, is_copied)?))),
            );
        }
        if looks && all {
            self.next_look = now + LOOK;
        }
        let stale = if all {
            std::mem::take(&mut self.stale)
        } else {
            Vec::new()
        };
        if rows.is_empty() && stale.is_empty() {
            return true;
        }
        let written = self.write(now, rows, &stale);
        if let Err(error) = written {
            self.stale = stale;
            self.fail(now, &error.to_string());
            return true;
        }
        if self.metrics.failed.get() != 0 {
            tracing::info!("kept state is on disk again");
            self.metrics.failed.set(0);
        }
        let records: usize = self.stores.iter().map(|(_, copied)| copied.known.len()).sum();
        self.metrics.records.set(records as u64);
        self.metrics.bytes.set(self.disk.as_ref().map_or(0, Disk::bytes));
        all
    }

    fn write(&mut self, now: Instant, rows: Vec<(usize, Due)>, stale: &[Place]) -> Result<(), redb::Error> {
        let disk = self.disk.as_mut().ok_or(redb::Error::PreviousIo)?;
        let known: Vec<_> = rows
            .iter()
            .map(|(at, (index, contents))| (*at, *index, contents.as_ref().map(|it| Known::of(it, now))))
            .collect();
        let stores = &self.stores;
        let named = rows.into_iter().filter_map(|(at, (index, contents))| {
            let (id, copied) = stores.get(at)?;
            let row = contents.map(|contents| (copied.store.worker(), contents));
            Some(((*id, index), row))
        });
        let gone = stale.iter().map(|place| (*place, None));
        let written = disk.commit(named.chain(gone), counted(stores, now));
        for (at, index, known) in known {
            let Some((_, copied)) = self.stores.get_mut(at) else {
                continue;
            };
            match (&written, known) {
                (Ok(()), Some(known)) => drop(copied.known.insert(index, known)),
                (Ok(()), None) => drop(copied.known.remove(&index)),
                (Err(_), _) => copied.store.look_again(index),
            }
        }
        written
    }

    /// Opens the file, and sees what of now stands there already.
    fn open(&mut self, now: Instant) -> bool {
        let opened = match Disk::open(&self.directory, &self.key) {
            Ok((disk, _)) => self
                .compare(now, &disk)
                .map(|()| disk)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match opened {
            Ok(disk) => self.disk = Some(disk),
            Err(error) => self.fail(now, &error),
        }
        self.disk.is_some()
    }

    fn compare(&mut self, now: Instant, disk: &Disk) -> Result<(), redb::Error> {
        self.stale.clear();
        self.stores
            .iter_mut()
            .for_each(|(_, copied)| copied.known.clear());
        let (stores, stale) = (&mut self.stores, &mut self.stale);
        disk.read(|(id, index), row| {
            let copied = stores.iter_mut().find(|(its, _)| *its == id);
            if let (Some((_, copied)), Some(row)) = (copied, row) {
                copied.known.insert(index, Known::of(&row.contents, now));
                copied.store.look_again(index);
            } else {
                stale.push((id, index));
            }
        })
    }

    /// After an error redb does nothing more; what was committed before is whole, and found when it is opened again.
    fn fail(&mut self, now: Instant, error: &str) {
        self.metrics.failures.inc();
        if self.metrics.failed.get() == 0 {
            tracing::error!(
                error,
                "kept state is not written to disk: what is new would not outlast a power loss"
            );
            self.metrics.failed.set(1);
        }
        (self.disk, self.not_before) = (None, now + PAUSE);
    }

    fn run(mut self, ends: &Receiver<()>) {
        loop {
            let ends = !matches!(ends.recv_timeout(TOGETHER), Err(RecvTimeoutError::Timeout));
            let begun = clock::now();
            if ends {
                // Whatever moved at all is written now: nobody will come later.
                for (_, copied) in &self.stores {
                    copied
                        .known
                        .keys()
                        .for_each(|index| copied.store.look_again(*index));
                }
            }
            while !self.turn(clock::now()) {
                if ends && clock::now() > begun + LAST {
                    tracing::warn!("not all of kept state is on disk");
                    return;
                }
            }
            if ends {
                return;
            }
        }
    }
}

/// What the times of the stores mean now; they are the same in all.
fn counted(stores: &[(u64, Watched)], now: Instant) -> Counted {
    let counted = stores
        .first()
        .map_or(0, |(_, copied)| copied.store.clock().millis(now));
    let counted = Duration::from_millis(counted);
    let wall = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    Counted {
        began: wall.saturating_sub(counted),
        counted,
    }
}

/// What another run of the machine can go on with.
fn is_copied(contents: &Contents) -> bool {
    outlasts(contents.kind) && may_leave_memory(contents)
}

/// The thread.
#[derive(Debug)]
pub(super) struct Copying {
    ends: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Copying {
    /// Copies stores from now on, each under its id. `disk` is the file where it is open already.
    pub(super) fn start(
        (directory, key): (PathBuf, StateKey),
        stores: impl IntoIterator<Item = (u64, Arc<Store>)>,
        disk: Option<Disk>,
        metrics: Arc<DiskMetrics>,
    ) -> std::io::Result<Self> {
        let copied = |(id, store): (u64, Arc<Store>)| (id, Watched::new(store));
        let now = clock::now();
        let mut copier = Copier {
            directory,
            key,
            stores: stores.into_iter().map(copied).collect(),
            disk: None,
            stale: Vec::new(),
            next_look: now,
            not_before: now,
            metrics,
        };
        if let Some(disk) = disk {
            match copier.compare(now, &disk) {
                Ok(()) => copier.disk = Some(disk),
                Err(error) => copier.fail(now, &error.to_string()),
            }
        }
        let (ends, end) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || copier.run(&end))?;
        Ok(Self { ends, thread })
    }

    /// Writes what is left, and ends.
    pub(super) fn finish(self) {
        drop(self.ends);
        if self.thread.join().is_err() {
            tracing::error!("the thread of kept state ended abnormally");
        }
    }
}
