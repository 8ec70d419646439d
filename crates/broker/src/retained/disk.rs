//! The retained store on disk: one thread that commits all writes that wait in one transaction.

use std::collections::HashMap;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::Database;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::database::{MAX_BATCH, Trouble, commit, is_full, make, open_file, open_or_create, open_whole};
use crate::aside;
use crate::clock::Moment;
use crate::private;
use crate::start::StartFault;
use portcullis_proto::types::{Message, TopicName};

/// The file in the state directory.
const FILE: &str = "retained.redb";
/// Writes that wait for the disk before more are refused.
const MAX_WAITING: usize = 16_384;
/// Room that is given up when the disk is full, so that what clears a message can still be written.
const RESERVE: &str = "retained.reserve";
const RESERVE_BYTES: usize = 512 << 10;
/// How often a full disk is looked at again.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// The name that a damaged store gets.
const DAMAGED: &str = "retained.redb.damaged";

/// Why the retained store cannot be used.
#[derive(Debug)]
pub(crate) struct RetainedError {
    /// The file.
    path: PathBuf,
    /// What is wrong with it.
    trouble: Trouble,
}

impl RetainedError {
    /// Whether it can get better by itself.
    pub(crate) fn fault(&self) -> StartFault {
        self.trouble.fault
    }
}

impl fmt::Display for RetainedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "retained store {}: {}",
            self.path.display(),
            self.trouble.reason
        )
    }
}

impl std::error::Error for RetainedError {}

struct Write {
    number: u64,
    topic: TopicName,
    record: Option<Vec<u8>>,
}

/// What became of writes.
#[derive(Debug)]
pub(crate) enum Durable {
    /// All writes up to this number are on disk.
    Upto(u64),
    /// The disk failed: no write after those already reported is on it, and this thread makes none any more.
    Failed(Arc<str>),
    /// A store that was written anew is whole, or a disk that was full takes messages again.
    Renewed,
    /// The disk is full: of the writes up to this number those that clear are on it, and the others will be once there is room.
    Full(Option<u64>),
}

/// What was found in a directory.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The way to the writing thread.
    pub(crate) disk: Disk,
    /// What becomes of writes.
    pub(crate) reports: Reports,
    /// The messages; those whose time is over expire at this very moment.
    pub(crate) messages: Vec<Message>,
    /// What was damaged, for a person to read.
    pub(crate) damage: Option<String>,
}

/// The way to the writing thread.
#[derive(Debug)]
pub(crate) struct Disk {
    writes: SyncSender<Write>,
    thread: JoinHandle<()>,
    next: u64,
}

/// What the writing thread says.
#[derive(Debug)]
pub(crate) struct Reports(UnboundedReceiver<Durable>);

impl Reports {
    /// What became of earlier writes; `None` once the thread ended. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Durable> {
        self.0.recv().await
    }
}

impl Disk {
    /// Opens or makes the store in `directory` and reads its messages. A damaged one is set aside, and begun anew.
    pub(crate) fn open(directory: &Path, moment: Moment) -> Result<Opened, RetainedError> {
        let path = directory.join(FILE);
        let fail = |trouble: Trouble| RetainedError {
            path: path.clone(),
            trouble,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| fail(Trouble::io("cannot make the directory", &error)))?;
        // Opening takes room too, if little.
        let reserve = directory.join(RESERVE);
        aside::make_way_for_file(&reserve)
            .map_err(|error| fail(Trouble::io("cannot make room for its reserve", &error)))?;
        drop(std::fs::remove_file(&reserve));
        if aside::is_dangling(&path) {
            // A store that is begun anew beside it would hide it once its disk is there.
            return Err(fail(Trouble {
                fault: StartFault::System,
                reason: "it is a link to a file that is not there; is its disk mounted?".into(),
            }));
        }
        let foreign = aside::no_regular_file(&path);
        if let Some(why) = foreign {
            aside::put_aside(&path, why).map_err(|error| fail(Trouble::io(why, &error)))?;
        }
        let (database, messages, damage) = match open_whole(&path, moment) {
            Err(trouble) if trouble.fault == StartFault::Wrong => {
                let aside = directory.join(DAMAGED);
                std::fs::rename(&path, &aside)
                    .map_err(|error| fail(Trouble::io("it is damaged and cannot be set aside", &error)))?;
                let damage = format!(
                    "the retained store: {}; it is set aside as {DAMAGED}",
                    trouble.reason
                );
                let (database, messages, _) = open_whole(&path, moment).map_err(fail)?;
                (database, messages, Some(damage))
            }
            opened => opened.map_err(fail)?,
        };
        let damage = damage
            .or(foreign.map(|why| format!("the retained store {why}; it is set aside as {FILE}.aside")));
        let (disk, reports) = Self::start(move |waiting, reporter| {
            Writer::new(database, path, reserve).write_all(waiting, reporter);
        })
        .map_err(|error| RetainedError {
            path: directory.join(FILE),
            trouble: Trouble::io("cannot start its thread", &error),
        })?;
        Ok(Opened {
            disk,
            reports,
            messages,
            damage,
        })
    }

