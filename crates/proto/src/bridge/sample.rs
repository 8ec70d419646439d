//! The measured value of a message: what the conditions of an observation are about.

use serde::Deserialize;

use super::content::{
    CBOR, JSON, SENML_CBOR, SENML_JSON, SENSML_CBOR, SENSML_JSON, TEXT, whole_cbor as whole,
};

/// Longest payload that is looked into, in bytes: what publishers send is read once for all observers with conditions.
pub const MAX_PAYLOAD: usize = 16_384;

/// A value that conditions can be about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sample {
    /// A number; finite.
    Number(f64),
    /// A truth value.
    Boolean(bool),
}

impl Sample {
    /// Reads the value of a payload: a number or a truth value as text, JSON or CBOR, or the last record of a SenML pack (RFC 8428)
    /// about one thing. `None` where it is anything else, or longer than [`MAX_PAYLOAD`].
    #[must_use]
    pub fn of(format: Option<u16>, payload: &[u8]) -> Option<Self> {
        if payload.len() > MAX_PAYLOAD {
            return None;
        }
        let read = match format {
            None | Some(TEXT) => text(payload),
            Some(JSON) => match serde_json::from_slice(payload).ok()? {
                serde_json::Value::Number(number) => number.as_f64().map(Self::Number),
                serde_json::Value::Bool(value) => Some(Self::Boolean(value)),
                _ => None,
            },
            Some(CBOR) => Self::of_cbor(&whole(payload)?),
            Some(SENML_JSON | SENSML_JSON) => last_of(serde_json::from_slice(payload).ok()?),
            Some(SENML_CBOR | SENSML_CBOR) => last_of(cbor_pack(whole(payload)?)?),
            Some(_) => None,
        };
        read.filter(|sample| !matches!(sample, Self::Number(number) if !number.is_finite()))
    }

    fn of_cbor(value: &ciborium::Value) -> Option<Self> {
        match value {
            ciborium::Value::Bool(value) => Some(Self::Boolean(*value)),
            other => number(other).map(Self::Number),
        }
    }

    /// The number, where it is one.
    #[must_use]
    pub const fn number(self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Boolean(_) => None,
        }
    }

    /// The truth value; 0 and 1 are one too (XML Schema, 3.2.2).
    #[must_use]
    pub const fn boolean(self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(value),
            Self::Number(0.0) => Some(false),
            Self::Number(1.0) => Some(true),
            Self::Number(_) => None,
        }
    }
}

fn text(payload: &[u8]) -> Option<Sample> {
    match payload.trim_ascii() {
        b"true" => Some(Sample::Boolean(true)),
        b"false" => Some(Sample::Boolean(false)),
        number => std::str::from_utf8(number).ok()?.parse().ok().map(Sample::Number),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "conditions are about 64-bit floating point numbers"
)]
fn number(value: &ciborium::Value) -> Option<f64> {
    match value {
        ciborium::Value::Float(number) => Some(*number),
        ciborium::Value::Integer(number) => Some(i128::from(*number) as f64),
        _ => None,
    }
}

/// Of a SenML record what a value is made of (RFC 8428, 4.1 and 4.2).
#[derive(Debug, Default, Deserialize)]
struct Record {
    #[serde(rename = "bn")]
    base_name: Option<String>,
    #[serde(rename = "n")]
    name: Option<String>,
    #[serde(rename = "bv")]
    base_value: Option<f64>,
    #[serde(rename = "v")]
    value: Option<f64>,
    #[serde(rename = "vb")]
    boolean: Option<bool>,
}

/// SenML-CBOR's records, by the labels of RFC 8428, 6.
fn cbor_pack(pack: ciborium::Value) -> Option<Vec<Record>> {
    let records = pack.into_array().ok()?;
    records.into_iter().map(cbor_record).collect()
}

