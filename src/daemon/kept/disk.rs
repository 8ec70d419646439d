//! The file with the copy of kept state that outlives the machine's run.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};

use crate::config::state_key::StateKey;
use crate::session::RestoreResult;
use crate::state::{Contents, HOT_WORDS, Kind, LAYOUT, ReadBytes, WriteBytes};

use super::seal::Sealer;

const FILE: &str = "state.redb";
/// While it is made: what a kill leaves of it then does not open.
const UNFINISHED: &str = "state.redb.new";
const CACHE_BYTES: usize = 16 << 20;

/// The store that a record is in, and its place there.
pub(super) type Place = (u64, u32);

const RECORDS: TableDefinition<'_, Place, &[u8]> = TableDefinition::new("records");
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");

/// How the records are laid out, and how values are.
const AT_LAYOUT: &str = "layout";
const VALUES: u64 = LAYOUT ^ 1 << 32;
const AT_KEY: &str = "key";
/// How often a process began from it.
const AT_GENERATION: &str = "generation";
/// When the times in the records begin to count, in milliseconds since 1970.
const AT_BEGAN: &str = "began";
/// What they had counted to when something was last written.
const AT_COUNTED: &str = "counted";

/// A record as it stands on disk.
pub(super) struct Row {
    /// Whose it was.
    pub(super) worker: u8,
    /// How often a process had begun from the file when it was written.
    pub(super) generation: u64,
    pub(super) contents: Contents,
}

impl Row {
    fn write(worker: u8, generation: u64, contents: &Contents) -> WriteBytes {
        let mut out = WriteBytes::default();
        out.u8(contents.kind.0).u8(worker).u64(generation);
        for word in contents.hot {
            out.u64(word);
        }
        out.raw(&contents.body);
        out
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut bytes = ReadBytes(bytes);
        let kind = Kind(bytes.u8()?);
        let (worker, generation) = (bytes.u8()?, bytes.u64()?);
        let mut hot = [0; HOT_WORDS];
        for word in &mut hot {
            *word = bytes.u64()?;
        }
        Some(Self {
            worker,
            generation,
            contents: Contents {
                kind,
                hot,
                body: bytes.0.to_vec().into(),
            },
        })
    }
}

/// What a value's seal stands for besides: the layout, and whose value it is.
fn about((store, index): Place) -> [u8; 20] {
    let mut about = [0; 20];
    let fields = [VALUES.to_be_bytes(), store.to_be_bytes()];
    let bytes = fields.into_iter().flatten().chain(index.to_be_bytes());
    about.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    about
}

/// The time that the records of a store count, as it is written beside them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    /// When it began, since 1970.
    pub(super) began: Duration,
    /// How far it has come.
    pub(super) counted: Duration,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The file, open. What stands in it is inexact as soon as it is written.
pub(super) struct Disk {
    database: Database,
    path: PathBuf,
    sealer: Sealer,
    generation: u64,
}

type Outcome<T> = Result<T, redb::Error>;