    /// Writes a store with these messages in the place of one that failed, of which nothing is trusted any more. The first
    /// report says whether it is whole; writes wait until then.
    pub(crate) fn renew(
        directory: &Path,
        messages: Vec<Arc<Message>>,
        moment: Moment,
    ) -> io::Result<(Self, Reports)> {
        let (path, reserve) = (directory.join(FILE), directory.join(RESERVE));
        Self::start(move |waiting, reporter| {
            let made = make(&path, &messages, moment)
                .and_then(|()| open_or_create(&path))
                .and_then(open_file);
            drop(messages);
            let (database, report) = match made {
                Ok(database) => (Some(database), Durable::Renewed),
                Err(trouble) => (None, Durable::Failed(trouble.reason.into())),
            };
            if let (Ok(()), Some(database)) = (reporter.send(report), database) {
                Writer::new(database, path, reserve).write_all(waiting, reporter);
            }
        })
    }

    fn start(
        body: impl FnOnce(&Receiver<Write>, &UnboundedSender<Durable>) + Send + 'static,
    ) -> io::Result<(Self, Reports)> {
        let (writes, waiting) = sync_channel(MAX_WAITING);
        let (reporter, reports) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("retained".into())
            .spawn(move || body(&waiting, &reporter))?;
        let disk = Self {
            writes,
            thread,
            next: 0,
        };
        Ok((disk, Reports(reports)))
    }

    /// Queues one write, `None` to remove; gives its number, or `None` when too many wait or the disk failed.
    pub(crate) fn write(&mut self, topic: &TopicName, record: Option<Vec<u8>>) -> Option<u64> {
        let number = self.next;
        let write = Write {
            number,
            topic: topic.clone(),
            record,
        };
        match self.writes.try_send(write) {
            Ok(()) => {
                self.next += 1;
                Some(number)
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => None,
        }
    }

    /// Waits until everything queued is written, and gives those of `reports` that were not read yet.
    pub(crate) fn close(self, reports: Option<Reports>) -> Vec<Durable> {
        drop(self.writes);
        if self.thread.join().is_err() {
            tracing::error!("the retained store's thread ended abnormally");
        }
        let mut rest = Vec::new();
        if let Some(Reports(mut reports)) = reports {
            while let Ok(report) = reports.try_recv() {
                rest.push(report);
            }
        }
        rest
    }
}

/// The writing thread.
struct Writer {
    /// `None` while it is opened again.
    database: Option<Database>,
    path: PathBuf,
    reserve: PathBuf,
    /// What a full disk did not take: it is written once there is room. `None` while it is not full.
    held: Option<HashMap<TopicName, Vec<u8>>>,
    last: u64,
}

impl Writer {
    fn new(database: Database, path: PathBuf, reserve: PathBuf) -> Self {
        let held = fill_reserve(&reserve).is_err().then(HashMap::new);
        Self {
            database: Some(database),
            path,
            reserve,
            held,
            last: 0,
        }
    }

