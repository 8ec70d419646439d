//! The spool as a log: records are appended at the tail, read in order, and done with near the head.
//!
//! A segment is deleted once all its records are done. How far the head is stands in a file of its own, written without
//! fsync but before a segment goes: after a loss of power some records are sent again, none is missed or taken for lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use super::disk::Disk;
use super::frame::{self, Frame, FrameReader, HEADER, Key, PREAMBLE};
use super::recovery::{SLOT, head_slot, recover};

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendError {
    /// The spool, or the disk, is full.
    Full,
    /// The disk failed; nothing will be taken any more.
    Failed,
}

/// A record to append.
#[derive(Debug)]
pub(crate) struct Append {
    /// When it was accepted, in milliseconds since 1970.
    pub(crate) accepted_millis: u64,
    /// The message.
    pub(crate) body: Vec<u8>,
    /// Whether the caller holds the message and will not read it again before a [`Log::rewind`].
    pub(crate) held: bool,
}

#[derive(Debug)]
struct Segment {
    /// The number of its first record, and its name.
    first: u64,
    length: u64,
}

/// Where to read on: between two records of a segment.
#[derive(Debug, Clone, Copy)]
struct Position {
    segment: u64,
    offset: u64,
    /// The record that should begin there.
    number: u64,
}

#[derive(Debug)]
pub(super) struct Held {
    length: u64,
    accepted_millis: u64,
}

/// What [`Log::open`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Records that are not done, damaged ones included.
    pub(crate) records: u64,
    /// Bytes that belong to no whole record.
    pub(crate) damaged_bytes: u64,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Log<D> {
    disk: D,
    segments: VecDeque<Segment>,
    pub(super) max_bytes: u64,
    segment_bytes: u64,
    /// The number of the next record.
    next: u64,
    /// The lowest record that is not done.
    head: u64,
    /// Records above the head that are done.
    done: BTreeSet<u64>,
    cursor: Position,
    reader: FrameReader,
    /// The record before the cursor, when it was looked at but not read.
    peeked: Option<Frame>,
    /// Records that were read or are held by the caller, and are not done.
    pub(super) held: BTreeMap<u64, Held>,
    /// Damaged records that were passed over and not yet told.
    lost: u64,
    live_bytes: u64,
    disk_bytes: u64,
    failure: Option<String>,
    slot: u64,
    written_head: (u64, u64),
    /// The segment that is written, and its key.
    key: Option<(u64, Key)>,
}

impl<D: Disk> Log<D> {
    /// Opens the log and reads all of it once: finds the tail, cuts off what a crash left behind it, counts damage.
    pub(crate) fn open(mut disk: D, max_bytes: u64) -> io::Result<(Self, Found)> {
        let recovered = recover(&mut disk)?;
        let (head, next, live_bytes) = (recovered.head, recovered.next, recovered.live_bytes);
        let found = Found {
            records: next - head,
            damaged_bytes: recovered.damaged,
        };
        let segments: VecDeque<Segment> = recovered
            .segments
            .into_iter()
            .map(|(first, length)| Segment { first, length })
            .collect();
        let disk_bytes = segments.iter().map(|segment| segment.length).sum();
        let mut log = Self {
            disk,
            segments,
            max_bytes,
            segment_bytes: (max_bytes / 16).clamp(4 << 10, 8 << 20),
            next,
            head,
            done: BTreeSet::new(),
            cursor: Position {
                segment: 0,
                offset: PREAMBLE as u64,
                number: head,
            },
            reader: FrameReader::default(),
            peeked: None,
            held: BTreeMap::new(),
            lost: 0,
            live_bytes,
            disk_bytes,
            failure: None,
            slot: 0,
            written_head: (0, 0),
            key: None,
        };
        log.rewind();
        log.advance();
        Ok((log, found))
    }

    /// Appends records and returns once they are on disk, with their numbers. A record that does not fit is refused
    /// alone; after a failure all are.
    pub(crate) fn append(&mut self, records: &[Append]) -> Vec<Result<u64, AppendError>> {
        let mut results = Vec::with_capacity(records.len());
        let mut taken: Vec<(u64, u64, &Append)> = Vec::new();
        let mut bytes = Vec::new();
        let mark = self.mark();
        let mut synced = Ok(());
        for record in records {
            let length = (HEADER + record.body.len()) as u64;
            let used = self
                .segments
                .back()
                .map_or(u64::MAX, |last| last.length + bytes.len() as u64);
            let begins = used.saturating_add(length) > self.segment_bytes && used > 0;
            let begun = if begins || used == 0 { PREAMBLE as u64 } else { 0 };
            let full = self.disk_bytes + bytes.len() as u64 + length + begun > self.max_bytes;
            if self.failure.is_some() || full || record.body.len() > frame::MAX_BODY {
                results.push(Err(self.refusal()));
                continue;
            }
            if begins {
                synced = synced
                    .and_then(|()| self.flush(&mut bytes))
                    .and_then(|()| self.add_segment());
            }
            let key = self.key(&mut bytes);
            match key {
                Ok(key) => frame::write(&mut bytes, &key, self.next, record.accepted_millis, &record.body),
                Err(error) => synced = synced.and(Err(error)),
            }
            taken.push((self.next, length, record));
            results.push(Ok(self.next));
            self.next += 1;
        }
        if taken.is_empty() {
            return results;
        }
        if let Err(error) = synced.and_then(|()| self.flush(&mut bytes)) {
            let refusal = self.undo(mark, &error);
            for result in &mut results {
                *result = result.and(Err(refusal));
            }
            return results;
        }
        for (number, length, record) in taken {
            self.live_bytes += length;
            if record.held && self.cursor.number == number {
                self.skip(number, length, record.accepted_millis);
            }
        }
        self.write_head();
        results
    }

