//! Where the spools of the connections lie: one directory each, because a topic always goes to the same connection.
//!
//! When the number of connections changes, topics move, and so do the records, before anything else reads them.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::aside;
use super::link::lane_of;
use super::spool::{CopyError, copy_all};

/// The directories of `count` spools below `root`, with all records where they belong.
///
/// # Errors
/// When a directory or file cannot be used; the text names it.
pub(super) fn prepare(root: &Path, count: usize) -> Result<Vec<PathBuf>, CopyError> {
    let fail = |path: &Path| {
        let path = path.to_path_buf();
        move |error| CopyError { path, error }
    };
    let fresh = root.with_extension("new");
    let old = root.with_extension("old");
    // A move that was cut short: before the old one was set aside it begins anew, afterwards it is finished.
    if !root.exists() && old.exists() {
        std::fs::rename(&fresh, root).map_err(fail(&fresh))?;
    }
    for leftover in [&fresh, &old] {
        if leftover.exists() {
            std::fs::remove_dir_all(leftover).map_err(fail(leftover))?;
        }
    }
    aside::make_way_for_directory(root).map_err(fail(root))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .map_err(fail(root))?;
    let present = existing(root).map_err(fail(root))?;
    if present != 0 && present != count {
        let topics = |topic: &str| lane_of(topic, count);
        copy_all(&directories(root, present), &directories(&fresh, count), topics)?;
        std::fs::rename(root, &old).map_err(fail(root))?;
        std::fs::rename(&fresh, root).map_err(fail(&fresh))?;
        sync_parent(root).map_err(fail(root))?;
        std::fs::remove_dir_all(&old).map_err(fail(&old))?;
    }
    Ok(directories(root, count))
}

fn directories(root: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|lane| root.join(lane.to_string())).collect()
}

fn existing(root: &Path) -> io::Result<usize> {
    let mut count = 0;
    while root.join(count.to_string()).try_exists()? {
        count += 1;
    }
    Ok(count)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;
    use crate::spool::{Append, Command, Spool};
    use crate::testing::{clock, message};

    async fn fill(directory: &Path, topics: &[String]) {
        let (spool, _) = Spool::open(directory, 1 << 20, false, clock()).unwrap();
        for (index, topic) in topics.iter().enumerate() {
            let mut body = Vec::new();
            record::encode(
                &message(topic, &index.to_string()),
                None,
                clock().moment(),
                &mut body,
            );
            spool.send(Command::Append(Append {
                accepted_millis: index as u64,
                body,
                held: false,
            }));
        }
        spool.close().await;
    }

    async fn content(directory: &Path) -> Vec<(String, String)> {
        let (spool, _) = Spool::open(directory, 1 << 20, false, clock()).unwrap();
        spool.send(Command::Read {
            max_records: 10_000,
            max_bytes: 1 << 20,
        });
        let reports = spool.close().await;
        let loaded = reports.into_iter().filter_map(|report| report.loaded).flatten();
        loaded
            .map(|loaded| {
                let message = loaded.record.message;
                (
                    message.topic.to_string(),
                    String::from_utf8(message.payload.to_vec()).unwrap(),
                )
            })
            .collect()
    }

    #[tokio::test]
    async fn records_follow_their_topics_to_another_number_of_connections() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("spool");
        let topics: Vec<String> = (0..200).map(|n| format!("t/{}", n % 17)).collect();
        let paths = prepare(&root, 1).unwrap();
        fill(&paths[0], &topics).await;
        for count in [4, 3, 1] {
            let paths = prepare(&root, count).unwrap();
            let mut total = 0;
            for (lane, path) in paths.iter().enumerate() {
                let content = content(path).await;
                total += content.len();
                for topic in topics.iter().take(17) {
                    let of_topic: Vec<u32> = content
                        .iter()
                        .filter(|(name, _)| name == topic)
                        .map(|(_, payload)| payload.parse().unwrap())
                        .collect();
                    assert_eq!(of_topic.is_empty(), lane_of(topic, count) != lane);
                    assert!(of_topic.is_sorted());
                }
            }
            assert_eq!(total, 200);
        }
    }

    #[tokio::test]
    async fn a_move_that_was_cut_short_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("spool");
        let topics: Vec<String> = (0..20).map(|n| format!("t/{n}")).collect();
        fill(&prepare(&root, 1).unwrap()[0], &topics).await;
        std::fs::create_dir_all(root.with_extension("new").join("0")).unwrap();
        assert_eq!(content(&prepare(&root, 1).unwrap()[0]).await.len(), 20);
        // Set aside, and not yet replaced.
        std::fs::rename(&root, root.with_extension("new")).unwrap();
        std::fs::create_dir(root.with_extension("old")).unwrap();
        assert_eq!(content(&prepare(&root, 1).unwrap()[0]).await.len(), 20);
        assert!(!root.with_extension("old").exists() && !root.with_extension("new").exists());
    }
}
