//! What DTLS costs: our records against OpenSSL's in the same run, handshakes by kind, spoofed hellos, idle sessions.
//!
//! `cargo bench --bench dtls_records`; `-- --sessions 100000` for the memory of that many sessions. Ratios are the
//! result: absolute times are of this machine at this moment.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark"
)]

#[path = "../tests/support/certs.rs"]
mod certs;
#[path = "../tests/support/dtls_client.rs"]
mod dtls_client;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certs::{Recipe, authority};
use dtls_client::{ClientConfig, DtlsClient};
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVersion};
use portcullis::dtls::aead::{Aead, Seal, SessionKeys};
use portcullis::dtls::bio::Pipe;
use portcullis::dtls::contract::{DtlsEvent, DtlsSettings};
use portcullis::dtls::record::{APPLICATION_DATA, Header};
use portcullis::dtls::suite::Suite;
use portcullis::dtls::{
    CertIdentity, DtlsContext, DtlsListener, DtlsMaterial, DtlsMetrics, DtlsSecrets, PskStore, TicketKeys,
    Verify,
};
use portcullis::types::{ListenerId, PeerAddr, Transmits, WorkerId};

const KEY: &[u8] = b"sesame-sesame-16";
const ROUNDS: usize = 15;
const PER_ROUND: usize = 2_000;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Microseconds of one call.
fn timed(count: usize, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        call();
    }
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}

fn context(suite: Suite, is_server: bool) -> SslContext {
    let mut context = SslContextBuilder::new(SslMethod::dtls()).unwrap();
    context.set_max_proto_version(Some(SslVersion::DTLS1_2)).unwrap();
    context.set_security_level(0);
    context
        .set_cipher_list(&format!("{}:@SECLEVEL=0", suite.openssl_name()))
        .unwrap();
    context.set_options(SslOptions::NO_QUERY_MTU);
    if is_server {
        context.set_psk_server_callback(|_, _, key| {
            key[..16].copy_from_slice(KEY);
            Ok(16)
        });
    } else {
        context.set_psk_client_callback(|_, _, name, key| {
            name[..2].copy_from_slice(b"u\0");
            key[..16].copy_from_slice(KEY);
            Ok(16)
        });
    }
    context.build()
}

fn connected(suite: Suite) -> (SslStream<Pipe>, SslStream<Pipe>, SessionKeys) {
    let endpoint = |is_server| {
        let mut ssl = Ssl::new(&context(suite, is_server)).unwrap();
        ssl.set_mtu(1400).unwrap();
        SslStream::new(ssl, Pipe::default()).unwrap()
    };
    let (mut client, mut server) = (endpoint(false), endpoint(true));
    for _ in 0..6 {
        drop(client.connect());
        for datagram in client.get_mut().take() {
            server.get_mut().put(&datagram);
            drop(server.accept());
        }
        for datagram in server.get_mut().take() {
            client.get_mut().put(&datagram);
            drop(client.connect());
        }
    }
    let (mut master, mut a, mut b) = ([0; 48], [0; 32], [0; 32]);
    server.ssl().session().unwrap().master_key(&mut master);
    server.ssl().client_random(&mut a);
    server.ssl().server_random(&mut b);
    let keys = SessionKeys::derive(suite.algorithm(), &master, &a, &b);
    (client, server, keys)
}

