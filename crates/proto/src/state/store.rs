//! The records of one worker.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::changes::Changes;
use super::layout::{
    AT_AHEAD, AT_BODY, AT_BOOT, AT_CELLS, AT_CHECK, AT_CRASHED, AT_FILLING, AT_LEN, AT_MAGIC, AT_NEXT,
    AT_RESTORING, AT_STATE, AT_TOP, AT_WORKER, CELL_BYTES, CELL_WORDS, Cell, HOT_WORDS, MAGIC, MARK,
    body_cells, check, hot, live, read_live, set, set_hot, text_at, wipe, word, words_of,
};

/// Room is asked for in pieces of this many bytes.
const STEP: usize = 1 << 20;

/// Longest body of a record in bytes.
const LONGEST: usize = 1 << 20;

/// What a record is; only those who keep it know more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// Stands for every kind where records are looked for.
    pub const ANY: Self = Self(u8::MAX);
}

/// Memory that outlives the process.
pub struct Memory {
    /// All of it.
    pub cells: &'static [Cell],
    /// Makes sure that the first so many bytes can be written to; false when the machine has no room for them.
    pub reserve: Box<dyn Fn(usize) -> bool + Send + Sync>,
}

/// How instants of this process are those of the next: by the time since the machine was started.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// An instant of this process.
    pub now: Instant,
    /// How long the machine ran by then, the time that it slept included.
    pub up: Duration,
    /// What the records count beyond that: they may come from an earlier run of the machine.
    pub ahead: Duration,
}

impl Clock {
    fn counted(&self) -> Duration {
        self.up.saturating_add(self.ahead)
    }

    /// In milliseconds since the machine was started, in the run in which the counting began.
    #[must_use]
    pub fn millis(&self, at: Instant) -> u64 {
        let up = match at.checked_duration_since(self.now) {
            Some(after) => self.counted().saturating_add(after),
            None => self
                .counted()
                .saturating_sub(self.now.saturating_duration_since(at)),
        };
        u64::try_from(up.as_millis()).unwrap_or(u64::MAX)
    }

    /// What the milliseconds of a clock that began to count at `other`, since 1970, are by this one, which did at `began`; 0 stays what it
    /// is, the time that there is none.
    #[must_use]
    pub fn of_another(millis: u64, other: Duration, began: Duration) -> u64 {
        if millis == 0 {
            return 0;
        }
        let at = other
            .saturating_add(Duration::from_millis(millis))
            .saturating_sub(began);
        u64::try_from(at.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// The instant of these milliseconds; one that this process cannot name, because it lies too far back, becomes `now`.
    #[must_use]
    pub fn instant(&self, millis: u64) -> Instant {
        let at = Duration::from_millis(millis);
        match at.checked_sub(self.counted()) {
            Some(after) => self.now.checked_add(after),
            None => self.now.checked_sub(self.counted().saturating_sub(at)),
        }
        .unwrap_or(self.now)
    }
}

/// Why nothing of a memory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It was written by another release.
    Layout,
    /// It is of another run of the machine.
    Boot,
    /// The process ended while it filled it from somewhere else, where all of it still is.
    Unfinished,
}

/// A record of a [`Store`]. Its words may be stored at any time, its bytes only be replaced as a whole.
#[derive(Clone, Copy)]
pub struct Record(pub(super) &'static Cell);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Record").field(&self.index()).finish()
    }
}

impl Record {
    /// Stores one of its [`HOT_WORDS`] words.
    #[inline]
    pub fn set(&self, at: usize, value: u64) {
        set_hot(self.0, at, value);
    }

    /// One of its words.
    #[must_use]
    pub fn get(&self, at: usize) -> u64 {
        hot(self.0, at)
    }

    /// The number of the cell in which it begins.
    #[must_use]
    pub fn index(&self) -> u32 {
        (word(self.0, AT_BODY) >> 32) as u32
    }
}

/// What a record holds.
pub struct Contents {
    /// What it is.
    pub kind: Kind,
    /// Its words.
    pub hot: [u64; HOT_WORDS],
    /// Its bytes.
    pub body: Zeroizing<Vec<u8>>,
}

