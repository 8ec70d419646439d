//! Devices that sleep: how long they may be silent, and whether they can be reached.

use std::process::Command;
use std::thread::sleep;

use serde_json::Value;

use crate::support::{
    Client, Config, Gateway, Kind, Message, Reaction, Request, code, ms, option, typ, wait_until,
};

/// A gateway in connection mode with a command line and short times.
fn gateway(coap: &str, sleep: &str) -> Gateway {
    let config = Config::new()
        .coap(&format!("connection_required = true\n{coap}"))
        .set("coap.sleep", sleep)
        .set("admin", "bind = \"\"\nsocket = \"admin.sock\"");
    Gateway::start(config)
}

/// `portcullis ... --json`.
fn asked(gateway: &Gateway, arguments: &[&str]) -> Option<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .args(["--json", "--config"])
        .arg(gateway.path("portcullis.toml"))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

fn shown(gateway: &Gateway, client: &str) -> Option<Value> {
    asked(gateway, &["clients", "show", client])
}

#[track_caller]
fn becomes(gateway: &Gateway, client: &str, state: &str) {
    wait_until(&format!("{client} is {state}"), || {
        shown(gateway, client).is_some_and(|it| it["state"] == state)
    });
}

/// Creates a connection with `more` parameters; its token, and the answer.
fn create(client: &mut Client, id: &str, more: &str) -> (String, Message) {
    let answer = client.request(&Request::post(&format!("mqtt/connection?clientid={id}{more}")));
    (answer.clone().expect(code::CREATED).text(), answer)
}

/// A heartbeat with `more` parameters.
fn beat(client: &mut Client, id: &str, token: &str, more: &str) -> Message {
    client.request(&Request::put(&format!(
        "mqtt/connection?clientid={id}&token={token}{more}"
    )))
}

#[test]
fn a_device_that_says_so_may_be_silent_for_longer_than_the_heartbeat() {
    for kind in [Kind::Udp, Kind::Dtls] {
        let gateway = gateway("heartbeat = \"500ms\"", "");
        let mut others = gateway.client_as(kind, "dev2");
        let (other, _) = create(&mut others, "wakeful", "");
        let mut device = gateway.client(kind);
        let (token, answer) = create(&mut device, "sleeper", "&lifetime=3600");
        assert_eq!(answer.uint(option::MAX_AGE), Some(3600));
        gateway.metric_becomes("connections_total", &["result=\"expired\""], 1.0);
        assert_eq!(
            beat(&mut others, "wakeful", &other, "").code,
            code::UNAUTHORIZED,
            "who said nothing is held to the heartbeat"
        );
        let it = shown(&gateway, "sleeper").unwrap();
        assert_eq!(
            (&it["state"], &it["lifetime_seconds"]),
            (&"online".into(), &3600.into())
        );
        assert_eq!(beat(&mut device, "sleeper", &token, "").code, code::CHANGED);
        // 0 takes it back.
        let back = beat(&mut device, "sleeper", &token, "&lifetime=0").expect(code::CHANGED);
        assert_eq!(back.uint(option::MAX_AGE), None);
        gateway.metric_becomes("connections_total", &["result=\"expired\""], 2.0);
    }
}

#[test]
fn a_lifetime_that_is_too_long_is_cut_and_the_answer_says_so() {
    let gateway = gateway("", "max_lifetime = \"2h\"");
    let mut device = gateway.client(Kind::Udp);
    let (token, answer) = create(&mut device, "a", "&lifetime=4294967295");
    assert_eq!(answer.uint(option::MAX_AGE), Some(7200));
    let again = beat(&mut device, "a", &token, "&lifetime=90").expect(code::CHANGED);
    assert_eq!(again.uint(option::MAX_AGE), Some(90));
    for wrong in ["", "-1", "1.5", "4294967296", "1h"] {
        beat(&mut device, "a", &token, &format!("&lifetime={wrong}"))
            .expect(code::BAD_REQUEST)
            .naming("lifetime");
    }
    assert_eq!(beat(&mut device, "a", &token, "").code, code::CHANGED);
    assert_eq!(shown(&gateway, "a").unwrap()["lifetime_seconds"], 90);
}

