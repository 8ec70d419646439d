//! How many instructions the gateway takes for each of some fixed traces of packets, everything between the socket calls and the
//! embedded broker included: counted by callgrind, so that a noisy machine measures the same as a quiet one.
//!
//! `make instructions` compares with `benches/instructions.txt`; `cargo bench --bench instructions -- TRACE COUNT` runs one
//! trace without counting, and without arguments lists them.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a benchmark"
)]

#[path = "dtls/clock.rs"]
mod clock;
#[path = "../tests/support/dtls_client.rs"]
mod dtls_client;
#[path = "dtls/table.rs"]
mod table;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use portcullis::broker::{BrokerKind, BrokerRuntime, BrokerSettings, Clock, RetainedLimits, WorkerLink};
use portcullis::coap::CoapMetrics;
use portcullis::config::{PathBase, parse, to_gateway_settings};
use portcullis::dtls::{ContextCell, DtlsContext, DtlsMetrics, DtlsShared, DtlsSource};
use portcullis::gateway::contract::{Input, Output};
use portcullis::gateway::metrics::GatewayMetrics;
use portcullis::gateway::{Gateway, Parts, Shared};
use portcullis::types::{ListenerId, WorkerId};

use dtls_client::{ClientConfig, DtlsClient};

const KEY: &[u8] = b"sesame-sesame-16";
const UDP: ListenerId = ListenerId(0);
const DTLS: ListenerId = ListenerId(1);
/// Devices that take turns.
const DEVICES: u32 = 16;
/// What is not counted: tables that grow, caches that fill.
const WARM: u32 = 512;
const PAYLOAD: &[u8] = &[b'x'; 32];

const CONFIG: &str = r#"
[node]
name = "bench"
workers = 1
[listeners.udp.plain]
bind = "127.0.0.1:5683"
[listeners.dtls.secure]
bind = "127.0.0.1:5684"
psk_file = "psk.txt"
[authentication]
backend = "none"
[limits]
memory = "1GiB"
handshakes_per_second = 0
"#;

struct Site {
    gateway: Gateway,
    link: WorkerLink,
    now: Instant,
    mid: u16,
    _broker: BrokerRuntime,
}

/// What callgrind counts: a datagram, what it asks of the broker, and all that follows at once.
#[inline(never)]
fn counted(site: &mut Site, listener: ListenerId, from: SocketAddr, bytes: &mut [u8]) {
    site.take(listener, from, bytes);
}

impl Site {
    fn new() -> Self {
        let now = Instant::now();
        let base = PathBase {
            directory: "/nowhere".into(),
            credentials: None,
        };
        let config =
            parse(CONFIG, Path::new("bench.toml"), &base).unwrap_or_else(|problems| panic!("{problems}"));
        let settings = Arc::new(to_gateway_settings(&config, 4 << 30));
        let broker = BrokerSettings {
            node: "bench".into(),
            state_dir: None,
            clock: Clock {
                now: Instant::now,
                wall: SystemTime::now,
            },
            kind: BrokerKind::Embedded(RetainedLimits::default()),
        };
        let (broker, mut links) = portcullis::broker::start(broker, 1).unwrap();
        let source = DtlsSource {
            contexts: ContextCell::new(Arc::new(DtlsContext::new(&table::psk_material()).unwrap())),
            shared: DtlsShared::new([9; 32], now),
            metrics: Arc::new(DtlsMetrics::default()),
            kept: None,
        };
        let parts = Parts {
            worker: WorkerId(0),
            shared: Arc::new(Shared::new(now, &settings, [2; 32])),
            settings,
            dtls: vec![None, Some(Arc::new(source))],
            coap_metrics: Arc::new(CoapMetrics::new(2)),
            metrics: Arc::new(GatewayMetrics::new(2)),
            seed: [1; 32],
            store: None,
        };
        Self {
            gateway: Gateway::new(now, parts),
            link: links.remove(0),
            now,
            mid: 0,
            _broker: broker,
        }
    }

    fn take(&mut self, listener: ListenerId, from: SocketAddr, bytes: &mut [u8]) {
        if self.gateway.poll_timeout().is_some_and(|due| due <= self.now) {
            self.gateway.handle_timeout(self.now);
        }
        self.gateway.handle(
            self.now,
            Input::Datagram {
                listener,
                from,
                local: None,
                bytes,
            },
        );
        while let Some(output) = self.gateway.poll_output() {
            let Output::Broker(request) = output else { continue };
            self.link.ask(request).expect("the embedded broker is there");
            while let Some(event) = self.link.next_at_hand() {
                self.gateway.handle(self.now, Input::Broker(event));
            }
        }
        assert!(self.link.flush().is_empty());
    }

