//! What the fuzz targets under `fuzz/` do, on the stable compiler: with the inputs that were found worth keeping (`fuzz/seeds`), cut
//! short, with bits flipped and put together, always the same. A finding becomes a seed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and nothing waits on this clock"
)]

mod acl;
mod coap_codec;
mod coap_message;
mod config;
mod dtls_datagram;
mod mqtt_broker;
mod place;
mod psk;
mod stream_frames;
mod topics;
mod users;

#[path = "../support/dtls_client.rs"]
mod dtls_client;

use std::path::Path;

/// xorshift64*: the same inputs in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound.max(1)
    }
}

/// Another input like `seed`: up to four changes, each a flipped bit, a byte, a cut, or a piece of another seed.
fn mutate(seed: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(input.len() + 1);
        match chance.below(6) {
            0 | 1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << chance.below(8);
                }
            }
            2 => input.insert(at, [0, 0xff, b'/', b'+', b'\n', b':', 0x80, 13][chance.below(8)]),
            3 => {
                let end = at + chance.below(input.len() - at + 1).min(16);
                input.drain(at..end);
            }
            4 => input.truncate(at),
            _ => {
                let from = chance.below(other.len() + 1);
                let piece = &other[from..from + chance.below(other.len() - from + 1)];
                input.splice(at..at, piece.iter().copied());
            }
        }
    }
    input
}

fn replay(target: &str, inputs: usize, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty(), "{}", folder.display());
    seeds.iter().for_each(|seed| run(seed));
    let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
    for _ in 0..inputs {
        let (seed, other) = (
            &seeds[chance.below(seeds.len())],
            &seeds[chance.below(seeds.len())],
        );
        run(&mutate(seed, other, &mut chance));
    }
}

macro_rules! replayed {
    ($($target:ident: $inputs:literal),+ $(,)?) => {$(
        #[test]
        fn $target() {
            replay(stringify!($target), $inputs, self::$target::run);
        }
    )+};
}

replayed! {
    acl: 20_000,
    coap_codec: 50_000,
    coap_message: 2_000,
    config: 2_000,
    dtls_datagram: 100,
    mqtt_broker: 20_000,
    psk: 20_000,
    stream_frames: 50_000,
    topics: 50_000,
    users: 20_000,
}
