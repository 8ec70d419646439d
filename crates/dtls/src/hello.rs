//! Reads handshake messages in the clear as far as the front door must: ClientHellos, and the headers of fragments.

use super::cid::{CONNECTION_ID_EXTENSION, RRC_EXTENSION};
use super::record::{DTLS_1_2, HANDSHAKE, Header, write_header};
use super::suite::Suite;

/// The type of a ClientHello.
pub(super) const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
const CERTIFICATE_VERIFY: u8 = 15;
pub(super) const CLIENT_KEY_EXCHANGE: u8 = 16;
pub(super) const MESSAGE_HEADER_LEN: usize = 12;

const MAX_FRAGMENT_LENGTH: u16 = 1;
const CLIENT_CERTIFICATE_TYPE: u16 = 19;
const SERVER_CERTIFICATE_TYPE: u16 = 20;
const RECORD_SIZE_LIMIT: u16 = 28;
const ENCRYPT_THEN_MAC: u16 = 22;
const EXTENDED_MASTER_SECRET: u16 = 23;
/// The certificate type of X.509 (RFC 7250, 3).
pub(super) const X509: u8 = 0;
/// That of raw public keys.
pub(super) const RAW_KEY: u8 = 2;
/// Extensions of a ServerHello that say nothing of the records after the handshake, or are ours: server_name,
/// ec_point_formats, the types of certificates, session_ticket, connection_id, rrc, renegotiation_info.
const INDIFFERENT: [u16; 8] = [
    0,
    11,
    CLIENT_CERTIFICATE_TYPE,
    SERVER_CERTIFICATE_TYPE,
    35,
    CONNECTION_ID_EXTENSION,
    RRC_EXTENSION,
    0xff01,
];

/// Longest message that a client may announce, certificates apart.
const MAX_MESSAGE: usize = 4096;
/// Longest certificate message that a client may announce, when certificates are asked for.
pub(super) const MAX_CERTIFICATES: usize = 16_384;
/// A client sends at most this many hellos before the one that is answered: its address, or our secret, may change while it
/// tries.
const MAX_HELLO: u16 = 4;
/// A client sends at most this many messages after its hello.
const MAX_MESSAGES: u16 = 6;

/// The part of a ClientHello that lies in its first fragment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientHello<'a> {
    /// The record's sequence number, for the answer.
    pub(super) record_sequence: [u8; 6],
    /// 0 for the first hello, 1 for the one with the cookie, more for a client that was asked for another one since.
    pub(super) message_sequence: u16,
    /// Client random.
    pub(super) random: &'a [u8; 32],
    /// The session to resume; not used by tickets but by what a client makes of them.
    pub(super) session_id: &'a [u8],
    /// The cookie; empty in the first hello.
    pub(super) cookie: &'a [u8],
    /// The suites that are offered, two bytes each; empty when they lie in a later fragment.
    pub(super) suites: &'a [u8],
    /// The extensions; empty when they lie in a later fragment.
    pub(super) extensions: &'a [u8],
}

