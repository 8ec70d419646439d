#![no_main]

#[path = "../../tests/fuzz/dtls_datagram.rs"]
mod target;

#[path = "../../tests/support/dtls_client.rs"]
mod dtls_client;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