impl Disk {
    /// Opens the file in a state directory, or makes it; and why nothing of what stood in it counts, where that is so.
    ///
    /// # Errors
    /// It can be neither opened nor made.
    pub(super) fn open(directory: &Path, key: &StateKey) -> Result<(Self, Option<RestoreResult>), String> {
        let path = directory.join(FILE);
        let say = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mark = Sealer::new(key.clone()).and_then(|sealer| Ok((sealer.mark()?, sealer)));
        let (mark, sealer) = mark.map_err(|error| say(&error))?;
        let mut refused = None;
        if path.exists() {
            let opened = open_file(&path).and_then(|database| Ok((look(&database, mark)?, database)));
            match opened {
                Ok((Ok(generation), database)) => {
                    let disk = Self {
                        database,
                        path,
                        sealer,
                        generation,
                    };
                    return Ok((disk, None));
                }
                Ok((Err(why), _)) => refused = Some(why),
                Err(redb::Error::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                    return Err(say(&error));
                }
                Err(redb::Error::DatabaseAlreadyOpen) => return Err(say(&"another process has it open")),
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "kept state on disk is damaged, and begun anew");
                    refused = Some(RestoreResult::Damaged);
                }
            }
        }
        make(directory, mark).map_err(|error| say(&error))?;
        let disk = Self {
            database: open_file(&path).map_err(|error| say(&error))?,
            path,
            sealer,
            generation: 0,
        };
        Ok((disk, refused))
    }

    /// Removes it with what stands in it, where it is.
    pub(super) fn remove(directory: &Path) {
        for name in [FILE, UNFINISHED] {
            let path = directory.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "kept state on disk cannot be removed");
                }
                _ => {}
            }
        }
    }

    /// How many processes have begun from what stands here.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |about| about.len())
    }

    /// Notes, and makes sure that it stays noted, that one more process begins from what stands here.
    pub(super) fn raise_generation(&mut self) -> Outcome<()> {
        let transaction = self.database.begin_write()?;
        let generation = self.generation + 1;
        transaction.open_table(ABOUT)?.insert(AT_GENERATION, generation)?;
        transaction.commit()?;
        self.generation = generation;
        Ok(())
    }

    /// What the times of the records mean; nothing where nothing was written yet.
    pub(super) fn counted(&self) -> Outcome<Option<Counted>> {
        let transaction = self.database.begin_read()?;
        let about = transaction.open_table(ABOUT)?;
        let time = |name| -> Outcome<Option<Duration>> {
            Ok(about
                .get(name)?
                .map(|millis| Duration::from_millis(millis.value())))
        };
        Ok(match (time(AT_BEGAN)?, time(AT_COUNTED)?) {
            (Some(began), Some(counted)) => Some(Counted { began, counted }),
            _ => None,
        })
    }

    /// Reads all records; nothing where one does not read back.
    pub(super) fn read(&self, mut each: impl FnMut(Place, Option<Row>)) -> Outcome<()> {
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(RECORDS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table?,
        };
        let mut opener = self.sealer.opener();
        for row in table.iter()? {
            let (place, value) = row?;
            let place = place.value();
            let opened = opener.open(&about(place), value.value());
            each(place, opened.and_then(|bytes| Row::read(&bytes)));
        }
        Ok(())
    }

    /// Writes records, and removes those without contents, all or none; `counted` says what their times mean.
    pub(super) fn commit(
        &mut self,
        rows: impl IntoIterator<Item = (Place, Option<(u8, Contents)>)>,
        counted: Counted,
    ) -> Outcome<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for (place, row) in rows {
                let Some((worker, contents)) = row else {
                    table.remove(place)?;
                    continue;
                };
                let plaintext = Row::write(worker, self.generation, &contents);
                let sealed = self.sealer.seal(&about(place), plaintext.as_slice());
                let sealed = sealed.map_err(|error| redb::Error::Io(io::Error::other(error)))?;
                table.insert(place, sealed.as_slice())?;
            }
            let mut about = transaction.open_table(ABOUT)?;
            about.insert(AT_BEGAN, millis(counted.began))?;
            about.insert(AT_COUNTED, millis(counted.counted))?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// How often a process began from a file; or why nothing of it counts.
fn look(database: &Database, mark: u64) -> Outcome<Result<u64, RestoreResult>> {
    let transaction = database.begin_read()?;
    let about = transaction.open_table(ABOUT)?;
    let number = |name| -> Outcome<Option<u64>> { Ok(about.get(name)?.map(|number| number.value())) };
    Ok(if number(AT_LAYOUT)? != Some(VALUES) {
        Err(RestoreResult::Layout)
    } else if number(AT_KEY)? != Some(mark) {
        Err(RestoreResult::Key)
    } else {
        Ok(number(AT_GENERATION)?.unwrap_or_default())
    })
}

fn open_file(path: &Path) -> Outcome<Database> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut builder = Database::builder();
    // What a broken disk gives back is found here, and not by a panic later.
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    Ok(builder.create_with_backend(FileBackend::new(file)?)?)
}

