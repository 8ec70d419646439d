//! What is found on disk at the start: the records of each segment, and the head.

use std::io;

use super::disk::Disk;
use super::frame::{FrameReader, HEADER, MAX_BODY};

/// Bytes of a slot of the head file; it has two, written in turn.
pub(super) const SLOT: usize = 20;

/// A slot: the lowest record that is not done, the number of the next record, a checksum.
pub(super) fn head_slot(head: u64, next: u64) -> Vec<u8> {
    let mut slot = Vec::with_capacity(SLOT);
    slot.extend_from_slice(&head.to_le_bytes());
    slot.extend_from_slice(&next.to_le_bytes());
    slot.extend_from_slice(&crc32fast::hash(&slot).to_le_bytes());
    slot
}

/// What one segment holds.
struct Scan {
    length: u64,
    /// Where its last whole record ends.
    end: u64,
    /// The number after its last whole record.
    next: u64,
    /// Bytes of whole records from the head on.
    live_bytes: u64,
    damaged: u64,
}

fn scan(disk: &mut impl Disk, segment: u64, head: u64) -> io::Result<Scan> {
    let mut reader = FrameReader::default();
    let mut scan = Scan {
        length: disk.length(segment)?,
        end: 0,
        next: segment,
        live_bytes: 0,
        damaged: 0,
    };
    loop {
        let (frame, damaged) = reader.next(disk, segment, scan.end, scan.length)?;
        scan.damaged += damaged;
        let Some(frame) = frame else { return Ok(scan) };
        if frame.number >= head {
            scan.live_bytes += (HEADER + frame.body.len()) as u64;
        }
        scan.end = frame.end;
        scan.next = frame.number + 1;
    }
}

/// The highest number that a record can have: more were not counted in the age of the universe.
const MAX_NUMBER: u64 = 1 << 62;
/// Numbers that a segment that is missing can have held, and several in a row.
const MAX_GAP: u64 = 1 << 20;
/// Longest segment: the most that records fill before another begins, and the longest record.
const MAX_SEGMENT: u64 = (8 << 20) + (HEADER + MAX_BODY) as u64;

/// What is on disk, without what cannot be of this log.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Name and length of each segment, in order.
    pub(super) segments: Vec<(u64, u64)>,
    pub(super) head: u64,
    pub(super) next: u64,
    pub(super) live_bytes: u64,
    pub(super) damaged: u64,
}

/// Reads all segments once. Sets aside those whose name is impossible, and cuts off what is beyond every length and what a crash left
/// behind the last record.
pub(super) fn recover(disk: &mut impl Disk) -> io::Result<Recovered> {
    let written = read_head(&disk.read_head()?).filter(|(_, next)| *next <= MAX_NUMBER);
    let names = disk.segments()?;
    let head = match (written, names.first()) {
        (Some((head, next)), Some(first)) if head.saturating_sub(*first) <= MAX_GAP << 8 => {
            Some((head, next))
        }
        (written, None) => written,
        _ => None,
    };
    let first = names.first().copied().unwrap_or_default();
    let (head, durable) = head.unwrap_or(if first <= MAX_NUMBER {
        (first, first)
    } else {
        (0, 0)
    });
    let mut found = Recovered {
        head,
        next: head,
        ..Recovered::default()
    };
    let mut tail = 0;
    for first in names.iter().copied() {
        // Before the head a name may be anything that was counted; from there on there are no holes but for lost segments.
        let expected = found.next.max(durable.min(found.next.saturating_add(MAX_GAP)));
        let overlaps = found
            .segments
            .last()
            .is_some_and(|_| first < found.next && first >= head);
        let possible = first <= MAX_NUMBER && !overlaps && first.saturating_sub(expected) <= MAX_GAP;
        if !possible {
            disk.set_aside(first)?;
            continue;
        }
        let length = disk.length(first)?;
        if length > MAX_SEGMENT {
            tracing::error!(
                segment = first,
                bytes = length,
                "a file of the spool is longer than any that it writes, and is cut"
            );
            disk.truncate(first, MAX_SEGMENT)?;
        }
        let scan = scan(disk, first, head)?;
        found.damaged += scan.damaged;
        found.live_bytes += scan.live_bytes;
        found.next = found.next.max(scan.next);
        found.segments.push((first, scan.length));
        tail = scan.end;
    }
    if let Some((last, length)) = found.segments.last_mut()
        && tail < *length
    {
        disk.truncate(*last, tail)?;
        disk.sync(*last)?;
        *length = tail;
    }
    if durable.saturating_sub(found.next) <= MAX_GAP {
        found.next = found.next.max(durable);
    }
    Ok(found)
}

/// Head and next number of the newer whole slot.
fn read_head(bytes: &[u8]) -> Option<(u64, u64)> {
    let slots = bytes.chunks_exact(SLOT).filter_map(|slot| {
        let (body, crc) = slot.split_last_chunk::<4>()?;
        let head = u64::from_le_bytes(*body.first_chunk()?);
        let next = u64::from_le_bytes(*body.last_chunk()?);
        (crc32fast::hash(body).to_le_bytes() == *crc && head <= next).then_some((head, next))
    });
    slots.max()
}
