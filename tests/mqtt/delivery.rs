//! Messages from the broker: their properties, and whether they are our own.

use std::time::{Duration, Instant};

use portcullis::broker::Protocol;
use portcullis::types::ClientId;
use portcullis::types::message::{Message, Origin};
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn content_type_and_expiry_come_in() {
    let mosquitto = Mosquitto::start();
    let mut peer = Peer::connect(mosquitto.port).await;
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), None, 1).await;
    gateway.workers[0].subscribe(1, "t/x", true).await.unwrap();
    let properties = PublishProperties {
        content_type: Some("application/json".into()),
        message_expiry_interval: Some(60),
        ..PublishProperties::default()
    };
    peer.publish_with("t/x", "{}", false, properties).await;
    let (_, message) = gateway.workers[0].message().await;
    assert_eq!(message.content_type.as_deref(), Some("application/json"));
    let left = message.expires_at.unwrap() - Instant::now();
    assert!(
        left > Duration::from_secs(10) && left <= Duration::from_secs(60),
        "{left:?}"
    );
    assert_eq!(message.origin, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_messages_come_back_with_their_origin() {
    for protocol in BOTH {
        let mosquitto = Mosquitto::start();
        let mut peer = Peer::connect(mosquitto.port).await;
        peer.subscribe("t/x", 1).await;
        let mut settings = mqtt(mosquitto.port, protocol);
        settings.connections = 2;
        let mut gateway = Gateway::connected(settings, None, 2).await;
        gateway.workers[1].subscribe(1, "t/#", true).await.unwrap();
        gateway.workers[1].subscribe(2, "t/+", true).await.unwrap();
        let origin = Origin {
            peer: 42,
            client: ClientId::new("secret-client"),
        };
        let sent = Message {
            origin: Some(origin.clone()),
            ..message("t/x", "mine", 1)
        };
        gateway.workers[0].publish(sent).await.unwrap();
        let mut filters = 0;
        while filters < 2 {
            let (of, message) = gateway.workers[1].message().await;
            assert_eq!(message.origin.as_ref(), Some(&origin));
            filters += of.len();
        }
        peer.publish("t/x", "foreign", false).await;
        assert_eq!(gateway.workers[1].message().await.1.origin, None);
        let seen = format!("{:?}", peer.next().await);
        assert!(
            !seen.contains("secret-client"),
            "others learn nothing of the client: {seen}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_events_are_plain_publishes() {
    let mosquitto = Mosquitto::start();
    let mut peer = Peer::connect(mosquitto.port).await;
    peer.subscribe("$portcullis/node/clients/#", 1).await;
    let mut gateway = Gateway::connected(mqtt(mosquitto.port, Protocol::V5), None, 1).await;
    let topic = "$portcullis/node/clients/dev-1/connected";
    gateway.workers[0].publish(message(topic, "{}", 1)).await.unwrap();
    assert_eq!(peer.next().await.topic, topic);
}
