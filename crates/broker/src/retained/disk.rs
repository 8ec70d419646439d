//! The retained store on disk: one thread that commits all writes that wait in one transaction.

use std::collections::HashMap;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::aside;
use crate::clock::Moment;
use crate::private;
use crate::record;
use crate::start::StartFault;
use portcullis_proto::types::{Message, TopicName};

/// The file in the state directory.
const FILE: &str = "retained.redb";
const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("retained");
/// Writes that wait for the disk before more are refused.
const MAX_WAITING: usize = 16_384;
/// Writes in one transaction.
const MAX_BATCH: usize = 4_096;
const CACHE_BYTES: usize = 16 << 20;
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

/// What is wrong with the file, and whether it can get better by itself.
#[derive(Debug)]
struct Trouble {
    fault: StartFault,
    reason: String,
}

impl Trouble {
    fn io(what: &str, error: &io::Error) -> Self {
        Self {
            fault: StartFault::of(error),
            reason: format!("{what}: {error}"),
        }
    }

    fn damaged(what: &str) -> Self {
        Self {
            fault: StartFault::Wrong,
            reason: format!("it is damaged ({what})"),
        }
    }
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

/// Makes a store with `messages` under another name first: redb would not open what a kill leaves of one that is being
/// made. When that fails, what it took of the disk is given back.
fn make(path: &Path, messages: &[Arc<Message>], moment: Moment) -> Result<(), Trouble> {
    let unfinished = path.with_extension("new");
    aside::make_way_for_file(&unfinished).map_err(|error| Trouble::io("cannot make it", &error))?;
    let made = fill(&unfinished, messages, moment).and_then(|()| {
        let io = |error| Trouble::io("cannot make it", &error);
        std::fs::rename(&unfinished, path).map_err(io)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io)
    });
    if let Err(Trouble {
        fault: StartFault::System,
        ..
    }) = made
    {
        // It may not be there; and what went wrong before says more.
        drop(std::fs::remove_file(&unfinished));
    }
    made
}

fn fill(unfinished: &Path, messages: &[Arc<Message>], moment: Moment) -> Result<(), Trouble> {
    let file = open_or_create(unfinished)?;
    let io = |error: io::Error| Trouble::io("cannot make it", &error);
    let again = file.try_clone().map_err(io)?;
    let backend = FileBackend::new(file).map_err(|error| explain(&error))?;
    // Locked from here on. What an earlier attempt left there is worth nothing.
    again.set_len(0).map_err(io)?;
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)
        .map_err(|error| explain(&error))?;
    for chunk in messages.chunks(MAX_BATCH) {
        let records = chunk.iter().map(|message| {
            let mut bytes = Vec::with_capacity(message.payload.len() + 128);
            record::encode(message, None, moment, &mut bytes);
            (message.topic.clone(), Some(bytes))
        });
        commit(&database, records).map_err(|error| unusable(&error))?;
    }
    drop(database);
    again.sync_all().map_err(io)
}

fn open_or_create(path: &Path) -> Result<File, Trouble> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| Trouble::io("cannot open it", &error))
}

fn open_file(file: File) -> Result<Database, Trouble> {
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(FileBackend::new(file).map_err(|error| explain(&error))?)
        .map_err(|error| explain(&error))
}

fn explain(error: &redb::DatabaseError) -> Trouble {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Trouble {
            fault: StartFault::Taken,
            reason: "another process has it open".into(),
        },
        redb::DatabaseError::Storage(redb::StorageError::Corrupted(what)) => Trouble::damaged(what),
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => unreadable(error),
        error => Trouble {
            fault: StartFault::Wrong,
            reason: format!("cannot open it: {error}"),
        },
    }
}

/// An error in the midst of a transaction.
fn unusable(error: &redb::Error) -> Trouble {
    match error {
        redb::Error::Io(error) => unreadable(error),
        error => Trouble::damaged(&error.to_string()),
    }
}

fn unreadable(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::InvalidData => Trouble::damaged(&error.to_string()),
        _ => Trouble::io("cannot open it", error),
    }
}

