//! MQTT 5 through rumqttc. One task polls the event loop and tells the lane what happens; nothing else does.

use std::time::Duration;

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Filter, Packet, PubAckReason, PubCompReason, PubRecReason, Publish,
    PublishProperties, RetainForwardRule, SubscribeProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, MqttState, StateError};
use tokio::sync::mpsc;

use crate::metrics::ConnectResult;
use crate::origin::{ORIGIN_PROPERTY, OriginTag};
use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::types::message::Qos;

use super::wire::{
    CLIENT_QUEUE, Client, Ending, Greeting, Happening, Inbound, Link, MAX_IN_FLIGHT, Outbound, Refusal,
    Subscription,
};

/// Starts a connection. `patience` is the longest time in which nothing at all may happen on it.
pub(super) fn connect(options: MqttOptions, patience: Duration) -> Link {
    let (client, events) = AsyncClient::new(options, CLIENT_QUEUE);
    let (sender, happenings) = mpsc::channel(64);
    let task = tokio::spawn(pump(events, patience, sender));
    Link::new(Client::V5(client), happenings, task)
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
    let properties = PublishProperties {
        message_expiry_interval: publish.expiry,
        content_type: message.content_type.as_deref().map(Into::into),
        user_properties: publish
            .origin
            .iter()
            .map(|tag| (ORIGIN_PROPERTY.into(), tag.to_text()))
            .collect(),
        ..PublishProperties::default()
    };
    client
        .try_publish_with_properties(
            message.topic.as_str(),
            qos(publish.qos),
            message.retain,
            message.payload.clone(),
            properties,
        )
        .is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, subscription: &Subscription<'_>) -> bool {
    let filter = Filter {
        path: subscription.filter.into(),
        qos: qos(subscription.qos),
        nolocal: false,
        preserve_retain: false,
        retain_forward_rule: if subscription.retained {
            RetainForwardRule::OnEverySubscribe
        } else {
            RetainForwardRule::Never
        },
    };
    let properties = SubscribeProperties {
        id: subscription.number.map(|number| number as usize),
        user_properties: Vec::new(),
    };
    client
        .try_subscribe_many_with_properties([filter], properties)
        .is_ok()
}

async fn pump(mut events: EventLoop, patience: Duration, out: mpsc::Sender<Vec<Happening>>) {
    let mut flight = Flight::default();
    loop {
        let polled = tokio::time::timeout(patience, events.poll()).await;
        let mut batch = Vec::new();
        let ending = match polled {
            Ok(Ok(first)) => {
                flight.take(first, &mut batch);
                None
            }
            Ok(Err(error)) => Some(ending(&error, flight.connack.is_some())),
            Err(_) => Some(Ending {
                result: ConnectResult::Unreachable,
                text: "nothing was sent or received for too long".into(),
                by_broker: false,
            }),
        };
        while let Some(next) = events.state.events.pop_front() {
            // What was to be sent when the connection broke was not sent.
            if ending.is_none() || matches!(next, Event::Incoming(_)) {
                flight.take(next, &mut batch);
            }
        }
        flight.free_leaked(&mut events);
        let over = ending.is_some();
        batch.extend(ending.map(Happening::Ended));
        if !batch.is_empty() && out.send(batch).await.is_err() || over {
            return;
        }
    }
}

/// What is under way at QoS 1 and 2.
///
/// rumqttc leaves the slot of a QoS 2 publish taken when the broker ends it with an error (a PUBREC of 0x80 and above,
/// an unknown packet identifier); with all slots taken nothing is sent any more. So these are counted here, and once
/// nothing else is under way its state is replaced by a fresh one. That moment comes: with slots taken ever less is sent,
/// at last nothing, and then all that was sent is soon acknowledged.
#[derive(Default)]
struct Flight {
    connack: Option<ConnAck>,
    sent: u64,
    leaked: u64,
}

impl Flight {
    fn take(&mut self, event: Event, batch: &mut Vec<Happening>) {
        match event {
            Event::Outgoing(outgoing) => {
                self.sent += u64::from(matches!(outgoing, Outgoing::Publish(1..)));
                batch.extend(super::sent(&outgoing));
            }
            Event::Incoming(packet) => batch.extend(self.received(packet)),
        }
    }

    fn ended(&mut self, leaked: bool) {
        self.sent = self.sent.saturating_sub(1);
        self.leaked += u64::from(leaked);
    }

    fn received(&mut self, packet: Packet) -> Option<Happening> {
        Some(match packet {
            Packet::ConnAck(connack) => {
                let greeting = greeting(&connack);
                self.connack = Some(connack);
                Happening::Connected(greeting)
            }
            Packet::PubAck(ack) => {
                self.ended(false);
                Happening::Acknowledged(ack.pkid, puback(ack.reason))
            }
            Packet::PubRec(rec) => {
                let result = pubrec(rec.reason);
                if result.is_ok() {
                    return None;
                }
                self.ended(true);
                Happening::Acknowledged(rec.pkid, result)
            }
            Packet::PubComp(comp) => {
                self.ended(comp.reason != PubCompReason::Success);
                Happening::Acknowledged(comp.pkid, Ok(()))
            }
            Packet::SubAck(ack) => {
                let refused = ack.return_codes.iter().find_map(|code| suback(*code).err());
                Happening::Subscribed(ack.pkid, refused.map_or(Ok(()), Err))
            }
            Packet::UnsubAck(ack) => Happening::Unsubscribed(ack.pkid),
            Packet::Publish(publish) => Happening::Message(inbound(publish)),
            _ => return None,
        })
    }

