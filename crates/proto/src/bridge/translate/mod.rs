//! The same data in another encoding: CBOR small on the air, JSON behind, as rules about topics say.

mod batch;
mod json;
mod senml;

use std::borrow::Cow;

use bytes::Bytes;
use ciborium::Value;

use super::content::{CBOR, JSON, SENML_CBOR, SENML_JSON, SENSML_CBOR, SENSML_JSON};
use crate::types::{TopicFilter, TopicName};

/// Longest payload that is translated, in bytes.
pub const MAX_PAYLOAD: usize = 16_384;

/// Most bytes that a publish becomes: escapes and the names of records make it longer.
const MAX_PUBLISHED: usize = 8 * MAX_PAYLOAD;

/// Deepest nesting of arrays, maps and tags that is translated.
pub const MAX_DEPTH: usize = 16;

/// Most messages that a batch becomes.
pub const MAX_BATCH: usize = 64;

/// How data is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 8259, and SenML in it (RFC 8428, 5).
    Json,
    /// RFC 8949, and SenML in it (RFC 8428, 6).
    Cbor,
}

/// Content-Formats of the same data: in JSON, in CBOR.
const PAIRS: [(u16, u16); 3] = [(JSON, CBOR), (SENML_JSON, SENML_CBOR), (SENSML_JSON, SENSML_CBOR)];

impl Encoding {
    /// Of a Content-Format its encoding and, in that order, the two of its pair.
    fn of(format: u16) -> Option<(Self, u16, u16)> {
        PAIRS.into_iter().find_map(|(json, cbor)| {
            let encoding = match format {
                _ if format == json => Self::Json,
                _ if format == cbor => Self::Cbor,
                _ => return None,
            };
            Some((encoding, json, cbor))
        })
    }

    /// The Content-Format of the same data in this encoding; `None` where it has no encoding that can be changed.
    #[must_use]
    pub fn format(self, format: u16) -> Option<u16> {
        let (_, json, cbor) = Self::of(format)?;
        Some(match self {
            Self::Json => json,
            Self::Cbor => cbor,
        })
    }

    /// The Content-Format that data has of which only the encoding is known.
    #[must_use]
    pub const fn plain(self) -> u16 {
        match self {
            Self::Json => JSON,
            Self::Cbor => CBOR,
        }
    }
}

/// The Content-Format of the same data in the other encoding; `None` where there is none.
#[must_use]
pub fn counterpart(format: u16) -> Option<u16> {
    let (encoding, json, cbor) = Encoding::of(format)?;
    Some(match encoding {
        Encoding::Json => cbor,
        Encoding::Cbor => json,
    })
}

/// What becomes of a payload that cannot be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// A publish is refused with 4.15, a message for observers dropped and counted.
    Refuse,
    /// It goes on as it is.
    Pass,
}

/// What becomes of a CBOR or JSON array, and of a SenML pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// One message.
    Whole,
    /// One message for each element; a record of a pack is resolved first (RFC 8428, 4.6).
    Each,
}

/// A rule: what is done with the messages of some topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The topics, as the broker has them: mountpoint included.
    pub topics: TopicFilter,
    /// What clients publish becomes of this encoding; `None` where it stays as it is.
    pub publish: Option<Encoding>,
    /// Who reads or observes without an Accept option gets this encoding; `None` what there is.
    pub observe: Option<Encoding>,
    /// What a message without a content type is taken for; `None` for what it may be.
    pub untyped: Option<Encoding>,
    /// What becomes of what cannot be translated.
    pub unfit: Unfit,
    /// What becomes of batches that clients publish.
    pub batch: Batch,
}

/// All rules; the first whose topics a message is of holds for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translations(pub Vec<Translation>);

impl Translations {
    /// The rule for a topic.
    #[must_use]
    pub fn of(&self, topic: &TopicName) -> Option<&Translation> {
        self.0.iter().find(|rule| rule.topics.matches(topic))
    }
}

/// Why a payload cannot be translated, for who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTranslated(pub &'static str);

impl Translation {
    /// What a publish becomes that came `wall` seconds after 1970: the payloads in their order and their Content-Format. `None` where it
    /// stays as it is.
    ///
    /// # Errors
    /// Why it cannot be translated.
    pub fn published(
        &self,
        format: Option<u16>,
        payload: &[u8],
        wall: u64,
    ) -> Result<Option<(Vec<Bytes>, u16)>, NotTranslated> {
        let Some((from, (encoding, ..))) = format.and_then(|from| Some((from, Encoding::of(from)?))) else {
            return Ok(None);
        };
        if payload.is_empty() {
            return Ok(None);
        }
        let to = self.publish.unwrap_or(encoding).format(from).unwrap_or(from);
        let is_split = self.batch == Batch::Each;
        if to == from && !is_split {
            return Ok(None);
        }
        let values = match decode(from, payload)? {
            Value::Array(items) if is_split => batch::split(from, items, wall)?,
            _ if to == from => return Ok(None),
            whole => vec![whole],
        };
        let (mut payloads, mut left) = (Vec::with_capacity(values.len()), MAX_PUBLISHED);
        for value in values {
            let encoded = encode(to, value)?;
            left = left
                .checked_sub(encoded.len())
                .ok_or(NotTranslated("the translation is too long"))?;
            payloads.push(Bytes::from(encoded));
        }
        Ok(Some((payloads, to)))
    }
}

/// The same data in another Content-Format of its pair.
///
/// # Errors
/// Why it cannot be translated.
pub fn translated(from: u16, to: u16, payload: &[u8]) -> Result<Bytes, NotTranslated> {
    encode(to, decode(from, payload)?).map(Bytes::from)
}

/// A payload as CBOR's data model has it; a SenML pack with the labels of its CBOR form.
fn decode(format: u16, payload: &[u8]) -> Result<Value, NotTranslated> {
    if payload.len() > MAX_PAYLOAD {
        return Err(NotTranslated("the payload is too long to be translated"));
    }
    match format {
        JSON => json::read(payload),
        SENML_JSON | SENSML_JSON => senml::labelled(json::read(payload)?),
        SENML_CBOR | SENSML_CBOR => cbor(payload).and_then(senml::checked),
        _ => cbor(payload),
    }
}

fn encode(format: u16, value: Value) -> Result<Vec<u8>, NotTranslated> {
    let mut encoded = Vec::new();
    match format {
        JSON => json::write(&mut encoded, &value)?,
        SENML_JSON | SENSML_JSON => json::write(&mut encoded, &senml::named(value)?)?,
        _ => ciborium::into_writer(&value, &mut encoded)
            .map_err(|_| NotTranslated("the data has no CBOR form"))?,
    }
    Ok(encoded)
}

fn cbor(mut payload: &[u8]) -> Result<Value, NotTranslated> {
    let value = ciborium::de::from_reader_with_recursion_limit(&mut payload, MAX_DEPTH).map_err(|error| {
        NotTranslated(match error {
            ciborium::de::Error::RecursionLimitExceeded => "the data is nested too deep",
            _ => "the payload is not CBOR",
        })
    })?;
    if payload.is_empty() {
        Ok(value)
    } else {
        Err(NotTranslated("there is more than one CBOR item"))
    }
}

/// A key of a map as JSON has it: text, or an integer in decimals (RFC 8949, 6.1).
fn name(key: &Value) -> Result<Cow<'_, str>, NotTranslated> {
    match key {
        Value::Text(text) => Ok(text.into()),
        Value::Integer(number) => Ok(i128::from(*number).to_string().into()),
        _ => Err(NotTranslated("a key of a map is neither text nor an integer")),
    }
}

#[cfg(test)]
mod tests;
