//! Which records of a store changed, for one who copies them elsewhere.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of bits in a page: it speaks for 2,048 cells.
const WORDS: usize = 32;
const PAGE: u32 = WORDS as u32 * 64;

#[derive(Default)]
struct Page {
    /// Cells in which a record begins.
    heads: [Bits; WORDS],
    /// Cells in which one began, ended, or was written anew.
    changed: [Bits; WORDS],
    /// Cells in which one begins that others may see.
    shown: [Bits; WORDS],
}

type Bits = AtomicU64;

/// Three bits for each cell. They say what to look at and not what happened, so that any number of changes takes no more room than one.
pub(super) struct Changes(Vec<OnceLock<Box<Page>>>);

impl Changes {
    pub(super) fn new(cells: usize) -> Self {
        Self(
            (0..cells.div_ceil(PAGE as usize))
                .map(|_| OnceLock::new())
                .collect(),
        )
    }

    fn of(&self, cell: u32) -> Option<(&Page, usize, u64)> {
        let page = self.0.get((cell / PAGE) as usize)?.get_or_init(Box::default);
        Some((page, (cell % PAGE / 64) as usize, 1 << (cell % 64)))
    }

    /// A record begins there, or is written anew.
    pub(super) fn written(&self, cell: u32) {
        if let Some((page, at, bit)) = self.of(cell) {
            if let Some(word) = page.heads.get(at) {
                word.fetch_or(bit, Ordering::Release);
            }
            self.look_again(cell);
        }
    }

    /// The record there is no more.
    pub(super) fn freed(&self, cell: u32) {
        if let Some((page, at, bit)) = self.of(cell) {
            if let Some(word) = page.heads.get(at) {
                word.fetch_and(!bit, Ordering::Release);
            }
            if let Some(word) = page.shown.get(at) {
                word.fetch_and(!bit, Ordering::Release);
            }
            self.look_again(cell);
        }
    }

    /// What is there is to be looked at.
    pub(super) fn look_again(&self, cell: u32) {
        if let Some((page, at, bit)) = self.of(cell)
            && let Some(word) = page.changed.get(at)
        {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// The record there may be seen by others.
    pub(super) fn shown(&self, cell: u32) {
        if let Some((page, at, bit)) = self.of(cell)
            && let Some(word) = page.shown.get(at)
        {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// Whether others may see the record there.
    pub(super) fn is_shown(&self, cell: u32) -> bool {
        self.is_set(cell, |page| &page.shown)
    }

    /// Whether a record begins there.
    pub(super) fn is_head(&self, cell: u32) -> bool {
        self.is_set(cell, |page| &page.heads)
    }

    fn is_set(&self, cell: u32, bits: impl Fn(&Page) -> &[Bits; WORDS]) -> bool {
        let found = self
            .of(cell)
            .and_then(|(page, at, bit)| Some((bits(page).get(at)?, bit)));
        found.is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Cells that are to be looked at, at least `most` of them where there are as many; they are forgotten.
    pub(super) fn take(&self, most: usize) -> Vec<u32> {
        let mut cells = Vec::new();
        for (first, page) in (0..).step_by(PAGE as usize).zip(&self.0) {
            let Some(page) = page.get() else { continue };
            for (first, word) in (first..).step_by(64).zip(&page.changed) {
                if cells.len() >= most {
                    return cells;
                }
                if word.load(Ordering::Relaxed) != 0 {
                    let bits = word.swap(0, Ordering::AcqRel);
                    cells.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| first + bit));
                }
            }
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_once_however_often_it_changed() {
        let changes = Changes::new(3 * PAGE as usize);
        for cell in [1, 63, 64, PAGE - 1, PAGE, 3 * PAGE - 1, 1, 63] {
            changes.written(cell);
        }
        changes.freed(64);
        assert_eq!(changes.take(100), [1, 63, 64, PAGE - 1, PAGE, 3 * PAGE - 1]);
        assert!(changes.take(100).is_empty());
        assert!(changes.is_head(1) && !changes.is_head(64) && !changes.is_head(2));
        changes.look_again(2);
        assert_eq!(changes.take(100), [2]);
    }

    #[test]
    fn few_are_taken_at_a_time() {
        let changes = Changes::new(1000);
        (0..1000).for_each(|cell| changes.written(cell));
        let first = changes.take(100).len();
        assert!((100..200).contains(&first), "{first}");
        assert_eq!(first + changes.take(1000).len(), 1000);
    }
}
