//! How records lie in a segment, and how the next whole one is found behind damage.
//!
//! ```text
//! u32 mark, u32 body length, u64 number, u64 accepted at (ms since 1970), u32 CRC-32 of these three and the body, body
//! ```
//! Numbers are little endian. Records are numbered without gaps, so a gap tells how many a damage has cost.

use std::io;

use super::disk::Disk;

const MARK: [u8; 4] = *b"PtSp";
/// Bytes before the body.
pub(super) const HEADER: usize = 28;
/// Longest body; a length beyond it is damage.
pub(super) const MAX_BODY: usize = 64 << 20;
const CHUNK: usize = 256 << 10;

/// Appends a record to `out`.
pub(super) fn write(out: &mut Vec<u8>, number: u64, accepted_millis: u64, body: &[u8]) {
    let mut fields = [0; 20];
    let (length, rest) = fields.split_at_mut(4);
    let (first, second) = rest.split_at_mut(8);
    length.copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    first.copy_from_slice(&number.to_le_bytes());
    second.copy_from_slice(&accepted_millis.to_le_bytes());
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&fields);
    out.extend_from_slice(&checksum(&fields, body).to_le_bytes());
    out.extend_from_slice(body);
}

fn checksum(fields: &[u8; 20], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fields);
    hasher.update(body);
    hasher.finalize()
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
    /// Bytes of the segment from `start` on.
    buffer: Vec<u8>,
    start: u64,
}

impl FrameReader {
    /// Forgets what was read ahead.
    pub(super) fn reset(&mut self) {
        self.buffer.clear();
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
        let mut at = offset;
        while at < end {
            if let Some(frame) = self.frame_at(disk, segment, at, end)? {
                return Ok((Some(frame), at - offset));
            }
            at += 1;
            at = self.next_mark(disk, segment, at, end)?;
        }
        Ok((None, end.saturating_sub(offset)))
    }

    fn frame_at(
        &mut self,
        disk: &mut impl Disk,
        segment: u64,
        at: u64,
        end: u64,
    ) -> io::Result<Option<Frame>> {
        let Some(header) = self
            .bytes(disk, segment, at, HEADER, end)?
            .and_then(|b| b.first_chunk::<HEADER>())
        else {
            return Ok(None);
        };
        let (mark, rest) = header.split_at(4);
        let Some((fields, crc)) = rest.split_first_chunk::<20>() else {
            return Ok(None);
        };
        let (fields, crc) = (*fields, crc.to_vec());
        let length = u32_of(&fields, 0) as usize;
        if mark != MARK || length > MAX_BODY {
            return Ok(None);
        }
        let Some(bytes) = self.bytes(disk, segment, at, HEADER + length, end)? else {
            return Ok(None);
        };
        let body = bytes.get(HEADER..).unwrap_or_default();
        if checksum(&fields, body).to_le_bytes() != *crc {
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
    fn next_mark(&mut self, disk: &mut impl Disk, segment: u64, mut at: u64, end: u64) -> io::Result<u64> {
        while at < end {
            let window = CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK));
            let Some(bytes) = self.bytes(disk, segment, at, window, end)? else {
                return Ok(end);
            };
            if let Some(found) = bytes.windows(4).position(|four| *four == MARK) {
                return Ok(at + found as u64);
            }
            // The last three bytes may begin a mark.
            at += window.saturating_sub(3).max(1) as u64;
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
