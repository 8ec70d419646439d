//! The value of a Block1 or Block2 option (RFC 7959, 2.2).

/// Which block, whether more follow, and how long blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// 20 bits.
    pub(crate) num: u32,
    pub(crate) more: bool,
    /// Size exponent, 0 to 6.
    pub(crate) szx: u8,
}

impl Block {
    /// From an option value of at most three bytes; `None` when it has the reserved size 7.
    pub(crate) fn new(value: u32) -> Option<Self> {
        let szx = (value & 7) as u8;
        (szx < 7).then_some(Self {
            num: value >> 4,
            more: value & 8 != 0,
            szx,
        })
    }

    /// The block of this size that begins at `offset`; `None` when its number would need more than 20 bits.
    pub(crate) fn at(offset: usize, szx: u8, more: bool) -> Option<Self> {
        let num = u32::try_from(offset >> (szx + 4))
            .ok()
            .filter(|num| *num < 1 << 20)?;
        Some(Self { num, more, szx })
    }

    pub(crate) fn value(self) -> u32 {
        self.num << 4 | u32::from(self.more) << 3 | u32::from(self.szx)
    }

    /// Bytes in a block that is not the last.
    pub(crate) fn size(self) -> usize {
        16 << self.szx
    }

    /// Where it begins in the body; below 2^30.
    pub(crate) fn offset(self) -> usize {
        self.num as usize * self.size()
    }
}