/// Marks the record that is being restored, so that a process that dies of it leaves it out the next time. It has to be
/// [`Restoring::finish`]ed: one that is dropped instead was unwound by a panic.
pub struct Restoring<'a>(Option<&'a Cell>);

impl Restoring<'_> {
    /// The record did no harm.
    pub fn finish(mut self) {
        if let Some(header) = self.0.take() {
            set(header, AT_RESTORING, 0);
        }
    }
}

impl Drop for Restoring<'_> {
    fn drop(&mut self) {
        if let Some(header) = self.0 {
            set(header, AT_CRASHED, 1);
        }
    }
}

/// Whether a cell of a body is its first.
fn firsts() -> impl Iterator<Item = bool> {
    std::iter::once(true).chain(std::iter::repeat(false))
}

/// Whether a chain of cells comes by none twice.
fn is_straight(places: &[u32]) -> bool {
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    sorted.is_sorted_by(|a, b| a < b)
}

struct Room {
    /// Cells that were given back.
    free: Vec<u32>,
    /// Cells from here on were never used.
    top: u32,
    /// Cells that can be written to.
    reserved: u32,
    reserve: Box<dyn Fn(usize) -> bool + Send + Sync>,
}

/// The records of one worker, in memory that the next process finds. Any thread may add records, and free those that are its own.
pub struct Store {
    cells: &'static [Cell],
    header: &'static Cell,
    room: Mutex<Room>,
    clock: Clock,
    found: Mutex<Vec<Record>>,
    damaged: u64,
    poisoned: u64,
    is_sealed: AtomicBool,
    is_inexact: AtomicBool,
    changes: OnceLock<Changes>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("cells", &self.cells.len())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A store in memory that is all zeros; `None` when there is no room for even its header.
    #[must_use]
    pub fn create(memory: Memory, clock: Clock, boot: [u64; 2], worker: u8) -> Option<Self> {
        let header = memory.cells.first()?;
        if !(memory.reserve)(CELL_BYTES) {
            return None;
        }
        set(header, AT_CELLS, memory.cells.len() as u64);
        AT_BOOT
            .iter()
            .zip(boot)
            .for_each(|(at, word)| set(header, *at, word));
        set(header, AT_TOP, 1);
        set(header, AT_WORKER, u64::from(worker));
        set(
            header,
            AT_AHEAD,
            u64::try_from(clock.ahead.as_millis()).unwrap_or(u64::MAX),
        );
        set(header, AT_MAGIC, MAGIC);
        Some(Self::over(memory, header, clock, 1))
    }

    fn over(memory: Memory, header: &'static Cell, clock: Clock, top: u32) -> Self {
        Self {
            cells: memory.cells,
            header,
            room: Mutex::new(Room {
                free: Vec::new(),
                top,
                reserved: top,
                reserve: memory.reserve,
            }),
            clock,
            found: Mutex::default(),
            damaged: 0,
            poisoned: 0,
            is_sealed: AtomicBool::new(false),
            is_inexact: AtomicBool::new(false),
            changes: OnceLock::new(),
        }
    }

    /// The store that an earlier process left in a memory, with its records at [`Store::found`]. Records that do not read back, and
    /// the one that the last process died of while it restored it, are wiped and counted. What its times are ahead of the machine's
    /// is its own matter, whatever `clock` says of it.
    ///
    /// # Errors
    /// Nothing of it can be used.
    pub fn open(memory: Memory, clock: Clock, boot: [u64; 2]) -> Result<Self, Unusable> {
        let header = memory.cells.first().ok_or(Unusable::Layout)?;
        let count = memory.cells.len() as u64;
        let top = word(header, AT_TOP);
        if word(header, AT_MAGIC) != MAGIC || word(header, AT_CELLS) != count || !(1..=count).contains(&top) {
            return Err(Unusable::Layout);
        }
        if AT_BOOT
            .iter()
            .zip(boot)
            .any(|(at, boot)| word(header, *at) != boot)
        {
            return Err(Unusable::Boot);
        }
        if word(header, AT_FILLING) != 0 {
            return Err(Unusable::Unfinished);
        }
        let clock = Clock {
            ahead: Duration::from_millis(word(header, AT_AHEAD)),
            ..clock
        };
        let mut store = Self::over(memory, header, clock, u32::try_from(top).unwrap_or(u32::MAX));
        store.look_through();
        set(header, AT_RESTORING, 0);
        set(header, AT_CRASHED, 0);
        Ok(store)
    }

