//! What must hold after every step, and what is counted so that a run that shows nothing is seen.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use coap_lite::{MessageClass, MessageType, Packet, RequestType, ResponseType};
use portcullis::types::{TopicFilter, TopicName};

use crate::broker::Broker;

/// A message may still be on its way between two workers.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// RFC 7252, 4.8.2.
const NON_LIFETIME: Duration = Duration::from_secs(145);
/// As long as this, no peer is forgotten and begins anew.
const REMEMBERED: Duration = Duration::from_secs(120);

/// What happened in a run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) datagrams: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) moved: u64,
    pub(crate) answered: u64,
    pub(crate) timed_out: u64,
    pub(crate) notified: u64,
    pub(crate) taken: u64,
    pub(crate) restarts: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, more: &Self) {
        self.datagrams += more.datagrams;
        self.lost += more.lost;
        self.duplicated += more.duplicated;
        self.moved += more.moved;
        self.answered += more.answered;
        self.timed_out += more.timed_out;
        self.notified += more.notified;
        self.taken += more.taken;
        self.restarts += more.restarts;
    }
}

/// A message id that a gateway gave: when, and for a notification with which token.
type Given = (Instant, Option<Vec<u8>>);

struct Traffic {
    since: Instant,
    received: usize,
    sent: usize,
    is_proven: bool,
}

struct Observation {
    number: u32,
    payload: Vec<u8>,
    /// What was sent once may be sent again.
    mids: HashSet<u16>,
    /// Where the newest message of each topic stands at the broker.
    places: HashMap<String, usize>,
}

/// Sees everything that passes between devices, gateways and the broker.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) tally: Tally,
    traffic: HashMap<SocketAddr, Traffic>,
    /// What each device ever observed, by its host, and token.
    registered: HashMap<(SocketAddr, Vec<u8>), String>,
    observations: HashMap<(SocketAddr, Vec<u8>), Observation>,
    /// Requests that begin one, by address and message id, and how often the process had died when they came first.
    registrations: HashMap<(SocketAddr, u16), u64>,
    ended: HashMap<(SocketAddr, Vec<u8>), Instant>,
    /// Message ids that the gateways gave, and for notifications whose they were.
    given: HashMap<(SocketAddr, u16), Given>,
    payloads: HashSet<Vec<u8>>,
    /// Publishes by the token of their request, until they are answered.
    unanswered: HashMap<(SocketAddr, Vec<u8>), Vec<u8>>,
    /// Publishes that were answered by nobody when the process died: their devices repeat them.
    orphans: HashSet<Vec<u8>>,
    seen_of_broker: usize,
    /// Prints every datagram.
    pub(crate) is_verbose: bool,
}

fn host(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 0)
}

impl Watch {
    fn print(&self, now: Instant, peer: SocketAddr, way: &str, packet: &Packet) {
        if self.is_verbose {
            let begun = self
                .traffic
                .values()
                .map(|traffic| traffic.since)
                .min()
                .unwrap_or(now);
            println!(
                "{:?} {peer} {way} {:?} {:?} mid {} token {:?} observe {:?} {:?}",
                now.duration_since(begun),
                packet.header.get_type(),
                packet.header.code,
                packet.header.message_id,
                String::from_utf8_lossy(packet.get_token()),
                packet.get_observe_value().map(Result::unwrap),
                String::from_utf8_lossy(&packet.payload),
            );
        }
    }

    pub(crate) fn registers(&mut self, from: SocketAddr, token: &[u8], filter: &str) {
        self.registered
            .insert((host(from), token.to_vec()), filter.to_owned());
    }

    /// A datagram reaches a gateway.
    pub(crate) fn arrives(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.tally.datagrams += 1;
        if let Ok(packet) = Packet::from_bytes(bytes) {
            self.print(now, from, "->", &packet);
            if packet.header.code == MessageClass::Request(RequestType::Put) && !packet.payload.is_empty() {
                self.unanswered
                    .insert((from, packet.get_token().to_vec()), packet.payload);
            } else if packet.get_observe_value() == Some(Ok(0)) {
                let key = (from, packet.get_token().to_vec());
                let now = self.tally.restarts;
                let first = self
                    .registrations
                    .entry((from, packet.header.message_id))
                    .or_insert(now);
                if *first < now {
                    // A copy of one that came before the process died, and what it began may have ended since: it begins anew.
                    self.observations.remove(&key);
                    self.ended.remove(&key);
                } else if let Some(observation) = self.observations.get_mut(&key) {
                    // Its answer is what is retained, which may be older than what it was told.
                    observation.places.clear();
                }
            }
        }
        let traffic = self.traffic.entry(from).or_insert(Traffic {
            since: now,
            received: 0,
            sent: 0,
            is_proven: false,
        });
        traffic.received += bytes.len();
        let Ok(packet) = Packet::from_bytes(bytes) else {
            return;
        };
        let kind = packet.header.get_type();
        let is_reply = matches!(kind, MessageType::Acknowledgement | MessageType::Reset);
        let Some((given, token)) = self
            .given
            .get_mut(&(from, packet.header.message_id))
            .filter(|_| is_reply)
        else {
            return;
        };
        traffic.is_proven = true;
        // Once it is acknowledged, a RST comes too late: the exchange is over.
        if kind == MessageType::Acknowledgement {
            *token = None;
        }
        if let (MessageType::Reset, Some(token)) = (kind, token)
            && now.duration_since(*given) < NON_LIFETIME
        {
            self.ended.entry((from, token.clone())).or_insert(now);
        }
    }

