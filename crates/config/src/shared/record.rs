//! What a node notes of what all share, in its state directory: which version it has, and what lay here when it was put in force. By
//! that a change by hand is seen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::Config;
use super::super::atomic::{self, DirectoryLock};
use super::{CONFIGURATION, Mark, Parts, files, mark, parts};

/// The file, within the state directory.
const FILE: &str = "group.json";

/// What a node has of what all share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version.
    pub version: u64,
    /// By name the parts.
    pub parts: BTreeMap<String, Noted>,
}

/// What is noted of a part, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The digest of its content in the group.
    pub shared: String,
    /// The mark of what all share.
    pub group: String,
    /// The mark of what is in force here: another where it was changed for this node only.
    pub here: String,
}

impl Noted {
    fn digest(&self) -> Option<[u8; 32]> {
        let mut digest = [0; 32];
        hex::decode_to_slice(&self.shared, &mut digest).ok()?;
        Some(digest)
    }
}

/// A part that was changed by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHand {
    /// Its name.
    pub part: String,
    /// Where it lies here.
    pub path: PathBuf,
}

/// What can be done about a file that was changed by hand.
#[must_use]
pub fn words(path: &Path) -> String {
    format!(
        "{} was changed by hand on this node, and all nodes of the group share it: `portcullis group import` gives it to all, \
         `portcullis group restore` brings back what all have, `portcullis reload --local` keeps it for this node alone",
        path.display()
    )
}

impl Record {
    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE)
    }

    /// What is noted; nothing before the first version, or where the file is none of ours.
    #[must_use]
    pub fn read(state_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(state_dir)).ok()?).ok()
    }

    /// Notes it.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn write(&self, state_dir: &Path) -> std::io::Result<()> {
        let path = Self::path(state_dir);
        let lock = DirectoryLock::of(&path)?;
        atomic::write(&lock, &path, &serde_json::to_vec_pretty(self)?, atomic::SECRET)
    }

    /// Removes what is noted.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn forget(state_dir: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(Self::path(state_dir)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Notes a part as all share it, and as it lies here.
    pub fn note(&mut self, part: &str, shared: &[u8], here: Mark) {
        let noted = Noted {
            shared: hex::encode(openssl::sha::sha256(shared)),
            group: hex::encode(mark(part, shared)),
            here: hex::encode(here),
        };
        self.parts.insert(part.to_owned(), noted);
    }

    /// Notes a part that is this node's alone as it lies here.
    pub fn keep(&mut self, part: &str, here: Mark) {
        let here = hex::encode(here);
        match self.parts.get_mut(part) {
            Some(noted) => noted.here = here,
            None => {
                let noted = Noted {
                    shared: String::new(),
                    group: String::new(),
                    here,
                };
                self.parts.insert(part.to_owned(), noted);
            }
        }
    }

    /// The digests of what all share.
    #[must_use]
    pub fn all_known(&self) -> BTreeMap<String, [u8; 32]> {
        let known = self
            .parts
            .iter()
            .filter_map(|(part, noted)| Some((part.clone(), noted.digest()?)));
        known.collect()
    }

    /// The digests of what all share, of the parts that lie here as they were noted.
    #[must_use]
    pub fn known(&self, here: &Parts) -> BTreeMap<String, [u8; 32]> {
        let untouched = |part: &str, noted: &Noted| {
            let content = here.get(part);
            content.is_some_and(|content| hex::encode(mark(part, content)) == noted.here)
        };
        let parts = self.parts.iter().filter(|(part, noted)| untouched(part, noted));
        parts
            .filter_map(|(part, noted)| Some((part.clone(), noted.digest()?)))
            .collect()
    }

    /// How many parts were changed for this node only.
    #[must_use]
    pub fn drift(&self) -> usize {
        self.parts
            .values()
            .filter(|noted| noted.group != noted.here)
            .count()
    }

    /// The parts that do not lie here as they were noted.
    ///
    /// # Errors
    /// Something of it cannot be read.
    pub fn by_hand(&self, config: &Config) -> Result<Vec<ByHand>, String> {
        let here = parts(config)?;
        let source = config.source.clone().map(|path| (CONFIGURATION.to_owned(), path));
        let places: BTreeMap<String, PathBuf> = files(config)
            .into_iter()
            .map(|file| (file.part, file.path))
            .chain(source)
            .collect();
        let is_noted = |part: &String| {
            let noted = self.parts.get(part).map(|noted| noted.here.clone());
            noted == here.get(part).map(|content| hex::encode(mark(part, content)))
        };
        let mut all: Vec<ByHand> = Vec::new();
        for (part, path) in places {
            if !is_noted(&part) {
                all.push(ByHand { part, path });
            }
        }
        Ok(all)
    }
}
