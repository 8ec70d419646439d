//! The value of a Block1 or Block2 option (RFC 7959, 2.2).

/// Which block, whether more follow, and how long blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// 20 bits.
    pub(crate) num: u32,
    pub(crate) more: bool,
    /// Size exponent, 0 to 6, or [`BERT`].
    pub(crate) szx: u8,
}

/// The size exponent of several blocks of 1024 bytes in one message, which only streams have (RFC 8323, 6).
pub(crate) const BERT: u8 = 7;

impl Block {
    /// From an option value of at most three bytes.
    pub(crate) fn new(value: u32) -> Self {
        Self {
            num: value >> 4,
            more: value & 8 != 0,
            szx: (value & 7) as u8,
        }
    }

    /// The block of this size that begins at `offset`; `None` when its number would need more than 20 bits.
    pub(crate) fn at(offset: usize, szx: u8, more: bool) -> Option<Self> {
        let num = u32::try_from(offset / size(szx))
            .ok()
            .filter(|num| *num < 1 << 20)?;
        Some(Self { num, more, szx })
    }

    pub(crate) fn value(self) -> u32 {
        self.num << 4 | u32::from(self.more) << 3 | u32::from(self.szx)
    }

    /// Bytes in a block that is not the last.
    pub(crate) fn size(self) -> usize {
        size(self.szx)
    }

    /// The size exponent to go on with where `most` is our largest.
    pub(crate) fn szx_within(self, most: u8) -> u8 {
        match (self.szx, most) {
            (BERT, 6) => BERT,
            (wanted, most) => wanted.min(most),
        }
    }

    /// Whether a message with this option may have a payload of so many bytes.
    pub(crate) fn fits(self, len: usize) -> bool {
        match (self.szx, self.more) {
            (BERT, true) => len > 0 && len.is_multiple_of(self.size()),
            (BERT, false) => true,
            (_, true) => len == self.size(),
            (_, false) => len <= self.size(),
        }
    }

    /// Where it begins in the body; below 2^30.
    pub(crate) fn offset(self) -> usize {
        self.num as usize * self.size()
    }
}

const fn size(szx: u8) -> usize {
    match szx {
        BERT => 1024,
        szx => 16 << szx,
    }
}
