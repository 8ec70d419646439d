//! The labels of SenML (RFC 8428): integers in CBOR, names in JSON.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use ciborium::Value;

use super::NotTranslated;

/// RFC 8428, table 4.
const LABELS: [(&str, i8); 15] = [
    ("bver", -1),
    ("bn", -2),
    ("bt", -3),
    ("bu", -4),
    ("bv", -5),
    ("bs", -6),
    ("n", 0),
    ("u", 1),
    ("v", 2),
    ("vs", 3),
    ("vb", 4),
    ("s", 5),
    ("t", 6),
    ("ut", 7),
    ("vd", 8),
];

/// The label of a data value: a byte string, in JSON its base64url (RFC 8428, 4.3).
const DATA: i8 = 8;

/// A record's fields.
type Fields = Vec<(Value, Value)>;

/// The number of a label in CBOR.
pub(super) fn label(key: &Value) -> Option<i8> {
    i128::from(key.as_integer()?).try_into().ok()
}

/// A pack of JSON with the labels of CBOR.
///
/// # Errors
/// Where it is no pack.
pub(super) fn labelled(pack: Value) -> Result<Value, NotTranslated> {
    each(pack, |(key, value)| {
        let number = LABELS
            .iter()
            .find(|(name, _)| key.as_text() == Some(*name))
            .map(|(_, number)| *number);
        Ok(match (number, value) {
            (Some(DATA), Value::Text(text)) => {
                let data = Base64UrlUnpadded::decode_vec(text.trim_end_matches('='));
                let data = data.map_err(|_| NotTranslated("a data value is not base64url"))?;
                (Value::from(DATA), Value::Bytes(data))
            }
            (Some(number), value) => (Value::from(number), value),
            (None, value) => (key, value),
        })
    })
    .and_then(checked)
}

/// A pack of CBOR with the names of JSON.
///
/// # Errors
/// Where a label has no name.
pub(super) fn named(pack: Value) -> Result<Value, NotTranslated> {
    each(pack, |(key, value)| {
        let name = match &key {
            Value::Text(_) => return Ok((key, value)),
            _ => label(&key).and_then(|number| LABELS.iter().find(|(_, known)| *known == number)),
        };
        let (name, number) = name.ok_or(NotTranslated("a label of SenML is unknown"))?;
        let value = match value {
            Value::Bytes(data) if *number == DATA => Value::Text(Base64UrlUnpadded::encode_string(&data)),
            value => value,
        };
        Ok((Value::Text((*name).to_owned()), value))
    })
}

/// A pack as it is, where it is one: of records whose fields have the types of RFC 8428, tables 1 to 4.
///
/// # Errors
/// Where it is none.
pub(super) fn checked(pack: Value) -> Result<Value, NotTranslated> {
    each(pack, |(key, value)| {
        let number = label(&key);
        if number.is_none_or(|number| !LABELS.iter().any(|(_, known)| *known == number)) && !key.is_text() {
            return Err(NotTranslated("a label of SenML is unknown"));
        }
        let fits = match (number, &value) {
            (Some(-2 | -4 | 0 | 1 | 3), value) => value.is_text(),
            (Some(-1), value) => value.is_integer(),
            (Some(-3 | -5 | -6 | 2 | 5..=7), Value::Float(number)) => number.is_finite(),
            (Some(-3 | -5 | -6 | 2 | 5..=7), Value::Tag(4, _)) => true,
            (Some(-3 | -5 | -6 | 2 | 5..=7), value) => value.is_integer(),
            (Some(4), value) => value.is_bool(),
            (Some(DATA), value) => value.is_bytes(),
            _ => true,
        };
        if fits {
            Ok((key, value))
        } else {
            Err(NotTranslated(
                "a field of a SenML record has another type than its label",
            ))
        }
    })
}

fn each(
    pack: Value,
    mut field: impl FnMut((Value, Value)) -> Result<(Value, Value), NotTranslated>,
) -> Result<Value, NotTranslated> {
    let mut record = |record| match record {
        Value::Map(fields) => {
            let fields: Result<Fields, _> = fields.into_iter().map(&mut field).collect();
            fields.map(Value::Map)
        }
        _ => Err(NotTranslated("a SenML pack is an array of records")),
    };
    match pack {
        Value::Array(records) if !records.is_empty() => {
            let records: Result<_, _> = records.into_iter().map(&mut record).collect();
            records.map(Value::Array)
        }
        _ => Err(NotTranslated("a SenML pack is an array of records")),
    }
}
