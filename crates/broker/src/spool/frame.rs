//! How records lie in a segment, and how the next whole one is found behind damage.
//!
//! ```text
//! segment: three times a key of 16 random bytes, then records
//! record:  "PtSp", u64 mark, u32 body length, u64 number, u64 accepted at (ms since 1970), u32 checksum, body
//! ```
//! Numbers are little endian. Mark and checksum depend on the segment's key, which no device sees, so that no payload holds what
//! is taken for a record, wherever the search for one begins; of the key's three copies each bit is what two of them say. Records
//! are numbered without gaps from the segment's name on, so a gap tells how many a damage has cost, and is bounded by its bytes.

use std::io;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::disk::Disk;

/// Bytes before the body.
pub(super) const HEADER: usize = MARK + 24;
/// Bytes of the mark: four for who looks at a file, and half of the key.
const MARK: usize = 4 + KEY / 2;
/// Bytes before the first record of a segment.
pub(super) const PREAMBLE: usize = 3 * KEY;
const KEY: usize = 16;
/// Longest body; a length beyond it is damage.
pub(super) const MAX_BODY: usize = 64 << 20;
const CHUNK: usize = 256 << 10;

/// What tells the records of one segment from all other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; KEY]);

impl Key {
    /// For a new segment.
    pub(super) fn new() -> Self {
        let mut key = [0; KEY];
        StdRng::from_os_rng().fill_bytes(&mut key);
        Self(key)
    }

    /// What a segment begins with.
    pub(super) fn preamble(self) -> Vec<u8> {
        self.0.repeat(3)
    }

    /// The key in a preamble, one damaged copy of which does no harm.
    fn of(preamble: &[u8; PREAMBLE]) -> Self {
        let (first, rest) = preamble.split_at(KEY);
        let (second, third) = rest.split_at(KEY);
        let mut key = [0; KEY];
        for (byte, ((a, b), c)) in key.iter_mut().zip(first.iter().zip(second).zip(third)) {
            *byte = a & b | a & c | b & c;
        }
        Self(key)
    }

    fn mark(&self) -> [u8; MARK] {
        let mut mark = [0; MARK];
        mark.iter_mut()
            .zip(b"PtSp".iter().chain(&self.0))
            .for_each(|(to, from)| *to = *from);
        mark
    }

    fn checksum(&self, fields: &[u8; 20], body: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.0);
        hasher.update(fields);
        hasher.update(body);
        hasher.finalize()
    }
}

/// Appends a record to `out`.
pub(super) fn write(out: &mut Vec<u8>, key: &Key, number: u64, accepted_millis: u64, body: &[u8]) {
    let mut fields = [0; 20];
    let (length, rest) = fields.split_at_mut(4);
    let (first, second) = rest.split_at_mut(8);
    length.copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    first.copy_from_slice(&number.to_le_bytes());
    second.copy_from_slice(&accepted_millis.to_le_bytes());
    out.extend_from_slice(&key.mark());
    out.extend_from_slice(&fields);
    out.extend_from_slice(&key.checksum(&fields, body).to_le_bytes());
    out.extend_from_slice(body);
}

/// A whole record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: u64,
    pub(super) accepted_millis: u64,
    pub(super) body: Vec<u8>,
    /// Where the next record begins.
    pub(super) end: u64,
}

/// Reads the records of one segment in order.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    segment: u64,
    key: Option<Key>,
    /// Bytes of the segment from `start` on.
    buffer: Vec<u8>,
    start: u64,
}

impl FrameReader {
    /// Forgets what was read ahead.
    pub(super) fn reset(&mut self) {
        self.buffer.clear();
        self.key = None;
    }

    /// The key of a segment; `None` when it is too short for one, and so for a record.
    pub(super) fn key(&mut self, disk: &mut impl Disk, segment: u64) -> io::Result<Option<Key>> {
        if self.segment != segment {
            self.reset();
        }
        if self.key.is_none() {
            let mut preamble = [0; PREAMBLE];
            let whole = disk.read_at(segment, 0, &mut preamble)? == PREAMBLE;
            self.segment = segment;
            self.key = whole.then(|| Key::of(&preamble));
        }
        Ok(self.key)
    }

