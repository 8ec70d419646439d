//! The gateway beside bare echoes and libcoap's server, in one run on one machine: `make bench`.
//!
//! Each server has the first core, the load the second. What counts is the CPU time of the server for each request that was answered, and of
//! that the ratios: servers take turns, and the middle one of several rounds is shown. `make bench` writes the tables into
//! `docs/performance.md`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bench prints what it measured, reads the clock, and stops at the first failure"
)]
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::print_stderr,
    clippy::let_underscore_must_use,
    reason = "the tests' support is used in part"
)]

mod anchors;
#[path = "../../tests/support/dtls_client.rs"]
mod dtls_client;
mod load;
mod servers;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use dtls_client::ClientConfig;
use load::{Figure, Fleet, Question, cpu_nanos, resident};
use servers::{Server, pin};
use support::Config;

/// The key of the one identity, `bench`.
const KEY: &[u8] = b"0123456789abcdef";

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(700);
const DEVICES: usize = 256;
const SESSIONS: usize = 64;

const SUITES: [(&str, &str, bool); 4] = [
    ("CCM_8", "PSK-AES128-CCM8", false),
    ("CCM_8 with Connection ID", "PSK-AES128-CCM8", true),
    ("GCM", "PSK-AES128-GCM-SHA256", false),
    ("ChaCha20-Poly1305", "PSK-CHACHA20-POLY1305", false),
];

const GET: u8 = 1;
const PUT: u8 = 3;

/// What can be measured by itself, and what appends it to the page.
type Part = (&'static str, fn(&mut String));

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|word| word == "--anchor") {
        return anchors::serve(&arguments[at + 1], &arguments[at + 2]);
    }
    pin(std::process::id(), 1);
    let mut page = String::new();
    writeln!(page, "\n{}\n", machine()).unwrap();
    let parts: [Part; 8] = [
        ("datagrams", datagrams),
        ("sessions", sessions),
        ("handshakes", handshakes),
        ("peers", peers),
        ("observers", observers),
        ("latency", latency),
        ("memory", memory),
        ("starts", starts),
    ];
    let wanted = |name: &str| {
        let mut named = arguments
            .iter()
            .filter(|word| parts.iter().any(|(part, _)| part == word))
            .peekable();
        named.peek().is_none() || named.any(|word| word == name)
    };
    for (name, part) in parts.into_iter().filter(|(name, _)| wanted(name)) {
        eprintln!("{name} ...");
        let begun = page.len();
        part(&mut page);
        println!("{}", &page[begun..]);
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        update(&page);
    }
}

/// The tables stand in the page between its introduction and what they mean.
fn update(tables: &str) {
    const BEGIN: &str = "<!-- measured: make bench -->\n";
    const END: &str = "<!-- end -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page has its mark");
    let (_, tail) = rest.split_once(END).expect("and the other");
    std::fs::write(path, format!("{head}{BEGIN}{tables}\n{END}{tail}")).unwrap();
}

