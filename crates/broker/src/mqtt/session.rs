//! One MQTT session on one connection, without a socket: bytes of the broker come in, happenings and bytes for it go out.
//!
//! Packet identifiers, the window of publishes under way and the exchanges at QoS 2 are kept here, for both protocol
//! versions alike. Nothing acknowledges a publish at QoS 0; the answer to a ping sent behind it *confirms* that the broker
//! has read it and is still there.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::arrivals::Arrivals;
use super::codec::{self, Ack, Connect, Greeting, Inbound, Malformed, Outbound, Packet, Subscription};
use super::requests::{Kind, Received, Requests};
use crate::metrics::ConnectResult;
use crate::settings::Protocol;
use portcullis_proto::types::message::Qos;

/// Bytes that wait to be written beyond which no request is taken.
const HIGH_WATER: usize = 256 << 10;
/// Bytes that wait to be written beyond which nothing is read: a broker that takes no answers gets none.
const MAX_WAITING: usize = 4 << 20;
/// Packets read before others have their turn.
const MAX_PACKETS: usize = 256;
/// Publishes at QoS 0 that no ping has confirmed.
const MAX_UNCONFIRMED: u64 = 16_384;
/// How often a ping is sent only to confirm publishes at QoS 0.
const CONFIRM_EVERY: Duration = Duration::from_millis(20);

/// How a connection, or the attempt at one, ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// For an attempt: how it ended.
    pub(super) result: ConnectResult,
    pub(super) text: String,
    /// The broker closed it because of what it read, for all that can be told: not the network, not we, no shutdown.
    pub(super) by_broker: bool,
    /// The reason that it gave.
    pub(super) reason: Option<u8>,
}

impl Ending {
    /// An end that the broker has no part in.
    pub(super) fn ours(text: impl Into<String>) -> Self {
        Self {
            result: ConnectResult::Unreachable,
            text: text.into(),
            by_broker: false,
            reason: None,
        }
    }
}

/// What happens on a connection. Reasons are the codes of MQTT 5, 2.4; 0 in 3.1.1 but for subscribes.
#[derive(Debug)]
pub(super) enum Happening {
    /// The broker accepted it.
    Connected(Greeting),
    /// A publish is done.
    Acknowledged(u16, u8),
    /// The broker has a publish at QoS 2, which [`Session::release`] ends.
    Received(u16),
    /// All publishes at QoS 0 up to this one were read by the broker.
    Confirmed(u64),
    /// A subscribe is done.
    Subscribed(u16, u8),
    /// An unsubscribe is done.
    Unsubscribed(u16),
    /// A message, with what [`Session::acknowledge`] knows it by where its sender is to be told later.
    Message(Inbound, Option<u64>),
    /// It is over; nothing follows.
    Ended(Ending),
}

/// What became of a publish that was handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It goes out with this packet identifier.
    Packet(u16),
    /// It goes out at QoS 0, as the one with this number.
    Unconfirmed(u64),
    /// It is larger than the broker takes.
    TooLarge,
    /// There is no room for it now.
    Full,
}

#[derive(Debug)]
struct Ping {
    sent: Instant,
    /// The last publish at QoS 0 before it.
    behind: u64,
}

/// The session.
#[derive(Debug)]
pub(super) struct Session {
    version: Protocol,
    keep_alive: Duration,
    /// Bytes from the broker that are not worked off.
    pub(super) input: BytesMut,
    /// Bytes for the broker.
    pub(super) output: BytesMut,
    greeting: Option<Greeting>,
    pub(super) requests: Requests,
    pub(super) arrivals: Arrivals,
    /// Publishes at QoS 0, and how many of them are confirmed.
    unconfirmed: u64,
    confirmed: u64,
    ping: Option<Ping>,
    last_ping: Instant,
    confirm_now: bool,
    last_sent: Instant,
    last_received: Instant,
    more: bool,
}

impl Session {
    /// Begins with a CONNECT, with user name (empty for none) and password.
    pub(super) fn new(now: Instant, version: Protocol, connect: Connect, login: (&str, &str)) -> Self {
        let keep_alive = Duration::from_secs(connect.keep_alive.into());
        let mut output = BytesMut::new();
        // What is too long to be written goes nowhere, and the attempt ends in silence as it would at the broker.
        codec::connect(version, connect, login, &mut output);
        Self {
            version,
            keep_alive,
            input: BytesMut::new(),
            output,
            greeting: None,
            requests: Requests::new(now),
            arrivals: Arrivals::default(),
            unconfirmed: 0,
            confirmed: 0,
            ping: None,
            last_ping: now,
            confirm_now: false,
            last_sent: now,
            last_received: now,
            more: false,
        }
    }

