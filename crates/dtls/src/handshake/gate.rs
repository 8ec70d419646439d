//! What a client's flight waits for until its pre-shared key is chosen. OpenSSL asks for a key while it reads the
//! ClientKeyExchange, at once and for one key only, and a handshake cannot be rewound. So that message is held back until it is
//! whole and the key known, and where there are two keys until the client's Finished shows which of them it has.

use std::sync::Arc;

use openssl::sha::{sha256, sha384};
use zeroize::Zeroizing;

use super::super::aead::SessionKeys;
use super::super::hello::{CLIENT_KEY_EXCHANGE, MESSAGE_HEADER_LEN, MessageHeader, fragments};
use super::super::prf::prf_of;
use super::super::psk::{PskKey, PskKeys};
use super::super::record::{HANDSHAKE, write_header};
use super::super::suite::{Algorithm, PrfHash};

/// Longest ClientKeyExchange that is held: the longest identity and a point of the largest group. OpenSSL refuses what is longer.
const MAX_HELD: usize = 1024;

/// A flight that waits.
pub(super) struct Gate {
    message: Gathered,
    /// The record with ChangeCipherSpec.
    pub(super) change: Option<Vec<u8>>,
    pub(super) wait: Wait,
}

/// What a flight waits for.
pub(super) enum Wait {
    /// The rest of the ClientKeyExchange.
    Message,
    /// Somebody who says which keys its identity has.
    Keys,
    /// ChangeCipherSpec and a Finished that opens with one of these.
    Finished(Arc<PskKeys>),
}

/// A message of which the fragments are gathered, with the header of one that is whole.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    missing: Vec<bool>,
    /// The number of the last record that brought something.
    record: u64,
}

impl Gate {
    /// A gate for the ClientKeyExchange that a record of handshake holds, or the first part of it; nothing where the record holds
    /// something else.
    pub(super) fn close(record: u64, body: &[u8]) -> Option<Self> {
        let mut gate = Self {
            message: Gathered::default(),
            change: None,
            wait: Wait::Message,
        };
        gate.hold(record, body).then_some(gate)
    }

    /// Holds what a record of handshake has of the ClientKeyExchange. Whether that was all that it has.
    pub(super) fn hold(&mut self, record: u64, body: &[u8]) -> bool {
        let fits = |header: &MessageHeader| header.kind == CLIENT_KEY_EXCHANGE && header.len <= MAX_HELD;
        if !fragments(body).all(|(header, _)| fits(&header)) {
            return false;
        }
        if matches!(self.wait, Wait::Message) {
            for (header, fragment) in fragments(body) {
                self.message.add(record, &header, fragment);
            }
        }
        true
    }

    /// The ClientKeyExchange once it is whole.
    pub(super) fn message(&self) -> Option<&[u8]> {
        self.message.is_whole().then_some(&*self.message.bytes)
    }

    /// The same in a record of its own.
    pub(super) fn record(&self) -> Vec<u8> {
        let mut record = Vec::new();
        let message = &self.message.bytes;
        write_header(&mut record, HANDSHAKE, 0, self.message.record, &[], message.len());
        record.extend_from_slice(message);
        record
    }
}

impl Gathered {
    fn add(&mut self, record: u64, header: &MessageHeader, fragment: &[u8]) {
        if self.bytes.len() != MESSAGE_HEADER_LEN + header.len {
            let [_, _, _, _, _, l0, l1, l2] = (header.len as u64).to_be_bytes();
            let [s0, s1] = header.sequence.to_be_bytes();
            self.bytes = vec![header.kind, l0, l1, l2, s0, s1, 0, 0, 0, l0, l1, l2];
            self.bytes.resize(MESSAGE_HEADER_LEN + header.len, 0);
            self.missing = vec![true; header.len];
        }
        let range = header.offset..header.offset + fragment.len();
        let body = self.bytes.get_mut(MESSAGE_HEADER_LEN..).unwrap_or_default();
        if let (Some(to), Some(missing)) = (body.get_mut(range.clone()), self.missing.get_mut(range)) {
            to.copy_from_slice(fragment);
            missing.fill(false);
            self.record = record;
        }
    }

