//! The key of a group: what seals what is shared, and proves a node to another.

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use zeroize::Zeroizing;

/// Bytes of the key.
pub const BYTES: usize = 32;

/// Bytes of a nonce of AES-GCM.
const NONCE: usize = 12;

/// Bytes of its tag.
const TAG: usize = 16;

/// The key of a group. What it is used for has keys of its own, made of it by HMAC-SHA-256.
pub struct GroupKey(Zeroizing<[u8; BYTES]>);

impl std::fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GroupKey")
    }
}

/// What was sealed cannot be opened: it was sealed with another key, for another place, or is damaged.
#[derive(Debug, PartialEq, Eq)]
pub struct NotOpened;

impl GroupKey {
    /// Reads 64 hexadecimal digits; a line end behind them does not belong to the key.
    ///
    /// # Errors
    /// What is wrong, without a word of what was read.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = text.trim_ascii_end();
        let mut key = Zeroizing::new([0; BYTES]);
        if text.len() != BYTES * 2 {
            let digits = BYTES * 2;
            return Err(format!(
                "expected {digits} hexadecimal digits; found {} bytes",
                text.len()
            ));
        }
        hex::decode_to_slice(text, key.as_mut_slice())
            .map_err(|_| "expected hexadecimal digits only".to_owned())?;
        Ok(Self(key))
    }

    /// A key for one use.
    #[must_use]
    pub fn derive(&self, usage: &str) -> Zeroizing<[u8; BYTES]> {
        mac(&*self.0, &[b"portcullis group 1 ", usage.as_bytes()])
    }

    /// Proves that who has this key said `parts`.
    #[must_use]
    pub fn proof(&self, usage: &str, parts: &[&[u8]]) -> Zeroizing<[u8; BYTES]> {
        mac(&*self.derive(usage), parts)
    }

    /// Seals with AES-256-GCM; it opens only as what it was sealed as.
    ///
    /// # Errors
    /// OpenSSL has no randomness or no memory.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, openssl::error::ErrorStack> {
        let mut nonce = [0; NONCE];
        openssl::rand::rand_bytes(&mut nonce)?;
        let mut tag = [0; TAG];
        let key = self.derive("seal");
        let cipher = Cipher::aes_256_gcm();
        let sealed = encrypt_aead(cipher, &*key, Some(&nonce), name.as_bytes(), plain, &mut tag)?;
        Ok([&nonce[..], &tag, &sealed].concat())
    }

    /// Opens what was sealed as `name`.
    ///
    /// # Errors
    /// It was not, or not with this key.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let (nonce, rest) = sealed.split_at_checked(NONCE).ok_or(NotOpened)?;
        let (tag, text) = rest.split_at_checked(TAG).ok_or(NotOpened)?;
        let key = self.derive("seal");
        decrypt_aead(
            Cipher::aes_256_gcm(),
            &*key,
            Some(nonce),
            name.as_bytes(),
            text,
            tag,
        )
        .map(Zeroizing::new)
        .map_err(|_| NotOpened)
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; BYTES]> {
    let made = || {
        let key = PKey::hmac(key)?;
        let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
        for part in parts {
            // Each with its length, so that no two lists of parts are alike.
            signer.update(&(part.len() as u64).to_be_bytes())?;
            signer.update(part)?;
        }
        let mut out = Zeroizing::new([0; BYTES]);
        signer.sign(out.as_mut_slice())?;
        Ok::<_, openssl::error::ErrorStack>(out)
    };
    // HMAC-SHA-256 of OpenSSL fails without memory only; a key of nobody proves and opens nothing.
    made().unwrap_or_else(|_| {
        let mut nobody = Zeroizing::new([0; BYTES]);
        drop(openssl::rand::rand_bytes(nobody.as_mut_slice()));
        nobody
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: &str) -> GroupKey {
        GroupKey::parse(digit.repeat(64).as_bytes()).unwrap()
    }

    #[test]
    fn a_key_is_64_digits_and_says_nothing_of_itself() {
        assert!(GroupKey::parse(format!("{}\n", "a".repeat(64)).as_bytes()).is_ok());
        for bad in ["", "00", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
            let said = GroupKey::parse(bad.as_bytes()).unwrap_err();
            assert!(bad.len() < 8 || !said.contains(bad), "{said}");
        }
        assert_eq!(format!("{:?}", key("a")), "GroupKey");
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_as_what_it_is_and_whole() {
        let key = key("1");
        let sealed = key.seal("item psk", b"a:0011").unwrap();
        assert_eq!(key.open("item psk", &sealed).unwrap().as_slice(), b"a:0011");
        assert_ne!(sealed, key.seal("item psk", b"a:0011").unwrap(), "a nonce each");
        assert_eq!(key.open("item users", &sealed), Err(NotOpened));
        assert_eq!(self::key("2").open("item psk", &sealed), Err(NotOpened));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(key.open("item psk", &damaged), Err(NotOpened), "byte {at}");
        }
        assert_eq!(key.open("item psk", &sealed[..20]), Err(NotOpened));
    }

    #[test]
    fn each_use_has_a_key_of_its_own_and_parts_do_not_run_together() {
        let key = key("3");
        assert_ne!(*key.derive("seal"), *key.derive("nodes"));
        assert_ne!(*key.proof("x", &[b"ab", b"c"]), *key.proof("x", &[b"a", b"bc"]));
    }
}
