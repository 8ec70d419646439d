//! The dashboard in headless Chromium, over the built gateway with devices on both transports.
//!
//! `make test-browser` runs it: it needs Chromium, Node.js and what `tests/browser/package-lock.json` names. `steps.mjs` has the
//! order of the steps, which are in the files beside it; pictures are left in `target/browser/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    unreachable_pub,
    dead_code,
    reason = "tests fail by panicking, read the clock, and each test binary uses a part of the support"
)]

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use support::coap::{Message, code, option, typ};
use support::gateway::hex;
use support::{Client, Config, Gateway, Kind, Reaction, dtls, ms, ports};

const TOKEN: &str = "browser-0123456789abcdef";

/// Of one who may only read.
const READER: &str = "reader-0123456789abcdef";

/// Devices over DTLS, by their PSK identity.
const FLEET: [&str; 6] = [
    "meter-0017",
    "meter-0018",
    "valve-north",
    "pump-2",
    "gate-east",
    "urn:dev:ops:32473-Refrigerator-5002",
];

/// Devices have no user names, so that what holds for them stands before the first `user`.
const RULES: &str =
    "topic read weather/#\ntopic read commands/#\ntopic write sensors/#\npattern write weather/barn\n";

fn key_of(identity: &str) -> String {
    format!("key-of-{identity}")
}

fn config(admin: u16) -> Config {
    let keys: String = FLEET
        .iter()
        .map(|identity| format!("{identity}:{}\n", hex(key_of(identity).as_bytes())))
        .collect();
    Config::new()
        .set("node", "name = \"edge-7\" # the barn")
        .set(
            "admin",
            &format!("bind = \"127.0.0.1:{admin}\"\ntoken_file = \"tokens\""),
        )
        .set("authentication", "backend = \"file\"\nfile = \"users.txt\"")
        .udp("authentication = false")
        .dtls("authentication = false\nidentity = \"clientid\"")
        .set("authorization", "acl_file = \"rules.acl\"")
        .file("tokens", format!("admin:{TOKEN}\nreadonly:{READER}\n"))
        .file("rules.acl", RULES)
        .file("cellar.txt", "")
        .file("users.txt", "")
        .file("psk.txt", keys)
}

/// Observes, then publishes and answers requests until told to stop.
fn device(mut client: Client, id: String, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        // Observations are begun with acknowledgements; after that each CON is answered below, once.
        client.observe(&format!("ps/commands/{id}?clientid={id}"));
        client.observe(&format!("ps/weather/+?clientid={id}"));
        client.reaction = Reaction::Ignore;
        for n in 0_u32.. {
            // A device that was kicked has nobody to talk to.
            if stop.load(Ordering::Relaxed) || client.ended().is_some() {
                return;
            }
            let topic = if n % 40 == 0 {
                "weather/barn".to_owned()
            } else {
                format!("sensors/{}", id.replace(':', "-"))
            };
            let reading = format!("ps/{topic}?q=1&clientid={id}");
            let request = support::Request::post(&reading).payload(format!("{}.{}", 18 + n % 5, n % 10));
            // On a busy machine an answer is late; then it asks anew.
            if client.try_request(&request, ms(1500)).is_none() {
                continue;
            }
            while let Some(message) = client.recv(ms(120)) {
                if message.typ != typ::CON {
                    continue;
                }
                let answer = if message.code >> 5 == 0 {
                    let mut answer = Message::empty(typ::ACK, message.id);
                    answer.code = code::CONTENT;
                    answer.token = message.token.clone();
                    answer.options.push((option::CONTENT_FORMAT, vec![50]));
                    answer.payload = b"{\"model\":\"T-1000\",\"battery\":0.87}".to_vec();
                    answer
                } else {
                    Message::empty(typ::ACK, message.id)
                };
                client.send(&answer);
            }
        }
    })
}

/// One that calls itself nothing, and shows now and then that it is there.
fn nameless(mut client: Client, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            _ = client.try_request(&support::Request::get("ps/weather/none"), ms(5000));
            for _ in 0..200 {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(ms(100));
            }
        }
    })
}

#[test]
#[ignore = "needs Chromium and Node.js: make test-browser"]
fn the_dashboard_does_what_it_shows() {
    let (admin, spare) = (ports::reserve(), ports::reserve());
    let gateway = Gateway::start(config(admin.number));
    let stop = Arc::new(AtomicBool::new(false));
    let mut devices = Vec::new();
    for identity in FLEET {
        let options = dtls::Options::psk(identity, key_of(identity).as_bytes());
        let client = Client::dtls(gateway.dtls_addr(), &options);
        devices.push(device(client, identity.to_owned(), stop.clone()));
    }
    for n in 1..=8 {
        let client = gateway.client(Kind::Udp);
        // The last one calls itself what a page must not take for markup, nor turn around.
        let name = if n == 8 {
            "\u{202e}<img src=x onerror=alert(1)>"
        } else {
            ""
        };
        devices.push(device(client, format!("tracker-{n:02}{name}"), stop.clone()));
    }
    devices.push(nameless(gateway.client(Kind::Udp), stop.clone()));
    // A device with the wrong key, for the table of handshakes.
    let wrong = dtls::Options::psk("meter-0017", b"not the key that it has");
    assert!(dtls::connect(gateway.dtls_addr(), &wrong).is_err());

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pictures = root.join("target/browser");
    std::fs::create_dir_all(&pictures).unwrap();
    let status = Command::new("node")
        .arg(root.join("tests/browser/steps.mjs"))
        .env("URL", format!("http://127.0.0.1:{}", admin.number))
        .env("TOKEN", TOKEN)
        .env("READER", READER)
        .env("CONFIG", gateway.path("portcullis.toml"))
        .env("PICTURES", &pictures)
        .env("PORT", spare.number.to_string())
        .status()
        .expect("Node.js is needed");
    stop.store(true, Ordering::Relaxed);
    for device in devices {
        device.join().unwrap();
    }
    assert!(status.success(), "{status}");
    let text = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    assert!(
        text.contains("heartbeat = \"50s\"") && text.contains("# the barn") && !text.contains("cellar"),
        "{text}"
    );
    let keys = std::fs::read_to_string(gateway.path("psk.txt")).unwrap();
    assert!(keys.contains("lamp-1:"), "the identity that the page added");
}
