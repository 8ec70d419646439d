//! Whether the state directory is there and can be written to, or can be made.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs};
use rustix::io::Errno;

use super::Config;
use super::admin_socket::SERVICE;
use super::document::Document;
use super::problem::Severity;

/// File systems of the kernel's own, in which nobody makes directories: `proc` and `sysfs`.
const KERNELS: [i64; 2] = [0x9fa0, 0x6265_6572];

/// Why a start would find no state directory.
#[derive(Debug, PartialEq, Eq)]
pub struct NoStateDir {
    /// What is in the way, and what to do about it.
    pub message: String,
    /// Whether it is in the way of the user who looks, while the service's may pass.
    pub of_this_user: bool,
}

/// Looks whether a start would have `path` for its state. Nothing is made.
///
/// # Errors
/// What is in the way.
pub fn check_state_dir(path: &Path) -> Result<(), NoStateDir> {
    let shown = path.display();
    let found = nearest(path);
    let place = found.display();
    let no = |message: String| NoStateDir {
        message,
        of_this_user: false,
    };
    if !found.is_dir() {
        return Err(no(format!(
            "{shown} cannot be a directory: {place} is a file; name another in node.state_dir"
        )));
    }
    let kind = statfs(&found).map_or(0, |found| found.f_type);
    #[expect(
        clippy::useless_conversion,
        reason = "the kind is a number of another width elsewhere"
    )]
    if KERNELS.contains(&i64::from(kind)) {
        return Err(no(format!(
            "{shown} cannot be made: {place} is the kernel's; name another directory in node.state_dir"
        )));
    }
    let needed = if found == path {
        "is not writable"
    } else {
        "cannot be made"
    };
    match access(&found, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(()),
        Err(Errno::ROFS) => Err(no(format!("{shown} {needed}: the disk of {place} is read-only"))),
        Err(_) => {
            use std::os::unix::fs::MetadataExt as _;
            let owner = found.metadata().map(|about| about.uid()).unwrap_or_default();
            Err(NoStateDir {
                message: format!(
                    "{shown} {needed} by this user: {place} belongs to user {owner}; run as that user, or name another directory in \
                     node.state_dir"
                ),
                of_this_user: true,
            })
        }
    }
}

/// The path itself, or the nearest above it that is there.
fn nearest(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = whole.ancestors().find(|part| part.symlink_metadata().is_ok());
    there.unwrap_or(Path::new("/")).to_owned()
}

/// Reports what would keep a start from its state. Where the file does not name the directory, another user may be meant to start, and
/// that of the service is made by systemd (`StateDirectory=`).
pub(super) fn check(config: &Config, doc: &mut Document<'_>) {
    let key = "node.state_dir";
    if let Err(why) = check_state_dir(&config.node.state_dir) {
        let is_the_services = config.node.state_dir == Path::new(SERVICE.1);
        let severity = if why.of_this_user && (is_the_services || !doc.has(key)) {
            Severity::Note
        } else {
            Severity::Error
        };
        doc.complain_as(severity, &[key], why.message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_made_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        assert_eq!(check_state_dir(directory.path()), Ok(()));
        assert_eq!(check_state_dir(&path("a/b/c")), Ok(()));
        for (bad, why) in [
            (path("file"), "is a file"),
            (path("file/below"), "is a file"),
            (PathBuf::from("/proc/portcullis"), "the kernel's"),
        ] {
            let told = check_state_dir(&bad).unwrap_err();
            assert!(
                told.message.contains(why) && !told.of_this_user,
                "{}",
                told.message
            );
        }
    }
}