fn records(suite: Suite, len: usize) {
    let (mut client, mut server, keys) = connected(suite);
    let plaintext = vec![7; len];
    let mut aead = Aead::default();
    let (mut times, mut out, mut buffer) = (vec![Vec::new(); 4], Vec::new(), vec![0; 17_000]);
    for _ in 0..ROUNDS {
        let mut sealed = Vec::new();
        for _ in 0..PER_ROUND {
            client.ssl_write(&plaintext).unwrap();
            sealed.push(client.get_mut().take().remove(0).into_vec());
        }
        let mut copies = sealed.clone();
        let mut next = copies.iter_mut();
        times[0].push(timed(PER_ROUND, || {
            let record = next.next().unwrap();
            let header = Header::parse(record, 8).unwrap();
            black_box(aead.open(keys.algorithm, &keys.client, &header, record).unwrap());
        }));
        let mut next = sealed.iter();
        times[1].push(timed(PER_ROUND, || {
            server.get_mut().put(next.next().unwrap());
            black_box(server.ssl_read(&mut buffer).unwrap());
        }));
        let mut sequence = 1000;
        times[2].push(timed(PER_ROUND, || {
            sequence += 1;
            out.clear();
            let what = Seal {
                kind: APPLICATION_DATA,
                sequence,
                explicit: sequence,
                cid: &[],
                plaintext: &plaintext,
            };
            aead.seal(keys.algorithm, &keys.server, &what, &mut out).unwrap();
        }));
        times[3].push(timed(PER_ROUND, || {
            black_box(server.ssl_write(&plaintext).unwrap());
        }));
        server.get_mut().take();
    }
    let [open, read, seal, write] = [0, 1, 2, 3].map(|n| median(times[n].clone()));
    println!(
        "{:<24}{len:>5} B  open {open:.2} us ({:.2} of SSL_read)  seal {seal:.2} us ({:.2} of SSL_write)",
        suite.openssl_name(),
        open / read,
        seal / write
    );
}

struct Bench {
    listener: DtlsListener,
    transmits: Transmits,
    busy: Duration,
}

impl Bench {
    fn new(material: &DtlsMaterial) -> Self {
        let settings = DtlsSettings {
            handshake_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(86_400),
            max_sessions: 1_000_000,
            max_half_open: 1024,
            mtu: 1280,
            cid: true,
            handshakes_per_second: 0,
        };
        let listener = DtlsListener::new(
            ListenerId(0),
            WorkerId(0),
            Arc::new(DtlsContext::new(material).unwrap()),
            settings,
            [1; 32],
            DtlsSecrets::new([2; 32], Instant::now()),
            Arc::new(DtlsMetrics::default()),
        );
        Self {
            listener,
            transmits: Transmits::default(),
            busy: Duration::ZERO,
        }
    }

    fn input(&mut self, from: PeerAddr, datagram: &mut [u8]) -> bool {
        let start = Instant::now();
        self.listener
            .handle_datagram(start, from, datagram, &mut self.transmits);
        let mut established = false;
        while let Some(event) = self.listener.poll_event() {
            established |= matches!(event, DtlsEvent::Established { .. });
        }
        self.busy += start.elapsed();
        established
    }

    /// One handshake; the time that the server was busy with it.
    fn handshake(&mut self, config: &ClientConfig, at: PeerAddr) -> (Duration, DtlsClient) {
        let mut client = DtlsClient::new(config);
        self.busy = Duration::ZERO;
        client.connect();
        let mut established = false;
        loop {
            let datagrams = client.take();
            if datagrams.is_empty() {
                break;
            }
            for mut datagram in datagrams {
                established |= self.input(at, &mut datagram);
                let answers: Vec<_> = self
                    .transmits
                    .iter()
                    .map(|(_, _, bytes)| bytes.to_vec())
                    .collect();
                self.transmits.clear();
                for answer in answers {
                    client.handle(&answer);
                }
            }
        }
        assert!(established && client.is_connected(), "{:?}", client.failure());
        (self.busy, client)
    }
}

