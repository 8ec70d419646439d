//! Exchanges at QoS 2 that a connection left unfinished.
//!
//! At QoS 2 the broker keeps what it received under its packet identifier until that is released (MQTT 5, 4.3.3). So that it
//! passes each message on once, a publish that may have reached it goes out again under the same identifier, and one that it
//! said to have received is released and not sent. What is under way stands in a file, written before the packet that it is
//! about, so that a process that is killed leaves its successor the same knowledge. A loss of power may lose it; then a message
//! may be doubled, and none is lost.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use portcullis_proto::types::message::Message;

/// Bytes of the file for each packet identifier.
const SLOT: usize = 16;
const SENT: u8 = 1;
const RECEIVED: u8 = 2;
/// More are not taken over from another process: no connection has as many under way.
const MAX_TAKEN_OVER: usize = 4_096;

/// An exchange that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) packet: u16,
    /// The broker has the message; it is to be released.
    pub(super) received: bool,
    /// Whether a broker hung up on it before.
    pub(super) struck: bool,
    /// Of the message, because a number in the spool alone would be trusted too far.
    check: u32,
}

impl Exchange {
    pub(super) fn new(packet: u16, message: &Message) -> Self {
        Self {
            packet,
            received: false,
            struck: false,
            check: check(message),
        }
    }
}

/// The exchanges of one lane that wait for a connection to be finished on.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    file: Option<File>,
    /// By the number of the message in the spool.
    known: HashMap<u64, Exchange>,
    /// Those whose message is nobody's any more: they are released, so that their identifiers mean nothing.
    orphans: Vec<Exchange>,
}

impl Exchanges {
    /// With those that an earlier process left. Messages below `head` are done.
    pub(super) fn open(path: Option<&Path>, head: u64) -> Self {
        let mut exchanges = Self::default();
        let Some(path) = path else { return exchanges };
        match exchanges.load(path, head) {
            Ok(file) => exchanges.file = Some(file),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "exchanges at QoS 2 are not kept over a restart");
            }
        }
        exchanges
    }

    fn load(&mut self, path: &Path, head: u64) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut bytes = vec![0; (usize::from(u16::MAX) + 1) * SLOT];
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        for (packet, slot) in (0..=u16::MAX).zip(bytes.get(..read).unwrap_or_default().chunks_exact(SLOT)) {
            let Some((number, exchange)) = decode(packet, slot) else {
                continue;
            };
            if self.known.len() + self.orphans.len() >= MAX_TAKEN_OVER {
                break;
            }
            match number {
                Some(number) if number < head => {}
                Some(number) => drop(self.known.insert(number, exchange)),
                None => self.orphans.push(exchange),
            }
        }
        Ok(file)
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.orphans.is_empty()
    }

    /// Whether the message of one may still be in the spool.
    pub(super) fn has_messages(&self) -> bool {
        !self.known.is_empty()
    }

    /// The packet identifiers that mean something to the broker.
    pub(super) fn packets(&self) -> impl Iterator<Item = u16> + '_ {
        let known = self.known.values().map(|exchange| exchange.packet);
        known.chain(self.orphans.iter().map(|exchange| exchange.packet))
    }

    /// Writes down how far an exchange is, before the broker learns it. `number` is that of its message in the spool.
    pub(super) fn note(&self, exchange: &Exchange, number: Option<u64>) {
        self.write(exchange.packet, &encode(exchange, number));
    }

    /// The exchange is over, and its message not in the spool.
    pub(super) fn forget(&self, packet: u16) {
        self.write(packet, &[0; SLOT]);
    }

    fn write(&self, packet: u16, slot: &[u8; SLOT]) {
        if let Some(file) = &self.file {
            // What cannot be written down may be doubled after a kill, and is not lost.
            drop(file.write_all_at(slot, u64::from(packet) * SLOT as u64));
        }
    }

    /// The connection is over; the message has this number in the spool.
    pub(super) fn keep(&mut self, number: u64, exchange: Exchange) {
        self.note(&exchange, Some(number));
        self.known.insert(number, exchange);
    }

    /// The connection is over, and the message given up.
    pub(super) fn orphan(&mut self, exchange: Exchange) {
        self.note(&exchange, None);
        self.orphans.push(exchange);
    }

    /// The exchange to go on with for a message from the spool. A kill may have come after the message was written there and
    /// before its number was.
    pub(super) fn take(&mut self, number: u64, message: &Message) -> Option<Exchange> {
        if self.is_empty() {
            return None;
        }
        let check = check(message);
        if let Some(exchange) = self.known.remove(&number) {
            if exchange.check == check {
                return Some(exchange);
            }
            self.orphan(exchange);
            return None;
        }
        let at = self.orphans.iter().position(|exchange| exchange.check == check)?;
        Some(self.orphans.swap_remove(at))
    }

    /// The packet identifiers of those to be released.
    pub(super) fn take_orphans(&mut self) -> impl Iterator<Item = u16> + use<> {
        std::mem::take(&mut self.orphans)
            .into_iter()
            .map(|exchange| exchange.packet)
    }

    /// No message with a lower number is in the spool.
    pub(super) fn give_up_below(&mut self, number: u64) {
        let gone: Vec<Exchange> = self
            .known
            .extract_if(|known, _| *known < number)
            .map(|(_, exchange)| exchange)
            .collect();
        gone.into_iter().for_each(|exchange| self.orphan(exchange));
    }

    /// The broker knows none of them.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.orphans.clear();
        if let Some(file) = &self.file {
            // Where this fails, a later process releases what means nothing.
            drop(file.set_len(0));
        }
    }
}

