//! Hashers for the packet path: one for ids that we assign, one for what a sender chooses.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

/// A map whose keys are ids that count up in this process; a sender cannot choose them, so it cannot make them collide.
pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<FoldHasher>>;

/// Multiplies and folds the 128-bit product, eight bytes at a time.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct FoldHasher(u64);

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.write_u64(u64::from_le_bytes(last));
        self.write_u64(bytes.len() as u64);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        // An odd addend keeps a zero from swallowing what came before it.
        let mixed = (self.0 ^ n).wrapping_add(0xD1B5_4A32_D192_ED03);
        let product = u128::from(mixed) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

/// For keys that a sender chooses: it begins with a secret, so that collisions cannot be worked out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed(u64);

impl Keyed {
    pub(crate) fn new(secret: u64) -> Self {
        Self(secret)
    }
}

impl BuildHasher for Keyed {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn messages_that_differ_in_one_bit_or_in_length_have_other_hashes() {
        let state = Keyed::new(0x1234_5678_9abc_def0);
        let hash = |bytes: &[u8]| {
            let mut hasher = state.build_hasher();
            hasher.write(bytes);
            hasher.finish()
        };
        let message = [0_u8; 40];
        let mut seen = HashSet::from([hash(&message)]);
        for bit in 0..320 {
            let mut other = message;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hash(&other)), "bit {bit}");
        }
        for len in 0..40 {
            assert!(seen.insert(hash(&message[..len])), "length {len}");
        }
    }

    #[test]
    fn consecutive_ids_spread_over_the_table() {
        let mut low = HashSet::new();
        for id in 0..1_000_u64 {
            let mut hasher = FoldHasher::default();
            hasher.write_u64(id);
            low.insert(hasher.finish() & 0xffff);
        }
        assert!(low.len() > 950, "{}", low.len());
    }
}
