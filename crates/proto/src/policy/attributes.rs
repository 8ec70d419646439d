//! What is known of a client beside its rights: names and values from a backend, a token or a key.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::types::text::unsendable;

/// Most attributes of one client.
pub const MAX_ATTRIBUTES: usize = 32;

/// Longest name in bytes.
pub const MAX_NAME: usize = 64;

/// Longest value in bytes.
pub const MAX_VALUE: usize = 256;

/// A name and its value.
type Attribute = (Box<str>, Box<str>);

/// The attributes of one client, sorted by name; clones share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Option<Arc<[Attribute]>>);

impl Attributes {
    /// Takes names and values; of a name that comes twice the last counts.
    ///
    /// # Errors
    /// What is wrong, in words that hold no value: more than 32, a name that is not 1 to 64 letters, digits, `_`, `-` or `.`, a
    /// value over 256 bytes or with a character that MQTT says not to send.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut all = std::collections::BTreeMap::new();
        for (name, value) in pairs {
            if !is_name(name) {
                return Err(format!(
                    "the name of an attribute is not 1 to {MAX_NAME} letters, digits, `_`, `-` or `.`"
                ));
            }
            if value.len() > MAX_VALUE {
                return Err(format!("the attribute {name} has more than {MAX_VALUE} bytes"));
            }
            if let Some(c) = unsendable(value) {
                return Err(format!("the attribute {name} holds U+{:04X}", u32::from(c)));
            }
            all.insert(name, value);
        }
        if all.len() > MAX_ATTRIBUTES {
            return Err(format!("more than {MAX_ATTRIBUTES} attributes"));
        }
        let pairs = all.into_iter().map(|(name, value)| (name.into(), value.into()));
        Ok(Self(
            Some(pairs.collect::<Arc<[_]>>()).filter(|pairs| !pairs.is_empty()),
        ))
    }

    /// Reads a JSON object of texts, numbers and truth values; a `null` is as if it were not there.
    ///
    /// # Errors
    /// As [`Self::new`], or a value is a list or an object.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, String> {
        let mut pairs = Vec::with_capacity(object.len().min(MAX_ATTRIBUTES));
        for (name, value) in object {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(truth) => truth.to_string(),
                Value::Array(_) | Value::Object(_) => {
                    return Err("an attribute is a list or an object".to_owned());
                }
            };
            pairs.push((name.as_str(), text));
        }
        Self::new(pairs.iter().map(|(name, text)| (*name, text.as_str())))
    }

    /// These and those of `base` that they do not have; these alone where both are too many together.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        if base.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return base.clone();
        }
        Self::new(base.iter().chain(self.iter())).unwrap_or_else(|_| self.clone())
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let pairs = self.0.as_deref()?;
        let at = pairs.binary_search_by(|(have, _)| (**have).cmp(name)).ok()?;
        pairs.get(at).map(|(_, value)| &**value)
    }

    /// The value of the attribute that a placeholder names, without `${` and `}`: `attr.NAME`, or `client_attrs.NAME` as other
    /// gateways have it.
    #[must_use]
    pub fn named(&self, placeholder: &str) -> Option<&str> {
        self.get(attribute_of(placeholder)?)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.as_deref().unwrap_or_default();
        pairs.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// The name of the attribute that a placeholder stands for, if it does.
#[must_use]
pub fn attribute_of(placeholder: &str) -> Option<&str> {
    let name = placeholder
        .strip_prefix("attr.")
        .or_else(|| placeholder.strip_prefix("client_attrs."))?;
    is_name(name).then_some(name)
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Attributes, String> {
        Attributes::from_json(value.as_object().unwrap())
    }

    #[test]
    fn what_a_login_says_goes_over_what_a_key_says() {
        let key = Attributes::new([("site", "x"), ("floor", "1")]).unwrap();
        let login = Attributes::new([("site", "y")]).unwrap();
        let all = login.over(&key);
        assert_eq!(all.iter().collect::<Vec<_>>(), [("floor", "1"), ("site", "y")]);
        assert_eq!(Attributes::default().over(&key), key);
        assert_eq!(key.over(&Attributes::default()), key);
        let names: Vec<String> = (0..MAX_ATTRIBUTES).map(|n| format!("n{n}")).collect();
        let full = Attributes::new(names.iter().map(|name| (name.as_str(), ""))).unwrap();
        assert_eq!(full.over(&key), full);
    }

    #[test]
    fn texts_numbers_and_truths_are_found_by_name() {
        let attributes =
            read(&json!({"tenant": "acme", "n": 7, "on": true, "none": null, "a.b-c_d": ""})).unwrap();
        let all: Vec<_> = attributes.iter().collect();
        assert_eq!(
            all,
            [("a.b-c_d", ""), ("n", "7"), ("on", "true"), ("tenant", "acme")]
        );
        assert_eq!(attributes.get("tenant"), Some("acme"));
        assert_eq!(attributes.get("none"), None);
        assert!(read(&json!({})).unwrap().is_empty() && Attributes::default().is_empty());
    }

    #[test]
    fn what_is_too_much_or_no_text_is_refused_without_being_repeated() {
        for bad in [
            json!({"a": ["secret"]}),
            json!({"a": {"b": "secret"}}),
            json!({"": "secret"}),
            json!({"a b": "secret"}),
            json!({"a": "secret\n"}),
            json!({"a": "secret".repeat(50)}),
            json!({"n".repeat(65): "secret"}),
            (0..33)
                .map(|n| (n.to_string(), json!("secret")))
                .collect::<Map<_, _>>()
                .into(),
        ] {
            let error = read(&bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
