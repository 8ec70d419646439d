//! HMAC (RFC 2104) under keys of which the length is known when this is compiled, so that none can be cut, filled or refused.

use hmac::digest::Output;
use hmac::digest::common::Key;
use hmac::{EagerHash, Hmac, KeyInit as _, Mac};
use zeroize::Zeroize as _;

pub use sha2::{Sha256, Sha384};

/// HMAC under `key`, which is no longer than a block of the hash.
#[must_use]
pub fn hmac<D: EagerHash, const N: usize>(key: &[u8; N]) -> Hmac<D> {
    const { assert!(N <= size_of::<Key<Hmac<D>>>(), "a longer key is hashed first") };
    let mut block = Key::<Hmac<D>>::default();
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let hmac = Hmac::new(&block);
    block.as_mut_slice().zeroize();
    hmac
}

/// What `keyed` makes of the parts, one after the other.
pub fn mac<M: Mac + Clone>(keyed: &M, parts: &[&[u8]]) -> Output<M> {
    let mut mac = keyed.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<D: EagerHash, const N: usize>(key: &[u8; N], data: &[u8], expected: &str) {
        let keyed = hmac::<D, N>(key);
        let (first, second) = data.split_at(3);
        for parts in [&[data][..], &[first, second]] {
            assert_eq!(hex::encode(mac(&keyed, parts)), expected);
        }
    }

    #[test]
    fn hmac_gives_the_vectors_of_rfc_4231() {
        let (sha256, sha384) = (
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
        );
        check::<Sha256, _>(&[0x0b; 20], b"Hi There", sha256);
        check::<Sha384, _>(&[0x0b; 20], b"Hi There", sha384);
        let (sha256, sha384) = (
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        );
        check::<Sha256, _>(b"Jefe", b"what do ya want for nothing?", sha256);
        check::<Sha384, _>(b"Jefe", b"what do ya want for nothing?", sha384);
    }
}
