//! MQTT 3.1.1 through rumqttc. It knows no reasons, no expiry, no content type, no subscription identifiers.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Packet,
    QoS, StateError, SubscribeReasonCode,
};
use tokio::sync::mpsc;

use crate::metrics::ConnectResult;
use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::types::message::Qos;

use super::wire::{
    CLIENT_QUEUE, Client, Ending, Greeting, Happening, Inbound, Link, MAX_AT_QOS2, MAX_IN_FLIGHT, Outbound,
    Refusal, Subscription,
};

/// Starts a connection. `patience` is the longest time in which nothing at all may happen on it.
pub(super) fn connect(options: MqttOptions, network: NetworkOptions, patience: Duration) -> Link {
    let (client, mut events) = AsyncClient::new(options, CLIENT_QUEUE);
    events.set_network_options(network);
    let (sender, happenings) = mpsc::channel(64);
    let task = tokio::spawn(pump(events, patience, sender));
    Link::new(Client::V4(client), happenings, task)
}

const fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    }
}

pub(super) fn publish(client: &AsyncClient, publish: &Outbound<'_>) -> bool {
    let message = publish.message;
    client
        .try_publish(
            message.topic.as_str(),
            qos(publish.qos),
            message.retain,
            message.payload.clone(),
        )
        .is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, subscription: &Subscription<'_>) -> bool {
    client
        .try_subscribe(subscription.filter, qos(subscription.qos))
        .is_ok()
}

async fn pump(mut events: EventLoop, patience: Duration, out: mpsc::Sender<Vec<Happening>>) {
    let mut connected = false;
    loop {
        let polled = tokio::time::timeout(patience, events.poll()).await;
        let mut batch = Vec::new();
        let ending = match polled {
            Ok(Ok(first)) => {
                connected = true;
                batch.extend(take(first));
                None
            }
            Ok(Err(error)) => Some(ending(&error, connected)),
            Err(_) => Some(Ending {
                result: ConnectResult::Unreachable,
                text: "nothing was sent or received for too long".into(),
                by_broker: false,
            }),
        };
        while let Some(next) = events.state.events.pop_front() {
            // What was to be sent when the connection broke was not sent.
            if ending.is_none() || matches!(next, Event::Incoming(_)) {
                batch.extend(take(next));
            }
        }
        let over = ending.is_some();
        batch.extend(ending.map(Happening::Ended));
        if !batch.is_empty() && out.send(batch).await.is_err() || over {
            return;
        }
    }
}

fn take(event: Event) -> Option<Happening> {
    match event {
        Event::Outgoing(outgoing) => super::sent(&outgoing),
        Event::Incoming(packet) => received(packet),
    }
}

fn received(packet: Packet) -> Option<Happening> {
    Some(match packet {
        Packet::ConnAck(connack) => Happening::Connected(Greeting {
            session_present: connack.session_present,
            in_flight: MAX_IN_FLIGHT,
            at_qos2: MAX_AT_QOS2,
            max_qos: Qos::ExactlyOnce,
            retain: true,
            names_subscriptions: false,
            max_packet: super::MAX_PACKET,
        }),
        Packet::PubAck(ack) => Happening::Acknowledged(ack.pkid, Ok(())),
        Packet::PubComp(comp) => Happening::Acknowledged(comp.pkid, Ok(())),
        Packet::SubAck(ack) => {
            let refused = ack.return_codes.contains(&SubscribeReasonCode::Failure);
            // 3.1.1 has one code for all refusals. Most brokers use it for what a client may not read; a cluster without a
            // leader says it too.
            let result = if refused {
                Err(Refusal::for_now(BrokerError::NotAuthorized))
            } else {
                Ok(())
            };
            Happening::Subscribed(ack.pkid, result)
        }
        Packet::UnsubAck(ack) => Happening::Unsubscribed(ack.pkid),
        Packet::Publish(publish) => Happening::Message(Inbound {
            topic: Bytes::from(publish.topic),
            payload: publish.payload,
            qos: match publish.qos {
                QoS::AtMostOnce => Qos::AtMostOnce,
                QoS::AtLeastOnce => Qos::AtLeastOnce,
                QoS::ExactlyOnce => Qos::ExactlyOnce,
            },
            retained: publish.retain,
            content_type: None,
            expiry: None,
            subscriptions: Vec::new(),
            origin: None,
        }),
        _ => return None,
    })
}

fn ending(error: &ConnectionError, connected: bool) -> Ending {
    let result = match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::RefusedProtocolVersion) => {
            ConnectResult::Protocol
        }
        ConnectionError::ConnectionRefused(_) => ConnectResult::Refused,
        ConnectionError::NotConnAck(_) | ConnectionError::MqttState(_) if !connected => {
            ConnectResult::Protocol
        }
        _ => ConnectResult::Unreachable,
    };
    let text = match (result, error) {
        (ConnectResult::Protocol, ConnectionError::ConnectionRefused(_)) => {
            "the broker refuses MQTT 3.1.1; set broker.protocol = 5".into()
        }
        _ => error.to_string(),
    };
    let reset = text.contains("reset by peer") || text.contains("Broken pipe");
    Ending {
        result,
        text,
        by_broker: reset || matches!(error, ConnectionError::MqttState(StateError::ConnectionAborted)),
    }
}
