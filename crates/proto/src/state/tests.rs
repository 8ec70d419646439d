//! Records are found as they were left, or not at all and by name.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::*;
use crate::clock_for_tests;

const BOOT: [u64; 2] = [7, 9];
const KIND: Kind = Kind(3);

fn cells(count: usize) -> &'static [Cell] {
    Vec::leak((0..count).map(|_| Cell::default()).collect())
}

fn memory(cells: &'static [Cell]) -> Memory {
    let reserve = Box::new(|_: usize| true);
    Memory { cells, reserve }
}

fn clock() -> Clock {
    Clock {
        now: clock_for_tests(),
        up: Duration::from_secs(100),
        ahead: Duration::ZERO,
    }
}

fn create(cells: &'static [Cell]) -> Store {
    Store::create(memory(cells), clock(), BOOT, 1).unwrap()
}

fn reopen(cells: &'static [Cell]) -> Store {
    Store::open(memory(cells), clock(), BOOT).unwrap()
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|at| at as u8 | 1).collect()
}

fn hot(first: u64) -> [u64; HOT_WORDS] {
    std::array::from_fn(|at| first + at as u64)
}

#[test]
fn records_of_any_length_are_found_as_they_were_written() {
    let cells = cells(200);
    let store = create(cells);
    let lens = [0, 1, 103, 104, 105, 224, 225, 5000];
    for (at, len) in lens.iter().enumerate() {
        let record = store.put(KIND, &hot(at as u64), &body(*len)).unwrap();
        record.set(HOT_WORDS - 1, 77);
    }
    let next = reopen(cells);
    assert_eq!((next.damaged(), next.poisoned(), next.worker()), (0, 0, 1));
    let found = next.found(KIND);
    let contents: Vec<_> = found
        .iter()
        .map(|record| next.contents(*record).unwrap())
        .collect();
    assert_eq!(contents.iter().map(|it| it.body.len()).collect::<Vec<_>>(), lens);
    for (at, it) in contents.iter().enumerate() {
        assert_eq!(*it.body, body(lens[at]));
        assert_eq!((it.kind, it.hot[0], it.hot[HOT_WORDS - 1]), (KIND, at as u64, 77));
    }
    assert!(next.found(KIND).is_empty() && next.found(Kind(4)).is_empty());
}

#[test]
fn what_was_freed_leaves_no_byte_behind() {
    let cells = cells(50);
    let store = create(cells);
    let record = store.put(KIND, &hot(9), &body(300)).unwrap();
    let stays = store.put(KIND, &hot(1), &body(300)).unwrap();
    store.free(record);
    let nonzero = |cell: &&Cell| {
        cell.iter()
            .any(|word| word.load(std::sync::atomic::Ordering::Relaxed) != 0)
    };
    assert_eq!(cells.iter().filter(nonzero).count(), 1 + 4);
    assert_eq!(store.contents(stays).unwrap().body.len(), 300);
}

#[test]
fn a_record_that_is_rewritten_is_the_old_one_or_the_new_one_and_takes_no_more_room() {
    let cells = cells(10);
    let store = create(cells);
    let record = store.put(KIND, &hot(4), &body(300)).unwrap();
    for len in [300, 0, 100, 300, 299] {
        record.set(0, len as u64);
        assert!(store.rewrite(record, &body(len)));
        let next = reopen(cells);
        let found = next.found(KIND);
        let contents = next.contents(found[0]).unwrap();
        assert_eq!(
            (found.len(), contents.body.len(), contents.hot[0]),
            (1, len, len as u64)
        );
    }
    assert!(!store.rewrite(record, &body(2000)));
    assert_eq!(store.contents(record).unwrap().body.len(), 299);
}

#[test]
fn a_store_that_is_full_takes_no_more_until_something_goes() {
    let store = create(cells(10));
    let first = store.put(KIND, &hot(0), &body(300)).unwrap();
    let _second = store.put(KIND, &hot(0), &body(300)).unwrap();
    assert!(store.put(KIND, &hot(0), &body(1)).is_none());
    store.free(first);
    assert!(store.put(KIND, &hot(0), &body(105)).is_some());
    assert!(store.put(KIND, &hot(0), &body(105)).is_none());
    assert!(store.put(KIND, &hot(0), &[]).is_some());
    assert!(store.put(KIND, &hot(0), &[]).is_none());
}

#[test]
fn a_machine_without_room_is_a_full_store_and_nothing_else() {
    let cells = cells(100_000);
    let reserve = Box::new(|bytes: usize| bytes <= 1 << 20);
    let store = Store::create(Memory { cells, reserve }, clock(), BOOT, 0).unwrap();
    let mut kept = 0;
    while store.put(KIND, &hot(0), &body(100)).is_some() {
        kept += 1;
    }
    assert!((4000..=4096).contains(&kept), "{kept}");
}

