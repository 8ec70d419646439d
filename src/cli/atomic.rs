//! Writing files so that a reader, or a crash at any moment, sees the old or the new content and never a mixture.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::exit::Failure;

/// Keeps other commands from changing files of one directory as long as it lives.
pub(super) struct DirectoryLock(File);

impl DirectoryLock {
    /// Waits until no other command holds the lock of the directory that `file` is in.
    pub(super) fn of(file: &Path) -> Result<Self, Failure> {
        let directory = parent(file);
        let handle = File::open(directory).map_err(|error| Failure::write(directory, &error))?;
        handle.lock().map_err(|error| Failure::write(directory, &error))?;
        Ok(Self(handle))
    }

    /// Makes renames in the directory durable.
    fn sync(&self) -> std::io::Result<()> {
        self.0.sync_all()
    }
}

/// Replaces `path` by `content`, readable by its owner alone; the owner of a file that is there keeps it, a new one belongs to
/// the owner of its directory where that is possible.
pub(super) fn write_secret(lock: &DirectoryLock, path: &Path, content: &[u8]) -> Result<(), Failure> {
    write(lock, path, content, 0o600)
}

/// Replaces `path` by `content` with permission bits `mode`.
pub(super) fn write(lock: &DirectoryLock, path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    // Renaming onto a link would replace the link and leave the file it names as it was.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = temporary_name(&target);
    let outcome = write_new(&temporary, &target, content, mode)
        .and_then(|()| std::fs::rename(&temporary, &target))
        .and_then(|()| lock.sync());
    if outcome.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    outcome.map_err(|error| Failure::write(path, &error))
}

fn write_new(temporary: &Path, target: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    // The lock is held, so a file of this name is what a killed command left behind.
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
    let differs = |like: &Metadata| (new.uid(), new.gid()) != (like.uid(), like.gid());
    let give_to = |like: &Metadata| std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()));
    match std::fs::metadata(target) {
        Ok(old) if differs(&old) => give_to(&old)?,
        Ok(_) => {}
        // What root makes in the directory of a service belongs to the service, which could not read it otherwise. Other
        // users cannot give files away and keep theirs.
        Err(_) => {
            if let Ok(directory) = std::fs::metadata(parent(target))
                && differs(&directory)
            {
                drop(give_to(&directory));
            }
        }
    }
    file.write_all(content)?;
    file.sync_all()
}

fn temporary_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.new"))
}

fn parent(file: &Path) -> &Path {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_written_secret_is_its_owners_alone_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk.txt");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(directory.path().join(".psk.txt.new"), "left by a killed command").unwrap();
        let lock = DirectoryLock::of(&path).unwrap();
        write_secret(&lock, &path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        std::fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let lock = DirectoryLock::of(&link).unwrap();
        write_secret(&lock, &link, b"new").unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(link.is_symlink());
    }
}
