//! Files of a state directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The first `longest` bytes of a regular file; what is none is not there.
///
/// # Errors
/// It is not there, or cannot be read.
pub(crate) fn read(path: &Path, longest: usize) -> io::Result<Vec<u8>> {
    // Opening a pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut content = Vec::new();
    let longest = u64::try_from(longest).unwrap_or(u64::MAX);
    File::open(path)?.take(longest).read_to_end(&mut content)?;
    Ok(content)
}

/// Puts a file there, whole or not at all, whatever stood in its place except a directory.
///
/// # Errors
/// The disk does not take it.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let directory = path.parent().ok_or(io::ErrorKind::NotFound)?;
    File::open(directory)?.sync_all()
}