fn machine() -> String {
    let command = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        String::from_utf8(output.unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    format!(
        "Commit {}, {}, {} cores of {}, Linux {}, {}.",
        command("git", &["rev-parse", "--short=10", "HEAD"]),
        command("date", &["-u", "+%Y-%m-%d"]),
        cpu.matches("processor\t").count(),
        model.unwrap_or("an unnamed processor"),
        command("uname", &["-r"]),
        openssl::version::version(),
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The middle of several rounds of each fleet with its server, in turns.
fn in_turns(parties: &mut [(&Server, Fleet)]) -> Vec<f64> {
    let mut figures = vec![Vec::new(); parties.len()];
    for _ in 0..ROUNDS {
        for ((server, fleet), figures) in parties.iter_mut().zip(&mut figures) {
            let Figure {
                server_micros,
                answered,
                lost,
            } = fleet.run(server.pid(), TIME);
            assert!(
                answered > lost,
                "{}: {answered} answered, {lost} lost",
                server.name
            );
            figures.push(server_micros);
        }
    }
    figures.into_iter().map(median).collect()
}

/// A row: what was asked, each server's microseconds, and how ours compares with the first.
fn row(page: &mut String, what: &str, figures: &[Option<f64>], ours: usize) {
    write!(page, "| {what} |").unwrap();
    for figure in figures {
        match figure {
            Some(micros) => write!(page, " {micros:.2} |").unwrap(),
            None => page.push_str(" – |"),
        }
    }
    let ratio = figures[0].zip(figures[ours]).map(|(bare, ours)| bare / ours);
    match ratio {
        Some(ratio) => writeln!(page, " {ratio:.2} |").unwrap(),
        None => page.push_str(" – |\n"),
    }
}

fn publish() -> Question {
    Question::new(PUT, "ps/bench/t", Some("q=0"), &[b'7'; 32])
}

fn datagrams(page: &mut String) {
    let echo = Server::anchor("one-call echo", "echo", "");
    let batch = Server::anchor("batched echo", "batch", "");
    let ours = Server::gateway("Portcullis", false, Config::new());
    let libcoap = Server::libcoap(false);
    let mut retain = Fleet::new(
        ours.to,
        1,
        None,
        Question::new(PUT, "ps/kept", Some("r=1"), &[b'7'; 32]),
    );
    retain.all();
    page.push_str("## Over UDP\n\nMicroseconds of the server's CPU time for each request; publishes at QoS 0 to the embedded broker, 32 bytes.\n\n");
    page.push_str("| request | one-call echo | batched echo | Portcullis | libcoap | echo / Portcullis |\n|---|---|---|---|---|---|\n");
    let well_known = Question::new(GET, ".well-known/core", None, b"");
    let cases = [
        (
            "publish",
            publish(),
            Some(Question::new(PUT, "example_data", None, &[b'7'; 32])),
        ),
        (
            "read",
            Question::new(GET, "ps/kept", None, b""),
            Some(Question::new(GET, "example_data", None, b"")),
        ),
        (".well-known/core", well_known.clone(), Some(well_known)),
        ("ping", Question::ping(), Some(Question::ping())),
    ];
    let fleet = |server: &Server, question: &Question| Fleet::new(server.to, DEVICES, None, question.clone());
    for (name, question, of_libcoap) in cases {
        let mut parties: Vec<(&Server, Fleet)> = [&echo, &batch, &ours]
            .into_iter()
            .map(|server| (server, fleet(server, &question)))
            .collect();
        parties.extend(
            libcoap
                .as_ref()
                .zip(of_libcoap)
                .map(|(server, question)| (server, fleet(server, &question))),
        );
        let mut figures: Vec<_> = in_turns(&mut parties).into_iter().map(Some).collect();
        figures.resize(4, None);
        row(page, name, &figures, 2);
    }
}

fn client(ciphers: &str, cid: bool) -> ClientConfig {
    ClientConfig {
        cid: cid.then(|| b"bench-id".to_vec()),
        ..ClientConfig::psk(ciphers, "bench", KEY)
    }
}

fn sessions(page: &mut String) {
    page.push_str("\n## Over DTLS\n\nThe same publish and read in sessions; the bare server is OpenSSL with a table of sessions.\n\n");
    page.push_str("| suite, request | bare OpenSSL | Portcullis | libcoap | bare / Portcullis |\n|---|---|---|---|---|\n");
    for (name, ciphers, cid) in SUITES {
        let bare = Server::anchor("bare OpenSSL", "dtls", ciphers);
        let ours = Server::gateway("Portcullis", true, Config::new());
        let libcoap = Server::libcoap(true).filter(|_| !cid && ciphers.contains("CCM8"));
        let (plain, config) = (client(ciphers, false), client(ciphers, cid));
        let mut parties = vec![
            (&bare, Fleet::new(bare.to, SESSIONS, Some(&plain), publish())),
            (&ours, Fleet::new(ours.to, SESSIONS, Some(&config), publish())),
        ];
        let of_libcoap = Question::new(PUT, "example_data", None, &[b'7'; 32]);
        parties.extend(
            libcoap
                .as_ref()
                .map(|server| (server, Fleet::new(server.to, SESSIONS, Some(&plain), of_libcoap))),
        );
        parties[1]
            .1
            .ask(Question::new(PUT, "ps/kept", Some("r=1"), &[b'7'; 32]));
        parties[1].1.all();
        parties[1].1.ask(publish());
        for what in ["publish", "read"] {
            if what == "read" {
                parties[1].1.ask(Question::new(GET, "ps/kept", None, b""));
                if let Some((_, fleet)) = parties.get_mut(2) {
                    fleet.ask(Question::new(GET, "example_data", None, b""));
                }
            }
            let mut figures: Vec<_> = in_turns(&mut parties).into_iter().map(Some).collect();
            figures.resize(3, None);
            row(page, &format!("{name}, {what}"), &figures, 1);
        }
    }
}

/// Handshakes one after another, each from a socket of its own, with the server's cookie where it asks for one.
fn handshakes(page: &mut String) {
    const EACH: usize = 150;
    page.push_str("\n## Handshakes\n\nMicroseconds of the server's CPU time for a PSK handshake. Both ask for a cookie first; what OpenSSL alone takes for handshakes of every kind says `cargo bench --bench dtls_records`.\n\n");
    page.push_str("| suite | bare OpenSSL | Portcullis | bare / Portcullis |\n|---|---|---|---|\n");
    let ciphers = "PSK-AES128-CCM8";
    let bare = Server::anchor("bare OpenSSL", "dtls-cookie", ciphers);
    let ours = Server::gateway(
        "Portcullis",
        true,
        Config::new().set("limits", "handshakes_per_second = 0"),
    );
    let config = client(ciphers, false);
    let mut figures = vec![Vec::new(); 2];
    for _ in 0..ROUNDS {
        for (server, figures) in [&bare, &ours].into_iter().zip(&mut figures) {
            let before = cpu_nanos(server.pid());
            drop(Fleet::new(server.to, EACH, Some(&config), Question::ping()));
            figures.push((cpu_nanos(server.pid()) - before) as f64 / 1e3 / EACH as f64);
        }
    }
    let figures: Vec<_> = figures.into_iter().map(|figures| Some(median(figures))).collect();
    row(page, "CCM_8", &figures, 1);
}

/// The same publish among more and more peers.
fn peers(page: &mut String) {
    page.push_str(
        "\n## Among many peers\n\nA publish over UDP from 10 peers that take turns, and from so many.\n\n",
    );
    page.push_str("| peers | Portcullis | to that of 10 |\n|---|---|---|\n");
    let mut first = None;
    for count in [10, 100, 1_000, 10_000] {
        let ours = Server::gateway("Portcullis", false, Config::new());
        let mut fleet = Fleet::new(ours.to, count, None, publish());
        fleet.all();
        let micros = in_turns(&mut [(&ours, fleet)])[0];
        let first = *first.get_or_insert(micros);
        writeln!(page, "| {count} | {micros:.2} | {:.2} |", micros / first).unwrap();
    }
}

/// One publish to many observers.
fn observers(page: &mut String) {
    const COUNT: usize = 10_000;
    page.push_str("\n## To many observers\n\nA publish of 32 bytes to 10,000 observers over UDP, as NON; microseconds of the server's CPU time for each notification.\n\n");
    page.push_str("| bare send | Portcullis | bare / Portcullis |\n|---|---|---|\n");
    let bare = Server::anchor("bare send", "fan", "");
    let config = Config::new().set("coap", "notify_type = \"qos\"");
    let ours = Server::gateway("Portcullis", false, config);
    let payload = [b'7'; 32];
    let topic = |qos| Question::new(PUT, "ps/bench/fan", Some(qos), &payload);
    let mut figures = vec![Vec::new(); 2];
    let parties = [
        (&bare, Question::ping()),
        (&ours, Question::observe("ps/bench/fan", "q=1")),
    ];
    for ((server, question), figures) in parties.into_iter().zip(&mut figures) {
        let mut fleet = Fleet::new(server.to, COUNT, None, question);
        fleet.all();
        let mut publisher = Fleet::new(server.to, 1, None, topic("q=1"));
        // Who acknowledges this one is known to receive; what follows it needs no acknowledgement.
        fleet.notified(server.pid(), || publisher.all());
        publisher.ask(topic("q=0"));
        for _ in 0..ROUNDS {
            let Figure {
                server_micros,
                answered,
                lost,
            } = fleet.notified(server.pid(), || publisher.all());
            assert!(
                lost < answered / 20,
                "{}: {answered} got it, {lost} did not",
                server.name
            );
            figures.push(server_micros);
        }
    }
    let figures: Vec<_> = figures.into_iter().map(median).collect();
    writeln!(
        page,
        "| {:.2} | {:.2} | {:.2} |",
        figures[0],
        figures[1],
        figures[0] / figures[1]
    )
    .unwrap();
}

/// Times to the answer at half of what a closed loop reaches.
fn latency(page: &mut String) {
    page.push_str("\n## Time to the answer\n\nPublishes over UDP at half of the rate at which the server's core is full, each counted from when it was due; microseconds.\n\n");
    page.push_str("| server | requests/s | p50 | p99 | p99.9 |\n|---|---|---|---|---|\n");
    let servers = [
        Server::anchor("one-call echo", "echo", ""),
        Server::gateway("Portcullis", false, Config::new()),
    ];
    for server in &servers {
        let mut fleet = Fleet::new(server.to, DEVICES, None, publish());
        let micros = fleet.run(server.pid(), TIME).server_micros;
        // No faster than this load can ask.
        let rate = (0.5e6 / micros).min(30_000.0);
        let times = fleet.open_loop(rate, Duration::from_secs(5));
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        writeln!(
            page,
            "| {} | {rate:.0} | {:.0} | {:.0} | {:.0} |",
            server.name,
            at(0.5),
            at(0.99),
            at(0.999)
        )
        .unwrap();
    }
}

/// What an idle session takes.
fn memory(page: &mut String) {
    const COUNT: usize = 3_000;
    page.push_str("\n## Memory\n\nResident bytes of an idle session with CCM_8, over 3,000 of them.\n\n| state kept | bytes a session |\n|---|---|\n");
    for keep in ["none", "memory"] {
        let config = Config::new()
            .set("state", &format!("keep = \"{keep}\""))
            .set("limits", "handshakes_per_second = 0");
        let ours = Server::gateway("Portcullis", true, config);
        let client = client("PSK-AES128-CCM8", false);
        let settled = || {
            std::thread::sleep(Duration::from_secs(2));
            resident(ours.pid())
        };
        // The first ones take what is taken once.
        let _first = Fleet::new(ours.to, 200, Some(&client), Question::ping());
        let before = settled();
        let _fleet = Fleet::new(ours.to, COUNT, Some(&client), Question::ping());
        let each = settled().saturating_sub(before) / COUNT as u64;
        writeln!(page, "| `{keep}` | {each} |").unwrap();
    }
}

/// A start with many keys and users.
fn starts(page: &mut String) {
    const COUNT: usize = 100_000;
    page.push_str("\n## Start and reload\n\nWith 100,000 pre-shared keys and as many users.\n\n| what | seconds |\n|---|---|\n");
    let mut keys = String::new();
    let mut users = String::new();
    // One hash for all: it is not computed here, only read.
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI";
    for number in 0..COUNT {
        writeln!(keys, "meter-{number}:{number:032x}").unwrap();
        writeln!(users, "user-{number}:{hash}").unwrap();
    }
    let config = Config::new()
        .file("psk.txt", &keys)
        .file("users.txt", &users)
        .set("authentication", "backend = \"file\"\nfile = \"users.txt\"")
        .set("node", "workers = 1")
        .set("log", "level = \"warn\"");
    let mut gateway = support::Gateway::prepare(&config);
    let begun = Instant::now();
    gateway.launch();
    writeln!(page, "| start to ready | {:.2} |", begun.elapsed().as_secs_f64()).unwrap();
    let begun = Instant::now();
    assert!(gateway.reloaded());
    writeln!(page, "| reload | {:.2} |", begun.elapsed().as_secs_f64()).unwrap();
}
