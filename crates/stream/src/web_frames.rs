//! Follows the frames of a WebSocket's client (RFC 6455, 5.2) in the bytes that come, so that what is held of a message that is not whole
//! is known while it comes.

/// What announces a length of two, and of eight bytes.
const TWO_BYTES: u8 = 126;
const EIGHT_BYTES: u8 = 127;
/// Bits of the first byte of a frame: that it is the last of its message, and that it is about the connection.
const LAST: u8 = 0x80;
const CONTROL: u8 = 0x08;
/// The bit of the second byte by which a mask is announced, and its length.
const MASKED: u8 = 0x80;
const MASK: usize = 4;

/// A message, or the frames of one, have more bytes than are taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Where in its frames a client is.
#[derive(Debug, Default)]
pub(crate) struct WebFrames {
    /// Bytes of the header that came, and how many of it there are up to its length and altogether, as far as is known.
    header: usize,
    length_ends: usize,
    header_ends: usize,
    first: u8,
    /// Bytes of the payload that are announced, and those that are still to come.
    len: u64,
    left: u64,
    /// Bytes of the frames before, of a message that has several.
    before: u64,
    is_open: bool,
    whole: u64,
    rests: u64,
}

impl WebFrames {
    /// Takes note of bytes that came.
    ///
    /// # Errors
    /// They announce a message of more than `most` bytes.
    pub(crate) fn follow(&mut self, mut bytes: &[u8], most: usize) -> Result<(), TooLong> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left == 0 {
                bytes = rest;
                self.header_byte(*first, most)?;
            } else {
                let came = self.left.min(bytes.len() as u64);
                bytes = usize::try_from(came)
                    .ok()
                    .and_then(|came| bytes.get(came..))
                    .unwrap_or_default();
                self.left -= came;
                if self.left == 0 {
                    self.frame_ends();
                }
            }
        }
        Ok(())
    }

    fn header_byte(&mut self, byte: u8, most: usize) -> Result<(), TooLong> {
        match self.header {
            0 => (self.first, self.length_ends, self.header_ends) = (byte, 2, 2),
            1 => {
                let (len, more) = match byte & !MASKED {
                    TWO_BYTES => (0, 2),
                    EIGHT_BYTES => (0, 8),
                    len => (len, 0),
                };
                self.len = len.into();
                self.length_ends += more;
                self.header_ends = self.length_ends + if byte & MASKED == 0 { 0 } else { MASK };
            }
            at if at < self.length_ends => self.len = self.len << 8 | u64::from(byte),
            _ => {}
        }
        self.header += 1;
        if self.header < self.header_ends {
            return Ok(());
        }
        if self.before.saturating_add(self.len) > most as u64 {
            return Err(TooLong);
        }
        self.left = self.len;
        if self.left == 0 {
            self.frame_ends();
        }
        Ok(())
    }

    fn frame_ends(&mut self) {
        self.header = 0;
        match (self.first & CONTROL, self.first & LAST) {
            (0, 0) => {
                self.before += self.len;
                self.is_open = true;
            }
            (0, _) => {
                self.before = 0;
                self.is_open = false;
                self.whole += 1;
            }
            _ => self.whole += 1,
        }
        self.rests += u64::from(!self.is_open);
    }

    /// Bytes of the payload of a message that is not whole.
    pub(crate) fn held(&self) -> usize {
        let of_frame = if self.header > 0 && self.header == self.header_ends {
            self.len - self.left
        } else {
            0
        };
        usize::try_from(self.before + of_frame).unwrap_or(usize::MAX)
    }

    /// Whether a frame, or a message of several, is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.header > 0 || self.is_open
    }

    /// Messages, and frames about the connection, that came whole.
    pub(crate) fn whole(&self) -> u64 {
        self.whole
    }

    /// How often nothing was under way.
    pub(crate) fn rests(&self) -> u64 {
        self.rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 100_000;

    fn frame(first: u8, len: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match len {
            ..126 => frame.push(MASKED | len as u8),
            126..65_536 => frame.extend([&[MASKED | TWO_BYTES], &(len as u16).to_be_bytes()[..]].concat()),
            _ => frame.extend([&[MASKED | EIGHT_BYTES], &(len as u64).to_be_bytes()[..]].concat()),
        }
        frame.extend([7; MASK]);
        frame.resize(frame.len() + len, 0xff);
        frame
    }

    #[test]
    fn frames_of_each_length_are_followed_in_pieces_of_each_length() {
        for len in [0, 1, 125, 126, 300, 65_535, 65_536] {
            for piece in [1, 2, 7, 4096] {
                let mut frames = WebFrames::default();
                let bytes = frame(0x82, len);
                for piece in bytes[..bytes.len() - 1].chunks(piece) {
                    frames.follow(piece, MOST).unwrap();
                    assert!(frames.is_under_way());
                }
                assert_eq!(
                    (frames.held(), frames.whole()),
                    (len.saturating_sub(1), 0),
                    "{len} {piece}"
                );
                frames.follow(&bytes[bytes.len() - 1..], MOST).unwrap();
                assert!(!frames.is_under_way());
                assert_eq!(
                    (frames.held(), frames.whole(), frames.rests()),
                    (0, 1, 1),
                    "{len} {piece}"
                );
            }
        }
    }

    #[test]
    fn what_holds_nothing_is_not_counted_and_a_message_with_pings_in_it_is_one() {
        let mut frames = WebFrames::default();
        frames.follow(&frame(0x02, 300), MOST).unwrap();
        for _ in 0..10_000 {
            frames.follow(&frame(0x00, 0), MOST).unwrap();
            frames.follow(&frame(0x89, 9), MOST).unwrap();
        }
        assert!(frames.is_under_way());
        assert_eq!((frames.held(), frames.whole(), frames.rests()), (300, 10_000, 0));
        // Its end, and the beginning of the next, in one piece.
        let next = frame(0x82, 50);
        frames
            .follow(&[&frame(0x80, 20), &next[..20]].concat(), MOST)
            .unwrap();
        assert!(frames.is_under_way());
        assert_eq!((frames.held(), frames.whole(), frames.rests()), (14, 10_001, 1));
    }

    #[test]
    fn what_is_too_long_is_known_by_its_header() {
        let mut frames = WebFrames::default();
        assert_eq!(frames.follow(&frame(0x82, 100), 100), Ok(()));
        assert_eq!(frames.follow(&frame(0x82, 101)[..6], 100), Err(TooLong));
        let mut frames = WebFrames::default();
        assert_eq!(frames.follow(&frame(0x02, 60), 100), Ok(()));
        assert_eq!(frames.follow(&frame(0x00, 41)[..6], 100), Err(TooLong));
        let giant = [
            0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4,
        ];
        assert_eq!(WebFrames::default().follow(&giant, 100), Err(TooLong));
    }
}
