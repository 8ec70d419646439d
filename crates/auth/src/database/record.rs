//! What a database knows of a client, whatever kind it is of.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::policy::authentication::{DenyReason, Verdict};
use portcullis_proto::session::KnownKeys;
use zeroize::Zeroizing;

use super::super::hash::{HashAlgorithm, StoredHash};
use super::super::{answer, json, keys};

/// Begins the names of columns that are attributes of the client.
const ATTRIBUTE: &str = "attr_";

/// A value as it came.
#[derive(Clone, PartialEq)]
pub(in super::super) enum Field {
    /// Of a type that the server told.
    Typed(Value),
    /// Bytes, which may be a text.
    Bytes(Vec<u8>),
}

/// The fields of one client by their names, in lower case; what is null is not there.
#[derive(Default, Clone, PartialEq)]
pub(in super::super) struct Record(BTreeMap<String, Field>);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Record {
    pub(super) fn put(&mut self, name: &str, field: Field) {
        if field != Field::Typed(Value::Null) {
            self.0.insert(name.to_ascii_lowercase(), field);
        }
    }

    /// The hash of the password: `password_hash`, with `salt`.
    ///
    /// # Errors
    /// It is none that is understood.
    pub(super) fn hash(&self, algorithm: HashAlgorithm) -> Result<Option<StoredHash>, String> {
        let hash = match self.0.get("password_hash") {
            None => return Ok(None),
            Some(Field::Typed(Value::String(text))) => text.clone(),
            Some(Field::Typed(_)) => return Err("password_hash is no text".to_owned()),
            // A column of bytes may hold the digits or what they stand for.
            Some(Field::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => hex::encode(bytes),
            },
        };
        let salt = match self.0.get("salt") {
            None => None,
            Some(Field::Typed(Value::String(text))) => Some(text.as_bytes()),
            Some(Field::Bytes(bytes)) => Some(&**bytes),
            Some(Field::Typed(_)) => return Err("salt is no text".to_owned()),
        };
        algorithm.read(hash.trim_end(), salt).map(Some)
    }

    /// What holds for who has the right password: `is_superuser`, `acl`, `expire_at`, `client_attrs` and `attr_NAME`.
    ///
    /// # Errors
    /// Something of it is not understood: letting the client in without it could allow too much.
    pub(in super::super) fn verdict(&self, now: SystemTime) -> Result<Verdict, String> {
        let mut source = Map::new();
        if let Some(superuser) = self.value("is_superuser")? {
            source.insert("is_superuser".to_owned(), superuser);
        }
        if let Some(acl) = self.json("acl")? {
            source.insert("acl".to_owned(), acl);
        }
        source.insert("client_attrs".to_owned(), self.attributes()?.into());
        let expires_in = match self.value("expire_at")? {
            None => None,
            Some(at) => {
                // Texts come from where all values are texts.
                let at = match at.as_str().map(str::parse::<u64>) {
                    Some(Ok(seconds)) => Value::from(seconds),
                    _ => at,
                };
                match answer::left(&at, now).ok_or("expire_at is no number of seconds")? {
                    Duration::ZERO => return Ok(Verdict::Deny(DenyReason::Expired)),
                    left => Some(left),
                }
            }
        };
        answer::granted(&source, "acl", "client_attrs", expires_in)
    }

    /// The pre-shared keys: `key` in hexadecimal digits, `previous_key`, and attributes of the client.
    ///
    /// # Errors
    /// Something of it is not understood.
    pub(in super::super) fn keys(&self) -> Result<Option<KnownKeys>, String> {
        let key = self.digits("key")?;
        let previous = self.digits("previous_key")?;
        let attributes = Attributes::from_json(&self.attributes()?)?;
        keys::known(
            key.as_ref().map(|key| key.as_str()),
            previous.as_ref().map(|key| key.as_str()),
            attributes,
        )
    }

    fn digits(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
        Ok(match self.0.get(name) {
            None => None,
            Some(Field::Typed(Value::String(text))) => Some(Zeroizing::new(text.clone())),
            Some(Field::Typed(_)) => return Err(format!("{name} is no text")),
            Some(Field::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(|_| format!("{name} is no text"))?;
                Some(Zeroizing::new(text.to_owned()))
            }
        })
    }

    fn attributes(&self) -> Result<Map<String, Value>, String> {
        let mut attributes = match self.json("client_attrs")? {
            None => Map::new(),
            Some(Value::Object(object)) => object,
            Some(_) => return Err("client_attrs is no object".to_owned()),
        };
        for name in self.0.keys() {
            if let (Some(attribute), Some(value)) = (name.strip_prefix(ATTRIBUTE), self.value(name)?) {
                attributes.insert(attribute.to_owned(), value);
            }
        }
        Ok(attributes)
    }

