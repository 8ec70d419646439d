//! CoAP to mosquitto through the built gateway, and the MQTT upstream alone, beside rumqttc alone; the spool beside a raw
//! append with fdatasync and beside redb: `cargo bench --bench mqtt`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench prints what it measured, reads the clock, and stops at the first failure"
)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use portcullis::bridge::contract::{BrokerEvent, BrokerRequest, Ticket};
use portcullis::broker::{
    BrokerAddress, BrokerKind, BrokerRuntime, BrokerSettings, Clock, MqttSettings, WorkerLink, start,
};
use portcullis::types::TopicName;
use portcullis::types::message::{Message, Qos};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};

const PAYLOAD: [u8; 128] = [b'x'; 128];
/// A message with that payload as the spool writes it, in bytes.
const RECORD: usize = 190;
const ROUNDS: usize = 5;
/// Unanswered publishes.
const WINDOW: usize = 1_000;

struct Mosquitto {
    port: u16,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Mosquitto {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("mosquitto.conf");
        std::fs::write(
            &config,
            format!("user root\nlistener {port} 127.0.0.1\nallow_anonymous true\n"),
        )
        .unwrap();
        let child = Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self {
            port,
            child,
            _directory: directory,
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn show_latency(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{name:56} p50 {:>8.1?}  p99 {:>8.1?}", at(50), at(99));
}

/// rumqttc as its documentation uses it: one task publishes, one polls.
async fn rumqttc_alone(port: u16, qos: QoS, count: u64, window: usize) -> (Duration, Vec<Duration>) {
    let mut options = MqttOptions::new("alone", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, window);
    while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::ConnAck(_))) {}
    let (acked, mut acks) = tokio::sync::mpsc::channel::<()>(1024);
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            let done = matches!(
                event,
                Event::Incoming(Packet::PubAck(_)) | Event::Outgoing(rumqttc::Outgoing::Publish(0))
            );
            if done && acked.send(()).await.is_err() {
                return;
            }
        }
    });
    let begun = Instant::now();
    let mut times = Vec::new();
    if window == 1 {
        for _ in 0..count {
            let sent = Instant::now();
            client
                .publish("bench/t", qos, false, Bytes::from_static(&PAYLOAD))
                .await
                .unwrap();
            acks.recv().await.unwrap();
            times.push(sent.elapsed());
        }
    } else {
        let publisher = tokio::spawn(async move {
            for _ in 0..count {
                client
                    .publish("bench/t", qos, false, Bytes::from_static(&PAYLOAD))
                    .await
                    .unwrap();
            }
            client
        });
        for _ in 0..count {
            acks.recv().await.unwrap();
        }
        drop(publisher.await.unwrap());
    }
    (begun.elapsed(), times)
}

fn gateway(port: u16, state: Option<&Path>) -> (BrokerRuntime, WorkerLink) {
    let address = BrokerAddress {
        tls: false,
        host: "127.0.0.1".into(),
        port,
    };
    let settings = BrokerSettings {
        node: "bench".into(),
        state_dir: state.map(Into::into),
        clock: Clock {
            now: Instant::now,
            wall: SystemTime::now,
        },
        kind: BrokerKind::Mqtt(Box::new(MqttSettings::new(address, "bench"))),
    };
    let (runtime, mut links) = start(settings, 1).unwrap();
    (runtime, links.pop().unwrap())
}

async fn through_the_broker(
    link: &mut WorkerLink,
    qos: Qos,
    count: u64,
    window: u64,
) -> (Duration, Vec<Duration>) {
    let message = Arc::new(Message::new(
        TopicName::new("bench/t").unwrap(),
        Bytes::from_static(&PAYLOAD),
        qos,
    ));
    let begun = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    let mut times = Vec::new();
    let mut at = begun;
    while answered < count {
        while sent < count && sent - answered < window {
            at = Instant::now();
            let request = BrokerRequest::Publish {
                ticket: Ticket(sent),
                message: Arc::clone(&message),
            };
            link.ask(request).unwrap();
            sent += 1;
        }
        let BrokerEvent::Published { result, .. } = link.recv().await.unwrap() else {
            continue;
        };
        result.unwrap();
        answered += 1;
        if window == 1 {
            times.push(at.elapsed());
        }
    }
    (begun.elapsed(), times)
}

