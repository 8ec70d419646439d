//! Making room: what can be given up at the head of the log while the caller holds nothing of it.

use std::io;

use super::disk::Disk;
use super::frame::{Frame, HEADER};
use super::log::Log;

impl<D: Disk> Log<D> {
    /// The oldest record, when nothing is held: what [`Self::read`] would give.
    pub(crate) fn peek_head(&mut self) -> io::Result<Option<&Frame>> {
        if self.held.is_empty() {
            self.peek()
        } else {
            Ok(None)
        }
    }

    /// Whether a record with a body of so many bytes is refused now and would be taken if there were less in the log.
    pub(crate) fn is_too_full_for(&self, body: usize) -> bool {
        let length = (HEADER + body) as u64;
        length <= self.max_bytes && self.disk_bytes() + length > self.max_bytes
    }

    /// Gives up the oldest records until a file is free, unless the caller holds some; how many these were.
    pub(crate) fn drop_oldest(&mut self) -> u64 {
        let before = self.disk_bytes();
        let mut dropped = 0;
        while self.disk_bytes() == before
            && let Ok(Some(_)) = self.peek_head()
            && let Ok(Some(frame)) = self.read()
        {
            self.done(frame.number);
            dropped += 1;
        }
        dropped
    }
}
