//! One message for each element of an array, or each record of a SenML pack.

#![expect(
    clippy::cast_precision_loss,
    reason = "a sum with a floating point number is one"
)]

use ciborium::Value;

use super::super::content::{CBOR, JSON};
use super::senml::label;
use super::{MAX_BATCH, NotTranslated};

/// Base fields of SenML (RFC 8428, 4.1), with what they are the base of.
const BASE_VERSION: i8 = -1;
const BASE_NAME: i8 = -2;
const BASE_TIME: i8 = -3;
const BASE_UNIT: i8 = -4;
const BASE_VALUE: i8 = -5;
const BASE_SUM: i8 = -6;
const NAME: i8 = 0;
const UNIT: i8 = 1;
const VALUE: i8 = 2;
const STRING: i8 = 3;
const BOOLEAN: i8 = 4;
const SUM: i8 = 5;
const DATA: i8 = 8;
const TIME: i8 = 6;

/// The elements of a batch, each as a payload of its own.
///
/// # Errors
/// Where there is none, or too many, or a record cannot be resolved.
pub(super) fn split(format: u16, items: Vec<Value>, wall: u64) -> Result<Vec<Value>, NotTranslated> {
    if items.is_empty() {
        return Err(NotTranslated("an empty batch is no message"));
    }
    if items.len() > MAX_BATCH {
        return Err(NotTranslated("the batch has too many messages"));
    }
    if matches!(format, JSON | CBOR) {
        return Ok(items);
    }
    let mut bases = Bases {
        wall,
        ..Bases::default()
    };
    let mut messages = Vec::with_capacity(items.len());
    for item in items {
        let record = bases.resolve(item)?;
        messages.extend(record.map(|record| Value::Array(vec![record])));
    }
    Ok(messages)
}

/// The base fields in force, which hold for the records after the one that has them too.
#[derive(Default)]
struct Bases {
    /// Now, in seconds after 1970.
    wall: u64,
    version: Option<Value>,
    name: String,
    time: Option<Value>,
    unit: Option<Value>,
    value: Option<Value>,
    sum: Option<Value>,
}

impl Bases {
    /// A resolved record (RFC 8428, 4.6); nothing for one that has base fields alone.
    fn resolve(&mut self, record: Value) -> Result<Option<Value>, NotTranslated> {
        let fields = record.into_map().unwrap_or_default();
        let mut own = Vec::with_capacity(fields.len() + 3);
        for (key, value) in fields {
            let base = match label(&key) {
                Some(BASE_NAME) => {
                    self.name = value.into_text().unwrap_or_default();
                    continue;
                }
                Some(BASE_VERSION) => &mut self.version,
                Some(BASE_TIME) => &mut self.time,
                Some(BASE_UNIT) => &mut self.unit,
                Some(BASE_VALUE) => &mut self.value,
                Some(BASE_SUM) => &mut self.sum,
                _ => {
                    own.push((key, value));
                    continue;
                }
            };
            *base = Some(value);
        }
        if own.is_empty() {
            return Ok(None);
        }
        let mut resolved = Vec::with_capacity(own.len() + 4);
        resolved.extend(
            self.version
                .clone()
                .map(|version| (Value::from(BASE_VERSION), version)),
        );
        let name = take(&mut own, NAME).and_then(|name| name.into_text().ok());
        let name = format!("{}{}", self.name, name.unwrap_or_default());
        if !is_name(&name) {
            return Err(NotTranslated(
                "a SenML record has no name, or one that it may not have",
            ));
        }
        resolved.push((Value::from(NAME), Value::Text(name)));
        let unit = take(&mut own, UNIT).or_else(|| self.unit.clone());
        resolved.extend(unit.map(|unit| (Value::from(UNIT), unit)));
        let has_value = own
            .iter()
            .any(|(key, _)| matches!(label(key), Some(VALUE | STRING | BOOLEAN | SUM | DATA)));
        for (field, base) in [(VALUE, &self.value), (SUM, &self.sum), (TIME, &self.time)] {
            let value = match (take(&mut own, field), base) {
                (Some(value), Some(base)) => Some(sum(&value, base)?),
                // What a record does not have counts as 0 (RFC 8428, 4.1).
                (None, Some(base)) if field != VALUE || !has_value => Some(base.clone()),
                (value, _) => value,
            };
            let value = match value {
                Some(time) if field == TIME => Some(absolute(time, self.wall)?),
                value => value,
            };
            resolved.extend(value.map(|value| (Value::from(field), value)));
        }
        resolved.extend(own);
        Ok(Some(Value::Map(resolved)))
    }
}

/// What a whole name is made of (RFC 8428, 4.5.1).
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-:./_".contains(c))
}

/// A time that is no longer about the moment at which it was sent (RFC 8428, 4.5.3).
fn absolute(time: Value, wall: u64) -> Result<Value, NotTranslated> {
    const FIRST: f64 = 268_435_456.0;
    let at = match &time {
        Value::Float(at) => *at,
        time => time.as_integer().map_or(FIRST, |at| i128::from(at) as f64),
    };
    if at < FIRST {
        sum(&time, &Value::from(wall))
    } else {
        Ok(time)
    }
}

fn take(fields: &mut Vec<(Value, Value)>, wanted: i8) -> Option<Value> {
    let at = fields.iter().position(|(key, _)| label(key) == Some(wanted))?;
    Some(fields.remove(at).1)
}

/// A value and its base; two integers add up exactly.
fn sum(value: &Value, base: &Value) -> Result<Value, NotTranslated> {
    let integer = |value: &Value| value.as_integer().map(i128::from);
    let float = |value: &Value| value.as_float().or_else(|| integer(value).map(|it| it as f64));
    match (integer(value), integer(base)) {
        // Each has 64 bits and a sign.
        (Some(value), Some(base)) => Ok(Value::from(value.saturating_add(base))),
        _ => match (float(value), float(base)) {
            (Some(value), Some(base)) => Ok(Value::Float(value + base)),
            _ => Err(NotTranslated(
                "a decimal fraction cannot be resolved with its base",
            )),
        },
    }
}
