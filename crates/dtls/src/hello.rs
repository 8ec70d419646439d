//! Reads handshake messages in the clear as far as the front door must: ClientHellos, and the headers of fragments.

use super::record::{HANDSHAKE, Header};

const CLIENT_HELLO: u8 = 1;
const CERTIFICATE: u8 = 11;
const MESSAGE_HEADER_LEN: usize = 12;

/// Longest message that a client may announce, certificates apart.
const MAX_MESSAGE: usize = 4096;
/// Longest certificate message that a client may announce, when certificates are asked for.
pub(super) const MAX_CERTIFICATES: usize = 16_384;
/// A client sends at most this many messages after its hello.
const MAX_MESSAGES: u16 = 6;

/// The part of a ClientHello that lies in its first fragment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientHello<'a> {
    /// The record's sequence number, for the answer.
    pub(super) record_sequence: [u8; 6],
    /// 0 for the first hello, 1 for the one with the cookie.
    pub(super) message_sequence: u16,
    /// Client random.
    pub(super) random: &'a [u8; 32],
    /// The session to resume; not used by tickets but by what a client makes of them.
    pub(super) session_id: &'a [u8],
    /// The cookie; empty in the first hello.
    pub(super) cookie: &'a [u8],
    /// The suites that are offered, two bytes each; empty when they lie in a later fragment.
    pub(super) suites: &'a [u8],
}

struct MessageHeader {
    kind: u8,
    len: usize,
    sequence: u16,
    offset: usize,
    fragment_len: usize,
}

impl MessageHeader {
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let ([kind, l0, l1, l2, s0, s1, o0, o1, o2, f0, f1, f2], rest) =
            bytes.split_first_chunk::<MESSAGE_HEADER_LEN>()?;
        let u24 = |a: u8, b: u8, c: u8| usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let header = Self {
            kind: *kind,
            len: u24(*l0, *l1, *l2),
            sequence: u16::from_be_bytes([*s0, *s1]),
            offset: u24(*o0, *o1, *o2),
            fragment_len: u24(*f0, *f1, *f2),
        };
        Some((header, rest))
    }
}

/// Whether the record, whose header is of epoch 0, starts with the first fragment of a ClientHello.
pub(super) fn is_hello(header: &Header, record: &[u8]) -> bool {
    header.kind == HANDSHAKE
        && record
            .get(header.header_len..)
            .and_then(MessageHeader::split)
            .is_some_and(|(message, _)| message.kind == CLIENT_HELLO && message.offset == 0)
}

impl<'a> ClientHello<'a> {
    /// Reads the first fragment of a ClientHello. Nothing when it is malformed, too long, or does not reach past the
    /// cookie.
    pub(super) fn parse(header: &Header, record: &'a [u8]) -> Option<Self> {
        let record_sequence = *record.get(5..)?.first_chunk::<6>()?;
        let (message, rest) = MessageHeader::split(record.get(header.header_len..)?)?;
        let body = rest.get(..message.fragment_len)?;
        if message.len > MAX_MESSAGE || message.fragment_len > message.len || message.sequence > 1 {
            return None;
        }
        let ([major, _minor], body) = body.split_first_chunk::<2>()?;
        let (random, body) = body.split_first_chunk::<32>()?;
        let (session_id, body) = split_vec8(body)?;
        let (cookie, body) = split_vec8(body)?;
        let suites = split_vec16(body).unwrap_or_default();
        (*major == 0xfe && session_id.len() <= 32).then_some(Self {
            record_sequence,
            message_sequence: message.sequence,
            random,
            session_id,
            cookie,
            suites,
        })
    }
}

fn split_vec8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

fn split_vec16(bytes: &[u8]) -> Option<&[u8]> {
    let ([high, low], rest) = bytes.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes([*high, *low])))
}