    fn write_all(mut self, waiting: &Receiver<Write>, reports: &UnboundedSender<Durable>) {
        if self.held.is_some() && reports.send(Durable::Full(None)).is_err() {
            return;
        }
        loop {
            let first = match waiting.recv_timeout(FULL_PAUSE) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut batch: HashMap<TopicName, Option<Vec<u8>>> = HashMap::new();
            for write in first.into_iter().chain(waiting.try_iter().take(MAX_BATCH)) {
                self.last = write.number;
                batch.insert(write.topic, write.record);
            }
            let report = match (batch.is_empty(), self.held.is_some()) {
                (true, false) => continue,
                (true, true) => self.try_again(),
                (false, false) => self.write(batch).map(Some),
                (false, true) => self.write_full(batch).map(Some),
            };
            let report = report.unwrap_or_else(|error| Some(Durable::Failed(error.to_string().into())));
            // What an fsync that failed left on disk is unknown, so after a failure this thread never writes again.
            let over = matches!(report, Some(Durable::Failed(_)));
            if report.is_some_and(|report| reports.send(report).is_err()) || over {
                return;
            }
        }
    }

    fn commit(&self, batch: &HashMap<TopicName, Option<Vec<u8>>>) -> Result<(), redb::Error> {
        let database = self.database.as_ref().ok_or(redb::Error::PreviousIo)?;
        commit(
            database,
            batch
                .iter()
                .map(|(topic, record)| (topic.clone(), record.clone())),
        )
    }

    fn write(&mut self, batch: HashMap<TopicName, Option<Vec<u8>>>) -> Result<Durable, redb::Error> {
        match self.commit(&batch) {
            Ok(()) => Ok(Durable::Upto(self.last)),
            Err(redb::Error::Io(error)) if is_full(&error) => {
                self.held = Some(HashMap::new());
                drop(std::fs::remove_file(&self.reserve));
                self.reopen()?;
                self.write_full(batch)
            }
            Err(error) => Err(error),
        }
    }

    /// After an error redb does nothing more; what was committed before is whole, and found when it is opened again.
    fn reopen(&mut self) -> Result<(), redb::Error> {
        self.database = None;
        let opened = open_or_create(&self.path).and_then(open_file);
        self.database = Some(opened.map_err(|trouble| io::Error::other(trouble.reason))?);
        Ok(())
    }

    /// Writes what clears, and holds the rest.
    fn write_full(&mut self, batch: HashMap<TopicName, Option<Vec<u8>>>) -> Result<Durable, redb::Error> {
        let held = self.held.get_or_insert_default();
        let mut clears = HashMap::new();
        for (topic, record) in batch {
            match record {
                Some(record) => drop(held.insert(topic, record)),
                None => {
                    held.remove(&topic);
                    clears.insert(topic, None);
                }
            }
        }
        if !clears.is_empty() {
            self.commit(&clears)?;
        }
        Ok(Durable::Full(Some(self.last)))
    }

    /// Whether there is room again: for the reserve, and for what was held.
    fn try_again(&mut self) -> Result<Option<Durable>, redb::Error> {
        if fill_reserve(&self.reserve).is_err() {
            return Ok(None);
        }
        let held = self.held.take().unwrap_or_default();
        let batch = held
            .into_iter()
            .map(|(topic, record)| (topic, Some(record)))
            .collect();
        Ok(match self.write(batch)? {
            Durable::Full(_) => None,
            _ => Some(Durable::Renewed),
        })
    }
}

/// Takes the reserve; where it cannot be had, what there was of it is given back.
fn fill_reserve(path: &Path) -> io::Result<()> {
    let filled = private::write(path, &vec![0; RESERVE_BYTES]).and_then(|file| file.sync_all());
    if filled.is_err() {
        drop(std::fs::remove_file(path));
    }
    filled
}

#[cfg(test)]
mod tests;
