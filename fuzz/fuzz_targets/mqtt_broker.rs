//! Whatever a broker sends, in whatever pieces: no panic, and nothing under way that was not sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_broker::{Protocol, feed_mqtt};

fuzz_target!(|input: (bool, Vec<Vec<u8>>)| {
    let (v5, pieces) = input;
    let version = if v5 { Protocol::V5 } else { Protocol::V4 };
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    feed_mqtt(std::time::Instant::now(), version, &pieces);
});
