//! What keeping sessions for the next process costs on the packet path: a record each way, with a place to keep them and without, in
//! turns. `cargo bench --bench kept_state`; the times are CPU time.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    reason = "a benchmark"
)]

#[path = "../tests/dtls/bench.rs"]
mod bench;
#[path = "dtls/clock.rs"]
mod clock;
#[path = "../tests/support/dtls_client.rs"]
mod dtls_client;

use std::sync::Arc;
use std::time::Instant;

use portcullis::dtls::contract::{DtlsSettings, SessionId};
use portcullis::dtls::{DtlsShared, KeptSessions};
use portcullis::net::memory::{Mapped, uptime};
use portcullis::state::{Clock, Store};
use portcullis::types::Transmits;

use bench::{Server, material, peer, psk_client, settings};
use clock::{median, timed};
use dtls_client::DtlsClient;

const SESSIONS: u16 = 4_000;
const ROUNDS: usize = 31;

/// Sessions of one listener, each with its client.
struct Site {
    server: Server,
    peers: Vec<(DtlsClient, SessionId)>,
}

impl Site {
    fn new(suite: &str, kept: Option<Arc<KeptSessions>>) -> Self {
        let settings = DtlsSettings {
            max_sessions: usize::from(SESSIONS),
            ..settings()
        };
        let mut server = Server::new(&material(), settings);
        if let Some(kept) = kept {
            server.listener.keep_in(kept, 1);
        }
        let peers = (0..SESSIONS)
            .map(|n| server.establish(&psk_client(suite), peer(n)))
            .collect();
        Self { server, peers }
    }

    /// Microseconds for a record of each device and one to it.
    fn round(&mut self) -> f64 {
        let mut records: Vec<Vec<u8>> = Vec::new();
        for (client, _) in &mut self.peers {
            client.send(&[7; 40]);
            records.extend(client.take());
        }
        assert_eq!(records.len(), self.peers.len());
        let (now, mut transmits) = (Instant::now(), Transmits::default());
        let (listener, mut next) = (&mut self.server.listener, 0_u16);
        let micros = timed(self.peers.len(), || {
            let at = usize::from(next);
            assert!(listener.handle_datagram(now, peer(next), &mut records[at], &mut transmits));
            while listener.poll_event().is_some() {}
            listener.send(self.peers[at].1, &[7; 40], &mut transmits).unwrap();
            next += 1;
        });
        assert_eq!(transmits.len(), self.peers.len());
        micros
    }
}

fn main() {
    let memory = Mapped::anonymous("bench", 256 << 20).unwrap();
    let clock = Clock {
        now: Instant::now(),
        up: uptime(),
        ahead: std::time::Duration::ZERO,
    };
    let store = Arc::new(Store::create(memory.memory(), clock, [0; 2], 0).unwrap());
    let shared = DtlsShared::new([9; 32], Instant::now());
    for suite in [
        "PSK-AES128-CCM8",
        "PSK-AES128-GCM-SHA256",
        "PSK-CHACHA20-POLY1305",
    ] {
        let before = store.bytes();
        let kept = KeptSessions::new(Arc::clone(&store), &shared, Vec::new(), None);
        let mut sites = [Site::new(suite, None), Site::new(suite, Some(kept))];
        let bytes = (store.bytes() - before) / usize::from(SESSIONS);
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (site, times) in sites.iter_mut().zip(&mut times) {
                times.push(site.round());
            }
        }
        let [without, with] = times.map(median);
        println!(
            "{suite:24} a record each way: {without:.3} us, kept {with:.3} us: {:+.1} %; {bytes} bytes a session",
            (with / without - 1.0) * 100.0
        );
    }
}
