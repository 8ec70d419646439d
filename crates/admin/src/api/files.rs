//! Changing a file that the configuration names, or the configuration itself: all or nothing.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use portcullis_config::atomic::{self, DirectoryLock};
use portcullis_config::secrets::{read_public, read_secret};
use portcullis_config::shared;

use super::error::ApiError;
use super::handle::Reloaded;
use super::status::not_reloaded;
use super::{Api, group, scope};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Keys or password hashes: only its owner may read it.
    Secret,
    /// The configuration, which holds no secret: whoever may read the file today may read the new one.
    Public,
}

/// A new content, and what to answer when it is in force.
pub(super) struct Edit<T> {
    pub(super) content: Zeroizing<Vec<u8>>,
    pub(super) outcome: T,
}

/// The file as it was and the lock that keeps other writers away.
struct Changed {
    lock: DirectoryLock,
    path: PathBuf,
    mode: u32,
    old: Option<Zeroizing<Vec<u8>>>,
}

/// Replaces the content of `path` by what `edit` makes of it (an empty one when there is no file), then reloads. When the
/// reload fails the old content comes back, so that a later start finds what is in force. What all nodes of a group share is
/// changed for all of them, unless the request is for this one alone.
pub(super) async fn change<T: Send + 'static>(
    api: &Api,
    path: PathBuf,
    kind: Kind,
    edit: impl FnOnce(&[u8]) -> Result<Edit<T>, ApiError> + Send + 'static,
) -> Result<(T, Reloaded), ApiError> {
    let part = shared::part_of(&api.site.config(), &path);
    if let (Some(group), Some(part)) = (scope::group(api), &part) {
        return group::share::change(api, group, part.clone(), path, edit).await;
    }
    let _one_at_a_time = api.changes.lock().await;
    let (changed, outcome) = blocking(move || write(path, kind, edit)).await??;
    let part = part.as_deref().filter(|_| api.site.group().is_some());
    if let Some(part) = part {
        group::share::keep_here(api, Some(part)).await?;
    }
    match api.site.reload().await {
        Ok(reloaded) => Ok((outcome, reloaded)),
        Err(problems) => {
            blocking(move || changed.undo()).await??;
            if let Some(part) = part {
                group::share::keep_here(api, Some(part)).await?;
            }
            Err(not_reloaded(&problems))
        }
    }
}

/// The content of a file; nothing when it is not there.
pub(super) fn read(path: &Path, kind: Kind) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
    if !path.exists() {
        return Ok(None);
    }
    let content = match kind {
        Kind::Secret => read_secret(path),
        Kind::Public => read_public(path),
    };
    content
        .map(Some)
        .map_err(|error| ApiError::conflict("unreadable", error.to_string()))
}

/// Runs what may wait for a disk away from the thread that serves.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ApiError::internal("it failed"))
}

fn write<T>(
    path: PathBuf,
    kind: Kind,
    edit: impl FnOnce(&[u8]) -> Result<Edit<T>, ApiError>,
) -> Result<(Changed, T), ApiError> {
    let lock = DirectoryLock::of(&path).map_err(|error| not_written(&path, &error))?;
    let old = read(&path, kind)?;
    let edited = edit(old.as_ref().map_or(&[][..], |old| old.as_slice()))?;
    let mode = match kind {
        Kind::Secret => atomic::SECRET,
        Kind::Public => atomic::mode_of(&path, 0o644),
    };
    atomic::write(&lock, &path, &edited.content, mode).map_err(|error| not_written(&path, &error))?;
    let changed = Changed {
        lock,
        path,
        mode,
        old,
    };
    Ok((changed, edited.outcome))
}

impl Changed {
    fn undo(self) -> Result<(), ApiError> {
        let undone = match &self.old {
            Some(old) => atomic::write(&self.lock, &self.path, old, self.mode),
            None => std::fs::remove_file(&self.path),
        };
        undone.map_err(|error| not_written(&self.path, &error))
    }
}

fn not_written(path: &Path, error: &std::io::Error) -> ApiError {
    let hint = match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            "; the gateway may not write there (under systemd: ReadWritePaths= for its directory)"
        }
        _ => "",
    };
    ApiError::conflict(
        "not_writable",
        format!("cannot write {}: {error}{hint}", path.display()),
    )
}
