//! Opens and seals records: the AEAD suites of TLS 1.2, with and without a Connection ID.
//!
//! One cipher context per algorithm and direction is keyed anew for each record, so that a session holds nothing of
//! OpenSSL's.

use std::ops::Range;

use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use zeroize::Zeroize;

use portcullis_proto::state::{ReadBytes, WriteBytes};

use super::prf::prf;
use super::record::{self, DTLS_1_2, Header, TLS12_CID, epoch_and_sequence};
use super::suite::Algorithm;

/// Algorithm, key and fixed part of the nonce of one direction.
#[derive(Clone)]
pub struct DirectionKeys {
    algorithm: Algorithm,
    /// As many bytes as the algorithm takes, then zeros; so too with `iv`.
    key: [u8; 32],
    iv: [u8; 12],
}

impl Drop for DirectionKeys {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
    }
}

impl DirectionKeys {
    /// Keys from as many bytes as the algorithm takes. It panics on other lengths: a key must not be cut or filled with zeros.
    fn new(algorithm: Algorithm, key: &[u8], iv: &[u8]) -> Self {
        let mut keys = Self {
            algorithm,
            key: [0; 32],
            iv: [0; 12],
        };
        keys.key.split_at_mut(algorithm.key_len()).0.copy_from_slice(key);
        keys.iv.split_at_mut(algorithm.iv_len()).0.copy_from_slice(iv);
        keys
    }

    fn write(&self, out: &mut WriteBytes) {
        out.raw(self.key.split_at(self.algorithm.key_len()).0);
        out.raw(self.iv.split_at(self.algorithm.iv_len()).0);
    }

    fn read(algorithm: Algorithm, bytes: &mut ReadBytes<'_>) -> Option<Self> {
        let key = bytes.raw(algorithm.key_len())?;
        Some(Self::new(algorithm, key, bytes.raw(algorithm.iv_len())?))
    }

    /// The fixed part is 4 bytes, with zeros behind, and `varying` stands behind them (RFC 5288, 3); or it is 12 bytes, and
    /// `varying` goes over the last ones (RFC 7905, 2).
    fn nonce(&self, varying: [u8; 8]) -> [u8; 12] {
        let mut nonce = self.iv;
        nonce
            .iter_mut()
            .skip(4)
            .zip(varying)
            .for_each(|(to, from)| *to ^= from);
        nonce
    }
}

/// The keys of both directions of a session.
#[derive(Clone)]
pub struct SessionKeys {
    /// What the client seals with.
    pub client: DirectionKeys,
    /// What the server seals with.
    pub server: DirectionKeys,
}

impl SessionKeys {
    /// The key block of a session (RFC 5246, 6.3).
    #[must_use]
    pub fn derive(
        algorithm: Algorithm,
        master: &[u8; 48],
        client_random: &[u8; 32],
        server_random: &[u8; 32],
    ) -> Self {
        let mut block = [0; 2 * (32 + 12)];
        let seed: [&[u8]; 2] = [server_random, client_random];
        prf(algorithm.prf_hash(), master, b"key expansion", seed, &mut block);
        let (client_key, rest) = block.split_at(algorithm.key_len());
        let (server_key, rest) = rest.split_at(algorithm.key_len());
        let (client_iv, rest) = rest.split_at(algorithm.iv_len());
        let (server_iv, _) = rest.split_at(algorithm.iv_len());
        let keys = Self {
            client: DirectionKeys::new(algorithm, client_key, client_iv),
            server: DirectionKeys::new(algorithm, server_key, server_iv),
        };
        block.zeroize();
        keys
    }

    /// Writes them down for the next process.
    pub(super) fn write(&self, out: &mut WriteBytes) {
        self.client.write(out);
        self.server.write(out);
    }

    /// The keys that an earlier process wrote down.
    pub(super) fn read(algorithm: Algorithm, bytes: &mut ReadBytes<'_>) -> Option<Self> {
        Some(Self {
            client: DirectionKeys::read(algorithm, bytes)?,
            server: DirectionKeys::read(algorithm, bytes)?,
        })
    }

    /// What the keys are for.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.client.algorithm
    }
}

/// An opened record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its content type; of a `tls12_cid` record the one inside.
    pub kind: u8,
    /// Where the plaintext stands in the record.
    pub plaintext: Range<usize>,
}