fn cbor_record(record: ciborium::Value) -> Option<Record> {
    let mut read = Record::default();
    for (label, value) in record.into_map().ok()? {
        let label = label.as_integer().and_then(|label| i64::try_from(label).ok());
        match label {
            Some(-2) => read.base_name = Some(value.into_text().ok()?),
            Some(-5) => read.base_value = Some(number(&value)?),
            Some(0) => read.name = Some(value.into_text().ok()?),
            Some(2) => read.value = Some(number(&value)?),
            Some(4) => read.boolean = Some(value.as_bool()?),
            _ => {}
        }
    }
    Some(read)
}

/// The value of the last record that has one. Records are in the order of their times (RFC 8428, 4.6); those of several things are
/// no single value.
fn last_of(records: Vec<Record>) -> Option<Sample> {
    let (mut base_name, mut base_value) = (String::new(), 0.0);
    let (mut last, mut about) = (None, None);
    for record in records {
        base_name = record.base_name.unwrap_or(base_name);
        base_value = record.base_value.unwrap_or(base_value);
        let sample = match (record.value, record.boolean) {
            (Some(value), None) => Sample::Number(base_value + value),
            (None, Some(value)) => Sample::Boolean(value),
            _ => continue,
        };
        let name = format!("{base_name}{}", record.name.unwrap_or_default());
        if about.as_ref().is_some_and(|about| *about != name) {
            return None;
        }
        about = Some(name);
        last = Some(sample);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_truth_values_are_read_in_every_format() {
        let number = |value| Some(Sample::Number(value));
        for (format, payload, wanted) in [
            (None, &b" 21.5\n"[..], number(21.5)),
            (Some(0), b"-3e2", number(-300.0)),
            (Some(0), b"true", Some(Sample::Boolean(true))),
            (Some(0), b"offline", None),
            (Some(0), b"inf", None),
            (Some(0), b"", None),
            (Some(50), b"7", number(7.0)),
            (Some(50), b"false", Some(Sample::Boolean(false))),
            (Some(50), b"{\"v\":7}", None),
            (Some(60), b"\x18\x2a", number(42.0)),
            (Some(60), b"\x38\x63", number(-100.0)),
            (Some(60), b"\xfb\x3f\xf8\0\0\0\0\0\0", number(1.5)),
            (Some(60), b"\xf5", Some(Sample::Boolean(true))),
            (Some(60), b"\x01\x02", None),
            (Some(60), b"\xf9\x7e\0", None),
            (Some(42), b"1", None),
        ] {
            assert_eq!(Sample::of(format, payload), wanted, "{format:?} {payload:?}");
        }
        assert_eq!(Sample::of(Some(0), &[b'1'; MAX_PAYLOAD + 1]), None);
    }

    #[test]
    fn the_last_record_of_a_pack_about_one_thing_counts_with_its_base() {
        let json = |text: &str| Sample::of(Some(110), text.as_bytes());
        assert_eq!(
            json(r#"[{"bn":"urn:a","bv":20,"u":"Cel","v":1.5},{"t":5,"v":2}]"#),
            Some(Sample::Number(22.0))
        );
        assert_eq!(json(r#"[{"n":"door","vb":true}]"#), Some(Sample::Boolean(true)));
        assert_eq!(json(r#"[{"n":"a","v":1},{"n":"b","v":2}]"#), None);
        assert_eq!(json(r#"[{"n":"a","vs":"text"}]"#), None);
        assert_eq!(json("[]"), None);
        // [{-2: "urn:a", -5: 20, 2: 1.5}, {6: 5, 2: 2}]
        let cbor = hex::decode("82a3216575726e3a61241402f93e00a206050202").unwrap();
        assert_eq!(Sample::of(Some(112), &cbor), Some(Sample::Number(22.0)));
    }

    #[test]
    fn claimed_lengths_and_depths_cost_nothing() {
        let deep = [0x81; MAX_PAYLOAD];
        assert_eq!(Sample::of(Some(60), &deep), None);
        assert_eq!(Sample::of(Some(110), &[b'['; MAX_PAYLOAD]), None);
        assert_eq!(
            Sample::of(Some(112), b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff\xa0"),
            None
        );
    }
}