    /// A gateway sends a datagram.
    pub(crate) fn leaves(&mut self, now: Instant, to: SocketAddr, bytes: &[u8], broker: &Broker) {
        let packet = Packet::from_bytes(bytes).expect("a gateway sends what can be read");
        self.print(now, to, "<-", &packet);
        let traffic = self
            .traffic
            .get_mut(&to)
            .expect("nobody is sent anything who never sent");
        traffic.sent += bytes.len();
        assert!(
            traffic.is_proven
                || now.duration_since(traffic.since) > REMEMBERED
                || traffic.sent <= (3 * traffic.received).max(136),
            "{to} is unproven, sent {} and got {}",
            traffic.received,
            traffic.sent
        );
        let (kind, mid) = (packet.header.get_type(), packet.header.message_id);
        if packet.header.code != MessageClass::Empty {
            self.unanswered.remove(&(to, packet.get_token().to_vec()));
        }
        if matches!(kind, MessageType::Acknowledgement | MessageType::Reset) {
            return;
        }
        let number = packet.get_observe_value().map(Result::unwrap);
        let token = number.map(|_| packet.get_token().to_vec());
        self.given.insert((to, mid), (now, token.clone()));
        if let (Some(number), Some(token)) = (number, token) {
            self.notification(now, to, &packet, (number, token), broker);
        }
    }

    fn notification(
        &mut self,
        now: Instant,
        to: SocketAddr,
        packet: &Packet,
        (number, token): (u32, Vec<u8>),
        broker: &Broker,
    ) {
        let mid = packet.header.message_id;
        let filter = self.registered.get(&(host(to), token.clone()));
        let filter = filter.unwrap_or_else(|| panic!("{to} never observed with {token:?}"));
        let key = (to, token);
        let last = self.observations.entry(key.clone()).or_insert(Observation {
            number: number.wrapping_sub(1) & 0x00FF_FFFF,
            payload: Vec::new(),
            mids: HashSet::new(),
            places: HashMap::new(),
        });
        if !last.mids.insert(mid) {
            return;
        }
        self.tally.notified += 1;
        let ahead = number.wrapping_sub(last.number) & 0x00FF_FFFF;
        // One that nobody acknowledged before its client was elsewhere for a moment goes once more as it was.
        let is_again = ahead == 0 && last.payload == packet.payload;
        assert!(
            is_again || (1..1 << 23).contains(&ahead),
            "{key:?}: Observe {number} after {}",
            last.number
        );
        last.number = number;
        last.payload.clone_from(&packet.payload);
        if let Some(ended) = self.ended.get(&key) {
            assert!(
                now.duration_since(*ended) < ON_ITS_WAY,
                "{key:?} was told of, although it had rejected it"
            );
        }
        if packet.header.code != MessageClass::Response(ResponseType::Content) || packet.payload.is_empty() {
            return;
        }
        let topic = packet.payload.split(|byte| *byte == b' ').next().unwrap();
        let topic = std::str::from_utf8(topic).unwrap();
        let matches = TopicFilter::new(filter)
            .unwrap()
            .matches(&TopicName::new(topic).unwrap());
        assert!(matches, "{key:?} observes {filter} and was told of {topic}");
        let place = broker
            .place_of(&packet.payload)
            .expect("what is told was published");
        let newest = last.places.entry(topic.to_owned()).or_insert(place);
        assert!(
            *newest <= place,
            "{key:?}: a message of {topic} came after a later one"
        );
        *newest = place;
    }

    /// Nothing reaches the broker twice.
    pub(crate) fn broker(&mut self, broker: &Broker) {
        for message in &broker.taken[self.seen_of_broker..] {
            if message.topic.as_str().starts_with('$') {
                continue;
            }
            let is_new = self.payloads.insert(message.payload.to_vec());
            assert!(
                is_new || self.orphans.remove(message.payload.as_ref()),
                "published twice: {}",
                String::from_utf8_lossy(&message.payload)
            );
            self.tally.taken += 1;
        }
        self.seen_of_broker = broker.taken.len();
    }

    /// The process dies.
    pub(crate) fn dies(&mut self) {
        if self.is_verbose {
            println!("the process dies, {} publishes unanswered", self.unanswered.len());
        }
        // What an address was sent is not kept either.
        for traffic in self.traffic.values_mut() {
            (traffic.received, traffic.sent) = (0, 0);
        }
        // Which notification had which message id is not kept; a RST to one of before ends nothing.
        for (_, token) in self.given.values_mut() {
            *token = None;
        }
        self.orphans
            .extend(self.unanswered.drain().map(|(_, payload)| payload));
    }

    /// A device was told 2.04.
    pub(crate) fn accepted(&self, payload: &[u8]) {
        assert!(
            self.payloads.contains(payload),
            "answered, and not at the broker: {}",
            String::from_utf8_lossy(payload)
        );
    }
}
