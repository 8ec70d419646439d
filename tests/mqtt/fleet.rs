//! A fleet over kills of the gateway, and over power losses: how many devices shook hands again, what was lost or came twice, and for how
//! long nobody was answered.
//!
//! `make test-restart`; `PORTCULLIS_FLEET` is how many DTLS sessions there are, beside a tenth as many UDP peers, and
//! `PORTCULLIS_KILLS` how often the gateway is killed, or a fifth as often loses its power.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::Mosquitto;
use crate::support::client::PATIENCE;
use crate::support::{Client, Config, Gateway, Request, code, dtls, ms};

/// Devices are served by so many threads, each with a part of them.
const THREADS: usize = 8;
/// Publishes in a second, all devices together.
const RATE: u32 = 500;
/// The last does not outlast a power loss.
const SUITES: [&str; 3] = [
    "PSK-AES128-CCM8",
    "PSK-AES128-GCM-SHA256",
    "PSK-CHACHA20-POLY1305",
];

/// What happens to the gateway.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kill,
    PowerLoss,
}

impl Fate {
    const fn suites(self) -> usize {
        match self {
            Self::Kill => 3,
            Self::PowerLoss => 2,
        }
    }

    const fn keep(self) -> &'static str {
        match self {
            Self::Kill => "keep = \"memory\"",
            Self::PowerLoss => "keep = \"disk\"",
        }
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

struct Device {
    client: Client,
    /// The token of its observation, where it has one.
    token: Option<Vec<u8>>,
    /// How often each payload came to it.
    seen: HashMap<String, u32>,
}

impl Device {
    fn take(&mut self, wait: Duration) -> bool {
        let Some(token) = &self.token else { return false };
        let Some(notification) = self.client.try_notification(token, wait) else {
            return false;
        };
        *self.seen.entry(notification.text()).or_default() += 1;
        true
    }
}

/// What all threads tell each other.
#[derive(Default)]
struct Told {
    over: AtomicBool,
    /// When the gateway was killed, and when the first answer came after it.
    kills: Mutex<Vec<(Instant, Option<Instant>)>>,
}

impl Told {
    /// An answer came; whether the gateway was killed since the request.
    fn answered(&self, asked: Instant) -> bool {
        let now = Instant::now();
        let mut kills = self.kills.lock().unwrap();
        let Some((killed, first)) = kills.last_mut() else {
            return false;
        };
        first.get_or_insert(now);
        asked < *killed
    }
}

#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    unanswered: usize,
    lost: usize,
    doubled: usize,
    /// Those of the doubled that waited for their answer when the gateway was killed.
    in_flight: usize,
}

fn device(gateway: &Gateway, at: usize, secure: usize, fate: Fate) -> Device {
    let mut client = if at < secure {
        let options = dtls::Options::psk(&format!("fleet-{at}"), key(at).as_bytes());
        Client::dtls(gateway.dtls_addr(), &options.ciphers(SUITES[at % fate.suites()]))
    } else {
        Client::udp(gateway.udp_addr())
    };
    let token = at
        .is_multiple_of(2)
        .then(|| client.observe(&format!("ps/fleet/{at}?qos=1")).token);
    Device {
        client,
        token,
        seen: HashMap::new(),
    }
}

fn key(at: usize) -> String {
    format!("key-of-fleet-{at:08}")
}

/// Each device in turn publishes to an observer of the same part, until it is over.
fn serve(mut devices: Vec<(usize, Device)>, told: &Told) -> Tally {
    let mut tally = Tally::default();
    let pause = Duration::from_secs(1) / RATE * THREADS as u32;
    let (mut waited, mut next) = (Vec::new(), Instant::now());
    for number in 0_usize.. {
        if told.over.load(Ordering::SeqCst) {
            break;
        }
        next = (next + pause).max(Instant::now() - ms(500));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let from = number % devices.len();
        // An even one is an observer, of the others each has the one before.
        let to = from - usize::from(devices[from].1.token.is_none());
        let (text, topic) = (format!("{}.{number}", devices[from].0), devices[to].0);
        let request = Request::put(&format!("ps/fleet/{topic}?qos=1")).payload(&text);
        let asked = Instant::now();
        match devices[from].1.client.try_request(&request, PATIENCE) {
            Some(answer) if answer.code == code::CHANGED => {
                tally.answered += 1;
                waited.push((to, text, told.answered(asked)));
            }
            _ => tally.unanswered += 1,
        }
        while devices[to].1.take(ms(1)) {}
    }
    for (to, text, in_flight) in waited {
        let device = &mut devices[to].1;
        while !device.seen.contains_key(&text) && device.take(PATIENCE) {}
        while device.take(ms(1)) {}
        match device.seen.get(&text) {
            None => tally.lost += 1,
            Some(1) => {}
            Some(_) => {
                tally.doubled += 1;
                tally.in_flight += usize::from(in_flight);
            }
        }
    }
    tally
}

