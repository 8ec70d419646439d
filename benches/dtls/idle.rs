//! What is kept for peers that are silent, and for those that only say hello.

use portcullis::types::PeerAddr;

use crate::KEY;
use crate::clock::timed;
use crate::dtls_client::{ClientConfig, DtlsClient};
use crate::table::{Table, peer, psk_material};

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

/// Opens `count` sessions, lets each say one word, and leaves them alone.
pub fn idle_sessions(count: u32) {
    let config = ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY);
    let context = config.context();
    let mut table = Table::new(&psk_material());
    let mut open = |at: PeerAddr| {
        let mut client = DtlsClient::within(&context, &config);
        table.handshake(&mut client, at);
        client.send(b"x");
        let mut datagram = client.take().remove(0);
        table.input(at, &mut datagram);
    };
    for n in 0..200 {
        open(peer(n));
    }
    let before = resident();
    for n in 200..200 + count {
        open(peer(n));
    }
    assert_eq!(table.listener.len(), count as usize + 200);
    let after = resident();
    let each = after.saturating_sub(before) / count as usize;
    println!(
        "{count} idle sessions: {each} B resident each (at most 1024), {:.1} MB in all with this bench (at most 120)",
        after as f64 / 1e6
    );
    assert!(each <= 1024 && after < 120_000_000, "too much for idle sessions");
}

/// A hello without a cookie, again and again.
pub fn spoofed_hellos() {
    let mut table = Table::new(&psk_material());
    let mut client = DtlsClient::new(&ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY));
    client.connect();
    let mut hello = client.take().remove(0);
    let before = resident();
    let mut n = 0u32;
    let time = timed(300_000, || {
        n += 1;
        hello[27..31].copy_from_slice(&n.to_be_bytes());
        table.input(peer(n % 65_536), &mut hello);
        table.transmits.clear();
    });
    let grown = resident().saturating_sub(before);
    println!("spoofed hello {time:.2} us (at most 5 with its system calls), 300,000 of them keep {grown} B");
}