    fn refusal(&self) -> AppendError {
        if self.failure.is_some() {
            AppendError::Failed
        } else {
            AppendError::Full
        }
    }

    /// Moves the cursor over a record that the caller holds.
    fn skip(&mut self, number: u64, length: u64, accepted_millis: u64) {
        if let Some(segment) = self.segments.iter().rev().find(|segment| segment.first <= number) {
            if self.cursor.segment != segment.first {
                self.cursor = Position {
                    segment: segment.first,
                    offset: PREAMBLE as u64,
                    number,
                };
            }
            self.cursor.offset += length;
            self.cursor.number = number + 1;
            self.held.insert(
                number,
                Held {
                    length,
                    accepted_millis,
                },
            );
        }
    }

    fn add_segment(&mut self) -> io::Result<()> {
        self.disk.create(self.next)?;
        self.segments.push_back(Segment {
            first: self.next,
            length: 0,
        });
        Ok(())
    }

    /// The key for what is appended next. An empty segment gets one, which goes before its first record into `bytes`.
    fn key(&mut self, bytes: &mut Vec<u8>) -> io::Result<Key> {
        let (first, length) = self
            .segments
            .back()
            .map_or((0, 0), |last| (last.first, last.length));
        let key = if length == 0 && bytes.is_empty() {
            let key = Key::new();
            bytes.extend_from_slice(&key.preamble());
            self.reader.reset();
            key
        } else if let Some((_, key)) = self.key.filter(|(segment, _)| *segment == first) {
            key
        } else {
            let known = self.reader.key(&mut self.disk, first)?;
            known.ok_or(io::ErrorKind::UnexpectedEof)?
        };
        self.key = Some((first, key));
        Ok(key)
    }

    fn flush(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let Some(last) = self.segments.back_mut().filter(|_| !bytes.is_empty()) else {
            return Ok(());
        };
        self.disk.write_at(last.first, last.length, bytes)?;
        self.disk
            .sync(last.first)
            .map_err(|error| io::Error::other(format!("fsync: {error}")))?;
        last.length += bytes.len() as u64;
        self.disk_bytes += bytes.len() as u64;
        bytes.clear();
        Ok(())
    }

    fn mark(&self) -> (u64, usize, u64, u64) {
        (
            self.next,
            self.segments.len(),
            self.segments.back().map_or(0, |last| last.length),
            self.disk_bytes,
        )
    }

    /// Takes back a batch that did not reach the disk. Only a full disk is something to go on after: what an fsync that
    /// failed left behind is unknown.
    fn undo(
        &mut self,
        (next, segments, length, disk_bytes): (u64, usize, u64, u64),
        error: &io::Error,
    ) -> AppendError {
        self.next = next;
        self.disk_bytes = disk_bytes;
        self.reader.reset();
        let mut undone = Ok(());
        while self.segments.len() > segments {
            if let Some(segment) = self.segments.pop_back() {
                undone = undone.and(self.disk.remove(segment.first));
            }
        }
        if let Some(last) = self.segments.back_mut() {
            last.length = length;
            undone = undone.and(self.disk.truncate(last.first, length));
        }
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        if full && undone.is_ok() {
            return AppendError::Full;
        }
        self.failure = Some(error.to_string());
        AppendError::Failed
    }

    /// The next record that is neither done nor held; from now on it is held.
    pub(crate) fn read(&mut self) -> io::Result<Option<Frame>> {
        self.peek()?;
        let frame = self.peeked.take();
        if let Some(frame) = &frame {
            let held = Held {
                length: (HEADER + frame.body.len()) as u64,
                accepted_millis: frame.accepted_millis,
            };
            self.held.insert(frame.number, held);
        }
        Ok(frame)
    }

