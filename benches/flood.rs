//! A flood beside an honest client, against the built gateway over loopback: `cargo bench --bench flood`.
//!
//! 100,000 requests come from 1,000 source addresses (127.1.0.1 and up), half of them GET of a topic without a retained
//! message, half of them a publish, every other one confirmable, while one client with a connection publishes 500 times a second and measures how
//! long its acknowledgements take. The gateway has one core (the first) and one worker; flooder and client share the other, the flooder at
//! the lowest priority, so that what is measured is the gateway and not who gets the processor.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a bench prints what it measured, reads the clock, and stops at the first failure"
)]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    clippy::let_underscore_must_use,
    reason = "the tests' support is used in part"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use support::{Client, Config, Gateway, Message, Request, code, option, typ};

const REQUESTS: usize = 100_000;
const SOURCES: usize = 1_000;
const HONEST_EVERY: Duration = Duration::from_millis(2);
const QUIET: Duration = Duration::from_secs(6);
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// A flood: how many times all requests, and how many a second (0: as fast as they can be sent).
struct Flood {
    name: &'static str,
    volleys: usize,
    per_second: usize,
}

const FLOODS: [Flood; 4] = [
    Flood {
        name: "10,000/s",
        volleys: 1,
        per_second: 10_000,
    },
    Flood {
        name: "50,000/s",
        volleys: 4,
        per_second: 50_000,
    },
    Flood {
        name: "100,000/s",
        volleys: 8,
        per_second: 100_000,
    },
    Flood {
        name: "unbounded",
        volleys: 20,
        per_second: 0,
    },
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|word| word == "--flooder") {
        let number = |at: usize| arguments[at].parse().unwrap();
        return flood(arguments[2].parse().unwrap(), number(3), number(4));
    }
    let configs = [
        ("default configuration", Config::new()),
        (
            "unproven_datagrams_per_second = 20",
            Config::new().set("limits", "unproven_datagrams_per_second = 20"),
        ),
    ];
    for (name, config) in configs {
        println!("\n{name}");
        measure(config);
    }
}

fn measure(config: Config) {
    let gateway = Gateway::start(config.set("node", "workers = 1").set("log", "level = \"warn\""));
    pin(gateway.pid(), 0);
    pin(std::process::id(), 1);
    let mut honest = Honest::new(gateway.udp_addr());
    honest.run(|since| since < Duration::from_secs(1));
    let mut quiet = honest.run(|since| since < QUIET);
    println!("quiet: {}", quiet.show());
    let before = gateway.rss_kib();
    for shape in &FLOODS {
        let (counted, from) = (counters(&gateway), gateway.rss_kib());
        let mut flooder = Flooder::start(gateway.udp_addr(), shape);
        let begin = Instant::now();
        let mut times = honest.run(|_| flooder.runs());
        let took = begin.elapsed().as_secs_f64();
        let ratio = times.at(0.99) / quiet.at(0.99);
        println!(
            "flood {}, {} requests in {took:.1} s: {}; p99 ratio {ratio:.2}; RSS {from} -> {} KiB",
            shape.name,
            REQUESTS * shape.volleys,
            times.show(),
            gateway.rss_kib(),
        );
        for (series, count) in counters(&gateway) {
            let more = count - counted.get(&series).copied().unwrap_or_default();
            if more > 0.0 {
                println!("    {more:>9} {series}");
            }
        }
    }
    println!(
        "RSS: {before} KiB before, {} KiB after all floods",
        gateway.rss_kib()
    );
    gateway.assert_serves();
}

/// What came in, went out, was refused and was dropped.
fn counters(gateway: &Gateway) -> BTreeMap<String, f64> {
    let families = [
        "coap_messages_received_total",
        "coap_messages_sent_total",
        "datagrams_dropped_total",
        "limits_rejected_total",
        "receive_overflows_total",
    ];
    let text = gateway.metrics();
    let series = text.lines().filter_map(|line| {
        let (series, value) = line.strip_prefix("portcullis_")?.rsplit_once(' ')?;
        let known = families.iter().any(|family| series.starts_with(family));
        known.then(|| (series.to_owned(), value.parse().unwrap()))
    });
    series.collect()
}

fn pin(pid: u32, core: usize) {
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", &core.to_string(), &pid.to_string()])
        .output();
    assert!(output.expect("taskset").status.success());
}

/// A device with a connection, whose token has proved its address, that publishes and waits for each acknowledgement.
struct Honest {
    socket: UdpSocket,
    message: Message,
}

