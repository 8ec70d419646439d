//! One datagram, one message (RFC 7252, 3). The bytes are coap-lite's business; what it lets pass is judged here.

use std::collections::LinkedList;
use std::fmt;

use coap_lite::{CoapOption, MessageClass, MessageType as WireType, Packet};

use crate::types::reason::DropReason;

use super::blockwise::Block;
use super::contract::{Code, Token};
use super::metrics::MessageType;

/// Bytes of a message without token, options and payload.
pub(crate) const HEADER: usize = 4;

/// A well-formed message. Its options may hold secrets, so they are not printed.
pub(crate) struct Message {
    pub(crate) kind: MessageType,
    pub(crate) code: Code,
    pub(crate) mid: u16,
    pub(crate) token: Token,
    pub(crate) packet: Packet,
}

/// Why a datagram is no message, and what to answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) reason: DropReason,
    /// The message id to reject with RST: only confirmable messages are answered (RFC 7252, 4.2 and 4.3).
    pub(crate) reset: Option<u16>,
}

/// The type that a header byte names.
pub(crate) fn type_of(first: u8) -> MessageType {
    match (first >> 4) & 3 {
        0 => MessageType::Con,
        1 => MessageType::Non,
        2 => MessageType::Ack,
        _ => MessageType::Rst,
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("code", &self.code)
            .field("mid", &self.mid)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl Message {
    pub(crate) fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let [first, code, mid @ ..] = match datagram {
            [] => return Err(Malformed::silent(DropReason::EmptyDatagram)),
            [first, code, high, low, ..] => [*first, *code, *high, *low],
            _ => return Err(Malformed::silent(DropReason::Malformed)),
        };
        if first >> 6 != 1 {
            return Err(Malformed::silent(DropReason::Version));
        }
        let (kind, code, mid) = (type_of(first), Code(code), u16::from_be_bytes(mid));
        let reject = |reason| Malformed {
            reason,
            reset: (kind == MessageType::Con).then_some(mid),
        };
        let fits = match kind {
            // An empty non-confirmable message means nothing (RFC 7252, 4.3).
            MessageType::Non if code == Code::EMPTY => return Err(reject(DropReason::Malformed)),
            MessageType::Con | MessageType::Non => {
                code == Code::EMPTY || code.is_request() || code.is_response()
            }
            MessageType::Ack => code == Code::EMPTY || code.is_response(),
            MessageType::Rst => code == Code::EMPTY,
        };
        if !fits {
            return Err(reject(match matches!(code.class(), 1 | 3 | 6 | 7) {
                true => DropReason::ReservedCode,
                false => DropReason::Malformed,
            }));
        }
        if code == Code::EMPTY && datagram.len() != HEADER {
            return Err(reject(DropReason::Malformed));
        }
        if first & 0x0f > 8 {
            return Err(reject(DropReason::Malformed));
        }
        let packet = Packet::from_bytes(datagram).map_err(|_| reject(DropReason::Malformed))?;
        if has_lone_marker(datagram, &packet) {
            return Err(reject(DropReason::Malformed));
        }
        let token = Token::new(packet.get_token()).ok_or_else(|| reject(DropReason::Malformed))?;
        Ok(Self {
            kind,
            code,
            mid,
            token,
            packet,
        })
    }
}

impl Malformed {
    fn silent(reason: DropReason) -> Self {
        Self { reason, reset: None }
    }
}

/// Whether a payload marker ends the datagram, which coap-lite reads as no payload (RFC 7252, 3: a message format error).
/// Each option has one encoding only, so a message without the marker has the length of its own encoding.
fn has_lone_marker(datagram: &[u8], packet: &Packet) -> bool {
    packet.payload.is_empty()
        && datagram.last() == Some(&0xff)
        && packet
            .to_bytes_unlimited()
            .is_ok_and(|encoded| encoded.len() != datagram.len())
}

/// An empty message: ACK or RST.
pub(crate) fn empty(kind: MessageType, mid: u16) -> [u8; HEADER] {
    let [high, low] = mid.to_be_bytes();
    [0x40 | (kind as u8) << 4, 0, high, low]
}

/// A message of ours before it is bytes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outgoing<'a> {
    pub(crate) code: u8,
    pub(crate) path: &'a [String],
    pub(crate) query: &'a [String],
    pub(crate) observe: Option<u32>,
    pub(crate) content_format: Option<u16>,
    pub(crate) max_age: Option<u32>,
    pub(crate) etag: Option<[u8; 8]>,
    pub(crate) block1: Option<Block>,
    pub(crate) block2: Option<Block>,
    pub(crate) size1: Option<usize>,
    pub(crate) size2: Option<usize>,
    pub(crate) echo: Option<[u8; 8]>,
    pub(crate) payload: &'a [u8],
}

