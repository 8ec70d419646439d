//! The whole gateway as a process before a real mosquitto: CoAP over the wire in front, and what its own `/metrics` say of
//! every message.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Mosquitto, PATIENCE, Peer, free_port, payload};
use crate::outage::PERSISTENT;
use crate::support::{Client, Config, Gateway, Kind, Request, code, option, typ, wait_until};
use crate::transport::write_pki;

const CLIENTS: usize = 10;
const EACH: usize = 500;

/// The terms of the conservation law, from one scrape.
#[derive(Debug, PartialEq)]
struct Account {
    /// Publishes that the CoAP side answered with 2.04.
    changed: u64,
    accepted: u64,
    recovered: u64,
    acknowledged: u64,
    spooled: u64,
    dropped: u64,
}

impl Account {
    fn of(gateway: &Gateway) -> Self {
        let text = gateway.metrics();
        let sum = |name: &str| -> u64 {
            let samples = text
                .lines()
                .filter_map(|line| line.strip_prefix("portcullis_")?.strip_prefix(name))
                .filter(|rest| rest.starts_with(['{', ' ']))
                .map(|rest| rest.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
            let mut found = false;
            let total: f64 = samples.inspect(|_| found = true).sum();
            assert!(found, "no portcullis_{name} in\n{text}");
            total as u64
        };
        Self {
            changed: sum("publishes_total{result=\"accepted\"}"),
            accepted: sum("broker_accepted_total"),
            recovered: sum("broker_recovered_total"),
            acknowledged: sum("broker_acknowledged_total"),
            spooled: sum("spool_messages"),
            dropped: sum("spool_dropped_total"),
        }
    }

    /// Accepted = acknowledged + spooled + dropped by reason, with what an earlier process left.
    fn balances(&self) -> bool {
        self.accepted + self.recovered == self.acknowledged + self.spooled + self.dropped
    }

    /// The account once it is at rest and `condition` holds.
    fn settled(gateway: &Gateway, condition: impl Fn(&Self) -> bool) -> Self {
        let begun = Instant::now();
        loop {
            let account = Self::of(gateway);
            if account.balances() && account.changed == account.accepted && condition(&account) {
                return account;
            }
            assert!(begun.elapsed() < PATIENCE * 2, "{account:?}\n{}", gateway.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn config(mosquitto: &Mosquitto, spool: &str) -> Config {
    Config::new()
        .set(
            "broker",
            &format!(
                "url = \"mqtt://127.0.0.1:{}\"\nkeep_alive = \"5s\"",
                mosquitto.port
            ),
        )
        .set("broker.spool", &format!("max_bytes = \"{spool}\""))
        .set("log", "level = \"info\"")
}

/// Publishes as CON, which is QoS 1; the answer's code, and its Max-Age.
fn publish(client: &mut Client, topic: &str, payload: &str) -> (u8, Option<u32>) {
    let request = Request::post(&format!("ps/{topic}")).payload(payload);
    let answer = client.try_request(&request, PATIENCE).expect("an answer");
    (answer.code, answer.uint(option::MAX_AGE))
}

/// What a persistent session received first, by topic, until nothing of `wanted` is missing.
async fn arrivals(peer: &mut Peer, mut wanted: HashSet<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    while !wanted.is_empty() {
        let Some(received) = peer.next_within(PATIENCE).await else {
            panic!("{} acknowledged messages are missing", wanted.len());
        };
        let text = payload(&received);
        wanted.remove(&text);
        if seen.insert(text.clone()) {
            order.push(text);
        }
    }
    order
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_thousand_coap_publishes_survive_three_deaths_of_the_broker_and_the_books_balance() {
    let mut mosquitto = Mosquitto::with(PERSISTENT);
    let mut peer = Peer::named(mosquitto.port, "observer", false).await;
    peer.subscribe("c/#", 1).await;
    let gateway = Gateway::start(config(&mosquitto, "64MiB"));
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = gateway.client(if number % 5 == 0 { Kind::Dtls } else { Kind::Udp });
            let answered = Arc::clone(&answered);
            std::thread::spawn(move || {
                for count in 0..EACH {
                    let (code, _) =
                        publish(&mut client, &format!("c/{number}"), &format!("{number}/{count}"));
                    assert_eq!(code, code::CHANGED, "with a spool nothing is refused");
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for death in [600, 2_200, 3_800] {
        while answered.load(Ordering::SeqCst) < death {
            assert!(!clients.iter().all(std::thread::JoinHandle::is_finished));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        mosquitto.terminate();
        // Without the broker they go on, from the spool.
        while answered.load(Ordering::SeqCst) < death + 400 {
            assert!(!clients.iter().all(std::thread::JoinHandle::is_finished));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        mosquitto.up();
    }
    for client in clients {
        client.join().unwrap();
    }
    let all = (CLIENTS * EACH) as u64;
    let account = Account::settled(&gateway, |account| account.spooled == 0);
    assert_eq!(
        account,
        Account {
            changed: all,
            accepted: all,
            recovered: 0,
            acknowledged: all,
            spooled: 0,
            dropped: 0
        }
    );
    let wanted = (0..CLIENTS).flat_map(|number| (0..EACH).map(move |count| format!("{number}/{count}")));
    let order = arrivals(&mut peer, wanted.collect()).await;
    let mut next = [0; CLIENTS];
    for text in order {
        let (client, count) = text.split_once('/').unwrap();
        let next = &mut next[client.parse::<usize>().unwrap()];
        assert_eq!(count.parse(), Ok(*next), "client {client}: out of order");
        *next += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_killed_with_a_full_spool_owes_nothing_when_it_is_back() {
    let mut mosquitto = Mosquitto::with(PERSISTENT);
    let mut peer = Peer::named(mosquitto.port, "observer", false).await;
    peer.subscribe("full", 1).await;
    let mut gateway = Gateway::start(config(&mosquitto, "1MiB"));
    let mut client = gateway.client(Kind::Udp);
    assert_eq!(publish(&mut client, "full", "0").0, code::CHANGED);
    Account::settled(&gateway, |account| account.acknowledged == 1);
    mosquitto.terminate();
    let filler = "x".repeat(1_000);
    let mut count = 1;
    let (refused, max_age) = loop {
        let answer = publish(&mut client, "full", &format!("{count}{filler}"));
        if answer.0 != code::CHANGED {
            break answer;
        }
        count += 1;
    };
    assert_eq!(refused, code::UNAVAILABLE);
    assert!(
        max_age.is_some_and(|seconds| seconds > 0),
        "when to come back: {max_age:?}"
    );
    assert!(count > 500, "{count}");
    let account = Account::settled(&gateway, |_| true);
    assert_eq!(
        (account.accepted, account.spooled, account.dropped),
        (count, count - 1, 0)
    );

    gateway.kill();
    gateway.launch();
    let account = Account::settled(&gateway, |_| true);
    assert_eq!((account.recovered, account.spooled), (count - 1, count - 1));
    let mut client = gateway.client(Kind::Udp);
    // The overload step may have refused a little before the spool was full: then there is room for a few.
    let mut late = 0;
    while publish(&mut client, "full", &format!("late{late}{filler}")).0 == code::CHANGED {
        late += 1;
        assert!(late < 500, "it is nearly as full as before");
    }

    mosquitto.up();
    let account = Account::settled(&gateway, |account| account.spooled == 0);
    assert_eq!((account.acknowledged, account.dropped), (count - 1 + late, 0));
    // How full the spool is, the workers are told once a second.
    let begun = Instant::now();
    while publish(&mut client, "full", "end").0 != code::CHANGED {
        assert!(begun.elapsed() < PATIENCE, "it stays shut\n{}", gateway.metrics());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let account = Account::settled(&gateway, |account| account.acknowledged == count + late);
    assert_eq!((account.accepted, account.spooled), (1 + late, 0));
    let mut wanted = vec!["0".to_owned()];
    wanted.extend((1..count).map(|number| format!("{number}{filler}")));
    wanted.extend((0..late).map(|number| format!("late{number}{filler}")));
    wanted.push("end".into());
    let order = arrivals(&mut peer, wanted.iter().cloned().collect()).await;
    assert_eq!(order.len(), wanted.len(), "nothing but what was acknowledged");
    assert!(order == wanted, "in order");
}

/// Waits for a line of mosquitto's log that holds all of `parts`.
fn until_logged(mosquitto: &Mosquitto, gateway: &Gateway, parts: &[&str]) {
    let logged = || {
        let log = mosquitto.log();
        log.lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    };
    wait_until(
        &format!("{parts:?} in {}{}", mosquitto.log(), gateway.log()),
        logged,
    );
}

#[test]
fn every_key_of_the_broker_section_reaches_the_broker() {
    let extra = "allow_anonymous false\npassword_file DIR/users\nrequire_certificate true\ncafile DIR/ca.pem\n\
        certfile DIR/server.pem\nkeyfile DIR/server.key";
    let mosquitto = Mosquitto::prepared(extra, |directory| {
        write_pki(directory);
        let users = directory.join("users");
        let made = std::process::Command::new("mosquitto_passwd")
            .args(["-b", "-c", users.to_str().unwrap(), "gw-user", "s3cret"])
            .status();
        assert!(made.unwrap().success());
    });
    let file = |name: &str| std::fs::read(mosquitto.directory.path().join(name)).unwrap();
    let config = Config::new()
        .set("node", "name = \"n7\"")
        .set(
            "broker",
            &format!(
                "url = \"mqtts://localhost:{}\"\nprotocol = 4\nclient_id = \"gw-${{node}}\"\nusername = \"gw-user\"\n\
                 password_file = \"password\"\nca_file = \"ca.pem\"\ncert_file = \"client.pem\"\n\
                 key_file = \"client.key\"\nconnections = 3\nkeep_alive = \"77s\"",
                mosquitto.port
            ),
        )
        .set("broker.spool", "max_bytes = \"3MiB\"")
        .file("password", "s3cret\n")
        .file("ca.pem", file("ca.pem"))
        .file("client.pem", file("client.pem"))
        .file("client.key", file("client.key"));
    let gateway = Gateway::start(config);
    for id in [" as gw-n7 ", " as gw-n7-1 ", " as gw-n7-2 "] {
        until_logged(
            &mosquitto,
            &gateway,
            &["New client connected", id, "p2,", "k77,", "u'gw-user'"],
        );
    }
    assert_eq!(gateway.metric("spool_capacity_bytes", &[]), 3.0 * 1024.0 * 1024.0);
    wait_until("three connections", || {
        gateway.metric("broker_connections", &[]) == 3.0
    });
}

#[test]
fn the_defaults_of_the_broker_section_are_those_of_the_interface() {
    let port = free_port();
    let mosquitto = Mosquitto::with(&format!("allow_anonymous true\nlistener {port} ::1"));
    let config = Config::new().set("broker", &format!("url = \"mqtt://[::1]:{port}\""));
    let gateway = Gateway::start(config);
    let wanted = ["New client connected from ::1", " as portcullis ", "p5,", "k30)"];
    until_logged(&mosquitto, &gateway, &wanted);
    assert_eq!(
        gateway.metric("spool_capacity_bytes", &[]),
        256.0 * 1024.0 * 1024.0
    );
    wait_until("one connection", || {
        gateway.metric("broker_connections", &[]) == 1.0
    });
}

#[test]
fn a_full_spool_drops_its_oldest_messages_where_that_is_set_and_the_books_balance() {
    let config = Config::new()
        .set("broker", &format!("url = \"mqtt://127.0.0.1:{}\"", free_port()))
        .set(
            "broker.spool",
            "max_bytes = \"64KiB\"\nwhen_full = \"drop_oldest\"",
        );
    let gateway = Gateway::start(config);
    let mut client = gateway.client(Kind::Udp);
    for number in 0..200 {
        let answer = publish(&mut client, "full", &format!("{number}{}", "x".repeat(1_000)));
        assert_eq!(answer.0, code::CHANGED, "{number}");
        if number % 50 == 49 {
            // Time to notice that the spool is full, which is no reason to shut the door here.
            std::thread::sleep(Duration::from_millis(1_200));
        }
    }
    let account = Account::settled(&gateway, |account| account.accepted == 200);
    assert!(
        account.spooled >= 50 && account.dropped == 200 - account.spooled,
        "{account:?}"
    );
    let dropped = gateway.metric("spool_dropped_total", &["reason=\"spool_full\""]);
    assert_eq!(dropped as u64, account.dropped);
    assert_eq!(
        gateway.metric("spool_full_total", &[]),
        0.0,
        "nothing was refused"
    );
}

#[test]
fn without_a_spool_a_publish_is_refused_while_the_broker_is_away() {
    let mut mosquitto = Mosquitto::start();
    let gateway = Gateway::start(config(&mosquitto, "64KiB").set("broker.spool", "when_full = \"refuse\""));
    let mut client = gateway.client(Kind::Udp);
    mosquitto.terminate();
    assert_eq!(publish(&mut client, "t", "x").0, code::CHANGED, "it has a spool");
    drop(gateway);
    mosquitto.up();
    let url = format!("url = \"mqtt://127.0.0.1:{}\"", mosquitto.port);
    let gateway = Gateway::start(
        Config::new()
            .set("broker", &url)
            .set("broker.spool", "max_bytes = 0"),
    );
    assert_eq!(gateway.metric("spool_capacity_bytes", &[]), 0.0);
    let mut client = gateway.client(Kind::Udp);
    assert_eq!(publish(&mut client, "t", "x").0, code::CHANGED);
    mosquitto.terminate();
    gateway.metric_becomes("broker_connected", &[], 0.0);
    let (refused, max_age) = publish(&mut client, "t", "x");
    assert_eq!(refused, code::UNAVAILABLE);
    assert!(max_age.is_some());
    let (refused, max_age) = observe(&mut client, "t");
    assert_eq!(refused, code::UNAVAILABLE, "an observer waits for the broker too");
    assert!(max_age.is_some());
}

/// Asks to observe; the answer's code, and its Max-Age.
fn observe(client: &mut Client, topic: &str) -> (u8, Option<u32>) {
    let request = Request::get(&format!("ps/{topic}")).observe(0).token(b"watch");
    let answer = client.try_request(&request, PATIENCE).expect("an answer");
    (answer.code, answer.uint(option::MAX_AGE))
}

#[test]
fn the_type_of_a_notification_does_not_hang_on_what_others_subscribed_with() {
    let mosquitto = Mosquitto::start();
    let gateway = Gateway::start(config(&mosquitto, "0"));
    let mut publisher = gateway.client(Kind::Udp);
    let mut client = gateway.client(Kind::Udp);
    let request = Request::get("ps/t").observe(0).token(b"non").non();
    client.request(&request).expect(code::CONTENT);
    let mut typed = |qos: u8| {
        publisher.publish(&format!("ps/t?qos={qos}"), "x");
        client.notification(b"non").typ
    };
    for (qos, expected) in [(0, typ::NON), (1, typ::CON), (2, typ::CON)] {
        assert_eq!(typed(qos), expected, "alone, message of QoS {qos}");
    }
    let mut other = gateway.client(Kind::Udp);
    other.observe("ps/t?qos=2");
    for (qos, expected) in [(0, typ::NON), (1, typ::CON), (2, typ::CON)] {
        assert_eq!(typed(qos), expected, "beside another, message of QoS {qos}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn payloads_are_translated_on_their_way_to_a_broker_and_back_with_and_without_content_types() {
    for protocol in [5, 4] {
        let mosquitto = Mosquitto::start();
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.subscribe("site/#", 1).await;
        let config = config(&mosquitto, "0B")
            .set("broker", &format!("protocol = {protocol}"))
            .coap("mountpoint = \"site/\"")
            .set("[translate]", "topics = \"site/meters/+\"\nuntyped = \"json\"");
        let gateway = Gateway::start(config);
        gateway.metric_becomes("broker_connected", &[], 1.0);
        let mut client = gateway.client(Kind::Dtls);
        let cbor = |client: &mut Client, topic: &str, payload: &[u8]| {
            let request = Request::put(&format!("ps/{topic}?qos=1"))
                .uint(option::CONTENT_FORMAT, 60)
                .payload(payload);
            client.request(&request).expect(code::CHANGED);
        };
        // {"kWh": 1042.0, "ok": true}
        cbor(&mut client, "meters/7", b"\xa2\x63kWh\xf9\x64\x12\x62ok\xf5");
        let arrived = peer.next().await;
        assert_eq!(&arrived.topic[..], b"site/meters/7");
        assert_eq!(payload(&arrived), r#"{"kWh":1042.0,"ok":true}"#);
        let content_type = arrived.properties.and_then(|properties| properties.content_type);
        let wanted = (protocol == 5).then_some("application/json");
        assert_eq!(content_type.as_deref(), wanted);
        let request = Request::get("ps/meters/set?qos=1")
            .uint(option::ACCEPT, 60)
            .observe(0);
        let observation = client.observe_with(request);
        peer.publish("site/meters/set", r#"{"every": 900}"#, false).await;
        let told = client.notification(&observation.token);
        assert_eq!(
            (told.format(), &told.payload[..]),
            (Some(60), &b"\xa1\x65every\x19\x03\x84"[..])
        );
        // What is no JSON is for nobody who wants CBOR, and takes nothing along.
        peer.publish("site/meters/set", "every 900", false).await;
        peer.publish("site/meters/set", "1", false).await;
        assert_eq!(client.notification(&observation.token).payload, b"\x01");
        gateway.metric_becomes("translations_total", &["result=\"dropped\""], 1.0);
        gateway.assert_serves();
    }
}