    /// Hands in a datagram; returns what left, with where to.
    fn input(&mut self, counts: bool, listener: ListenerId, from: SocketAddr, bytes: &mut [u8]) -> Sent {
        // As fast as 10,000 a second.
        self.now += Duration::from_micros(100);
        if counts {
            counted(self, listener, from, bytes);
        } else {
            self.take(listener, from, bytes);
        }
        let sent = self.gateway.transmits().iter();
        let sent = sent
            .map(|(_, to, bytes)| (to.socket_addr(), bytes.to_vec()))
            .collect();
        self.gateway.transmits_sent();
        sent
    }

    fn request(&mut self, kind: MessageType, method: RequestType, path: &str, options: &Options) -> Vec<u8> {
        let mut packet = Packet::new();
        packet.header.set_type(kind);
        packet.header.code = MessageClass::Request(method);
        packet.header.message_id = self.mid;
        self.mid = self.mid.wrapping_add(1);
        packet.set_token(vec![1, 2, 3, 4]);
        for segment in path.split('/') {
            packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
        }
        for (option, value) in options.list {
            packet.add_option(*option, value.to_vec());
        }
        packet.payload = options.payload.to_vec();
        packet.to_bytes().unwrap()
    }

    fn connect(&mut self, counts: bool, config: &ClientConfig, from: SocketAddr) -> DtlsClient {
        let mut client = DtlsClient::new(config);
        client.connect();
        self.carry(counts, &mut client, from);
        assert!(client.is_connected());
        client
    }

    /// Takes what a client has to say, and hands it the answers, until both are silent.
    fn carry(&mut self, counts: bool, client: &mut DtlsClient, from: SocketAddr) {
        loop {
            let out = client.take();
            if out.is_empty() {
                return;
            }
            for mut datagram in out {
                for (_, answer) in self.input(counts, DTLS, from, &mut datagram) {
                    client.handle(&answer);
                }
            }
        }
    }
}

type Sent = Vec<(SocketAddr, Vec<u8>)>;

#[derive(Default)]
struct Options<'a> {
    list: &'a [(CoapOption, &'a [u8])],
    payload: &'a [u8],
}

fn device(n: u32) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, (n % DEVICES) as u8], 40_000))
}

fn code(datagram: &[u8]) -> String {
    Packet::from_bytes(datagram).unwrap().header.get_code()
}

/// A request over UDP, time after time.
fn udp(count: u32, path: &str, answer: &str, options: &Options, kind: MessageType, method: RequestType) {
    let mut site = Site::new();
    let kept = Options {
        list: &[(CoapOption::UriQuery, b"retain=1")],
        payload: PAYLOAD,
    };
    let mut keep = site.request(
        MessageType::Confirmable,
        RequestType::Put,
        "ps/site/7/kept",
        &kept,
    );
    assert_eq!(code(&site.input(false, UDP, device(0), &mut keep)[0].1), "2.04");
    for n in 0..WARM + count {
        let mut request = site.request(kind, method, path, options);
        let sent = site.input(n >= WARM, UDP, device(n), &mut request);
        assert!(sent.iter().any(|(_, bytes)| code(bytes) == answer));
        // Who is asked to show that it receives does.
        for (_, bytes) in sent.iter().filter(|(_, bytes)| bytes[0] & 0x30 == 0) {
            let mut ack = [0x60, 0, bytes[2], bytes[3]];
            site.input(false, UDP, device(n), &mut ack);
        }
    }
}

fn publish(count: u32, kind: MessageType, qos: &[u8]) {
    let options = Options {
        list: &[(CoapOption::UriQuery, qos)],
        payload: PAYLOAD,
    };
    udp(
        count,
        "ps/site/7/temperature",
        "2.04",
        &options,
        kind,
        RequestType::Put,
    );
}

fn get(count: u32, path: &str) {
    udp(
        count,
        path,
        "2.05",
        &Options::default(),
        MessageType::Confirmable,
        RequestType::Get,
    );
}

/// The same CON twice: its second copy counts.
fn duplicate(count: u32) {
    let mut site = Site::new();
    let options = Options {
        list: &[],
        payload: PAYLOAD,
    };
    for n in 0..WARM + count {
        let request = site.request(
            MessageType::Confirmable,
            RequestType::Put,
            "ps/site/7/temperature",
            &options,
        );
        let first = site.input(false, UDP, device(n), &mut request.clone());
        let second = site.input(n >= WARM, UDP, device(n), &mut request.clone());
        assert_eq!(first, second);
    }
}

fn ping(count: u32) {
    let mut site = Site::new();
    for n in 0..WARM + count {
        let [high, low] = (n as u16).to_be_bytes();
        let sent = site.input(n >= WARM, UDP, device(n), &mut [0x40, 0, high, low]);
        assert_eq!(sent[0].1, [0x70, 0, high, low]);
    }
}

