//! The retained store on disk: one thread that commits all writes that wait in one transaction.

use std::collections::HashMap;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::clock::Moment;
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
            reason: format!("it is damaged ({what}); move it away to start without retained messages"),
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
    /// A store that was written anew is whole.
    Renewed,
}

/// The way to the writing thread.
#[derive(Debug)]
pub(crate) struct Disk {
    writes: SyncSender<Write>,
    reports: UnboundedReceiver<Durable>,
    thread: JoinHandle<()>,
    next: u64,
}

impl Disk {
    /// Opens or makes the store in `directory` and reads its messages; those whose time is over expire at this very moment.
    pub(crate) fn open(directory: &Path, moment: Moment) -> Result<(Self, Vec<Message>), RetainedError> {
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
        if !path.exists() {
            make(&path, &[], moment).map_err(fail)?;
        }
        let database = open_file(open_or_create(&path).map_err(fail)?).map_err(fail)?;
        let messages = load(&database, moment).map_err(fail)?;
        let disk = Self::start(move |waiting, reporter| write_all(&database, waiting, reporter))
            .map_err(|error| fail(Trouble::io("cannot start its thread", &error)))?;
        Ok((disk, messages))
    }

    /// Writes a store with these messages in the place of one that failed, of which nothing is trusted any more. The first
    /// report says whether it is whole; writes wait until then.
    pub(crate) fn renew(directory: &Path, messages: Vec<Arc<Message>>, moment: Moment) -> io::Result<Self> {
        let path = directory.join(FILE);
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
                write_all(&database, waiting, reporter);
            }
        })
    }

    fn start(
        body: impl FnOnce(&Receiver<Write>, &UnboundedSender<Durable>) + Send + 'static,
    ) -> io::Result<Self> {
        let (writes, waiting) = sync_channel(MAX_WAITING);
        let (reporter, reports) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("retained".into())
            .spawn(move || body(&waiting, &reporter))?;
        Ok(Self {
            writes,
            reports,
            thread,
            next: 0,
        })
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

    /// What became of earlier writes; `None` once the thread ended. Cancel safe.
    pub(crate) async fn report(&mut self) -> Option<Durable> {
        self.reports.recv().await
    }

    /// Waits until everything queued is written, and gives the reports that were not read yet.
    pub(crate) fn close(mut self) -> Vec<Durable> {
        drop(self.writes);
        if self.thread.join().is_err() {
            tracing::error!("the retained store's thread ended abnormally");
        }
        let mut rest = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            rest.push(report);
        }
        rest
    }
}

/// Makes a store with `messages` under another name first: redb would not open what a kill leaves of one that is being
/// made. When that fails, what it took of the disk is given back.
fn make(path: &Path, messages: &[Arc<Message>], moment: Moment) -> Result<(), Trouble> {
    let unfinished = path.with_extension("new");
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

fn load(database: &Database, moment: Moment) -> Result<Vec<Message>, Trouble> {
    let read = || -> Result<Result<Vec<Message>, Trouble>, redb::Error> {
        // A first write makes the table, so that reading finds it.
        let setup = database.begin_write()?;
        setup.open_table(TABLE)?;
        setup.commit()?;
        let transaction = database.begin_read()?;
        let table = transaction.open_table(TABLE)?;
        let (mut messages, mut unfit) = (Vec::new(), 0_u64);
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
                _ => return Ok(Err(Trouble::damaged("a record does not match its checksum"))),
            }
        }
        if unfit > 0 {
            tracing::warn!(
                messages = unfit,
                "retained messages on topics that MQTT does not carry are left out"
            );
        }
        Ok(Ok(messages))
    };
    read().unwrap_or_else(|error| Err(unusable(&error)))
}

fn write_all(database: &Database, waiting: &Receiver<Write>, reports: &UnboundedSender<Durable>) {
    let mut batch: HashMap<TopicName, Option<Vec<u8>>> = HashMap::new();
    while let Ok(first) = waiting.recv() {
        let mut last = first.number;
        batch.insert(first.topic, first.record);
        for write in waiting.try_iter().take(MAX_BATCH) {
            last = write.number;
            batch.insert(write.topic, write.record);
        }
        let report = match commit(database, batch.drain()) {
            Ok(()) => Durable::Upto(last),
            Err(error) => {
                // What an fsync that failed left on disk is unknown, so this thread never writes again.
                let told = reports.send(Durable::Failed(error.to_string().into()));
                drop(told);
                return;
            }
        };
        if reports.send(report).is_err() {
            return;
        }
    }
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
        let (mut disk, _) = Disk::open(directory, clock().moment()).unwrap();
        for index in 0..count {
            let message = message(&format!("t/{index}"), "payload");
            disk.write(&message.topic, Some(encoded(&message))).unwrap();
        }
        let reports = disk.close();
        assert!(matches!(reports.last(), Some(Durable::Upto(last)) if *last as usize == count - 1));
    }

    #[test]
    fn what_is_reported_durable_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 100);
        let (mut disk, messages) = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!(messages.len(), 100);
        disk.write(&messages[0].topic, None).unwrap();
        disk.close();
        let (_disk, messages) = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!(messages.len(), 99);
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
        let (_disk, messages) = Disk::open(directory.path(), clock().moment()).unwrap();
        assert_eq!(messages.len(), 3);
    }

    #[test]
    fn a_second_process_is_told_that_the_store_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let (_disk, _) = Disk::open(directory.path(), clock().moment()).unwrap();
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
            let (_disk, messages) = Disk::open(directory.path(), clock().moment()).unwrap();
            assert_eq!(messages.len(), 0);
            assert!(path.exists() && !path.with_extension("new").exists());
        }
    }

    #[test]
    fn a_file_that_is_no_store_is_named_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), b"not a database at all".repeat(1000)).unwrap();
        let error = Disk::open(directory.path(), clock().moment()).unwrap_err();
        assert!(error.to_string().contains("retained.redb"), "{error}");
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn damage_gives_an_error_or_whole_messages_and_never_a_panic() {
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
            match Disk::open(directory.path(), clock().moment()) {
                Err(error) => assert!(error.to_string().contains("retained.redb"), "{error}"),
                Ok((_, messages)) => {
                    assert!(
                        messages.iter().all(|message| message.payload == "payload"),
                        "round {round}"
                    );
                }
            }
        }
    }
}
