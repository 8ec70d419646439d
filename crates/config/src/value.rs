//! Values of the file to values of the program, with what would be right when they do not fit.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_proto::types::text::unsendable;
use toml::de::{DeArray, DeValue};

use super::paths::PathBase;
use super::quantity::{parse_duration, parse_size};

/// What is wrong with a value, or with a part of it.
#[derive(Debug)]
pub(super) struct Complaint {
    /// The part that is meant; `None` for the whole value.
    pub(super) span: Option<Range<usize>>,
    /// What is wrong and what would be right.
    pub(super) message: String,
}

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        Self { span: None, message }
    }
}

/// What a key can be read as.
pub(super) trait Value: Sized {
    /// How the reference page calls it.
    const KIND: &'static str;

    /// Reads a value of the file; paths are taken from `base`. Errors say what would be right.
    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>>;

    /// What a key without a default is when the file does not give it.
    fn unset() -> Option<Self> {
        None
    }
}

/// A value as messages name what they found. Texts are not repeated: they may be secrets.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(value) => format!("`{value}`"),
        DeValue::Array(_) => "an array".to_owned(),
        other => format!("a {}", other.type_str()),
    }
}

/// The complaint that `value` is not what was expected.
pub(super) fn expected(what: &str, value: &DeValue<'_>) -> Vec<Complaint> {
    vec![format!("expected {what}; found {}", found(value)).into()]
}

fn string<'v>(value: &'v DeValue<'_>, what: &str) -> Result<&'v str, Vec<Complaint>> {
    value.as_str().ok_or_else(|| expected(what, value))
}

fn whole<T>(result: Result<T, String>) -> Result<T, Vec<Complaint>> {
    result.map_err(|message| vec![message.into()])
}

impl Value for bool {
    const KIND: &'static str = "boolean";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        value
            .as_bool()
            .ok_or_else(|| expected("`true` or `false`", value))
    }
}

/// Values of keys that need not be given, and have no default then.
macro_rules! optional {
    ($($value:ty),+) => {
        $(
            impl $crate::value::Value for Option<$value> {
                const KIND: &'static str = <$value as $crate::value::Value>::KIND;

                fn read(
                    value: &toml::de::DeValue<'_>,
                    base: &$crate::paths::PathBase,
                ) -> Result<Self, Vec<$crate::value::Complaint>> {
                    <$value as $crate::value::Value>::read(value, base).map(Some)
                }

                fn unset() -> Option<Self> {
                    Some(None)
                }
            }
        )+
    };
}
pub(super) use optional;

optional!(bool, String, Duration);

macro_rules! whole_numbers {
    ($($number:ty),+) => {
        $(
            impl Value for $number {
                const KIND: &'static str = "number";

                fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
                    let what = format!("a whole number from 0 to {}", Self::MAX);
                    let number = value.as_integer().ok_or_else(|| expected(&what, value))?;
                    i128::from_str_radix(number.as_str(), number.radix())
                        .ok()
                        .and_then(|number| Self::try_from(number).ok())
                        .ok_or_else(|| expected(&what, value))
                }
            }
        )+
    };
}
whole_numbers!(u8, u16, u32);

impl Value for String {
    const KIND: &'static str = "text";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let text = string(value, "a text in quotes")?;
        if let Some(c) = unsendable(text) {
            return Err(vec![format!("a text may not hold U+{:04X}", u32::from(c)).into()]);
        }
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        Option::<Self>::read(value, base)?
            .ok_or_else(|| vec!["expected a path; found an empty text".to_owned().into()])
    }
}

impl Value for Option<PathBuf> {
    const KIND: &'static str = "path";

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        let path = string(value, "a path in quotes, relative to this file or absolute")?;
        if path.contains('\0') {
            return Err(vec!["a path may not hold a NUL character".to_owned().into()]);
        }
        if path.is_empty() {
            return Ok(None);
        }
        whole(base.resolve(path).map(Some))
    }
}

impl Value for Duration {
    const KIND: &'static str = "duration";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let text = string(value, "a duration in quotes such as \"30s\", \"5m\" or \"1h30m\"")?;
        whole(parse_duration(text))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Value for Size {
    const KIND: &'static str = "size";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "a size such as \"512KiB\" or \"4MiB\", or a number of bytes";
        match value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map(Self)
                .map_err(|_| expected(what, value)),
            _ => whole(parse_size(string(value, what)?).map(Self)),
        }
    }
}

