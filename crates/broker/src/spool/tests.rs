//! The spool against a plain model, on a disk that fails.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::faults::FaultyDisk;
use super::frame::{FrameReader, HEADER, Key, PREAMBLE};
use super::log::{Append, AppendError, Log};
use super::{Command, Spool};
use crate::record;
use crate::testing::{clock, message};

const MAX: u64 = 4 << 20;

fn record(body: &[u8]) -> Append {
    Append {
        accepted_millis: 1,
        body: body.to_vec(),
        held: false,
    }
}

fn open(disk: &FaultyDisk) -> Log<FaultyDisk> {
    opened(disk, MAX)
}

fn opened(disk: &FaultyDisk, max_bytes: u64) -> Log<FaultyDisk> {
    Log::open(disk.clone(), max_bytes).unwrap().0
}

fn filled(disk: &FaultyDisk, count: u32) -> Log<FaultyDisk> {
    let mut log = open(disk);
    for number in 0..count {
        assert!(log.append(&[record(&number.to_le_bytes())])[0].is_ok());
    }
    log
}

fn rest(log: &mut Log<FaultyDisk>) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| log.read().unwrap().map(|frame| frame.body)).collect()
}

fn numbers(log: &mut Log<FaultyDisk>) -> Vec<u32> {
    rest(log)
        .iter()
        .map(|body| u32::from_le_bytes(body[..].try_into().unwrap()))
        .collect()
}

#[test]
fn what_is_appended_is_read_in_order_again_and_again() {
    let disk = FaultyDisk::default();
    let mut log = filled(&disk, 10);
    assert_eq!(numbers(&mut log), (0..10).collect::<Vec<_>>());
    assert_eq!((log.live(), log.unread()), (10, 0));
    log.done(0);
    log.done(3);
    log.rewind();
    assert_eq!((log.live(), log.unread()), (8, 8));
    assert_eq!(numbers(&mut log), [1, 2, 4, 5, 6, 7, 8, 9]);
    for number in 0..10 {
        log.done(number);
    }
    assert_eq!(
        (log.live(), log.unread(), log.live_bytes(), log.disk_bytes()),
        (0, 0, 0, 0)
    );
    assert!(disk.state().segments.is_empty());
    log.append(&[record(&77u32.to_le_bytes())]);
    assert_eq!(numbers(&mut log), [77]);
}

#[test]
fn a_record_that_the_caller_holds_is_read_only_after_a_rewind() {
    let disk = FaultyDisk::default();
    let mut log = open(&disk);
    let held = |body: u32| Append {
        held: true,
        ..record(&body.to_le_bytes())
    };
    log.append(&[held(0), held(1)]);
    log.append(&[record(&2u32.to_le_bytes())]);
    assert_eq!((log.live(), log.unread()), (3, 1));
    assert_eq!(numbers(&mut log), [2]);
    log.done(1);
    log.rewind();
    assert_eq!(numbers(&mut log), [0, 2]);
}

#[test]
fn one_fsync_for_a_batch() {
    let disk = FaultyDisk::default();
    let mut log = open(&disk);
    log.append(&(0..100u32).map(|n| record(&n.to_le_bytes())).collect::<Vec<_>>());
    assert_eq!(disk.state().syncs, 1);
}

#[test]
fn a_torn_tail_costs_nothing_that_was_acknowledged() {
    let disk = FaultyDisk::default();
    drop(filled(&disk, 5));
    let length = HEADER + 4;
    let key = key(&disk);
    for cut in 0..length {
        let torn = disk.copy();
        // A sixth record of which only a part arrived; its append was never answered.
        let mut sixth = Vec::new();
        super::frame::write(&mut sixth, &key, 5, 1, &5u32.to_le_bytes());
        torn.state()
            .segments
            .get_mut(&0)
            .unwrap()
            .data
            .extend_from_slice(&sixth[..cut]);
        let (mut log, found) = Log::open(torn.clone(), MAX).unwrap();
        assert_eq!(found.records, 5);
        assert_eq!(found.damaged_bytes, cut as u64);
        assert_eq!(
            torn.state().used(),
            PREAMBLE + 5 * length,
            "the torn part is cut off"
        );
        log.append(&[record(&6u32.to_le_bytes())]);
        assert_eq!(numbers(&mut log), [0, 1, 2, 3, 4, 6]);
        assert_eq!(log.take_lost(), 0);
    }
}