    fn has_room(&self) -> bool {
        self.greeting.is_some() && self.output.len() < HIGH_WATER && !self.requests.is_full()
    }

    /// Whether bytes may be read now.
    pub(super) fn reads(&self) -> bool {
        self.output.len() < MAX_WAITING
    }

    /// Whether whole packets may wait in what was read.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// Ends a publish at QoS 2 that the broker has, of this connection or an earlier one. False when there is no room for it now.
    pub(super) fn release(&mut self, now: Instant, packet: u16) -> bool {
        let is_of_this = self.requests.release(packet);
        if !is_of_this {
            if !self.has_room() || self.requests.is_under_way(packet) {
                return false;
            }
            self.requests.begin_as(now, Kind::Released, packet);
            self.last_sent = now;
        }
        codec::ack(Ack::Pubrel, packet, &mut self.output);
        true
    }

    /// Takes a publish, which goes out at its `qos`.
    pub(super) fn publish(&mut self, now: Instant, publish: &Outbound<'_>) -> Sent {
        let Some(greeting) = self.greeting.filter(|_| self.has_room()) else {
            return Sent::Full;
        };
        let (full, kind) = match publish.qos {
            Qos::AtMostOnce => (self.unconfirmed - self.confirmed >= MAX_UNCONFIRMED, None),
            Qos::AtLeastOnce => (self.requests.publishes() >= greeting.in_flight, Some(Kind::Qos1)),
            Qos::ExactlyOnce => (
                self.requests.publishes() >= greeting.in_flight
                    || self.requests.at_qos2() >= greeting.at_qos2,
                Some(Kind::Qos2),
            ),
        };
        if full {
            return Sent::Full;
        }
        let packet = kind.map(|kind| match publish.exchange {
            Some(packet) if !self.requests.is_under_way(packet) => self.requests.begin_as(now, kind, packet),
            _ => self.requests.begin(now, kind),
        });
        let (out, max) = (&mut self.output, greeting.max_packet);
        let is_written = codec::publish(self.version, publish, packet.unwrap_or(0), max, out);
        if is_written {
            self.last_sent = now;
        }
        match packet {
            Some(packet) if is_written => Sent::Packet(packet),
            Some(packet) => {
                self.requests.withdraw(packet);
                Sent::TooLarge
            }
            None if is_written => {
                self.unconfirmed += 1;
                Sent::Unconfirmed(self.unconfirmed)
            }
            None => Sent::TooLarge,
        }
    }

    /// Takes a subscribe and gives its packet identifier; `None` when there is no room now.
    pub(super) fn subscribe(&mut self, now: Instant, subscription: &Subscription<'_>) -> Option<u16> {
        self.has_room().then_some(())?;
        let packet = self.requests.begin(now, Kind::Subscribe);
        self.last_sent = now;
        codec::subscribe(self.version, subscription, packet, &mut self.output);
        Some(packet)
    }

    /// Takes an unsubscribe and gives its packet identifier; `None` when there is no room now.
    pub(super) fn unsubscribe(&mut self, now: Instant, filter: &str) -> Option<u16> {
        self.has_room().then_some(())?;
        let packet = self.requests.begin(now, Kind::Unsubscribe);
        self.last_sent = now;
        codec::unsubscribe(self.version, filter, packet, &mut self.output);
        Some(packet)
    }

    /// Says goodbye; the will is not sent then.
    pub(super) fn disconnect(&mut self) {
        codec::disconnect(&mut self.output);
    }

    /// Asks the broker for a sign of life at the next turn; gives what [`Happening::Confirmed`] will say, or more.
    pub(super) fn confirm(&mut self) -> u64 {
        self.unconfirmed += 1;
        self.confirm_now = true;
        self.unconfirmed
    }

    /// Confirms at the next turn what went out at QoS 0, because someone waits for it.
    pub(super) fn confirm_soon(&mut self) {
        self.confirm_now = true;
    }