/// The header of a handshake message, or of a fragment of one (RFC 6347, 4.2.2).
pub(super) struct MessageHeader {
    pub(super) kind: u8,
    pub(super) len: usize,
    pub(super) sequence: u16,
    pub(super) offset: usize,
    pub(super) fragment_len: usize,
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

/// The fragments in the body of a record of handshake whose soundness is known ([`Fragments::accept`]).
pub(super) fn fragments(mut body: &[u8]) -> impl Iterator<Item = (MessageHeader, &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = MessageHeader::split(body)?;
        let (fragment, rest) = rest.split_at_checked(header.fragment_len)?;
        body = rest;
        Some((header, fragment))
    })
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
        if message.len > MAX_MESSAGE || message.fragment_len > message.len || message.sequence > MAX_HELLO {
            return None;
        }
        let ([major, _minor], body) = body.split_first_chunk::<2>()?;
        let (random, body) = body.split_first_chunk::<32>()?;
        let (session_id, body) = split_vec8(body)?;
        let (cookie, body) = split_vec8(body)?;
        let (suites, body) = split_vec16(body).unwrap_or_default();
        let extensions = split_vec8(body).and_then(|(_, body)| split_vec16(body));
        (*major == 0xfe && session_id.len() <= 32).then_some(Self {
            record_sequence,
            message_sequence: message.sequence,
            random,
            session_id,
            cookie,
            suites,
            extensions: extensions.map_or(&[], |(extensions, _)| extensions),
        })
    }

    /// Whether the client takes a server's key in forms of which an X.509 certificate is none (RFC 7250, 4.1).
    pub(super) fn refuses_x509(&self) -> bool {
        let kinds = self.certificate_types(SERVER_CERTIFICATE_TYPE);
        kinds.is_some_and(|kinds| !kinds.contains(&X509))
    }

    /// Whether the client takes a server's key raw, and whether it likes that better than in a certificate.
    pub(super) fn takes_raw_key(&self) -> (bool, bool) {
        let kinds = self
            .certificate_types(SERVER_CERTIFICATE_TYPE)
            .unwrap_or_default();
        let first = kinds.iter().find(|kind| matches!(**kind, X509 | RAW_KEY));
        (kinds.contains(&RAW_KEY), first == Some(&RAW_KEY))
    }

    /// Whether the client may show its own key raw.
    pub(super) fn offers_raw_key(&self) -> bool {
        let kinds = self.certificate_types(CLIENT_CERTIFICATE_TYPE);
        kinds.is_some_and(|kinds| kinds.contains(&RAW_KEY))
    }

    /// The types in one of the two extensions of RFC 7250, best first.
    fn certificate_types(&self, extension: u16) -> Option<&'a [u8]> {
        let mut all = extensions(self.extensions);
        let (_, list) = all.find(|(kind, _)| *kind == extension)?;
        split_vec8(list).map(|(kinds, _)| kinds)
    }

    /// Most bytes of plaintext that the client takes in a record, by `record_size_limit` (RFC 8449, 4).
    pub(super) fn record_size_limit(&self) -> Option<usize> {
        let mut all = extensions(self.extensions);
        let (_, limit) = all.find(|(kind, _)| *kind == RECORD_SIZE_LIMIT)?;
        let [high, low] = *limit else { return None };
        Some(usize::from(u16::from_be_bytes([high, low])))
    }
}

/// A hello without a cookie, as the record with this number holds it. It offers nothing: what answers it is never read.
pub(super) fn empty_hello(sequence: u16) -> Vec<u8> {
    // Version, random, session id, cookie, one suite, no compression.
    let mut body = DTLS_1_2.to_vec();
    body.extend_from_slice(&[0; 32]);
    body.extend_from_slice(&[0, 0, 0, 2, 0, 0xff, 1, 0]);
    let len = body.len() as u8;
    let [high, low] = sequence.to_be_bytes();
    let mut record = Vec::new();
    write_header(
        &mut record,
        HANDSHAKE,
        0,
        sequence.into(),
        &[],
        MESSAGE_HEADER_LEN + body.len(),
    );
    record.extend_from_slice(&[CLIENT_HELLO, 0, 0, len, high, low, 0, 0, 0, 0, 0, len]);
    record.extend_from_slice(&body);
    record
}

/// The extensions of a hello, each with its number.
fn extensions(mut list: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let ([high, low], rest) = list.split_first_chunk::<2>()?;
        let (data, rest) = split_vec16(rest)?;
        list = rest;
        Some((u16::from_be_bytes([*high, *low]), data))
    })
}