/// The baseline: records of the same size appended to a file, with one fdatasync for each `batch`.
fn raw_append(directory: &Path, count: u64, batch: u64) -> Duration {
    let mut file = std::fs::File::create(directory.join("raw")).unwrap();
    let bytes = [b'x'; RECORD].repeat(batch as usize);
    let begun = Instant::now();
    for _ in 0..count / batch {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
    }
    begun.elapsed()
}

/// What the spool would be on redb: the records of a batch in one transaction, under ascending keys.
fn redb_append(directory: &Path, count: u64, batch: u64) -> Duration {
    const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("spool");
    let path = directory.join("spool.redb");
    let database = redb::Database::create(&path).unwrap();
    let record = [b'x'; RECORD];
    let begun = Instant::now();
    for group in 0..count / batch {
        let transaction = database.begin_write().unwrap();
        let mut table = transaction.open_table(TABLE).unwrap();
        for number in group * batch..(group + 1) * batch {
            table.insert(number, record.as_slice()).unwrap();
        }
        drop(table);
        transaction.commit().unwrap();
    }
    let took = begun.elapsed();
    drop(database);
    std::fs::remove_file(path).unwrap();
    took
}

/// The best of several rounds for each of several ways, in turn, so that a busy moment of the machine hits all of them.
struct Best {
    name: String,
    ways: Vec<(&'static str, f64)>,
}

impl Best {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ways: Vec::new(),
        }
    }

    fn note(&mut self, way: &'static str, count: u64, took: Duration) {
        let rate = count as f64 / took.as_secs_f64();
        match self.ways.iter_mut().find(|(name, _)| *name == way) {
            Some((_, best)) => *best = best.max(rate),
            None => self.ways.push((way, rate)),
        }
    }

    fn show(&self) {
        let first = self.ways[0].1;
        for (way, rate) in &self.ways {
            println!("{:24} {way:28} {rate:>9.0} /s  {:>5.2}", self.name, rate / first);
        }
    }
}

async fn upstream(scale: u64) {
    let mosquitto = Mosquitto::start();
    let state = tempfile::tempdir().unwrap();
    let (runtime, mut link) = gateway(mosquitto.port, Some(state.path()));
    while !runtime.is_connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (name, theirs, ours, count) in [
        ("QoS 0", QoS::AtMostOnce, Qos::AtMostOnce, 200_000 / scale),
        ("QoS 1", QoS::AtLeastOnce, Qos::AtLeastOnce, 60_000 / scale),
    ] {
        let mut rates = Best::new(name);
        let (mut alone, mut through) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (took, _) = rumqttc_alone(mosquitto.port, theirs, count, WINDOW).await;
            rates.note("rumqttc alone", count, took);
            let (took, _) = through_the_broker(&mut link, ours, count, WINDOW as u64).await;
            rates.note("through the broker module", count, took);
            alone.extend(rumqttc_alone(mosquitto.port, theirs, 1_000 / scale, 1).await.1);
            through.extend(through_the_broker(&mut link, ours, 1_000 / scale, 1).await.1);
        }
        rates.show();
        show_latency(&format!("{name}, one at a time: rumqttc alone"), alone);
        show_latency(
            &format!("{name}, one at a time: through the broker module"),
            through,
        );
    }
    drop(link);
    runtime.shutdown().await;
}

/// A gateway of its own for each round: with what the rounds before left in it, its spool would not be the same.
async fn spool(scale: u64) {
    // Nobody listens there: the listener is gone again.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for (batch, count) in [
        (1, 2_000 / scale),
        (100, 50_000 / scale),
        (1_000, 200_000 / scale),
    ] {
        let mut rates = Best::new(format!("{batch} at a time"));
        for _ in 0..ROUNDS {
            let state = tempfile::tempdir().unwrap();
            rates.note(
                "raw append + fdatasync",
                count,
                raw_append(state.path(), count, batch),
            );
            let (runtime, mut link) = gateway(port, Some(state.path()));
            let (took, _) = through_the_broker(&mut link, Qos::AtLeastOnce, count, batch).await;
            rates.note("spool", count, took);
            drop(link);
            runtime.shutdown().await;
            rates.note("redb", count, redb_append(state.path(), count, batch));
        }
        rates.show();
    }
}

/// CoAP over the wire: the built gateway with two workers, and confirmable and non-confirmable publishes of several clients,
/// each with a window of its own, beside rumqttc alone.
mod wire {
    use super::*;

