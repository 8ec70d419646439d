//! CoAP messages on the wire (RFC 7252, 3), written for these tests alone.

use std::fmt;

/// Message types.
pub mod typ {
    pub const CON: u8 = 0;
    pub const NON: u8 = 1;
    pub const ACK: u8 = 2;
    pub const RST: u8 = 3;
}

/// Codes: class in the upper three bits, detail in the lower five.
pub mod code {
    const fn c(class: u8, detail: u8) -> u8 {
        class << 5 | detail
    }
    pub const EMPTY: u8 = 0;
    pub const GET: u8 = 1;
    pub const POST: u8 = 2;
    pub const PUT: u8 = 3;
    pub const DELETE: u8 = 4;
    pub const FETCH: u8 = 5;
    pub const PATCH: u8 = 6;
    pub const IPATCH: u8 = 7;
    pub const CREATED: u8 = c(2, 1);
    pub const DELETED: u8 = c(2, 2);
    pub const VALID: u8 = c(2, 3);
    pub const CHANGED: u8 = c(2, 4);
    pub const CONTENT: u8 = c(2, 5);
    pub const NO_CONTENT: u8 = c(2, 7);
    pub const CONTINUE: u8 = c(2, 31);
    pub const BAD_REQUEST: u8 = c(4, 0);
    pub const UNAUTHORIZED: u8 = c(4, 1);
    pub const BAD_OPTION: u8 = c(4, 2);
    pub const NOT_FOUND: u8 = c(4, 4);
    pub const METHOD_NOT_ALLOWED: u8 = c(4, 5);
    pub const NOT_ACCEPTABLE: u8 = c(4, 6);
    pub const INCOMPLETE: u8 = c(4, 8);
    pub const PRECONDITION_FAILED: u8 = c(4, 12);
    pub const TOO_LARGE: u8 = c(4, 13);
    pub const UNSUPPORTED_CONTENT_FORMAT: u8 = c(4, 15);
    pub const TOO_MANY_REQUESTS: u8 = c(4, 29);
    pub const UNAVAILABLE: u8 = c(5, 3);
    pub const PROXYING_NOT_SUPPORTED: u8 = c(5, 5);
}

/// Option numbers.
pub mod option {
    pub const ETAG: u16 = 4;
    pub const OBSERVE: u16 = 6;
    pub const URI_PATH: u16 = 11;
    pub const CONTENT_FORMAT: u16 = 12;
    pub const MAX_AGE: u16 = 14;
    pub const URI_QUERY: u16 = 15;
    pub const ACCEPT: u16 = 17;
    pub const BLOCK2: u16 = 23;
    pub const BLOCK1: u16 = 27;
    pub const SIZE2: u16 = 28;
    pub const PROXY_URI: u16 = 35;
    pub const PROXY_SCHEME: u16 = 39;
    pub const SIZE1: u16 = 60;
    pub const ECHO: u16 = 252;
    pub const NO_RESPONSE: u16 = 258;
    pub const REQUEST_TAG: u16 = 292;
}

/// A message, any message: nothing here checks that it makes sense.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub typ: u8,
    pub code: u8,
    pub id: u16,
    pub token: Vec<u8>,
    pub options: Vec<(u16, Vec<u8>)>,
    pub payload: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typ = ["CON", "NON", "ACK", "RST"][usize::from(self.typ)];
        write!(
            f,
            "{typ} {} id {} token {:02x?}",
            show(self.code),
            self.id,
            self.token
        )?;
        for (number, value) in &self.options {
            write!(f, " {number}={}", String::from_utf8_lossy(value).escape_debug())?;
        }
        let shown = &self.payload[..self.payload.len().min(80)];
        write!(
            f,
            " payload[{}] {:?}",
            self.payload.len(),
            String::from_utf8_lossy(shown)
        )
    }
}

/// `2.05` for 0x45.
pub fn show(code: u8) -> String {
    format!("{}.{:02}", code >> 5, code & 0x1f)
}

impl Message {
    /// An empty message (ping, ACK, RST).
    pub fn empty(typ: u8, id: u16) -> Self {
        Self {
            typ,
            code: 0,
            id,
            token: vec![],
            options: vec![],
            payload: vec![],
        }
    }

    /// The first value of an option.
    pub fn option(&self, number: u16) -> Option<&[u8]> {
        self.options
            .iter()
            .find(|(n, _)| *n == number)
            .map(|(_, v)| v.as_slice())
    }

