//! How a message is written to disk: one format for the retained store and the spool.
//!
//! ```text
//! u8 version, u8 flags, u8 qos, u64 expiry in ms since 1970 (0 never), u64 written in ms since 1970, [u64 u64 origin],
//! u16 topic length, topic, [u16 content type length, content type], u32 payload length, payload, u32 CRC-32 of all before
//! ```
//! Numbers are little endian; what is in brackets is there when its flag is set.

use std::sync::Arc;

use bytes::Bytes;

use super::clock::Moment;
use super::origin::OriginTag;
use portcullis_proto::types::TopicName;
use portcullis_proto::types::message::{Message, Qos};

const VERSION: u8 = 2;
/// The version that did not say when it was written.
const FORMER: u8 = 1;
/// 2025 in milliseconds since 1970: a clock that says less was never set. Gateways without a battery begin in 1970.
const CLOCK_IS_SET: u64 = 1_735_689_600_000;
const RETAIN: u8 = 1;
const CONTENT_TYPE: u8 = 2;
const ORIGIN: u8 = 4;

/// Longest content type that is kept, in bytes; MQTT cannot carry a longer one.
const MAX_CONTENT_TYPE: usize = 65_535;

/// Appends `message` to `out`.
pub(super) fn encode(message: &Message, origin: Option<OriginTag>, moment: Moment, out: &mut Vec<u8>) {
    let start = out.len();
    let content_type = message
        .content_type
        .as_deref()
        .filter(|text| text.len() <= MAX_CONTENT_TYPE);
    let mut flags = 0;
    if message.retain {
        flags |= RETAIN;
    }
    if content_type.is_some() {
        flags |= CONTENT_TYPE;
    }
    if origin.is_some() {
        flags |= ORIGIN;
    }
    out.extend_from_slice(&[VERSION, flags, message.qos.number()]);
    let expiry = message.expires_at.map_or(0, |at| moment.to_wall(at));
    out.extend_from_slice(&expiry.to_le_bytes());
    out.extend_from_slice(&moment.wall_millis.to_le_bytes());
    if let Some(tag) = origin {
        out.extend_from_slice(&tag.process.to_le_bytes());
        out.extend_from_slice(&tag.number.to_le_bytes());
    }
    put_short(out, message.topic.as_str());
    if let Some(content_type) = content_type {
        put_short(out, content_type);
    }
    let length = u32::try_from(message.payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&message.payload);
    let crc = crc32fast::hash(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&crc.to_le_bytes());
}

fn put_short(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A message read from disk. Its origin is a tag, not yet a peer.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) message: Message,
    pub(super) origin: Option<OriginTag>,
}

/// The message in `bytes`, all of which belong to it; `None` when they are damaged.
pub(super) fn decode(bytes: &[u8], moment: Moment) -> Option<Record> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut reader = Reader(body);
    let [version, flags, qos] = reader.array::<3>()?;
    let mut expiry = u64::from_le_bytes(reader.array()?);
    let written = match version {
        // By a clock that is taken to have been set.
        FORMER => CLOCK_IS_SET,
        VERSION => u64::from_le_bytes(reader.array()?),
        _ => return None,
    };
    // Nobody knows how long ago that was, so all of its time is left.
    if expiry != 0 && written < CLOCK_IS_SET && moment.wall_millis >= CLOCK_IS_SET {
        expiry = moment.wall_millis.saturating_add(expiry.saturating_sub(written));
    }
    let origin = if flags & ORIGIN != 0 {
        Some(OriginTag {
            process: u64::from_le_bytes(reader.array()?),
            number: u64::from_le_bytes(reader.array()?),
        })
    } else {
        None
    };
    let topic = TopicName::new(reader.short()?).ok()?;
    let content_type = if flags & CONTENT_TYPE != 0 {
        Some(Arc::from(reader.short()?))
    } else {
        None
    };
    let length = u32::from_le_bytes(reader.array()?);
    let payload = reader.take(usize::try_from(length).ok()?)?;
    reader.0.is_empty().then_some(())?;
    let message = Message {
        retain: flags & RETAIN != 0,
        content_type,
        expires_at: (expiry != 0).then(|| moment.to_instant(expiry)),
        ..Message::new(topic, Bytes::copy_from_slice(payload), Qos::from_number(qos)?)
    };
    Some(Record { message, origin })
}