impl Honest {
    fn new(gateway: SocketAddr) -> Self {
        let mut client = Client::udp(gateway);
        let token = client.create("honest");
        assert_eq!(client.heartbeat("honest", &token), code::CHANGED);
        let publish = Request::post(&format!("ps/honest?clientid=honest&token={token}"));
        let message = client.message(&publish.payload("21.5"));
        let socket = client.socket();
        socket.set_read_timeout(Some(ACK_TIMEOUT)).unwrap();
        Self { socket, message }
    }

    fn run(&mut self, mut more: impl FnMut(Duration) -> bool) -> Times {
        let mut times = Times::default();
        let begin = Instant::now();
        let mut next = begin;
        while more(begin.elapsed()) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next = (next + HONEST_EVERY).max(Instant::now());
            let (time, again) = self.publish();
            times.add(time);
            times.again += again;
        }
        times
    }

    /// How long one publish took and how often it was sent again, as RFC 7252 has it.
    fn publish(&mut self) -> (Duration, usize) {
        self.message.id = self.message.id.wrapping_add(1);
        let bytes = self.message.encode();
        let begin = Instant::now();
        let mut buffer = [0; 256];
        for attempt in 0..5 {
            self.socket.send(&bytes).unwrap();
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let answer = Message::decode(&buffer[..length]).unwrap();
                if answer.id == self.message.id && answer.typ == typ::ACK {
                    assert_eq!(answer.code, code::CHANGED, "{answer:?}");
                    return (begin.elapsed(), attempt);
                }
            }
        }
        panic!("the honest client is not served")
    }
}

#[derive(Default)]
struct Times {
    all: Vec<f64>,
    again: usize,
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.all.push(time.as_secs_f64() * 1e6);
    }

    /// A quantile in microseconds.
    fn at(&mut self, quantile: f64) -> f64 {
        self.all.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in a list"
        )]
        let at = (self.all.len() as f64 * quantile) as usize;
        self.all[at.min(self.all.len() - 1)]
    }

    fn show(&mut self) -> String {
        let (p50, p99, most) = (self.at(0.5), self.at(0.99), self.at(1.0));
        format!(
            "{} publishes, p50 {p50:.0} us, p99 {p99:.0} us, max {most:.0} us, sent again {}",
            self.all.len(),
            self.again
        )
    }
}

struct Flooder(Child);

impl Flooder {
    fn start(gateway: SocketAddr, shape: &Flood) -> Self {
        let child = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe().unwrap())
            .args(["--flooder", &gateway.to_string()])
            .args([shape.volleys.to_string(), shape.per_second.to_string()])
            .spawn();
        Self(child.unwrap())
    }

    fn runs(&mut self) -> bool {
        match self.0.try_wait().unwrap() {
            None => true,
            Some(status) => {
                assert!(status.success());
                false
            }
        }
    }
}

/// The flooder's own process. It reads no answer.
fn flood(gateway: SocketAddr, volleys: usize, per_second: usize) {
    let sockets: Vec<UdpSocket> = (0..SOURCES)
        .map(|n| {
            let [.., high, low] = u32::try_from(n + 1).unwrap().to_be_bytes();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 1, high, low), 0)).unwrap();
            socket.connect(gateway).unwrap();
            socket
        })
        .collect();
    let mut messages: Vec<Vec<u8>> = (0..4_u8).map(message).collect();
    let begin = Instant::now();
    for n in 0..REQUESTS * volleys {
        if per_second > 0 && n.is_multiple_of(per_second / 1000) {
            let due = Duration::from_secs_f64(n as f64 / per_second as f64);
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        let id = u16::try_from(n / SOURCES % 65_536).unwrap();
        let bytes = &mut messages[n % 4];
        bytes[2..4].copy_from_slice(&id.to_be_bytes());
        // A full queue somewhere is part of a flood.
        drop(sockets[n % SOURCES].send(bytes));
    }
}

fn message(kind: u8) -> Vec<u8> {
    let options = vec![
        (option::URI_PATH, b"ps".to_vec()),
        (option::URI_PATH, b"flood".to_vec()),
        (option::URI_PATH, vec![b'a' + kind]),
    ];
    let publishes = kind < 2;
    let message = Message {
        typ: if kind.is_multiple_of(2) {
            typ::CON
        } else {
            typ::NON
        },
        code: if publishes { code::POST } else { code::GET },
        id: 0,
        token: vec![kind; 4],
        options,
        payload: if publishes { b"x".to_vec() } else { vec![] },
    };
    message.encode()
}