/// The store, its messages, and what is damaged in it.
fn open_whole(path: &Path, moment: Moment) -> Result<(Database, Vec<Message>, Option<String>), Trouble> {
    if !path
        .try_exists()
        .map_err(|error| Trouble::io("cannot open it", &error))?
    {
        make(path, &[], moment)?;
    }
    let database = open_file(open_or_create(path)?)?;
    let (messages, damaged) = load(&database, moment)?;
    let damage = (damaged > 0).then(|| format!("{damaged} retained messages were damaged and are lost"));
    Ok((database, messages, damage))
}

/// The whole messages, and how many are not. Nothing is written, so it works on a full disk.
fn load(database: &Database, moment: Moment) -> Result<(Vec<Message>, u64), Trouble> {
    let read = || -> Result<(Vec<Message>, u64), redb::Error> {
        let transaction = database.begin_read()?;
        let table = match transaction.open_table(TABLE) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok((Vec::new(), 0)),
            table => table?,
        };
        let (mut messages, mut unfit, mut damaged) = (Vec::new(), 0_u64, 0);
        for row in table.iter()? {
            let (topic, value) = row?;
            if TopicName::new(topic.value()).is_err() {
                unfit += 1;
                continue;
            }
            match record::decode(value.value(), moment) {
                Some(record) if record.message.topic.as_str() == topic.value() => {
                    messages.push(record.message)
                }
                _ => damaged += 1,
            }
        }
        if unfit > 0 {
            tracing::warn!(
                messages = unfit,
                "retained messages on topics that MQTT does not carry are left out"
            );
        }
        Ok((messages, damaged))
    };
    read().map_err(|error| unusable(&error))
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

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Takes the reserve; where it cannot be had, what there was of it is given back.
fn fill_reserve(path: &Path) -> io::Result<()> {
    let filled = private::write(path, &vec![0; RESERVE_BYTES]).and_then(|file| file.sync_all());
    if filled.is_err() {
        drop(std::fs::remove_file(path));
    }
    filled
}

