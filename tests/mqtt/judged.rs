//! What a broker hangs up on or refuses is judged alone, and costs the others nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::bridge::contract::BrokerError;
use portcullis::broker::Protocol;

use crate::harness::{BOTH, Gateway, Mosquitto, Peer, message, mqtt, payload, retained};
use crate::proxy::Proxy;
use crate::script::{HANG_UP, SILENCE, Script};

fn lane_connections(script: &Script) -> usize {
    let clients = script.clients.lock().unwrap();
    clients.iter().filter(|id| !id.ends_with("-trial")).count()
}

fn refused(gateway: &Gateway, reason: &str) -> u64 {
    let refusals = gateway.snapshot().refusals;
    refusals
        .iter()
        .find(|(name, _)| *name == reason)
        .map_or(0, |(_, count)| *count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_the_broker_hangs_up_on_is_refused_and_costs_one_connection() {
    for protocol in BOTH {
        let state = tempfile::tempdir().unwrap();
        let script = Script::start(|topic| if topic.contains(' ') { HANG_UP } else { 0 }).await;
        let mut gateway = Gateway::connected(mqtt(script.port, protocol), Some(state.path()), 1).await;
        let worker = &mut gateway.workers[0];
        let bad = worker.send(message("living room/t", "21", 1));
        let good: Vec<u64> = (0..20)
            .map(|n| worker.send(message(&format!("kitchen/{n}"), "19", 1)))
            .collect();
        assert_eq!(
            worker.result(bad).await,
            Err(BrokerError::Refused),
            "{protocol:?}"
        );
        for ticket in good {
            worker.result(ticket).await.unwrap();
        }
        // Its like is refused at once, on no connection at all.
        assert_eq!(
            worker.publish(message("living room/t", "22", 0)).await,
            Err(BrokerError::Refused)
        );
        assert_eq!(
            lane_connections(&script),
            2,
            "{:?}",
            script.clients.lock().unwrap()
        );
        assert!(script.clients.lock().unwrap().len() <= 4);
        assert_eq!(refused(&gateway, "hung_up"), 1);
        gateway.assert_conserved().await;
        // The verdict outlives the process.
        gateway.runtime.shutdown().await;
        let mut gateway = Gateway::connected(mqtt(script.port, protocol), Some(state.path()), 1).await;
        let result = gateway.workers[0]
            .publish(message("living room/t", "23", 1))
            .await;
        assert_eq!(result, Err(BrokerError::Refused));
        assert_eq!(lane_connections(&script), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_qos_0_the_next_to_such_a_topic_is_tried_apart() {
    for protocol in BOTH {
        let script = Script::start(|topic| if topic == "v1.2/t" { HANG_UP } else { 0 }).await;
        let mut gateway = Gateway::connected(mqtt(script.port, protocol), None, 1).await;
        gateway.workers[0]
            .publish(message("v1.2/t", "x", 0))
            .await
            .unwrap();
        gateway.until(|_| lane_connections(&script) == 2).await;
        gateway.until_connected(true).await;
        for _ in 0..5 {
            let result = gateway.workers[0].publish(message("v1.2/t", "x", 0)).await;
            assert_eq!(result, Err(BrokerError::Refused));
            gateway.workers[0]
                .publish(message("v12/t", "x", 0))
                .await
                .unwrap();
        }
        assert_eq!(lane_connections(&script), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_publishes_that_the_broker_hangs_up_on_keeps_it_from_nobody() {
    let state = tempfile::tempdir().unwrap();
    let script = Script::start(|topic| if topic.starts_with("bad") { HANG_UP } else { 0 }).await;
    let proxy = Proxy::start(script.port).await;
    proxy.down();
    let mut gateway = Gateway::start(mqtt(proxy.port, Protocol::V5), Some(state.path()), 1);
    for number in 0..40 {
        let topic = if number % 4 == 1 {
            format!("bad/{number}")
        } else {
            format!("good/{number}")
        };
        gateway.workers[0].publish(message(&topic, "x", 1)).await.unwrap();
    }
    proxy.up();
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    let snapshot = gateway.assert_conserved().await;
    assert!(snapshot.dropped.contains(&("refused", 10)), "{snapshot:?}");
    assert_eq!(refused(&gateway, "hung_up"), 10);
    let mut published: Vec<String> = script.published.lock().unwrap().clone();
    published.retain(|topic| topic.starts_with("good"));
    published.sort();
    published.dedup();
    assert_eq!(published.len(), 30);
    assert!(
        lane_connections(&script) <= 3,
        "{:?}",
        script.clients.lock().unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_the_broker_hangs_up_on_is_refused_to_its_observer_alone() {
    for protocol in BOTH {
        let script = Script::start(|topic| if topic == "a b/+" { HANG_UP } else { 0 }).await;
        let mut gateway = Gateway::connected(mqtt(script.port, protocol), None, 1).await;
        let worker = &mut gateway.workers[0];
        worker.subscribe(1, "fine", false).await.unwrap();
        assert_eq!(
            worker.subscribe(2, "a b/+", true).await,
            Err(BrokerError::Refused),
            "{protocol:?}"
        );
        assert_eq!(
            worker.subscribe(3, "a b/+", false).await,
            Err(BrokerError::Refused)
        );
        gateway.until_connected(true).await;
        let worker = &mut gateway.workers[0];
        worker.subscribe(4, "also/fine", true).await.unwrap();
        assert_eq!((&*worker.lost, lane_connections(&script)), (&[][..], 2));
        assert_eq!(refused(&gateway, "hung_up"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsubscribe_that_the_broker_hangs_up_on_is_not_sent_for_ever() {
    let script = Script::start(|_| 0).await;
    let mut gateway = Gateway::connected(mqtt(script.port, Protocol::V5), None, 1).await;
    gateway.workers[0].subscribe(1, "sticky", false).await.unwrap();
    script.decide(|topic| if topic == "sticky" { HANG_UP } else { 0 });
    gateway.workers[0].unsubscribe(1);
    gateway.until(|_| refused(&gateway, "hung_up") == 1).await;
    gateway.until_connected(true).await;
    gateway.workers[0].publish(message("t", "x", 1)).await.unwrap();
    assert_eq!(lane_connections(&script), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_trials_are_not_let_in_they_are_held_on_the_lanes_connection() {
    let state = tempfile::tempdir().unwrap();
    let script = Script::start(|text| match text {
        "poison" => HANG_UP,
        id if id.ends_with("-trial") => 0x85,
        _ => 0,
    })
    .await;
    let mut gateway = Gateway::connected(mqtt(script.port, Protocol::V5), Some(state.path()), 1).await;
    let worker = &mut gateway.workers[0];
    let tickets: Vec<u64> = ["a", "poison", "b", "poison", "c"]
        .into_iter()
        .map(|topic| worker.send(message(topic, "x", 1)))
        .collect();
    for ticket in tickets {
        let result = worker.result(ticket).await;
        assert!(
            result.is_ok() || result == Err(BrokerError::Refused),
            "{result:?}"
        );
    }
    gateway
        .until(|snapshot| snapshot.refused + snapshot.dropped_total() == 2 && snapshot.connected)
        .await;
    gateway.workers[0].publish(message("d", "x", 1)).await.unwrap();
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    gateway.assert_conserved().await;
    assert!(
        lane_connections(&script) <= 4,
        "{:?}",
        script.clients.lock().unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_a_broker_without_words_hangs_up_on_is_refused_and_less_of_it_is_not() {
    let mosquitto = Mosquitto::with("allow_anonymous true\nmax_packet_size 2000");
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V4), None, 1).await;
    let large = "x".repeat(3_000);
    let worker = &mut gateway.workers[0];
    assert_eq!(
        worker.publish(message("t", &large, 1)).await,
        Err(BrokerError::Refused)
    );
    for _ in 0..3 {
        worker.publish(message("t", "little", 1)).await.unwrap();
        assert_eq!(
            worker.publish(message("t", &large, 1)).await,
            Err(BrokerError::Refused)
        );
    }
    let connects = gateway.snapshot().connects;
    assert!(connects.contains(&("ok", 2)), "{connects:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_a_reason_that_nobody_knows_is_a_refusal() {
    for (code, error) in [
        (0x95, BrokerError::TooLarge),
        (0xB7, BrokerError::Refused),
        (0x87, BrokerError::NotAuthorized),
    ] {
        let script = Script::start(move |topic| if topic.starts_with("no") { code } else { 0 }).await;
        let mut gateway = Gateway::connected(mqtt(script.port, Protocol::V5), None, 1).await;
        let worker = &mut gateway.workers[0];
        assert_eq!(
            worker.publish(message("no/t", "x", 1)).await,
            Err(error),
            "{code:x}"
        );
        worker.publish(message("yes", "x", 1)).await.unwrap();
        if code != 0x95 {
            assert_eq!(worker.subscribe(1, "no/f", true).await, Err(error), "{code:x}");
        }
        assert_eq!(script.clients.lock().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_offers_little_is_connected_to_and_loses_nothing() {
    for protocol in BOTH {
        for (setting, said) in [
            ("max_qos 0", "QoS 0 at most"),
            ("retain_available false", "no retained messages"),
        ] {
            let state = tempfile::tempdir().unwrap();
            let mosquitto = Mosquitto::with(&format!("allow_anonymous true\n{setting}"));
            let mut peer = Peer::connect(mosquitto.port).await;
            peer.subscribe("t", 0).await;
            let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), Some(state.path()), 1).await;
            gateway
                .until(|snapshot| snapshot.connected && gateway.runtime.status().to_string().contains(said))
                .await;
            for number in 0..50 {
                let message = message("t", &number.to_string(), (number % 3) as u8);
                gateway.workers[0].publish(message).await.unwrap();
            }
            for number in 0..50 {
                assert_eq!(
                    payload(&peer.next().await),
                    number.to_string(),
                    "{protocol:?}, {setting}"
                );
            }
            if setting.starts_with("retain") {
                let result = gateway.workers[0].publish(retained("r", "x")).await;
                assert_eq!(result, Err(BrokerError::Refused));
                assert!(!gateway.snapshot().retains);
            } else {
                assert_eq!(gateway.snapshot().max_qos, 0);
            }
            gateway.assert_conserved().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_out_at_qos_0_in_place_of_qos_1_stays_in_the_spool_until_a_ping_confirms_it() {
    let state = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::with("allow_anonymous true\nmax_qos 0");
    let proxy = Proxy::start(mosquitto.port).await;
    let mut gateway = Gateway::connected(mqtt(proxy.port, Protocol::V5), Some(state.path()), 1).await;
    proxy.swallow();
    for number in 0..7 {
        gateway.workers[0]
            .publish(message("t", &number.to_string(), 1))
            .await
            .unwrap();
    }
    assert_eq!(gateway.snapshot().spool_messages, 7);
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t", 0).await;
    proxy.down();
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.up();
    for number in 0..7 {
        assert_eq!(payload(&peer.next().await), number.to_string());
    }
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    gateway.assert_conserved().await;
}

/// A broker that hangs up on what begins with "mute" the first time, and says nothing to it from then on.
async fn turns_mute() -> Script {
    let met = AtomicUsize::new(0);
    Script::start(move |text| match text.starts_with("mute") {
        false => 0,
        true if met.fetch_add(1, Ordering::SeqCst) == 0 => HANG_UP,
        true => SILENCE,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_answers_pings_and_not_a_suspect_keeps_nobody_waiting() {
    for protocol in BOTH {
        let script = turns_mute().await;
        let mut settings = mqtt(script.port, protocol);
        settings.ack_patience = Duration::from_millis(700);
        let mut gateway = Gateway::connected(settings, None, 1).await;
        let worker = &mut gateway.workers[0];
        let mute: Vec<u64> = [("mute/1", "a"), ("mute/1", "b"), ("mute/2", "c")]
            .into_iter()
            .map(|(topic, text)| worker.send(message(topic, text, 1)))
            .collect();
        for ticket in mute {
            assert_eq!(
                worker.result(ticket).await,
                Err(BrokerError::Unavailable),
                "no verdict: {protocol:?}"
            );
        }
        worker.publish(message("t", "x", 1)).await.unwrap();
        assert_eq!(refused(&gateway, "hung_up"), 0);
        script.decide(|_| 0);
        for topic in ["mute/2", "mute/1"] {
            gateway.workers[0].publish(message(topic, "x", 1)).await.unwrap();
        }
        gateway.assert_conserved().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_disk_waits_for_a_broker_that_says_nothing_to_it_and_other_suspects_go_on() {
    let state = tempfile::tempdir().unwrap();
    let script = turns_mute().await;
    let mut settings = mqtt(script.port, Protocol::V5);
    settings.ack_patience = Duration::from_millis(1_500);
    let mut gateway = Gateway::connected(settings, Some(state.path()), 1).await;
    let worker = &mut gateway.workers[0];
    let tickets: Vec<u64> = ["mute", "spoken/1", "spoken/2"]
        .into_iter()
        .map(|topic| worker.send(message(topic, "x", 1)))
        .collect();
    for ticket in tickets {
        worker.result(ticket).await.unwrap();
    }
    gateway.until(|snapshot| snapshot.stalls >= 2).await;
    gateway.until(|snapshot| snapshot.spool_messages == 1).await;
    gateway.assert_conserved().await;
    script.decide(|_| 0);
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    assert!(script.published.lock().unwrap().contains(&"mute".into()));
    gateway.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_the_broker_says_nothing_to_holds_up_no_other_suspect() {
    let script = turns_mute().await;
    let mut settings = mqtt(script.port, Protocol::V5);
    settings.ack_patience = Duration::from_millis(700);
    let mut gateway = Gateway::connected(settings, None, 1).await;
    let worker = &mut gateway.workers[0];
    let filter = worker.send_subscribe(1, "mute/+", false);
    let bad = worker.send(message("also/suspect", "x", 1));
    worker.result(bad).await.unwrap();
    assert_eq!(worker.subscribed(filter).await, Err(BrokerError::Unavailable));
    worker.publish(message("t", "x", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_words_that_restarts_is_not_taken_for_one_that_offers_less() {
    let mut mosquitto = Mosquitto::start();
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V4), None, 1).await;
    for _ in 0..3 {
        gateway.workers[0].publish(message("t", "x", 1)).await.unwrap();
        mosquitto.terminate();
        gateway.until_connected(false).await;
        mosquitto.up();
        gateway.until_connected(true).await;
        let snapshot = gateway.snapshot();
        assert_eq!((snapshot.max_qos, snapshot.retains), (2, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_apart_and_goes_to_the_spool_behind_others_is_sent_and_counted_once() {
    let state = tempfile::tempdir().unwrap();
    let met = AtomicUsize::new(0);
    let script = Script::start(move |text| match text.starts_with("t/") {
        true if met.fetch_add(1, Ordering::SeqCst) == 0 => HANG_UP,
        true => SILENCE,
        false => 0,
    })
    .await;
    let mut settings = mqtt(script.port, Protocol::V5);
    settings.ack_patience = Duration::from_secs(3);
    let mut gateway = Gateway::connected(settings, Some(state.path()), 1).await;
    // More than may be under way: those that are become suspects, and the others go to the spool.
    let tickets: Vec<u64> = (0..1_300)
        .map(|number| gateway.workers[0].send(message(&format!("t/{number}"), "x", 1)))
        .collect();
    for ticket in tickets {
        gateway.workers[0].result(ticket).await.unwrap();
    }
    script.decide(|_| 0);
    gateway
        .until(|snapshot| snapshot.spool_messages == 0 && snapshot.acknowledged >= 1_300)
        .await;
    let snapshot = gateway.assert_conserved().await;
    assert_eq!((snapshot.accepted, snapshot.acknowledged), (1_300, 1_300));
}
