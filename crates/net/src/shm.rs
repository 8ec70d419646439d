//! Where kept state lies without a service manager: a directory of its own in /dev/shm, which ends with the machine's run, as keys
//! should that were never meant for a disk.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use portcullis_proto::state::digest;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

/// Where the directories are.
const SHM: &str = "/dev/shm";
const LOCK: &str = "lock";
/// Names the state directory that a directory belongs to.
const OWNER: &str = "state_dir";
/// What the memory of a worker is called, before a number.
const MEMORY: &str = "state.";

/// The directory of one state directory, locked for as long as this lives.
#[derive(Debug)]
pub struct ShmDirectory {
    path: PathBuf,
    directory: OwnedFd,
    _lock: OwnedFd,
}

fn private() -> Mode {
    Mode::RUSR | Mode::WUSR
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&directory)?;
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o777 == 0o700;
    if is_ours {
        Ok(directory)
    } else {
        Err(io::Error::other(format!(
            "{} is not a directory of mode 0700 of this user: remove it",
            path.display()
        )))
    }
}

/// The lock of a directory; `None` while another process has it.
fn lock(directory: &OwnedFd, create: bool) -> io::Result<Option<OwnedFd>> {
    let mut flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDWR;
    flags.set(OFlags::CREATE, create);
    let lock = rustix::fs::openat(directory, LOCK, flags, private())?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What names a state directory: one that was removed and made anew is another one.
fn owner(state_dir: &Path) -> io::Result<Vec<u8>> {
    let path = fs::canonicalize(state_dir)?;
    let metadata = fs::metadata(&path)?;
    let mut owner = format!("{} {} ", metadata.dev(), metadata.ino()).into_bytes();
    owner.extend_from_slice(path.as_os_str().as_bytes());
    Ok(owner)
}

/// Whether the state directory that an owner names is still there.
fn is_there(named: &[u8]) -> bool {
    let path = named.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    owner(path).is_ok_and(|now| now == named)
}

fn prefix() -> String {
    format!("portcullis-{}-", rustix::process::geteuid().as_raw())
}

impl ShmDirectory {
    /// The directory for `state_dir`, made if it is not there; `None` while another process has it.
    ///
    /// # Errors
    /// There is no /dev/shm, or what stands there is not this user's own.
    pub fn open(state_dir: &Path) -> io::Result<Option<Self>> {
        let owner = owner(state_dir)?;
        let path = Path::new(SHM).join(format!("{}{:016x}", prefix(), digest(&owner)));
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let directory = open_directory(&path)?;
        let Some(lock) = lock(&directory, true)? else {
            return Ok(None);
        };
        let opened = Self {
            path,
            directory,
            _lock: lock,
        };
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&opened.directory, OWNER, flags, private())?;
        fs::File::from(file).write_all(&owner)?;
        Ok(Some(opened))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The memories in it, by name.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn memories(&self) -> io::Result<Vec<(OwnedFd, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            if name.starts_with(MEMORY) {
                let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(self.directory.as_fd(), &name, flags, Mode::empty())?;
                found.push((file, name));
            }
        }
        Ok(found)
    }

    /// A new memory of `bytes`, all zeros.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self, name: &str, bytes: u64) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, private())?;
        rustix::fs::ftruncate(&file, bytes)?;
        Ok(file)
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }

    /// Removes a memory by name.
    pub fn remove(&self, name: &str) {
        if let Err(error) = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            tracing::debug!(%error, name, "a memory stays");
        }
    }
}

/// Removes the directories of this user whose state directory is gone.
pub fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(SHM) else { return };
    let ours = prefix();
    for entry in entries.filter_map(Result::ok) {
        let is_ours = entry.file_name().to_string_lossy().starts_with(&ours);
        if is_ours && let Err(error) = remove_if_left(&entry.path()) {
            tracing::debug!(%error, path = %entry.path().display(), "a directory stays");
        }
    }
}

fn remove_if_left(path: &Path) -> io::Result<()> {
    let directory = open_directory(path)?;
    // One that was just made names nobody yet.
    let is_left = || Ok::<_, io::Error>(!is_there(&fs::read(path.join(OWNER))?));
    if !is_left()? {
        return Ok(());
    }
    // Once more: whose it is, is written under the lock, and may have been half written before.
    if let Some(_lock) = lock(&directory, false)?
        && is_left()?
    {
        fs::remove_dir_all(path)?;
        tracing::info!(path = %path.display(), "kept state of a state directory that is gone was removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_the_directory_of_a_state_directory() {
        let state = tempfile::tempdir().unwrap();
        let first = ShmDirectory::open(state.path()).unwrap().unwrap();
        assert!(ShmDirectory::open(state.path()).unwrap().is_none());
        assert_eq!(fs::metadata(first.path()).unwrap().mode() & 0o777, 0o700);
        first.create("state.0", 4096).unwrap();
        assert!(first.create("state.0", 4096).is_err());
        drop(first);
        let next = ShmDirectory::open(state.path()).unwrap().unwrap();
        assert_eq!(next.memories().unwrap().len(), 1);
        fs::remove_dir_all(next.path()).unwrap();
    }

    #[test]
    fn what_a_state_directory_leaves_is_removed_once_it_is_gone() {
        let [stays, goes] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let [kept, left] = [&stays, &goes].map(|dir| ShmDirectory::open(dir.path()).unwrap().unwrap());
        let path = left.path().to_owned();
        goes.close().unwrap();
        // As long as its process lives it stays.
        remove_leftovers();
        assert!(path.exists());
        drop(left);
        remove_leftovers();
        assert!(!path.exists() && kept.path().exists());
        fs::remove_dir_all(kept.path()).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_look_into_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let state = tempfile::tempdir().unwrap();
        let path = ShmDirectory::open(state.path())
            .unwrap()
            .unwrap()
            .path()
            .to_owned();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = ShmDirectory::open(state.path()).unwrap_err().to_string();
        assert!(error.contains("0700"), "{error}");
        fs::remove_dir_all(path).unwrap();
    }
}
