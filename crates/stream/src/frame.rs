//! Messages in a stream of bytes (RFC 8323, 3.2), and the form of a datagram in which the message layer reads and writes them: that of a
//! non-confirmable message with the id 0.

use bytes::{Buf as _, BufMut, BytesMut};

/// What stands before the token in a datagram (RFC 7252, 3).
const HEADER: usize = 4;
/// The first byte of a non-confirmable message without a token.
const NON: u8 = 0x50;
/// The longest token; what is longer is reserved (RFC 8323, 3.2).
const MAX_TOKEN: u8 = 8;
/// The longest length that stands beside the first byte (RFC 8323, 3.2).
pub(crate) const MAX_LENGTH: usize = 4;

/// Lengths that stand in one, two or four bytes of their own begin here.
const ONE_BYTE: u64 = 13;
const TWO_BYTES: u64 = 269;
const FOUR_BYTES: u64 = 65_805;

/// Why what follows in a stream cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A token of 9 to 15 bytes; in a WebSocket also less than a message, or one with a length.
    Token,
    /// A message of more bytes than are taken.
    TooLong,
}

/// Takes the next message out of what came, in the form of a datagram; `None` when not all of it is there. Nothing is reserved for
/// bytes that are only announced.
///
/// # Errors
/// No message can be read here any more.
pub fn take(bytes: &mut BytesMut, most: usize) -> Result<Option<BytesMut>, FrameError> {
    let Some(head) = Head::read(bytes)? else {
        return Ok(None);
    };
    if head.len > most as u64 {
        return Err(FrameError::TooLong);
    }
    let len = usize::try_from(head.len).unwrap_or(usize::MAX);
    if bytes.len() < len {
        return Ok(None);
    }
    let mut message = bytes.split_to(len);
    message.advance(head.before_token);
    let mut datagram = BytesMut::with_capacity(HEADER + message.len());
    datagram.extend_from_slice(&[NON | head.token_len, head.code, 0, 0]);
    datagram.extend_from_slice(&message);
    Ok(Some(datagram))
}

/// Appends a message that has the form of a datagram, as it stands in a stream.
pub fn write(datagram: &[u8], out: &mut Vec<u8>) {
    let [first, code, _, _, rest @ ..] = datagram else {
        return;
    };
    put(first & 15, *code, rest, out);
}

/// Appends a message, which has a token of `token_len` bytes and all that comes after it in `rest`.
fn put(token_len: u8, code: u8, rest: &[u8], out: &mut impl BufMut) {
    let len = (rest.len() as u64).saturating_sub(u64::from(token_len));
    let (nibble, bytes) = match len {
        ..ONE_BYTE => (len as u8, 0),
        ONE_BYTE..TWO_BYTES => (13, 1),
        TWO_BYTES..FOUR_BYTES => (14, 2),
        _ => (15, 4),
    };
    let base = [0, ONE_BYTE, TWO_BYTES, 0, FOUR_BYTES];
    let more = len - base.get(bytes).copied().unwrap_or_default();
    out.put_u8(nibble << 4 | token_len);
    out.put_slice(more.to_be_bytes().get(8 - bytes..).unwrap_or_default());
    out.put_u8(code);
    out.put_slice(rest);
}

/// Appends a message of a WebSocket, which has no length (RFC 8323, 4.2), as it would stand in a stream.
///
/// # Errors
/// It is none.
pub fn from_web(message: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
    match message {
        [token_len @ ..=MAX_TOKEN, code, rest @ ..] if rest.len() >= usize::from(*token_len) => {
            put(*token_len, *code, rest, out);
            Ok(())
        }
        _ => Err(FrameError::Token),
    }
}

/// The first message of a stream as a WebSocket has it, and its bytes in the stream; `None` where it is not whole.
#[must_use]
pub fn to_web(stream: &[u8]) -> Option<(usize, Vec<u8>)> {
    let head = Head::read(stream).ok()??;
    let len = usize::try_from(head.len).ok()?;
    let rest = stream.get(head.before_token..len)?;
    Some((len, [&[head.token_len, head.code], rest].concat()))
}

/// What stands before the token.
struct Head {
    /// Bytes of the whole message.
    len: u64,
    before_token: usize,
    token_len: u8,
    code: u8,
}

