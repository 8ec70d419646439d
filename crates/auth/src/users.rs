//! The users file: lines `user:hash`, as mosquitto's `password_file`, with more kinds of hashes.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use argon2::{Argon2, PasswordHasher};
use zeroize::Zeroizing;

use portcullis_proto::policy::authentication::{MAX_PASSWORD, MAX_USERNAME};
use portcullis_proto::types::{Fault, LineError};

use super::hash::StoredHash;

/// Largest users file in bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// What is wrong with a file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// The file with the fault in it.
    pub file: PathBuf,
    /// Line and column, from 1; `None` when the file as a whole is wrong.
    pub place: Option<(usize, usize)>,
    /// What is wrong and what would be right; nothing secret.
    pub message: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

impl std::error::Error for FileError {}

impl FileError {
    pub(super) fn whole(file: &Path, message: impl fmt::Display) -> Self {
        Self {
            file: file.into(),
            place: None,
            message: message.to_string(),
        }
    }

    pub(super) fn at(file: &Path, wrong: LineError) -> Self {
        Self {
            file: file.into(),
            place: Some((wrong.line, wrong.column)),
            message: wrong.message,
        }
    }
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, is larger, or is not UTF-8; then with the line.
pub fn read_text(file: &Path, limit: u64) -> Result<Zeroizing<String>, FileError> {
    let whole = |error: std::io::Error| FileError::whole(file, error);
    // Asked before it is opened: opening a pipe would wait for somebody to write to it.
    if !std::fs::metadata(file).map_err(whole)?.is_file() {
        return Err(FileError::whole(file, "this is no file"));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(whole)?;
    opened
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(whole)?;
    if bytes.len() as u64 > limit {
        return Err(FileError::whole(
            file,
            format!("the file is larger than {limit} bytes"),
        ));
    }
    String::from_utf8(bytes)
        .map(Zeroizing::new)
        .map_err(|error| FileError::at(file, LineError::no_text(error.as_bytes(), error.utf8_error())))
}

/// Reads the text of a users file into names and hashes.
///
/// # Errors
/// Every line that is wrong: no colon, an empty or overlong name, a name that was there before, a hash of no known kind.
pub fn parse(text: &str) -> Result<HashMap<Box<str>, StoredHash>, Vec<LineError>> {
    parse_within(
        text,
        Taken {
            max_kib: u32::MAX,
            legacy_hashes: true,
        },
    )
}

/// Which hashes of a users file are taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Most memory that one may need, in KiB.
    pub max_kib: u32,
    /// Whether those are that `legacy_hashes` lets in.
    pub legacy_hashes: bool,
}

/// As [`parse`], and a hash that is not `taken` is wrong too.
///
/// # Errors
/// Every line that is wrong.
pub fn parse_within(text: &str, taken: Taken) -> Result<HashMap<Box<str>, StoredHash>, Vec<LineError>> {
    let mut users = HashMap::new();
    let mut errors = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let Some(entry) = entry(line) else {
            continue;
        };
        let parsed = entry.and_then(|(name, hash)| {
            let parsed = StoredHash::parse(hash).map_err(|message| (hash, message))?;
            let needs = parsed.memory_kib();
            if users.contains_key(name) {
                Err((name, "this user is there twice".to_owned()))
            } else if needs > taken.max_kib {
                let most = taken.max_kib;
                Err((
                    hash,
                    format!("this hash needs {needs} KiB, all hashes together may take {most}"),
                ))
            } else if let Err(message) = parsed.check_legacy(taken.legacy_hashes) {
                Err((hash, message))
            } else {
                Ok((name, parsed))
            }
        });
        match parsed {
            Ok((name, hash)) => {
                users.insert(name.into(), hash);
            }
            Err((part, message)) => errors.push(LineError::at(number, line, part, message)),
        }
    }
    if errors.is_empty() { Ok(users) } else { Err(errors) }
}

/// The name and the hash on a line, or what is wrong; `None` on an empty line or a comment.
fn entry(line: &str) -> Option<Result<(&str, &str), Fault<'_>>> {
    if line.starts_with('#') || line.trim().is_empty() {
        return None;
    }
    let Some((name, hash)) = line.split_once(':') else {
        return Some(Err((
            line,
            "a line is user:hash, or a comment with # in its first column".to_owned(),
        )));
    };
    let name = name.trim();
    let checked = check_name(name).map_err(|message| (name, message));
    Some(checked.map(|()| (name, hash.trim())))
}

/// Whether `name` can be a user of the file.
///
/// # Errors
/// When it is empty or longer than 512 bytes, begins with `#`, or holds a colon, a control character or an outer blank.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_USERNAME {
        return Err(format!("a user name has 1 to {MAX_USERNAME} bytes"));
    }
    if name.starts_with('#') || name.contains(':') || name.contains(char::is_control) || name.trim() != name {
        return Err(
            "a user name has no colon, no control character, no blank at its ends, and no # first".to_owned(),
        );
    }
    Ok(())
}

/// The Argon2id hash of `password` with a new salt: 19 MiB, two passes, one lane (OWASP's first choice for that size).
///
/// # Errors
/// When the password is empty or longer than 16,384 bytes, or the system has no randomness.
pub fn hash_password(password: &[u8]) -> Result<String, String> {
    if password.is_empty() || password.len() > MAX_PASSWORD {
        return Err(format!("a password has 1 to {MAX_PASSWORD} bytes"));
    }
    let mut salt = [0; 16];
    openssl::rand::rand_bytes(&mut salt).map_err(|_| "the system has no randomness now".to_owned())?;
    Argon2::default()
        .hash_password_with_salt(password, &salt)
        .map(|hash| hash.to_string())
        .map_err(|_| "the password could not be hashed".to_owned())
}

pub(super) fn at(file: &Path, errors: Vec<LineError>) -> Vec<FileError> {
    errors
        .into_iter()
        .map(|wrong| FileError::at(file, wrong))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_errors_come_at_once_with_their_lines_and_without_hashes() {
        let good = hash_password(b"pw").unwrap();
        let text = format!("# users\n\nann:{good}\nbob\n:{good}\ncarl:hunter2\nann:{good}\n");
        let errors = parse(&text).unwrap_err();
        assert_eq!(errors.iter().map(|e| e.line).collect::<Vec<_>>(), [4, 5, 6, 7]);
        assert!(!format!("{errors:?}").contains("hunter2"));
    }

    #[test]
    fn names_that_would_make_another_line_are_refused() {
        for bad in ["", "a:b", "a\nb", "#a", " a", "a\0", &"x".repeat(513)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(hash_password(b"").is_err());
    }

    #[test]
    fn a_file_that_is_not_utf8_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.txt");
        std::fs::write(&file, b"# a\n# b\nx\xff:y\n").unwrap();
        assert_eq!(read_text(&file, 100).unwrap_err().place, Some((3, 2)));
        assert!(read_text(&file, 3).is_err());
    }
}
