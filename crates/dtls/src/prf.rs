//! HMAC with SHA-2 and the PRF of TLS 1.2 (RFC 2104; RFC 5246, 5).

use openssl::sha::{Sha256, Sha384};
use zeroize::Zeroize;

use super::suite::PrfHash;

/// A hash that can go on from a copy of itself.
pub(super) trait Digest: Clone {
    /// The hash itself.
    type Output: AsRef<[u8]> + Zeroize;
    /// Bytes of a block.
    const BLOCK: usize;
    fn begin() -> Self;
    fn add(&mut self, bytes: &[u8]);
    fn end(self) -> Self::Output;
}

macro_rules! digests {
    ($($hash:ident: $len:literal bytes, blocks of $block:literal;)+) => {$(
        impl Digest for $hash {
            type Output = [u8; $len];
            const BLOCK: usize = $block;
            fn begin() -> Self { Self::new() }
            fn add(&mut self, bytes: &[u8]) { self.update(bytes); }
            fn end(self) -> Self::Output { self.finish() }
        }
    )+};
}

digests! {
    Sha256: 32 bytes, blocks of 64;
    Sha384: 48 bytes, blocks of 128;
}

/// HMAC under one key. Cloning the two started hashes is far cheaper than OpenSSL's `Signer`.
#[derive(Clone)]
pub(super) struct HmacOf<H> {
    inner: H,
    outer: H,
}

/// HMAC-SHA-256.
pub(super) type Hmac = HmacOf<Sha256>;

impl<H: Digest> HmacOf<H> {
    /// HMAC under `key`.
    pub(super) fn new(key: &[u8]) -> Self {
        if key.len() > H::BLOCK {
            let mut hash = H::begin();
            hash.add(key);
            let mut digest = hash.end();
            let hmac = Self::new(digest.as_ref());
            digest.zeroize();
            return hmac;
        }
        let started = |pad: u8| {
            let mut padded = [pad; 128];
            for (to, from) in padded.iter_mut().zip(key) {
                *to ^= from;
            }
            let mut hash = H::begin();
            hash.add(padded.get(..H::BLOCK).unwrap_or(&padded));
            padded.zeroize();
            hash
        };
        Self {
            inner: started(0x36),
            outer: started(0x5c),
        }
    }

    /// The MAC of the parts, one after the other.
    pub(super) fn mac(&self, parts: &[&[u8]]) -> H::Output {
        let mut inner = self.inner.clone();
        for part in parts {
            inner.add(part);
        }
        let mut outer = self.outer.clone();
        outer.add(inner.end().as_ref());
        outer.end()
    }
}

/// Fills `out` with `PRF(secret, label, seed)`; `seed` in parts.
pub(super) fn prf(hash: PrfHash, secret: &[u8], label: &[u8], seed: [&[u8]; 2], out: &mut [u8]) {
    match hash {
        PrfHash::Sha256 => expand(&HmacOf::<Sha256>::new(secret), label, seed, out),
        PrfHash::Sha384 => expand(&HmacOf::<Sha384>::new(secret), label, seed, out),
    }
}

fn expand<H: Digest>(hmac: &HmacOf<H>, label: &[u8], [first, second]: [&[u8]; 2], out: &mut [u8]) {
    let mut a = hmac.mac(&[label, first, second]);
    for chunk in out.chunks_mut(a.as_ref().len()) {
        let mut block = hmac.mac(&[a.as_ref(), label, first, second]);
        for (to, from) in chunk.iter_mut().zip(block.as_ref()) {
            *to = *from;
        }
        block.zeroize();
        a = hmac.mac(&[a.as_ref()]);
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
        prf(PrfHash::Sha256, &secret, b"test label", [a, b], &mut out);
        assert_eq!(out.to_vec(), expected);
    }

    #[test]
    fn sha_384_gives_its_known_vectors() {
        let mac = HmacOf::<Sha384>::new(b"Jefe").mac(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(
            mac.to_vec(),
            hex("af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e
                 8e2240ca5e69e2c78b3239ecfab21649")
        );
        let secret = hex("b80b733d6ceefcdc71566ea48e5567df");
        let seed = hex("cd665cf6a8447dd6ff8b27555edb7465");
        let expected = hex("7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cd
             e9ca0faa60be9fe34f82b1233c9146a0e534cb400fed2700884f9dc236f80edd
             8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425
             9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee6
             91c8f3a26854308d5eaa3be85e0990703d73e56f");
        let mut out = [0; 148];
        prf(PrfHash::Sha384, &secret, b"test label", [&seed, &[]], &mut out);
        assert_eq!(out.to_vec(), expected);
    }
}
