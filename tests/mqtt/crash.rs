//! Kill -9 of the gateway at random moments: nothing that it acknowledged may be missing afterwards.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portcullis::broker::{BrokerKind, BrokerSettings, Clock, Protocol, RetainedLimits, start};

use crate::harness::*;
use crate::proxy::Proxy;

const ROUNDS: usize = 60;

/// Not a test of its own: what the killed process runs. Publishes numbers from FROM on and prints those acknowledged.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the other tests of this file"]
async fn victim() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let state = variable("STATE");
    let from: u64 = variable("FROM").parse().unwrap();
    let qos: u8 = variable("QOS").parse().unwrap();
    let mut gateway = match variable("PORT").parse::<u16>() {
        Ok(port) => Gateway::start(mqtt(port, Protocol::V5), Some(Path::new(&state)), 1),
        Err(_) => embedded(Path::new(&state)),
    };
    let mut waiting = std::collections::VecDeque::new();
    for number in from.. {
        let topic = format!("t/{}", number % 7);
        let sent = if variable("PORT").is_empty() {
            retained(&format!("{topic}/{number}"), &number.to_string())
        } else {
            message(&topic, &number.to_string(), qos)
        };
        waiting.push_back((number, gateway.workers[0].send(sent)));
        if waiting.len() >= 64 {
            let (number, ticket) = waiting.pop_front().unwrap();
            if gateway.workers[0].result(ticket).await.is_ok() {
                // One write for the line: what was acknowledged is known outside before the next is.
                println!("acknowledged {number} ");
            }
        }
    }
}

fn embedded(state: &Path) -> Gateway {
    let settings = BrokerSettings {
        node: "node".into(),
        state_dir: Some(state.into()),
        clock: Clock {
            now: std::time::Instant::now,
            wall: std::time::SystemTime::now,
        },
        kind: BrokerKind::Embedded(RetainedLimits {
            max_messages: 10_000_000,
            max_bytes: 1 << 32,
        }),
    };
    Gateway::of(start(settings, 1).unwrap())
}

fn spawn(state: &Path, port: &str, from: u64, qos: u8) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::victim", "--exact", "--ignored", "--nocapture"])
        .env("STATE", state)
        .env("PORT", port)
        .env("FROM", from.to_string())
        .env("QOS", qos.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Kills it in the middle of this round's life, and gives the numbers that it acknowledged.
///
/// The life begins with the process, so that the kill hits the start too; in every third round it begins with the first
/// acknowledgement, so that there is one on a machine that is busy with other things (the broker is there in that round).
fn live_and_die(mut child: Child, round: usize) -> Vec<u64> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, numbers) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let number = line
                .split("acknowledged ")
                .nth(1)
                .and_then(|rest| rest.strip_suffix(' ')?.parse().ok());
            if let Some(number) = number {
                sender.send(number).unwrap();
            }
        }
    });
    let first = (round % 3 == 2).then(|| numbers.recv_timeout(PATIENCE).expect("it acknowledges"));
    std::thread::sleep(life(round));
    child.kill().unwrap();
    child.wait().unwrap();
    first.into_iter().chain(numbers).collect()
}

/// Lives of 20 to 400 ms, spread without a generator.
fn life(round: usize) -> Duration {
    Duration::from_millis(20 + (round as u64 * 7_919) % 380)
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_kills_of_the_gateway_lose_nothing_acknowledged() {
    let state = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::start();
    let proxy = Proxy::start(mosquitto.port).await;
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t/#", 1).await;
    let mut acknowledged = HashSet::new();
    let mut from = 0;
    for round in 0..ROUNDS {
        // The broker is away in two rounds of three, so that the spool grows and is replayed in between.
        if round % 3 == 2 {
            proxy.up()
        } else {
            proxy.down()
        }
        let child = spawn(state.path(), &proxy.port.to_string(), from, 1);
        let numbers = tokio::task::spawn_blocking(move || live_and_die(child, round))
            .await
            .unwrap();
        from = numbers.iter().max().map_or(from, |last| last + 1_000);
        acknowledged.extend(numbers);
    }
    assert!(
        acknowledged.len() > ROUNDS,
        "it did get on: {}",
        acknowledged.len()
    );
    proxy.up();
    let gateway = Gateway::connected(mqtt(proxy.port, Protocol::V5), Some(state.path()), 1).await;
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    let snapshot = gateway.assert_conserved().await;
    assert_eq!(snapshot.dropped_total(), 0, "{snapshot:?}");
    let mut missing = acknowledged;
    let mut first = std::collections::BTreeMap::<u64, HashSet<u64>>::new();
    while !missing.is_empty() {
        let Some(received) = peer.next_within(PATIENCE).await else {
            break;
        };
        let number: u64 = payload(&received).parse().unwrap();
        missing.remove(&number);
        // In order for each topic, as far as a message comes for the first time.
        let seen = first.entry(number % 7).or_default();
        if seen.insert(number) {
            assert!(seen.iter().all(|before| *before <= number), "{number} came late");
        }
    }
    assert!(
        missing.is_empty(),
        "{} acknowledged messages are missing",
        missing.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_kills_amid_qos_2_lose_nothing_acknowledged_and_double_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::start();
    let proxy = Proxy::start(mosquitto.port).await;
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t/#", 2).await;
    let mut acknowledged = HashSet::new();
    let mut from = 0;
    for round in 0..30 {
        // Without the broker in one round of three: what is spooled then is on its way when the next kill comes.
        if round % 3 == 0 {
            proxy.down()
        } else {
            proxy.up()
        }
        let child = spawn(state.path(), &proxy.port.to_string(), from, 2);
        let numbers = tokio::task::spawn_blocking(move || live_and_die(child, round))
            .await
            .unwrap();
        from = numbers.iter().max().map_or(from + 1_000, |last| last + 1_000);
        acknowledged.extend(numbers);
    }
    proxy.up();
    let gateway = Gateway::connected(mqtt(proxy.port, Protocol::V5), Some(state.path()), 1).await;
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    assert_eq!(gateway.assert_conserved().await.dropped_total(), 0);
    let mut seen = HashSet::new();
    while let Some(received) = peer.next_within(Duration::from_secs(5)).await {
        let number: u64 = payload(&received).parse().unwrap();
        assert!(seen.insert(number), "{number} came twice");
    }
    let missing = acknowledged.difference(&seen).count();
    assert_eq!(missing, 0, "of {} acknowledged", acknowledged.len());
    assert!(acknowledged.len() > 30, "it did get on: {}", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_of_the_embedded_broker_lose_no_retained_message() {
    let state = tempfile::tempdir().unwrap();
    let mut acknowledged = HashSet::new();
    let mut from = 0;
    for round in 0..20 {
        let child = spawn(state.path(), "", from, 1);
        let numbers = tokio::task::spawn_blocking(move || live_and_die(child, round))
            .await
            .unwrap();
        from = numbers.iter().max().map_or(from, |last| last + 1_000);
        acknowledged.extend(numbers);
    }
    assert!(acknowledged.len() > 20, "it did get on: {}", acknowledged.len());
    let mut gateway = embedded(state.path());
    // One by one: an observer of all of them is brought the first of them only.
    for number in acknowledged {
        let found = gateway.workers[0]
            .read(&format!("t/{}/{number}", number % 7))
            .await
            .unwrap();
        assert_eq!(
            found,
            Some(number.to_string()),
            "an acknowledged retained message is missing"
        );
    }
}
