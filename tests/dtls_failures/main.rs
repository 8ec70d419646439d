//! Handshakes that fail, ten thousand of each kind. Each kind ends with a good peer served, the live session untouched,
//! every failure counted once, nothing left in flight, and no more memory than before.
//!
//! A binary of its own, and one kind at a time: resident memory is told of whole processes only.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../dtls/bench.rs"]
mod bench;
#[path = "../support/certs.rs"]
mod certs;
#[path = "../support/dtls_client.rs"]
mod dtls_client;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis::dtls::contract::{DtlsSettings, SessionId};
use portcullis::dtls::metrics::HandshakeResult;
use portcullis::dtls::record::{HANDSHAKE, write_header};
use portcullis::dtls::{DtlsMaterial, Verify};
use portcullis::types::reason::{Label, Limit};

use bench::{KEY, Server, material, peer, psk_client, settings};
use certs::{Recipe, authority};
use dtls_client::{ClientConfig, DtlsClient};

const GCM: &str = "PSK-AES128-GCM-SHA256";
const COUNT: u16 = 10_000;
/// Where the live peer and the good one are; the failing ones are elsewhere.
const LIVE: u16 = 5000;
const GOOD: u16 = 5001;

fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A listener with a live session, and what is checked around the failures.
struct Scene {
    server: Server,
    live: DtlsClient,
    session: SessionId,
}

impl Scene {
    fn new(material: &DtlsMaterial, settings: DtlsSettings) -> Self {
        let mut server = Server::new(material, settings);
        let (live, session) = server.establish(&psk_client(GCM), peer(LIVE));
        Self {
            server,
            live,
            session,
        }
    }

    /// Moves time on until what failed is over.
    fn settle(&mut self) {
        for _ in 0..2 {
            self.server.advance(Duration::from_secs(16));
        }
        self.server.seen.clear();
    }

    /// Lets `fail` fail, `COUNT` times in all, and checks what is left. `each` lets time pass.
    fn fails(&mut self, result: HandshakeResult, fail: impl FnMut(&mut Server, u16)) {
        self.repeats(fail);
        assert_eq!(
            self.server.results(result),
            u64::from(COUNT),
            "{}",
            result.label()
        );
        self.is_unharmed();
    }

    /// The same for hellos that are limited before there is a handshake.
    fn limits(&mut self, limit: Limit, limited: impl FnMut(&mut Server, u16)) {
        self.repeats(limited);
        assert_eq!(self.server.metrics.limits.get(limit), u64::from(COUNT));
        self.is_unharmed();
    }

    fn repeats(&mut self, mut fail: impl FnMut(&mut Server, u16)) {
        let mut resident = 0;
        for n in 0..COUNT {
            fail(&mut self.server, n);
            self.server.seen.clear();
            if n == COUNT / 10 {
                resident = resident_kib();
            }
        }
        self.settle();
        let grown = resident_kib().saturating_sub(resident);
        assert!(grown < 2048, "{grown} KiB more");
    }

    /// The live session talks, nothing else is there, and another good peer is served.
    fn is_unharmed(&mut self) {
        assert_eq!(
            (self.server.listener.half_open(), self.server.listener.len()),
            (0, 1)
        );
        assert_eq!(self.server.metrics.half_open.get(), 0);
        assert!(self.server.talks(&mut self.live, self.session, peer(LIVE)));
        let (mut good, session) = self.server.establish(&psk_client(GCM), peer(GOOD));
        assert!(self.server.talks(&mut good, session, peer(GOOD)));
        good.shutdown();
        self.server.exchange(&mut good, peer(GOOD));
        assert_eq!(self.server.listener.len(), 1);
    }

    /// No result was counted but these.
    fn counted_only(&self, results: &[HandshakeResult]) {
        for result in HandshakeResult::ALL {
            let count = self.server.results(*result);
            assert!(
                count == 0 || *result == HandshakeResult::Ok || results.contains(result),
                "{count} of {}",
                result.label()
            );
        }
    }
}

/// A whole handshake of a client of this kind, as far as it goes, and a tenth of a second after it.
fn attempts(config: &ClientConfig) -> impl FnMut(&mut Server, u16) {
    let context = config.context();
    move |server, n| {
        let mut client = DtlsClient::within(&context, config);
        client.connect();
        server.exchange(&mut client, peer(n % 2000));
        assert!(!client.is_connected());
        server.advance(Duration::from_millis(100));
    }
}

/// Two hellos: a handshake that has begun, and what the gateway said.
fn begin(server: &mut Server, context: &openssl::ssl::SslContext, n: u16) -> usize {
    let mut client = DtlsClient::within(context, &psk_client(GCM));
    client.connect();
    let mut answers = 0;
    for _ in 0..2 {
        for hello in client.take() {
            for (_, answer) in server.input(peer(n), &hello) {
                answers += 1;
                if answers == 1 {
                    client.handle(&answer);
                }
            }
        }
    }
    answers
}

fn handshake_message(kind: u8, sequence: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut out = Vec::new();
    write_header(&mut out, HANDSHAKE, 0, 5, &[], 12 + body.len());
    out.push(kind);
    out.extend_from_slice(&len[1..]);
    out.extend_from_slice(&[0, sequence, 0, 0, 0]);
    out.extend_from_slice(&len[1..]);
    out.extend_from_slice(body);
    out
}