    fn is_whole(&self) -> bool {
        !self.bytes.is_empty() && !self.missing.contains(&true)
    }
}

/// What the keys of a handshake are made of beside the pre-shared key.
pub(super) struct Ingredients<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) client_random: [u8; 32],
    pub(super) server_random: [u8; 32],
    /// All messages up to the ClientKeyExchange, where the master secret is made of them (RFC 7627).
    pub(super) messages: Option<[&'a [u8]; 2]>,
}

impl Ingredients<'_> {
    /// The keys of the session that `key` leads to, with no other exchange (RFC 4279, 2).
    pub(super) fn with(&self, key: &PskKey) -> SessionKeys {
        let key = key.as_bytes();
        let len = (key.len() as u16).to_be_bytes();
        let mut premaster = Zeroizing::new(Vec::with_capacity(2 * (2 + key.len())));
        premaster.extend_from_slice(&len);
        premaster.resize(2 + key.len(), 0);
        premaster.extend_from_slice(&len);
        premaster.extend_from_slice(key);
        let hash = self.algorithm.prf_hash();
        let mut master = Zeroizing::new([0; 48]);
        match self.messages {
            None => {
                let seed: [&[u8]; 2] = [&self.client_random, &self.server_random];
                prf_of(hash, &premaster, b"master secret", seed, &mut *master);
            }
            Some(messages) => {
                let messages = messages.concat();
                let digest = match hash {
                    PrfHash::Sha256 => sha256(&messages).to_vec(),
                    PrfHash::Sha384 => sha384(&messages).to_vec(),
                };
                let seed: [&[u8]; 2] = [&digest, &[]];
                prf_of(hash, &premaster, b"extended master secret", seed, &mut *master);
            }
        }
        SessionKeys::derive(self.algorithm, &master, &self.client_random, &self.server_random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(kind: u8, len: u8, offset: u8, bytes: &[u8]) -> Vec<u8> {
        let mut body = vec![kind, 0, 0, len, 0, 2, 0, 0, offset, 0, 0, bytes.len() as u8];
        body.extend_from_slice(bytes);
        body
    }

    #[test]
    fn a_message_is_gathered_from_fragments_in_any_order() {
        let mut gate = Gate::close(5, &fragment(16, 5, 3, b"lo")).unwrap();
        assert_eq!(gate.message(), None);
        assert!(gate.hold(6, &fragment(16, 5, 2, b"ll")));
        assert_eq!(gate.message(), None);
        assert!(gate.hold(
            7,
            &[fragment(16, 5, 3, b"lo"), fragment(16, 5, 0, b"hel")].concat()
        ));
        assert_eq!(gate.message().unwrap(), fragment(16, 5, 0, b"hello"));
        let record = gate.record();
        assert_eq!(record[..11], [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(record[13..], fragment(16, 5, 0, b"hello"));
    }

    #[test]
    fn what_is_no_key_exchange_is_not_held() {
        assert!(Gate::close(5, &fragment(11, 1, 0, b"c")).is_none());
        let mut long = fragment(16, 0, 0, b"x");
        long[1..4].copy_from_slice(&[0, 4, 1]);
        assert!(Gate::close(5, &long).is_none());
        let mut gate = Gate::close(5, &fragment(16, 2, 0, b"a")).unwrap();
        assert!(!gate.hold(6, &fragment(15, 1, 0, b"v")));
    }

    #[test]
    fn a_whole_message_takes_the_place_of_fragments_of_another_length() {
        let mut gate = Gate::close(5, &fragment(16, 9, 3, b"forged")).unwrap();
        assert!(gate.hold(6, &fragment(16, 4, 0, b"true")));
        assert_eq!(gate.message().unwrap(), fragment(16, 4, 0, b"true"));
    }
}
