//! Reading files that hold secrets: only those that nobody else can read.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::paths::credentials_directory;

/// Largest file that is read whole, in bytes.
pub const MAX_FILE: u64 = 256 << 20;

/// Why a file was not read.
#[derive(Debug, PartialEq, Eq)]
pub enum SecretError {
    /// It cannot be read; the text says why.
    Io(PathBuf, String),
    /// Others can read it; its permission bits.
    Exposed(PathBuf, u32),
}

impl std::fmt::Display for SecretError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(path, why) => write!(f, "cannot read {}: {why}", path.display()),
            Self::Exposed(path, mode) => {
                let path = path.display();
                write!(
                    f,
                    "{path} holds secrets and other users can read or change it (mode {mode:04o}): chmod 600 {path}"
                )
            }
        }
    }
}

impl std::error::Error for SecretError {}

/// Reads a file that holds secrets. The buffer is wiped when it is dropped.
///
/// # Errors
/// When it cannot be read, is over [`MAX_FILE`], or group or others have any right to it. Files in `$CREDENTIALS_DIRECTORY` are
/// protected by the service manager, whatever their mode.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    read_secret_with(path, credentials_directory().as_deref())
}

fn read_secret_with(path: &Path, credentials: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let (file, metadata) = open(path)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 && !lies_in(path, credentials) {
        return Err(SecretError::Exposed(path.to_owned(), mode));
    }
    read_all(file, metadata.len(), path)
}

/// Reads a file that holds no secrets (certificates, CRLs, access rules).
///
/// # Errors
/// When it cannot be read or is over [`MAX_FILE`].
pub fn read_public(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let (file, metadata) = open(path)?;
    read_all(file, metadata.len(), path)
}

/// Opens a regular file. Anything else is refused before it is opened, because opening a pipe waits for its writer.
fn open(path: &Path) -> Result<(File, std::fs::Metadata), SecretError> {
    let io = |error: std::io::Error| SecretError::Io(path.to_owned(), say_of(path, &error));
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(SecretError::Io(
            path.to_owned(),
            "it is no regular file".to_owned(),
        ));
    }
    let file = File::open(path).map_err(io)?;
    // The mode that counts is that of what was opened, not of what stood there before.
    let metadata = file.metadata().map_err(io)?;
    Ok((file, metadata))
}

fn read_all(file: File, len: u64, path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let room = usize::try_from(len.min(MAX_FILE))
        .unwrap_or_default()
        .saturating_add(1);
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|error| SecretError::Io(path.to_owned(), say(&error)))?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(SecretError::Io(
            path.to_owned(),
            "it is larger than 256 MiB".to_owned(),
        ));
    }
    Ok(content)
}

/// An I/O error without the number that `std` puts behind it.
fn say(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// The same with the owner of a file that this user may not read.
fn say_of(path: &Path, error: &std::io::Error) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let owner = std::fs::metadata(path).map(|about| about.uid());
    match (error.kind(), owner) {
        (std::io::ErrorKind::PermissionDenied, Ok(owner)) => {
            format!("{}: it belongs to user {owner}", say(error))
        }
        _ => say(error),
    }
}

fn lies_in(path: &Path, directory: Option<&Path>) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    match (real(path), directory.and_then(real)) {
        (Some(path), Some(directory)) => path.starts_with(directory),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk.txt");
        std::fs::write(&path, "id:00").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn only_files_that_nobody_else_can_read_are_read() {
        for mode in [0o600, 0o400, 0o700] {
            let (_keep, path) = file(mode);
            assert_eq!(read_secret_with(&path, None).unwrap().as_slice(), b"id:00");
        }
        for mode in [0o644, 0o640, 0o602, 0o610] {
            let (_keep, path) = file(mode);
            let error = read_secret_with(&path, None).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains(&format!("chmod 600 {}", path.display())),
                "{error}"
            );
        }
    }

    #[test]
    fn a_credential_may_have_the_mode_that_the_service_manager_gave_it() {
        let (directory, path) = file(0o440);
        assert!(read_secret_with(&path, Some(directory.path())).is_ok());
        let (_keep, other) = file(0o440);
        assert!(read_secret_with(&other, Some(directory.path())).is_err());
    }

    #[test]
    fn a_link_out_of_the_credentials_directory_is_no_credential() {
        let (_keep, target) = file(0o644);
        let credentials = tempfile::tempdir().unwrap();
        let link = credentials.path().join("psk.txt");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(
            read_secret_with(&link, Some(credentials.path())),
            Err(SecretError::Exposed(_, 0o644))
        ));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_secret_with(directory.path(), None).unwrap_err();
        assert!(error.to_string().contains("no regular file"));
        let error = read_secret_with(&directory.path().join("x"), None).unwrap_err();
        assert!(error.to_string().contains("no such file"));
    }
}