#[test]
fn what_was_done_before_a_kill_is_not_taken_for_lost() {
    for (seed, done) in [700, 2_000, 2_999, 3_000].into_iter().enumerate() {
        let disk = FaultyDisk::default();
        let mut log = opened(&disk, 160 << 10);
        let records: Vec<Append> = (0..3_000_u32).map(|n| record(&n.to_le_bytes())).collect();
        assert!(log.append(&records).iter().all(Result::is_ok));
        // The broker has them, and nothing more is written before the process ends.
        for number in 0..done {
            log.read().unwrap();
            log.done(number);
        }
        drop(log);
        if seed % 2 == 0 {
            disk.state().crash(&mut StdRng::seed_from_u64(seed as u64));
        }
        let (mut log, found) = Log::open(disk.clone(), 160 << 10).unwrap();
        let left = numbers(&mut log);
        assert_eq!(log.take_lost(), 0, "{done} done");
        assert_eq!(found.records, left.len() as u64);
        let missing = (done as u32..3_000).find(|number| !left.contains(number));
        assert_eq!(missing, None, "{done} done");
    }
}

#[test]
fn a_flipped_bit_costs_one_record_and_is_counted() {
    let disk = FaultyDisk::default();
    drop(filled(&disk, 7));
    let length = HEADER + 4;
    for bit in 0..7 * length * 8 {
        let damaged = disk.copy();
        damaged.state().segments.get_mut(&0).unwrap().data[PREAMBLE + bit / 8] ^= 1 << (bit % 8);
        let (mut log, found) = Log::open(damaged, MAX).unwrap();
        assert_eq!(found.records, 7, "damaged ones are known to have been there");
        assert_eq!(found.damaged_bytes, length as u64);
        let hit = (bit / 8 / length) as u32;
        let wanted: Vec<u32> = (0..7).filter(|n| *n != hit).collect();
        assert_eq!(numbers(&mut log), wanted, "bit {bit}");
        assert_eq!(log.take_lost(), 1);
        assert_eq!((log.live(), log.unread()), (6, 0));
        for number in 0..7 {
            log.done(number);
        }
        assert_eq!((log.live(), log.disk_bytes()), (0, 0));
    }
}

fn key(disk: &FaultyDisk) -> Key {
    FrameReader::default().key(&mut disk.clone(), 0).unwrap().unwrap()
}

#[test]
fn a_flipped_bit_of_the_key_costs_nothing() {
    let disk = FaultyDisk::default();
    drop(filled(&disk, 3));
    for bit in 0..PREAMBLE * 8 {
        let damaged = disk.copy();
        damaged.state().segments.get_mut(&0).unwrap().data[bit / 8] ^= 1 << (bit % 8);
        let mut log = open(&damaged);
        log.append(&[record(&3u32.to_le_bytes())]);
        assert_eq!(numbers(&mut log), [0, 1, 2, 3], "bit {bit}");
        assert_eq!(numbers(&mut open(&damaged)), [0, 1, 2, 3], "bit {bit}");
    }
}

#[test]
fn a_payload_never_becomes_a_record() {
    let disk = FaultyDisk::default();
    drop(filled(&disk, 2));
    // What a device can write: records as they would stand in a segment of another key.
    let mut forged = Vec::new();
    for number in [2, 3, 4, 1 << 40] {
        super::frame::write(&mut forged, &Key::new(), number, 1, b"forged");
    }
    let other = FaultyDisk::default();
    drop(filled(&other, 4));
    let segment = other.state().segments[&0].data.clone();
    for body in [forged, segment] {
        let disk = disk.copy();
        open(&disk).append(&[record(&body), record(&2u32.to_le_bytes())]);
        let whole = disk.state().segments[&0].data.clone();
        let start = PREAMBLE + 2 * (HEADER + 4);
        for bit in 0..HEADER * 8 {
            let damaged = disk.copy();
            damaged.state().segments.get_mut(&0).unwrap().data[start + bit / 8] ^= 1 << (bit % 8);
            let mut log = open(&damaged);
            assert_eq!(numbers(&mut log), [0, 1, 2], "bit {bit}");
            assert_eq!(log.take_lost(), 1);
        }
        for cut in start..whole.len() {
            let torn = disk.copy();
            torn.state().segments.get_mut(&0).unwrap().data.truncate(cut);
            let found = rest(&mut open(&torn));
            assert!(
                found.len() <= 3 && found.iter().all(|body| body != b"forged"),
                "cut to {cut}"
            );
        }
    }
}

