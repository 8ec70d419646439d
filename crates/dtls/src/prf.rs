//! HMAC-SHA-256 and the PRF of TLS 1.2 (RFC 2104; RFC 5246, 5).

use openssl::sha::{Sha256, sha256};
use zeroize::Zeroize;

const BLOCK: usize = 64;

/// HMAC-SHA-256 under one key. Cloning the two started hashes is far cheaper than OpenSSL's `Signer`.
#[derive(Clone)]
pub(super) struct Hmac {
    inner: Sha256,
    outer: Sha256,
}

impl Hmac {
    /// HMAC under `key`.
    #[must_use]
    pub(super) fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        let mut digest = [0; 32];
        let key = if key.len() > BLOCK {
            digest = sha256(key);
            digest.as_slice()
        } else {
            key
        };
        for (to, from) in block.iter_mut().zip(key) {
            *to = *from;
        }
        let started = |pad: u8| {
            let mut padded = block.map(|byte| byte ^ pad);
            let mut hash = Sha256::new();
            hash.update(&padded);
            padded.zeroize();
            hash
        };
        let hmac = Self {
            inner: started(0x36),
            outer: started(0x5c),
        };
        block.zeroize();
        digest.zeroize();
        hmac
    }

    /// The MAC of the parts, one after the other.
    #[must_use]
    pub(super) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut inner = self.inner.clone();
        for part in parts {
            inner.update(part);
        }
        let mut outer = self.outer.clone();
        outer.update(&inner.finish());
        outer.finish()
    }
}

/// Fills `out` with `PRF(secret, label, seed)`; `seed` in parts.
pub(super) fn prf(secret: &[u8], label: &[u8], seed: [&[u8]; 2], out: &mut [u8]) {
    let hmac = Hmac::new(secret);
    let [first, second] = seed;
    let mut a = hmac.mac(&[label, first, second]);
    for chunk in out.chunks_mut(32) {
        let mut block = hmac.mac(&[&a, label, first, second]);
        for (to, from) in chunk.iter_mut().zip(block) {
            *to = from;
        }
        block.zeroize();
        a = hmac.mac(&[&a]);
    }
    a.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len() / 2)
            .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn hmac_gives_the_vectors_of_rfc_4231() {
        let cases: [(Vec<u8>, Vec<u8>, &str); 4] = [
            (
                vec![0x0b; 20],
                b"Hi There".to_vec(),
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?".to_vec(),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 20],
                vec![0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, data, mac) in cases {
            assert_eq!(Hmac::new(&key).mac(&[&data]).to_vec(), hex(mac));
            let (a, b) = data.split_at(3);
            assert_eq!(Hmac::new(&key).mac(&[a, b]).to_vec(), hex(mac));
        }
    }

    #[test]
    fn the_prf_gives_the_known_vector_for_sha_256() {
        let secret = hex("9bbe436ba940f017b17652849a71db35");
        let seed = hex("a0ba9f936cda311827a6f796ffd5198c");
        let expected = hex("e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a
             6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab
             4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701
             87347b66");
        let mut out = [0; 100];
        let (a, b) = seed.split_at(7);
        prf(&secret, b"test label", [a, b], &mut out);
        assert_eq!(out.to_vec(), expected);
    }
}
