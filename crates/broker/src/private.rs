//! Files that nobody but the user of the gateway may read: they hold what devices said.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

const OWNERS_ALONE: u32 = 0o600;

/// Writes a whole file, in place of what is there.
///
/// # Errors
/// The errno of opening or writing it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(OWNERS_ALONE)
        .open(path)?;
    // One that was there before has the mode that it had.
    file.set_permissions(Permissions::from_mode(OWNERS_ALONE))?;
    file.write_all(bytes)?;
    Ok(file)
}