#[test]
fn a_number_beyond_what_its_place_allows_is_damage() {
    let disk = FaultyDisk::default();
    drop(filled(&disk, 2));
    let key = key(&disk);
    for number in [4, 1 << 20, 1 << 40, u64::MAX] {
        let disk = disk.copy();
        let mut next = Vec::new();
        super::frame::write(&mut next, &key, number, 1, &9u32.to_le_bytes());
        disk.state().segments.get_mut(&0).unwrap().data.extend(next);
        let mut log = open(&disk);
        assert_eq!(numbers(&mut log), [0, 1], "{number}");
        assert_eq!((log.live(), log.take_lost()), (2, 0));
        assert_eq!(log.append(&[record(&2u32.to_le_bytes())]), [Ok(2)]);
    }
}

#[test]
fn a_segment_of_an_impossible_name_is_set_aside_and_one_of_an_impossible_length_cut() {
    for name in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 40] {
        for with_records in [false, true] {
            let disk = FaultyDisk::default();
            if with_records {
                drop(filled(&disk, 3));
            }
            disk.state().segments.insert(name, Default::default());
            let mut log = open(&disk);
            let wanted: &[u32] = if with_records { &[0, 1, 2] } else { &[] };
            assert_eq!(numbers(&mut log), wanted, "{name:x}");
            assert_eq!((log.live(), log.take_lost()), (wanted.len() as u64, 0));
            assert!(log.append(&[record(&3u32.to_le_bytes())])[0].is_ok());
            // Alone, a name that can be counted to may be what a lost head leaves.
            if with_records || name > 1 << 62 {
                assert_eq!(disk.state().aside, [(name, 0)]);
            }
        }
    }
    let disk = FaultyDisk::default();
    drop(filled(&disk, 3));
    disk.state()
        .segments
        .get_mut(&0)
        .unwrap()
        .data
        .resize(100 << 20, 0);
    assert_eq!(numbers(&mut open(&disk)), [0, 1, 2]);
    assert!(disk.state().used() < 1 << 10, "it is cut");
}

#[test]
fn a_full_disk_refuses_and_accepts_again_once_there_is_room() {
    let disk = FaultyDisk::default();
    let mut log = filled(&disk, 10);
    disk.state().room = Some(PREAMBLE + 10 * (HEADER + 4) + 50);
    assert_eq!(log.append(&[record(b"0010")]), [Ok(10)]);
    assert_eq!(log.append(&[record(b"0011")]), [Err(AppendError::Full)]);
    assert_eq!(
        disk.state().used(),
        PREAMBLE + 11 * (HEADER + 4),
        "the torn write is taken back"
    );
    disk.state().room = None;
    assert_eq!(log.append(&[record(b"0012")]), [Ok(11)]);
    assert_eq!(log.failure(), None);
    assert_eq!(rest(&mut log).len(), 12);
    assert_eq!(rest(&mut open(&disk)).len(), 12);
}

#[test]
fn after_an_fsync_error_nothing_is_accepted_and_nothing_acknowledged_is_missing() {
    for fail_write in [false, true] {
        let disk = FaultyDisk::default();
        let mut log = filled(&disk, 10);
        disk.state().fail_sync = !fail_write;
        disk.state().fail_write = fail_write;
        assert_eq!(log.append(&[record(b"lost")]), [Err(AppendError::Failed)]);
        disk.state().fail_sync = false;
        disk.state().fail_write = false;
        assert_eq!(
            log.append(&[record(b"late")]),
            [Err(AppendError::Failed)],
            "fsync is never tried again"
        );
        assert!(log.failure().is_some());
        assert_eq!(numbers(&mut log), (0..10).collect::<Vec<_>>());
        assert_eq!(numbers(&mut open(&disk)), (0..10).collect::<Vec<_>>());
    }
}

#[test]
fn the_files_never_outgrow_the_bound_and_go_once_done() {
    let disk = FaultyDisk::default();
    let mut log = open(&disk);
    let body = vec![7; 10_000];
    let mut taken = 0;
    while log.append(&[record(&body)])[0].is_ok() {
        taken += 1;
    }
    assert!(disk.state().used() as u64 <= MAX);
    assert!(taken > 400 * 95 / 100, "{taken}");
    assert!(disk.state().segments.len() > 10);
    for _ in 0..taken / 2 {
        let frame = log.read().unwrap().unwrap();
        log.done(frame.number);
    }
    assert!(disk.state().segments.len() < 10);
    assert!(log.append(&[record(&body)])[0].is_ok());
}