    /// Clients with a socket each.
    const CLIENTS: u64 = 8;
    /// Unanswered requests of each.
    const EACH: u64 = 32;

    struct Process(Child);

    impl Drop for Process {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn start(directory: &Path, broker: u16) -> (Process, u16) {
        let port = std::net::UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "[node]\nstate_dir = \"state\"\nworkers = 2\n[listeners.udp.default]\nbind = \"127.0.0.1:{port}\"\n\
             [broker]\nurl = \"mqtt://127.0.0.1:{broker}\"\n[metrics]\nbind = \"\"\n[admin]\nbind = \"\"\n\
             [log]\nlevel = \"warn\"\n"
        );
        std::fs::write(directory.join("portcullis.toml"), config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("run")
            .arg("--config")
            .arg(directory.join("portcullis.toml"))
            .spawn()
            .unwrap();
        (Process(child), port)
    }

    /// A publish to `ps/bench/t`: CON (QoS 1) or NON (QoS 0), answered in either case.
    fn request(id: u16, confirmable: bool) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        let mut bytes = vec![if confirmable { 0x42 } else { 0x52 }, 0x02, high, low, high, low];
        for segment in ["ps", "bench", "t"] {
            bytes.push(if segment == "ps" { 0xB0 } else { 0 } | segment.len() as u8);
            bytes.extend(segment.as_bytes());
        }
        bytes.push(0xFF);
        bytes.extend(PAYLOAD);
        bytes
    }

    /// Publishes `count` messages and waits for all answers; how long each took, when there is one at a time.
    fn client(port: u16, confirmable: bool, count: u64, window: u64) -> Vec<Duration> {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (mut sent, mut answered) = (0, 0);
        let mut at = Instant::now();
        let mut times = Vec::new();
        let mut buffer = [0; 1500];
        while answered < count {
            while sent < count && sent - answered < window {
                at = Instant::now();
                socket.send(&request(sent as u16, confirmable)).unwrap();
                sent += 1;
            }
            let length = socket.recv(&mut buffer).expect("no datagram is lost on loopback");
            // An empty acknowledgement goes before a separate response, which is acknowledged if it is confirmable.
            if buffer[1] == 0 {
                continue;
            }
            assert_eq!((buffer[1], length >= 4), (0x44, true), "2.04");
            if buffer[0] & 0x30 == 0 {
                socket.send(&[0x60, 0, buffer[2], buffer[3]]).unwrap();
            }
            answered += 1;
            times.push(at.elapsed());
        }
        times
    }

    fn clients(port: u16, confirmable: bool, count: u64) -> Duration {
        let begun = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| std::thread::spawn(move || client(port, confirmable, count / CLIENTS, EACH)))
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        begun.elapsed()
    }

    pub(super) async fn run(scale: u64) {
        let mosquitto = Mosquitto::start();
        let directory = tempfile::tempdir().unwrap();
        let (_process, port) = start(directory.path(), mosquitto.port);
        std::thread::sleep(Duration::from_secs(1));
        for (name, qos, confirmable) in [
            ("QoS 0", QoS::AtMostOnce, false),
            ("QoS 1", QoS::AtLeastOnce, true),
        ] {
            let count = 40_000 / scale;
            let window = usize::try_from(CLIENTS * EACH).unwrap();
            let mut rates = Best::new(format!("{name} over the wire"));
            let (mut alone, mut through) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let (took, _) = rumqttc_alone(mosquitto.port, qos, count, window).await;
                rates.note("rumqttc alone", count, took);
                rates.note("CoAP to mosquitto", count, clients(port, confirmable, count));
                alone.extend(rumqttc_alone(mosquitto.port, qos, 1_000 / scale, 1).await.1);
                through.extend(client(port, confirmable, 1_000 / scale, 1));
            }
            rates.show();
            show_latency(&format!("{name}, one at a time: rumqttc alone"), alone);
            show_latency(&format!("{name}, one at a time: CoAP to mosquitto"), through);
        }
    }
}

fn main() {
    let scale = if std::env::args().any(|arg| arg == "--quick") {
        10
    } else {
        1
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!("The best of {ROUNDS} rounds in turn; the last column is the ratio to the first line.");
    runtime.block_on(wire::run(scale));
    runtime.block_on(upstream(scale));
    runtime.block_on(spool(scale));
}