fn start(mosquitto: &Mosquitto, secure: usize, fate: Fate) -> Gateway {
    let hex = |text: String| -> String { text.bytes().map(|byte| format!("{byte:02x}")).collect() };
    let psk: String = (0..secure)
        .map(|at| format!("fleet-{at}:{}\n", hex(key(at))))
        .collect();
    let config = Config::new()
        .set(
            "broker",
            &format!("url = \"mqtt://127.0.0.1:{}\"", mosquitto.port),
        )
        .set("node", "workers = 2")
        .set("state", fate.keep())
        .set("log", "level = \"info\"")
        .file("psk.txt", &psk);
    let gateway = Gateway::start(config);
    gateway.metric_becomes("broker_connections", &[], 1.0);
    gateway
}

/// All devices, an even number of them for each thread.
fn fleet(gateway: &Gateway, all: usize, secure: usize, fate: Fate) -> Vec<Vec<(usize, Device)>> {
    let begin = |thread: usize| thread * all / THREADS / 2 * 2;
    let part = move |thread| {
        let numbers = begin(thread)..begin(thread + 1);
        numbers
            .map(|at| (at, device(gateway, at, secure, fate)))
            .collect()
    };
    std::thread::scope(|scope| {
        let joined: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || part(thread)))
            .collect();
        joined.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
#[ignore = "takes minutes: make test-restart"]
fn kills_cost_no_handshake_and_nothing_that_was_answered() {
    let secure = number("PORTCULLIS_FLEET", 1_000);
    let pause = |round: u64| ms(2_000 + round * 7_919 % 3_000);
    let tally = over(Fate::Kill, secure, number("PORTCULLIS_KILLS", 20), pause);
    assert_eq!(tally.lost, 0);
}

#[test]
#[ignore = "takes minutes: make test-restart"]
fn power_losses_cost_no_handshake() {
    // Each device of a thread in turn has its first request after a power loss repeated, a second later.
    let secure = number("PORTCULLIS_FLEET", 1_000) / 10;
    let pause = |round: u64| ms(4_000 + secure as u64 * 1_100 / THREADS as u64 + round * 7_919 % 3_000);
    let tally = over(Fate::PowerLoss, secure, number("PORTCULLIS_KILLS", 20) / 5, pause);
    // What was kept, and acknowledged to the broker, within the time before it was on disk.
    assert!(tally.lost <= tally.answered / 100, "{tally:?}");
}

fn over(fate: Fate, secure: usize, times: usize, pause: impl Fn(u64) -> Duration) -> Tally {
    let all = secure + secure / 10;
    let mosquitto = Mosquitto::with("allow_anonymous true\nmax_inflight_messages 0");
    let mut gateway = start(&mosquitto, secure, fate);
    let begun = Instant::now();
    let parts = fleet(&gateway, all, secure, fate);
    let sessions = gateway.metric("sessions", &["transport=\"dtls\""]);
    println!(
        "{sessions} DTLS sessions of {all} devices after {:?}",
        begun.elapsed()
    );
    let told = Arc::new(Told::default());
    let threads: Vec<_> = parts
        .into_iter()
        .map(|devices| {
            let told = Arc::clone(&told);
            std::thread::spawn(move || serve(devices, &told))
        })
        .collect();
    let (mut handshakes, mut restored) = (0.0, f64::MAX);
    let mut look = |gateway: &Gateway| {
        handshakes += gateway.metric("dtls_handshakes_total", &[]);
        restored = restored.min(gateway.metric("sessions_restored_total", &["result=\"ok\""]));
        gateway.metric("sessions_restored_total", &["result=\"unanswered\""])
    };
    let (mut starts, mut unanswered) = (Duration::ZERO, 0.0);
    for round in 0..times as u64 {
        std::thread::sleep(pause(round));
        if round > 0 {
            unanswered += look(&gateway);
        }
        told.kills.lock().unwrap().push((Instant::now(), None));
        match fate {
            Fate::Kill => gateway.kill(),
            Fate::PowerLoss => gateway.lose_power(),
        }
        let begun = Instant::now();
        gateway.launch();
        starts = starts.max(begun.elapsed());
    }
    std::thread::sleep(pause(0));
    unanswered += look(&gateway);
    told.over.store(true, Ordering::SeqCst);
    let mut tally = Tally::default();
    for thread in threads {
        let more = thread.join().unwrap();
        tally.answered += more.answered;
        tally.unanswered += more.unanswered;
        tally.lost += more.lost;
        tally.doubled += more.doubled;
        tally.in_flight += more.in_flight;
    }
    let kills = told.kills.lock().unwrap();
    let mut silent: Vec<_> = kills
        .iter()
        .map(|(killed, first)| first.unwrap().duration_since(*killed))
        .collect();
    silent.sort_unstable();
    println!(
        "{} times: {handshakes} handshakes, at least {restored} sessions restored, {tally:?}; ready after {starts:?} at most; to the first answer {:?} (median), {:?} at most",
        kills.len(),
        silent[silent.len() / 2],
        silent[silent.len() - 1],
    );
    assert_eq!((handshakes, restored), (0.0, secure as f64));
    assert_eq!((tally.unanswered, unanswered), (0, 0.0));
    // Twice may come what was in flight when the gateway was killed: a request of a device, or a message of the broker that was kept
    // and not acknowledged.
    assert!(
        tally.doubled <= tally.answered / 100,
        "{} of {}",
        tally.doubled,
        tally.answered
    );
    tally
}