    /// Finds the live records, and everything else that is free.
    fn look_through(&mut self) {
        let top = self.room().top;
        let poisoned = match word(self.header, AT_CRASHED) {
            0 => 0,
            _ => word(self.header, AT_RESTORING),
        };
        let mut used = vec![false; top as usize];
        let mut found = Vec::new();
        for index in 1..top {
            let Some(cell) = self.cell(index) else { continue };
            if read_live(word(cell, AT_STATE)).is_none() {
                continue;
            }
            if u64::from(index) == poisoned {
                self.poisoned += 1;
                continue;
            }
            let places = self.places(index).filter(|places| {
                let claims = |at: &u32| used.get(*at as usize).copied() == Some(false);
                is_straight(places) && places.iter().all(claims) && self.contents(Record(cell)).is_some()
            });
            let Some(places) = places else {
                self.damaged += 1;
                continue;
            };
            for at in places {
                if let Some(place) = used.get_mut(at as usize) {
                    *place = true;
                }
            }
            found.push(Record(cell));
        }
        let mut free = Vec::new();
        for index in (1..top).rev().filter(|at| used.get(*at as usize) == Some(&false)) {
            if let Some(cell) = self.cell(index) {
                wipe(cell);
                free.push(index);
            }
        }
        self.room().free = free;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn cell(&self, index: u32) -> Option<&'static Cell> {
        self.cells.get(index as usize)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cells of the record at `index`, which comes first.
    fn places(&self, index: u32) -> Option<Vec<u32>> {
        let head = self.cell(index)?;
        read_live(word(head, AT_STATE))?;
        let body = word(head, AT_BODY);
        if (body >> 32) as u32 != index {
            return None;
        }
        let (mut places, mut next) = (vec![index], body as u32);
        let len = word(self.cell(next).filter(|_| next != 0)?, AT_LEN);
        for _ in 0..body_cells(usize::try_from(len).ok().filter(|len| *len <= LONGEST)?) {
            if next == 0 {
                return None;
            }
            places.push(next);
            next = word(self.cell(next)?, AT_NEXT) as u32;
        }
        Some(places)
    }

    /// What a record holds; `None` when it is not as it was written.
    #[must_use]
    pub fn contents(&self, record: Record) -> Option<Contents> {
        let state = word(record.0, AT_STATE);
        let kind = read_live(state)?;
        let places = self.places(record.index())?;
        let first = self.cell(*places.get(1)?)?;
        let len = word(first, AT_LEN) as usize;
        let mut body = Zeroizing::new(Vec::with_capacity(len.next_multiple_of(8)));
        for (index, is_first) in places.iter().skip(1).zip(firsts()) {
            for word in self.cell(*index)?.iter().skip(text_at(is_first)) {
                body.extend_from_slice(&word.load(Ordering::Acquire).to_le_bytes());
            }
        }
        body.truncate(len);
        let whole = body.len() == len && check(state, &body) == word(first, AT_CHECK);
        whole.then(|| Contents {
            kind: Kind(kind),
            hot: std::array::from_fn(|at| record.get(at)),
            body,
        })
    }

    /// The same while others may change it: nothing where it went meanwhile, even if another took its place.
    #[must_use]
    pub fn snapshot(&self, record: Record) -> Option<Contents> {
        let mark = |record: Record| (word(record.0, AT_BODY), record.get(MARK));
        let before = mark(record);
        let contents = self.contents(record)?;
        (mark(record) == before && contents.hot.get(MARK) == Some(&before.1)).then_some(contents)
    }

    /// Begins to fill it from where its records are not known exactly. Until [`Store::filled`] the next process does not take it for
    /// the whole of what there is.
    pub fn fill(&self) {
        set(self.header, AT_FILLING, 1);
        self.is_inexact.store(true, Ordering::Release);
    }

    /// All of it is there.
    pub fn filled(&self) {
        set(self.header, AT_FILLING, 0);
    }

    /// Whether this process filled it from where its records are not known exactly.
    #[must_use]
    pub fn is_inexact(&self) -> bool {
        self.is_inexact.load(Ordering::Acquire)
    }

    /// Notes from now on which records change, for one who copies them; those that are at [`Store::found`] count as changed.
    pub fn watch(&self) {
        let changes = Changes::new(self.cells.len());
        for record in &*self.found.lock().unwrap_or_else(PoisonError::into_inner) {
            changes.written(record.index());
        }
        // Only the first counts.
        drop(self.changes.set(changes));
    }

    /// Whether somebody copies its records.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.changes.get().is_some()
    }