    fn free_leaked(&mut self, events: &mut EventLoop) {
        let Some(connack) = &self.connack else { return };
        let slots = u64::from(greeting(connack).in_flight);
        if self.sent > 0 || self.leaked == 0 || self.leaked < slots / 2 {
            return;
        }
        let mut fresh = MqttState::new(MAX_IN_FLIGHT, false);
        if fresh
            .handle_incoming_packet(Packet::ConnAck(connack.clone()))
            .is_err()
        {
            return;
        }
        fresh.events.clear();
        fresh.await_pingresp = events.state.await_pingresp;
        events.state = fresh;
        self.leaked = 0;
    }
}

fn inbound(publish: Publish) -> Inbound {
    let properties = publish.properties.unwrap_or_default();
    let origin = properties
        .user_properties
        .iter()
        .find(|(name, _)| name == ORIGIN_PROPERTY)
        .and_then(|(_, text)| OriginTag::from_text(text));
    Inbound {
        topic: publish.topic,
        payload: publish.payload,
        qos: match publish.qos {
            QoS::AtMostOnce => Qos::AtMostOnce,
            QoS::AtLeastOnce => Qos::AtLeastOnce,
            QoS::ExactlyOnce => Qos::ExactlyOnce,
        },
        retained: publish.retain,
        content_type: properties.content_type.map(Into::into),
        expiry: properties.message_expiry_interval,
        subscriptions: properties.subscription_identifiers,
        origin,
    }
}

fn greeting(connack: &ConnAck) -> Greeting {
    let properties = connack.properties.as_ref();
    let available = |value: Option<u8>| value != Some(0);
    let in_flight = properties
        .and_then(|p| p.receive_max)
        .unwrap_or(u16::MAX)
        .clamp(1, MAX_IN_FLIGHT);
    Greeting {
        session_present: connack.session_present,
        in_flight,
        at_qos2: in_flight,
        max_qos: properties
            .and_then(|p| p.max_qos)
            .and_then(Qos::from_number)
            .unwrap_or(Qos::ExactlyOnce),
        retain: available(properties.and_then(|p| p.retain_available)),
        names_subscriptions: available(properties.and_then(|p| p.subscription_identifiers_available)),
        max_packet: properties
            .and_then(|p| p.max_packet_size)
            .map_or(super::MAX_PACKET, |size| (size as usize).min(super::MAX_PACKET)),
    }
}

fn puback(reason: PubAckReason) -> Result<(), Refusal> {
    Err(match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return Ok(()),
        PubAckReason::NotAuthorized => Refusal::now(BrokerError::NotAuthorized),
        PubAckReason::QuotaExceeded => Refusal::for_now(BrokerError::Quota),
        PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => {
            Refusal::now(BrokerError::Refused)
        }
        PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse => Refusal::now(BrokerError::Unavailable),
    })
}

fn pubrec(reason: PubRecReason) -> Result<(), Refusal> {
    Err(match reason {
        PubRecReason::Success | PubRecReason::NoMatchingSubscribers => return Ok(()),
        PubRecReason::NotAuthorized => Refusal::now(BrokerError::NotAuthorized),
        PubRecReason::QuotaExceeded => Refusal::for_now(BrokerError::Quota),
        PubRecReason::TopicNameInvalid | PubRecReason::PayloadFormatInvalid => {
            Refusal::now(BrokerError::Refused)
        }
        PubRecReason::UnspecifiedError
        | PubRecReason::ImplementationSpecificError
        | PubRecReason::PacketIdentifierInUse => Refusal::now(BrokerError::Unavailable),
    })
}

fn suback(code: SubscribeReasonCode) -> Result<(), Refusal> {
    Err(match code {
        SubscribeReasonCode::Success(_) => return Ok(()),
        SubscribeReasonCode::NotAuthorized => Refusal::now(BrokerError::NotAuthorized),
        SubscribeReasonCode::QuotaExceeded => Refusal::for_now(BrokerError::Quota),
        SubscribeReasonCode::TopicFilterInvalid
        | SubscribeReasonCode::SharedSubscriptionsNotSupported
        | SubscribeReasonCode::SubscriptionIdNotSupported
        | SubscribeReasonCode::WildcardSubscriptionsNotSupported => Refusal::now(BrokerError::Refused),
        SubscribeReasonCode::Failure
        | SubscribeReasonCode::Unspecified
        | SubscribeReasonCode::ImplementationSpecific
        | SubscribeReasonCode::PkidInUse => Refusal::for_now(BrokerError::Unavailable),
    })
}

fn ending(error: &ConnectionError, connected: bool) -> Ending {
    let result = match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion,
        ) => ConnectResult::Protocol,
        ConnectionError::ConnectionRefused(_) => ConnectResult::Refused,
        // It took the connection and then made nothing of an MQTT 5 CONNECT.
        ConnectionError::NotConnAck(_) | ConnectionError::MqttState(_) if !connected => {
            ConnectResult::Protocol
        }
        _ => ConnectResult::Unreachable,
    };
    let text = match (result, error) {
        (ConnectResult::Protocol, ConnectionError::ConnectionRefused(_)) => {
            "the broker refuses MQTT 5; set broker.protocol = 4".into()
        }
        (ConnectResult::Protocol, _) => format!(
            "no proper answer to CONNECT ({error}); a broker that does not speak MQTT 5 does so: then set \
             broker.protocol = 4"
        ),
        _ => error.to_string(),
    };
    Ending {
        result,
        text,
        by_broker: matches!(
            error,
            ConnectionError::MqttState(StateError::ServerDisconnect { .. } | StateError::ConnectionAborted)
        ) || is_reset(error),
    }
}

fn is_reset(error: &ConnectionError) -> bool {
    let text = error.to_string();
    text.contains("reset by peer") || text.contains("Broken pipe")
}