    /// The first whole record of `segment` at or after `offset` and before `end`, and how many damaged bytes lie before
    /// it; without a record, the number of damaged bytes up to `end`.
    pub(super) fn next(
        &mut self,
        disk: &mut impl Disk,
        segment: u64,
        offset: u64,
        end: u64,
    ) -> io::Result<(Option<Frame>, u64)> {
        let Some(key) = self.key(disk, segment)? else {
            return Ok((None, end.saturating_sub(offset)));
        };
        let offset = offset.max(PREAMBLE as u64);
        let mut at = offset;
        while at < end {
            // Each record before it took at least a header.
            let most = (at - PREAMBLE as u64) / HEADER as u64;
            if let Some(frame) = self.frame_at(disk, segment, &key, at, end)?
                && frame
                    .number
                    .checked_sub(segment)
                    .is_some_and(|before| before <= most)
            {
                return Ok((Some(frame), at - offset));
            }
            at += 1;
            at = self.next_mark(disk, segment, &key, at, end)?;
        }
        Ok((None, end.saturating_sub(offset)))
    }

    fn frame_at(
        &mut self,
        disk: &mut impl Disk,
        segment: u64,
        key: &Key,
        at: u64,
        end: u64,
    ) -> io::Result<Option<Frame>> {
        let Some(header) = self
            .bytes(disk, segment, at, HEADER, end)?
            .and_then(|b| b.first_chunk::<HEADER>())
        else {
            return Ok(None);
        };
        let (mark, rest) = header.split_at(MARK);
        let Some((fields, crc)) = rest.split_first_chunk::<20>() else {
            return Ok(None);
        };
        let length = u32_of(fields, 0) as usize;
        let (fields, crc) = (*fields, crc.to_vec());
        if mark != key.mark() || length > MAX_BODY {
            return Ok(None);
        }
        let Some(bytes) = self.bytes(disk, segment, at, HEADER + length, end)? else {
            return Ok(None);
        };
        let body = bytes.get(HEADER..).unwrap_or_default();
        if key.checksum(&fields, body).to_le_bytes() != *crc {
            return Ok(None);
        }
        Ok(Some(Frame {
            number: u64_of(&fields, 4),
            accepted_millis: u64_of(&fields, 12),
            body: body.to_vec(),
            end: at + (HEADER + length) as u64,
        }))
    }

    /// Where the mark next stands at or after `at`, or `end`.
    fn next_mark(
        &mut self,
        disk: &mut impl Disk,
        segment: u64,
        key: &Key,
        mut at: u64,
        end: u64,
    ) -> io::Result<u64> {
        while at < end {
            let window = CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK));
            let Some(bytes) = self.bytes(disk, segment, at, window, end)? else {
                return Ok(end);
            };
            let mark = key.mark();
            if let Some(found) = bytes.windows(mark.len()).position(|some| some == mark) {
                return Ok(at + found as u64);
            }
            // The last bytes may begin a mark.
            at += window.saturating_sub(mark.len() - 1).max(1) as u64;
        }
        Ok(end)
    }

    /// `length` bytes of the segment from `at` on, or nothing when they go beyond `end`.
    fn bytes(
        &mut self,
        disk: &mut impl Disk,
        segment: u64,
        at: u64,
        length: usize,
        end: u64,
    ) -> io::Result<Option<&[u8]>> {
        if at.saturating_add(length as u64) > end {
            return Ok(None);
        }
        let held = self.segment == segment
            && at >= self.start
            && at + length as u64 <= self.start + self.buffer.len() as u64;
        if !held {
            let ahead = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK.max(length));
            self.buffer.resize(ahead, 0);
            self.segment = segment;
            self.start = at;
            let read = disk.read_at(segment, at, &mut self.buffer)?;
            self.buffer.truncate(read);
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        Ok(self.buffer.get(from..from.saturating_add(length)))
    }
}

fn u32_of(fields: &[u8; 20], at: usize) -> u32 {
    fields
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |four| u32::from_le_bytes(*four))
}

fn u64_of(fields: &[u8; 20], at: usize) -> u64 {
    fields
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |eight| u64::from_le_bytes(*eight))
}
