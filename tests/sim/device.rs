//! A device: one request at a time with RFC 7252's retransmission, observations, acknowledgements, reboots.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType, ResponseType};

use crate::chance::Chance;

/// What a request was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    Publish { payload: Vec<u8> },
    Observe { filter: String },
    Deregister { token: Vec<u8> },
    Read,
    Ping,
    Create,
    Heartbeat,
    Close,
}

#[derive(Debug)]
struct Outstanding {
    mid: u16,
    token: Vec<u8>,
    bytes: Vec<u8>,
    purpose: Purpose,
    resend_at: Instant,
    wait: Duration,
    resent: u32,
    /// The answer comes in a message of its own.
    is_acknowledged: bool,
}

/// What a device makes of a datagram.
#[derive(Debug, Default)]
pub(crate) struct Reaction {
    pub(crate) reply: Option<Vec<u8>>,
    /// What came of its request.
    pub(crate) done: Option<(Purpose, MessageClass)>,
}

pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// When it does something of its own again.
    pub(crate) due: Instant,
    pub(crate) is_deaf: bool,
    connects: bool,
    connection: Option<String>,
    mid: u16,
    tokens: u32,
    published: u32,
    /// Filters by token.
    pub(crate) observing: HashMap<Vec<u8>, String>,
    outstanding: Option<Outstanding>,
    /// What it replied to messages, to be said again to their duplicates (RFC 7252, 4.5).
    replied: HashMap<u16, Option<Vec<u8>>>,
    pub(crate) timed_out: u64,
}