/// What a ServerHello says that our records must keep. OpenSSL negotiates by itself, and its records are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Negotiated {
    /// Most bytes of plaintext in a record to the client, if less than any record holds (RFC 6066, 4).
    pub(super) max_fragment: Option<usize>,
    /// Whether what the client takes is what its `record_size_limit` says.
    pub(super) record_size_limit: bool,
    /// Whether the MAC of a suite of CBC is over the ciphertext (RFC 7366).
    pub(super) encrypt_then_mac: bool,
    /// Whether the master secret is made of all messages (RFC 7627).
    pub(super) extended_master_secret: bool,
}

impl Negotiated {
    /// Reads a ServerHello that stands whole in the body of a handshake record; nothing when the body begins with another
    /// message.
    ///
    /// # Errors
    /// It is cut, or has an extension that our records would not keep.
    pub(super) fn read(body: &[u8]) -> Option<Result<Self, Foreign>> {
        let (message, rest) = MessageHeader::split(body)?;
        (message.kind == SERVER_HELLO).then(|| Self::of(&message, rest).unwrap_or(Err(Foreign)))
    }

    fn of(message: &MessageHeader, rest: &[u8]) -> Option<Result<Self, Foreign>> {
        let hello = rest.get(..message.fragment_len)?;
        let (session_id_len, _) = hello.get(34..)?.split_first()?;
        if message.fragment_len != message.len {
            return None;
        }
        let ([suite @ .., _compression], list) = hello
            .get(35 + usize::from(*session_id_len)..)?
            .split_first_chunk::<3>()?;
        let is_legacy = Suite::from_id(*suite).is_some_and(Suite::is_legacy);
        // There may be no extensions.
        let list = split_vec16(list).unwrap_or_default().0;
        let mut negotiated = Self {
            max_fragment: None,
            record_size_limit: false,
            encrypt_then_mac: false,
            extended_master_secret: false,
        };
        for (kind, data) in extensions(list) {
            match (kind, data) {
                (MAX_FRAGMENT_LENGTH, [n @ 1..=4]) => negotiated.max_fragment = Some(256 << n),
                (RECORD_SIZE_LIMIT, _) => negotiated.record_size_limit = true,
                (EXTENDED_MASTER_SECRET, []) => negotiated.extended_master_secret = true,
                (ENCRYPT_THEN_MAC, []) if is_legacy => negotiated.encrypt_then_mac = true,
                (kind, _) if INDIFFERENT.contains(&kind) => {}
                _ => return Some(Err(Foreign)),
            }
        }
        Some(Ok(negotiated))
    }
}

/// A ServerHello that promises what our records do not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foreign;

fn split_vec8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

fn split_vec16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([high, low], rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))
}

/// The PSK identity in a whole ClientKeyExchange, header included, of a suite that has one (RFC 4279, 2; RFC 5489, 2).
pub(super) fn psk_identity(message: &[u8]) -> Option<&[u8]> {
    let (header, body) = MessageHeader::split(message)?;
    let is_key_exchange = header.kind == CLIENT_KEY_EXCHANGE;
    split_vec16(body)
        .filter(|_| is_key_exchange)
        .map(|(identity, _)| identity)
}

/// Which handshake messages in the clear may be shown to OpenSSL. It allocates what they announce, and of a fragment that
/// contradicts an earlier one it leaves the rest in its buffer, to be read as the next message.
#[derive(Debug)]
pub(super) struct Fragments {
    /// The sequence of the hello.
    first: u16,
    /// Whether certificates are asked for.
    certificates: bool,
    /// The length that each message, from the hello on, was announced with first.
    lengths: [Option<usize>; MAX_MESSAGES as usize + 1],
}

impl Fragments {
    /// For a handshake whose hello has the sequence number `first`.
    pub(super) fn new(first: u16, certificates: bool) -> Self {
        Self {
            first,
            certificates,
            lengths: Default::default(),
        }
    }

