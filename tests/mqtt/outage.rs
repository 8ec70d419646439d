//! Store and forward: the broker away, killed, slow; the spool full; the gateway restarted.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use portcullis::bridge::contract::BrokerError;
use portcullis::broker::{MqttSettings, Protocol};

use crate::harness::*;
use crate::proxy::Proxy;
use crate::script::{HANG_UP, SILENCE, Script};

/// For a connection that something else than missing acknowledgements is to end.
pub const FOR_EVER: Duration = Duration::from_secs(3_600);

/// A mosquitto that keeps what it holds over an orderly end.
pub const PERSISTENT: &str = "allow_anonymous true\npersistence true\npersistence_location DIR/";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_while_the_broker_is_away_arrives_in_order() {
    for protocol in BOTH {
        let state = tempfile::tempdir().unwrap();
        let mosquitto = Mosquitto::start();
        let proxy = Proxy::start(mosquitto.port).await;
        proxy.down();
        let mut gateway = Gateway::start(mqtt(proxy.port, protocol), Some(state.path()), 1);
        let worker = &mut gateway.workers[0];
        for number in 0..200 {
            worker
                .publish(message("t/x", &number.to_string(), 1 + (number / 100) as u8))
                .await
                .unwrap();
        }
        assert_eq!(
            worker.publish(message("t/x", "qos0", 0)).await,
            Err(BrokerError::Unavailable)
        );
        let snapshot = gateway.assert_conserved().await;
        assert_eq!((snapshot.accepted, snapshot.spool_messages), (200, 200));
        assert!(snapshot.spool_oldest_timestamp_seconds > 1e9);
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.subscribe("t/x", 2).await;
        proxy.up();
        for number in 0..200 {
            assert_eq!(payload(&peer.next().await), number.to_string());
        }
        gateway.until(|snapshot| snapshot.spool_messages == 0).await;
        let snapshot = gateway.assert_conserved().await;
        assert_eq!(
            (
                snapshot.acknowledged,
                snapshot.spool_bytes,
                snapshot.spool_disk_bytes
            ),
            (200, 0, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_publishes_survive_three_restarts_of_the_broker_in_order() {
    for protocol in BOTH {
        let state = tempfile::tempdir().unwrap();
        let mut mosquitto = Mosquitto::with(PERSISTENT);
        let mut peer = Peer::named(mosquitto.port, "observer", false).await;
        peer.subscribe("c/#", 1).await;
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), Some(state.path()), 1).await;
        let mut tickets = Vec::new();
        for number in 0..5_000u32 {
            let topic = format!("c/{}", number % 5);
            tickets.push((
                number,
                gateway.workers[0].send(message(&topic, &number.to_string(), 1)),
            ));
            if number % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if [1_000, 2_500, 4_000].contains(&number) {
                mosquitto.terminate();
            }
            if [1_400, 2_900, 4_400].contains(&number) {
                mosquitto.up();
            }
        }
        let mut accepted = HashSet::new();
        for (number, ticket) in tickets {
            if gateway.workers[0].result(ticket).await.is_ok() {
                accepted.insert(number);
            }
        }
        assert_eq!(accepted.len(), 5_000, "with a spool nothing is refused");
        gateway.until(|snapshot| snapshot.spool_messages == 0).await;
        let snapshot = gateway.assert_conserved().await;
        assert_eq!((snapshot.accepted, snapshot.acknowledged), (5_000, 5_000));
        let mut seen = HashSet::new();
        let mut last = [0; 5];
        while seen.len() < 5_000 {
            let Some(received) = peer.next_within(PATIENCE).await else {
                break;
            };
            let number: u32 = payload(&received).parse().unwrap();
            if seen.insert(number) {
                let client = &mut last[number as usize % 5];
                assert!(*client <= number, "order of first arrivals");
                *client = number;
            }
        }
        let missing: Vec<_> = accepted.difference(&seen).collect();
        assert!(missing.is_empty(), "{} missing: {missing:?}", missing.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_and_accepts_again_once_there_is_room() {
    let state = tempfile::tempdir().unwrap();
    let mut mosquitto = Mosquitto::start();
    mosquitto.kill();
    let mut settings = mqtt(mosquitto.port, Protocol::V5);
    settings.spool_bytes = 1 << 20;
    let mut gateway = Gateway::start(settings, Some(state.path()), 1);
    let mut accepted = 0;
    let refused = loop {
        match gateway.workers[0]
            .publish(message("t/x", &"x".repeat(10_000), 1))
            .await
        {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, BrokerError::Quota);
    assert!(accepted > 90, "{accepted}");
    let snapshot = gateway.assert_conserved().await;
    assert_eq!(
        (snapshot.accepted, snapshot.spool_messages, snapshot.spool_full),
        (accepted, accepted, 1)
    );
    assert!(snapshot.spool_disk_bytes <= snapshot.spool_capacity_bytes);
    mosquitto.up();
    gateway.until(|snapshot| snapshot.acknowledged == accepted).await;
    gateway.workers[0]
        .publish(message("t/x", "again", 1))
        .await
        .unwrap();
    gateway.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_spool_nothing_is_promised_while_the_broker_is_away() {
    let state = tempfile::tempdir().unwrap();
    let mut mosquitto = Mosquitto::start();
    let mut settings = mqtt(mosquitto.port, Protocol::V5);
    settings.spool_bytes = 0;
    let mut gateway = Gateway::connected(settings, Some(state.path()), 1).await;
    gateway.workers[0].publish(message("t", "x", 1)).await.unwrap();
    mosquitto.kill();
    gateway.until_connected(false).await;
    assert_eq!(
        gateway.workers[0].publish(message("t", "x", 1)).await,
        Err(BrokerError::Unavailable)
    );
    mosquitto.up();
    gateway.until_connected(true).await;
    gateway.workers[0].publish(message("t", "x", 1)).await.unwrap();
    gateway.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_goes_on_in_the_spool() {
    let state = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::start();
    let proxy = Proxy::start(mosquitto.port).await;
    proxy.down();
    let mut gateway = Gateway::start(mqtt(proxy.port, Protocol::V5), Some(state.path()), 1);
    for (payload, seconds) in [("short", 1), ("long", 60), ("short", 1)] {
        let mut sent = message("t/x", payload, 1);
        sent.expires_at = Some(Instant::now() + Duration::from_secs(seconds));
        gateway.workers[0].publish(sent).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    // The oldest expires while the broker is away.
    gateway.until(|snapshot| snapshot.spool_messages == 2).await;
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t/x", 1).await;
    proxy.up();
    let received = peer.next().await;
    assert_eq!(payload(&received), "long");
    let left = received.properties.unwrap().message_expiry_interval.unwrap();
    assert!((5..=57).contains(&left), "{left}");
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    let snapshot = gateway.assert_conserved().await;
    assert_eq!((snapshot.acknowledged, snapshot.dropped_total()), (1, 2));
    assert!(snapshot.dropped.contains(&("expired", 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_broker_does_not_keep_clients_waiting() {
    let state = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::start();
    let proxy = Proxy::start(mosquitto.port).await;
    let mut settings = mqtt(proxy.port, Protocol::V5);
    settings.ack_patience = FOR_EVER;
    let mut gateway = Gateway::connected(settings, Some(state.path()), 1).await;
    gateway.workers[0]
        .publish(message("t/x", "first", 1))
        .await
        .unwrap();
    proxy.swallow();
    let begun = Instant::now();
    gateway.workers[0]
        .publish(message("t/x", "second", 1))
        .await
        .unwrap();
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
    assert!(gateway.snapshot().connected, "the line has not been given up yet");
    assert_eq!(gateway.snapshot().spool_messages, 1);
    // The dead line is noticed by its pings, of which there is one in 5 s; TCP would take a quarter of an hour.
    gateway.until_connected(false).await;
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t/x", 1).await;
    proxy.up();
    assert_eq!(payload(&peer.next().await), "second");
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    gateway.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_the_spool_and_more_connections_keep_the_order() {
    let state = tempfile::tempdir().unwrap();
    let mut mosquitto = Mosquitto::start();
    mosquitto.kill();
    let mut sent = 0;
    for connections in [1, 3, 2] {
        let mut settings = mqtt(mosquitto.port, Protocol::V5);
        settings.connections = connections;
        let mut gateway = Gateway::start(settings, Some(state.path()), 1);
        assert_eq!(gateway.snapshot().recovered, sent);
        for _ in 0..100 {
            let topic = format!("t/{}", sent % 10);
            gateway.workers[0]
                .publish(message(&topic, &sent.to_string(), 1))
                .await
                .unwrap();
            sent += 1;
        }
        gateway.assert_conserved().await;
        gateway.runtime.shutdown().await;
    }
    mosquitto.up();
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t/#", 1).await;
    let gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), Some(state.path()), 1).await;
    let mut last = [-1i64; 10];
    for _ in 0..300 {
        let number: i64 = payload(&peer.next().await).parse().unwrap();
        assert!(last[number as usize % 10] < number);
        last[number as usize % 10] = number;
    }
    gateway.until(|snapshot| snapshot.acknowledged == 300).await;
    let snapshot = gateway.assert_conserved().await;
    assert_eq!((snapshot.recovered, snapshot.spool_messages), (300, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_refuses_later_is_counted_as_dropped() {
    let state = tempfile::tempdir().unwrap();
    let script = Script::start(|topic| if topic == "no" { 0x87 } else { 0 }).await;
    let proxy = Proxy::start(script.port).await;
    proxy.down();
    let mut gateway = Gateway::start(mqtt(proxy.port, Protocol::V5), Some(state.path()), 1);
    for topic in ["a", "no", "b", "no", "c"] {
        gateway.workers[0].publish(message(topic, "x", 1)).await.unwrap();
    }
    proxy.up();
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    let snapshot = gateway.assert_conserved().await;
    assert!(snapshot.dropped.contains(&("refused", 2)), "{snapshot:?}");
    let published: Vec<String> = script
        .published
        .lock()
        .unwrap()
        .iter()
        .filter(|t| !t.starts_with('$'))
        .cloned()
        .collect();
    assert_eq!(published, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_of_the_broker_delays_what_was_accepted_and_refuses_what_was_not() {
    let state = tempfile::tempdir().unwrap();
    let script = Script::start(|topic| if topic == "full" { 0x97 } else { 0 }).await;
    let proxy = Proxy::start(script.port).await;
    let mut gateway = Gateway::connected(mqtt(proxy.port, Protocol::V5), Some(state.path()), 1).await;
    assert_eq!(
        gateway.workers[0].publish(message("full", "x", 1)).await,
        Err(BrokerError::Quota)
    );
    proxy.down();
    gateway.until_connected(false).await;
    gateway.workers[0].publish(message("full", "x", 1)).await.unwrap();
    gateway.workers[0]
        .publish(message("other", "x", 1))
        .await
        .unwrap();
    proxy.up();
    gateway.until_connected(true).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(gateway.snapshot().spool_messages >= 1);
    assert_eq!(gateway.snapshot().dropped_total(), 0);
    script.decide(|_| 0);
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    let snapshot = gateway.assert_conserved().await;
    assert_eq!((snapshot.acknowledged, snapshot.dropped_total()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_at_which_the_broker_hangs_up_does_not_hold_up_the_others_for_ever() {
    let state = tempfile::tempdir().unwrap();
    let script = Script::start(|topic| if topic == "poison" { HANG_UP } else { 0 }).await;
    let mut gateway = Gateway::connected(mqtt(script.port, Protocol::V5), Some(state.path()), 1).await;
    for topic in ["a", "poison", "b", "c"] {
        let result = gateway.workers[0].publish(message(topic, "x", 1)).await;
        assert!(result.is_ok() || topic == "poison", "{topic}: {result:?}");
    }
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    let snapshot = gateway.assert_conserved().await;
    // Refused, or dropped when the verdict came after the spool's answer.
    assert_eq!(snapshot.dropped_total() + snapshot.refused, 1, "{snapshot:?}");
    let published = script.published.lock().unwrap();
    assert!(
        ["a", "b", "c"]
            .iter()
            .all(|topic| published.iter().any(|seen| seen == topic))
    );
}

/// Settings for a script, which gives up on it after a second without an acknowledgement.
fn impatient(script: &Script) -> MqttSettings {
    let mut settings = mqtt(script.port, Protocol::V5);
    settings.ack_patience = Duration::from_secs(1);
    settings
}

const STALLED: &str = "the broker does not acknowledge";

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_answers_pings_but_acknowledges_no_publish_is_left_and_tried_again() {
    let state = tempfile::tempdir().unwrap();
    let script = Script::start(|topic| if topic == "stuck" { SILENCE } else { 0 }).await;
    let mut gateway = Gateway::connected(impatient(&script), Some(state.path()), 1).await;
    let worker = &mut gateway.workers[0];
    worker.publish(message("fine", "x", 1)).await.unwrap();
    let ticket = worker.send(message("stuck", "x", 1));
    for topic in ["a", "b", "c"] {
        worker.publish(message(topic, "x", 1)).await.unwrap();
    }
    worker.result(ticket).await.expect("answered from the spool");
    gateway
        .until(|_| gateway.runtime.status().to_string().contains(STALLED))
        .await;
    // As often as the broker may hang up at a message before that is given up: this one is not.
    gateway.until(|snapshot| snapshot.stalls >= 6).await;
    assert!(gateway.snapshot().spool_messages >= 1);
    script.decide(|_| 0);
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    let snapshot = gateway.assert_conserved().await;
    assert_eq!((snapshot.acknowledged, snapshot.dropped_total()), (5, 0));
    assert!(
        script
            .published
            .lock()
            .unwrap()
            .iter()
            .any(|topic| topic == "stuck")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_spool_a_publish_that_is_never_acknowledged_is_answered_unavailable() {
    let script = Script::start(|topic| if topic == "stuck" { SILENCE } else { 0 }).await;
    let mut gateway = Gateway::connected(impatient(&script), None, 1).await;
    for qos in 1..=2 {
        gateway.until_connected(true).await;
        let result = gateway.workers[0].publish(message("stuck", "x", qos)).await;
        assert_eq!(result, Err(BrokerError::Unavailable), "qos {qos}");
    }
    gateway
        .until(|snapshot| snapshot.connected && snapshot.stalls >= 2)
        .await;
    gateway.workers[0].publish(message("fine", "x", 1)).await.unwrap();
    gateway.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribe_that_is_never_acknowledged_is_answered_and_those_that_stand_are_kept() {
    let script = Script::start(|topic| if topic == "stuck" { SILENCE } else { 0 }).await;
    let mut gateway = Gateway::connected(impatient(&script), None, 1).await;
    let worker = &mut gateway.workers[0];
    worker.subscribe(1, "stands", true).await.unwrap();
    assert_eq!(
        worker.subscribe(2, "stuck", true).await,
        Err(BrokerError::Unavailable)
    );
    gateway
        .until(|snapshot| snapshot.connected && snapshot.stalls >= 1)
        .await;
    gateway.workers[0].drain();
    assert_eq!(
        (&*gateway.workers[0].lost, gateway.snapshot().subscriptions),
        (&[][..], 1)
    );
    assert_eq!(
        gateway.workers[0].read("stuck").await,
        Err(BrokerError::Unavailable)
    );
    script.decide(|_| 0);
    gateway
        .until(|snapshot| snapshot.connected && snapshot.stalls >= 2)
        .await;
    gateway.workers[0].subscribe(2, "stuck", true).await.unwrap();
    assert_eq!(gateway.snapshot().subscriptions, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsubscribe_that_is_never_acknowledged_ends_the_connection_too() {
    let script = Script::start(|_| 0).await;
    let mut gateway = Gateway::connected(impatient(&script), None, 1).await;
    gateway.workers[0].subscribe(1, "gone", true).await.unwrap();
    script.decide(|topic| if topic == "gone" { SILENCE } else { 0 });
    gateway.workers[0].unsubscribe(1);
    gateway
        .until(|snapshot| snapshot.connected && snapshot.stalls >= 1)
        .await;
    gateway.workers[0].publish(message("fine", "x", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_slow_but_goes_on_acknowledging_is_not_given_up() {
    let state = tempfile::tempdir().unwrap();
    // Each takes a small part of the patience, all together more than twice of it.
    let script = Script::start(|topic| {
        if topic == "slow" {
            std::thread::sleep(Duration::from_millis(100));
        }
        0
    })
    .await;
    let mut settings = impatient(&script);
    settings.ack_patience = Duration::from_secs(2);
    let mut gateway = Gateway::connected(settings, Some(state.path()), 1).await;
    let tickets: Vec<u64> = (0..50)
        .map(|_| gateway.workers[0].send(message("slow", "x", 1)))
        .collect();
    for ticket in tickets {
        gateway.workers[0].result(ticket).await.unwrap();
    }
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    let snapshot = gateway.assert_conserved().await;
    assert_eq!((snapshot.acknowledged, snapshot.stalls), (50, 0), "{snapshot:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_answers_everything_and_loses_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::with(PERSISTENT);
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t/x", 1).await;
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), Some(state.path()), 1).await;
    let tickets: Vec<u64> = (0..3_000)
        .map(|number| gateway.workers[0].send(message("t/x", &number.to_string(), 1)))
        .collect();
    gateway.runtime.shutdown().await;
    gateway.workers[0].drain();
    for ticket in tickets {
        assert_eq!(gateway.workers[0].results.remove(&ticket), Some(Ok(())));
    }
    let gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), Some(state.path()), 1).await;
    let mut seen = HashSet::new();
    while seen.len() < 3_000 {
        seen.insert(payload(&peer.next().await));
    }
    gateway.assert_conserved().await;
}
