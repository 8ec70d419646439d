//! A restart of the gateway that the broker's observers do not notice: its session goes on, and what was to be delivered is.

use crate::harness::{Mosquitto, Peer};
use crate::support::client::PATIENCE;
use crate::support::{Client, Config, Gateway, Kind, Message, code, ms, typ, wait_until};

const BOTH: [u8; 2] = [5, 4];

fn config(mosquitto: &Mosquitto, protocol: u8) -> Config {
    let broker = format!(
        "url = \"mqtt://127.0.0.1:{}\"\nprotocol = {protocol}",
        mosquitto.port
    );
    Config::new()
        .set("broker", &broker)
        .set("node", "workers = 2")
        .set("log", "level = \"info\"")
}

fn wait_for_broker(gateway: &Gateway) {
    gateway.metric_becomes("broker_connections", &[], 1.0);
}

/// Observers over both transports, of these filters in turn, with their tokens.
fn observers(gateway: &Gateway, count: usize, filters: &[&str]) -> Vec<(Client, Vec<u8>)> {
    let observe = |n| {
        let mut client = gateway.client(if n % 2 == 0 { Kind::Udp } else { Kind::Dtls });
        let filter = filters[n % filters.len()];
        let token = client.observe(&format!("{filter}?qos=1")).token;
        (client, token)
    };
    (0..count).map(observe).collect()
}

#[track_caller]
fn hear(observers: &mut [(Client, Vec<u8>)], payloads: &[String]) {
    for (observer, token) in observers {
        for payload in payloads {
            assert_eq!(observer.notification(token).text(), *payload);
        }
    }
}

async fn publish(peer: &mut Peer, payloads: &[String]) {
    for payload in payloads {
        peer.publish("news/a", payload, false).await;
    }
}

