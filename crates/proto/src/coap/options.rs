//! The options of a request: which are known, how often and how long they may be (RFC 7252, 5.4 and 5.10).

use std::sync::Arc;

use bytes::Bytes;
use coap_lite::Packet;

use super::blockwise::Block;
use super::contract::{Code, ResourceKey};

const IF_MATCH: u16 = 1;
const URI_HOST: u16 = 3;
const ETAG: u16 = 4;
const IF_NONE_MATCH: u16 = 5;
const OBSERVE: u16 = 6;
const URI_PORT: u16 = 7;
pub(super) const URI_PATH: u16 = 11;
const CONTENT_FORMAT: u16 = 12;
const MAX_AGE: u16 = 14;
const URI_QUERY: u16 = 15;
const ACCEPT: u16 = 17;
const BLOCK2: u16 = 23;
const BLOCK1: u16 = 27;
const PROXY_URI: u16 = 35;
const PROXY_SCHEME: u16 = 39;
const SIZE1: u16 = 60;
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

/// What a request is about. The query may hold secrets, so it is not to be printed.
pub(crate) struct Resource {
    pub(crate) path: Vec<Bytes>,
    pub(crate) query: Vec<Bytes>,
    /// What block-wise transfer knows it by.
    pub(crate) key: ResourceKey,
}

impl Resource {
    /// Reads path and query. They share one buffer with each other.
    pub(crate) fn read(packet: &Packet, method: Code) -> Self {
        let of = |number: u16| packet.get_option(number.into()).into_iter().flatten();
        let all = || of(URI_PATH).chain(of(URI_QUERY));
        let mut key = Vec::with_capacity(all().map(|value| value.len() + 2).sum::<usize>() + 1);
        key.push(method.0);
        for (number, value) in [URI_PATH, URI_QUERY]
            .into_iter()
            .flat_map(|n| of(n).map(move |v| (n, v)))
        {
            push_segment(&mut key, number, value);
        }
        let resource = ResourceKey(Arc::from(key.as_slice()));
        let bytes = Bytes::from(key);
        let mut at = 1;
        let mut slice = |value: &Vec<u8>| {
            let start = at + 2;
            at = start + value.len();
            bytes.slice(start..at)
        };
        Self {
            path: of(URI_PATH).map(&mut slice).collect(),
            query: of(URI_QUERY).map(&mut slice).collect(),
            key: resource,
        }
    }
}

/// Adds a Uri-Path or Uri-Query option to what is known of a resource.
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
    /// An Echo option of the length that ours have.
    pub(crate) echo: Option<[u8; 8]>,
    /// Bits of the response classes the client does not want (RFC 7967, 2.1).
    pub(crate) no_response: u8,
    /// All Request-Tag options, each with its length before it.
    pub(crate) request_tag: Vec<u8>,
    pub(crate) conditional: bool,
    pub(crate) proxy: bool,
}

impl Options {
    /// Reads the options. Of an elective option that is there too often the first is taken, one of a wrong length is passed over.
    pub(crate) fn read(packet: &Packet) -> Result<Self, OptionFault> {
        let mut options = Self::default();
        for (number, values) in packet.options() {
            let critical = number % 2 == 1;
            let Some((min, max, repeatable)) = rule(*number) else {
                match critical {
                    true => return Err(OptionFault::Critical(*number)),
                    false => continue,
                }
            };
            if critical && !repeatable && values.len() > 1 {
                return Err(OptionFault::Critical(*number));
            }
            for (nth, value) in values.iter().enumerate() {
                if value.len() < min || value.len() > max {
                    match critical {
                        true => return Err(OptionFault::Critical(*number)),
                        false => continue,
                    }
                }
                if nth == 0 || repeatable {
                    options.take(*number, value)?;
                }
            }
        }
        Ok(options)
    }

    fn take(&mut self, number: u16, value: &[u8]) -> Result<(), OptionFault> {
        match number {
            OBSERVE => self.observe = Some(uint(value)),
            CONTENT_FORMAT => self.content_format = Some(uint(value) as u16),
            ACCEPT => self.accept = Some(uint(value) as u16),
            MAX_AGE => self.max_age = Some(uint(value)),
            SIZE1 => self.size1 = Some(uint(value)),
            BLOCK1 => self.block1 = Some(Block::new(uint(value)).ok_or(OptionFault::BlockSize)?),
            BLOCK2 => self.block2 = Some(Block::new(uint(value)).ok_or(OptionFault::BlockSize)?),
            ETAG if self.etag.is_none() => {
                let mut etag = [0; 8];
                for (to, from) in etag.iter_mut().zip(value) {
                    *to = *from;
                }
                self.etag = Some(ETag(etag, value.len() as u8));
            }
            ECHO => self.echo = value.try_into().ok(),
            NO_RESPONSE => self.no_response = value.first().copied().unwrap_or(0),
            REQUEST_TAG => {
                self.request_tag.push(value.len() as u8);
                self.request_tag.extend_from_slice(value);
            }
            IF_MATCH | IF_NONE_MATCH => self.conditional = true,
            PROXY_URI | PROXY_SCHEME => self.proxy = true,
            _ => {}
        }
        Ok(())
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

/// A number of at most four bytes (RFC 7252, 3.2).
fn uint(value: &[u8]) -> u32 {
    value.iter().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use coap_lite::CoapOption;

    use super::*;

    fn read(options: &[(u16, &[u8])]) -> Result<Options, OptionFault> {
        let mut packet = Packet::new();
        for (number, value) in options {
            packet.add_option(CoapOption::from(*number), value.to_vec());
        }
        Options::read(&packet)
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
        let options = read(&[(12, b"123"), (6, b"1234"), (60, b"12345")]).unwrap();
        assert_eq!(
            (options.content_format, options.observe, options.size1),
            (None, None, None)
        );
    }

    #[test]
    fn block_options_take_up_to_three_bytes_and_size_seven_is_reserved() {
        assert_eq!(read(&[(27, b"\x07")]).unwrap_err(), OptionFault::BlockSize);
        assert_eq!(
            read(&[(23, b"\xff\xff\xff")]).unwrap_err(),
            OptionFault::BlockSize
        );
        let block = read(&[(23, b"\xff\xff\xf6")]).unwrap().block2.unwrap();
        assert_eq!((block.num, block.more, block.szx), ((1 << 20) - 1, false, 6));
        let block = read(&[(27, b"")]).unwrap().block1.unwrap();
        assert_eq!((block.num, block.more, block.szx), (0, false, 0));
    }

    #[test]
    fn resources_differ_by_method_path_and_query_only() {
        let mut packet = Packet::new();
        packet.add_option(CoapOption::UriPath, b"ps".to_vec());
        packet.add_option(CoapOption::UriQuery, b"c=1".to_vec());
        let get = Resource::read(&packet, Code::GET);
        assert_eq!(get.path, ["ps"]);
        assert_eq!(get.query, ["c=1"]);
        packet.add_option(CoapOption::Accept, b"1".to_vec());
        packet.set_token(vec![1]);
        assert_eq!(Resource::read(&packet, Code::GET).key, get.key);
        assert_ne!(Resource::read(&packet, Code::POST).key, get.key);
        packet.add_option(CoapOption::UriPath, b"c=1".to_vec());
        packet.clear_option(CoapOption::UriQuery);
        assert_ne!(Resource::read(&packet, Code::GET).key, get.key);
    }
}
