//! The bytes of a message (RFC 7252, 3): read where they lie, written into a buffer that is used again.

use std::fmt;

use crate::invariant;
use crate::types::reason::DropReason;

use super::contract::{Code, Token};
use super::metrics::MessageType;

/// Bytes of a message without token, options and payload.
pub const HEADER: usize = 4;

/// What stands before a payload.
const MARKER: u8 = 0xff;

/// The longest option value that has an encoding.
const LONGEST_VALUE: usize = 0xffff + 269;

/// A well-formed message. Its options and payload may hold secrets, so they are not printed.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// Its type.
    pub kind: MessageType,
    /// Its code: empty, or of a class that a message of this type may have.
    pub code: Code,
    /// Its message id.
    pub mid: u16,
    /// Its token.
    pub token: Token,
    options: &'a [u8],
    /// Its payload; empty when there is none.
    pub payload: &'a [u8],
}

/// Why a datagram is no message, and what to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// The reason that is counted.
    pub reason: DropReason,
    /// The message id to reject with RST: only confirmable messages are answered (RFC 7252, 4.2 and 4.3).
    pub reset: Option<u16>,
}

impl Malformed {
    fn silent(reason: DropReason) -> Self {
        Self { reason, reset: None }
    }
}

/// The type that a header byte names.
pub(super) fn type_of(first: u8) -> MessageType {
    match (first >> 4) & 3 {
        0 => MessageType::Con,
        1 => MessageType::Non,
        2 => MessageType::Ack,
        _ => MessageType::Rst,
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("code", &self.code)
            .field("mid", &self.mid)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl<'a> Message<'a> {
    /// Reads a datagram, which is one message.
    ///
    /// # Errors
    /// When it is none, or one of a kind that means nothing (RFC 7252, 3 and 4.2 to 4.3).
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (first, code, mid, rest) = match datagram {
            [] => return Err(Malformed::silent(DropReason::EmptyDatagram)),
            [first, code, high, low, rest @ ..] => (*first, *code, [*high, *low], rest),
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
        let bad = || reject(DropReason::Malformed);
        let (token, body) = rest.split_at_checked(usize::from(first & 15)).ok_or_else(bad)?;
        let token = Token::new(token).ok_or_else(bad)?;
        let mut walk = OptionWalk {
            number: 0,
            rest: body,
        };
        while walk.step().map_err(|BadOption| bad())?.is_some() {}
        let payload = match walk.rest {
            [] => &[],
            // A marker without payload is a message format error.
            [_] => return Err(bad()),
            [_, payload @ ..] => payload,
        };
        Ok(Self {
            kind,
            code,
            mid,
            token,
            options: body.split_at(body.len() - walk.rest.len()).0,
            payload,
        })
    }

    /// The options in the order of their numbers, each with its number.
    #[must_use]
    pub fn options(&self) -> OptionWalk<'a> {
        OptionWalk {
            number: 0,
            rest: self.options,
        }
    }
}

/// An option that cannot be read.
struct BadOption;

/// The options of a message, one after the other.
#[derive(Clone)]
pub struct OptionWalk<'a> {
    number: u16,
    rest: &'a [u8],
}

impl<'a> OptionWalk<'a> {
    /// The next option; `None` at the end or at the payload marker.
    fn step(&mut self) -> Result<Option<(u16, &'a [u8])>, BadOption> {
        let (head, mut rest) = match self.rest {
            [] | [MARKER, ..] => return Ok(None),
            [head, rest @ ..] => (*head, rest),
        };
        let delta = extended(head >> 4, &mut rest)?;
        let len = extended(head & 15, &mut rest)?;
        let (value, rest) = rest.split_at_checked(len).ok_or(BadOption)?;
        let number = usize::from(self.number) + delta;
        self.number = u16::try_from(number).map_err(|_| BadOption)?;
        self.rest = rest;
        Ok(Some((self.number, value)))
    }
}

impl<'a> Iterator for OptionWalk<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // All were read once when the message was.
        self.step().ok().flatten()
    }
}

/// A delta or length whose last digits may stand behind the option's first byte (RFC 7252, 3.1).
fn extended(nibble: u8, rest: &mut &[u8]) -> Result<usize, BadOption> {
    let (value, behind) = match (nibble, *rest) {
        (0..=12, rest) => (usize::from(nibble), rest),
        (13, [byte, rest @ ..]) => (usize::from(*byte) + 13, rest),
        (14, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])) + 269, rest),
        _ => return Err(BadOption),
    };
    *rest = behind;
    Ok(value)
}

/// Writes one message at the end of a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    number: u16,
}

impl<'a> Writer<'a> {
    /// Begins a message.
    pub fn new(out: &'a mut Vec<u8>, kind: MessageType, code: Code, mid: u16, token: Token) -> Self {
        let token = token.as_bytes();
        let [high, low] = mid.to_be_bytes();
        out.extend_from_slice(&[0x40 | (kind as u8) << 4 | token.len() as u8, code.0, high, low]);
        out.extend_from_slice(token);
        Self { out, number: 0 }
    }

    /// Adds an option. They must come in the order of their numbers; a value of more than 65,804 bytes has no encoding and is cut.
    pub fn option(&mut self, number: u16, value: &[u8]) {
        invariant!(
            number >= self.number,
            "options are written in the order of their numbers"
        );
        let value = value.get(..LONGEST_VALUE).unwrap_or(value);
        let head = self.out.len();
        self.out.push(0);
        let delta = self.extend(usize::from(number.saturating_sub(self.number)));
        let len = self.extend(value.len());
        if let Some(head) = self.out.get_mut(head) {
            *head = delta << 4 | len;
        }
        self.out.extend_from_slice(value);
        self.number = number;
    }

    /// Adds an option that is a number, in as few bytes as it needs (RFC 7252, 3.2); none where there is no number.
    pub fn uint(&mut self, number: u16, value: Option<u32>) {
        let Some(value) = value else { return };
        let zeros = (value.leading_zeros() / 8) as usize;
        self.option(number, value.to_be_bytes().get(zeros..).unwrap_or_default());
    }

    /// Ends the message with its payload, if it has one.
    pub fn payload(self, payload: &[u8]) {
        if !payload.is_empty() {
            self.out.push(MARKER);
            self.out.extend_from_slice(payload);
        }
    }

    /// Writes what does not fit into four bits, and returns those.
    fn extend(&mut self, value: usize) -> u8 {
        match value {
            0..=12 => value as u8,
            13..=268 => {
                self.out.push((value - 13) as u8);
                13
            }
            _ => {
                self.out.extend_from_slice(&((value - 269) as u16).to_be_bytes());
                14
            }
        }
    }
}

/// An empty message: ACK or RST.
pub(super) fn empty(kind: MessageType, mid: u16) -> [u8; HEADER] {
    let [high, low] = mid.to_be_bytes();
    [0x40 | (kind as u8) << 4, 0, high, low]
}

/// A number of at most four bytes (RFC 7252, 3.2).
pub(super) fn uint(value: &[u8]) -> u32 {
    value.iter().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests;