#[test]
fn a_lifetime_goes_on_after_a_kill() {
    let mut gateway = gateway("heartbeat = \"700ms\"", "");
    let mut device = gateway.client(Kind::Dtls);
    let (token, _) = create(&mut device, "a", "&lifetime=600");
    gateway.kill();
    gateway.launch();
    gateway.metric_becomes("connections_total", &["result=\"restored\""], 1.0);
    sleep(ms(1500));
    assert_eq!(shown(&gateway, "a").unwrap()["lifetime_seconds"], 600);
    assert_eq!(beat(&mut device, "a", &token, "").code, code::CHANGED);
}

#[test]
fn who_is_silent_for_its_lifetime_is_lost_until_it_is_heard_of() {
    let config = Config::new()
        .coap("connection_required = true\nheartbeat = \"1h\"")
        .set("admin", "bind = \"\"\nsocket = \"admin.sock\"")
        .set("authorization", "acl_file = \"acl.txt\"")
        .file("acl.txt", "topic read $portcullis/#\n");
    let gateway = Gateway::start(config);
    let mut watcher = gateway.client(Kind::Udp);
    let (watching, _) = create(&mut watcher, "watcher", "");
    let news = watcher.observe(&format!(
        "ps/$portcullis/+/clients/sleeper/+?clientid=watcher&token={watching}"
    ));
    let mut told = || -> Value {
        let notification = watcher.notification(&news.token);
        serde_json::from_slice(&notification.payload).unwrap()
    };
    let mut device = gateway.client(Kind::Udp);
    let (token, _) = create(&mut device, "sleeper", "&lifetime=20");
    assert_eq!(told()["clientid"], "sleeper");
    becomes(&gateway, "sleeper", "lost");
    gateway.metric_becomes("connection_states", &["state=\"lost\""], 1.0);
    let lost = told();
    assert!(lost["idle_seconds"].as_u64().unwrap() >= 20, "{lost}");
    let beaten = beat(&mut device, "sleeper", &token, "&lifetime=1");
    beaten.expect(code::CHANGED);
    assert!(told()["idle_seconds"].is_number());
    gateway.metric_becomes("connections_total", &["result=\"expired\""], 1.0);
    gateway.metric_becomes("connection_states", &["state=\"lost\""], 0.0);
    let last = std::iter::repeat_with(told).find(|news| news["reason"].is_string());
    assert_eq!(last.unwrap()["reason"], "expired");
    let log = gateway.log();
    for line in ["lost after", "awake after", "disconnected"] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn who_has_no_session_any_more_sleeps_until_it_shakes_hands_again() {
    let gateway = gateway("heartbeat = \"1h\"", "");
    let mut device = gateway.client(Kind::Dtls);
    let (token, _) = create(&mut device, "a", "&lifetime=600");
    becomes(&gateway, "a", "online");
    device.close();
    becomes(&gateway, "a", "asleep");
    gateway.metric_becomes("connection_states", &["state=\"asleep\""], 1.0);
    let mut again = gateway.client(Kind::Dtls);
    assert_eq!(beat(&mut again, "a", &token, "").code, code::CHANGED);
    becomes(&gateway, "a", "online");
    gateway.metric_becomes("connection_states", &["state=\"asleep\""], 0.0);
    let log = gateway.log();
    assert!(
        log.contains("asleep after") && log.contains("awake after"),
        "{log}"
    );
}

#[test]
fn where_the_handshake_is_the_connection_a_heartbeat_says_how_long_it_may_sleep() {
    let config = Config::new()
        .coap("connection_required = true\nheartbeat = \"1s\"")
        .dtls("identity = \"clientid\"")
        .set("admin", "bind = \"\"\nsocket = \"admin.sock\"");
    let gateway = Gateway::start(config);
    let mut device = gateway.client_as(Kind::Dtls, "dev1");
    let answer = device.request(&Request::put("mqtt/connection?lifetime=120"));
    assert_eq!(answer.expect(code::CHANGED).uint(option::MAX_AGE), Some(120));
    let expired = || gateway.metric("connections_total", &["result=\"expired\""]);
    let before = expired();
    let mut other = gateway.client_as(Kind::Dtls, "dev2");
    other
        .request(&Request::put("mqtt/connection"))
        .expect(code::CHANGED);
    wait_until("dev2 went", || {
        expired() > before && shown(&gateway, "dev2").is_some_and(|it| it["connection"] == false)
    });
    let it = shown(&gateway, "dev1").unwrap();
    assert_eq!(
        (&it["state"], &it["connection"]),
        (&"online".into(), &true.into())
    );
}

/// One that soon gives up what is not acknowledged.
fn impatient(sleep: &str, more: &str) -> Gateway {
    giving_up(50, sleep, more)
}

/// One that repeats once what is not acknowledged after so many milliseconds.
fn giving_up(after: u64, sleep: &str, more: &str) -> Gateway {
    let config = Config::new()
        .coap("connection_required = true\nheartbeat = \"1h\"")
        .set("coap.sleep", sleep)
        .set("admin", "bind = \"\"\nsocket = \"admin.sock\"")
        .set("node", more)
        .transmission(after, 1);
    Gateway::start(config)
}

fn with(path: &str, id: &str, token: &str, more: &str) -> String {
    format!("{path}?clientid={id}&token={token}{more}")
}

/// A device that observes `topics`, and sleeps from then on.
struct Sleeper {
    client: Client,
    id: String,
    token: String,
    observed: Vec<Vec<u8>>,
}

impl Sleeper {
    fn new(gateway: &Gateway, kind: Kind, id: &str, topics: &[&str]) -> Self {
        let mut client = gateway.client(kind);
        let (token, _) = create(&mut client, id, "&lifetime=3600");
        let observed = topics
            .iter()
            .map(|topic| {
                client
                    .observe(&with(&format!("ps/{topic}"), id, &token, ""))
                    .token
            })
            .collect();
        client.reaction = Reaction::Ignore;
        Self {
            client,
            id: id.to_owned(),
            token,
            observed,
        }
    }

    /// Forgets what came while it slept: it was not listening.
    fn slept(&mut self) {
        while self.client.recv(ms(100)).is_some() {}
    }

    fn wake(&mut self) {
        self.slept();
        self.client.reaction = Reaction::Acknowledge;
        let beaten = beat(&mut self.client, &self.id, &self.token, "");
        assert_eq!(beaten.code, code::CHANGED);
    }

    /// The next of an observation, each once.
    fn texts(&mut self, observation: usize, count: usize) -> Vec<String> {
        let token = self.observed[observation].clone();
        let mut got: Vec<(u32, String)> = Vec::new();
        while got.len() < count {
            let notification = self.client.notification(&token);
            let number = notification.observe().unwrap();
            if got.last().is_none_or(|(last, _)| *last != number) {
                got.push((number, notification.text()));
            }
        }
        got.into_iter().map(|(_, text)| text).collect()
    }
}

struct Publisher(Client, String);

impl Publisher {
    fn new(gateway: &Gateway) -> Self {
        let mut client = gateway.client_as(Kind::Udp, "dev2");
        let (token, _) = create(&mut client, "publisher", "");
        Self(client, token)
    }

    fn publish(&mut self, topic: &str, more: &str, texts: impl IntoIterator<Item = u32>) {
        for text in texts {
            let uri = with(&format!("ps/{topic}"), "publisher", &self.1, more);
            self.0.publish(&uri, text.to_string());
        }
    }
}

fn numbers(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

#[test]
fn what_a_sleeping_device_does_not_acknowledge_waits_and_comes_in_order() {
    for kind in [Kind::Udp, Kind::Dtls] {
        let gateway = impatient("", "workers = 3");
        let mut publisher = Publisher::new(&gateway);
        let mut sleepers: Vec<Sleeper> = (0..4)
            .map(|n| Sleeper::new(&gateway, kind, &format!("s{n}"), &["a", "b"]))
            .collect();
        publisher.publish("a", "", 0..3);
        for n in 0..4 {
            becomes(&gateway, &format!("s{n}"), "asleep");
        }
        publisher.publish("b", "&qos=0", [70]);
        publisher.publish("a", "", 3..40);
        gateway.metric_becomes("queued_notifications", &[], 4.0 * 41.0);
        for sleeper in &mut sleepers {
            sleeper.slept();
            sleeper.client.silence(ms(300));
        }
        // A ping will do.
        let mut pinged = sleepers.pop().unwrap();
        pinged.client.reaction = Reaction::Acknowledge;
        let ping = pinged.client.next_id();
        pinged.client.send(&Message::empty(typ::CON, ping));
        assert_eq!(pinged.texts(0, 40), numbers(0..40));
        assert_eq!(pinged.texts(1, 1), ["70"]);
        for sleeper in &mut sleepers {
            sleeper.wake();
            assert_eq!(sleeper.texts(0, 40), numbers(0..40));
            assert_eq!(sleeper.texts(1, 1), ["70"]);
        }
        gateway.metric_becomes("queued_notifications", &[], 0.0);
        gateway.metric_becomes("connection_states", &["state=\"online\""], 5.0);
        publisher.publish("a", "", [99]);
        assert_eq!(sleepers[0].texts(0, 1), ["99"]);
    }
}

#[test]
fn one_message_at_a_time_goes_to_a_device_that_woke() {
    // Longer than the test may be held up between a message and its acknowledgement.
    let gateway = giving_up(1000, "", "workers = 1");
    let mut publisher = Publisher::new(&gateway);
    let mut sleeper = Sleeper::new(&gateway, Kind::Udp, "s", &["a", "b"]);
    publisher.publish("a", "", 0..3);
    publisher.publish("b", "", 0..3);
    becomes(&gateway, "s", "asleep");
    sleeper.slept();
    let id = sleeper.client.next_id();
    sleeper.client.send(&Message::empty(typ::CON, id));
    let mut got = Vec::new();
    while got.len() < 6 {
        let message = sleeper.client.recv(crate::support::client::PATIENCE).unwrap();
        if message.typ == typ::RST {
            continue;
        }
        assert_eq!(message.typ, typ::CON);
        let other = std::iter::from_fn(|| sleeper.client.recv(ms(20)));
        let others: Vec<_> = other
            .filter(|it| it.id != message.id && it.typ == typ::CON)
            .collect();
        assert!(
            others.is_empty(),
            "{others:?} before the acknowledgement of {message:?}"
        );
        sleeper.client.send(&Message::empty(typ::ACK, message.id));
        got.push(message.text());
    }
    got.sort();
    assert_eq!(got, ["0", "0", "1", "1", "2", "2"]);
}

#[test]
fn the_queue_is_as_long_as_it_may_be_and_says_what_went() {
    let gateway = impatient("queue_messages = 20", "");
    let mut publisher = Publisher::new(&gateway);
    let mut sleeper = Sleeper::new(&gateway, Kind::Udp, "s", &["much", "little"]);
    publisher.publish("little", "", [7]);
    becomes(&gateway, "s", "asleep");
    publisher.publish("much", "", 0..100);
    gateway.metric_becomes("queue_notifications_total", &["result=\"dropped\""], 81.0);
    assert_eq!(
        gateway.metric("limits_rejected_total", &["limit=\"queued_notifications\""]),
        81.0
    );
    sleeper.wake();
    assert_eq!(sleeper.texts(1, 1), ["7"]);
    assert_eq!(sleeper.texts(0, 19), numbers(81..100));
}

#[test]
fn of_a_topic_only_the_newest_waits_where_the_operator_wants_that() {
    let gateway = impatient("keep = \"newest\"", "");
    let mut publisher = Publisher::new(&gateway);
    let mut sleeper = Sleeper::new(&gateway, Kind::Udp, "s", &["rooms/+"]);
    publisher.publish("rooms/1", "", [0]);
    becomes(&gateway, "s", "asleep");
    for round in 0..10 {
        publisher.publish("rooms/1", "", [round]);
        publisher.publish("rooms/2", "", [100 + round]);
    }
    gateway.metric_becomes("queue_notifications_total", &["result=\"replaced\""], 19.0);
    sleeper.wake();
    assert_eq!(sleeper.texts(0, 2), ["9", "109"]);
    let observed = sleeper.observed[0].clone();
    sleeper.client.no_notification(&observed, ms(300));
}

#[test]
fn what_waits_for_too_long_is_not_delivered() {
    let gateway = impatient("queue_age = \"1s\"", "");
    let mut publisher = Publisher::new(&gateway);
    let mut sleeper = Sleeper::new(&gateway, Kind::Udp, "s", &["a"]);
    publisher.publish("a", "", [1]);
    becomes(&gateway, "s", "asleep");
    publisher.publish("a", "", [2]);
    sleep(ms(1200));
    publisher.publish("a", "&expiry=3600", [3]);
    sleeper.wake();
    assert_eq!(sleeper.texts(0, 1), ["3"]);
    gateway.metric_becomes("queue_notifications_total", &["result=\"expired\""], 2.0);
}

#[test]
fn what_waits_at_qos_1_outlives_a_kill() {
    for kind in [Kind::Udp, Kind::Dtls] {
        let mut gateway = impatient("", "");
        let mut publisher = Publisher::new(&gateway);
        let mut sleeper = Sleeper::new(&gateway, kind, "s", &["a"]);
        publisher.publish("a", "&qos=1", 0..2);
        becomes(&gateway, "s", "asleep");
        publisher.publish("a", "&qos=1", 2..20);
        gateway.metric_becomes("queued_notifications", &[], 20.0);
        gateway.kill();
        gateway.launch();
        gateway.metric_becomes("notifications_restored_total", &["result=\"ok\""], 20.0);
        becomes(&gateway, "s", "asleep");
        sleeper.wake();
        assert_eq!(sleeper.texts(0, 20), numbers(0..20));
    }
}

#[test]
fn where_no_connection_is_required_a_device_that_sleeps_makes_one() {
    for kind in [Kind::Udp, Kind::Dtls] {
        let config = Config::new()
            .coap("heartbeat = \"1h\"")
            .set("admin", "bind = \"\"\nsocket = \"admin.sock\"")
            .transmission(50, 1);
        let gateway = Gateway::start(config);
        let mut sleeper = Sleeper::new(&gateway, kind, "s", &["a"]);
        let mut publisher = gateway.client_as(Kind::Udp, "dev2");
        for number in 0..7 {
            publisher.publish("ps/a?qos=1", number.to_string());
        }
        becomes(&gateway, "s", "asleep");
        gateway.metric_becomes("queued_notifications", &[], 7.0);
        sleeper.wake();
        assert_eq!(sleeper.texts(0, 7), numbers(0..7));
    }
}

#[test]
fn who_never_said_that_it_sleeps_loses_its_observation_as_ever() {
    let gateway = impatient("", "");
    let mut publisher = Publisher::new(&gateway);
    let mut device = gateway.client(Kind::Udp);
    let (token, _) = create(&mut device, "d", "");
    device.observe(&with("ps/a", "d", &token, "&qos=1"));
    device.reaction = Reaction::Ignore;
    publisher.publish("a", "", [1]);
    gateway.metric_becomes("subscriptions", &[], 0.0);
    assert_eq!(
        gateway.metric("queue_notifications_total", &["result=\"queued\""]),
        0.0
    );
    gateway.metric_becomes("notifications_total", &["result=\"timeout\""], 1.0);
}

#[test]
fn a_device_that_wakes_while_it_is_waited_for_gets_it_at_once() {
    let config = Config::new()
        .coap("connection_required = true\nheartbeat = \"1h\"")
        .transmission(2000, 10);
    let gateway = Gateway::start(config);
    let mut publisher = Publisher::new(&gateway);
    let mut sleeper = Sleeper::new(&gateway, Kind::Udp, "s", &["a"]);
    publisher.publish("a", "", [1]);
    gateway.metric_becomes("coap_retransmissions_total", &[], 2.0);
    // The next repetition is due in 8 s and more.
    sleeper.wake();
    assert_eq!(sleeper.texts(0, 1), ["1"]);
    gateway.metric_becomes("coap_retransmissions_total", &[], 3.0);
}
