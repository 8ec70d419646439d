//! The file of the retained store: made, opened, read and written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::aside;
use crate::clock::Moment;
use crate::record;
use crate::start::StartFault;
use portcullis_proto::types::{Message, TopicName};

pub(super) const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("retained");
/// Writes in one transaction.
pub(super) const MAX_BATCH: usize = 4_096;
const CACHE_BYTES: usize = 16 << 20;

/// What is wrong with the file, and whether it can get better by itself.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) fault: StartFault,
    pub(super) reason: String,
}

impl Trouble {
    pub(super) fn io(what: &str, error: &io::Error) -> Self {
        Self {
            fault: StartFault::of(error),
            reason: format!("{what}: {error}"),
        }
    }

    pub(super) fn damaged(what: &str) -> Self {
        Self {
            fault: StartFault::Wrong,
            reason: format!("it is damaged ({what})"),
        }
    }
}

/// Makes a store with `messages` under another name first: redb would not open what a kill leaves of one that is being
/// made. When that fails, what it took of the disk is given back.
pub(super) fn make(path: &Path, messages: &[Arc<Message>], moment: Moment) -> Result<(), Trouble> {
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

pub(super) fn open_or_create(path: &Path) -> Result<File, Trouble> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| Trouble::io("cannot open it", &error))
}

pub(super) fn open_file(file: File) -> Result<Database, Trouble> {
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
pub(super) fn open_whole(
    path: &Path,
    moment: Moment,
) -> Result<(Database, Vec<Message>, Option<String>), Trouble> {
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

pub(super) fn commit(
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

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
