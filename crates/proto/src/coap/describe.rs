//! A message in words, for those who watch what a peer sends and gets.

use std::borrow::Cow;

use super::codec::{self, Message};
use super::contract::{Code, Token};
use super::metrics::MessageType;
use super::options::{URI_PATH, URI_QUERY};

/// Most bytes of an option that are shown.
const MAX_SHOWN: usize = 64;

/// A message taken apart. It is not to be printed: whoever shows it masks its secrets first.
#[derive(Clone)]
pub struct Described {
    /// Its type.
    pub kind: MessageType,
    /// Its code.
    pub code: Code,
    /// Its message id.
    pub mid: u16,
    /// Its token.
    pub token: Token,
    /// The Uri-Path segments, as they stood.
    pub path: Vec<Vec<u8>>,
    /// The Uri-Query options, as they stood; they may hold secrets.
    pub query: Vec<Vec<u8>>,
    /// All other options by name, in the order of their numbers.
    pub options: Vec<(Cow<'static, str>, String)>,
    /// The payload of this message, which may be one block of a body.
    pub payload: Vec<u8>,
}

/// Takes a message apart; `None` when it is none.
#[must_use]
pub fn describe(datagram: &[u8]) -> Option<Described> {
    let message = Message::parse(datagram).ok()?;
    let (mut path, mut query, mut options) = (Vec::new(), Vec::new(), Vec::new());
    for (number, value) in message.options() {
        match number {
            URI_PATH => path.push(value.to_vec()),
            URI_QUERY => query.push(value.to_vec()),
            number => options.push((option_name(number), option_value(number, value))),
        }
    }
    Some(Described {
        kind: message.kind,
        code: message.code,
        mid: message.mid,
        token: message.token,
        path,
        query,
        options,
        payload: message.payload.to_vec(),
    })
}

/// The name that the registry gives a code, or its number.
#[must_use]
pub fn code_name(code: Code) -> Cow<'static, str> {
    Cow::Borrowed(match code.0 {
        0x00 => "Empty",
        0x01 => "GET",
        0x02 => "POST",
        0x03 => "PUT",
        0x04 => "DELETE",
        0x05 => "FETCH",
        0x06 => "PATCH",
        0x07 => "iPATCH",
        0x41 => "2.01 Created",
        0x42 => "2.02 Deleted",
        0x43 => "2.03 Valid",
        0x44 => "2.04 Changed",
        0x45 => "2.05 Content",
        0x47 => "2.07 No Content",
        0x5f => "2.31 Continue",
        0x80 => "4.00 Bad Request",
        0x81 => "4.01 Unauthorized",
        0x82 => "4.02 Bad Option",
        0x83 => "4.03 Forbidden",
        0x84 => "4.04 Not Found",
        0x85 => "4.05 Method Not Allowed",
        0x86 => "4.06 Not Acceptable",
        0x88 => "4.08 Request Entity Incomplete",
        0x8c => "4.12 Precondition Failed",
        0x8d => "4.13 Request Entity Too Large",
        0x8f => "4.15 Unsupported Content-Format",
        0x9d => "4.29 Too Many Requests",
        0xa0 => "5.00 Internal Server Error",
        0xa1 => "5.01 Not Implemented",
        0xa2 => "5.02 Bad Gateway",
        0xa3 => "5.03 Service Unavailable",
        0xa4 => "5.04 Gateway Timeout",
        0xa5 => "5.05 Proxying Not Supported",
        _ => return Cow::Owned(code.to_string()),
    })
}