fn commit(
    database: &Database,
    writes: impl Iterator<Item = (TopicName, Option<Vec<u8>>)>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        for (topic, record) in writes {
            match record {
                Some(record) => drop(table.insert(topic.as_str(), record.as_slice())?),
                None => drop(table.remove(topic.as_str())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{clock, message};

    fn encoded(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        record::encode(message, None, clock().moment(), &mut bytes);
        bytes
    }

    fn filled(directory: &Path, count: usize) {
        let Opened {
            mut disk, reports, ..
        } = Disk::open(directory, clock().moment()).unwrap();
        for index in 0..count {
            let message = message(&format!("t/{index}"), "payload");
            disk.write(&message.topic, Some(encoded(&message))).unwrap();
        }
        let reports = disk.close(Some(reports));
        assert!(matches!(reports.last(), Some(Durable::Upto(last)) if *last as usize == count - 1));
    }

    #[test]
    fn what_is_reported_durable_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 100);
        let mut opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!(opened.messages.len(), 100);
        opened.disk.write(&opened.messages[0].topic, None).unwrap();
        opened.disk.close(Some(opened.reports));
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!(opened.messages.len(), 99);
    }

    /// CVE-2017-9868.
    #[test]
    fn what_is_retained_on_disk_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("retained");
        filled(&directory, 3);
        let files = std::fs::read_dir(&directory).unwrap();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(!paths.is_empty());
        paths.push(directory);
        for path in paths {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
    }

    #[test]
    fn a_topic_that_mqtt_does_not_carry_is_left_out_and_does_not_stop_the_start() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 3);
        let database = Database::create(directory.path().join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        let value = encoded(&message("t/0", "payload"));
        transaction
            .open_table(TABLE)
            .unwrap()
            .insert("bad\u{1}", value.as_slice())
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!(opened.messages.len(), 3);
    }

    #[test]
    fn a_second_process_is_told_that_the_store_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let _opened = Disk::open(directory.path(), clock().moment()).unwrap();
        let error = Disk::open(directory.path(), clock().moment()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        assert!(error.to_string().contains("retained.redb"), "{error}");
    }

    #[test]
    fn what_a_kill_left_of_a_store_that_was_being_made_is_made_anew() {
        let finished = tempfile::tempdir().unwrap();
        filled(finished.path(), 1);
        let whole = std::fs::read(finished.path().join(FILE)).unwrap();
        for length in [0, 100, 4096, whole.len()] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(FILE);
            // redb writes its magic number last.
            let mut half = whole[..length].to_vec();
            half.iter_mut().take(64).for_each(|byte| *byte = 0);
            std::fs::write(path.with_extension("new"), half).unwrap();
            let opened = Disk::open(directory.path(), clock().moment()).unwrap();
            assert_eq!(opened.messages.len(), 0);
            assert!(path.exists() && !path.with_extension("new").exists());
        }
    }

    #[test]
    fn a_file_that_is_no_store_is_set_aside_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let rubbish = b"not a database at all".repeat(1000);
        std::fs::write(directory.path().join(FILE), &rubbish).unwrap();
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert!(opened.damage.unwrap().contains("retained.redb.damaged"));
        assert_eq!(std::fs::read(directory.path().join(DAMAGED)).unwrap(), rubbish);
        opened.disk.close(Some(opened.reports));
        filled(directory.path(), 3);
    }

    #[test]
    fn a_directory_in_the_place_of_the_store_or_its_reserve_refuses_no_retained_message() {
        let directory = tempfile::tempdir().unwrap();
        for name in [FILE, RESERVE, "retained.new"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert!(opened.damage.unwrap().contains("retained.redb.aside"));
        opened.disk.close(Some(opened.reports));
        filled(directory.path(), 3);
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!((opened.messages.len(), opened.damage), (3, None));
    }

    #[test]
    fn one_damaged_record_costs_itself() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 3);
        let database = open_file(open_or_create(&directory.path().join(FILE)).unwrap()).unwrap();
        let topic = TopicName::new("t/1").unwrap();
        commit(&database, [(topic, Some(b"no record".to_vec()))].into_iter()).unwrap();
        drop(database);
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!(opened.messages.len(), 2);
        assert!(opened.damage.unwrap().contains("1 retained message"));
    }

    #[test]
    fn the_reserve_is_given_up_and_taken_again() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 5);
        let path = directory.path().join(FILE);
        let reserve = directory.path().join(RESERVE);
        let (database, ..) = open_whole(&path, clock().moment()).unwrap();
        let mut writer = Writer::new(database, path, reserve.clone());
        assert!(writer.held.is_none() && reserve.exists());
        // As after the error of a full disk.
        writer.held = Some(HashMap::new());
        std::fs::remove_file(&reserve).unwrap();
        writer.reopen().unwrap();
        let record = encoded(&message("new", "x"));
        let batch = HashMap::from([
            (TopicName::new("new").unwrap(), Some(record)),
            (TopicName::new("t/0").unwrap(), None),
        ]);
        assert!(matches!(writer.write_full(batch), Ok(Durable::Full(_))));
        std::fs::create_dir(&reserve).unwrap();
        assert!(matches!(writer.try_again(), Ok(None)), "still no room");
        std::fs::remove_dir(&reserve).unwrap();
        assert!(matches!(writer.try_again(), Ok(Some(Durable::Renewed))));
        drop(writer);
        let opened = Disk::open(directory.path(), clock().moment()).unwrap();
        let mut topics: Vec<&str> = opened
            .messages
            .iter()
            .map(|message| message.topic.as_str())
            .collect();
        topics.sort_unstable();
        assert_eq!(topics, ["new", "t/1", "t/2", "t/3", "t/4"]);
    }

    #[test]
    fn damage_never_stops_the_start_nor_changes_a_message() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let original = tempfile::tempdir().unwrap();
        filled(original.path(), 200);
        let good = std::fs::read(original.path().join(FILE)).unwrap();
        let mut rng = StdRng::seed_from_u64(3);
        for round in 0..60 {
            let mut bytes = good.clone();
            if round % 3 == 0 {
                bytes.truncate(rng.random_range(0..bytes.len()));
            } else {
                for _ in 0..rng.random_range(1..8) {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
            }
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join(FILE), &bytes).unwrap();
            let opened = Disk::open(directory.path(), clock().moment()).unwrap();
            assert!(
                opened.messages.len() == 200 || opened.damage.is_some(),
                "round {round}"
            );
            assert!(
                opened.messages.iter().all(|message| message.payload == "payload"),
                "round {round}"
            );
        }
    }
}
