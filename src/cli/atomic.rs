//! Replacing files, with failures in the words of the commands.

use std::path::Path;

use crate::config::atomic::{self, SECRET, directory_of};

use super::exit::Failure;

/// Keeps other commands, and the running gateway, from changing files of one directory as long as it lives.
pub(super) struct DirectoryLock(atomic::DirectoryLock);

impl DirectoryLock {
    /// Waits until nobody else holds the lock of the directory that `file` is in.
    pub(super) fn of(file: &Path) -> Result<Self, Failure> {
        atomic::DirectoryLock::of(file)
            .map(Self)
            .map_err(|error| Failure::write(directory_of(file), &error))
    }
}

/// Replaces `path` by `content`, readable by its owner alone; the owner of a file that is there keeps it.
pub(super) fn write_secret(lock: &DirectoryLock, path: &Path, content: &[u8]) -> Result<(), Failure> {
    write(lock, path, content, SECRET)
}

/// Replaces `path` by `content` with permission bits `mode`.
pub(super) fn write(lock: &DirectoryLock, path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    atomic::write(&lock.0, path, content, mode).map_err(|error| Failure::write(path, &error))
}
