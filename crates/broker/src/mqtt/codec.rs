//! MQTT packets of both protocol versions as one, over rumqttc's codec.
//!
//! Packets that hold little beside a reason code are read here: that codec gives up a connection at a code that it does not
//! know (MQTT 5, 2.4 has any code of 0x80 and above mean a failure), and knows fewer than brokers send.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes as v4;
use rumqttc::v5::mqttbytes as v5;

use crate::origin::{ORIGIN_PROPERTY, OriginTag};
use crate::settings::Protocol;
use portcullis_proto::types::TopicName;
use portcullis_proto::types::message::{Correspondence, Message, Qos};

/// Largest packet in bytes, either way.
pub(super) const MAX_PACKET: usize = 64 << 20;

/// The numbers of the packets without much in them (MQTT 5, 2.1.2), with the flags that go out with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    Puback = 0x40,
    Pubrec = 0x50,
    Pubrel = 0x62,
    Pubcomp = 0x70,
}

/// What the broker said of itself when it accepted the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    /// It still knows our subscriptions.
    pub(super) session_present: bool,
    /// The publishes at QoS 1 and 2 that it takes without acknowledging one.
    pub(super) in_flight: u16,
    /// How many of these at QoS 2.
    pub(super) at_qos2: u16,
    /// The highest QoS it takes.
    pub(super) max_qos: Qos,
    /// Whether it keeps retained messages.
    pub(super) retain: bool,
    /// Whether it takes filters with wildcards.
    pub(super) wildcards: bool,
    /// Whether it names the matching subscriptions with each message.
    pub(super) names_subscriptions: bool,
    /// The largest packet it takes, in bytes.
    pub(super) max_packet: usize,
    /// The keep alive in seconds that it demands in place of ours.
    pub(super) keep_alive: Option<u16>,
}

/// Most publishes that wait for their acknowledgement.
const MAX_IN_FLIGHT: u16 = 1_000;
/// Most publishes at QoS 2 to a broker that does not tell how many it takes: mosquitto takes 20 and reorders more.
const MAX_AT_QOS2: u16 = 20;

/// A message from the broker.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) qos: Qos,
    /// Its packet identifier; 0 at QoS 0.
    pub(super) packet: u16,
    /// It is a retained message, sent because of a subscription.
    pub(super) retained: bool,
    pub(super) content_type: Option<Arc<str>>,
    /// Seconds until it is worthless.
    pub(super) expiry: Option<u32>,
    /// The subscriptions that it matches, if the broker names them.
    pub(super) subscriptions: Vec<usize>,
    pub(super) origin: Option<OriginTag>,
    /// What belongs to a request (MQTT 5, 4.10).
    pub(super) correspondence: Option<Arc<Correspondence>>,
}

/// A packet from the broker; reasons are the codes as they came, 0 where there was none.
#[derive(Debug)]
pub(super) enum Packet {
    Accepted(Greeting),
    Refused(u8),
    Publish(Inbound),
    Ack(Ack, u16, u8),
    Suback(u16, u8),
    Unsuback(u16),
    Pingresp,
    Disconnect(u8),
}

/// What the broker sent is no MQTT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Takes the first packet out of `input`; `None` when it is not there whole.
pub(super) fn read(version: Protocol, input: &mut BytesMut) -> Result<Option<Packet>, Malformed> {
    let length = match v4::check(input.iter(), MAX_PACKET) {
        Ok(header) => header.frame_length(),
        Err(v4::Error::InsufficientBytes(_)) => return Ok(None),
        Err(_) => return Err(Malformed),
    };
    let mut frame = input.split_to(length);
    let kind = frame.first().copied().unwrap_or_default();
    let header = 1 + frame.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let body = frame.get(header..).unwrap_or_default();
    let id = || {
        let two = body.first_chunk().ok_or(Malformed)?;
        Some(u16::from_be_bytes(*two))
            .filter(|id| *id != 0)
            .ok_or(Malformed)
    };
    let at = |place: usize| body.get(place).copied();
    Ok(Some(match kind >> 4 {
        2 => match at(1).ok_or(Malformed)? {
            0 => Packet::Accepted(greeting(version, &mut frame)?),
            reason => Packet::Refused(reason),
        },
        3 => Packet::Publish(inbound(version, &mut frame)?),
        4 => Packet::Ack(Ack::Puback, id()?, at(2).unwrap_or(0)),
        5 => Packet::Ack(Ack::Pubrec, id()?, at(2).unwrap_or(0)),
        6 => Packet::Ack(Ack::Pubrel, id()?, at(2).unwrap_or(0)),
        7 => Packet::Ack(Ack::Pubcomp, id()?, at(2).unwrap_or(0)),
        9 => Packet::Suback(
            id()?,
            codes(version, body)?.iter().copied().max().ok_or(Malformed)?,
        ),
        11 => Packet::Unsuback(id()?),
        13 => Packet::Pingresp,
        14 if version == Protocol::V5 => Packet::Disconnect(at(0).unwrap_or(0)),
        _ => return Err(Malformed),
    }))
}