impl Head {
    fn read(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let Some((first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let token_len = first & 15;
        if token_len > MAX_TOKEN {
            return Err(FrameError::Token);
        }
        let (extended, base) = match first >> 4 {
            13 => (1, ONE_BYTE),
            14 => (2, TWO_BYTES),
            15 => (4, FOUR_BYTES),
            len => (0, u64::from(len)),
        };
        let (Some(more), Some(code)) = (rest.get(..extended), rest.get(extended)) else {
            return Ok(None);
        };
        let more = more.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let before_token = 2 + extended;
        Ok(Some(Self {
            len: before_token as u64 + u64::from(token_len) + base + more,
            before_token,
            token_len,
            code: *code,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 20;

    /// A datagram with so many bytes behind its token.
    fn datagram(token: &[u8], len: usize) -> Vec<u8> {
        let mut datagram = vec![NON | token.len() as u8, 2, 0, 0];
        datagram.extend_from_slice(token);
        datagram.resize(datagram.len() + len, 0xff);
        datagram
    }

    #[test]
    fn every_form_of_a_length_comes_back_as_it_was_whole_or_byte_by_byte() {
        for len in [0, 1, 12, 13, 14, 268, 269, 270, 65_804, 65_805, 65_806, 70_000] {
            for token in [&b""[..], b"t", b"12345678"] {
                let sent = datagram(token, len);
                let mut stream = Vec::new();
                write(&sent, &mut stream);
                let head = match len {
                    ..13 => 2,
                    13..269 => 3,
                    269..65_805 => 4,
                    _ => 6,
                };
                assert_eq!(stream.len(), head + token.len() + len, "{len}");
                let mut bytes = BytesMut::from(&stream[..]);
                assert_eq!(take(&mut bytes, MOST).unwrap().unwrap(), sent);
                assert!(bytes.is_empty());
                let mut bytes = BytesMut::new();
                let cut = [&stream[..stream.len() - 1], &stream[stream.len() - 1..]];
                bytes.extend_from_slice(cut[0]);
                assert_eq!(take(&mut bytes, MOST), Ok(None));
                bytes.extend_from_slice(cut[1]);
                assert_eq!(take(&mut bytes, MOST).unwrap().unwrap(), sent);
            }
        }
    }

    #[test]
    fn a_message_of_a_web_socket_has_no_length_and_is_the_same() {
        for len in [0, 12, 13, 269, 65_805] {
            for token in [&b""[..], b"12345678"] {
                let mut stream = Vec::new();
                write(&datagram(token, len), &mut stream);
                let (taken, message) = to_web(&[&stream[..], b"next"].concat()).unwrap();
                assert_eq!((taken, message.len()), (stream.len(), 2 + token.len() + len));
                assert_eq!(to_web(&stream[..stream.len() - 1]), None);
                let mut back = BytesMut::new();
                from_web(&message, &mut back).unwrap();
                assert_eq!(back, stream);
            }
        }
        for broken in [&b""[..], b"\0", b"\x10\x01", b"\x09\x01123456789", b"\x04\x01123"] {
            assert!(from_web(broken, &mut BytesMut::new()).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn messages_one_after_the_other_are_taken_one_by_one() {
        let mut stream = Vec::new();
        for len in [0, 20, 300] {
            write(&datagram(b"x", len), &mut stream);
        }
        let mut bytes = BytesMut::from(&stream[..]);
        for len in [0, 20, 300] {
            assert_eq!(take(&mut bytes, MOST).unwrap().unwrap(), datagram(b"x", len));
        }
        assert_eq!(take(&mut bytes, MOST), Ok(None));
    }

    #[test]
    fn what_is_too_long_is_known_by_its_head_and_a_long_token_by_its_first_byte() {
        let giant = [0xf0, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(
            take(&mut BytesMut::from(&giant[..]), MOST),
            Err(FrameError::TooLong)
        );
        assert_eq!(take(&mut BytesMut::from(&giant[..5]), MOST), Ok(None));
        let mut stream = Vec::new();
        write(&datagram(b"t", 96), &mut stream);
        assert_eq!(take(&mut BytesMut::from(&stream[..2]), 99), Ok(None));
        assert_eq!(
            take(&mut BytesMut::from(&stream[..3]), 99),
            Err(FrameError::TooLong)
        );
        assert!(take(&mut BytesMut::from(&stream[..]), 100).unwrap().is_some());
        for token in 9..16 {
            assert_eq!(
                take(&mut BytesMut::from(&[token][..]), MOST),
                Err(FrameError::Token)
            );
        }
    }
}
