#![no_main]

#[path = "../../tests/fuzz/place.rs"]
mod place;
#[path = "../../tests/fuzz/psk.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
