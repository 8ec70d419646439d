//! The MQTT upstream beside rumqttc alone, and the spool beside a raw append with fdatasync, in one run with a real
//! mosquitto: `cargo bench --bench mqtt`.
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

fn show(name: &str, count: u64, took: Duration) {
    println!("{name:56} {:>9.0} /s", count as f64 / took.as_secs_f64());
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
                .publish("bench/t", qos, false, PAYLOAD.to_vec())
                .await
                .unwrap();
            acks.recv().await.unwrap();
            times.push(sent.elapsed());
        }
    } else {
        let publisher = tokio::spawn(async move {
            for _ in 0..count {
                client
                    .publish("bench/t", qos, false, PAYLOAD.to_vec())
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
    let message = Arc::new(Message {
        topic: TopicName::new("bench/t").unwrap(),
        payload: Bytes::from_static(&PAYLOAD),
        qos,
        retain: false,
        content_type: None,
        expires_at: None,
        origin: None,
    });
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
            link.requests.try_send(request).unwrap();
            sent += 1;
        }
        let BrokerEvent::Published { result, .. } = link.events.recv().await.unwrap() else {
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
    let record = [b'x'; 190];
    let begun = Instant::now();
    for _ in 0..count / batch {
        let bytes: Vec<u8> = record
            .iter()
            .copied()
            .cycle()
            .take(record.len() * batch as usize)
            .collect();
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
    }
    begun.elapsed()
}

async fn upstream(scale: u64) {
    let mosquitto = Mosquitto::start();
    let state = tempfile::tempdir().unwrap();
    let (runtime, mut link) = gateway(mosquitto.port, Some(state.path()));
    while !runtime.is_connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (name, theirs, ours, count) in [
        ("QoS 0", QoS::AtMostOnce, Qos::AtMostOnce, 300_000 / scale),
        ("QoS 1", QoS::AtLeastOnce, Qos::AtLeastOnce, 100_000 / scale),
    ] {
        let (took, _) = rumqttc_alone(mosquitto.port, theirs, count, 1_000).await;
        show(&format!("{name}: rumqttc alone"), count, took);
        let (took, _) = through_the_broker(&mut link, ours, count, 1_000).await;
        show(&format!("{name}: through the broker module"), count, took);
        let (_, times) = rumqttc_alone(mosquitto.port, theirs, 3_000 / scale, 1).await;
        show_latency(&format!("{name}, one at a time: rumqttc alone"), times);
        let (_, times) = through_the_broker(&mut link, ours, 3_000 / scale, 1).await;
        show_latency(
            &format!("{name}, one at a time: through the broker module"),
            times,
        );
    }
    drop(link);
    runtime.shutdown().await;
}

async fn spool(scale: u64) {
    let state = tempfile::tempdir().unwrap();
    // Nobody listens there: the listener is gone again.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (runtime, mut link) = gateway(port, Some(state.path()));
    for (window, count) in [
        (1, 5_000 / scale),
        (100, 100_000 / scale),
        (1_000, 300_000 / scale),
    ] {
        let took = raw_append(state.path(), count, window);
        show(
            &format!("raw append + fdatasync, {window} at a time"),
            count,
            took,
        );
        let (took, _) = through_the_broker(&mut link, Qos::AtLeastOnce, count, window).await;
        show(&format!("spool, {window} unanswered"), count, took);
    }
    drop(link);
    runtime.shutdown().await;
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
    runtime.block_on(upstream(scale));
    runtime.block_on(spool(scale));
}
