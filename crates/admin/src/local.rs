//! The Unix socket of the management interface: its mode says who may come in, and the kernel says who came.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Permission bits: its owner and its group may come in.
const MODE: u32 = 0o660;

/// The group whose members may administer, where there is one of this name.
pub const GROUP: &str = "portcullis";

/// What the kernel calls users that a user namespace does not know (PrivateUsers= of systemd). That such a one came in says
/// that it is of the socket's group.
const NOBODY: u32 = 65_534;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

/// Who is at the other end of a connection over the socket, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPeer {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, where the kernel tells.
    pub pid: Option<i32>,
}

impl fmt::Display for LocalPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.uid == NOBODY {
            write!(f, "group:{GROUP}")?;
        } else {
            write!(f, "uid:{}/gid:{}", self.uid, self.gid)?;
        }
        self.pid.map_or(Ok(()), |pid| write!(f, "/pid:{pid}"))
    }
}

/// A socket that is listened at. Dropping it takes its name away.
#[derive(Debug)]
pub struct LocalSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    /// Listens at `path`. What an ended process left there is taken away; the socket of one that lives is not.
    ///
    /// # Errors
    /// The path is too long, taken, or may not be written to.
    pub fn bind(path: &Path) -> io::Result<Self> {
        remove_dead(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // From here on it is there to be taken away again.
        let listening = Self {
            listener: UnixListener::from(socket.try_clone()?),
            path: path.to_owned(),
        };
        // Between bind and listen nobody can connect, so nobody comes in by the mode that the umask gave.
        if let Some(group) = group_id(&std::fs::read_to_string("/etc/group").unwrap_or_default()) {
            // Who is no member may not give it away; then it stays with the user's own group.
            drop(chown(path, None, Some(group)));
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
        socket.listen(BACKLOG)?;
        Ok(listening)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

fn remove_dead(path: &Path) -> io::Result<()> {
    let Ok(there) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let taken = |why: &str| io::Error::new(io::ErrorKind::AddrInUse, why.to_owned());
    if !there.file_type().is_socket() {
        return Err(taken("a file that is no socket is in the way"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(taken("another process listens there")),
    }
}

/// The number of [`GROUP`] in the text of `/etc/group`.
fn group_id(groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(GROUP);
        is_it.then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn its_owner_and_its_group_may_come_in_and_its_name_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let socket = LocalSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
        let error = LocalSocket::bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists(), "a process that lives keeps its socket");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_taken_away_and_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(LocalSocket::bind(&path).unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(LocalSocket::bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn who_has_no_number_here_is_called_by_the_group() {
        let peer = |uid, pid| LocalPeer { uid, gid: 7, pid }.to_string();
        assert_eq!(peer(1000, Some(5)), "uid:1000/gid:7/pid:5");
        assert_eq!(peer(NOBODY, None), "group:portcullis");
    }

    #[test]
    fn the_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nportcullis2:x:7:\nportcullis:x:988:ann,bob\n";
        assert_eq!(group_id(groups), Some(988));
        assert_eq!(group_id("root:x:0:\n"), None);
    }
}