    /// The first value of an option as an unsigned integer.
    pub fn uint(&self, number: u16) -> Option<u32> {
        self.option(number)
            .map(|v| v.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    /// A Block1 or Block2 option.
    pub fn block(&self, number: u16) -> Option<Block> {
        self.uint(number).map(Block::from_value)
    }

    pub fn observe(&self) -> Option<u32> {
        self.uint(option::OBSERVE)
    }

    pub fn format(&self) -> Option<u32> {
        self.uint(option::CONTENT_FORMAT)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The code as people write it.
    pub fn status(&self) -> String {
        show(self.code)
    }

    /// The bytes; options are sorted by number, equal ones keep their order.
    pub fn encode(&self) -> Vec<u8> {
        let token_length = u8::try_from(self.token.len()).unwrap();
        let mut out = vec![1 << 6 | self.typ << 4 | token_length, self.code];
        out.extend(self.id.to_be_bytes());
        out.extend(&self.token);
        let mut options = self.options.clone();
        options.sort_by_key(|(number, _)| *number);
        let mut last = 0;
        for (number, value) in &options {
            encode_option(&mut out, number - last, value);
            last = *number;
        }
        if !self.payload.is_empty() {
            out.push(0xff);
            out.extend(&self.payload);
        }
        out
    }

    /// Reads a datagram; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let [first, code, id_high, id_low, rest @ ..] = bytes else {
            return Err("under 4 bytes".into());
        };
        if first >> 6 != 1 {
            return Err(format!("version {}", first >> 6));
        }
        let token_length = usize::from(first & 0xf);
        if token_length > 8 || rest.len() < token_length {
            return Err(format!("token length {token_length}"));
        }
        let (token, mut rest) = rest.split_at(token_length);
        let mut options = vec![];
        let mut number = 0;
        let mut payload = vec![];
        while let Some((head, tail)) = rest.split_first() {
            if *head == 0xff {
                if tail.is_empty() {
                    return Err("payload marker without payload".into());
                }
                payload = tail.to_vec();
                break;
            }
            let (delta, tail) = extended(head >> 4, tail)?;
            let (length, tail) = extended(head & 0xf, tail)?;
            if tail.len() < length {
                return Err("option beyond the end".into());
            }
            let (value, tail) = tail.split_at(length);
            number += u16::try_from(delta).map_err(|_| "option delta")?;
            options.push((number, value.to_vec()));
            rest = tail;
        }
        Ok(Self {
            typ: first >> 4 & 3,
            code: *code,
            id: u16::from_be_bytes([*id_high, *id_low]),
            token: token.to_vec(),
            options,
            payload,
        })
    }
}

fn extended(nibble: u8, rest: &[u8]) -> Result<(usize, &[u8]), String> {
    match (nibble, rest) {
        (0..=12, _) => Ok((usize::from(nibble), rest)),
        (13, [a, rest @ ..]) => Ok((usize::from(*a) + 13, rest)),
        (14, [a, b, rest @ ..]) => Ok((usize::from(u16::from_be_bytes([*a, *b])) + 269, rest)),
        _ => Err("option header".into()),
    }
}

fn encode_option(out: &mut Vec<u8>, delta: u16, value: &[u8]) {
    let split = |n: usize| -> (u8, Vec<u8>) {
        match n {
            0..=12 => (u8::try_from(n).unwrap(), vec![]),
            13..=268 => (13, vec![u8::try_from(n - 13).unwrap()]),
            _ => (14, u16::try_from(n - 269).unwrap().to_be_bytes().to_vec()),
        }
    };
    let (delta, delta_more) = split(usize::from(delta));
    let (length, length_more) = split(value.len());
    out.push(delta << 4 | length);
    out.extend(delta_more);
    out.extend(length_more);
    out.extend(value);
}

/// The shortest form of an unsigned integer option (RFC 7252, 3.2).
pub fn uint_bytes(n: u32) -> Vec<u8> {
    n.to_be_bytes().iter().copied().skip_while(|b| *b == 0).collect()
}

/// A Block1 or Block2 option (RFC 7959, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub num: u32,
    pub more: bool,
    /// In bytes: 16 to 1024.
    pub size: usize,
}

impl Block {
    pub fn new(num: u32, more: bool, size: usize) -> Self {
        Self { num, more, size }
    }

