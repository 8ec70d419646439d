//! Values that only who has the key of the state directory can read, and that stand where they were written and nowhere else.

use std::collections::HashMap;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use zeroize::Zeroizing;

use crate::config::state_key::StateKey;

const SALT: usize = 16;
const COUNTER: usize = 8;
const TAG: usize = 16;

type Salt = [u8; SALT];

fn derive(root: &StateKey, what: &[u8], salt: &[u8]) -> Result<StateKey, ErrorStack> {
    let root = PKey::hmac(root.as_slice())?;
    let mut signer = Signer::new(MessageDigest::sha256(), &root)?;
    signer.update(what)?;
    signer.update(salt)?;
    let mut key = StateKey::default();
    signer.sign(key.as_mut_slice())?;
    Ok(key)
}

fn derive_sealing(root: &StateKey, salt: &Salt) -> Result<StateKey, ErrorStack> {
    derive(root, b"portcullis state ", salt)
}

fn nonce(counter: [u8; COUNTER]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce
        .iter_mut()
        .skip(4)
        .zip(counter)
        .for_each(|(to, from)| *to = from);
    nonce
}

/// Seals with AES-256-GCM, under a key that is drawn anew with each of these: what it counts then never repeats a nonce, whatever became of
/// the values that an earlier one sealed.
pub(super) struct Sealer {
    root: StateKey,
    salt: Salt,
    key: StateKey,
    sealed: u64,
}

impl Sealer {
    /// # Errors
    /// There is no randomness.
    pub(super) fn new(root: StateKey) -> Result<Self, ErrorStack> {
        let mut salt = Salt::default();
        openssl::rand::rand_bytes(&mut salt)?;
        Ok(Self {
            key: derive_sealing(&root, &salt)?,
            root,
            salt,
            sealed: 0,
        })
    }

    /// What tells whether values were sealed with the same key, and nothing of it.
    pub(super) fn mark(&self) -> Result<u64, ErrorStack> {
        let mark = derive(&self.root, b"portcullis state mark", b"")?;
        Ok(mark.first_chunk().copied().map_or(0, u64::from_be_bytes))
    }

    /// The plaintext under seal; `about` has to be the same where it is opened.
    pub(super) fn seal(&mut self, about: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let counter = self.sealed.to_be_bytes();
        self.sealed += 1;
        let mut tag = [0; TAG];
        let cipher = Cipher::aes_256_gcm();
        let text = encrypt_aead(
            cipher,
            self.key.as_slice(),
            Some(&nonce(counter)),
            about,
            plaintext,
            &mut tag,
        )?;
        Ok([&self.salt[..], &counter, &text, &tag].concat())
    }

    /// Opens what any of these with the same key sealed.
    pub(super) fn opener(&self) -> Opener<'_> {
        Opener {
            root: &self.root,
            keys: HashMap::new(),
        }
    }
}

/// Opens values, and remembers the keys of those before.
pub(super) struct Opener<'a> {
    root: &'a StateKey,
    keys: HashMap<Salt, StateKey>,
}

impl Opener<'_> {
    /// What is under a seal; nothing where it is not as it was sealed, or stands somewhere else.
    pub(super) fn open(&mut self, about: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (salt, rest) = sealed.split_first_chunk::<SALT>()?;
        let (counter, rest) = rest.split_first_chunk::<COUNTER>()?;
        let (text, tag) = rest.split_last_chunk::<TAG>()?;
        if !self.keys.contains_key(salt) {
            self.keys.insert(*salt, derive_sealing(self.root, salt).ok()?);
        }
        let (cipher, key) = (Cipher::aes_256_gcm(), self.keys.get(salt)?);
        let text = decrypt_aead(cipher, key.as_slice(), Some(&nonce(*counter)), about, text, tag);
        text.ok().map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(key: u8) -> Sealer {
        Sealer::new(Zeroizing::new([key; 32])).unwrap()
    }

    #[test]
    fn what_was_sealed_is_opened_by_who_has_the_key_and_at_its_place_only() {
        let (mut first, mut next) = (sealer(1), sealer(1));
        let sealed = [
            first.seal(b"here", b"keys").unwrap(),
            next.seal(b"here", b"keys").unwrap(),
        ];
        let again = first.seal(b"here", b"keys").unwrap();
        assert!(sealed[0] != sealed[1] && sealed[0] != again);
        for sealed in sealed.iter().chain([&again]) {
            assert_eq!(next.opener().open(b"here", sealed).unwrap().as_slice(), b"keys");
            assert!(next.opener().open(b"there", sealed).is_none());
            assert!(sealer(2).opener().open(b"here", sealed).is_none());
            for at in 0..sealed.len() {
                let mut spoilt = sealed.clone();
                spoilt[at] ^= 1;
                assert!(next.opener().open(b"here", &spoilt).is_none(), "{at}");
                assert!(next.opener().open(b"here", &sealed[..at]).is_none(), "{at}");
            }
        }
    }

    #[test]
    fn a_key_is_known_by_its_mark() {
        assert_eq!(sealer(1).mark().unwrap(), sealer(1).mark().unwrap());
        assert_ne!(sealer(1).mark().unwrap(), sealer(2).mark().unwrap());
    }
}