/// Whether the fragments in the body of a handshake record may be shown to OpenSSL, which allocates what they
/// announce: each whole, within its message, none too long or too far ahead. `first` is the sequence of the hello.
pub(super) fn fragments_are_sound(body: &[u8], first: u16, certificates: bool) -> bool {
    let mut rest = body;
    while !rest.is_empty() {
        let Some((message, after)) = MessageHeader::split(rest) else {
            return false;
        };
        let limit = if message.kind != CERTIFICATE {
            MAX_MESSAGE
        } else if certificates {
            MAX_CERTIFICATES
        } else {
            0
        };
        let sound = message.len <= limit
            && message.offset + message.fragment_len <= message.len
            && (message.fragment_len > 0 || message.len == 0)
            && (first..=first.saturating_add(MAX_MESSAGES)).contains(&message.sequence);
        match after.get(message.fragment_len..) {
            Some(next) if sound => rest = next,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::write_header;

    fn fragment(kind: u8, len: usize, sequence: u16, offset: usize, body: &[u8]) -> Vec<u8> {
        let u24 = |n: usize| n.to_be_bytes()[5..].to_vec();
        let mut out = vec![kind];
        out.extend(u24(len));
        out.extend(sequence.to_be_bytes());
        out.extend(u24(offset));
        out.extend(u24(body.len()));
        out.extend(body);
        out
    }

    fn hello(cookie: &[u8], cut: usize) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([9; 32]);
        body.extend([0, cookie.len() as u8]);
        body.extend(cookie);
        body.extend([0, 4, 0xc0, 0xa8, 0, 0xa8, 1, 0]);
        let len = body.len();
        body.truncate(cut);
        let message = fragment(CLIENT_HELLO, len, 1, 0, &body);
        let mut record = Vec::new();
        write_header(&mut record, HANDSHAKE, 0, 5, &[], message.len());
        record.extend(message);
        record
    }

    #[test]
    fn a_hello_is_read_as_far_as_its_first_fragment_goes() {
        let record = hello(&[1; 16], 999);
        let header = Header::parse(&record, 8).unwrap();
        assert!(is_hello(&header, &record));
        let whole = ClientHello::parse(&header, &record).unwrap();
        assert_eq!(
            (whole.cookie, whole.suites),
            ([1; 16].as_slice(), [0xc0, 0xa8, 0, 0xa8].as_slice())
        );
        assert_eq!(
            (whole.message_sequence, whole.record_sequence),
            (1, [0, 0, 0, 0, 0, 5])
        );
        for cut in 0..60 {
            let record = hello(&[1; 16], cut);
            let header = Header::parse(&record, 8).unwrap();
            let parsed = ClientHello::parse(&header, &record);
            assert_eq!(parsed.is_some(), cut >= 52, "{cut}");
            assert_eq!(
                parsed.is_some_and(|hello| !hello.suites.is_empty()),
                cut >= 58,
                "{cut}"
            );
        }
    }

    #[test]
    fn fragments_that_lie_are_refused() {
        assert!(fragments_are_sound(&fragment(16, 10, 2, 0, &[0; 10]), 1, false));
        assert!(fragments_are_sound(&fragment(16, 10, 2, 4, &[0; 6]), 1, false));
        assert!(!fragments_are_sound(&fragment(16, 10, 2, 5, &[0; 6]), 1, false));
        assert!(!fragments_are_sound(&fragment(16, 5000, 2, 0, &[0; 6]), 1, false));
        assert!(!fragments_are_sound(&fragment(11, 5000, 2, 0, &[0; 6]), 1, false));
        assert!(fragments_are_sound(&fragment(11, 5000, 2, 0, &[0; 6]), 1, true));
        assert!(!fragments_are_sound(
            &fragment(11, 0x00ff_ffff, 2, 0, &[0; 6]),
            1,
            true
        ));
        assert!(!fragments_are_sound(&fragment(16, 10, 8, 0, &[0; 6]), 1, false));
        assert!(!fragments_are_sound(&fragment(16, 10, 0, 0, &[0; 6]), 1, false));
        assert!(!fragments_are_sound(&fragment(16, 10, 2, 0, &[]), 1, false));
        let mut two = fragment(16, 3, 2, 0, &[0; 3]);
        two.extend(fragment(16, 3, 3, 0, &[0; 3]));
        assert!(fragments_are_sound(&two, 1, false));
        two.pop();
        assert!(!fragments_are_sound(&two, 1, false));
    }
}
