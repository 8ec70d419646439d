//! The users file as a backend.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use portcullis_proto::types::mac::{Sha256, hmac, mac};

use portcullis_proto::policy::authentication::{AuthRequest, DenyReason, Password, Verdict};

use super::hash::StoredHash;
use super::users::{self, FileError, MAX_FILE, Taken};

/// The users of one file, in memory.
#[derive(Debug)]
pub(super) struct FileBackend {
    users: HashMap<Box<str>, usize>,
    hashes: Vec<StoredHash>,
    decoy_key: [u8; 32],
}

/// A password to compare with a hash: slow, so it is done elsewhere.
#[derive(Debug)]
pub(super) struct Comparison {
    file: Arc<FileBackend>,
    hash: usize,
    known: bool,
    password: Password,
}

impl FileBackend {
    /// Reads the file. `decoy_key` is random and of this process only.
    pub(super) fn open(path: &Path, decoy_key: [u8; 32], taken: Taken) -> Result<Self, Vec<FileError>> {
        let text = users::read_text(path, MAX_FILE).map_err(|error| vec![error])?;
        let parsed = users::parse_within(&text, taken).map_err(|errors| users::at(path, errors))?;
        let mut users = HashMap::with_capacity(parsed.len());
        let mut hashes = Vec::with_capacity(parsed.len());
        for (name, hash) in parsed {
            users.insert(name, hashes.len());
            hashes.push(hash);
        }
        Ok(Self {
            users,
            hashes,
            decoy_key,
        })
    }

    /// What to compare the request's password with, or the verdict when there is nothing to compare.
    pub(super) fn judge(self: Arc<Self>, request: &AuthRequest) -> Result<Comparison, Verdict> {
        let (Some(username), Some(password)) = (&request.username, &request.password) else {
            return Err(Verdict::Deny(DenyReason::MissingCredentials));
        };
        if self.hashes.is_empty() {
            return Err(Verdict::Deny(DenyReason::BadCredentials));
        }
        let found = self.users.get(&**username).copied();
        Ok(Comparison {
            hash: found.unwrap_or_else(|| self.decoy(username)),
            known: found.is_some(),
            password: password.clone(),
            file: self,
        })
    }

    /// The user whose hash an unknown name is compared with: always the same one for a name, so that names which do not
    /// exist take as long as names which do, in a file of cheap and dear hashes too.
    fn decoy(&self, username: &str) -> usize {
        let mac = mac(&hmac::<Sha256, _>(&self.decoy_key), &[username.as_bytes()]);
        let [a, b, c, d, ..] = <[u8; 32]>::from(mac);
        let number = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(0);
        number.checked_rem(self.hashes.len()).unwrap_or(0)
    }
}

impl Comparison {
    /// How much memory [`Self::run`] takes, in KiB.
    pub(super) fn memory_kib(&self) -> u32 {
        self.file.hashes.get(self.hash).map_or(0, StoredHash::memory_kib)
    }

    /// Compares. Blocks for as long as the hash takes.
    pub(super) fn run(self) -> Verdict {
        let fits = self
            .file
            .hashes
            .get(self.hash)
            .is_some_and(|hash| hash.verify(self.password.expose()));
        if fits & self.known {
            Verdict::allow()
        } else {
            Verdict::Deny(DenyReason::BadCredentials)
        }
    }
}