    /// Where records began, ended, or were written anew since it was asked last: at least `most` places, where there are as many.
    #[must_use]
    pub fn take_changed(&self, most: usize) -> Vec<u32> {
        self.changes
            .get()
            .map_or_else(Vec::new, |changes| changes.take(most))
    }

    /// Has [`Store::take_changed`] name a place once more.
    pub fn look_again(&self, index: u32) {
        if let Some(changes) = self.changes.get() {
            changes.look_again(index);
        }
    }

    /// The record that begins in a cell of a store that is watched.
    #[must_use]
    pub fn record_at(&self, index: u32) -> Option<Record> {
        let is_head = self.changes.get()?.is_head(index);
        self.cell(index).filter(|_| is_head).map(Record)
    }

    /// Notes that a record of a store that is watched stands where others see it.
    pub fn note_shown(&self, index: u32) {
        if let Some(changes) = self.changes.get() {
            changes.shown(index);
        }
    }

    /// Whether a record stands where others see it, or may.
    #[must_use]
    pub fn is_shown(&self, record: Record) -> bool {
        self.changes
            .get()
            .is_some_and(|changes| changes.is_shown(record.index()))
    }

    /// Takes in a record of another store, to be [`Store::found`]. False where there is no room for it.
    #[must_use]
    pub fn adopt(&self, contents: &Contents) -> bool {
        let record = self.put(contents.kind, &contents.hot, &contents.body);
        if let Some(record) = record {
            self.note_shown(record.index());
            self.leave(vec![record]);
        }
        record.is_some()
    }

    /// Leaves everything as it is from now on, whoever drops what it holds: the process ends.
    pub fn seal(&self) {
        self.is_sealed.store(true, Ordering::Release);
    }

    /// Keeps a record; `None` when there is no room for it.
    pub fn put(&self, kind: Kind, hot: &[u64; HOT_WORDS], body: &[u8]) -> Option<Record> {
        if self.is_sealed.load(Ordering::Acquire) {
            return None;
        }
        let places = self.take(1 + body_cells(body.len()))?;
        let (index, rest) = places.split_first()?;
        let head = self.cell(*index)?;
        let first = self.write(kind, rest, body)?;
        set(head, AT_BODY, u64::from(*index) << 32 | u64::from(first));
        for (at, word) in hot.iter().enumerate() {
            set_hot(head, at, *word);
        }
        // Last: from here on it counts.
        set(head, AT_STATE, live(kind.0));
        if let Some(changes) = self.changes.get() {
            changes.written(*index);
        }
        Some(Record(head))
    }

    /// Replaces the bytes of a record, which are the old ones or the new ones whenever the process is killed. False when there is no
    /// room for the new ones beside the old.
    pub fn rewrite(&self, record: Record, body: &[u8]) -> bool {
        let (Some(kind), Some(old)) = (read_live(word(record.0, AT_STATE)), self.places(record.index()))
        else {
            return false;
        };
        let written = self
            .take(body_cells(body.len()))
            .and_then(|places| self.write(Kind(kind), &places, body));
        let Some(first) = written else { return false };
        set(
            record.0,
            AT_BODY,
            u64::from(record.index()) << 32 | u64::from(first),
        );
        if let Some(changes) = self.changes.get() {
            changes.written(record.index());
        }
        self.give_back(old.get(1..).unwrap_or_default());
        true
    }