/// Makes an empty one, in place of what is there.
fn make(directory: &Path, mark: u64) -> Outcome<()> {
    let unfinished = directory.join(UNFINISHED);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    let database = Database::builder().create_with_backend(FileBackend::new(file)?)?;
    let transaction = database.begin_write()?;
    {
        let mut about = transaction.open_table(ABOUT)?;
        about.insert(AT_LAYOUT, VALUES)?;
        about.insert(AT_KEY, mark)?;
    }
    transaction.commit()?;
    drop(database);
    fs::rename(&unfinished, directory.join(FILE))?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Counted = Counted {
        began: Duration::from_secs(1_700_000_000),
        counted: Duration::from_secs(60),
    };

    fn open(directory: &Path, key: u8) -> (Disk, Option<RestoreResult>) {
        Disk::open(directory, &StateKey::new([key; 32])).unwrap()
    }

    fn contents(first: u64) -> Contents {
        Contents {
            kind: Kind(3),
            hot: std::array::from_fn(|at| first + at as u64),
            body: b"body".to_vec().into(),
        }
    }

    fn rows(disk: &Disk) -> Vec<(Place, u8, u64, u64)> {
        let mut rows = Vec::new();
        let each = |place, row: Option<Row>| {
            let row = row.unwrap();
            rows.push((place, row.worker, row.generation, row.contents.hot[0]));
        };
        disk.read(each).unwrap();
        rows
    }

    #[test]
    fn records_stand_there_until_they_are_removed_under_the_generation_of_their_writing() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, refused) = open(directory.path(), 1);
        assert!(refused.is_none() && rows(&disk).is_empty() && disk.counted().unwrap().is_none());
        disk.raise_generation().unwrap();
        assert_eq!(disk.generation(), 1);
        disk.commit(
            [((7, 1), Some((0, contents(5)))), ((7, 2), Some((1, contents(6))))],
            TIME,
        )
        .unwrap();
        drop(disk);
        let (mut disk, _) = open(directory.path(), 1);
        disk.raise_generation().unwrap();
        disk.commit([((7, 1), None), ((8, 2), Some((1, contents(9))))], TIME)
            .unwrap();
        assert_eq!(rows(&disk), [((7, 2), 1, 1, 6), ((8, 2), 1, 2, 9)]);
        assert_eq!(disk.counted().unwrap().unwrap().began, TIME.began);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(directory.path().join(FILE)).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_not_of_this_key_or_layout_or_is_none_at_all_is_begun_anew_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let fill = |key| {
            let (mut disk, refused) = open(directory.path(), key);
            disk.commit([((7, 1), Some((0, contents(5))))], TIME).unwrap();
            refused
        };
        assert_eq!(fill(1), None);
        assert_eq!(fill(2), Some(RestoreResult::Key));
        let (disk, _) = open(directory.path(), 2);
        let transaction = disk.database.begin_write().unwrap();
        transaction
            .open_table(ABOUT)
            .unwrap()
            .insert(AT_LAYOUT, 1)
            .unwrap();
        transaction.commit().unwrap();
        drop(disk);
        assert_eq!(fill(2), Some(RestoreResult::Layout));
        fs::write(directory.path().join(FILE), [7; 10_000]).unwrap();
        assert_eq!(fill(2), Some(RestoreResult::Damaged));
        assert_eq!(rows(&open(directory.path(), 2).0).len(), 1);
    }

    #[test]
    fn a_file_that_is_damaged_anywhere_is_opened_or_begun_anew() {
        use rand::{Rng as _, SeedableRng as _};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let (mut disk, _) = open(directory.path(), 1);
        let rows = (0..300).map(|at| ((7, at), Some((0, contents(u64::from(at))))));
        disk.commit(rows, TIME).unwrap();
        drop(disk);
        let whole = fs::read(&path).unwrap();
        let mut rng = rand::rngs::StdRng::seed_from_u64(3);
        for round in 0..60 {
            let mut damaged = whole.clone();
            if round % 4 == 0 {
                damaged.truncate(rng.random_range(0..whole.len()));
            } else {
                let from = rng.random_range(0..whole.len());
                let bytes = damaged.iter_mut().skip(from).take(rng.random_range(1..5_000));
                bytes.for_each(|byte| *byte = rng.random());
            }
            fs::write(&path, damaged).unwrap();
            let (mut disk, _) = open(directory.path(), 1);
            disk.read(|_, _| {}).unwrap();
            disk.raise_generation().unwrap();
            disk.commit([((8, 1), Some((0, contents(5))))], TIME).unwrap();
        }
    }

    #[test]
    fn a_value_that_was_put_elsewhere_does_not_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, _) = open(directory.path(), 1);
        disk.commit([((7, 1), Some((0, contents(5))))], TIME).unwrap();
        let transaction = disk.database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(RECORDS).unwrap();
            let value = table.get((7, 1)).unwrap().unwrap().value().to_vec();
            table.insert((7, 2), value.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
        let mut found = Vec::new();
        disk.read(|place, row| found.push((place, row.is_some())))
            .unwrap();
        assert_eq!(found, [((7, 1), true), ((7, 2), false)]);
    }
}