/// The reason codes behind packet identifier and properties.
fn codes(version: Protocol, body: &[u8]) -> Result<&[u8], Malformed> {
    let mut rest = body.get(2..).ok_or(Malformed)?;
    if version == Protocol::V5 {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let (byte, behind) = rest.split_first().ok_or(Malformed)?;
            rest = behind;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        rest = rest.get(length..).ok_or(Malformed)?;
    }
    Ok(rest)
}

fn greeting(version: Protocol, frame: &mut BytesMut) -> Result<Greeting, Malformed> {
    let mut greeting = Greeting {
        session_present: false,
        in_flight: MAX_IN_FLIGHT,
        at_qos2: MAX_AT_QOS2,
        max_qos: Qos::ExactlyOnce,
        retain: true,
        wildcards: true,
        names_subscriptions: version == Protocol::V5,
        max_packet: MAX_PACKET,
        keep_alive: None,
    };
    if version == Protocol::V4 {
        let Ok(v4::v4::Packet::ConnAck(connack)) = v4::v4::Packet::read(frame, MAX_PACKET) else {
            return Err(Malformed);
        };
        greeting.session_present = connack.session_present;
        return Ok(greeting);
    }
    let Ok(v5::v5::Packet::ConnAck(connack)) = v5::v5::Packet::read(frame, None) else {
        return Err(Malformed);
    };
    greeting.session_present = connack.session_present;
    greeting.at_qos2 = greeting.in_flight;
    let Some(offers) = connack.properties else {
        return Ok(greeting);
    };
    let available = |value: Option<u8>| value != Some(0);
    greeting.in_flight = offers.receive_max.unwrap_or(u16::MAX).clamp(1, MAX_IN_FLIGHT);
    greeting.at_qos2 = greeting.in_flight;
    greeting.max_qos = offers
        .max_qos
        .and_then(Qos::from_number)
        .unwrap_or(Qos::ExactlyOnce);
    greeting.retain = available(offers.retain_available);
    greeting.wildcards = available(offers.wildcard_subscription_available);
    greeting.names_subscriptions = available(offers.subscription_identifiers_available);
    greeting.keep_alive = offers.server_keep_alive.filter(|seconds| *seconds > 0);
    if let Some(size) = offers.max_packet_size {
        greeting.max_packet = (size as usize).min(MAX_PACKET);
    }
    Ok(greeting)
}

