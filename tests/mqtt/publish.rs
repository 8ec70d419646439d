//! Publishing: QoS, retain, expiry, content type, refusals.

use std::time::{Duration, Instant};

use portcullis::bridge::contract::BrokerError;
use portcullis::broker::Protocol;
use rumqttc::v5::mqttbytes::QoS;

use crate::harness::*;
use crate::proxy::Proxy;

#[tokio::test(flavor = "multi_thread")]
async fn every_qos_arrives_as_it_was_published() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.subscribe("t/#", 2).await;
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 1).await;
        for qos in 0..=2 {
            let worker = &mut gateway.workers[0];
            worker
                .publish(message("t/x", &format!("qos{qos}"), qos))
                .await
                .unwrap();
            let received = peer.next().await;
            assert_eq!(payload(&received), format!("qos{qos}"));
            assert_eq!(received.qos as u8, qos);
        }
        let snapshot = gateway.assert_conserved().await;
        assert_eq!(
            (snapshot.accepted, snapshot.acknowledged, snapshot.refused),
            (3, 3, 0)
        );
        gateway.runtime.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_expiry_and_content_type_go_along() {
    let mosquitto = Mosquitto::start();
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), None, 1).await;
    let mut sent = retained("t/x", "21.5");
    sent.expires_at = Some(Instant::now() + Duration::from_secs(100));
    sent.content_type = Some("application/cbor".into());
    gateway.workers[0].publish(sent).await.unwrap();
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t/x", 1).await;
    let received = peer.next().await;
    assert!(received.retain);
    let properties = received.properties.unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/cbor"));
    let expiry = properties.message_expiry_interval.unwrap();
    assert!((50..=100).contains(&expiry), "{expiry}");
    gateway.workers[0].publish(retained("t/x", "")).await.unwrap();
    assert_eq!(gateway.workers[0].read("t/x").await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_subscriber_is_success() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut gateway = Gateway::connected(mqtt(mosquitto.port, protocol), None, 1).await;
        for qos in 0..=2 {
            gateway.workers[0]
                .publish(message("nobody/listens", "x", qos))
                .await
                .unwrap();
        }
    }
}

