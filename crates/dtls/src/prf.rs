//! The PRF of TLS 1.2 (RFC 5246, 5).

use hmac::Mac;
use openssl::sha::{sha256, sha384};
use portcullis_proto::types::mac::{Sha256, Sha384, hmac, mac};
use zeroize::{Zeroize as _, Zeroizing};

use super::suite::PrfHash;

/// Fills `out` with `PRF(secret, label, seed)`; `seed` in parts.
pub(super) fn prf<const N: usize>(
    hash: PrfHash,
    secret: &[u8; N],
    label: &[u8],
    seed: [&[u8]; 2],
    out: &mut [u8],
) {
    match hash {
        PrfHash::Sha256 => expand(&hmac::<Sha256, N>(secret), label, seed, out),
        PrfHash::Sha384 => expand(&hmac::<Sha384, N>(secret), label, seed, out),
    }
}

/// The same with a secret of any length.
pub(super) fn prf_of(hash: PrfHash, secret: &[u8], label: &[u8], seed: [&[u8]; 2], out: &mut [u8]) {
    // A key of HMAC is filled with zeros up to a block, and what is longer is hashed first (RFC 2104, 2).
    match hash {
        PrfHash::Sha256 => {
            let block = block::<64>(secret, |secret| sha256(secret).to_vec());
            expand(&hmac::<Sha256, 64>(&block), label, seed, out);
        }
        PrfHash::Sha384 => {
            let block = block::<128>(secret, |secret| sha384(secret).to_vec());
            expand(&hmac::<Sha384, 128>(&block), label, seed, out);
        }
    }
}

fn block<const N: usize>(secret: &[u8], digest: fn(&[u8]) -> Vec<u8>) -> Zeroizing<[u8; N]> {
    let mut block = Zeroizing::new([0; N]);
    let fill = |block: &mut [u8; N], from: &[u8]| {
        block.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    };
    if secret.len() > N {
        fill(&mut block, &Zeroizing::new(digest(secret)));
    } else {
        fill(&mut block, secret);
    }
    block
}

fn expand<M: Mac + Clone>(keyed: &M, label: &[u8], [first, second]: [&[u8]; 2], out: &mut [u8]) {
    let mut a = mac(keyed, &[label, first, second]);
    for chunk in out.chunks_mut(a.len()) {
        let mut block = mac(keyed, &[&a, label, first, second]);
        // The last chunk may want less than a block.
        chunk.iter_mut().zip(&block).for_each(|(to, from)| *to = *from);
        block.as_mut_slice().zeroize();
        a = mac(keyed, &[&a]);
    }
    a.as_mut_slice().zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let digits: String = text.split_whitespace().collect();
        hex::decode(digits).unwrap().try_into().unwrap()
    }

    #[test]
    fn the_prf_gives_the_known_vector_for_sha_256() {
        let secret = hex::<16>("9bbe436ba940f017b17652849a71db35");
        let seed: [u8; 16] = hex("a0ba9f936cda311827a6f796ffd5198c");
        let expected = hex("e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a
             6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab
             4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701
             87347b66");
        let mut out = [0; 100];
        let (a, b) = seed.split_at(7);
        prf(PrfHash::Sha256, &secret, b"test label", [a, b], &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_secret_longer_than_a_block_is_hashed_first() {
        for (hash, len) in [(PrfHash::Sha256, 64), (PrfHash::Sha384, 128)] {
            let digest = match hash {
                PrfHash::Sha256 => sha256(&[7; 129]).to_vec(),
                PrfHash::Sha384 => sha384(&[7; 129]).to_vec(),
            };
            let run = |secret: &[u8]| {
                let mut out = [0; 48];
                prf_of(hash, secret, b"label", [b"seed", b""], &mut out);
                out
            };
            assert_eq!(run(&[7; 129]), run(&digest));
            let mut filled = [9; 20].to_vec();
            filled.resize(len, 0);
            assert_eq!(run(&[9; 20]), run(&filled));
        }
    }

    #[test]
    fn the_prf_gives_the_known_vector_for_sha_384() {
        let secret = hex::<16>("b80b733d6ceefcdc71566ea48e5567df");
        let seed: [u8; 16] = hex("cd665cf6a8447dd6ff8b27555edb7465");
        let expected = hex("7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cd
             e9ca0faa60be9fe34f82b1233c9146a0e534cb400fed2700884f9dc236f80edd
             8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425
             9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee6
             91c8f3a26854308d5eaa3be85e0990703d73e56f");
        let mut out = [0; 148];
        prf(PrfHash::Sha384, &secret, b"test label", [&seed, &[]], &mut out);
        assert_eq!(out, expected);
    }
}
