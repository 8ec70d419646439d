//! Hostile input over real sockets. Each case ends with a good peer being served, over plain UDP and over DTLS.
//!
//! | file | what comes in |
//! |---|---|
//! | `datagrams` | sizes, random bytes, impossible sources |
//! | `messages` | options and tokens of any size, too many of everything |
//! | `filters` | filters made to cost |
//! | `handshakes` | wrong keys, hello floods, handshakes that stop half-way |
//! | `records` | replayed, cut, flipped and forged records |
//! | `streams` | half messages, giant lengths, slow readers, idle connections by the thousand |
//! | `secrets` | what the log must never say
//! | `standing` | strangers by the thousand, and devices that want too much |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    unreachable_pub,
    dead_code,
    reason = "tests fail by panicking, read the clock, and each test binary uses a part of the support"
)]

#[path = "../support/mod.rs"]
mod support;

mod datagrams;
mod filters;
mod handshakes;
mod messages;
mod records;
mod secrets;
mod standing;
mod streams;

/// Random bytes that are the same in every run (xorshift64*).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 1).unwrap() % n
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}