fn with_acl() -> Mosquitto {
    Mosquitto::prepared("allow_anonymous true\nacl_file DIR/acl", |directory| {
        let rules = "topic readwrite open/#\ntopic read closed/#\ntopic readwrite $portcullis/#\n";
        std::fs::write(directory.join("acl"), rules).unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_publish_is_told_so_and_stalls_nothing() {
    let mosquitto = with_acl();
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), None, 1).await;
    let worker = &mut gateway.workers[0];
    assert_eq!(
        worker.publish(message("closed/x", "x", 1)).await,
        Err(BrokerError::NotAuthorized)
    );
    // Far more than the broker's receive maximum of 20, at which rumqttc alone would stop for good.
    for number in 0..300 {
        let result = worker.publish(message("closed/x", "x", 2)).await;
        let state = (number, gateway.runtime.status(), mosquitto.log());
        assert_eq!(result, Err(BrokerError::NotAuthorized), "{state:?}");
    }
    let mut tickets = Vec::new();
    for number in 0..300u32 {
        let (topic, qos) = if number % 2 == 0 {
            ("closed/x", 2)
        } else {
            ("open/x", 1 + (number % 3 % 2) as u8)
        };
        tickets.push((topic, worker.send(message(topic, "x", qos))));
    }
    for (topic, ticket) in tickets {
        let wanted = if topic == "open/x" {
            Ok(())
        } else {
            Err(BrokerError::NotAuthorized)
        };
        assert_eq!(worker.result(ticket).await, wanted, "{topic}");
    }
    let snapshot = gateway.assert_conserved().await;
    assert_eq!((snapshot.accepted, snapshot.refused), (150, 451));
    assert_eq!(
        snapshot.connects.iter().map(|(_, n)| n).sum::<u64>(),
        1,
        "one connection all along"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_broker_takes_is_refused_alone() {
    let mosquitto = Mosquitto::with("allow_anonymous true\nmax_packet_size 2000");
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), None, 1).await;
    let worker = &mut gateway.workers[0];
    assert_eq!(
        worker.publish(message("t", &"x".repeat(3000), 1)).await,
        Err(BrokerError::TooLarge)
    );
    worker.publish(message("t", &"x".repeat(1000), 1)).await.unwrap();
    assert_eq!(gateway.snapshot().connects.iter().map(|(_, n)| n).sum::<u64>(), 1);
}

/// MQTT 5, 4.6 promises order for the messages of one client, topic and QoS, and of a client only that it hands them over
/// in order. Nothing is promised between QoS levels: QoS 2 waits for its PUBREL where QoS 1 does not, and QoS 0 for nothing.
///
/// The peer takes 65,535 messages without acknowledging one, because mosquitto 2.0 breaks the promise behind a smaller
/// window. When a message is acknowledged, it fills the window from its queue up to the place in the list of outgoing messages
/// where that one stood, not up to the number of them; so with QoS 2 messages, which stay longer, among QoS 1 ones, the
/// acknowledgement of one that stood behind the twentieth gives its place free and takes nothing from the queue, and the next
/// message to be published goes out ahead of those that wait (1249 before 1246, say).
#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_mixed_qos_keeps_its_order_and_never_stalls() {
    let mosquitto = Mosquitto::start();
    let mut peer = Peer::with_window(mosquitto.port, u16::MAX).await;
    peer.subscribe("t", 2).await;
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), None, 1).await;
    let worker = &mut gateway.workers[0];
    let tickets: Vec<u64> = (0..2_000)
        .map(|number| worker.send(message("t", &number.to_string(), (number % 3) as u8)))
        .collect();
    for ticket in tickets {
        worker.result(ticket).await.unwrap();
    }
    let mut last: [i64; 3] = [-1; 3];
    for _ in 0..2_000 {
        let received = peer.next().await;
        let number: i64 = payload(&received).parse().unwrap();
        let qos = received.qos;
        assert!(
            number > last[qos as usize],
            "order is kept for each QoS: {number} at {qos:?} (dup {}) after {last:?}",
            received.dup
        );
        assert_eq!(
            qos,
            [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][number as usize % 3]
        );
        last[qos as usize] = number;
    }
    gateway.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_connections_share_the_topics() {
    let mosquitto = Mosquitto::start();
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t/#", 1).await;
    let mut settings = mqtt(mosquitto.port, Protocol::V5);
    settings.connections = 3;
    let mut gateway = Gateway::connected(settings, None, 2).await;
    assert_eq!(gateway.snapshot().connections, 3);
    gateway.workers[1].subscribe(1, "t/+", true).await.unwrap();
    gateway.workers[1].subscribe(2, "t/#", true).await.unwrap();
    for number in 0..90 {
        gateway.workers[0]
            .publish(message(&format!("t/{}", number % 9), &number.to_string(), 1))
            .await
            .unwrap();
    }
    let mut last = [-1i64; 9];
    for _ in 0..90 {
        let number: i64 = payload(&peer.next().await).parse().unwrap();
        assert!(number > last[number as usize % 9], "order is kept for each topic");
        last[number as usize % 9] = number;
    }
    let mut seen = [0; 3];
    while seen[1] + seen[2] < 180 {
        for filter in gateway.workers[1].message().await.0 {
            seen[filter as usize] += 1;
        }
    }
    assert_eq!(seen, [0, 90, 90]);
    gateway.workers[1].assert_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_qos_2_each_message_is_passed_on_once_and_in_order_over_lost_connections() {
    let state = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::start();
    let proxy = Proxy::start(mosquitto.port).await;
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("t", 2).await;
    let mut gateway = Gateway::connected(mqtt(proxy.port, Protocol::V5), Some(state.path()), 1).await;
    let mut tickets = Vec::new();
    for number in 0..600 {
        tickets.push(gateway.workers[0].send(message("t", &number.to_string(), 2)));
        if number % 60 == 59 {
            tokio::time::sleep(Duration::from_millis(number % 7)).await;
            proxy.down();
            tokio::time::sleep(Duration::from_millis(20)).await;
            proxy.up();
            gateway.until_connected(true).await;
            // What the broker hangs up on twice in a row would be suspect.
            for ticket in tickets.drain(..) {
                gateway.workers[0].result(ticket).await.unwrap();
            }
            gateway.until(|snapshot| snapshot.spool_messages == 0).await;
        }
    }
    gateway.until(|snapshot| snapshot.spool_messages == 0).await;
    gateway.assert_conserved().await;
    for number in 0..600 {
        assert_eq!(payload(&peer.next().await), number.to_string());
    }
    assert!(peer.next_within(Duration::from_millis(300)).await.is_none());
}
