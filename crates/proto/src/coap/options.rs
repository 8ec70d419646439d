//! The options of a request: which are known, how often and how long they may be (RFC 7252, 5.4 and 5.10).

use std::sync::Arc;
use std::time::Instant;

use super::blockwise::{BERT, Block};
use super::codec::{Message, uint};
use super::contract::{Code, Preconditions, ResourceKey};

const IF_MATCH: u16 = 1;
const URI_HOST: u16 = 3;
pub(super) const ETAG: u16 = 4;
const IF_NONE_MATCH: u16 = 5;
pub(super) const OBSERVE: u16 = 6;
const URI_PORT: u16 = 7;
pub(super) const LOCATION_PATH: u16 = 8;
pub(super) const URI_PATH: u16 = 11;
pub(super) const CONTENT_FORMAT: u16 = 12;
pub(super) const MAX_AGE: u16 = 14;
pub(super) const URI_QUERY: u16 = 15;
const ACCEPT: u16 = 17;
pub(super) const BLOCK2: u16 = 23;
pub(super) const BLOCK1: u16 = 27;
const PROXY_URI: u16 = 35;
const PROXY_SCHEME: u16 = 39;
/// RFC 7959, 4.
pub(super) const SIZE2: u16 = 28;
pub(super) const SIZE1: u16 = 60;
/// RFC 9175, 2.2.1.
pub(super) const ECHO: u16 = 252;
const NO_RESPONSE: u16 = 258;
const REQUEST_TAG: u16 = 292;

/// The lengths an option may have and whether it may be repeated; `None` when it is unknown to us, which for an elective
/// one means that it is ignored.
fn rule(number: u16) -> Option<(usize, usize, bool)> {
    Some(match number {
        IF_MATCH => (0, 8, true),
        URI_HOST | PROXY_SCHEME => (1, 255, false),
        ETAG => (1, 8, true),
        IF_NONE_MATCH => (0, 0, false),
        OBSERVE | BLOCK1 | BLOCK2 => (0, 3, false),
        URI_PORT | CONTENT_FORMAT | ACCEPT => (0, 2, false),
        URI_PATH | URI_QUERY => (0, 255, true),
        MAX_AGE | SIZE1 => (0, 4, false),
        PROXY_URI => (1, 1034, false),
        ECHO => (1, 40, false),
        NO_RESPONSE => (0, 1, false),
        REQUEST_TAG => (0, 8, true),
        _ => return None,
    })
}

/// ETags of a request that are looked at: a client has no more answers of one resource.
const MOST_KNOWN: usize = 8;

/// Why a message's options cannot be obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OptionFault {
    /// A critical option that is unknown, too short, too long, or there too often (RFC 7252, 5.4.1, 5.4.3, 5.4.5).
    Critical(u16),
    /// A block option with the reserved size 7 (RFC 7959, 2.2).
    BlockSize,
}

/// An ETag: 1 to 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ETag([u8; 8], u8);

impl ResourceKey {
    /// Reads what a request is about; `scratch` is used again.
    pub(crate) fn read(message: &Message<'_>, scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        scratch.push(message.code.0);
        for (number, value) in message.options() {
            if matches!(number, URI_PATH | URI_QUERY) {
                push_segment(scratch, number, value);
            }
        }
        Self(Arc::from(scratch.as_slice()))
    }
}

/// Adds a Uri-Path or Uri-Query option, of at most 255 bytes, to what is known of a resource.
pub(super) fn push_segment(key: &mut Vec<u8>, number: u16, value: &[u8]) {
    key.extend_from_slice(&[number as u8, value.len() as u8]);
    key.extend_from_slice(value);
}

/// The options of a message that this layer or the gateway reads.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) observe: Option<u32>,
    pub(crate) content_format: Option<u16>,
    pub(crate) accept: Option<u16>,
    pub(crate) max_age: Option<u32>,
    pub(crate) block1: Option<Block>,
    pub(crate) block2: Option<Block>,
    pub(crate) size1: Option<u32>,
    pub(crate) etag: Option<ETag>,
    /// The ETags of what a client has already, of the length that ours have (RFC 7252, 5.10.6.2).
    pub(crate) known: Vec<[u8; 8]>,
    /// An Echo option of the length that ours have.
    pub(crate) echo: Option<[u8; 8]>,
    /// When that value was handed out to the peer first; not read here.
    pub(crate) echo_issued: Option<Instant>,
    /// Bits of the response classes the client does not want (RFC 7967, 2.1).
    pub(crate) no_response: u8,
    /// All Request-Tag options, each with its length before it.
    pub(crate) request_tag: Vec<u8>,
    pub(crate) preconditions: Option<Box<Preconditions>>,
    pub(crate) proxy: bool,
}