    /// Writes bytes into cells; the number of the first.
    fn write(&self, kind: Kind, places: &[u32], body: &[u8]) -> Option<u32> {
        if body.len() > LONGEST {
            self.give_back(places);
            return None;
        }
        let mut words = words_of(body);
        let nexts = places.iter().skip(1).copied().chain([0]);
        for ((index, next), is_first) in places.iter().zip(nexts).zip(firsts()) {
            let cell = self.cell(*index)?;
            set(cell, AT_NEXT, u64::from(next));
            for (at, word) in (text_at(is_first)..CELL_WORDS).zip(words.by_ref()) {
                set(cell, at, word);
            }
        }
        let first = *places.first()?;
        let cell = self.cell(first)?;
        set(cell, AT_LEN, body.len() as u64);
        set(cell, AT_CHECK, check(live(kind.0), body));
        Some(first)
    }

    fn give_back(&self, places: &[u32]) {
        for index in places {
            if let Some(cell) = self.cell(*index) {
                wipe(cell);
            }
        }
        self.room().free.extend(places.iter().rev());
    }

    /// Forgets a record and wipes it.
    pub fn free(&self, record: Record) {
        if self.is_sealed.load(Ordering::Acquire) {
            return;
        }
        let places = self.places(record.index());
        if let Some(changes) = self.changes.get() {
            changes.freed(record.index());
        }
        // First: from here on it does not count.
        set(record.0, AT_STATE, 0);
        self.give_back(&places.unwrap_or_default());
    }

    fn take(&self, count: usize) -> Option<Vec<u32>> {
        let mut room = self.room();
        let fresh = count.saturating_sub(room.free.len());
        if fresh > 0 && !self.grow(&mut room, u32::try_from(fresh).ok()?) {
            return None;
        }
        let at = room.free.len().checked_sub(count)?;
        let mut places = room.free.split_off(at);
        places.reverse();
        Some(places)
    }

    /// Makes cells that were never used free ones.
    fn grow(&self, room: &mut Room, count: u32) -> bool {
        let top = room.top.saturating_add(count);
        if top as usize > self.cells.len() {
            return false;
        }
        if top > room.reserved {
            let bytes = (top as usize * CELL_BYTES).next_multiple_of(STEP);
            let bytes = bytes.min(self.cells.len() * CELL_BYTES);
            if !(room.reserve)(bytes) {
                return false;
            }
            room.reserved = u32::try_from(bytes / CELL_BYTES).unwrap_or(u32::MAX);
        }
        room.free.splice(0..0, (room.top..top).rev());
        room.top = top;
        set(self.header, AT_TOP, u64::from(top));
        true
    }

    /// The records of a kind that an earlier process left and nobody asked for yet.
    pub fn found(&self, kind: Kind) -> Vec<Record> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_kind = |record: &mut Record| {
            kind == Kind::ANY || read_live(word(record.0, AT_STATE)).is_some_and(|found| Kind(found) == kind)
        };
        found.extract_if(.., is_of_kind).collect()
    }

    /// Hands records back to be [`Store::found`] once more.
    pub fn leave(&self, records: Vec<Record>) {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(records);
    }

    /// Marks a record that is about to be restored.
    #[must_use]
    pub fn restoring(&self, record: Record) -> Restoring<'_> {
        set(self.header, AT_RESTORING, u64::from(record.index()));
        Restoring(Some(self.header))
    }

    /// The word that says, when it is not 0, that the process died of itself, and not by another's hand.
    #[must_use]
    pub fn crash_mark(&self) -> Option<&'static AtomicU64> {
        self.header.get(AT_CRASHED)
    }

    /// The worker that the store was last written by.
    #[must_use]
    pub fn worker(&self) -> u8 {
        word(self.header, AT_WORKER) as u8
    }

    /// How many cells it has room for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.cells.len()
    }

    /// Records that did not read back when it was opened.
    #[must_use]
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Records that the last process died of.
    #[must_use]
    pub const fn poisoned(&self) -> u64 {
        self.poisoned
    }

    /// What its times are counted by.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// Bytes that its records and what is free between them take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.room().top as usize * CELL_BYTES
    }
}

const _: () = assert!(CELL_WORDS * 8 == CELL_BYTES);