fn numbered(round: usize) -> Vec<String> {
    (0..5).map(|n| format!("{round}.{n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_got_while_nobody_was_there_reaches_every_observer_once() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.publish("news/a", "retained", true).await;
        let mut gateway = Gateway::start(config(&mosquitto, protocol));
        wait_for_broker(&gateway);
        let mut observers = observers(&gateway, 8, &["ps/news/a", "ps/news/a", "ps/news/+"]);
        for round in 0..4 {
            if round % 2 == 0 {
                gateway.kill();
            } else {
                assert!(gateway.stop().success());
            }
            publish(&mut peer, &numbered(round)).await;
            gateway.launch();
            hear(&mut observers, &numbered(round));
            let later = numbered(10 + round);
            publish(&mut peer, &later).await;
            hear(&mut observers, &later);
        }
        gateway.metric_becomes("observations_restored_total", &["result=\"ok\""], 8.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_forgot_the_session_is_asked_for_what_is_retained() {
    for protocol in BOTH {
        let mut mosquitto = Mosquitto::start();
        let mut gateway = Gateway::start(config(&mosquitto, protocol));
        wait_for_broker(&gateway);
        let mut observers = observers(&gateway, 4, &["ps/news/a", "ps/#"]);
        gateway.kill();
        mosquitto.kill();
        mosquitto.up();
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.publish("news/a", "retained", true).await;
        gateway.launch();
        hear(&mut observers, &["retained".into()]);
        publish(&mut peer, &numbered(1)).await;
        hear(&mut observers, &numbered(1));
        gateway.says("does not know the session");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_of_nobody_is_ended_at_the_broker() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let acl = |rules: &str| {
            config(&mosquitto, protocol)
                .set("authorization", "acl_file = \"acl.txt\"")
                .file("acl.txt", rules)
        };
        let mut gateway = Gateway::start(acl("topic readwrite #\n"));
        wait_for_broker(&gateway);
        let [mut stays, mut goes] = [0, 1].map(|_| gateway.client(Kind::Udp));
        let token = stays.observe("ps/open?qos=1").token;
        goes.observe("ps/secret?qos=1");
        gateway.kill();
        gateway.write("acl.txt", b"topic deny secret\ntopic readwrite #\n");
        gateway.launch();
        wait_until("an UNSUBSCRIBE", || {
            let log = mosquitto.log();
            let after = log.split("Received UNSUBSCRIBE").skip(1);
            after
                .into_iter()
                .any(|text| text.lines().nth(1).is_some_and(|line| line.ends_with("secret")))
        });
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.publish("open", "x", false).await;
        assert_eq!(stays.notification(&token).text(), "x");
    }
}

/// Waits until the broker was told that messages arrived.
fn wait_for_acknowledgements(mosquitto: &Mosquitto, count: usize) {
    wait_until("acknowledgements", || {
        mosquitto.log().matches("Received PUBACK from ").count() >= count
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_device_that_says_nothing_is_acknowledged_and_outlives_kills() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut gateway = Gateway::start(config(&mosquitto, protocol));
        wait_for_broker(&gateway);
        let mut observers = observers(&gateway, 6, &["ps/news/a"]);
        let mut peer = Peer::connect(mosquitto.port).await;
        // One message is on its way to each, who says nothing to it, and the others wait.
        for round in 0..3 {
            publish(&mut peer, &numbered(round)).await;
            wait_for_acknowledgements(&mosquitto, 5 * (round + 1));
            if round == 1 {
                assert!(gateway.stop().success());
            } else {
                gateway.kill();
            }
            gateway.launch();
        }
        gateway.metric_becomes("notifications_restored_total", &["result=\"ok\""], 6.0 * 15.0);
        for round in 0..3 {
            hear(&mut observers, &numbered(round));
        }
        publish(&mut peer, &numbered(9)).await;
        hear(&mut observers, &numbered(9));
        // What was delivered is not delivered again.
        let labels = ["type=\"con\"", "result=\"acked\""];
        gateway.metric_becomes("notifications_total", &labels, 6.0 * 20.0);
        gateway.kill();
        gateway.launch();
        gateway.metric_becomes("observations_restored_total", &[], 6.0);
        assert_eq!(gateway.metric("notifications_restored_total", &[]), 0.0);
        for (observer, token) in &mut observers {
            observer.no_notification(token, ms(100));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_away_gets_after_a_kill_what_it_would_have_got() {
    let mosquitto = Mosquitto::start();
    let mut gateway = Gateway::start(config(&mosquitto, 5).connection_mode());
    wait_for_broker(&gateway);
    let mut device = gateway.client(Kind::Dtls);
    let token = device.create("away");
    device.observe(&format!("ps/news/a?c=away&t={token}&qos=1"));
    // The session ends, and the connection outlives it.
    device.close();
    gateway.metric_becomes("sessions", &["transport=\"dtls\""], 0.0);
    let mut peer = Peer::connect(mosquitto.port).await;
    publish(&mut peer, &numbered(0)).await;
    wait_for_acknowledgements(&mosquitto, 5);
    gateway.kill();
    gateway.launch();
    gateway.metric_becomes("notifications_restored_total", &["result=\"ok\""], 5.0);
    let mut device = gateway.client(Kind::Dtls);
    assert_eq!(device.heartbeat("away", &token), code::CHANGED);
    for payload in numbered(0) {
        let notification = loop {
            let message = device.recv(PATIENCE).expect("a notification");
            if message.typ == typ::CON {
                break message;
            }
        };
        assert_eq!(notification.text(), payload);
        device.send(&Message::empty(typ::ACK, notification.id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_kept_the_broker_is_told_at_once_and_each_start_is_clean() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut gateway = Gateway::start(config(&mosquitto, protocol).set("state", "keep = \"none\""));
        wait_for_broker(&gateway);
        let mut observer = gateway.client(Kind::Udp);
        let token = observer.observe("ps/news/a?qos=1").token;
        let mut peer = Peer::connect(mosquitto.port).await;
        publish(&mut peer, &numbered(0)).await;
        wait_for_acknowledgements(&mosquitto, 5);
        for payload in numbered(0) {
            assert_eq!(observer.notification(&token).text(), payload);
        }
        gateway.kill();
        publish(&mut peer, &numbered(1)).await;
        gateway.launch();
        wait_for_broker(&gateway);
        observer.no_notification(&token, ms(200));
    }
}