impl Options {
    /// Reads the options. Of an elective option that is there too often the first is taken, one of a wrong length is passed over.
    pub(crate) fn read(message: &Message<'_>) -> Result<Self, OptionFault> {
        let mut options = Self::default();
        let mut before = None;
        for (number, value) in message.options() {
            let repeated = before.replace(number) == Some(number);
            let critical = number % 2 == 1;
            let good = match rule(number) {
                Some((min, max, repeatable)) => {
                    (min..=max).contains(&value.len()) && (repeatable || !repeated)
                }
                None => false,
            };
            match (good, critical) {
                (true, _) => options.take(number, value),
                (false, true) => return Err(OptionFault::Critical(number)),
                (false, false) => {}
            }
        }
        Ok(options)
    }

    fn take(&mut self, number: u16, value: &[u8]) {
        match number {
            OBSERVE => self.observe = Some(uint(value)),
            CONTENT_FORMAT => self.content_format = Some(uint(value) as u16),
            ACCEPT => self.accept = Some(uint(value) as u16),
            MAX_AGE => self.max_age = Some(uint(value)),
            SIZE1 => self.size1 = Some(uint(value)),
            BLOCK1 => self.block1 = Some(Block::new(uint(value))),
            BLOCK2 => self.block2 = Some(Block::new(uint(value))),
            ETAG => {
                let mut etag = [0; 8];
                for (to, from) in etag.iter_mut().zip(value) {
                    *to = *from;
                }
                if value.len() == etag.len() && self.known.len() < MOST_KNOWN {
                    self.known.push(etag);
                }
                self.etag.get_or_insert(ETag(etag, value.len() as u8));
            }
            ECHO => self.echo = value.try_into().ok(),
            NO_RESPONSE => self.no_response = value.first().copied().unwrap_or(0),
            REQUEST_TAG => {
                self.request_tag.push(value.len() as u8);
                self.request_tag.extend_from_slice(value);
            }
            IF_MATCH => {
                let preconditions = self.preconditions.get_or_insert_default();
                preconditions.any_of.push(value.into());
            }
            IF_NONE_MATCH => self.preconditions.get_or_insert_default().none = true,
            PROXY_URI | PROXY_SCHEME => self.proxy = true,
            _ => {}
        }
    }

    /// Refuses several blocks in a message, which datagrams do not have.
    pub(crate) fn without_bert(self) -> Result<Self, OptionFault> {
        let is_bert = |block: &Option<Block>| block.is_some_and(|block| block.szx == BERT);
        match is_bert(&self.block1) || is_bert(&self.block2) {
            true => Err(OptionFault::BlockSize),
            false => Ok(self),
        }
    }