fn check(message: &Message) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes());
    hasher.update(&message.payload);
    hasher.finalize()
}

/// A slot: the number of the message plus one or 0, its check, how far the exchange is, three bytes of a checksum.
fn encode(exchange: &Exchange, number: Option<u64>) -> [u8; SLOT] {
    let number = number.map_or(0, |number| number.wrapping_add(1)).to_le_bytes();
    let state = if exchange.received { RECEIVED } else { SENT };
    let [a, b, c, d, e, f, g, h] = number;
    let [i, j, k, l] = exchange.check.to_le_bytes();
    let [x, y, z, _] = checksum(&[a, b, c, d, e, f, g, h, i, j, k, l, state]);
    [a, b, c, d, e, f, g, h, i, j, k, l, state, x, y, z]
}

fn checksum(bytes: &[u8; 13]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

fn decode(packet: u16, slot: &[u8]) -> Option<(Option<u64>, Exchange)> {
    let (body, sum) = slot.split_first_chunk::<13>()?;
    let [x, y, z, _] = checksum(body);
    let state = *body.last()?;
    if packet == 0 || sum != [x, y, z] || !matches!(state, SENT | RECEIVED) {
        return None;
    }
    let (number, rest) = body.split_first_chunk::<8>()?;
    let exchange = Exchange {
        packet,
        received: state == RECEIVED,
        struck: false,
        check: u32::from_le_bytes(*rest.first_chunk()?),
    };
    Some((u64::from_le_bytes(*number).checked_sub(1), exchange))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    #[test]
    fn another_process_goes_on_where_one_was_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qos2-0");
        let (first, second, third) = (message("a", "1"), message("a", "2"), message("b", "3"));
        let exchanges = Exchanges::open(Some(&path), 0);
        let received = Exchange {
            received: true,
            ..Exchange::new(65_535, &second)
        };
        exchanges.note(&Exchange::new(7, &first), Some(40));
        exchanges.note(&received, Some(41));
        exchanges.note(&Exchange::new(9, &third), None);
        exchanges.note(&Exchange::new(10, &third), Some(39));
        exchanges.note(&Exchange::new(11, &third), None);
        exchanges.forget(11);
        let mut exchanges = Exchanges::open(Some(&path), 40);
        let mut packets: Vec<u16> = exchanges.packets().collect();
        packets.sort_unstable();
        assert_eq!(packets, [7, 9, 65_535]);
        assert_eq!(exchanges.take(41, &second), Some(received));
        assert_eq!(
            exchanges.take(40, &message("a", "4")),
            None,
            "a number that stands for another message now"
        );
        assert_eq!(
            exchanges.take(42, &third).map(|exchange| exchange.packet),
            Some(9),
            "killed before the number was written down"
        );
        assert_eq!(exchanges.take_orphans().collect::<Vec<_>>(), [7]);
        exchanges.clear();
        assert!(exchanges.is_empty() && Exchanges::open(Some(&path), 0).is_empty());
    }

    #[test]
    fn bytes_that_no_gateway_wrote_are_no_exchange() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qos2-0");
        std::fs::write(&path, [0xA5; SLOT * 300 + 5]).unwrap();
        assert!(Exchanges::open(Some(&path), 0).is_empty());
        std::fs::create_dir(directory.path().join("qos2-1")).unwrap();
        assert!(Exchanges::open(Some(&directory.path().join("qos2-1")), 0).is_empty());
    }
}