#[test]
fn no_cipher_wrong_key_and_unknown_identity() {
    let _alone = alone();
    // A wrong key keeps its place until it is given up: those of 15 s at once.
    let mut scene = Scene::new(
        &material(),
        DtlsSettings {
            max_half_open: 200,
            ..settings()
        },
    );
    let kinds = [
        (psk_client("PSK-AES128-CBC-SHA256"), HandshakeResult::NoCipher),
        (ClientConfig::psk(GCM, "u1", b"wrong"), HandshakeResult::WrongKey),
        (
            ClientConfig::psk(GCM, "u9", KEY),
            HandshakeResult::UnknownIdentity,
        ),
    ];
    for (config, result) in &kinds {
        scene.fails(*result, attempts(config));
    }
    scene.counted_only(&kinds.map(|(_, result)| result));
}

#[test]
fn bad_certificate() {
    let _alone = alone();
    let (ca, foreign_ca) = (authority("ca"), authority("foreign"));
    let own = Recipe::server("server").make(Some(&ca));
    let material = DtlsMaterial {
        cert_pem: Some(own.cert_pem()),
        key_pem: Some(own.key_pem().into()),
        ca_pem: Some(ca.cert_pem()),
        verify: Verify::Required,
        ..material()
    };
    let missing = ClientConfig::certificate("ECDHE-ECDSA-AES128-GCM-SHA256", &ca.certificate);
    let foreign = Recipe::client("device").make(Some(&foreign_ca));
    let foreign = ClientConfig {
        certificate: Some((foreign.certificate, foreign.key)),
        ..missing.clone()
    };
    let (mut missing, mut foreign) = (attempts(&missing), attempts(&foreign));
    let mut scene = Scene::new(&material, settings());
    scene.fails(HandshakeResult::BadCertificate, |server, n| {
        if n % 8 == 0 {
            foreign(server, n);
        } else {
            missing(server, n);
        }
    });
    scene.counted_only(&[HandshakeResult::BadCertificate]);
}

#[test]
fn timeout() {
    let _alone = alone();
    let context = psk_client(GCM).context();
    let mut scene = Scene::new(&material(), settings());
    scene.fails(HandshakeResult::Timeout, |server, n| {
        assert_eq!(begin(server, &context, n % 2000), 2);
        assert_eq!(server.listener.half_open(), usize::from(n % 50) + 1);
        if n % 50 == 49 {
            server.advance(Duration::from_secs(16));
            assert_eq!(server.listener.half_open(), 0);
        }
    });
    scene.counted_only(&[HandshakeResult::Timeout]);
}

#[test]
fn protocol() {
    let _alone = alone();
    let context = psk_client(GCM).context();
    let mut scene = Scene::new(&material(), settings());
    let wrong = [
        // A key exchange whose identity is longer than the message.
        handshake_message(16, 2, &[0xff, 0xff, b'u', b'1']),
        // One with something behind the identity.
        handshake_message(16, 2, &[0, 2, b'u', b'1', 0, 0]),
        // One without anything.
        handshake_message(16, 2, &[]),
    ];
    scene.fails(HandshakeResult::Protocol, |server, n| {
        let at = n % 2000;
        begin(server, &context, at);
        assert_eq!(server.listener.half_open(), 1);
        server.input(peer(at), &wrong[usize::from(n) % wrong.len()]);
        assert_eq!(
            server.listener.half_open(),
            0,
            "kind {}",
            usize::from(n) % wrong.len()
        );
    });
    scene.counted_only(&[HandshakeResult::Protocol]);
}

#[test]
fn limit_of_those_in_flight() {
    let _alone = alone();
    let context = psk_client(GCM).context();
    let mut scene = Scene::new(
        &material(),
        DtlsSettings {
            max_half_open: 2,
            ..settings()
        },
    );
    for n in [3000, 3001] {
        assert_eq!(begin(&mut scene.server, &context, n), 2);
    }
    scene.limits(Limit::HalfOpen, |server, n| {
        assert_eq!(begin(server, &context, n % 2000), 1, "a cookie, and no more");
        assert_eq!(server.listener.half_open(), 2);
    });
    assert_eq!(scene.server.results(HandshakeResult::Timeout), 2);
    scene.counted_only(&[HandshakeResult::Timeout]);
}

#[test]
fn limit_of_one_source() {
    let _alone = alone();
    let context = psk_client(GCM).context();
    let mut scene = Scene::new(
        &material(),
        DtlsSettings {
            handshakes_per_second: 1,
            // Twenty in flight make places short, and those of 15 s at this rate beside do not fill them.
            max_half_open: 40,
            ..settings()
        },
    );
    // As fast as hellos are answered, which is 25 times as often as handshakes begin; the first twenty are free.
    let (mut begun, mut tries) = (0, 0);
    scene.limits(Limit::HandshakeRate, |server, _| {
        // All from one source, on a port of its own each: a port that comes again takes the place that it has.
        loop {
            tries += 1;
            server.advance(Duration::from_millis(40));
            match begin(server, &context, tries % 250) {
                1 => return,
                2 => begun += 1,
                other => panic!("{other} answers"),
            }
        }
    });
    assert!(begun > 300, "{begun}");
    scene.counted_only(&[HandshakeResult::Limit, HandshakeResult::Timeout]);
}
