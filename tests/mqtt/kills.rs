//! Kill -9 of the whole gateway and restarts of its broker, while devices publish at each QoS: what was answered at QoS 1 and 2
//! arrives, and nothing at QoS 2 is passed on twice. `PORTCULLIS_KILLS=50` makes it long.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{Mosquitto, PATIENCE, Peer, payload};
use crate::outage::PERSISTENT;
use crate::support::{Client, Config, Gateway, Kind, Request, code};

const PUBLISHERS: usize = 4;
/// A device waits so long, and does not repeat itself: over a kill that would be another publish.
const ANSWER: Duration = Duration::from_millis(900);

fn kills() -> usize {
    std::env::var("PORTCULLIS_KILLS").map_or(6, |kills| kills.parse().unwrap())
}

/// Publishes `{publisher}/{qos}/{number}` one after the other; gives those that were answered 2.04.
fn publish(gateway: SocketAddr, publisher: usize, over: Arc<AtomicBool>) -> Vec<String> {
    let mut answered = Vec::new();
    let mut client = Client::udp(gateway);
    for number in 0_usize.. {
        if over.load(Ordering::SeqCst) {
            break;
        }
        let qos = number % 3;
        let text = format!("{publisher}/{qos}/{number}");
        let request = Request::post(&format!("ps/k/{publisher}/{qos}"))
            .query(format!("qos={qos}"))
            .payload(&text);
        match client.try_request(&request, ANSWER) {
            Some(answer) if answer.code == code::CHANGED => answered.push(text),
            Some(_) => std::thread::sleep(Duration::from_millis(5)),
            None => {}
        }
    }
    answered
}

/// How often each message came for the first time, as far as the broker says so.
async fn arrivals(peer: &mut Peer, wanted: &[String]) -> HashMap<String, usize> {
    let mut seen = HashMap::new();
    let missing = |seen: &HashMap<String, usize>| wanted.iter().any(|text| !seen.contains_key(text));
    loop {
        let patience = if missing(&seen) {
            PATIENCE
        } else {
            Duration::from_secs(2)
        };
        let Some(received) = peer.next_within(patience).await else {
            return seen;
        };
        // What the broker repeats to this observer after a restart of its own, it marks.
        let fresh = usize::from(!received.dup);
        *seen.entry(payload(&received)).or_default() += fresh;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kills_and_restarts_lose_nothing_answered_and_double_nothing_at_qos_2() {
    for protocol in [5, 4] {
        // With a bound on what an observer has not acknowledged, mosquitto drops QoS 1, and by MQTT 3.1.1 cannot say so.
        let mut mosquitto = Mosquitto::with(&format!("{PERSISTENT}\nmax_inflight_messages 0"));
        let mut peer = Peer::named(mosquitto.port, "observer", false).await;
        peer.subscribe("k/#", 1).await;
        let broker = format!(
            "url = \"mqtt://127.0.0.1:{}\"\nprotocol = {protocol}",
            mosquitto.port
        );
        let config = Config::new()
            .set("broker", &broker)
            .set("log", "level = \"info\"");
        let mut gateway = Gateway::start(config);
        let over = Arc::new(AtomicBool::new(false));
        let address = gateway.addr(Kind::Udp);
        let publishers: Vec<JoinHandle<_>> = (0..PUBLISHERS)
            .map(|publisher| {
                let over = Arc::clone(&over);
                std::thread::spawn(move || publish(address, publisher, over))
            })
            .collect();
        for round in 0..kills() {
            let life = Duration::from_millis(150 + (round as u64 * 7_919) % 850);
            tokio::time::sleep(life).await;
            // Without the broker in one round of three, and killed amid that, or amid what follows from it.
            match round % 3 {
                0 => mosquitto.terminate(),
                1 => mosquitto.up(),
                _ => {}
            }
            tokio::time::sleep(life * (round as u32 % 4) / 4).await;
            gateway.kill();
            gateway.launch();
        }
        if kills() % 3 == 1 {
            mosquitto.up();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        over.store(true, Ordering::SeqCst);
        let answered: Vec<String> = publishers
            .into_iter()
            .flat_map(|publisher| publisher.join().unwrap())
            .collect();
        let begun = Instant::now();
        while gateway.metric("spool_messages", &[]) > 0.0 {
            assert!(begun.elapsed() < PATIENCE * 2, "{}", gateway.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let wanted: Vec<String> = at(&answered, 1).chain(at(&answered, 2)).cloned().collect();
        let seen = arrivals(&mut peer, &wanted).await;
        check(protocol, &answered, &seen, &gateway.log());
    }
}

/// Those published at this QoS.
fn at(texts: &[String], qos: u8) -> impl Iterator<Item = &String> {
    texts
        .iter()
        .filter(move |text| text.split('/').nth(1) == Some(&*qos.to_string()))
}

fn check(protocol: u8, answered: &[String], seen: &HashMap<String, usize>, log: &str) {
    let twice: Vec<String> = seen
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(text, _)| text.clone())
        .collect();
    let count = |qos| at(answered, qos).count();
    println!(
        "MQTT {protocol}, {} kills: answered {} at QoS 0, {} at 1, {} at 2; {} of QoS 0 arrived; doubled {} at QoS 1, {} at 2",
        kills(),
        count(0),
        count(1),
        count(2),
        at(answered, 0).filter(|text| seen.contains_key(*text)).count(),
        at(&twice, 1).count(),
        at(&twice, 2).count(),
    );
    assert!(count(1) > kills() && count(2) > kills(), "it got on");
    let kept = at(answered, 1).chain(at(answered, 2));
    let lost: Vec<&String> = kept.filter(|text| !seen.contains_key(*text)).collect();
    assert!(
        lost.is_empty(),
        "{} lost, as {:?}\n{log}",
        lost.len(),
        lost.first()
    );
    let doubled: Vec<&String> = at(&twice, 2).collect();
    assert!(
        doubled.is_empty(),
        "{} doubled, as {:?}\n{log}",
        doubled.len(),
        doubled.first()
    );
}
