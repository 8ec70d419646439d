//! Writing files so that a reader, or a crash at any moment, sees the old or the new content and never a mixture.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long others may keep a directory locked: a change takes a moment, and whoever can read a directory can lock it for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether they still do.
const LOOK: Duration = Duration::from_millis(20);

/// Permission bits of a file that holds secrets.
pub const SECRET: u32 = 0o600;

/// Keeps other writers, commands and the running gateway alike, from changing files of one directory as long as it lives.
#[derive(Debug)]
pub struct DirectoryLock(File);

impl DirectoryLock {
    /// Waits until nobody else holds the lock of the directory that `file` is in, ten seconds at most.
    ///
    /// # Errors
    /// The directory cannot be opened or locked, or others keep it locked.
    pub fn of(file: &Path) -> io::Result<Self> {
        Self::within(file, PATIENCE)
    }

    fn within(file: &Path, patience: Duration) -> io::Result<Self> {
        // Of a link, the directory of what it names: that is where the writing happens.
        let target = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let handle = File::open(directory_of(&target))?;
        for _ in 0..=patience.as_millis() / LOOK.as_millis() {
            match handle.try_lock() {
                Ok(()) => return Ok(Self(handle)),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::Error::new(
            ErrorKind::TimedOut,
            "another process keeps its directory locked",
        ))
    }
}

/// The directory that a file is in.
#[must_use]
pub fn directory_of(file: &Path) -> &Path {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Replaces `path` by `content` with permission bits `mode`. A file that is there keeps its owner, and a link stays a link. A new
/// one that root makes belongs to whom its directory belongs to: what root adds for the service the service can read.
///
/// # Errors
/// The content could not be made durable; the old one is still there.
pub fn write(lock: &DirectoryLock, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // Renaming onto a link would replace the link and leave the file it names as it was.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = temporary_name(&target);
    let outcome = write_new(&temporary, &target, content, mode)
        .and_then(|()| std::fs::rename(&temporary, &target))
        .and_then(|()| lock.0.sync_all());
    if outcome.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    outcome
}

/// The permission bits of a file, or `otherwise` when there is none.
#[must_use]
pub fn mode_of(path: &Path, otherwise: u32) -> u32 {
    std::fs::metadata(path).map_or(otherwise, |metadata| metadata.permissions().mode() & 0o7777)
}

fn write_new(temporary: &Path, target: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // The lock is held, so a file of this name is what a killed writer left behind.
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temporary)?;
    let new = file.metadata()?;
    let directory = || {
        // Of another's directory root alone can give a file away.
        let root = new.uid() == 0;
        root.then(|| std::fs::metadata(directory_of(target)).ok())
            .flatten()
    };
    if let Some(owner) = std::fs::metadata(target).ok().or_else(directory)
        && (new.uid(), new.gid()) != (owner.uid(), owner.gid())
    {
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(content)?;
    file.sync_all()
}

fn temporary_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.new"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_secret_is_its_owners_alone_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk.txt");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(directory.path().join(".psk.txt.new"), "left by a killed writer").unwrap();
        let lock = DirectoryLock::of(&path).unwrap();
        write(&lock, &path, b"new", SECRET).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(mode_of(&path, 0), SECRET);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_root_adds_to_a_directory_of_the_services_is_the_services() {
        let directory = tempfile::tempdir().unwrap();
        // As another user there is nobody to give it to, and it stays one's own.
        let given = std::os::unix::fs::chown(directory.path(), Some(65_534), Some(65_534)).is_ok();
        let path = directory.path().join("psk.txt");
        let lock = DirectoryLock::of(&path).unwrap();
        write(&lock, &path, b"new", SECRET).unwrap();
        let (file, owner) = (path.metadata().unwrap(), directory.path().metadata().unwrap());
        assert_eq!((file.uid(), file.gid()), (owner.uid(), owner.gid()));
        assert!(!given || file.uid() == 65_534);
    }

    #[test]
    fn a_directory_that_stays_locked_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk.txt");
        let held = DirectoryLock::of(&path).unwrap();
        let late = DirectoryLock::within(&path, Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        drop(held);
        assert!(DirectoryLock::of(&path).is_ok());
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        std::fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let lock = DirectoryLock::of(&link).unwrap();
        write(&lock, &link, b"new", SECRET).unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(link.is_symlink());
    }
}