impl Value for SocketAddr {
    const KIND: &'static str = "address";

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        Option::<Self>::read(value, base)?.ok_or_else(|| {
            vec![
                "expected an address and port; found an empty text"
                    .to_owned()
                    .into(),
            ]
        })
    }
}

impl Value for Option<SocketAddr> {
    const KIND: &'static str = "address";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "an address and port such as \"127.0.0.1:5683\" or \"[::]:5683\"";
        let text = string(value, what)?;
        if text.is_empty() {
            return Ok(None);
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| vec![Complaint::from(format!("expected {what}"))])?;
        let ip = address.ip();
        if ip.is_multicast() {
            return Err(vec![
                format!("{ip} is a multicast address: only unicast addresses are served").into(),
            ]);
        }
        Ok(Some(address))
    }
}

/// Reads each item with `read` and reports every one that does not fit at its own place.
pub(super) fn items<T>(
    array: &DeArray<'_>,
    read: impl Fn(&DeValue<'_>) -> Result<T, Vec<Complaint>>,
) -> Result<Vec<T>, Vec<Complaint>> {
    let mut all = Vec::new();
    let mut complaints = Vec::new();
    for item in array.iter() {
        match read(item.get_ref()) {
            Ok(read) => all.push(read),
            Err(wrong) => complaints.extend(wrong.into_iter().map(|complaint| Complaint {
                span: Some(complaint.span.unwrap_or_else(|| item.span())),
                ..complaint
            })),
        }
    }
    if complaints.is_empty() {
        Ok(all)
    } else {
        Err(complaints)
    }
}

impl Value for portcullis_proto::types::AccessRules {
    const KIND: &'static str = "list of rules";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "a list of rules such as [\"allow 192.0.2.0/24\", \"deny all\"]";
        let array = value.as_array().ok_or_else(|| expected(what, value))?;
        if array.len() > Self::MAX {
            return Err(vec![
                format!("at most {} rules, found {}", Self::MAX, array.len()).into(),
            ]);
        }
        let rules = items(array, |item| {
            whole(portcullis_proto::types::access::AccessRule::parse(string(
                item,
                "a rule in quotes",
            )?))
        })?;
        Ok(Self::new(rules))
    }
}

impl Value for BTreeMap<String, String> {
    const KIND: &'static str = "table of texts";

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        let table = value
            .as_table()
            .ok_or_else(|| expected("a table of texts such as { name = \"value\" }", value))?;
        let mut all = Self::new();
        let mut complaints = Vec::new();
        for (name, item) in table.iter() {
            match String::read(item.get_ref(), base) {
                Ok(text) => {
                    all.insert(name.get_ref().to_string(), text);
                }
                Err(wrong) => complaints.extend(wrong.into_iter().map(|complaint| Complaint {
                    span: Some(item.span()),
                    ..complaint
                })),
            }
        }
        if complaints.is_empty() {
            Ok(all)
        } else {
            Err(complaints)
        }
    }
}

/// A value that is one of a few words.
pub(super) fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, Vec<Complaint>> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let what = format!("one of {}", quoted.join(", "));
    let text = string(value, &what)?;
    if let Some((_, meant)) = words.iter().find(|(name, _)| *name == text) {
        return Ok(*meant);
    }
    let hint = super::suggest::did_you_mean(&text.to_ascii_lowercase(), &names)
        .map(|near| format!("; did you mean \"{near}\"?"))
        .unwrap_or_default();
    Err(vec![format!("expected {what}{hint}").into()])
}

/// Makes an enum a value that is one of the words given.
macro_rules! words {
    ($name:ty { $($word:literal => $meant:expr,)+ }) => {
        impl $crate::value::Value for $name {
            const KIND: &'static str = concat!("one of" $(, " `", $word, "`")+);

            fn read(
                value: &toml::de::DeValue<'_>,
                _: &$crate::paths::PathBase,
            ) -> Result<Self, Vec<$crate::value::Complaint>> {
                $crate::value::word(value, &[$(($word, $meant),)+])
            }
        }
    };
}
pub(super) use words;
