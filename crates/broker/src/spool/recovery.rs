//! What is found on disk at the start: the records of each segment, and the head.

use std::io;

use super::disk::Disk;
use super::frame::{FrameReader, HEADER};

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
pub(super) struct Scan {
    pub(super) length: u64,
    /// Where its last whole record ends.
    pub(super) end: u64,
    /// The number after its last whole record.
    pub(super) next: u64,
    /// Bytes of whole records from the head on.
    pub(super) live_bytes: u64,
    pub(super) damaged: u64,
}

pub(super) fn scan(disk: &mut impl Disk, segment: u64, head: u64) -> io::Result<Scan> {
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

/// Head and next number of the newer whole slot.
pub(super) fn read_head(bytes: &[u8]) -> (u64, u64) {
    let slots = bytes.chunks_exact(SLOT).filter_map(|slot| {
        let (body, crc) = slot.split_last_chunk::<4>()?;
        let head = u64::from_le_bytes(*body.first_chunk()?);
        let next = u64::from_le_bytes(*body.last_chunk()?);
        (crc32fast::hash(body).to_le_bytes() == *crc && head <= next).then_some((head, next))
    });
    slots.max().unwrap_or((0, 0))
}
