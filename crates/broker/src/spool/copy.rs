//! Copies the records of some spools into others.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::Directory;
use super::log::{Append, Log};
use crate::record;

/// Why records could not be copied.
#[derive(Debug)]
pub(crate) struct CopyError {
    /// The directory or file.
    pub(crate) path: PathBuf,
    /// What is wrong.
    pub(crate) error: io::Error,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spool {}: {}", self.path.display(), self.error)
    }
}

const BATCH: usize = 1_000;

/// Copies every whole record to the spool that `place` names for its topic, in order; on disk on return.
pub(crate) fn copy_all(
    from: &[PathBuf],
    to: &[PathBuf],
    place: impl Fn(&str) -> usize,
) -> Result<(), CopyError> {
    let open = |path: &PathBuf| {
        let opened = Directory::open(path).and_then(|disk| Log::open(disk, u64::MAX));
        opened.map(|(log, _)| log).map_err(|error| CopyError {
            path: path.clone(),
            error,
        })
    };
    let mut targets = to
        .iter()
        .map(|path| Ok((path, open(path)?, Vec::new())))
        .collect::<Result<Vec<_>, _>>()?;
    for path in from {
        let mut source = open(path)?;
        while let Some(frame) = source.read().map_err(|error| CopyError {
            path: path.clone(),
            error,
        })? {
            let Some((target, log, batch)) =
                record::topic(&frame.body).and_then(|topic| targets.get_mut(place(topic)))
            else {
                tracing::error!(spool = %path.display(), "a damaged record was left behind");
                continue;
            };
            batch.push(Append {
                accepted_millis: frame.accepted_millis,
                body: frame.body,
                held: false,
            });
            if batch.len() >= BATCH {
                flush(target, log, batch)?;
            }
        }
        let lost = source.take_lost();
        if lost > 0 {
            tracing::error!(spool = %path.display(), messages = lost, "damaged records were left behind");
        }
    }
    for (path, log, batch) in &mut targets {
        flush(path, log, batch)?;
    }
    Ok(())
}

fn flush(path: &Path, log: &mut Log<Directory>, batch: &mut Vec<Append>) -> Result<(), CopyError> {
    let written = log.append(&std::mem::take(batch));
    if written.iter().all(Result::is_ok) {
        return Ok(());
    }
    let reason = log.failure().unwrap_or("no space is left").to_owned();
    Err(CopyError {
        path: path.to_path_buf(),
        error: io::Error::other(reason),
    })
}