/// What to seal.
#[derive(Debug, Clone, Copy)]
pub struct Seal<'a> {
    /// Its content type; with a Connection ID it moves inside.
    pub kind: u8,
    /// The sequence number in epoch 1.
    pub sequence: u64,
    /// The explicit part of the nonce, where the algorithm has one.
    pub explicit: u64,
    /// The Connection ID of the receiver; empty for an ordinary record.
    pub cid: &'a [u8],
    /// What goes in.
    pub plaintext: &'a [u8],
}

/// The additional data of a record, which fits on the stack for any Connection ID.
struct Aad {
    bytes: [u8; 280],
    len: usize,
}

impl Aad {
    /// Nothing when the Connection ID is longer than any is.
    fn new(kind: u8, epoch: u16, sequence: u64, cid: &[u8], plaintext_len: usize) -> Option<Self> {
        let mut aad = Self {
            bytes: [0; 280],
            len: 0,
        };
        let number = epoch_and_sequence(epoch, sequence);
        let length = u16::try_from(plaintext_len).ok()?.to_be_bytes();
        if kind == TLS12_CID {
            let cid_len = u8::try_from(cid.len()).ok()?;
            aad.push(&[0xff; 8])?;
            aad.push(&[TLS12_CID, cid_len, TLS12_CID])?;
            aad.push(&DTLS_1_2)?;
            aad.push(&number)?;
            aad.push(cid)?;
        } else {
            aad.push(&number)?;
            aad.push(&[kind])?;
            aad.push(&DTLS_1_2)?;
        }
        aad.push(&length)?;
        Some(aad)
    }

    fn push(&mut self, part: &[u8]) -> Option<()> {
        let end = self.len + part.len();
        self.bytes.get_mut(self.len..end)?.copy_from_slice(part);
        self.len = end;
        Some(())
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.split_at(self.len).0
    }
}

#[derive(Default)]
struct Contexts {
    open: Option<CipherCtx>,
    seal: Option<CipherCtx>,
}

/// The cipher contexts that all sessions of a listener share.
#[derive(Default)]
pub struct Aead([Contexts; Algorithm::COUNT]);

impl Aead {
    /// Opens the record that `header` was read from, in place.
    /// Nothing when it is not authentic or holds no content type; the record is then spoilt.
    pub fn open(&mut self, keys: &DirectionKeys, header: &Header, record: &mut [u8]) -> Option<Opened> {
        let algorithm = keys.algorithm;
        let (head, body) = record.split_at_mut_checked(header.header_len)?;
        let (explicit, rest) = body.split_at_mut_checked(algorithm.explicit_len())?;
        let inner_len = rest.len().checked_sub(algorithm.tag_len())?;
        if inner_len > record::MAX_PLAINTEXT + 256 {
            return None;
        }
        let (text, tag) = rest.split_at_mut_checked(inner_len)?;
        let nonce = keys.nonce(if explicit.is_empty() {
            epoch_and_sequence(header.epoch, header.sequence)
        } else {
            *explicit.first_chunk()?
        });
        let cid = head.get(11..11 + header.cid_len)?;
        let aad = Aad::new(header.kind, header.epoch, header.sequence, cid, inner_len)?;
        let context = self.context(algorithm, false)?;
        decrypt(context, algorithm, &keys.key, &nonce, aad.as_slice(), text, tag).ok()?;
        let start = header.header_len + algorithm.explicit_len();
        if header.kind != TLS12_CID {
            return (inner_len <= record::MAX_PLAINTEXT).then(|| Opened {
                kind: header.kind,
                plaintext: start..start + inner_len,
            });
        }
        let end = text.iter().rposition(|byte| *byte != 0)?;
        let kind = text.get(end).copied()?;
        (end <= record::MAX_PLAINTEXT).then(|| Opened {
            kind,
            plaintext: start..start + end,
        })
    }

    /// Appends one sealed record of epoch 1 to `out`. On an error `out` is as it was.
    ///
    /// # Errors
    /// When the plaintext is longer than [`record::MAX_PLAINTEXT`], or OpenSSL refuses.
    pub fn seal(
        &mut self,
        keys: &DirectionKeys,
        what: &Seal<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        if what.plaintext.len() > record::MAX_PLAINTEXT {
            return Err(SealError);
        }
        let start = out.len();
        let sealed = self.seal_at(keys, what, out);
        if sealed.is_none() {
            out.truncate(start);
        }
        sealed.ok_or(SealError)
    }

