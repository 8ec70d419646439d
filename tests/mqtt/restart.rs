//! A restart of the gateway that the broker's observers do not notice: its session goes on, and what was to be delivered is.

use crate::harness::{Mosquitto, Peer};
use crate::support::{Client, Config, Gateway, Kind, wait_until};

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

/// Observers over both transports, each of a filter of its own beside one that all have, with their tokens.
fn observers(gateway: &Gateway, count: usize) -> Vec<(Client, Vec<u8>)> {
    let observe = |n| {
        let mut client = gateway.client(if n % 2 == 0 { Kind::Udp } else { Kind::Dtls });
        let filter = if n % 3 == 0 { "ps/news/+" } else { "ps/news/a" };
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
        let mut observers = observers(&gateway, 8);
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
        let mut observers = observers(&gateway, 4);
        gateway.kill();
        mosquitto.kill();
        mosquitto.up();
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.publish("news/a", "retained", true).await;
        gateway.launch();
        hear(&mut observers, &["retained".into()]);
        publish(&mut peer, &numbered(1)).await;
        hear(&mut observers, &numbered(1));
        assert!(
            gateway.log().contains("does not know the session"),
            "{}",
            gateway.log()
        );
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