fn inbound(version: Protocol, frame: &mut BytesMut) -> Result<Inbound, Malformed> {
    if version == Protocol::V4 {
        let Ok(v4::v4::Packet::Publish(publish)) = v4::v4::Packet::read(frame, MAX_PACKET) else {
            return Err(Malformed);
        };
        return Ok(Inbound {
            topic: publish.topic.into(),
            payload: publish.payload,
            qos: Qos::from_number(publish.qos as u8).ok_or(Malformed)?,
            packet: publish.pkid,
            retained: publish.retain,
            content_type: None,
            expiry: None,
            subscriptions: Vec::new(),
            origin: None,
            correspondence: None,
        });
    }
    let Ok(v5::v5::Packet::Publish(publish)) = v5::v5::Packet::read(frame, None) else {
        return Err(Malformed);
    };
    let properties = publish.properties.unwrap_or_default();
    let origin = properties
        .user_properties
        .iter()
        .find(|(name, _)| name == ORIGIN_PROPERTY)
        .and_then(|(_, text)| OriginTag::from_text(text));
    let response_topic = properties.response_topic.as_deref();
    let correspondence = Correspondence {
        response_topic: response_topic.and_then(|topic| TopicName::new(topic).ok()),
        correlation_data: properties.correlation_data,
    };
    let correspondence = (correspondence != Correspondence::default()).then(|| Arc::new(correspondence));
    Ok(Inbound {
        topic: publish.topic,
        payload: publish.payload,
        qos: Qos::from_number(publish.qos as u8).ok_or(Malformed)?,
        packet: publish.pkid,
        retained: publish.retain,
        content_type: properties.content_type.map(Into::into),
        expiry: properties.message_expiry_interval,
        subscriptions: properties.subscription_identifiers,
        origin,
        correspondence,
    })
}

const fn qos4(qos: Qos) -> v4::QoS {
    match qos {
        Qos::AtMostOnce => v4::QoS::AtMostOnce,
        Qos::AtLeastOnce => v4::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v4::QoS::ExactlyOnce,
    }
}

const fn qos5(qos: Qos) -> v5::QoS {
    match qos {
        Qos::AtMostOnce => v5::QoS::AtMostOnce,
        Qos::AtLeastOnce => v5::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v5::QoS::ExactlyOnce,
    }
}

/// What the broker announces should we vanish.
#[derive(Debug, Clone)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) qos: Qos,
    pub(super) retain: bool,
}

/// How a connection begins.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) client_id: String,
    /// No earlier session goes on. By MQTT 3.1.1 this one ends with its connection, too.
    pub(super) clean_start: bool,
    /// Seconds for which the broker keeps the session of a lost connection (MQTT 5).
    pub(super) session_seconds: u32,
    pub(super) keep_alive: u16,
    pub(super) will: Option<Will>,
}

/// Writes a CONNECT with user name (empty for none) and password; false when it is longer than MQTT has a length for.
pub(super) fn connect(
    version: Protocol,
    connect: Connect,
    (username, password): (&str, &str),
    out: &mut BytesMut,
) -> bool {
    let named = !username.is_empty();
    match version {
        Protocol::V4 => {
            let mut packet = v4::v4::Connect::new(connect.client_id);
            packet.keep_alive = connect.keep_alive;
            packet.clean_session = connect.clean_start;
            packet.login = named.then(|| v4::v4::Login::new(username, password));
            packet.last_will = connect
                .will
                .map(|will| v4::v4::LastWill::new(will.topic, will.payload, qos4(will.qos), will.retain));
            packet.write(out).is_ok()
        }
        Protocol::V5 => {
            let packet = v5::v5::Connect {
                keep_alive: connect.keep_alive,
                client_id: connect.client_id,
                clean_start: connect.clean_start,
                properties: Some(v5::v5::ConnectProperties {
                    session_expiry_interval: Some(connect.session_seconds),
                    max_packet_size: u32::try_from(MAX_PACKET).ok(),
                    ..v5::v5::ConnectProperties::new()
                }),
            };
            let will = connect.will.map(|will| {
                v5::v5::LastWill::new(will.topic, will.payload, qos5(will.qos), will.retain, None)
            });
            let login = named.then(|| v5::v5::Login::new(username, password));
            packet.write(&will, &login, out).is_ok()
        }
    }
}

/// A publish as it goes out.
#[derive(Debug)]
pub(super) struct Outbound<'a> {
    pub(super) message: &'a Message,
    pub(super) qos: Qos,
    /// Seconds until it is worthless.
    pub(super) expiry: Option<u32>,
    pub(super) origin: Option<OriginTag>,
    /// The packet identifier under which it went out at QoS 2 on an earlier connection of this session.
    pub(super) exchange: Option<u16>,
}

