//! Exit codes of sysexits(3), and the failures that carry them.

use std::path::Path;

use crate::config::Problems;
use crate::config::secrets::SecretError;

pub(super) const OK: u8 = 0;
/// The command line is wrong.
pub(super) const USAGE: u8 = 64;
/// The input is wrong.
pub(super) const DATA_ERROR: u8 = 65;
/// A file to read is not there or cannot be read.
pub(super) const NO_INPUT: u8 = 66;
/// An identity or user is not there.
pub(super) const NO_USER: u8 = 67;
/// The gateway, or something it needs, cannot be reached.
pub(super) const UNAVAILABLE: u8 = 69;
/// What must not happen did.
pub(super) const SOFTWARE: u8 = 70;
/// A file cannot be made.
pub(super) const CANNOT_CREATE: u8 = 73;
/// Reading or writing failed.
pub(super) const IO_ERROR: u8 = 74;
/// Others can read a file with secrets.
pub(super) const NO_PERMISSION: u8 = 77;
/// The configuration is wrong.
pub(super) const CONFIG: u8 = 78;

/// Why a command failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The exit code, as sysexits(3) has them.
    pub(super) code: u8,
    /// What to tell the user.
    pub(super) message: String,
    /// Whether the message says by itself what it is about, as problems of files do.
    pub(super) bare: bool,
    /// Whether the gateway may have done it all the same.
    pub(super) is_unknown: bool,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            bare: false,
            is_unknown: false,
        }
    }

    /// A file that could not be written.
    pub(super) fn write(path: &Path, error: &std::io::Error) -> Self {
        Self::new(CANNOT_CREATE, format!("cannot write {}: {error}", path.display()))
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        let code = match &problems.0[..] {
            [only] if only.unreadable => NO_INPUT,
            _ => CONFIG,
        };
        Self {
            bare: true,
            ..Self::new(code, problems.to_string())
        }
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        let code = match error {
            SecretError::Io(..) => NO_INPUT,
            SecretError::Exposed(..) => NO_PERMISSION,
        };
        Self::new(code, error.to_string())
    }
}

impl From<openssl::error::ErrorStack> for Failure {
    fn from(error: openssl::error::ErrorStack) -> Self {
        Self::new(SOFTWARE, format!("OpenSSL failed: {error}"))
    }
}