    /// Whether the body of a handshake record is sound: each fragment whole, within its message, of the length that was
    /// announced, of a type that clients send in the clear; none too long, too far ahead, or, after the hello, of
    /// another `version`. The lengths of a sound one are remembered.
    pub(super) fn accept(&mut self, version: [u8; 2], body: &[u8]) -> bool {
        let mut lengths = self.lengths;
        let mut rest = body;
        while !rest.is_empty() {
            let Some((message, after)) = MessageHeader::split(rest) else {
                return false;
            };
            let limit = match message.kind {
                CLIENT_HELLO | CERTIFICATE_VERIFY | CLIENT_KEY_EXCHANGE => MAX_MESSAGE,
                CERTIFICATE if self.certificates => MAX_CERTIFICATES,
                _ => return false,
            };
            let Some(known) = message
                .sequence
                .checked_sub(self.first)
                .and_then(|at| lengths.get_mut(usize::from(at)))
            else {
                return false;
            };
            // A whole message does not depend on what fragments, forged perhaps, said of it.
            let agrees =
                *known.get_or_insert(message.len) == message.len || message.fragment_len == message.len;
            let sound = agrees
                && message.len <= limit
                && message.offset + message.fragment_len <= message.len
                && (message.fragment_len > 0 || message.len == 0)
                && (version == DTLS_1_2 || message.sequence == self.first);
            match after.get(message.fragment_len..) {
                Some(next) if sound => rest = next,
                _ => return false,
            }
        }
        self.lengths = lengths;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::DTLS_1_0;

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

    fn is_sound(body: &[u8], certificates: bool) -> bool {
        Fragments::new(1, certificates).accept(DTLS_1_2, body)
    }

    #[test]
    fn fragments_that_lie_are_refused() {
        assert!(is_sound(&fragment(16, 10, 2, 0, &[0; 10]), false));
        assert!(is_sound(&fragment(16, 10, 2, 4, &[0; 6]), false));
        assert!(!is_sound(&fragment(16, 10, 2, 5, &[0; 6]), false));
        assert!(!is_sound(&fragment(16, 5000, 2, 0, &[0; 6]), false));
        assert!(!is_sound(&fragment(11, 5000, 2, 0, &[0; 6]), false));
        assert!(is_sound(&fragment(11, 5000, 2, 0, &[0; 6]), true));
        assert!(!is_sound(&fragment(11, 0x00ff_ffff, 2, 0, &[0; 6]), true));
        assert!(!is_sound(&fragment(16, 10, 8, 0, &[0; 6]), false));
        assert!(!is_sound(&fragment(16, 10, 0, 0, &[0; 6]), false));
        assert!(!is_sound(&fragment(16, 10, 2, 0, &[]), false));
        let mut two = fragment(16, 3, 2, 0, &[0; 3]);
        two.extend(fragment(16, 3, 3, 0, &[0; 3]));
        assert!(is_sound(&two, false));
        two.pop();
        assert!(!is_sound(&two, false));
    }

    #[test]
    fn messages_that_no_client_sends_in_the_clear_are_refused() {
        for kind in 0..=u8::MAX {
            let sent = matches!(kind, 1 | 11 | 15 | 16);
            assert_eq!(is_sound(&fragment(kind, 0, 2, 0, &[]), true), sent, "{kind}");
        }
    }

    #[test]
    fn a_fragment_that_contradicts_an_earlier_one_is_refused() {
        let mut fragments = Fragments::new(1, true);
        let part = |len, at| fragment(16, len, 3, at, &[0; 5]);
        assert!(!fragments.accept(DTLS_1_2, &[part(20, 0), vec![9]].concat()));
        assert!(
            fragments.accept(DTLS_1_2, &part(21, 0)),
            "nothing is kept of the unsound"
        );
        assert!(!fragments.accept(DTLS_1_2, &part(20, 0)));
        assert!(!fragments.accept(DTLS_1_2, &part(22, 5)));
        assert!(fragments.accept(DTLS_1_2, &part(21, 5)));
        assert!(
            fragments.accept(DTLS_1_2, &fragment(16, 9, 3, 0, &[0; 9])),
            "whole"
        );
        assert!(fragments.accept(DTLS_1_2, &part(21, 10)));
    }

    #[test]
    fn another_version_is_for_the_hello_alone() {
        let mut fragments = Fragments::new(1, true);
        assert!(fragments.accept(DTLS_1_0, &fragment(CLIENT_HELLO, 90, 1, 50, &[0; 40])));
        assert!(!fragments.accept(DTLS_1_0, &fragment(16, 9, 2, 0, &[0; 9])));
    }

    fn server_hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([8; 32]);
        body.extend([4, 1, 2, 3, 4, 0, 0xa8, 0]);
        if !extensions.is_empty() {
            body.extend((extensions.len() as u16).to_be_bytes());
            body.extend(extensions);
        }
        body
    }

