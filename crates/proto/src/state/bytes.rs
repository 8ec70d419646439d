//! How records write fields down: big-endian numbers, and bytes behind their length.

use bytes::{Buf as _, BufMut as _};
use zeroize::Zeroizing;

/// Fields of a record one after the other. What was written is wiped in the end: it may be keys.
#[derive(Default)]
pub struct WriteBytes(Zeroizing<Vec<u8>>);

impl WriteBytes {
    /// A byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.put_u8(value);
        self
    }

    /// A number of 16 bits.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.0.put_u16(value);
        self
    }

    /// A number of 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.put_u32(value);
        self
    }

    /// A number of 64 bits.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.put_u64(value);
        self
    }

    /// As many bytes as the reader knows of.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.put_slice(bytes);
        self
    }

    /// Bytes behind their length; what is beyond 65,535 of them is cut, so that the record does not read back.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(len);
        self.raw(bytes.get(..usize::from(len)).unwrap_or_default())
    }

    /// All of it.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// Fields of a record in the order in which they were written; `None` when there are no more.
#[derive(Debug, Clone, Copy)]
pub struct ReadBytes<'a>(pub &'a [u8]);

impl<'a> ReadBytes<'a> {
    /// A byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    /// A number of 16 bits.
    pub fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16().ok()
    }

    /// A number of 32 bits.
    pub fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    /// A number of 64 bits.
    pub fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    /// So many bytes.
    pub fn raw(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// As many bytes as an array has.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.first_chunk().copied()
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.raw(usize::from(len))
    }
}
