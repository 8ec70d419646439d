//! What stands where a file of the gateway belongs and can be none gets another name: nothing is deleted, and no start waits
//! for a person, or for the writer of a pipe.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Puts away what stands at `path` and is no regular file. A link to one may stay; one that leads nowhere may not.
///
/// # Errors
/// It cannot be renamed.
pub(crate) fn make_way_for_file(path: &Path) -> io::Result<()> {
    let Some(found) = no_regular_file(path) else {
        return Ok(());
    };
    put_aside(path, found)
}

/// Puts away what stands at `path` and is neither a directory nor a link: what a link leads to may come with its disk.
///
/// # Errors
/// It cannot be renamed.
pub(crate) fn make_way_for_directory(path: &Path) -> io::Result<()> {
    let is_in_the_way = |found: &Metadata| !found.is_dir() && !found.is_symlink();
    match path.symlink_metadata() {
        Ok(found) if is_in_the_way(&found) => put_aside(path, "is no directory"),
        _ => Ok(()),
    }
}

/// What is wrong with what stands at `path`, if that is there and no regular file. What cannot be looked at, such as a file on a
/// disk that fails, counts as whole: whoever opens it is told what the system refuses.
pub(crate) fn no_regular_file(path: &Path) -> Option<&'static str> {
    let found = path.symlink_metadata().ok()?;
    let leads_nowhere = |error| matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::LOOP));
    let is_file = match path.metadata() {
        Ok(there) => there.is_file(),
        Err(error) => !(found.is_symlink() && leads_nowhere(&error)),
    };
    (!is_file).then_some("is no regular file")
}

/// Whether a link stands at `path` whose end is not there now: it may come with its disk.
pub(crate) fn is_dangling(path: &Path) -> bool {
    let is_absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    path.is_symlink() && path.metadata().is_err_and(|error| is_absent(&error))
}

/// Gives it the name that it has with `.aside`, and says so.
///
/// # Errors
/// It cannot be renamed.
pub(crate) fn put_aside(path: &Path, why: &str) -> io::Result<()> {
    let mut to = path.as_os_str().to_owned();
    to.push(".aside");
    while PathBuf::from(&to).symlink_metadata().is_ok() {
        to.push("+");
    }
    std::fs::rename(path, &to)?;
    tracing::error!(file = %path.display(), why, "was set aside under the name it has with \".aside\"");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_can_be_no_file_makes_way_and_a_link_to_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("folder/inside"), "kept").unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        symlink(at("circle"), at("circle")).unwrap();
        fs::write(at("file"), "whole").unwrap();
        symlink(at("file"), at("link")).unwrap();
        for name in ["folder", "dangling", "circle", "file", "link", "none"] {
            make_way_for_file(&at(name)).unwrap();
        }
        for gone in ["folder", "dangling", "circle"] {
            assert!(at(gone).symlink_metadata().is_err(), "{gone}");
            assert!(at(&format!("{gone}.aside")).symlink_metadata().is_ok(), "{gone}");
        }
        assert_eq!(fs::read(at("link")).unwrap(), b"whole");
        assert_eq!(fs::read(at("folder.aside/inside")).unwrap(), b"kept");
        fs::create_dir(at("folder")).unwrap();
        make_way_for_file(&at("folder")).unwrap();
        assert!(at("folder.aside+").is_dir());
    }

    #[test]
    fn a_link_that_cannot_be_followed_now_is_not_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "in the way").unwrap();
        symlink(at("file/inside"), at("link")).unwrap();
        make_way_for_file(&at("link")).unwrap();
        assert!(at("link").is_symlink());
    }

    #[test]
    fn a_file_makes_way_for_a_directory_and_a_link_to_a_disk_that_is_away_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "x").unwrap();
        symlink("/nonexistent/disk", at("link")).unwrap();
        for name in ["file", "link", "none"] {
            make_way_for_directory(&at(name)).unwrap();
        }
        assert!(!at("file").exists() && at("file.aside").exists());
        assert!(at("link").is_symlink());
    }
}
