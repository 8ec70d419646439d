//! What DTLS costs: our records against OpenSSL's, handshakes by kind against OpenSSL's alone, an echo against plain
//! UDP, spoofed hellos, idle sessions.
//!
//! `cargo bench --bench dtls_records`; `-- echo`, `handshakes [KIND]`, `records`, `hellos`, `idle [SESSIONS]` for a part
//! of it. All is CPU time, and what is compared is measured in turns: the ratios are the result, times are of this
//! machine.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a benchmark"
)]

#[path = "../tests/support/certs.rs"]
mod certs;
#[path = "dtls/clock.rs"]
mod clock;
#[path = "../tests/support/dtls_client.rs"]
mod dtls_client;
#[path = "dtls/echo.rs"]
mod echo;
#[path = "dtls/handshakes.rs"]
mod handshakes;
#[path = "dtls/idle.rs"]
mod idle;
#[path = "dtls/records.rs"]
mod records;
#[path = "dtls/table.rs"]
mod table;

use portcullis::dtls::suite::Suite;

const KEY: &[u8] = b"sesame-sesame-16";

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let part = arguments.first().map_or("", String::as_str);
    let detail = arguments.get(1).map_or("", String::as_str);
    let wants = |name: &str| part.is_empty() || part == name;
    println!("{}", openssl::version::version());
    if wants("idle") {
        idle::idle_sessions(detail.parse().unwrap_or(100_000));
    }
    if wants("hellos") {
        idle::spoofed_hellos();
    }
    if wants("echo") {
        echo::echoes();
    }
    if wants("records") {
        for suite in [
            Suite::PskAes128Gcm,
            Suite::PskAes128Ccm8,
            Suite::PskAes128Ccm,
            Suite::PskChaCha20,
        ] {
            for len in [34, 1000] {
                records::records(suite, len);
            }
        }
    }
    if wants("handshakes") {
        echo::handshakes_over_sockets();
        handshakes::handshakes(detail);
    }
}
