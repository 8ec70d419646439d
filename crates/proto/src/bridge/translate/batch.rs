//! One message for each element of an array, or each record of a SenML pack.

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
const SUM: i8 = 5;
const TIME: i8 = 6;

/// The elements of a batch, each as a payload of its own.
///
/// # Errors
/// Where there is none, or too many, or a record cannot be resolved.
pub(super) fn split(format: u16, items: Vec<Value>) -> Result<Vec<Value>, NotTranslated> {
    if items.is_empty() {
        return Err(NotTranslated("an empty batch is no message"));
    }
    if items.len() > MAX_BATCH {
        return Err(NotTranslated("the batch has too many messages"));
    }
    if matches!(format, JSON | CBOR) {
        return Ok(items);
    }
    let mut bases = Bases::default();
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
        if name.is_empty() {
            return Err(NotTranslated("a SenML record has no name"));
        }
        resolved.push((Value::from(NAME), Value::Text(name)));
        let unit = take(&mut own, UNIT).or_else(|| self.unit.clone());
        resolved.extend(unit.map(|unit| (Value::from(UNIT), unit)));
        for (field, base) in [(VALUE, &self.value), (SUM, &self.sum), (TIME, &self.time)] {
            let value = match (take(&mut own, field), base) {
                (Some(value), Some(base)) => Some(sum(&value, base)?),
                // Without a time of its own a record is of the base time.
                (None, Some(base)) if field == TIME => Some(base.clone()),
                (value, _) => value,
            };
            resolved.extend(value.map(|value| (Value::from(field), value)));
        }
        resolved.extend(own);
        Ok(Some(Value::Map(resolved)))
    }
}

fn take(fields: &mut Vec<(Value, Value)>, wanted: i8) -> Option<Value> {
    let at = fields.iter().position(|(key, _)| label(key) == Some(wanted))?;
    Some(fields.remove(at).1)
}

/// A value and its base; two integers add up exactly.
#[expect(
    clippy::cast_precision_loss,
    reason = "a sum with a floating point number is one"
)]
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
