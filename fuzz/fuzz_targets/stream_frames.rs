#![no_main]

#[path = "../../tests/fuzz/stream_frames.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