    pub fn from_value(value: u32) -> Self {
        Self {
            num: value >> 4,
            more: value & 8 != 0,
            size: 16 << (value & 7),
        }
    }

    pub fn value(self) -> u32 {
        self.num << 4 | u32::from(self.more) << 3 | (self.size / 16).trailing_zeros()
    }
}

/// A request in the making; [`crate::support::Client`] gives it its message id and, unless set here, its token.
#[derive(Clone, Debug)]
pub struct Request {
    pub typ: u8,
    pub code: u8,
    pub token: Option<Vec<u8>>,
    pub options: Vec<(u16, Vec<u8>)>,
    pub payload: Vec<u8>,
}

impl Request {
    /// A confirmable request; `uri` is `path/segments?query&query` and taken as it stands, nothing is decoded.
    pub fn new(code: u8, uri: &str) -> Self {
        let (path, query) = uri
            .split_once('?')
            .map_or((uri, None), |(path, query)| (path, Some(query)));
        let mut request = Self {
            typ: typ::CON,
            code,
            token: None,
            options: vec![],
            payload: vec![],
        };
        if !path.is_empty() {
            for segment in path.split('/') {
                request = request.segment(segment);
            }
        }
        for parameter in query.into_iter().flat_map(|query| query.split('&')) {
            request = request.query(parameter);
        }
        request
    }

    pub fn get(uri: &str) -> Self {
        Self::new(code::GET, uri)
    }

    pub fn post(uri: &str) -> Self {
        Self::new(code::POST, uri)
    }

    pub fn put(uri: &str) -> Self {
        Self::new(code::PUT, uri)
    }

    pub fn delete(uri: &str) -> Self {
        Self::new(code::DELETE, uri)
    }

    pub fn non(mut self) -> Self {
        self.typ = typ::NON;
        self
    }

    pub fn token(mut self, token: &[u8]) -> Self {
        self.token = Some(token.to_vec());
        self
    }

    pub fn option(mut self, number: u16, value: &[u8]) -> Self {
        self.options.push((number, value.to_vec()));
        self
    }

    pub fn uint(self, number: u16, value: u32) -> Self {
        self.option(number, &uint_bytes(value))
    }

    pub fn segment(self, segment: impl AsRef<[u8]>) -> Self {
        self.option(option::URI_PATH, segment.as_ref())
    }

    pub fn query(self, parameter: impl AsRef<[u8]>) -> Self {
        self.option(option::URI_QUERY, parameter.as_ref())
    }

    pub fn observe(self, value: u32) -> Self {
        self.uint(option::OBSERVE, value)
    }

    pub fn format(self, format: u32) -> Self {
        self.uint(option::CONTENT_FORMAT, format)
    }

    pub fn block1(self, num: u32, more: bool, size: usize) -> Self {
        self.uint(option::BLOCK1, Block::new(num, more, size).value())
    }

    pub fn block2(self, num: u32, size: usize) -> Self {
        self.uint(option::BLOCK2, Block::new(num, false, size).value())
    }

    pub fn payload(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.payload = payload.as_ref().to_vec();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_the_rfc_draws() {
        // RFC 7252, Appendix A, Figure 16: CON GET /temperature, message id 0x7d34.
        let request = Request::get("temperature");
        let message = Message {
            typ: typ::CON,
            code: code::GET,
            id: 0x7d34,
            token: vec![],
            options: request.options,
            payload: vec![],
        };
        let bytes = [&[0x40, 1, 0x7d, 0x34, 0xbb][..], b"temperature"].concat();
        assert_eq!(message.encode(), bytes);
        assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn options_of_every_length_survive() {
        for (number, length) in [
            (1, 0),
            (12, 12),
            (13, 13),
            (268, 268),
            (269, 269),
            (65_000, 1_000),
        ] {
            let message = Message {
                typ: typ::NON,
                code: code::CONTENT,
                id: 1,
                token: vec![1; 8],
                options: vec![(1, vec![]), (number, vec![9; length])],
                payload: b"x".to_vec(),
            };
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn a_block_is_what_the_rfc_says() {
        // RFC 7959, 3.1: 2:0/0/128 and 1:1/1/128.
        assert_eq!(Block::new(0, false, 128).value(), 3);
        assert_eq!(Block::from_value(0x1b), Block::new(1, true, 128));
        assert!(uint_bytes(0).is_empty());
    }
}