    /// Whether nothing that was sent waits for the broker's word.
    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.unconfirmed == self.confirmed
    }

    /// When the last request was taken.
    pub(super) fn last_sent(&self) -> Instant {
        self.last_sent
    }

    /// Sends a ping when its time has come; the end of the connection when the broker has fallen silent.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Ending> {
        self.greeting?;
        if let Some(ping) = &self.ping {
            let heard = ping.sent.max(self.last_received);
            return (now.saturating_duration_since(heard) >= self.keep_alive)
                .then(|| Ending::ours("nothing was received for too long"));
        }
        if self.deadline().is_some_and(|at| at <= now) && self.output.len() < MAX_WAITING {
            codec::ping(&mut self.output);
            (self.last_sent, self.last_ping, self.confirm_now) = (now, now, false);
            self.ping = Some(Ping {
                sent: now,
                behind: self.unconfirmed,
            });
        }
        None
    }

    /// When [`Self::tick`] has a ping to send.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.greeting.is_none() || self.ping.is_some() {
            return None;
        }
        if self.unconfirmed == self.confirmed {
            return self.last_sent.checked_add(self.keep_alive);
        }
        match self.confirm_now {
            true => Some(self.last_ping),
            false => self.last_ping.checked_add(CONFIRM_EVERY),
        }
    }

    /// Works off what came in.
    pub(super) fn receive(&mut self, now: Instant, happenings: &mut Vec<Happening>) {
        self.more = false;
        for _ in 0..MAX_PACKETS {
            match codec::read(self.version, &mut self.input) {
                Ok(Some(packet)) => {
                    self.last_received = now;
                    if let Some(happening) = self.take(now, packet) {
                        let over = matches!(happening, Happening::Ended(_));
                        happenings.push(happening);
                        if over {
                            return;
                        }
                    }
                }
                Ok(None) => return,
                Err(Malformed) => return happenings.push(Happening::Ended(self.malformed())),
            }
        }
        self.more = true;
    }

    fn take(&mut self, now: Instant, packet: Packet) -> Option<Happening> {
        if self.greeting.is_none() {
            return Some(match packet {
                Packet::Accepted(greeting) => {
                    if let Some(seconds) = greeting.keep_alive {
                        self.keep_alive = Duration::from_secs(seconds.into());
                    }
                    self.greeting = Some(greeting);
                    (self.last_sent, self.last_ping) = (now, now);
                    Happening::Connected(greeting)
                }
                Packet::Refused(reason) => Happening::Ended(self.refused(reason)),
                _ => Happening::Ended(self.malformed()),
            });
        }
        Some(match packet {
            Packet::Accepted(_) | Packet::Refused(_) => Happening::Ended(self.malformed()),
            Packet::Publish(inbound) => {
                let number = match inbound.qos {
                    Qos::AtMostOnce => None,
                    qos => self.arrivals.arrives(qos, inbound.packet, &mut self.output)?,
                };
                Happening::Message(inbound, number)
            }
            Packet::Ack(Ack::Pubrel, packet, _) => {
                self.arrivals.released(packet);
                codec::ack(Ack::Pubcomp, packet, &mut self.output);
                return None;
            }
            Packet::Ack(Ack::Pubrec, packet, reason) if reason < 0x80 => {
                match self.requests.received(packet) {
                    Received::First => return Some(Happening::Received(packet)),
                    Received::Again => {}
                    Received::Unknown => codec::ack(Ack::Pubrel, packet, &mut self.output),
                }
                return None;
            }
            // Released, the broker has it; what it says of the identifier then changes nothing.
            Packet::Ack(Ack::Pubcomp, packet, _) => {
                self.requests.end(now, packet, &[Kind::Released])?;
                Happening::Acknowledged(packet, 0)
            }
            Packet::Ack(Ack::Puback, packet, reason) => {
                self.requests.end(now, packet, &[Kind::Qos1])?;
                Happening::Acknowledged(packet, reason)
            }
            Packet::Ack(Ack::Pubrec, packet, reason) => {
                self.requests.end(now, packet, &[Kind::Qos2, Kind::Received])?;
                Happening::Acknowledged(packet, reason)
            }
            Packet::Suback(packet, reason) => {
                self.requests.end(now, packet, &[Kind::Subscribe])?;
                Happening::Subscribed(packet, reason)
            }
            Packet::Unsuback(packet) => {
                self.requests.end(now, packet, &[Kind::Unsubscribe])?;
                Happening::Unsubscribed(packet)
            }
            Packet::Pingresp => {
                let ping = self.ping.take()?;
                self.confirmed = ping.behind;
                Happening::Confirmed(ping.behind)
            }
            Packet::Disconnect(reason) => Happening::Ended(disconnected(reason)),
        })
    }

    /// The broker need not keep this message any longer. It hears of it once that is so for all before it.
    pub(super) fn acknowledge(&mut self, number: u64) {
        self.arrivals.acknowledge(number, &mut self.output);
    }

    fn malformed(&self) -> Ending {
        self.unfit("the broker sent what is no MQTT")
    }

    /// The transport is closed by the broker, or reset.
    pub(super) fn closed(&self, text: &str) -> Ending {
        let mut ending = self.unfit(text);
        ending.by_broker = self.greeting.is_some();
        ending
    }

    /// The end of a connection that makes no sense; before the answer to CONNECT it says what may be wrong.
    fn unfit(&self, text: &str) -> Ending {
        let mut ending = Ending::ours(text);
        if self.greeting.is_none() {
            ending.result = ConnectResult::Protocol;
            if self.version == Protocol::V5 {
                ending.text = format!(
                    "no proper answer to CONNECT ({text}); a broker that does not speak MQTT 5 does so: then set \
                     broker.protocol = 4"
                );
            }
        }
        ending
    }

    fn refused(&self, reason: u8) -> Ending {
        let (result, text) = match (self.version, reason) {
            (Protocol::V5, 0x01 | 0x84) => (
                ConnectResult::Protocol,
                "the broker refuses MQTT 5; set broker.protocol = 4".into(),
            ),
            (Protocol::V4, 0x01) => (
                ConnectResult::Protocol,
                "the broker refuses MQTT 3.1.1; set broker.protocol = 5".into(),
            ),
            (_, 0x02 | 0x85) => (ConnectResult::Refused, "the broker refuses the client id: look at broker.client_id and node.name".into()),
            (_, 0x04 | 0x86) => (
                ConnectResult::Refused,
                "the broker refuses user name or password: look at broker.username and broker.password_file".into(),
            ),
            (_, 0x05 | 0x87) => (ConnectResult::Refused, "the broker refuses the login (not authorized): look at broker.username and broker.password_file, and at the broker's rules".into()),
            (_, 0x03 | 0x88 | 0x89) => (ConnectResult::Refused, "the broker is not available now".into()),
            (_, 0x8A) => (ConnectResult::Refused, "the broker has banned this client".into()),
            (_, 0x9A) => (
                ConnectResult::Refused,
                "the broker keeps no retained messages".into(),
            ),
            (_, 0x9B) => (ConnectResult::Refused, "the broker does not take this QoS".into()),
            _ => (
                ConnectResult::Refused,
                format!("the broker refuses with reason 0x{reason:02X}"),
            ),
        };
        Ending {
            result,
            text,
            by_broker: false,
            reason: Some(reason),
        }
    }
}

