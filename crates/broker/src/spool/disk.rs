//! The files of a spool, behind an interface that tests replace by a disk that fails.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::former;
use crate::aside;

/// Numbered segment files, and one small file for the head.
pub(super) trait Disk: Send + 'static {
    /// The numbers of the segments that are there, ascending.
    fn segments(&mut self) -> io::Result<Vec<u64>>;
    /// Makes an empty segment whose name is on disk on return.
    fn create(&mut self, segment: u64) -> io::Result<()>;
    /// Its length in bytes.
    fn length(&mut self, segment: u64) -> io::Result<u64>;
    /// Fills `buffer` from `offset` on as far as the file goes; how many bytes that was.
    fn read_at(&mut self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts it to `length` bytes.
    fn truncate(&mut self, segment: u64, length: u64) -> io::Result<()>;
    /// Returns once everything written to it is on disk.
    fn sync(&mut self, segment: u64) -> io::Result<()>;
    /// Deletes it.
    fn remove(&mut self, segment: u64) -> io::Result<()>;
    /// Puts it out of the way under another name, because it cannot be one of these.
    fn set_aside(&mut self, segment: u64) -> io::Result<()>;
    /// The head file; empty when there is none.
    fn read_head(&mut self) -> io::Result<Vec<u8>>;
    /// Writes into the head file. It survives the process, not necessarily a loss of power.
    fn write_head(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns once the head file is on disk as it was written.
    fn sync_head(&mut self) -> io::Result<()>;
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    directory: File,
    open: HashMap<u64, File>,
    head: File,
    /// Held for as long as the spool is in use.
    _lock: File,
}

const SUFFIX: &str = ".spool";
const NO_SEGMENT: &str = "is no file of the spool";

impl Directory {
    /// Opens or makes the directory `path`, for this process alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        aside::make_way_for_directory(path)?;
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock = file(&path.join("lock"))?;
        lock.try_lock()
            .map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "another process has it open"))?;
        let mut directory = Self {
            path: path.into(),
            directory: File::open(path)?,
            open: HashMap::new(),
            head: file(&path.join("head"))?,
            _lock: lock,
        };
        let mut converted = false;
        for segment in directory.segments()? {
            converted |= former::convert(&directory.name(segment), segment)?;
        }
        if converted {
            directory.directory.sync_all()?;
        }
        Ok(directory)
    }

    fn name(&self, segment: u64) -> PathBuf {
        self.path.join(format!("{segment:016x}{SUFFIX}"))
    }

    fn segment(&mut self, segment: u64) -> io::Result<&File> {
        let name = self.name(segment);
        Ok(match self.open.entry(segment) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(file(&name)?),
        })
    }
}

fn file(path: &Path) -> io::Result<File> {
    aside::make_way_for_file(path)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

impl Disk for Directory {
    fn segments(&mut self) -> io::Result<Vec<u64>> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(hex) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else {
                continue;
            };
            let number = u64::from_str_radix(hex, 16).ok();
            let number = number.filter(|number| self.name(*number) == entry.path());
            let is_file = entry.file_type()?.is_file();
            match number.filter(|_| is_file) {
                Some(number) => segments.push(number),
                None => aside::put_aside(&entry.path(), NO_SEGMENT)?,
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn create(&mut self, segment: u64) -> io::Result<()> {
        self.segment(segment)?.set_len(0)?;
        self.directory.sync_all()
    }

    fn length(&mut self, segment: u64) -> io::Result<u64> {
        Ok(self.segment(segment)?.metadata()?.len())
    }

    fn read_at(&mut self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.segment(segment)?;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&mut self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.segment(segment)?.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, segment: u64, length: u64) -> io::Result<()> {
        self.segment(segment)?.set_len(length)
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        self.segment(segment)?.sync_data()
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.open.remove(&segment);
        std::fs::remove_file(self.name(segment))
    }

    fn set_aside(&mut self, segment: u64) -> io::Result<()> {
        self.open.remove(&segment);
        aside::put_aside(&self.name(segment), NO_SEGMENT)
    }

    fn read_head(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 256];
        let read = self.head.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn write_head(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.head.write_all_at(bytes, offset)
    }

    fn sync_head(&mut self) -> io::Result<()> {
        self.head.sync_data()
    }
}