    /// Whether the client said that it does not want a response of this class (RFC 7967, 2.1).
    pub(crate) fn suppresses(no_response: u8, code: Code) -> bool {
        match code.class() {
            2 => no_response & 0x02 != 0,
            4 => no_response & 0x08 != 0,
            5 => no_response & 0x10 != 0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coap::codec::Writer;
    use crate::coap::contract::Token;
    use crate::coap::metrics::MessageType;

    fn message(token: &[u8], method: Code, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut datagram = Vec::new();
        let token = Token::new(token).unwrap();
        let mut writer = Writer::new(&mut datagram, MessageType::Con, method, 1, token);
        for (number, value) in options {
            writer.option(*number, value);
        }
        datagram
    }

    fn read(options: &[(u16, &[u8])]) -> Result<Options, OptionFault> {
        let datagram = message(b"", Code::GET, options);
        Options::read(&Message::parse(&datagram).unwrap())
    }

    #[test]
    fn unknown_critical_options_are_named_and_elective_ones_ignored() {
        assert_eq!(read(&[(9, b"")]).unwrap_err(), OptionFault::Critical(9));
        assert_eq!(read(&[(2051, b"x")]).unwrap_err(), OptionFault::Critical(2051));
        assert!(read(&[(16, b"\x05"), (2048, b"x"), (65000, b"")]).is_ok());
    }

    #[test]
    fn options_that_may_not_be_repeated_are_judged_by_their_kind() {
        assert_eq!(
            read(&[(17, b""), (17, b"")]).unwrap_err(),
            OptionFault::Critical(17)
        );
        assert_eq!(
            read(&[(3, b"a"), (3, b"b")]).unwrap_err(),
            OptionFault::Critical(3)
        );
        let options = read(&[(12, b"\x28"), (12, b"\x32")]).unwrap();
        assert_eq!(options.content_format, Some(40));
    }

    #[test]
    fn lengths_outside_the_limits_make_an_option_unknown() {
        let long = [b'x'; 256];
        for (number, value) in [
            (11, &long[..]),
            (15, &long[..]),
            (3, b""),
            (5, b"x"),
            (7, b"123"),
            (17, b"123"),
            (23, b"1234"),
            (27, b"1234"),
        ] {
            assert_eq!(
                read(&[(number, value)]).unwrap_err(),
                OptionFault::Critical(number)
            );
        }
        let options = read(&[(6, b"1234"), (12, b"123"), (60, b"12345")]).unwrap();
        assert_eq!(
            (options.content_format, options.observe, options.size1),
            (None, None, None)
        );
    }

    #[test]
    fn block_options_take_up_to_three_bytes_and_size_seven_is_reserved() {
        for block in [(27, &b"\x07"[..]), (23, b"\xff\xff\xff")] {
            let fault = read(&[block]).unwrap().without_bert();
            assert_eq!(fault.unwrap_err(), OptionFault::BlockSize);
        }
        let block = read(&[(23, b"\xff\xff\xf6")]).unwrap().block2.unwrap();
        assert_eq!((block.num, block.more, block.szx), ((1 << 20) - 1, false, 6));
        let block = read(&[(27, b"")]).unwrap().block1.unwrap();
        assert_eq!((block.num, block.more, block.szx), (0, false, 0));
    }

    #[test]
    fn a_block_option_that_is_repeated_is_refused() {
        for number in [23, 27] {
            for twice in [b"\x02", b"\x16"] {
                let fault = read(&[(number, b"\x02"), (number, twice)]).unwrap_err();
                assert_eq!(fault, OptionFault::Critical(number));
            }
        }
    }

    #[test]
    fn numbers_may_have_leading_zeros() {
        let options = read(&[
            (6, b"\0\0\x01"),
            (12, b"\0\x32"),
            (17, b"\0\0"),
            (23, b"\0\0\x12"),
            (60, b"\0\0\x01\0"),
        ])
        .unwrap();
        assert_eq!((options.observe, options.size1), (Some(1), Some(256)));
        assert_eq!((options.content_format, options.accept), (Some(50), Some(0)));
        let block = options.block2.unwrap();
        assert_eq!((block.num, block.more, block.szx), (1, false, 2));
    }

    #[test]
    fn resources_differ_by_method_path_and_query_only() {
        let key = |token: &[u8], method, options: &[(u16, &[u8])]| {
            let datagram = message(token, method, options);
            ResourceKey::read(&Message::parse(&datagram).unwrap(), &mut vec![1, 2, 3])
        };
        let both: [(u16, &[u8]); 2] = [(11, b"ps"), (15, b"c=1")];
        let get = key(b"", Code::GET, &both);
        assert!(get.path().eq([b"ps"]) && get.query().eq([b"c=1"]));
        let more: [(u16, &[u8]); 4] = [(6, b""), (11, b"ps"), (15, b"c=1"), (17, b"1")];
        assert_eq!(key(b"t", Code::GET, &more), get);
        assert_ne!(key(b"", Code::POST, &both), get);
        assert_eq!(key(b"", Code::POST, &both).as_get(), get);
        assert_ne!(key(b"", Code::GET, &[(11, b"ps"), (11, b"c=1")]), get);
        assert_eq!(ResourceKey::get(["ps", "a"]).path().count(), 2);
    }
}
