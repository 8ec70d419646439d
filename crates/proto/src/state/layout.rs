//! Where what stands in the memory of a store.
//!
//! ```text
//! cell 0   magic, size, boot, boot, top, restoring, crashed, worker,     the store
//!          filling, ahead
//! head     state + kind, own index + body, 14 hot words                   a record
//! body     next, length, check, 13 words of its bytes                     what it holds
//! more     next, 15 words of its bytes
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a cell: 128 bytes, two cache lines, of which the packet path touches the first.
pub(super) const CELL_WORDS: usize = 16;
/// Bytes of a cell.
pub const CELL_BYTES: usize = CELL_WORDS * 8;
/// The word of a peer's record that names it to the records of what is its.
pub const MARK: usize = HOT_WORDS - 1;
/// Words of a record that may change while it lives.
pub const HOT_WORDS: usize = CELL_WORDS - HOT;

/// A piece of the memory.
pub type Cell = [AtomicU64; CELL_WORDS];

/// "PCSTATE" and the number of the layout: with another one nothing is read.
pub const MAGIC: u64 = u64::from_be_bytes(*b"PCSTATE\x01");

// Words of the first cell.
pub(super) const AT_MAGIC: usize = 0;
pub(super) const AT_CELLS: usize = 1;
pub(super) const AT_BOOT: [usize; 2] = [2, 3];
/// The cells below it have been used.
pub(super) const AT_TOP: usize = 4;
/// The record that is being restored; 0 none.
pub(super) const AT_RESTORING: usize = 5;
/// Whether the process died of itself.
pub(super) const AT_CRASHED: usize = 6;
pub(super) const AT_WORKER: usize = 7;
/// Not 0 while it is filled from somewhere else.
pub(super) const AT_FILLING: usize = 8;
/// Milliseconds that its times are ahead of the machine's.
pub(super) const AT_AHEAD: usize = 9;

// Words of the first cell of a record.
pub(super) const AT_STATE: usize = 0;
pub(super) const AT_BODY: usize = 1;
const HOT: usize = 2;

// Words of a body's first cell, and of those after it.
pub(super) const AT_NEXT: usize = 0;
pub(super) const AT_LEN: usize = 1;
pub(super) const AT_CHECK: usize = 2;
/// Where the bytes begin in a cell of a body.
pub(super) const fn text_at(is_first: bool) -> usize {
    if is_first { 3 } else { 1 }
}

/// The lowest byte of a record's first word while it counts.
const LIVE: u64 = 0xA5;

pub(super) fn word(cell: &Cell, at: usize) -> u64 {
    cell.get(at).map_or(0, |word| word.load(Ordering::Acquire))
}

pub(super) fn set(cell: &Cell, at: usize, value: u64) {
    if let Some(word) = cell.get(at) {
        word.store(value, Ordering::Release);
    }
}

pub(super) fn hot(cell: &Cell, at: usize) -> u64 {
    word(cell, HOT + at)
}

pub(super) fn set_hot(cell: &Cell, at: usize, value: u64) {
    set(cell, HOT + at, value);
}

pub(super) fn wipe(cell: &Cell) {
    for word in cell {
        word.store(0, Ordering::Release);
    }
}

/// The first word of a record: it lives, and what it is.
pub(super) const fn live(kind: u8) -> u64 {
    LIVE | (kind as u64) << 8
}

/// The kind of a live record.
pub(super) const fn read_live(state: u64) -> Option<u8> {
    if state & 0xff == LIVE {
        Some((state >> 8) as u8)
    } else {
        None
    }
}

/// How many cells a body of so many bytes takes.
pub(super) const fn body_cells(len: usize) -> usize {
    const FIRST: usize = (CELL_WORDS - text_at(true)) * 8;
    const MORE: usize = (CELL_WORDS - text_at(false)) * 8;
    1 + len.saturating_sub(FIRST).div_ceil(MORE)
}

/// Bytes of a record whose body has so many.
pub(super) const fn record_bytes(len: usize) -> usize {
    (1 + body_cells(len)) * CELL_BYTES
}

/// What tells that a body is as it was written. It guards against a process killed half way and against memory that broke, not
/// against someone who can write there: he could write the keys as well.
pub(super) fn check(state: u64, body: &[u8]) -> u64 {
    let mut sum = state ^ 0x9E37_79B9_7F4A_7C15;
    let mut add = |word: u64| {
        let product = u128::from((sum ^ word).wrapping_add(0xD1B5_4A32_D192_ED03)) * 0x9E37_79B9_7F4A_7C15;
        sum = product as u64 ^ (product >> 64) as u64;
    };
    words_of(body).for_each(&mut add);
    sum
}

/// A number that stands for a name, the same in every process and release.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    check(bytes.len() as u64, bytes)
}

/// Bytes as words, the last filled up with zeros.
pub(super) fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (words, rest) = bytes.as_chunks::<8>();
    let last = (!rest.is_empty()).then(|| {
        let mut word = [0; 8];
        word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        word
    });
    words.iter().copied().chain(last).map(u64::from_le_bytes)
}