/// Random appends, reads, acknowledgements, rewinds, disk faults, clean ends and losses of power against a plain model.
#[test]
fn random_life_agrees_with_a_model() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = FaultyDisk::default();
        let mut log = opened(&disk, 400_000);
        let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut held: Vec<u64> = Vec::new();
        for step in 0..400 {
            match rng.random_range(0..100) {
                0..40 => {
                    let batch: Vec<Append> = (0..rng.random_range(1..6))
                        .map(|_| record(&vec![rng.random(); rng.random_range(0..4_000)]))
                        .collect();
                    for (append, result) in batch.iter().zip(log.append(&batch)) {
                        if let Ok(number) = result {
                            assert!(model.insert(number, append.body.clone()).is_none());
                        }
                    }
                }
                40..65 => {
                    if let Some(frame) = log.read().unwrap() {
                        let oldest = model.iter().find(|(number, _)| !held.contains(number));
                        assert_eq!(
                            oldest,
                            Some((&frame.number, &frame.body)),
                            "seed {seed} step {step}"
                        );
                        held.push(frame.number);
                    } else {
                        assert_eq!(held.len(), model.len(), "seed {seed} step {step}");
                    }
                }
                65..90 => {
                    if !held.is_empty() {
                        let number = held.swap_remove(rng.random_range(0..held.len().min(4)));
                        model.remove(&number);
                        log.done(number);
                    }
                }
                90..93 => {
                    log.rewind();
                    held.clear();
                }
                93..95 => disk.state().room = Some(disk_room(&disk, &mut rng)),
                95..97 => disk.state().room = None,
                _ => {
                    let (power, stopped) = (rng.random_bool(0.5), rng.random_bool(0.5));
                    if stopped {
                        log.write_head();
                    }
                    drop(log);
                    if power {
                        disk.state().crash(&mut rng);
                    }
                    log = opened(&disk, 400_000);
                    held.clear();
                    let all: Vec<(u64, Vec<u8>)> =
                        std::iter::from_fn(|| log.read().unwrap().map(|f| (f.number, f.body))).collect();
                    let found: BTreeMap<u64, Vec<u8>> = all.iter().cloned().collect();
                    for (number, body) in &model {
                        assert_eq!(
                            found.get(number),
                            Some(body),
                            "seed {seed} step {step}: {number} is missing"
                        );
                    }
                    // Out-of-order acknowledgements may be forgotten, then the record comes once more.
                    model = found;
                    log.rewind();
                }
            }
            assert_eq!(log.take_lost(), 0, "seed {seed} step {step}");
            assert_eq!(log.live(), model.len() as u64, "seed {seed} step {step}");
            assert_eq!(
                log.unread() as usize,
                model.len() - held.len(),
                "seed {seed} step {step}"
            );
        }
    }
}

fn disk_room(disk: &FaultyDisk, rng: &mut StdRng) -> usize {
    disk.state().used() + rng.random_range(0..8_000)
}

#[tokio::test]
async fn a_spool_survives_a_restart_and_forgets_what_expired_when_it_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let append = |topic: &str, seconds: Option<u64>| {
        let mut message = message(topic, &"x".repeat(5_000));
        message.expires_at = seconds.map(|seconds| (clock.now)() + Duration::from_millis(seconds));
        let mut body = Vec::new();
        record::encode(&message, None, clock.moment(), &mut body);
        Command::Append(Append {
            accepted_millis: 9,
            body,
            held: false,
        })
    };
    let (spool, state) = Spool::open(directory.path(), 100_000, false, clock).unwrap();
    assert_eq!(state.live, 0);
    for number in 0..15 {
        spool.send(append(&format!("short/{number}"), Some(50)));
    }
    spool.send(append("long", None));
    let reports = spool.close().await;
    let taken = reports
        .iter()
        .flat_map(|report| &report.appended)
        .filter(|result| result.is_ok())
        .count();
    assert_eq!(taken, 16);
    assert_eq!(reports.last().unwrap().state.oldest_millis, 9);
    assert!(Spool::open(directory.path(), 100_000, false, clock).is_ok());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (spool, state) = Spool::open(directory.path(), 100_000, false, clock).unwrap();
    assert_eq!(state.live, 16);
    for number in 0..10 {
        spool.send(append(&format!("new/{number}"), None));
    }
    spool.send(Command::Read {
        max_records: 100,
        max_bytes: 1 << 20,
    });
    let reports = spool.close().await;
    let expired: u64 = reports.iter().map(|report| report.expired).sum();
    let refused = reports
        .iter()
        .flat_map(|report| &report.appended)
        .filter(|result| result.is_err())
        .count();
    assert_eq!((expired, refused), (15, 0));
    let topics: Vec<String> = reports
        .iter()
        .filter_map(|report| report.loaded.as_ref())
        .flatten()
        .map(|loaded| loaded.record.message.topic.to_string())
        .collect();
    assert_eq!(topics[0], "long");
    assert_eq!(topics.len(), 11);
}

