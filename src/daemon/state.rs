//! What the process keeps in its state directory beside the broker's stores.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use crate::config::changes::VERSION_FILE;
use crate::dtls::TicketKeys;
use crate::group::files::replace;

use super::assembly::{ExitReason, StartError};
use super::clock;

const TICKET_FILE: &str = "tickets.key";

/// How long one set of ticket keys is used. Tickets of an older one fall back to full handshakes.
const TICKET_ROTATION: Duration = Duration::from_secs(24 * 3600);

/// Makes the state directory if it is not there; others may not look into it.
///
/// # Errors
/// It cannot be made.
pub(super) fn prepare(directory: &Path) -> Result<(), StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| {
            let shown = directory.display();
            match error.kind() {
                // Nothing that the configuration could mend, and it may pass.
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StartError::new(
                    ExitReason::System,
                    format!("node.state_dir: {shown} cannot be made: {error}"),
                ),
                _ => StartError::new(
                    ExitReason::Config,
                    format!(
                        "node.state_dir: {shown} cannot be made: {error}; name a directory that this user may write to"
                    ),
                ),
            }
        })?;
    // What cannot be written here costs the next upgrade a note, and is told of by what has to be written.
    let version = concat!(env!("CARGO_PKG_VERSION"), "\n");
    drop(replace(&directory.join(VERSION_FILE), version.as_bytes(), 0o644));
    Ok(())
}

/// Keys for session tickets.
pub(super) struct Tickets {
    pub(super) keys: TicketKeys,
    /// Why they are not on disk: the next start makes others.
    pub(super) unsaved: Option<String>,
}

/// The keys that session tickets are made with: those of the directory while they are fresh, so that a restart costs the
/// devices no full handshake; else new ones. A disk that does not take or give them costs resumptions and nothing else.
///
/// # Errors
/// There is no randomness.
pub(super) fn ticket_keys(directory: &Path) -> Result<Tickets, String> {
    let path = directory.join(TICKET_FILE);
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let found = fresh_keys(&path).map_err(failed);
    if let Ok(Some(keys)) = &found {
        return Ok(Tickets {
            keys: TicketKeys::new(**keys),
            unsaved: None,
        });
    }
    let mut keys = Zeroizing::new([0; 80]);
    openssl::rand::rand_bytes(keys.as_mut_slice()).map_err(|error| format!("no randomness: {error}"))?;
    let saved = found.and_then(|_| replace(&path, keys.as_slice(), 0o600).map_err(failed));
    Ok(Tickets {
        keys: TicketKeys::new(*keys),
        unsaved: saved.err(),
    })
}

fn fresh_keys(path: &Path) -> io::Result<Option<Zeroizing<[u8; 80]>>> {
    let opened = fs::metadata(path).and_then(|found| match found.is_dir() || found.is_file() {
        true => File::open(path),
        // Opening a pipe waits for its writer.
        false => Err(io::ErrorKind::NotFound.into()),
    });
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let written = file.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let age = clock::wall().duration_since(written).unwrap_or(Duration::ZERO);
    let mut keys = Zeroizing::new([0; 80]);
    // One that is cut short was not written by us: new keys take its place.
    let whole = file.read_exact(keys.as_mut_slice()).is_ok();
    Ok((whole && age < TICKET_ROTATION).then_some(keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::fs::PermissionsExt as _;

    fn content(directory: &Path) -> Vec<u8> {
        fs::read(directory.join(TICKET_FILE)).unwrap()
    }

    #[test]
    fn ticket_keys_survive_a_restart_until_they_are_a_day_old() {
        let directory = tempfile::tempdir().unwrap();
        ticket_keys(directory.path()).unwrap();
        let first = content(directory.path());
        ticket_keys(directory.path()).unwrap();
        assert_eq!(content(directory.path()), first);
        let mode = fs::metadata(directory.path().join(TICKET_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        let file = File::options()
            .write(true)
            .open(directory.path().join(TICKET_FILE))
            .unwrap();
        file.set_modified(clock::wall() - TICKET_ROTATION).unwrap();
        ticket_keys(directory.path()).unwrap();
        assert_ne!(content(directory.path()), first);
    }

    #[test]
    fn a_disk_that_does_not_take_the_ticket_keys_keeps_nothing_from_starting() {
        let directory = tempfile::tempdir().unwrap();
        // A directory in the place of the file is refused to root too.
        fs::create_dir(directory.path().join("tickets.new")).unwrap();
        let tickets = ticket_keys(directory.path()).unwrap();
        assert!(tickets.unsaved.unwrap().contains(TICKET_FILE));
        fs::remove_dir(directory.path().join("tickets.new")).unwrap();
        let tickets = ticket_keys(directory.path()).unwrap();
        assert!(tickets.unsaved.is_none());
        let again = ticket_keys(directory.path()).unwrap();
        assert_eq!(again.keys, tickets.keys);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_replaced_and_nobody_waits_for_its_writer() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        prepare(&directory).unwrap();
        for name in [TICKET_FILE, VERSION_FILE] {
            let path = directory.join(name);
            drop(fs::remove_file(&path));
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }
        prepare(&directory).unwrap();
        assert_eq!(
            fs::read_to_string(directory.join(VERSION_FILE)).unwrap(),
            concat!(env!("CARGO_PKG_VERSION"), "\n")
        );
        let tickets = ticket_keys(&directory).unwrap();
        assert!(tickets.unsaved.is_none());
        assert_eq!(content(&directory).len(), 80);
    }

    #[test]
    fn a_ticket_file_cut_short_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(TICKET_FILE), b"short").unwrap();
        ticket_keys(directory.path()).unwrap();
        assert_eq!(content(directory.path()).len(), 80);
    }
}