    fn seal_at(&mut self, keys: &DirectionKeys, what: &Seal<'_>, out: &mut Vec<u8>) -> Option<()> {
        let algorithm = keys.algorithm;
        let (outer, inner_type) = if what.cid.is_empty() {
            (what.kind, 0)
        } else {
            (TLS12_CID, 1)
        };
        let inner_len = what.plaintext.len() + inner_type;
        let body_len = algorithm.explicit_len() + inner_len + algorithm.tag_len();
        record::write_header(out, outer, 1, what.sequence, what.cid, body_len);
        let nonce = keys.nonce(if algorithm.explicit_len() > 0 {
            let explicit = what.explicit.to_be_bytes();
            out.extend_from_slice(&explicit);
            explicit
        } else {
            epoch_and_sequence(1, what.sequence)
        });
        let text_at = out.len();
        out.extend_from_slice(what.plaintext);
        if inner_type > 0 {
            out.push(what.kind);
        }
        let tag_at = out.len();
        out.resize(tag_at + algorithm.tag_len(), 0);
        let aad = Aad::new(outer, 1, what.sequence, what.cid, inner_len)?;
        let (text, tag) = out.get_mut(text_at..)?.split_at_mut_checked(tag_at - text_at)?;
        let context = self.context(algorithm, true)?;
        encrypt(context, algorithm, &keys.key, &nonce, aad.as_slice(), text, tag).ok()
    }

    fn context(&mut self, algorithm: Algorithm, seal: bool) -> Option<&mut CipherCtx> {
        let contexts = self.0.get_mut(algorithm as usize)?;
        let slot = if seal {
            &mut contexts.seal
        } else {
            &mut contexts.open
        };
        if slot.is_none() {
            *slot = new_context(algorithm, seal).ok();
        }
        slot.as_mut()
    }
}

/// A record could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealError;

fn new_context(algorithm: Algorithm, seal: bool) -> Result<CipherCtx, ErrorStack> {
    let name = match algorithm {
        Algorithm::Gcm => "AES-128-GCM",
        Algorithm::Ccm | Algorithm::Ccm8 => "AES-128-CCM",
        Algorithm::ChaCha20 => "ChaCha20-Poly1305",
        Algorithm::Aes256Gcm => "AES-256-GCM",
        Algorithm::Aes256Ccm | Algorithm::Aes256Ccm8 => "AES-256-CCM",
    };
    let cipher = Cipher::fetch(None, name, None)?;
    let cipher: &CipherRef = &cipher;
    let mut context = CipherCtx::new()?;
    if seal {
        context.encrypt_init(Some(cipher), None, None)?;
    } else {
        context.decrypt_init(Some(cipher), None, None)?;
    }
    context.set_iv_length(12)?;
    if algorithm.is_ccm() {
        context.set_tag_length(algorithm.tag_len())?;
    }
    Ok(context)
}

fn decrypt(
    context: &mut CipherCtx,
    algorithm: Algorithm,
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8],
) -> Result<(), ErrorStack> {
    let len = text.len();
    if algorithm.is_ccm() {
        context.decrypt_init(None, Some(key), Some(nonce))?;
        context.set_tag(tag)?;
        context.set_data_len(len)?;
        context.cipher_update(aad, None)?;
        context.cipher_update_inplace(text, len)?;
    } else {
        context.decrypt_init(None, Some(key), Some(nonce))?;
        context.cipher_update(aad, None)?;
        context.cipher_update_inplace(text, len)?;
        context.set_tag(tag)?;
        context.cipher_final(&mut [])?;
    }
    Ok(())
}

fn encrypt(
    context: &mut CipherCtx,
    algorithm: Algorithm,
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    text: &mut [u8],
    tag: &mut [u8],
) -> Result<(), ErrorStack> {
    let len = text.len();
    context.encrypt_init(None, Some(key), Some(nonce))?;
    if algorithm.is_ccm() {
        context.set_data_len(len)?;
    }
    context.cipher_update(aad, None)?;
    context.cipher_update_inplace(text, len)?;
    context.cipher_final(&mut [])?;
    context.tag(tag)
}

#[cfg(test)]
mod tests;