    /// A value that is a text, a number or a truth value.
    fn value(&self, name: &str) -> Result<Option<Value>, String> {
        Ok(match self.0.get(name) {
            None => None,
            Some(Field::Typed(value)) => Some(value.clone()),
            // MySQL's BIT(1).
            Some(Field::Bytes(bytes)) if matches!(**bytes, [0 | 1]) => Some(Value::Bool(**bytes == [1])),
            Some(Field::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(|_| format!("{name} is no text"))?;
                Some(Value::from(text))
            }
        })
    }

    /// A value that is a list or an object, or the JSON of one; an empty text is nothing.
    fn json(&self, name: &str) -> Result<Option<Value>, String> {
        match self.value(name)? {
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => {
                let read = json::value(text.as_bytes());
                read.map(Some).ok_or_else(|| format!("{name} is no JSON"))
            }
            other => Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::json;

    use super::*;

    fn record(fields: &[(&str, Field)]) -> Record {
        let mut record = Record::default();
        for (name, field) in fields {
            record.put(name, field.clone());
        }
        record
    }

    fn bytes(text: &str) -> Field {
        Field::Bytes(text.into())
    }

    fn verdict(fields: &[(&str, Field)]) -> Result<Verdict, String> {
        record(fields).verdict(UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn typed_values_and_texts_of_them_say_the_same() {
        let acl = json!([{"permission": "allow", "action": "all", "topic": "t"}]);
        let typed = verdict(&[
            ("is_superuser", Field::Typed(json!(true))),
            ("expire_at", Field::Typed(json!(1060))),
            ("acl", Field::Typed(acl.clone())),
            ("client_attrs", Field::Typed(json!({"site": "x", "n": 1}))),
            ("attr_tenant", Field::Typed(json!("acme"))),
            ("attr_none", Field::Typed(json!(null))),
        ])
        .unwrap();
        for (superuser, is) in [
            ("1", true),
            ("true", true),
            ("\u{1}", true),
            ("0", false),
            ("", false),
        ] {
            let texts = verdict(&[
                ("IS_SUPERUSER", bytes(superuser)),
                ("expire_at", bytes("1060")),
                ("acl", bytes(&acl.to_string())),
                ("client_attrs", bytes(r#"{"site": "x", "n": 1}"#)),
                ("attr_tenant", bytes("acme")),
            ])
            .unwrap();
            assert_eq!(texts == typed, is, "{superuser:?}");
        }
        let Verdict::Allow {
            expires_in,
            attributes,
            acl: Some(_),
            ..
        } = typed
        else {
            panic!("{typed:?}")
        };
        assert_eq!(expires_in, Some(Duration::from_secs(60)));
        let all: Vec<_> = attributes.iter().collect();
        assert_eq!(all, [("n", "1"), ("site", "x"), ("tenant", "acme")]);
        assert_eq!(
            verdict(&[("acl", bytes(" ")), ("expire_at", Field::Typed(json!(null)))]),
            Ok(Verdict::allow())
        );
    }

    #[test]
    fn keys_are_texts_of_digits_with_attributes_beside() {
        let all = record(&[
            ("key", bytes("00ff")),
            ("previous_key", Field::Typed(json!("01"))),
            ("attr_site", bytes("x")),
        ]);
        let known = all.keys().unwrap().unwrap();
        let keys: Vec<_> = known.keys.iter().map(|key| key.to_vec()).collect();
        assert_eq!(keys, [vec![0, 0xff], vec![1]]);
        assert_eq!(known.attributes.get("site"), Some("x"));
        assert_eq!(record(&[("attr_site", bytes("x"))]).keys(), Ok(None));
        for (name, value) in [
            ("key", Field::Typed(json!(7))),
            ("key", Field::Bytes(vec![0xff])),
            ("key", bytes("xy")),
            ("client_attrs", bytes("[]")),
        ] {
            assert!(record(&[(name, value)]).keys().is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_not_understood_lets_nobody_in() {
        assert_eq!(
            verdict(&[("expire_at", bytes("1000"))]),
            Ok(Verdict::Deny(DenyReason::Expired))
        );
        for (name, value) in [
            ("expire_at", bytes("soon")),
            ("acl", bytes("all")),
            ("acl", bytes(r##"{"pub": ["a"], "pub": ["#"]}"##)),
            ("acl", Field::Typed(json!(true))),
            ("acl", Field::Bytes(vec![0xff, 0xfe])),
            ("client_attrs", bytes("[]")),
            ("attr_x y", bytes("a")),
            ("attr_x", Field::Typed(json!(["a"]))),
        ] {
            assert!(verdict(&[(name, value)]).is_err(), "{name}");
        }
    }
}
