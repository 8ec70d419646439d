//! One MQTT session on one connection, without a socket: bytes of the broker come in, happenings and bytes for it go out.
//!
//! Packet identifiers, the window of publishes under way and the exchanges at QoS 2 are kept here, for both protocol
//! versions alike. Nothing acknowledges a publish at QoS 0; the answer to a ping sent behind it *confirms* that the broker
//! has read it and is still there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::codec::{self, Ack, Connect, Greeting, Inbound, Malformed, Outbound, Packet, Subscription};
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
/// Requests under way, fewer than there are packet identifiers.
const MAX_REQUESTS: usize = 60_000;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Qos1,
    Qos2,
    Received,
    Released,
    Subscribe,
    Unsubscribe,
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
    under_way: HashMap<u16, Kind>,
    /// Packet identifiers that mean something to the broker from an earlier connection.
    reserved: HashSet<u16>,
    /// What is under way, and some that was, in the order in which it was sent.
    order: VecDeque<u16>,
    /// Since when the oldest request is the oldest.
    oldest_since: Instant,
    last_id: u16,
    publishes: u16,
    at_qos2: u16,
    acknowledged: bool,
    /// Messages at QoS 2 that the broker has not released.
    received: HashSet<u16>,
    acknowledges_later: bool,
    /// What the broker was not told to have arrived, in the order in which it did (MQTT 5, 4.6), and what may be told.
    owed: VecDeque<(Ack, u16, bool)>,
    /// The number of the first of these.
    owes_since: u64,
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
            under_way: HashMap::new(),
            reserved: HashSet::new(),
            order: VecDeque::new(),
            oldest_since: now,
            last_id: 0,
            publishes: 0,
            at_qos2: 0,
            acknowledged: false,
            received: HashSet::new(),
            acknowledges_later: false,
            owed: VecDeque::new(),
            owes_since: 0,
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
        self.greeting.is_some() && self.output.len() < HIGH_WATER && self.under_way.len() < MAX_REQUESTS
    }

    /// Whether bytes may be read now.
    pub(super) fn reads(&self) -> bool {
        self.output.len() < MAX_WAITING
    }

    /// Whether whole packets may wait in what was read.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    fn begin(&mut self, now: Instant, kind: Kind) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.under_way.contains_key(&self.last_id) && !self.reserved.contains(&self.last_id) {
                break;
            }
        }
        self.begin_as(now, kind, self.last_id)
    }

    fn begin_as(&mut self, now: Instant, kind: Kind, packet: u16) -> u16 {
        if self.under_way.is_empty() {
            self.order.clear();
            self.oldest_since = now;
        }
        self.reserved.remove(&packet);
        self.under_way.insert(packet, kind);
        self.order.push_back(packet);
        self.last_sent = now;
        packet
    }

    /// Leaves packet identifiers to exchanges of an earlier connection.
    pub(super) fn reserve(&mut self, packets: impl Iterator<Item = u16>) {
        self.reserved.extend(packets);
    }

    /// Ends a publish at QoS 2 that the broker has, of this connection or an earlier one. False when there is no room for it now.
    pub(super) fn release(&mut self, now: Instant, packet: u16) -> bool {
        match self.under_way.get(&packet) {
            Some(Kind::Qos2 | Kind::Received | Kind::Released) => {
                self.under_way.insert(packet, Kind::Released);
            }
            None if self.has_room() => {
                self.begin_as(now, Kind::Released, packet);
                self.publishes += 1;
                self.at_qos2 += 1;
            }
            _ => return false,
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
            Qos::AtLeastOnce => (self.publishes >= greeting.in_flight, Some(Kind::Qos1)),
            Qos::ExactlyOnce => (
                self.publishes >= greeting.in_flight || self.at_qos2 >= greeting.at_qos2,
                Some(Kind::Qos2),
            ),
        };
        if full {
            return Sent::Full;
        }
        let packet = kind.map(|kind| match publish.exchange {
            Some(packet) if !self.under_way.contains_key(&packet) => self.begin_as(now, kind, packet),
            _ => self.begin(now, kind),
        });
        let (out, max) = (&mut self.output, greeting.max_packet);
        let written = codec::publish(self.version, publish, packet.unwrap_or(0), max, out);
        match (packet, kind) {
            (Some(packet), _) if !written => {
                self.under_way.remove(&packet);
                self.order.pop_back();
                Sent::TooLarge
            }
            (Some(packet), kind) => {
                self.publishes += 1;
                self.at_qos2 += u16::from(kind == Some(Kind::Qos2));
                Sent::Packet(packet)
            }
            (None, _) if !written => Sent::TooLarge,
            (None, _) => {
                self.unconfirmed += 1;
                self.last_sent = now;
                Sent::Unconfirmed(self.unconfirmed)
            }
        }
    }

    /// Takes a subscribe and gives its packet identifier; `None` when there is no room now.
    pub(super) fn subscribe(&mut self, now: Instant, subscription: &Subscription<'_>) -> Option<u16> {
        self.has_room().then_some(())?;
        let packet = self.begin(now, Kind::Subscribe);
        codec::subscribe(self.version, subscription, packet, &mut self.output);
        Some(packet)
    }

    /// Takes an unsubscribe and gives its packet identifier; `None` when there is no room now.
    pub(super) fn unsubscribe(&mut self, now: Instant, filter: &str) -> Option<u16> {
        self.has_room().then_some(())?;
        let packet = self.begin(now, Kind::Unsubscribe);
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
        self.under_way.is_empty() && self.unconfirmed == self.confirmed
    }

    /// Whether the broker acknowledged anything, or had nothing to acknowledge.
    pub(super) fn was_of_use(&self) -> bool {
        self.under_way.is_empty() || self.acknowledged
    }

    /// Since when the broker owes the acknowledgement of the oldest request; `None` when it owes none.
    ///
    /// A request's time begins when the one before it is done: over a slow line a thousand of them are sent at once and each
    /// takes its turn, which is no reason to give the line up.
    pub(super) fn owed_since(&self) -> Option<Instant> {
        (!self.under_way.is_empty()).then_some(self.oldest_since)
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
                let packet = inbound.packet;
                let (ack, is_new) = match inbound.qos {
                    Qos::AtMostOnce => return Some(Happening::Message(inbound, None)),
                    Qos::AtLeastOnce => (Ack::Puback, true),
                    Qos::ExactlyOnce => (Ack::Pubrec, self.received.insert(packet)),
                };
                let number = self.owes_until();
                self.owed.push_back((ack, packet, false));
                if !is_new || !self.acknowledges_later {
                    self.acknowledge(number);
                }
                is_new.then_some(())?;
                Happening::Message(inbound, self.acknowledges_later.then_some(number))
            }
            Packet::Ack(Ack::Pubrel, packet, _) => {
                self.received.remove(&packet);
                codec::ack(Ack::Pubcomp, packet, &mut self.output);
                return None;
            }
            Packet::Ack(Ack::Pubrec, packet, reason) if reason < 0x80 => {
                match self.under_way.get_mut(&packet) {
                    Some(kind @ Kind::Qos2) => {
                        *kind = Kind::Received;
                        return Some(Happening::Received(packet));
                    }
                    Some(Kind::Received) => {}
                    _ => codec::ack(Ack::Pubrel, packet, &mut self.output),
                }
                return None;
            }
            // Released, the broker has it; what it says of the identifier then changes nothing.
            Packet::Ack(Ack::Pubcomp, packet, _) => {
                self.end(now, packet, &[Kind::Released])?;
                Happening::Acknowledged(packet, 0)
            }
            Packet::Ack(Ack::Puback, packet, reason) => {
                self.end(now, packet, &[Kind::Qos1])?;
                Happening::Acknowledged(packet, reason)
            }
            Packet::Ack(Ack::Pubrec, packet, reason) => {
                self.end(now, packet, &[Kind::Qos2, Kind::Received])?;
                Happening::Acknowledged(packet, reason)
            }
            Packet::Suback(packet, reason) => {
                self.end(now, packet, &[Kind::Subscribe])?;
                Happening::Subscribed(packet, reason)
            }
            Packet::Unsuback(packet) => {
                self.end(now, packet, &[Kind::Unsubscribe])?;
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

    /// Tells the broker that messages arrived only once [`Self::acknowledge`] says so.
    pub(super) fn acknowledge_later(&mut self) {
        self.acknowledges_later = true;
    }

    /// The broker need not keep this message any longer. It hears of it once that is so for all before it.
    pub(super) fn acknowledge(&mut self, number: u64) {
        let at = number.checked_sub(self.owes_since);
        let owed = at.and_then(|at| self.owed.get_mut(usize::try_from(at).ok()?));
        if let Some((_, _, is_due)) = owed {
            *is_due = true;
        }
        while let Some((ack, packet, true)) = self.owed.front() {
            codec::ack(*ack, *packet, &mut self.output);
            self.owed.pop_front();
            self.owes_since += 1;
        }
    }

    /// The number of the first message that the broker was not told to have arrived.
    pub(super) const fn owes_since(&self) -> u64 {
        self.owes_since
    }

    /// The number of the next message.
    pub(super) fn owes_until(&self) -> u64 {
        self.owes_since + self.owed.len() as u64
    }

    /// Ends what is under way as one of `kinds`; nothing else is known by that identifier.
    fn end(&mut self, now: Instant, packet: u16, kinds: &[Kind]) -> Option<()> {
        let kind = self
            .under_way
            .get(&packet)
            .copied()
            .filter(|kind| kinds.contains(kind))?;
        self.under_way.remove(&packet);
        self.acknowledged = true;
        self.publishes -= u16::from(!matches!(kind, Kind::Subscribe | Kind::Unsubscribe));
        self.at_qos2 -= u16::from(matches!(kind, Kind::Qos2 | Kind::Received | Kind::Released));
        if self.order.front() == Some(&packet) {
            self.oldest_since = now;
        }
        while self
            .order
            .front()
            .is_some_and(|id| !self.under_way.contains_key(id))
        {
            self.order.pop_front();
        }
        Some(())
    }

    /// Whether a QoS 2 exchange is under way.
    pub(super) fn is_in_qos2(&self) -> bool {
        self.at_qos2 > 0
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
            let message = Message {
                topic,
                payload: bytes::Bytes::from_static(b"x"),
                qos: Qos::from_number((number % 3) as u8).unwrap_or(Qos::AtMostOnce),
                retain: false,
                content_type: None,
                expires_at: None,
                origin: None,
                correspondence: None,
            };
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
    assert!(session.under_way.len() <= session.order.len() + 1);
    happenings.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{clock, message};
    use portcullis_proto::types::message::Message;
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore, SeedableRng};

    fn session(version: Protocol, connack: &[u8]) -> (Session, Instant) {
        let now = (clock().now)();
        let connect = Connect {
            client_id: "c".into(),
            clean_start: true,
            session_seconds: 0,
            keep_alive: 10,
            will: None,
        };
        let mut session = Session::new(now, version, connect, ("", ""));
        assert_eq!(received(&mut session, now, connack).len(), 1);
        session.output.clear();
        (session, now)
    }

    fn received(session: &mut Session, now: Instant, bytes: &[u8]) -> Vec<Happening> {
        session.input.extend_from_slice(bytes);
        let mut happenings = Vec::new();
        session.receive(now, &mut happenings);
        happenings
    }

    fn publish(session: &mut Session, now: Instant, qos: Qos) -> Sent {
        let message = message("t", "x");
        session.publish(now, &outbound(&message, qos, None))
    }

    fn outbound(message: &Message, qos: Qos, exchange: Option<u16>) -> Outbound<'_> {
        Outbound {
            message,
            qos,
            expiry: None,
            origin: None,
            exchange,
        }
    }

    #[test]
    fn a_publish_at_qos_2_is_released_once_it_is_known_to_be_received() {
        for version in [Protocol::V4, Protocol::V5] {
            let connack: &[u8] = match version {
                Protocol::V4 => &[0x20, 2, 1, 0],
                Protocol::V5 => &[0x20, 3, 1, 0, 0],
            };
            let (mut session, now) = session(version, connack);
            session.reserve([1, 2].into_iter());
            let message = message("t", "x");
            assert_eq!(publish(&mut session, now, Qos::ExactlyOnce), Sent::Packet(3));
            session.output.clear();
            let again = session.publish(now, &outbound(&message, Qos::ExactlyOnce, Some(2)));
            assert_eq!(again, Sent::Packet(2));
            assert_eq!(session.output.first(), Some(&0x3C), "DUP, QoS 2");
            session.output.clear();
            let taken = received(&mut session, now, &[0x50, 2, 0, 2]);
            assert!(matches!(*taken, [Happening::Received(2)]), "{taken:?}");
            assert!(session.output.is_empty());
            assert!(received(&mut session, now, &[0x50, 2, 0, 2]).is_empty());
            assert!(
                session.release(now, 2) && session.release(now, 1),
                "the second of an earlier one"
            );
            assert_eq!(session.output.as_ref(), [0x62, 2, 0, 2, 0x62, 2, 0, 1]);
            let done = received(&mut session, now, &[0x70, 2, 0, 2, 0x70, 2, 0, 1]);
            assert!(
                matches!(
                    *done,
                    [Happening::Acknowledged(2, 0), Happening::Acknowledged(1, 0)]
                ),
                "{done:?}"
            );
            assert!(session.is_in_qos2(), "the first is under way");
        }
    }

    #[test]
    fn no_more_is_under_way_than_the_broker_takes() {
        // Receive Maximum 2.
        let (mut session, now) = session(Protocol::V5, &[0x20, 6, 0, 0, 3, 0x21, 0, 2]);
        assert_eq!(publish(&mut session, now, Qos::AtLeastOnce), Sent::Packet(1));
        assert_eq!(publish(&mut session, now, Qos::ExactlyOnce), Sent::Packet(2));
        assert_eq!(publish(&mut session, now, Qos::AtLeastOnce), Sent::Full);
        assert_eq!(publish(&mut session, now, Qos::AtMostOnce), Sent::Unconfirmed(1));
        let subscribed = session.unsubscribe(now, "f");
        assert_eq!(subscribed, Some(3), "only publishes count");
        // An acknowledgement of the wrong kind is none.
        assert!(received(&mut session, now, &[0x40, 2, 0, 2, 0x40, 2, 0, 3, 0x40, 2, 0, 9]).is_empty());
        let taken = received(&mut session, now, &[0x50, 2, 0, 2]);
        assert!(matches!(*taken, [Happening::Received(2)]), "{taken:?}");
        assert_eq!(
            publish(&mut session, now, Qos::AtLeastOnce),
            Sent::Full,
            "PUBREC ends nothing"
        );
        assert!(session.release(now, 2));
        let done = received(&mut session, now, &[0x70, 2, 0, 2]);
        assert!(matches!(*done, [Happening::Acknowledged(2, 0)]), "{done:?}");
        assert_eq!(publish(&mut session, now, Qos::AtLeastOnce), Sent::Packet(4));
    }

    #[test]
    fn an_identifier_is_never_taken_twice_at_once() {
        let (mut session, now) = session(Protocol::V4, &[0x20, 2, 0, 0]);
        assert_eq!(publish(&mut session, now, Qos::AtLeastOnce), Sent::Packet(1));
        for round in 0..70_000_u32 {
            let Sent::Packet(packet) = publish(&mut session, now, Qos::AtLeastOnce) else {
                panic!("round {round}");
            };
            assert!(packet > 1);
            let [high, low] = packet.to_be_bytes();
            assert_eq!(received(&mut session, now, &[0x40, 2, high, low]).len(), 1);
            session.output.clear();
        }
        assert_eq!(session.order.len(), 1 + 70_000, "the first is not done");
        assert_eq!(received(&mut session, now, &[0x40, 2, 0, 1]).len(), 1);
        assert!(session.order.is_empty() && session.is_idle());
    }

    #[test]
    fn what_the_broker_owes_is_timed_from_the_moment_it_is_the_oldest() {
        let (mut session, begun) = session(Protocol::V4, &[0x20, 2, 0, 0]);
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(session.owed_since(), None);
        for second in 0..3 {
            publish(&mut session, at(second), Qos::AtLeastOnce);
        }
        assert!(!session.was_of_use());
        received(&mut session, at(3), &[0x40, 2, 0, 2]);
        assert_eq!(
            session.owed_since(),
            Some(at(0)),
            "a later one does not excuse the first"
        );
        assert!(session.was_of_use());
        received(&mut session, at(9), &[0x40, 2, 0, 1]);
        assert_eq!(session.owed_since(), Some(at(9)));
        received(&mut session, at(10), &[0x40, 2, 0, 3]);
        assert_eq!(session.owed_since(), None);
        publish(&mut session, at(20), Qos::AtLeastOnce);
        assert_eq!(session.owed_since(), Some(at(20)));
    }

    #[test]
    fn a_ping_confirms_what_was_sent_before_it_and_nothing_later() {
        let (mut session, now) = session(Protocol::V5, &[0x20, 3, 0, 0, 0]);
        publish(&mut session, now, Qos::AtMostOnce);
        publish(&mut session, now, Qos::AtMostOnce);
        assert!(session.tick(now + CONFIRM_EVERY).is_none());
        publish(&mut session, now, Qos::AtMostOnce);
        let confirmed = received(&mut session, now, &[0xD0, 0]);
        assert!(matches!(*confirmed, [Happening::Confirmed(2)]), "{confirmed:?}");
        assert!(!session.is_idle());
        assert!(received(&mut session, now, &[0xD0, 0]).is_empty(), "nobody asked");
        assert!(session.tick(now + CONFIRM_EVERY * 2).is_none());
        let silent = session.tick(now + CONFIRM_EVERY * 2 + Duration::from_secs(10));
        assert!(silent.is_some_and(|ending| !ending.by_broker));
    }

    #[test]
    fn a_message_at_qos_2_is_passed_on_once_until_it_is_released() {
        let (mut session, now) = session(Protocol::V4, &[0x20, 2, 0, 0]);
        let message = [0x34, 6, 0, 1, b't', 0, 7, b'x'];
        assert_eq!(received(&mut session, now, &message).len(), 1);
        assert!(received(&mut session, now, &message).is_empty());
        assert!(received(&mut session, now, &[0x62, 2, 0, 7]).is_empty());
        assert_eq!(received(&mut session, now, &message).len(), 1);
        assert_eq!(
            session.output.as_ref(),
            [0x50, 2, 0, 7, 0x50, 2, 0, 7, 0x70, 2, 0, 7, 0x50, 2, 0, 7]
        );
    }

    #[test]
    fn no_bytes_of_a_broker_bring_a_session_down() {
        let now = (clock().now)();
        let mut rng = StdRng::seed_from_u64(3);
        for round in 0..5_000 {
            let mut bytes = [0; 48];
            rng.fill_bytes(&mut bytes);
            for byte in &mut bytes {
                if rng.random_bool(0.7) {
                    *byte &= 0x73;
                }
            }
            let version = if round % 2 == 0 {
                Protocol::V4
            } else {
                Protocol::V5
            };
            feed(
                now,
                version,
                &bytes.chunks(rng.random_range(1..24)).collect::<Vec<_>>(),
            );
        }
    }
}