    /// The record that [`Self::read`] would give.
    pub(crate) fn peek(&mut self) -> io::Result<Option<&Frame>> {
        if self
            .peeked
            .as_ref()
            .is_some_and(|frame| frame.number >= self.head && !self.done.contains(&frame.number))
        {
            return Ok(self.peeked.as_ref());
        }
        self.peeked = None;
        loop {
            let Some(index) = self.locate() else {
                self.lose(self.next);
                return Ok(None);
            };
            let length = self.segments.get(index).map_or(0, |segment| segment.length);
            let Position { segment, offset, .. } = self.cursor;
            let (frame, damaged) = self.reader.next(&mut self.disk, segment, offset, length)?;
            self.live_bytes = self.live_bytes.saturating_sub(damaged);
            let Some(frame) = frame else {
                self.cursor.offset = length;
                let Some(following) = self.segments.get(index + 1) else {
                    self.lose(self.next);
                    return Ok(None);
                };
                self.cursor.segment = following.first;
                self.cursor.offset = PREAMBLE as u64;
                continue;
            };
            self.cursor.offset = frame.end;
            self.lose(frame.number);
            self.cursor.number = frame.number + 1;
            if frame.number >= self.head && !self.done.contains(&frame.number) {
                return Ok(Some(self.peeked.insert(frame)));
            }
        }
    }

    /// The index of the cursor's segment. A segment that was deleted behind the cursor gives way to the one that follows.
    fn locate(&mut self) -> Option<usize> {
        let known = self
            .segments
            .iter()
            .position(|segment| segment.first == self.cursor.segment);
        if known.is_some() {
            return known;
        }
        let number = self.cursor.number.max(self.head);
        let index = self
            .segments
            .partition_point(|segment| segment.first <= number)
            .saturating_sub(1);
        self.cursor.segment = self.segments.get(index)?.first;
        self.cursor.offset = PREAMBLE as u64;
        Some(index)
    }

    /// Counts the records from the cursor up to `number` as lost, and as done.
    fn lose(&mut self, number: u64) {
        let from = self.cursor.number.max(self.head);
        if from == self.head && from < number {
            let done = self.done.range(from..number).count() as u64;
            self.lost += number - from - done;
            self.done = self.done.split_off(&number);
            self.head = number;
        } else {
            for missing in from..number {
                self.lost += u64::from(self.done.insert(missing));
            }
        }
        self.cursor.number = self.cursor.number.max(number);
        self.advance();
    }

    /// A record whose frame is whole and whose message is not is lost too.
    pub(crate) fn lose_one(&mut self, number: u64) {
        let before = self.live();
        self.done(number);
        self.lost += before - self.live();
    }

    /// How many damaged records were passed over since the last call.
    pub(crate) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// The record is done with.
    pub(crate) fn done(&mut self, number: u64) {
        if number < self.head || number >= self.next || !self.done.insert(number) {
            return;
        }
        if let Some(held) = self.held.remove(&number) {
            self.live_bytes = self.live_bytes.saturating_sub(held.length);
        }
        self.advance();
    }

    /// Moves the head over what is done and deletes segments that are wholly behind it.
    fn advance(&mut self) {
        while self.done.remove(&self.head) {
            self.head += 1;
        }
        let empty = self.head == self.next;
        let mut told = false;
        while let Some(first) = self.segments.front().map(|segment| segment.first) {
            let behind = match self.segments.get(1) {
                Some(second) => second.first <= self.head,
                None => empty && self.cursor.number == self.next,
            };
            if !behind {
                break;
            }
            if !told {
                // What is missing from the written head on, the next start takes for lost. Where no head can be written, room goes first.
                self.write_head();
                drop(self.disk.sync_head());
                told = true;
            }
            if self.disk.remove(first).is_err() {
                break;
            }
            if let Some(gone) = self.segments.pop_front() {
                self.disk_bytes = self.disk_bytes.saturating_sub(gone.length);
            }
        }
        if empty {
            self.live_bytes = 0;
        }
    }

    /// Writes down where the head is, if it moved.
    pub(crate) fn write_head(&mut self) {
        let now = (self.head, self.next);
        if self.written_head == now {
            return;
        }
        let slot = head_slot(self.head, self.next);
        // Two slots in turn: a torn write leaves the other. Without any the log is sent again from its beginning.
        if self.disk.write_head(self.slot * SLOT as u64, &slot).is_ok() {
            self.written_head = now;
            self.slot ^= 1;
        }
    }

    /// Reading begins again at the head: nothing is held any more.
    pub(crate) fn rewind(&mut self) {
        self.held.clear();
        self.peeked = None;
        self.reader.reset();
        let index = self
            .segments
            .partition_point(|segment| segment.first <= self.head)
            .saturating_sub(1);
        self.cursor = Position {
            segment: self
                .segments
                .get(index)
                .map_or(self.next, |segment| segment.first),
            offset: PREAMBLE as u64,
            number: self.head,
        };
    }

    /// When the oldest record that is not done was accepted, in milliseconds since 1970; 0 without any.
    pub(crate) fn oldest_millis(&mut self) -> u64 {
        if let Some((_, held)) = self.held.first_key_value() {
            return held.accepted_millis;
        }
        match self.peek() {
            Ok(Some(frame)) => frame.accepted_millis,
            _ => 0,
        }
    }

    /// Records that are not done.
    pub(crate) fn live(&self) -> u64 {
        self.next - self.head - self.done.len() as u64
    }

    /// The lowest number that is not done.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Records that are neither done nor held.
    pub(crate) fn unread(&self) -> u64 {
        self.live() - self.held.len() as u64
    }

    /// Bytes of the records that are not done.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of all files.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Why nothing is taken any more.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}