fn kept(body: usize, number: u32) -> Command {
    let mut message = message(&number.to_string(), &"x".repeat(body));
    message.expires_at = None;
    let mut bytes = Vec::new();
    record::encode(&message, None, clock().moment(), &mut bytes);
    Command::Append(Append {
        accepted_millis: 9,
        body: bytes,
        held: false,
    })
}

#[tokio::test]
async fn a_full_spool_gives_up_the_oldest_if_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(directory.path(), 100_000, true, clock()).unwrap();
    for number in 0..100 {
        spool.send(kept(5_000, number));
    }
    // More than fits at all: refused, and nothing is given up for it.
    spool.send(kept(200_000, 100));
    spool.send(Command::Read {
        max_records: 1_000,
        max_bytes: 1 << 30,
    });
    let reports = spool.close().await;
    let results: Vec<bool> = reports
        .iter()
        .flat_map(|report| report.appended.iter().map(Result::is_ok))
        .collect();
    assert_eq!(results.len(), 101);
    assert!(results[..100].iter().all(|ok| *ok) && !results[100]);
    let dropped: u64 = reports.iter().map(|report| report.dropped).sum();
    let left: Vec<u32> = reports
        .iter()
        .filter_map(|report| report.loaded.as_ref())
        .flatten()
        .map(|loaded| loaded.record.message.topic.as_str().parse().unwrap())
        .collect();
    assert_eq!(left.len() as u64 + dropped, 100);
    assert!(left.len() >= 16, "only as many as must be: {left:?}");
    assert_eq!(left, (100 - left.len() as u32..100).collect::<Vec<_>>());
    let state = &reports.last().unwrap().state;
    assert_eq!(state.live, left.len() as u64);
    assert!(
        state.disk_bytes <= 100_000 && state.live_bytes <= state.disk_bytes,
        "{state:?}"
    );
}

#[tokio::test]
async fn a_full_spool_never_gives_up_what_is_on_its_way() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(directory.path(), 100_000, true, clock()).unwrap();
    for number in 0..18 {
        spool.send(kept(5_000, number));
    }
    spool.send(Command::Read {
        max_records: 1,
        max_bytes: 1,
    });
    for number in 18..30 {
        spool.send(kept(5_000, number));
    }
    let reports = spool.close().await;
    assert_eq!(reports.iter().map(|report| report.dropped).sum::<u64>(), 0);
    let state = &reports.last().unwrap().state;
    let taken = reports
        .iter()
        .flat_map(|report| &report.appended)
        .filter(|result| result.is_ok())
        .count();
    assert!(taken < 30);
    assert_eq!((state.live, state.unread), (taken as u64, taken as u64 - 1));
}

#[test]
fn a_disk_that_is_full_with_other_things_costs_no_record() {
    let disk = FaultyDisk::default();
    let mut log = filled(&disk, 10);
    disk.state().room = Some(PREAMBLE + 10 * (HEADER + 4));
    assert_eq!(log.append(&[record(b"0010")]), [Err(AppendError::Full)]);
    assert!(!log.is_too_full_for(4));
}

/// CVE-2017-9868 was a broker whose file of kept messages everybody on the machine could read.
#[tokio::test]
async fn what_waits_on_disk_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("spool");
    let (spool, _) = Spool::open(&directory, MAX, false, clock()).unwrap();
    spool.send(kept(100, 1));
    spool.close().await;
    let files = std::fs::read_dir(&directory).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert!(!paths.is_empty());
    paths.push(directory);
    for path in paths {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn a_second_process_is_told_that_the_spool_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let (_spool, _) = Spool::open(directory.path(), MAX, false, clock()).unwrap();
    let error = Spool::open(directory.path(), MAX, false, clock()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}
