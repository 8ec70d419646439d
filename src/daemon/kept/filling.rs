//! Memories filled from the copy on disk, because none outlived the machine's run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tracing::{error, warn};

use crate::config::state_key::StateKey;
use crate::dtls::{self, Inexact};
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

/// What tells records apart that stand twice: who lost power before all was written anew left the rows of the earlier process too, and
/// those are of another store. A session is named by its mark alone, for what else stands in it may have changed.
type Name = (u8, Option<u64>, Option<u64>);

/// How late a row was written: the generation, then the numbers in it that only rise.
type Age = (u64, [u64; 2]);

fn name_and_age(row: &Row) -> (Name, Age) {
    let contents = &row.contents;
    let body = dtls::place_of(contents).is_none().then(|| digest(&contents.body));
    let name = (contents.kind.0, contents.hot.get(MARK).copied(), body);
    (
        name,
        (
            row.generation,
            contents.hot.first_chunk().copied().unwrap_or_default(),
        ),
    )
}

/// Fills the stores, each with what its worker had, or one of as many workers.
pub(super) fn fill(disk: &Disk, stores: &[Arc<Store>], lost: &mut Lost) {
    stores.iter().for_each(|store| store.fill());
    let (mut damaged, mut full, mut newest) = (0, 0, HashMap::<Name, Age>::new());
    let looked = disk.read(|_, row| {
        if let Some((name, age)) = row.as_ref().map(name_and_age) {
            let known = newest.entry(name).or_default();
            *known = age.max(*known);
        }
    });
    let read = disk.read(|_, row| {
        let Some(row) = row else {
            damaged += 1;
            return;
        };
        let (name, age) = name_and_age(&row);
        if newest.get(&name) != Some(&age) {
            return;
        }
        newest.remove(&name);
        let Some(Row { worker, contents, .. }) = go_on(row, disk.generation()) else {
            damaged += 1;
            return;
        };
        let store = stores.get(usize::from(worker) % stores.len().max(1));
        let put = store.and_then(|store| {
            let record = store.put(contents.kind, &contents.hot, &contents.body)?;
            store.leave(vec![record]);
            Some(())
        });
        full += u64::from(put.is_none());
    });
    if let Err(error) = looked.and(read) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Cell, Contents, HOT_WORDS, Kind, Memory, WriteBytes};

    const SESSION: Kind = Kind(1);
    const OBSERVATION: Kind = Kind(5);
    const TIME: Counted = Counted {
        began: Duration::from_secs(1_700_000_000),
        counted: Duration::from_secs(60),
    };

    /// A session without a Connection ID, of TLS_PSK_WITH_AES_128_CCM_8. `place` stands for where its peer is.
    fn session(mark: u64, number: u64, floor: u64, place: u8) -> Contents {
        let mut body = WriteBytes::default();
        body.u64(1).u8(0).raw(&[0xc0, 0xa8]);
        // Two keys, each with 4 bytes of a nonce; then the offsets of the explicit nonce and of the records sealed.
        body.raw(&[7; 40]).u64(0).u64(0).raw(&[place; 30]);
        let mut hot = [0; HOT_WORDS];
        (hot[0], hot[1], hot[MARK]) = (number, floor, mark);
        Contents {
            kind: SESSION,
            hot,
            body: body.as_slice().to_vec().into(),
        }
    }

    fn observation(mark: u64, number: u64, body: &[u8]) -> Contents {
        let mut hot = [0; HOT_WORDS];
        (hot[0], hot[MARK]) = (number, mark);
        Contents {
            kind: OBSERVATION,
            hot,
            body: body.to_vec().into(),
        }
    }

    /// Has one more process begin from the file and write these rows.
    fn write(directory: &Path, rows: Vec<((u64, u32), Contents)>) {
        let (mut disk, refused) = Disk::open(directory, &StateKey::new([3; 32])).unwrap();
        assert!(refused.is_none());
        disk.raise_generation().unwrap();
        let rows = rows
            .into_iter()
            .map(|(place, contents)| (place, Some((0, contents))));
        disk.commit(rows, TIME).unwrap();
    }

    /// What the next process goes on with: kind, mark and floor of each record, and bytes of it that only its writer chose.
    fn filled(directory: &Path) -> (Vec<(u8, u64, u64, u8)>, Lost) {
        let (mut disk, _) = Disk::open(directory, &StateKey::new([3; 32])).unwrap();
        disk.raise_generation().unwrap();
        let memory = Memory {
            cells: Vec::leak((0..200).map(|_| Cell::default()).collect()),
            reserve: Box::new(|_| true),
        };
        let clock = Clock {
            now: clock::now(),
            up: Duration::from_secs(100),
            ahead: Duration::ZERO,
        };
        let store = Arc::new(Store::create(memory, clock, [1; 2], 0).unwrap());
        let mut lost = Vec::new();
        fill(&disk, &[Arc::clone(&store)], &mut lost);
        let all = store.found(Kind::ANY);
        let mut all: Vec<_> = all
            .into_iter()
            .map(|record| {
                let Contents { kind, hot, body } = store.contents(record).unwrap();
                (kind.0, hot[MARK], hot[1], *body.last().unwrap())
            })
            .collect();
        all.sort_unstable();
        lost.retain(|(_, count)| *count > 0);
        (all, lost)
    }

    #[test]
    fn after_two_power_losses_in_a_row_the_older_copy_of_a_session_does_not_come_back() {
        // Whichever of the stores comes first in the file.
        for (earlier, later) in [(7, 8), (8, 7)] {
            let directory = tempfile::tempdir().unwrap();
            let before = vec![
                ((earlier, 1), session(50, 100, 40, 1)),
                ((earlier, 2), session(51, 200, 60, 1)),
                ((earlier, 3), observation(50, 9, b"a")),
                ((earlier, 4), observation(50, 9, b"b")),
            ];
            write(directory.path(), before);
            // Power went before the third and fourth record were written anew; the first session has moved.
            let after = vec![
                ((later, 1), session(50, 1 << 25, 45, 2)),
                ((later, 2), session(51, 1 << 25, 60, 1)),
                ((later, 3), observation(50, 5000, b"a")),
            ];
            write(directory.path(), after);
            let expected = vec![(1, 50, 45, 2), (1, 51, 60, 1), (5, 50, 0, b'a'), (5, 50, 0, b'b')];
            assert_eq!(filled(directory.path()), (expected, Vec::new()));
        }
    }

    #[test]
    fn of_two_rows_of_one_generation_the_one_whose_numbers_went_on_counts_and_of_two_alike_one() {
        let directory = tempfile::tempdir().unwrap();
        let rows = vec![
            ((7, 1), session(50, 100, 44, 1)),
            ((8, 1), session(50, 100, 40, 1)),
            ((7, 2), session(51, 100, 40, 1)),
            ((8, 2), session(51, 100, 40, 1)),
        ];
        write(directory.path(), rows);
        let expected = vec![(1, 50, 44, 1), (1, 51, 40, 1)];
        assert_eq!(filled(directory.path()), (expected, Vec::new()));
    }
}