    #[test]
    fn what_openssl_promises_is_read_from_its_hello() {
        let read = |extensions: &[u8]| {
            let hello = server_hello(extensions);
            Negotiated::read(&fragment(SERVER_HELLO, hello.len(), 1, 0, &hello)).unwrap()
        };
        let plain = Negotiated {
            max_fragment: None,
            record_size_limit: false,
            encrypt_then_mac: false,
            extended_master_secret: false,
        };
        assert_eq!(read(&[]), Ok(plain));
        assert_eq!(read(&[0xff, 1, 0, 1, 0, 0, 54, 0, 2, 1, 7]), Ok(plain));
        assert!(read(&[0, 23, 0, 0]).unwrap().extended_master_secret);
        for (n, bytes) in [(1, 512), (2, 1024), (3, 2048), (4, 4096)] {
            let max_fragment = Some(bytes);
            assert_eq!(
                read(&[0, 1, 0, 1, n]),
                Ok(Negotiated {
                    max_fragment,
                    ..plain
                })
            );
        }
        assert!(read(&[0, 28, 0, 2, 64, 1]).unwrap().record_size_limit);
        // encrypt_then_mac, heartbeat, truncated_hmac, and a length that does not exist.
        for foreign in [
            &[0, 22, 0, 0][..],
            &[0, 15, 0, 1, 1],
            &[0, 4, 0, 0],
            &[0, 1, 0, 1, 5],
        ] {
            assert_eq!(read(foreign), Err(Foreign));
        }
        // With a suite of CBC it is ours to keep.
        let mut hello = server_hello(&[0, 22, 0, 0]);
        hello[39..41].copy_from_slice(&[0, 0xae]);
        let message = fragment(SERVER_HELLO, hello.len(), 1, 0, &hello);
        assert!(Negotiated::read(&message).unwrap().unwrap().encrypt_then_mac);
        let hello = server_hello(&[]);
        assert_eq!(
            Negotiated::read(&fragment(SERVER_HELLO, hello.len(), 1, 0, &hello[..20])),
            Some(Err(Foreign))
        );
        assert_eq!(Negotiated::read(&fragment(14, 0, 1, 0, &[])), None);
    }

    #[test]
    fn what_a_client_takes_in_a_record_is_read_from_its_hello() {
        let mut record = hello(&[1; 16], 999);
        assert_eq!(
            ClientHello::parse(&Header::parse(&record, 0).unwrap(), &record)
                .unwrap()
                .record_size_limit(),
            None
        );
        record.extend([0, 6, 0, 28, 0, 2, 1, 0]);
        let grown = record.len();
        record[11..13].copy_from_slice(&(grown as u16 - 13).to_be_bytes());
        for at in [14, 22] {
            record[at..at + 3].copy_from_slice(&[0, 0, grown as u8 - 25]);
        }
        let header = Header::parse(&record, 0).unwrap();
        assert_eq!(
            ClientHello::parse(&header, &record).unwrap().record_size_limit(),
            Some(256)
        );
    }
}
