//! CBOR's data model to JSON and back (RFC 8949, 6.1 and 6.2).

use std::collections::HashSet;
use std::fmt;

use base64ct::{Base64, Base64UrlUnpadded, Encoding as _};
use ciborium::Value;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{MAX_DEPTH, NotTranslated, name};

/// Tags of RFC 8949, 3.4, that say something about how a number or byte strings are written.
const BIG_POSITIVE: u64 = 2;
const BIG_NEGATIVE: u64 = 3;
const DECIMAL_FRACTION: u64 = 4;
const AS_BASE64URL: u64 = 21;
const AS_BASE64: u64 = 22;
const AS_BASE16: u64 = 23;

/// How byte strings are written.
#[derive(Clone, Copy)]
enum Bytes {
    Base64Url,
    Base64,
    Base16,
}

/// Appends a value as JSON.
///
/// # Errors
/// Where JSON has nothing that it could be.
pub(super) fn write(out: &mut Vec<u8>, value: &Value) -> Result<(), NotTranslated> {
    append(out, value, Bytes::Base64Url)
}

fn append(out: &mut Vec<u8>, value: &Value, bytes: Bytes) -> Result<(), NotTranslated> {
    match value {
        Value::Integer(number) => out.extend_from_slice(i128::from(*number).to_string().as_bytes()),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        // Also what no number of JSON is, and null as serde_json writes it.
        Value::Float(number) => serialize(out, number)?,
        Value::Text(text) => serialize(out, text)?,
        Value::Bytes(content) => serialize(out, &encoded(content, bytes))?,
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                append(out, item, bytes)?;
            }
            out.push(b']');
        }
        Value::Map(entries) => {
            let mut names = HashSet::with_capacity(entries.len());
            out.push(b'{');
            for (index, (key, item)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                let name = name(key)?;
                serialize(out, &name)?;
                if !names.insert(name) {
                    return Err(NotTranslated("two keys of a map have one name"));
                }
                out.push(b':');
                append(out, item, bytes)?;
            }
            out.push(b'}');
        }
        Value::Tag(tag, content) => tagged(out, *tag, content, bytes)?,
        // Undefined and simple values without a meaning too.
        _ => out.extend_from_slice(b"null"),
    }
    Ok(())
}

fn tagged(out: &mut Vec<u8>, tag: u64, content: &Value, bytes: Bytes) -> Result<(), NotTranslated> {
    match (tag, content) {
        (BIG_POSITIVE, Value::Bytes(number)) => serialize(out, &Base64UrlUnpadded::encode_string(number)),
        (BIG_NEGATIVE, Value::Bytes(number)) => {
            serialize(out, &format!("~{}", Base64UrlUnpadded::encode_string(number)))
        }
        (DECIMAL_FRACTION, Value::Array(parts)) => match parts.as_slice() {
            [Value::Integer(exponent), Value::Integer(mantissa)] => {
                let number = format!("{}e{}", i128::from(*mantissa), i128::from(*exponent));
                out.extend_from_slice(number.as_bytes());
                Ok(())
            }
            _ => Err(NotTranslated("a decimal fraction is not of two integers")),
        },
        (AS_BASE64URL, _) => append(out, content, Bytes::Base64Url),
        (AS_BASE64, _) => append(out, content, Bytes::Base64),
        (AS_BASE16, _) => append(out, content, Bytes::Base16),
        _ => append(out, content, bytes),
    }
}

fn encoded(content: &[u8], bytes: Bytes) -> String {
    match bytes {
        Bytes::Base64Url => Base64UrlUnpadded::encode_string(content),
        Bytes::Base64 => Base64::encode_string(content),
        Bytes::Base16 => hex::encode_upper(content),
    }
}

fn serialize(out: &mut Vec<u8>, value: &impl serde::Serialize) -> Result<(), NotTranslated> {
    serde_json::to_writer(out, value).map_err(|_| NotTranslated("the data has no JSON form"))
}

/// Reads JSON. Whole numbers stay what they are, up to 128 bits; others become 64-bit floating point numbers.
///
/// # Errors
/// Where it is no JSON, nested too deep, has a name twice, or a number that would lose digits before its point.
pub(super) fn read(payload: &[u8]) -> Result<Value, NotTranslated> {
    let raw: &RawValue =
        serde_json::from_slice(payload).map_err(|_| NotTranslated("the payload is not JSON"))?;
    value(raw, MAX_DEPTH)
}

fn value(raw: &RawValue, depth: usize) -> Result<Value, NotTranslated> {
    let text = raw.get();
    let wrong = |_| NotTranslated("the payload is not JSON");
    let deeper = || {
        depth
            .checked_sub(1)
            .ok_or(NotTranslated("the data is nested too deep"))
    };
    Ok(match text.as_bytes().first() {
        Some(b'[') => {
            let depth = deeper()?;
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(wrong)?;
            let items = items.into_iter().map(|item| value(item, depth));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Some(b'{') => {
            let depth = deeper()?;
            let Entries(entries) = serde_json::from_str(text).map_err(wrong)?;
            let mut names = HashSet::with_capacity(entries.len());
            if !entries.iter().all(|(name, _)| names.insert(name.as_str())) {
                return Err(NotTranslated("an object has one name twice"));
            }
            let entries = entries.into_iter();
            let entries = entries.map(|(name, item)| Ok((Value::Text(name), value(item, depth)?)));
            Value::Map(entries.collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(text).map_err(wrong)?),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') => Value::Null,
        _ => number(text)?,
    })
}

fn number(text: &str) -> Result<Value, NotTranslated> {
    if text.contains(['.', 'e', 'E']) || text == "-0" {
        let number: f64 = text
            .parse()
            .map_err(|_| NotTranslated("the payload is not JSON"))?;
        return if number.is_finite() {
            Ok(Value::Float(number))
        } else {
            Err(NotTranslated("a number is too large"))
        };
    }
    text.parse::<i128>()
        .map(Value::from)
        .map_err(|_| NotTranslated("a number is too large"))
}

/// An object's members in their order, those of one name too.
struct Entries<'j>(Vec<(String, &'j RawValue)>);

impl<'j> Deserialize<'j> for Entries<'j> {
    fn deserialize<D: Deserializer<'j>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'j> Visitor<'j> for Members {
    type Value = Entries<'j>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'j>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}
