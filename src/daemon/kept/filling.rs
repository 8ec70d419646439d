//! Memories filled from the copy on disk, because none outlived the machine's run.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tracing::{error, warn};

use crate::config::state_key::StateKey;
use crate::dtls::Inexact;
use crate::gateway::kept::make_inexact;
use crate::session::RestoreResult;
use crate::state::{Clock, MARK, Store, digest};

use super::super::clock;
use super::Lost;
use super::disk::{Counted, Disk, Row};

/// Opens the copy in a state directory, and has the clock go on from the times in it. None where nothing comes of it; the gateway
/// serves all the same.
pub(super) fn begin(directory: &Path, key: &StateKey, clock: &mut Clock, lost: &mut Lost) -> Option<Disk> {
    let (mut disk, refused) = match Disk::open(directory, key) {
        Ok(opened) => opened,
        Err(error) => {
            error!(error, "kept state on disk cannot be opened: devices shake hands");
            return None;
        }
    };
    if let Some(why) = refused {
        lost.push((why, 1));
    }
    // On disk before anything is sent: another start from the same copy goes on with higher numbers.
    let begun = disk.raise_generation().and_then(|_| disk.counted());
    match begun {
        Ok(counted) => {
            clock.ahead = counted.map_or(Duration::ZERO, |counted| ahead(counted, clock.up));
            Some(disk)
        }
        Err(error) => {
            error!(%error, "kept state on disk cannot be gone on from: devices shake hands");
            None
        }
    }
}

/// What the times of the records are ahead of those of a machine that ran for `up`. Where the time of day is wrong, as on a machine that
/// has none yet, the time that it was off counts as none.
fn ahead(counted: Counted, up: Duration) -> Duration {
    let wall = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.saturating_sub(counted.began)
        .max(counted.counted)
        .saturating_sub(up)
}

/// Fills the stores, each with what its worker had, or one of as many workers.
pub(super) fn fill(disk: &Disk, stores: &[Arc<Store>], lost: &mut Lost) {
    stores.iter().for_each(|store| store.fill());
    let (mut damaged, mut full, mut seen) = (0, 0, HashSet::new());
    let read = disk.read(|_, row| {
        let Some(row) = row.and_then(|row| go_on(row, disk.generation())) else {
            damaged += 1;
            return;
        };
        let Row { worker, contents, .. } = row;
        // Who lost power while he wrote all anew left some records twice.
        if !seen.insert((
            contents.kind,
            contents.hot.get(MARK).copied(),
            digest(&contents.body),
        )) {
            return;
        }
        let store = stores.get(usize::from(worker) % stores.len().max(1));
        let put = store.and_then(|store| {
            let record = store.put(contents.kind, &contents.hot, &contents.body)?;
            store.leave(vec![record]);
            Some(())
        });
        full += u64::from(put.is_none());
    });
    if let Err(error) = read {
        warn!(%error, "kept state on disk cannot be read to its end");
        damaged += 1;
    }
    lost.extend([(RestoreResult::Damaged, damaged), (RestoreResult::Limit, full)]);
}

/// A record as it goes on in this generation; nothing where it cannot.
fn go_on(mut row: Row, generation: u64) -> Option<Row> {
    let mut random = [0; 8];
    openssl::rand::rand_bytes(&mut random).ok()?;
    let inexact = Inexact {
        generations: generation
            .checked_sub(row.generation)
            .filter(|since| *since > 0)?,
        random: u64::from_be_bytes(random),
    };
    make_inexact(&mut row.contents);
    inexact.apply(&mut row.contents).then_some(row)
}