/// Not CoAP, from ever other addresses.
fn garbage(count: u32) {
    let mut site = Site::new();
    for n in 0..WARM + count {
        let [a, b, c, d] = n.to_be_bytes();
        let from = SocketAddr::from(([198, 18 + a, b, c], 1024 + u16::from(d)));
        assert!(
            site.input(n >= WARM, UDP, from, &mut [0x90, 1, a, b, 0xff])
                .is_empty()
        );
    }
}

/// A publish in a record of its own.
fn records(count: u32, suite: &str, cid: bool) {
    let mut site = Site::new();
    let mut config = ClientConfig::psk(suite, "u1", KEY);
    config.cid = cid.then(Vec::new);
    let mut clients: Vec<_> = (0..DEVICES)
        .map(|n| site.connect(false, &config, device(n)))
        .collect();
    let options = Options {
        list: &[(CoapOption::UriQuery, b"qos=0")],
        payload: PAYLOAD,
    };
    for n in 0..WARM + count {
        let request = site.request(
            MessageType::Confirmable,
            RequestType::Put,
            "ps/site/7/temperature",
            &options,
        );
        let client = &mut clients[(n % DEVICES) as usize];
        client.send(&request);
        site.carry(n >= WARM, client, device(n));
        assert_eq!(code(&client.received()[0]), "2.04");
    }
}

/// A publish that each of 16 observers at DTLS sessions gets as NON.
fn observed(count: u32) {
    let mut site = Site::new();
    let config = ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY);
    let mut clients: Vec<_> = (0..DEVICES)
        .map(|n| site.connect(false, &config, device(n)))
        .collect();
    let observe = Options {
        list: &[(CoapOption::Observe, b""), (CoapOption::UriQuery, b"qos=0")],
        payload: b"",
    };
    for (client, n) in clients.iter_mut().zip(0..) {
        let request = site.request(
            MessageType::Confirmable,
            RequestType::Get,
            "ps/site/7/temperature",
            &observe,
        );
        client.send(&request);
        site.carry(false, client, device(n));
        assert_eq!(code(&client.received()[0]), "2.05");
    }
    let options = Options {
        list: &[(CoapOption::UriQuery, b"qos=0")],
        payload: PAYLOAD,
    };
    for n in 0..WARM + count {
        let kind = MessageType::NonConfirmable;
        let mut request = site.request(kind, RequestType::Put, "ps/site/7/temperature", &options);
        let sent = site.input(
            n >= WARM,
            UDP,
            SocketAddr::from(([203, 0, 113, 1], 40_000)),
            &mut request,
        );
        assert_eq!(sent.len(), DEVICES as usize + 1);
    }
}

/// A handshake with a cookie, and close_notify.
fn handshakes(count: u32) {
    let mut site = Site::new();
    let config = ClientConfig::psk("PSK-AES128-GCM-SHA256", "u1", KEY);
    let warm = WARM / 16;
    for n in 0..warm + count {
        let counts = n >= warm;
        let mut client = site.connect(counts, &config, device(n));
        client.shutdown();
        site.carry(counts, &mut client, device(n));
    }
}

type Trace = fn(u32);

/// The traces, and how many of each are enough.
const TRACES: [(&str, u32, Trace); 13] = [
    ("udp-publish-non", 2_000, |n| {
        publish(n, MessageType::NonConfirmable, b"qos=0")
    }),
    ("udp-publish-con", 2_000, |n| {
        publish(n, MessageType::Confirmable, b"qos=1")
    }),
    ("udp-read", 2_000, |n| get(n, "ps/site/7/kept")),
    ("udp-discovery", 2_000, |n| get(n, ".well-known/core")),
    ("udp-duplicate", 2_000, duplicate),
    ("udp-ping", 2_000, ping),
    ("udp-garbage", 2_000, garbage),
    ("dtls-publish-ccm8", 1_000, |n| {
        records(n, "PSK-AES128-CCM8", false)
    }),
    ("dtls-publish-gcm", 1_000, |n| {
        records(n, "PSK-AES128-GCM-SHA256", false)
    }),
    ("dtls-publish-gcm-cid", 1_000, |n| {
        records(n, "PSK-AES128-GCM-SHA256", true)
    }),
    ("dtls-publish-chacha", 1_000, |n| {
        records(n, "PSK-CHACHA20-POLY1305", false)
    }),
    ("dtls-16-observers", 200, observed),
    ("dtls-handshake", 50, handshakes),
];

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let Some(name) = arguments.first() else {
        for (name, count, _) in TRACES {
            println!("{name} {count}");
        }
        return;
    };
    let (_, count, trace) = TRACES
        .into_iter()
        .find(|(known, _, _)| known == name)
        .unwrap_or_else(|| panic!("there is no trace {name}"));
    trace(arguments.get(1).map_or(count, |count| count.parse().unwrap()));
}