#[test]
fn another_layout_another_boot_and_a_broken_check_word_have_names() {
    let cells = cells(50);
    let store = create(cells);
    store.put(KIND, &hot(0), &body(100)).unwrap();
    store.put(KIND, &hot(0), &body(50)).unwrap();
    assert_eq!(
        Store::open(memory(cells), clock(), [7, 8]).unwrap_err(),
        Unusable::Boot
    );
    assert_eq!(
        Store::open(memory(&cells[..40]), clock(), BOOT).unwrap_err(),
        Unusable::Layout
    );
    cells[2][2].fetch_xor(1, std::sync::atomic::Ordering::Relaxed);
    let next = reopen(cells);
    assert_eq!((next.damaged(), next.found(KIND).len()), (1, 1));
    cells[0][0].fetch_xor(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        Store::open(memory(cells), clock(), BOOT).unwrap_err(),
        Unusable::Layout
    );
}

#[test]
fn chains_that_lead_nowhere_or_round_in_circles_are_damage() {
    for next in [0, 1, 2, 5, 1 << 20] {
        let cells = cells(50);
        let store = create(cells);
        store.put(KIND, &hot(0), &body(300)).unwrap();
        store.put(KIND, &hot(0), &body(300)).unwrap();
        cells[2][0].store(next, std::sync::atomic::Ordering::Relaxed);
        let found = reopen(cells);
        assert_eq!((found.damaged(), found.found(KIND).len()), (1, 1), "{next}");
    }
}

#[test]
fn only_a_record_that_the_process_died_of_is_left_out() {
    let cells = cells(50);
    let store = create(cells);
    store.put(KIND, &hot(0), &body(100)).unwrap();
    store.put(KIND, &hot(5), &body(100)).unwrap();
    // Killed by another: the mark alone says nothing.
    let killed = reopen(cells);
    std::mem::forget(killed.restoring(killed.found(KIND)[1]));
    let next = reopen(cells);
    assert_eq!((next.poisoned(), next.found(KIND).len()), (0, 2));
    // A panic.
    let again = reopen(cells);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _mark = again.restoring(again.found(KIND)[1]);
        panic!("in a test");
    }));
    assert!(unwound.is_err());
    let next = reopen(cells);
    let found = next.found(KIND);
    assert_eq!((next.poisoned(), found.len(), found[0].get(0)), (1, 1, 0));
    // Once: it is wiped, and the next start sees nothing of it.
    assert_eq!(reopen(cells).poisoned(), 0);
}

#[test]
fn times_go_on_in_the_next_process() {
    let (first, later) = (clock(), Duration::from_millis(1500));
    assert_eq!(first.millis(first.now + later), 101_500);
    assert_eq!(first.millis(first.now), 100_000);
    let next = Clock {
        up: first.up + Duration::from_secs(3),
        ..first
    };
    assert_eq!(next.instant(101_500), next.now - later);
    assert_eq!(next.instant(104_000), next.now + Duration::from_secs(1));
    // The machine ran for a hundred seconds, and for three again, and was off for seven.
    let rebooted = Clock {
        up: Duration::from_secs(3),
        ahead: Duration::from_secs(107),
        ..first
    };
    assert_eq!(
        rebooted.instant(101_500),
        rebooted.now - Duration::from_millis(8500)
    );
    assert_eq!(rebooted.millis(rebooted.now + later), 111_500);
}

#[test]
fn times_of_a_store_are_ahead_of_the_machines_in_the_next_process_too() {
    let cells = cells(10);
    let ahead = Clock {
        ahead: Duration::from_millis(7),
        ..clock()
    };
    let _store = Store::create(memory(cells), ahead, BOOT, 0).unwrap();
    assert_eq!(reopen(cells).clock().millis(clock().now), 100_007);
}

#[test]
fn a_store_that_was_being_filled_is_not_the_whole_of_what_there_was() {
    let cells = cells(50);
    let store = create(cells);
    store.fill();
    store.put(KIND, &hot(0), &body(9)).unwrap();
    let unfinished = Store::open(memory(cells), clock(), BOOT).unwrap_err();
    assert_eq!(unfinished, Unusable::Unfinished);
    store.filled();
    assert!(store.is_inexact());
    let next = reopen(cells);
    assert!(next.found(KIND).len() == 1 && !next.is_inexact());
}

#[test]
fn whoever_copies_records_is_told_which_changed_and_reads_none_that_is_half_another() {
    let cells = cells(50);
    let store = create(cells);
    let before = store.put(KIND, &hot(1), &body(9)).unwrap();
    let store = reopen(cells);
    store.watch();
    assert_eq!(store.take_changed(9), [before.index()]);
    let first = store.put(KIND, &hot(2), &body(300)).unwrap();
    let second = store.put(KIND, &hot(3), &body(20)).unwrap();
    first.set(0, 9);
    assert!(store.rewrite(second, &body(21)));
    let mut places = [first.index(), second.index()];
    places.sort_unstable();
    assert_eq!(store.take_changed(9), places);
    let copied = store.snapshot(store.record_at(first.index()).unwrap()).unwrap();
    assert_eq!((copied.hot[0], copied.body.len()), (9, 300));
    first.set(0, 10);
    assert!(store.take_changed(9).is_empty());
    let place = first.index();
    store.free(first);
    assert_eq!(store.take_changed(9), [place]);
    assert!(store.record_at(place).is_none());
    // Another takes its place.
    let other = store.put(KIND, &hot(4), &body(300)).unwrap();
    assert_eq!(other.index(), place);
    assert_eq!(store.snapshot(other).unwrap().hot[0], 4);
}
