//! Bodies that go out by Block2 (RFC 7959, 2.4).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use bytes::Bytes;

use crate::coap::contract::Code;

use super::block::{BERT, Block};

/// A body of which a peer has seen a part, with what every block of it repeats.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) code: Code,
    pub(crate) content_format: Option<u16>,
    pub(crate) max_age: Option<u32>,
    pub(crate) etag: [u8; 8],
}

/// Tells bodies apart; the same for the same bytes, so that a body fetched anew continues a transfer.
pub(crate) fn etag_of(body: &[u8], content_format: Option<u16>) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    (body, content_format).hash(&mut hasher);
    hasher.finish().to_be_bytes()
}

/// What of a body goes into one message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// `None` when the body goes whole.
    pub(crate) block: Option<Block>,
    pub(crate) range: Range<usize>,
}

/// Chooses the part of a body of `len` bytes for a message with room for `room` bytes of payload, 16 at least. `most` is what
/// goes whole where no block is asked for, `want` the Block2 option of the request. `None` when that lies behind the end of the body, or the body has more blocks than can be counted.
pub(crate) fn part(
    len: usize,
    want: Option<Block>,
    max_szx: u8,
    (room, most): (usize, usize),
) -> Option<Part> {
    if want.is_none() && len <= room.min(most) {
        return Some(Part {
            block: None,
            range: 0..len,
        });
    }
    let offset = want.map_or(0, Block::offset);
    if offset > 0 && offset >= len {
        return None;
    }
    let several = room / 1024 * 1024;
    let (szx, size) = match want {
        Some(Block { szx: BERT, .. }) if max_szx == 6 && several > 0 => (BERT, several),
        _ => {
            let mut szx = want.map_or(max_szx, |want| want.szx.min(max_szx));
            while szx > 0 && 16 << szx > room {
                szx -= 1;
            }
            (szx, 16 << szx)
        }
    };
    let end = len.min(offset + size);
    Block::at(len, szx, false)?;
    Some(Part {
        block: Some(Block::at(offset, szx, end < len)?),
        range: offset..end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(num: u32, more: bool, szx: u8) -> Block {
        Block { num, more, szx }
    }

    #[test]
    fn a_body_goes_whole_when_it_fits() {
        let whole = |len| Part {
            block: None,
            range: 0..len,
        };
        assert_eq!(part(0, None, 6, (1_200, 1_024)), Some(whole(0)));
        assert_eq!(part(1_024, None, 6, (usize::MAX, 1_024)), Some(whole(1_024)));
        assert_eq!(part(90, None, 6, (92, 1_024)), Some(whole(90)));
    }

    #[test]
    fn the_smallest_of_all_wishes_decides_the_block_size() {
        let first = |szx: u8| Part {
            block: Some(block(0, true, szx)),
            range: 0..16 << szx,
        };
        assert_eq!(part(5_000, None, 6, (usize::MAX, 1_024)), Some(first(6)));
        assert_eq!(
            part(5_000, Some(block(0, false, 2)), 6, (usize::MAX, 1_024)),
            Some(first(2))
        );
        assert_eq!(
            part(5_000, Some(block(0, false, 6)), 3, (usize::MAX, 1_024)),
            Some(first(3))
        );
        assert_eq!(
            part(5_000, Some(block(0, false, 6)), 6, (92, 1_024)),
            Some(first(2))
        );
    }

    #[test]
    fn a_later_block_keeps_its_offset_when_it_must_shrink() {
        let part = part(5_000, Some(block(2, false, 6)), 4, (usize::MAX, 1_024)).unwrap();
        assert_eq!(part.block, Some(block(8, true, 4)));
        assert_eq!(part.range, 2_048..2_304);
    }

    #[test]
    fn the_last_block_says_so_and_none_lies_behind_it() {
        let last = part(32, Some(block(1, true, 0)), 6, (usize::MAX, 1_024)).unwrap();
        assert_eq!((last.block, last.range), (Some(block(1, false, 0)), 16..32));
        assert_eq!(part(32, Some(block(2, false, 0)), 6, (usize::MAX, 1_024)), None);
        assert_eq!(
            part(16 << 20, Some(block(0, false, 0)), 6, (usize::MAX, 1_024)),
            None
        );
        assert!(part(16 << 20, Some(block(0, false, 1)), 6, (usize::MAX, 1_024)).is_some());
    }

    #[test]
    fn a_stream_has_a_body_whole_or_in_as_many_blocks_as_fit() {
        let all = (3_000, usize::MAX);
        assert_eq!(part(2_900, None, 6, all).unwrap().block, None);
        assert_eq!(part(5_000, None, 6, all).unwrap().block, Some(block(0, true, 6)));
        let several = |num, len| part(len, Some(block(num, false, BERT)), 6, all).unwrap();
        assert_eq!(several(0, 5_000).range, 0..2_048);
        assert_eq!(several(0, 5_000).block, Some(block(0, true, BERT)));
        assert_eq!(several(4, 5_000).range, 4_096..5_000);
        assert_eq!(several(4, 5_000).block, Some(block(4, false, BERT)));
        assert_eq!(part(5_000, Some(block(5, false, BERT)), 6, all), None);
    }
}