/// The topic of the message in `bytes`; `None` when they are damaged.
pub(super) fn topic(bytes: &[u8]) -> Option<&str> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut reader = Reader(body);
    let [version, flags, _] = reader.array::<3>()?;
    let _times = reader.take(if version == FORMER { 8 } else { 16 })?;
    if flags & ORIGIN != 0 {
        let _origin = reader.array::<16>()?;
    }
    reader.short()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn short(&mut self) -> Option<&'a str> {
        let length = u16::from_le_bytes(self.array()?);
        std::str::from_utf8(self.take(usize::from(length))?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{clock, message};

    #[test]
    fn a_message_comes_back_as_it_was() {
        let moment = clock().moment();
        let mut written = message("a/b", "21.5");
        written.retain = true;
        written.qos = Qos::ExactlyOnce;
        written.content_type = Some("application/cbor".into());
        written.expires_at = Some(moment.now + Duration::from_secs(60));
        let tag = OriginTag {
            process: 7,
            number: 9,
        };
        let mut bytes = Vec::new();
        encode(&written, Some(tag), moment, &mut bytes);
        let read = decode(&bytes, moment).unwrap();
        assert_eq!(read.origin, Some(tag));
        assert_eq!(read.message.topic, written.topic);
        assert_eq!(read.message.payload, written.payload);
        assert_eq!(read.message.qos, written.qos);
        assert!(read.message.retain);
        assert_eq!(read.message.content_type, written.content_type);
        let off = read.message.expires_at.unwrap() - written.expires_at.unwrap();
        assert!(off <= Duration::from_millis(2), "{off:?}");
    }

    #[test]
    fn time_goes_on_when_the_clock_was_not_set_before() {
        let set = clock().moment();
        assert!(set.wall_millis > CLOCK_IS_SET);
        let unset = Moment {
            wall_millis: 5_000,
            ..set
        };
        let mut written = message("a/b", "21.5");
        written.expires_at = Some(set.now + Duration::from_secs(3_600));
        let mut bytes = Vec::new();
        encode(&written, None, unset, &mut bytes);
        for moment in [unset, set] {
            let left = decode(&bytes, moment).unwrap().message.expires_at.unwrap() - set.now;
            assert!(
                left.abs_diff(Duration::from_secs(3_600)) <= Duration::from_millis(2),
                "{left:?}"
            );
        }
        assert_eq!(topic(&bytes), Some("a/b"));
    }

    #[test]
    fn a_message_of_a_former_version_is_read() {
        let moment = clock().moment();
        let mut written = message("a/b", "21.5");
        written.expires_at = Some(moment.now + Duration::from_secs(3_600));
        let mut bytes = Vec::new();
        encode(&written, None, moment, &mut bytes);
        // Another version, and without the moment of writing.
        bytes[0] = FORMER;
        bytes.drain(11..19);
        let end = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&crc);
        let read = decode(&bytes, moment).unwrap().message;
        assert_eq!(
            (read.topic.as_str(), &read.payload[..]),
            ("a/b", b"21.5".as_slice())
        );
        let left = read.expires_at.unwrap() - moment.now;
        assert!(
            left.abs_diff(Duration::from_secs(3_600)) <= Duration::from_millis(2),
            "{left:?}"
        );
        assert_eq!(topic(&bytes), Some("a/b"));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let moment = clock().moment();
        let mut bytes = Vec::new();
        encode(&message("a/b", "21.5"), None, moment, &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, moment).is_none(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], moment).is_none(), "cut to {length}");
        }
    }
}