/// Writes a PUBLISH of at most `max` bytes; false when it is larger than that even without what only this gateway reads.
pub(super) fn publish(
    version: Protocol,
    publish: &Outbound<'_>,
    packet: u16,
    max: usize,
    out: &mut BytesMut,
) -> bool {
    let message = publish.message;
    if version == Protocol::V4 {
        let mut written =
            v4::v4::Publish::from_bytes(message.topic.as_str(), qos4(publish.qos), message.payload.clone());
        written.retain = message.retain;
        written.dup = publish.exchange.is_some();
        written.pkid = packet;
        return written.size() <= max && written.write(out).is_ok();
    }
    let correspondence = message.correspondence.as_deref();
    let properties = v5::v5::PublishProperties {
        message_expiry_interval: publish.expiry,
        content_type: message.content_type.as_deref().map(Into::into),
        response_topic: correspondence.and_then(|it| Some(it.response_topic.as_ref()?.to_string())),
        correlation_data: correspondence.and_then(|it| it.correlation_data.clone()),
        user_properties: publish
            .origin
            .iter()
            .map(|tag| (ORIGIN_PROPERTY.into(), tag.to_text()))
            .collect(),
        ..v5::v5::PublishProperties::default()
    };
    let mut written = v5::v5::Publish {
        dup: publish.exchange.is_some(),
        qos: qos5(publish.qos),
        retain: message.retain,
        topic: Bytes::copy_from_slice(message.topic.as_str().as_bytes()),
        pkid: packet,
        payload: message.payload.clone(),
        properties: Some(properties),
    };
    if written.size() > max
        && let Some(properties) = &mut written.properties
    {
        properties.user_properties.clear();
    }
    written.size() <= max && written.write(out).is_ok()
}

/// A subscription as it goes out.
#[derive(Debug)]
pub(super) struct Subscription<'a> {
    pub(super) filter: &'a str,
    pub(super) qos: Qos,
    /// Its number, where the broker is to name it.
    pub(super) number: Option<u32>,
    /// Whether the retained messages are wanted; MQTT 3.1.1 always sends them.
    pub(super) retained: bool,
}

/// Writes a SUBSCRIBE; false when it is longer than MQTT has a length for.
pub(super) fn subscribe(
    version: Protocol,
    subscription: &Subscription<'_>,
    packet: u16,
    out: &mut BytesMut,
) -> bool {
    if version == Protocol::V4 {
        let mut written = v4::v4::Subscribe::new(subscription.filter, qos4(subscription.qos));
        written.pkid = packet;
        return written.write(out).is_ok();
    }
    let filter = v5::v5::Filter {
        path: subscription.filter.into(),
        qos: qos5(subscription.qos),
        nolocal: false,
        preserve_retain: false,
        retain_forward_rule: match subscription.retained {
            true => v5::v5::RetainForwardRule::OnEverySubscribe,
            false => v5::v5::RetainForwardRule::Never,
        },
    };
    let properties = v5::v5::SubscribeProperties {
        id: subscription.number.map(|number| number as usize),
        user_properties: Vec::new(),
    };
    let mut written = v5::v5::Subscribe::new(filter, Some(properties));
    written.pkid = packet;
    written.write(out).is_ok()
}

/// Writes an UNSUBSCRIBE; false when it is longer than MQTT has a length for.
pub(super) fn unsubscribe(version: Protocol, filter: &str, packet: u16, out: &mut BytesMut) -> bool {
    match version {
        Protocol::V4 => {
            let mut written = v4::v4::Unsubscribe::new(filter);
            written.pkid = packet;
            written.write(out).is_ok()
        }
        Protocol::V5 => {
            let mut written = v5::v5::Unsubscribe::new(filter, None);
            written.pkid = packet;
            written.write(out).is_ok()
        }
    }
}

/// Writes an acknowledgement of success: the same bytes in both versions.
pub(super) fn ack(ack: Ack, packet: u16, out: &mut BytesMut) {
    out.put_slice(&[ack as u8, 2]);
    out.put_u16(packet);
}

/// Writes a PINGREQ.
pub(super) fn ping(out: &mut BytesMut) {
    out.put_slice(&[0xC0, 0]);
}