fn peer(n: u32) -> PeerAddr {
    let [a, b, c, d] = n.to_be_bytes();
    PeerAddr::new(SocketAddr::from(([127, a, b, c], 1024 + u16::from(d)))).unwrap()
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn psk_material() -> DtlsMaterial {
    let hex: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    DtlsMaterial {
        psks: Some(Arc::new(PskStore::parse(&format!("u1:{hex}")).unwrap())),
        cert_pem: None,
        key_pem: None,
        ca_pem: None,
        crl_pem: None,
        verify: Verify::None,
        cert_identity: CertIdentity::Cn,
        ciphers: String::new(),
        mtu: 1280,
        cid: true,
        ticket_keys: TicketKeys::new([3; 80]),
    }
}

fn handshakes(name: &str, material: &DtlsMaterial, config: &ClientConfig, limit: f64) {
    let mut bench = Bench::new(material);
    let times = (0..200)
        .map(|n| bench.handshake(config, peer(n)).0.as_secs_f64() * 1e6)
        .collect();
    let time = median(times);
    println!("handshake {name:<28}{time:>7.1} us of the server, cookie included (at most {limit})");
}

fn all_handshakes() {
    let ca = authority("ca");
    let own = Recipe::new("server").make(Some(&ca));
    let device = Recipe::new("device").make(Some(&ca));
    let psk = psk_material();
    let certificate = DtlsMaterial {
        psks: None,
        cert_pem: Some(own.cert_pem()),
        key_pem: Some(own.key_pem().into()),
        ..psk.clone()
    };
    let mutual = DtlsMaterial {
        verify: Verify::Required,
        ca_pem: Some(ca.cert_pem()),
        ..certificate.clone()
    };
    let ecdsa = "ECDHE-ECDSA-AES128-GCM-SHA256";
    let plain = ClientConfig::certificate(ecdsa, &ca.certificate);
    let with_own = ClientConfig {
        certificate: Some((device.certificate.clone(), device.key.clone())),
        ..plain.clone()
    };
    let psk_client = ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY);
    handshakes("PSK", &psk, &psk_client, 60.0);
    handshakes(
        "PSK with Connection ID",
        &psk,
        &ClientConfig {
            cid: Some(vec![1]),
            ..psk_client
        },
        60.0,
    );
    handshakes(
        "ECDHE-PSK",
        &psk,
        &ClientConfig::psk("ECDHE-PSK-CHACHA20-POLY1305", "u1", KEY),
        260.0,
    );
    handshakes("ECDHE-ECDSA", &certificate, &plain, 260.0);
    handshakes("with client certificate", &mutual, &with_own, 850.0);
    let ticket = Bench::new(&certificate).handshake(&plain, peer(0)).1.session();
    handshakes(
        "by ticket",
        &certificate,
        &ClientConfig {
            session: Some(ticket),
            ..plain
        },
        70.0,
    );
}

fn spoofed_hellos() {
    let mut bench = Bench::new(&psk_material());
    let mut client = DtlsClient::new(&ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY));
    client.connect();
    let mut hello = client.take().remove(0);
    let before = resident();
    let mut n = 0u32;
    let time = timed(300_000, || {
        n += 1;
        hello[27..31].copy_from_slice(&n.to_be_bytes());
        bench.input(peer(n % 65_536), &mut hello);
        bench.transmits.clear();
    });
    let grown = resident().saturating_sub(before);
    println!("spoofed hello {time:.2} us (at most 5 with its system calls), 300,000 of them keep {grown} B");
}

fn idle_sessions(count: u32) {
    let mut bench = Bench::new(&psk_material());
    let config = ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY);
    for n in 0..200 {
        bench.handshake(&config, peer(n));
    }
    let before = resident();
    for n in 200..200 + count {
        let (_, mut client) = bench.handshake(&config, peer(n));
        client.send(b"x");
        let mut datagram = client.take().remove(0);
        bench.input(peer(n), &mut datagram);
    }
    let each = resident().saturating_sub(before) / count as usize;
    println!("{count} idle sessions: {each} B resident each (at most 1024)");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let sessions = arguments.iter().position(|argument| argument == "--sessions");
    let sessions = sessions
        .and_then(|at| arguments.get(at + 1)?.parse().ok())
        .unwrap_or(10_000);
    println!("{}", openssl::version::version());
    idle_sessions(sessions);
    spoofed_hellos();
    for suite in [
        Suite::PskAes128Gcm,
        Suite::PskAes128Ccm8,
        Suite::PskAes128Ccm,
        Suite::PskChaCha20,
    ] {
        for len in [34, 1000] {
            records(suite, len);
        }
    }
    all_handshakes();
}
