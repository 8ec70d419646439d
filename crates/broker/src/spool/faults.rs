//! A disk in memory that fails on demand.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::Rng;
use rand::rngs::StdRng;

use super::disk::Disk;

#[derive(Debug, Default, Clone)]
pub(super) struct Segment {
    pub(super) data: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) head: Vec<u8>,
    durable_head: Vec<u8>,
    /// Bytes that fit on the disk.
    pub(super) room: Option<usize>,
    pub(super) fail_sync: bool,
    pub(super) fail_write: bool,
    pub(super) syncs: usize,
    /// Name and length of what was set aside.
    pub(super) aside: Vec<(u64, usize)>,
}

impl State {
    pub(super) fn used(&self) -> usize {
        self.segments.values().map(|segment| segment.data.len()).sum()
    }

    /// Power is lost: of what was not synced, any part may have reached the disk, and the rest may be rubbish.
    pub(super) fn crash(&mut self, rng: &mut StdRng) {
        for segment in self.segments.values_mut() {
            let mut left = segment.durable.clone();
            let tail = segment.data.get(left.len()..).unwrap_or_default();
            let kept = rng.random_range(0..=tail.len());
            left.extend_from_slice(&tail[..kept]);
            if rng.random_bool(0.3) {
                left.extend((0..rng.random_range(0..64)).map(|_| rng.random::<u8>()));
            }
            segment.data = left.clone();
            segment.durable = left;
        }
        if rng.random_bool(0.5) {
            self.head = self.durable_head.clone();
        }
        self.fail_sync = false;
        self.fail_write = false;
        self.room = None;
    }
}

#[derive(Debug, Default, Clone)]
pub(super) struct FaultyDisk(Arc<Mutex<State>>);

impl FaultyDisk {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Another disk with the same content.
    pub(super) fn copy(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            segments: state.segments.clone(),
            head: state.head.clone(),
            ..State::default()
        })))
    }
}

impl Disk for FaultyDisk {
    fn segments(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.state().segments.keys().copied().collect())
    }

    fn create(&mut self, segment: u64) -> io::Result<()> {
        self.state().segments.insert(segment, Segment::default());
        Ok(())
    }

    fn length(&mut self, segment: u64) -> io::Result<u64> {
        Ok(self.state().segments[&segment].data.len() as u64)
    }

    fn read_at(&mut self, segment: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.state();
        let data = &state.segments[&segment].data;
        let from = (offset as usize).min(data.len());
        let length = buffer.len().min(data.len() - from);
        buffer[..length].copy_from_slice(&data[from..from + length]);
        Ok(length)
    }

    fn write_at(&mut self, segment: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if state.fail_write {
            return Err(io::Error::from_raw_os_error(5));
        }
        let room = state
            .room
            .map_or(usize::MAX, |room| room.saturating_sub(state.used()));
        let data = &mut state.segments.get_mut(&segment).unwrap().data;
        assert_eq!(data.len() as u64, offset, "only the tail is written");
        data.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            return Err(io::Error::from_raw_os_error(28));
        }
        Ok(())
    }

    fn truncate(&mut self, segment: u64, length: u64) -> io::Result<()> {
        let mut state = self.state();
        let segment = state.segments.get_mut(&segment).unwrap();
        segment.data.truncate(length as usize);
        segment.durable.truncate(length as usize);
        Ok(())
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        let mut state = self.state();
        state.syncs += 1;
        if state.fail_sync {
            return Err(io::Error::from_raw_os_error(5));
        }
        let segment = state.segments.get_mut(&segment).unwrap();
        segment.durable = segment.data.clone();
        Ok(())
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.state().segments.remove(&segment);
        Ok(())
    }

    fn set_aside(&mut self, segment: u64) -> io::Result<()> {
        let mut state = self.state();
        if let Some(found) = state.segments.remove(&segment) {
            state.aside.push((segment, found.data.len()));
        }
        Ok(())
    }

    fn read_head(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.state().head.clone())
    }

    fn write_head(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let end = offset as usize + bytes.len();
        if state.head.len() < end {
            state.head.resize(end, 0);
        }
        state.head[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_head(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.durable_head = state.head.clone();
        Ok(())
    }
}