/// Writes a DISCONNECT, after which the broker forgets the will.
pub(super) fn disconnect(out: &mut BytesMut) {
    out.put_slice(&[0xE0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore, SeedableRng};

    const BOTH: [Protocol; 2] = [Protocol::V4, Protocol::V5];

    fn packet(version: Protocol, bytes: &[u8]) -> Result<Option<Packet>, Malformed> {
        read(version, &mut BytesMut::from(bytes))
    }

    #[test]
    fn a_reason_code_that_nobody_knows_is_read_like_any_other() {
        for code in [0x10, 0x80, 0x95, 0xA3, 0xFE] {
            for (kind, ack) in [(0x40, Ack::Puback), (0x50, Ack::Pubrec), (0x70, Ack::Pubcomp)] {
                let read = packet(Protocol::V5, &[kind, 4, 0, 9, code, 0]);
                assert!(
                    matches!(read, Ok(Some(Packet::Ack(a, 9, c))) if a == ack && c == code),
                    "{read:?}"
                );
            }
            let read = packet(Protocol::V5, &[0x90, 4, 0, 9, 0, code]);
            assert!(
                matches!(read, Ok(Some(Packet::Suback(9, c))) if c == code),
                "{read:?}"
            );
            let read = packet(Protocol::V5, &[0x20, 3, 0, code, 0]);
            assert!(
                matches!(read, Ok(Some(Packet::Refused(c))) if c == code),
                "{read:?}"
            );
            let read = packet(Protocol::V5, &[0xE0, 2, code, 0]);
            assert!(
                matches!(read, Ok(Some(Packet::Disconnect(c))) if c == code),
                "{read:?}"
            );
        }
    }

    #[test]
    fn what_is_cut_short_is_malformed_and_what_is_not_there_yet_is_waited_for() {
        for version in BOTH {
            for bytes in [
                &[0x40, 1, 0][..],
                &[0x40, 2, 0, 0],
                &[0x90, 2, 0, 1],
                &[0xF0, 0],
                &[0x20, 0],
            ] {
                assert_eq!(packet(version, bytes).err(), Some(Malformed), "{bytes:x?}");
            }
            for bytes in [&[][..], &[0x40], &[0x40, 2, 0], &[0x30, 0x80]] {
                assert!(matches!(packet(version, bytes), Ok(None)), "{bytes:x?}");
            }
        }
    }

    #[test]
    fn no_bytes_of_a_broker_bring_the_reader_down() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..40_000 {
            let kind = [0x20, 0x30, 0x32, 0x40, 0x50, 0x90, 0xB0, 0xE0][rng.random_range(0..8)];
            let length = rng.random_range(0..40_u8);
            let mut bytes = vec![kind, length];
            bytes.resize(2 + usize::from(length), 0);
            if let Some(body) = bytes.get_mut(2..) {
                rng.fill_bytes(body);
                // Lengths that may fit, so that more than the first field is read.
                for byte in body.iter_mut() {
                    *byte &= if rng.random_bool(0.6) { 0x0F } else { 0xFF };
                }
            }
            for version in BOTH {
                drop(packet(version, &bytes));
            }
        }
    }

    #[test]
    fn what_only_we_read_gives_way_before_a_payload_is_refused_for_its_size() {
        let message = message("t/1", "ten bytes.");
        let outbound = Outbound {
            message: &message,
            qos: Qos::AtLeastOnce,
            expiry: None,
            origin: Some(OriginTag {
                process: u64::MAX,
                number: 9,
            }),
            exchange: None,
        };
        let mut out = BytesMut::new();
        assert!(publish(Protocol::V5, &outbound, 1, 1_000, &mut out) && out.len() > 40);
        out.clear();
        assert!(publish(Protocol::V5, &outbound, 1, 40, &mut out) && out.len() <= 40);
        out.clear();
        assert!(!publish(Protocol::V5, &outbound, 1, 12, &mut out) && out.is_empty());
        assert!(!publish(Protocol::V4, &outbound, 1, 12, &mut out) && out.is_empty());
    }
}