impl Outgoing<'_> {
    /// The bytes of it. Empty only when an option is longer than CoAP can say, which the callers' types exclude.
    pub(crate) fn encode(&self, kind: MessageType, mid: u16, token: Token) -> Vec<u8> {
        let mut packet = Packet::new();
        packet.header.set_type(match kind {
            MessageType::Con => WireType::Confirmable,
            MessageType::Non => WireType::NonConfirmable,
            MessageType::Ack => WireType::Acknowledgement,
            MessageType::Rst => WireType::Reset,
        });
        packet.header.code = MessageClass::from(self.code);
        packet.header.message_id = mid;
        packet.set_token(token.as_bytes().to_vec());
        if !self.path.is_empty() {
            packet.set_option(CoapOption::UriPath, text(self.path));
        }
        if !self.query.is_empty() {
            packet.set_option(CoapOption::UriQuery, text(self.query));
        }
        let mut number = |option, value: Option<u32>| {
            if let Some(value) = value {
                packet.add_option(option, uint(value));
            }
        };
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        number(CoapOption::Observe, self.observe);
        number(CoapOption::ContentFormat, self.content_format.map(u32::from));
        number(CoapOption::MaxAge, self.max_age);
        number(CoapOption::Block2, self.block2.map(Block::value));
        number(CoapOption::Block1, self.block1.map(Block::value));
        number(CoapOption::Size2, self.size2.map(size));
        number(CoapOption::Size1, self.size1.map(size));
        if let Some(etag) = self.etag {
            packet.add_option(CoapOption::ETag, etag.to_vec());
        }
        if let Some(echo) = self.echo {
            packet.add_option(CoapOption::Unknown(super::options::ECHO), echo.to_vec());
        }
        packet.payload = self.payload.to_vec();
        packet.to_bytes_unlimited().unwrap_or_default()
    }
}

fn text(values: &[String]) -> LinkedList<Vec<u8>> {
    values.iter().map(|value| value.as_bytes().to_vec()).collect()
}

/// A number in as few bytes as it needs (RFC 7252, 3.2).
fn uint(value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let zeros = (value.leading_zeros() / 8) as usize;
    bytes.get(zeros..).unwrap_or_default().to_vec()
}

/// Cuts a text to at most `max` bytes, between characters.
pub(crate) fn cut_text(text: &[u8], max: usize) -> &[u8] {
    let mut end = max.min(text.len());
    while end > 0 && text.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(datagram: &[u8]) -> (DropReason, bool) {
        let malformed = Message::parse(datagram).unwrap_err();
        (malformed.reason, malformed.reset.is_some())
    }

    #[test]
    fn a_confirmable_message_that_is_none_is_reset_and_others_are_silent() {
        assert_eq!(verdict(&[]), (DropReason::EmptyDatagram, false));
        assert_eq!(verdict(&[0x40, 1, 0]), (DropReason::Malformed, false));
        assert_eq!(verdict(&[0x00, 1, 0, 1]), (DropReason::Version, false));
        assert_eq!(verdict(&[0x80, 1, 0, 1]), (DropReason::Version, false));
        for tkl in 9..=15 {
            let mut datagram = vec![0x40 | tkl, 1, 0, 1];
            datagram.extend([0; 15]);
            assert_eq!(verdict(&datagram), (DropReason::Malformed, true));
            datagram[0] |= 0x10;
            assert_eq!(verdict(&datagram), (DropReason::Malformed, false));
        }
        assert_eq!(
            verdict(&[0x42, 1, 0, 1, 9]),
            (DropReason::Malformed, true),
            "token"
        );
        assert_eq!(
            verdict(&[0x40, 1, 0, 1, 0xb5, b'p']),
            (DropReason::Malformed, true),
            "option"
        );
        assert_eq!(
            verdict(&[0x40, 1, 0, 1, 0xf0, 0]),
            (DropReason::Malformed, true),
            "delta 15"
        );
        assert_eq!(
            verdict(&[0x40, 1, 0, 1, 0x1f, 0]),
            (DropReason::Malformed, true),
            "length 15"
        );
        for class in [1, 3, 6, 7] {
            assert_eq!(
                verdict(&[0x40, class << 5 | 1, 0, 1]),
                (DropReason::ReservedCode, true)
            );
            assert_eq!(
                verdict(&[0x50, class << 5 | 1, 0, 1]),
                (DropReason::ReservedCode, false)
            );
            assert_eq!(
                verdict(&[0x60, class << 5 | 1, 0, 1]),
                (DropReason::ReservedCode, false)
            );
        }
    }

    #[test]
    fn empty_messages_carry_nothing() {
        assert_eq!(verdict(&[0x41, 0, 0, 1, 9]), (DropReason::Malformed, true));
        assert_eq!(verdict(&[0x40, 0, 0, 1, 0xff, 9]), (DropReason::Malformed, true));
        assert_eq!(verdict(&[0x50, 0, 0, 1]), (DropReason::Malformed, false));
        assert_eq!(verdict(&[0x70, 0x45, 0, 1]), (DropReason::Malformed, false));
        assert_eq!(verdict(&[0x60, 0x01, 0, 1]), (DropReason::Malformed, false));
        assert!(Message::parse(&[0x40, 0, 0, 1]).is_ok());
    }

    #[test]
    fn a_marker_without_payload_is_an_error_but_an_option_may_end_in_its_byte() {
        assert_eq!(verdict(&[0x40, 1, 0, 1, 0xff]), (DropReason::Malformed, true));
        assert_eq!(
            verdict(&[0x40, 1, 0, 1, 0xb1, 0xff, 0xff]),
            (DropReason::Malformed, true)
        );
        assert!(Message::parse(&[0x40, 1, 0, 1, 0xb1, 0xff]).is_ok());
        assert!(Message::parse(&[0x41, 1, 0, 1, 0xff]).is_ok(), "a token");
    }

    #[test]
    fn numbers_take_as_few_bytes_as_they_need() {
        assert_eq!(uint(0), Vec::<u8>::new());
        assert_eq!(uint(255), [255]);
        assert_eq!(uint(256), [1, 0]);
        assert_eq!(uint(0x0100_0000), [1, 0, 0, 0]);
    }

    #[test]
    fn text_is_cut_between_characters() {
        let text = "aé€".as_bytes();
        for (max, cut) in [(2, "a"), (3, "aé"), (5, "aé"), (6, "aé€"), (99, "aé€")] {
            assert_eq!(cut_text(text, max), cut.as_bytes());
        }
    }
}