fn option_name(number: u16) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        1 => "If-Match",
        3 => "Uri-Host",
        4 => "ETag",
        5 => "If-None-Match",
        6 => "Observe",
        7 => "Uri-Port",
        8 => "Location-Path",
        9 => "OSCORE",
        12 => "Content-Format",
        14 => "Max-Age",
        16 => "Hop-Limit",
        17 => "Accept",
        20 => "Location-Query",
        23 => "Block2",
        27 => "Block1",
        28 => "Size2",
        35 => "Proxy-Uri",
        39 => "Proxy-Scheme",
        60 => "Size1",
        252 => "Echo",
        258 => "No-Response",
        292 => "Request-Tag",
        number => return Cow::Owned(format!("Option-{number}")),
    })
}

fn option_value(number: u16, value: &[u8]) -> String {
    match (number, uint(value)) {
        (5, _) => String::new(),
        (12 | 17, Some(format)) => content_format(format),
        (23 | 27, Some(block)) => {
            let more = if block & 8 == 0 { "last" } else { "more" };
            match block & 7 {
                7 => format!("{}/{more}/reserved", block >> 4),
                szx => format!("{}/{more}/{}", block >> 4, 16_u32 << szx),
            }
        }
        (6 | 7 | 14 | 16 | 28 | 60 | 258, Some(number)) => number.to_string(),
        (3 | 8 | 39, _) => shown_text(value),
        // They hold whole queries, and with them what nobody is to see.
        (20 | 35, _) => format!("({} bytes)", value.len()),
        _ => shown_hex(value),
    }
}

/// A number as RFC 7252, 3.2 has it; `None` when it is longer than any option of ours.
fn uint(value: &[u8]) -> Option<u32> {
    (value.len() <= 4).then(|| codec::uint(value))
}

fn content_format(format: u32) -> String {
    let name = match format {
        0 => "text/plain",
        40 => "application/link-format",
        41 => "application/xml",
        42 => "application/octet-stream",
        47 => "application/exi",
        50 => "application/json",
        60 => "application/cbor",
        110 => "application/senml+json",
        112 => "application/senml+cbor",
        other => return other.to_string(),
    };
    name.to_owned()
}

fn shown_text(value: &[u8]) -> String {
    let shown = value.get(..MAX_SHOWN).unwrap_or(value);
    let more = if shown.len() < value.len() { "..." } else { "" };
    format!("{}{more}", String::from_utf8_lossy(shown))
}

fn shown_hex(value: &[u8]) -> String {
    let shown = value.get(..MAX_SHOWN).unwrap_or(value);
    let more = if shown.len() < value.len() { "..." } else { "" };
    format!("0x{}{more}", hex::encode(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_named_and_their_values_read() {
        let mut datagram = vec![0x42, 0x02, 0x12, 0x34, 0xaa, 0xbb];
        // Observe 0, Uri-Path a, Content-Format 50, Uri-Query q=1, Block1 2/more/64, an option that nobody knows.
        datagram.extend([0x60, 0x51, b'a', 0x11, 50, 0x33, b'q', b'=', b'1', 0xc1, 0x2a]);
        datagram.extend([0xe1, 0xfc, 0xe6, 7, 0xff, b'h', b'i']);
        let described = describe(&datagram).unwrap();
        assert_eq!(
            (described.kind, described.code, described.mid),
            (MessageType::Con, Code::POST, 0x1234)
        );
        assert_eq!(described.path, [b"a".to_vec()]);
        assert_eq!(described.query, [b"q=1".to_vec()]);
        let options: Vec<String> = described
            .options
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            options,
            [
                "Observe=0",
                "Content-Format=application/json",
                "Block1=2/more/64",
                "Option-65038=0x07"
            ]
        );
        assert_eq!(described.payload, b"hi");
    }

    #[test]
    fn what_is_no_message_is_not_described() {
        assert!(describe(&[0x40, 1]).is_none());
        assert!(describe(&[0x00, 1, 0, 1]).is_none());
    }

    #[test]
    fn a_whole_uri_is_not_shown() {
        assert_eq!(option_value(35, b"coap://h/x?token=abc"), "(20 bytes)");
        assert_eq!(option_value(20, b"token=abc"), "(9 bytes)");
    }
}