impl Device {
    pub(crate) fn new(at: usize, now: Instant, connects: bool, chance: &mut Chance) -> Self {
        Self {
            name: format!("d{at}"),
            address: ([10, 0, 0, at as u8], 10_000).into(),
            due: now + chance.millis(0, 3_000),
            is_deaf: false,
            connects,
            connection: None,
            mid: chance.next() as u16,
            tokens: 0,
            published: 0,
            observing: HashMap::new(),
            outstanding: None,
            replied: HashMap::new(),
            timed_out: 0,
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.outstanding.is_some()
    }

    pub(crate) fn next_due(&self) -> Instant {
        let resend = self.outstanding.as_ref().map(|it| it.resend_at);
        resend.unwrap_or(self.due)
    }

    /// Everything but its name is forgotten; what it gets for what it was is news to it.
    pub(crate) fn reboot(&mut self) {
        self.outstanding = None;
        self.connection = None;
        self.observing.clear();
        self.replied.clear();
        self.mid = self.mid.wrapping_add(1_000);
    }

    /// Its NAT gives it another port, perhaps of another worker.
    pub(crate) fn rebind(&mut self) {
        self.address.set_port(self.address.port() + 1);
        self.replied.clear();
        // Without a connection what it observed was its old address's.
        if self.connection.is_none() {
            self.observing.clear();
        }
    }

    fn next_mid(&mut self) -> u16 {
        self.mid = self.mid.wrapping_add(1);
        self.mid
    }

    fn packet(&mut self, method: RequestType, path: &str, kind: MessageType) -> Packet {
        self.tokens += 1;
        let mut packet = Packet::new();
        packet.header.set_type(kind);
        packet.header.code = MessageClass::Request(method);
        packet.header.message_id = self.next_mid();
        packet.set_token(format!("{}{:x}", &self.name[1..], self.tokens).into_bytes());
        for segment in path.split('/') {
            packet.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
        }
        if let Some(token) = &self.connection {
            let (client, token) = (format!("c={}", self.name), format!("t={token}"));
            packet.add_option(CoapOption::UriQuery, client.into_bytes());
            packet.add_option(CoapOption::UriQuery, token.into_bytes());
        }
        packet
    }

    /// Does one thing; a datagram to send, whose answer it waits for if it is confirmable.
    pub(crate) fn act(&mut self, now: Instant, chance: &mut Chance) -> Vec<u8> {
        self.due = now + chance.millis(10, 8_000);
        if self.connects && self.connection.is_none() {
            let mut packet = self.packet(RequestType::Post, "mqtt/connection", MessageType::Confirmable);
            packet.add_option(CoapOption::UriQuery, format!("c={}", self.name).into_bytes());
            return self.send(now, packet, Purpose::Create);
        }
        match chance.below(20) {
            0..=8 => self.publish(now, chance),
            9..=12 => {
                let filter = format!("t/{}", ["0", "1", "2", "+", "#"][chance.below(5)]);
                let mut packet = self.packet(
                    RequestType::Get,
                    &format!("ps/{filter}"),
                    MessageType::Confirmable,
                );
                packet.set_observe_value(0);
                if chance.percent(50) {
                    let qos = format!("q={}", chance.below(3));
                    packet.add_option(CoapOption::UriQuery, qos.into_bytes());
                }
                // The same filter again by the same client takes the place of the older observation.
                self.observing.retain(|_, other| *other != filter);
                self.observing.insert(packet.get_token().to_vec(), filter.clone());
                self.send(now, packet, Purpose::Observe { filter })
            }
            13 | 14 if !self.observing.is_empty() => {
                let mut tokens: Vec<_> = self.observing.keys().cloned().collect();
                tokens.sort();
                let token = tokens.swap_remove(chance.below(tokens.len()));
                let path = format!("ps/{}", self.observing[&token]);
                let mut packet = self.packet(RequestType::Get, &path, MessageType::Confirmable);
                packet.set_observe_value(1);
                packet.set_token(token.clone());
                self.send(now, packet, Purpose::Deregister { token })
            }
            15 | 16 => {
                let packet = self.packet(
                    RequestType::Get,
                    &format!("ps/t/{}", chance.below(3)),
                    MessageType::Confirmable,
                );
                self.send(now, packet, Purpose::Read)
            }
            17 if self.connects => {
                let packet = self.packet(RequestType::Put, "mqtt/connection", MessageType::Confirmable);
                self.send(now, packet, Purpose::Heartbeat)
            }
            18 if self.connects => {
                let packet = self.packet(RequestType::Delete, "mqtt/connection", MessageType::Confirmable);
                self.observing.clear();
                self.send(now, packet, Purpose::Close)
            }
            _ => {
                let mut packet = Packet::new();
                packet.header.set_type(MessageType::Confirmable);
                packet.header.code = MessageClass::Empty;
                packet.header.message_id = self.next_mid();
                self.send(now, packet, Purpose::Ping)
            }
        }
    }

    /// Each payload once: the topic, who and how often.
    pub(crate) fn publish(&mut self, now: Instant, chance: &mut Chance) -> Vec<u8> {
        self.published += 1;
        let topic = format!("t/{}", chance.below(3));
        let payload = format!("{topic} {} {}", self.name, self.published).into_bytes();
        let confirmable = self.is_deaf || chance.percent(70);
        let kind = if confirmable {
            MessageType::Confirmable
        } else {
            MessageType::NonConfirmable
        };
        let mut packet = self.packet(RequestType::Put, &format!("ps/{topic}"), kind);
        if chance.percent(20) {
            packet.add_option(CoapOption::UriQuery, b"r=1".to_vec());
        }
        packet.payload.clone_from(&payload);
        self.send(now, packet, Purpose::Publish { payload })
    }

    /// Confirmable and answered at all events.
    pub(crate) fn insist(&mut self, now: Instant) -> Vec<u8> {
        self.outstanding = None;
        if self.connects && self.connection.is_none() {
            return self.act(now, &mut Chance::new(1));
        }
        self.published += 1;
        let payload = format!("t/0 {} {}", self.name, self.published).into_bytes();
        let mut packet = self.packet(RequestType::Put, "ps/t/0", MessageType::Confirmable);
        packet.payload.clone_from(&payload);
        self.send(now, packet, Purpose::Publish { payload })
    }

    fn send(&mut self, now: Instant, packet: Packet, purpose: Purpose) -> Vec<u8> {
        let bytes = packet.to_bytes().unwrap();
        if packet.header.get_type() == MessageType::Confirmable {
            let wait = Duration::from_millis(2_500);
            self.outstanding = Some(Outstanding {
                mid: packet.header.message_id,
                token: packet.get_token().to_vec(),
                bytes: bytes.clone(),
                purpose,
                resend_at: now + wait,
                wait,
                resent: 0,
                is_acknowledged: false,
            });
        }
        bytes
    }

    /// The answer did not come: once more, or given up (RFC 7252, 4.2).
    pub(crate) fn resend(&mut self, now: Instant) -> Option<Vec<u8>> {
        let outstanding = self.outstanding.as_mut()?;
        if outstanding.resent == 4 || outstanding.is_acknowledged {
            self.timed_out += 1;
            self.outstanding = None;
            self.due = now;
            return None;
        }
        outstanding.resent += 1;
        outstanding.wait *= 2;
        outstanding.resend_at = now + outstanding.wait;
        Some(outstanding.bytes.clone())
    }

    pub(crate) fn receive(&mut self, now: Instant, packet: &Packet) -> Reaction {
        let (kind, mid) = (packet.header.get_type(), packet.header.message_id);
        let mut reaction = Reaction::default();
        let is_reply = matches!(kind, MessageType::Acknowledgement | MessageType::Reset);
        if let Some(reply) = self.replied.get(&mid).filter(|_| !is_reply) {
            reaction.reply.clone_from(reply);
            return reaction;
        }
        let answers = self.outstanding.as_mut().is_some_and(|outstanding| match kind {
            MessageType::Acknowledgement if packet.header.code == MessageClass::Empty => {
                if mid == outstanding.mid {
                    outstanding.is_acknowledged = true;
                    outstanding.resend_at = now + Duration::from_secs(100);
                }
                false
            }
            MessageType::Acknowledgement | MessageType::Reset => mid == outstanding.mid,
            // Observe 1 goes by the token of the observation, whose notifications are no answer to it.
            _ => {
                packet.get_token() == outstanding.token && packet.get_observe_value().is_none()
                    || packet.get_token() == outstanding.token
                        && !self.observing.contains_key(&outstanding.token)
                    || packet.get_token() == outstanding.token
                        && matches!(outstanding.purpose, Purpose::Observe { .. })
            }
        });
        if answers {
            let outstanding = self.outstanding.take().unwrap();
            self.conclude(&outstanding.purpose, packet);
            reaction.done = Some((outstanding.purpose, packet.header.code));
            self.due = self.due.max(now);
        }
        let known = answers || self.observing.contains_key(packet.get_token());
        reaction.reply = match kind {
            MessageType::Confirmable if known => Some(empty(MessageType::Acknowledgement, mid)),
            MessageType::Confirmable | MessageType::NonConfirmable if !known => {
                Some(empty(MessageType::Reset, mid))
            }
            _ => None,
        };
        if !is_reply {
            self.replied.insert(mid, reaction.reply.clone());
        }
        reaction
    }

    fn conclude(&mut self, purpose: &Purpose, packet: &Packet) {
        let is_error = !matches!(
            packet.header.code,
            MessageClass::Response(
                ResponseType::Created
                    | ResponseType::Deleted
                    | ResponseType::Valid
                    | ResponseType::Changed
                    | ResponseType::Content
            )
        );
        match purpose {
            Purpose::Create if !is_error => {
                self.connection = Some(String::from_utf8(packet.payload.clone()).unwrap());
            }
            Purpose::Close => self.connection = None,
            Purpose::Deregister { token } => drop(self.observing.remove(token)),
            Purpose::Observe { .. } if is_error || packet.get_observe_value().is_none() => {
                self.observing.remove(packet.get_token());
            }
            _ => {}
        }
        if packet.header.code == MessageClass::Response(ResponseType::Unauthorized) {
            self.connection = None;
            self.observing.clear();
        }
    }
}

/// A message without token, options or payload.
fn empty(kind: MessageType, mid: u16) -> Vec<u8> {
    let mut packet = Packet::new();
    packet.header.set_type(kind);
    packet.header.code = MessageClass::Empty;
    packet.header.message_id = mid;
    packet.to_bytes().unwrap()
}