/// The broker ended it in words. Shutting down, overload, another client of the same id and the like blame no packet.
fn disconnected(reason: u8) -> Ending {
    let blameless = matches!(
        reason,
        0x00 | 0x88 | 0x89 | 0x8B | 0x8D | 0x8E | 0x93 | 0x96 | 0x97 | 0x98 | 0x9C | 0x9D | 0x9F | 0xA0
    );
    Ending {
        by_broker: !blameless,
        reason: Some(reason),
        ..Ending::ours(format!(
            "the broker ended the connection with reason 0x{reason:02X}"
        ))
    }
}

/// Feeds a session that is under way what a hostile broker may send, in pieces; gives how many things happened.
#[cfg(any(test, feature = "testing"))]
pub fn feed(now: Instant, version: Protocol, pieces: &[&[u8]]) -> usize {
    use crate::origin::OriginTag;
    use portcullis_proto::types::TopicName;
    use portcullis_proto::types::message::Message;

    let mut session = Session::new(
        now,
        version,
        Connect {
            client_id: "fuzz".into(),
            clean_start: true,
            session_seconds: 0,
            keep_alive: 5,
            will: None,
        },
        ("", ""),
    );
    session
        .input
        .extend_from_slice(&[0x20, 2 + u8::from(version == Protocol::V5), 0, 0]);
    session
        .input
        .extend_from_slice(if version == Protocol::V5 { &[0] } else { &[] });
    let mut happenings = Vec::new();
    session.receive(now, &mut happenings);
    for (number, piece) in pieces.iter().enumerate() {
        if let Ok(topic) = TopicName::new("t") {
            let message = Message::new(
                topic,
                bytes::Bytes::from_static(b"x"),
                Qos::from_number((number % 3) as u8).unwrap_or(Qos::AtMostOnce),
            );
            let (qos, origin) = (
                message.qos,
                Some(OriginTag {
                    process: 1,
                    number: 2,
                }),
            );
            let outbound = Outbound {
                message: &message,
                qos,
                expiry: None,
                origin,
                exchange: (number % 7 == 0).then_some(number as u16),
            };
            session.publish(now, &outbound);
        }
        session.unsubscribe(now, "f");
        session.input.extend_from_slice(piece);
        session.receive(now, &mut happenings);
        for happening in &happenings {
            if let Happening::Received(packet) = happening {
                session.release(now, *packet);
            }
        }
        if matches!(happenings.last(), Some(Happening::Ended(_))) {
            break;
        }
    }
    happenings.len()
}

#[cfg(test)]
mod tests;
