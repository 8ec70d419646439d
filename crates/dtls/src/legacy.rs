//! Sessions with a suite of CBC: their records stay OpenSSL's own, whose CBC takes the same time whatever a record holds. The
//! SSL lives as long as the session.

use hmac::Hmac;
use openssl::error::ErrorStack;
use openssl::ssl::SslStream;
use zeroize::Zeroize as _;

use portcullis_proto::types::mac::{Sha256, hmac, mac};

use super::aead::Opened;
use super::bio::{Pipe, is_waiting};
use super::cid::notes_index;
use super::prf::prf;
use super::record::{ALERT, APPLICATION_DATA, DTLS_1_2, Header, epoch_and_sequence};
use super::suite::PrfHash;

/// The least that a record holds: a vector, and a MAC with what fills it up to whole blocks.
const MIN_BODY: usize = 16 + 32 + 16;

/// Knows a client's records by their MAC, where that is over the ciphertext (RFC 7366). OpenSSL lets a forged one of these end
/// the session, so that it is not shown any.
pub(super) struct RecordMac(Hmac<Sha256>);

impl RecordMac {
    /// From the key that stands first in the key block (RFC 5246, 6.3).
    pub(super) fn derive(master: &[u8; 48], client_random: &[u8; 32], server_random: &[u8; 32]) -> Self {
        let mut key = [0; 32];
        let seed: [&[u8]; 2] = [server_random, client_random];
        prf(PrfHash::Sha256, master, b"key expansion", seed, &mut key);
        let keyed = hmac::<Sha256, _>(&key);
        key.zeroize();
        Self(keyed)
    }

    /// Whether the record that `header` was read from is the client's.
    pub(super) fn is_good(&self, header: &Header, record: &[u8]) -> bool {
        let Some((text, tag)) = record
            .get(header.header_len..)
            .and_then(<[u8]>::split_last_chunk::<32>)
        else {
            return false;
        };
        let Ok(len) = u16::try_from(text.len()) else {
            return false;
        };
        let number = epoch_and_sequence(header.epoch, header.sequence);
        let expected = mac(
            &self.0,
            &[&number, &[header.kind], &DTLS_1_2, &len.to_be_bytes(), text],
        );
        openssl::memcmp::eq(&expected, tag)
    }
}

/// The records of a session, opened and sealed by OpenSSL.
pub(super) struct LegacyRecords {
    stream: SslStream<Pipe>,
    /// Where the MAC is over the ciphertext.
    mac: Option<RecordMac>,
    /// Bytes of the record that holds the client's Finished.
    finished_len: usize,
    /// Whether OpenSSL is done with the session.
    over: bool,
}

impl LegacyRecords {
    /// Goes on with an SSL whose handshake is done.
    pub(super) const fn new(stream: SslStream<Pipe>, mac: Option<RecordMac>, finished_len: usize) -> Self {
        Self {
            stream,
            mac,
            finished_len,
            over: false,
        }
    }

    /// Opens the record that `header` was read from, in place: data or an alert. Nothing when it is not authentic, or holds
    /// nothing.
    pub(super) fn open(&mut self, header: &Header, record: &mut [u8]) -> Option<Opened> {
        if header.body_len < MIN_BODY || self.knows(header, record) == Some(false) {
            return None;
        }
        self.stream.get_mut().put(record);
        let start = header.header_len;
        let room = record.get_mut(start..)?;
        let (kind, len) = match self.stream.ssl_read(room) {
            Ok(len) => (APPLICATION_DATA, len),
            Err(error) => {
                self.over = !is_waiting(self.stream.ssl(), &error);
                drop(ErrorStack::get());
                let alert = self.stream.ssl().ex_data(notes_index().ok()?)?.take_alert()?;
                room.first_chunk_mut::<2>()?.copy_from_slice(&alert);
                (ALERT, alert.len())
            }
        };
        // What OpenSSL would say to it is said by others.
        drop(self.stream.get_mut().take());
        Some(Opened {
            kind,
            plaintext: start..start + len,
        })
    }

    /// Whether a record is authentic, where that can be told without OpenSSL. It is shown no record of handshake: it would begin
    /// another one, and keep what is announced to it.
    pub(super) fn knows(&self, header: &Header, record: &[u8]) -> Option<bool> {
        self.mac.as_ref().map(|mac| mac.is_good(header, record))
    }

    /// Whether a record of handshake can be the client's Finished once more.
    pub(super) const fn is_as_long_as_finished(&self, record: &[u8]) -> bool {
        record.len() == self.finished_len
    }

    /// Whether OpenSSL ended the session.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// Appends a sealed record to `out`: data, or of the alerts the goodbye.
    pub(super) fn seal(&mut self, kind: u8, plaintext: &[u8], out: &mut Vec<u8>) -> Option<()> {
        if kind == APPLICATION_DATA {
            drop(self.stream.ssl_write(plaintext));
        } else {
            drop(self.stream.shutdown());
        }
        drop(ErrorStack::get());
        let datagrams = self.stream.get_mut().take();
        let record = datagrams.first()?;
        out.extend_from_slice(record);
        Some(())
    }
}
