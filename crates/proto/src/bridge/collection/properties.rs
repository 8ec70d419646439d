//! Topic properties (draft-ietf-core-coap-pubsub-21, section 2.2.1): a CBOR map, read, checked, changed and written.

use ciborium::Value;

use crate::bridge::content;
use crate::types::text::unsendable;

/// Longest representation of a topic, in bytes; each worker keeps every topic.
pub const MAX_BYTES: usize = 4_096;

/// `resource-type` of topic data as the draft has it; others may name their own.
const RESOURCE_TYPE: &str = "core.ps.data";

/// CBOR tag of a time since 1970 (RFC 8949, 3.4.2).
const EPOCH: u64 = 1;

/// A property, by its CBOR key (table 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// `topic-name`.
    Name = 0,
    /// `topic-data`.
    Data = 1,
    /// `resource-type`.
    ResourceType = 2,
    /// `topic-content-format`.
    ContentFormat = 3,
    /// `topic-type`.
    TopicType = 4,
    /// `expiration-date`.
    Expiration = 5,
    /// `max-subscribers`.
    MaxSubscribers = 6,
    /// `observer-check`.
    ObserverCheck = 7,
    /// `initialize`.
    Initialize = 8,
}

impl Property {
    const ALL: [Self; 9] = [
        Self::Name,
        Self::Data,
        Self::ResourceType,
        Self::ContentFormat,
        Self::TopicType,
        Self::Expiration,
        Self::MaxSubscribers,
        Self::ObserverCheck,
        Self::Initialize,
    ];

    /// The property of a CBOR key.
    #[must_use]
    pub fn of_key(key: &Value) -> Option<Self> {
        let key = usize::try_from(i128::from(key.as_integer()?)).ok()?;
        Self::ALL.get(key).copied()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Name => "topic-name",
            Self::Data => "topic-data",
            Self::ResourceType => "resource-type",
            Self::ContentFormat => "topic-content-format",
            Self::TopicType => "topic-type",
            Self::Expiration => "expiration-date",
            Self::MaxSubscribers => "max-subscribers",
            Self::ObserverCheck => "observer-check",
            Self::Initialize => "initialize",
        }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Name | Self::Data | Self::TopicType => "text without control characters",
            Self::ResourceType => "text of a to z, 0 to 9, . and -",
            Self::ContentFormat => "a Content-Format, 0 to 65535",
            Self::Expiration => "seconds since 1970 with tag 1",
            Self::MaxSubscribers => "a number, 0 to 4294967295",
            Self::ObserverCheck => "seconds, 1 to 4294967295",
            Self::Initialize => "a byte string",
        }
    }
}

/// What is wrong with a map of properties; the text is the diagnostic payload of the 4.00 answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadProperties(pub String);

impl BadProperties {
    fn of(property: Property) -> Self {
        Self(format!("{} is {}", property.name(), property.expected()))
    }
}

/// Topic properties, those that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// `topic-name`.
    pub name: Option<Box<str>>,
    /// `topic-data`: a reference to the resource that data is published to.
    pub data: Option<Box<str>>,
    /// `resource-type` of that resource.
    pub resource_type: Option<Box<str>>,
    /// `topic-content-format`: the only Content-Format that is taken.
    pub content_format: Option<u16>,
    /// `topic-type`.
    pub topic_type: Option<Box<str>>,
    /// `expiration-date`, in seconds since 1970.
    pub expiration: Option<u64>,
    /// `max-subscribers`.
    pub max_subscribers: Option<u32>,
    /// `observer-check`, in seconds.
    pub observer_check: Option<u32>,
    /// `initialize`: the first data.
    pub initialize: Option<Box<[u8]>>,
}

impl Properties {
    /// Reads the one CBOR map that fills a payload.
    ///
    /// # Errors
    /// When it is none, or a property is not known, stands twice or is not of its type.
    pub fn parse(payload: &[u8]) -> Result<Self, BadProperties> {
        Self::collect(map(payload)?)
    }

    /// Takes the properties of a map.
    ///
    /// # Errors
    /// As those of [`Self::parse`].
    pub fn collect(map: Vec<(Value, Value)>) -> Result<Self, BadProperties> {
        let mut properties = Self::default();
        let mut seen = Vec::new();
        for (key, value) in map {
            let property = Property::of_key(&key)
                .ok_or_else(|| BadProperties("a key of the map is no topic property".into()))?;
            if seen.contains(&property) {
                return Err(BadProperties(format!("{} stands twice", property.name())));
            }
            seen.push(property);
            properties
                .set(property, value)
                .ok_or_else(|| BadProperties::of(property))?;
        }
        Ok(properties)
    }

    fn set(&mut self, property: Property, value: Value) -> Option<()> {
        match property {
            Property::Name => self.name = Some(text(value)?),
            Property::Data => self.data = Some(text(value)?),
            Property::ResourceType => {
                let token =
                    |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
                self.resource_type = Some(text(value).filter(|text| text.bytes().all(token))?);
            }
            Property::ContentFormat => self.content_format = Some(number(&value)?),
            Property::TopicType => self.topic_type = Some(text(value)?),
            Property::Expiration => self.expiration = Some(time(value)?),
            Property::MaxSubscribers => self.max_subscribers = Some(number(&value)?),
            Property::ObserverCheck => {
                self.observer_check = Some(number(&value).filter(|seconds| *seconds > 0_u32)?);
            }
            Property::Initialize => self.initialize = Some(value.into_bytes().ok()?.into()),
        }
        Some(())
    }

    fn get(&self, property: Property) -> Option<Value> {
        let text = |text: &Option<Box<str>>| text.as_deref().map(Value::from);
        match property {
            Property::Name => text(&self.name),
            Property::Data => text(&self.data),
            Property::ResourceType => text(&self.resource_type),
            Property::ContentFormat => self.content_format.map(Value::from),
            Property::TopicType => text(&self.topic_type),
            Property::Expiration => self
                .expiration
                .map(|date| Value::Tag(EPOCH, Box::new(Value::from(date)))),
            Property::MaxSubscribers => self.max_subscribers.map(Value::from),
            Property::ObserverCheck => self.observer_check.map(Value::from),
            Property::Initialize => self.initialize.as_deref().map(Value::from),
        }
    }

    /// The properties as a CBOR map, those that `wanted` says.
    pub fn map(&self, wanted: impl Fn(Property) -> bool) -> Vec<(Value, Value)> {
        let wanted = Property::ALL.into_iter().filter(|property| wanted(*property));
        wanted
            .filter_map(|property| Some((Value::from(property as u64), self.get(property)?)))
            .collect()
    }

    /// Whether each property of `filter` is here with the same value.
    #[must_use]
    pub(crate) fn match_all(&self, filter: &Self) -> bool {
        let mut properties = Property::ALL.into_iter();
        properties.all(|property| {
            let wanted = filter.get(property);
            wanted.is_none() || wanted == self.get(property)
        })
    }

    /// These properties with those of `changes` in place of their own.
    #[must_use]
    pub fn patched(&self, changes: &Self) -> Self {
        let text = |new: &Option<Box<str>>, old: &Option<Box<str>>| new.clone().or_else(|| old.clone());
        Self {
            name: text(&changes.name, &self.name),
            data: text(&changes.data, &self.data),
            resource_type: text(&changes.resource_type, &self.resource_type),
            content_format: changes.content_format.or(self.content_format),
            topic_type: text(&changes.topic_type, &self.topic_type),
            expiration: changes.expiration.or(self.expiration),
            max_subscribers: changes.max_subscribers.or(self.max_subscribers),
            observer_check: changes.observer_check.or(self.observer_check),
            initialize: changes.initialize.clone().or_else(|| self.initialize.clone()),
        }
    }

    /// These properties with `changes` in place of all that can change.
    #[must_use]
    pub fn replaced(&self, changes: &Self) -> Self {
        let fixed = Self {
            name: self.name.clone(),
            data: self.data.clone(),
            resource_type: self.resource_type.clone(),
            ..Self::default()
        };
        fixed.patched(changes)
    }

    /// Whether `changes` leave alone what never changes.
    ///
    /// # Errors
    /// With the first property that they do not.
    pub(crate) fn check_changes(&self, changes: &Self) -> Result<(), BadProperties> {
        for property in [Property::Name, Property::Data, Property::ResourceType] {
            let new = changes.get(property);
            if new.is_some() && new != self.get(property) {
                return Err(BadProperties(format!("{} never changes", property.name())));
            }
        }
        Ok(())
    }

    /// Whether they go together, at a time in seconds since 1970.
    ///
    /// # Errors
    /// With what does not.
    pub fn check(&self, now: u64) -> Result<(), BadProperties> {
        let bad = |text: &str| Err(BadProperties(text.into()));
        if self.expiration.is_some_and(|date| date <= now) {
            return bad("expiration-date is over");
        }
        match (&self.initialize, self.content_format) {
            (Some(_), None) => bad("initialize needs topic-content-format"),
            (Some(data), Some(_)) if data.is_empty() => bad("initialize is empty, which is no data"),
            (Some(data), Some(format)) if !content::is_valid(format, data) => {
                bad("initialize is not of topic-content-format")
            }
            _ => Ok(()),
        }
    }

    /// Fills in what a new topic has in any case.
    ///
    /// # Errors
    /// When its name or resource type is missing.
    pub(crate) fn require(&self) -> Result<&str, BadProperties> {
        let missing = |property: Property| BadProperties(format!("{} is missing", property.name()));
        if self.resource_type.is_none() {
            return Err(missing(Property::ResourceType));
        }
        self.name.as_deref().ok_or_else(|| missing(Property::Name))
    }

    /// The properties of a topic that nobody described.
    #[must_use]
    pub fn implicit(name: &str) -> Self {
        Self {
            name: Some(name.into()),
            resource_type: Some(RESOURCE_TYPE.into()),
            ..Self::default()
        }
    }
}

/// The entries of the one CBOR map that fills a payload.
///
/// # Errors
/// When it is none.
pub fn map(payload: &[u8]) -> Result<Vec<(Value, Value)>, BadProperties> {
    content::whole_cbor(payload)
        .and_then(|value| value.into_map().ok())
        .ok_or_else(|| BadProperties("the payload is no CBOR map".into()))
}

/// The properties that a CBOR array of their keys asks for.
///
/// # Errors
/// When it is no such array. Keys that are not known ask for nothing.
pub fn wanted(payload: &[u8]) -> Result<Vec<Property>, BadProperties> {
    let keys = content::whole_cbor(payload)
        .and_then(|value| value.into_array().ok())
        .filter(|keys| keys.iter().all(Value::is_integer))
        .ok_or_else(|| BadProperties("the payload is no CBOR array of property keys".into()))?;
    Ok(keys.iter().filter_map(Property::of_key).collect())
}

/// A CBOR map in bytes.
#[must_use]
pub fn encode(map: Vec<(Value, Value)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match ciborium::into_writer(&Value::Map(map), &mut bytes) {
        // A vector takes what is written to it.
        Ok(()) | Err(_) => bytes,
    }
}

fn text(value: Value) -> Option<Box<str>> {
    let text = value.into_text().ok()?;
    (!text.is_empty() && unsendable(&text).is_none()).then(|| text.into())
}

fn number<N: TryFrom<i128>>(value: &Value) -> Option<N> {
    N::try_from(i128::from(value.as_integer()?)).ok()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time is within the range, and counts in whole seconds"
)]
fn time(value: Value) -> Option<u64> {
    let (EPOCH, time) = value.into_tag().ok()? else {
        return None;
    };
    match *time {
        Value::Float(seconds) => (0.0..1e15).contains(&seconds).then_some(seconds as u64),
        time => number(&time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(hex: &str) -> Result<Properties, String> {
        Properties::parse(&hex::decode(hex.replace(' ', "")).unwrap()).map_err(|bad| bad.0)
    }

    #[test]
    fn a_map_comes_back_as_it_was() {
        let hex = "a7 00 66 6c6976696e67 02 6c 636f72652e70732e64617461 03 1870 05 c1 1a 64289abf 06 05 07 19 0e10 08 41 80";
        let properties = parse(hex).unwrap();
        assert_eq!(properties.name.as_deref(), Some("living"));
        assert_eq!(properties.expiration, Some(1_680_382_655));
        assert_eq!(properties.max_subscribers, Some(5));
        assert_eq!(
            hex::encode(encode(properties.map(|_| true))),
            hex.replace(' ', "")
        );
        let some = properties.map(|property| property == Property::MaxSubscribers);
        assert_eq!(hex::encode(encode(some)), "a10605");
    }

    #[test]
    fn what_is_no_property_is_named() {
        for (hex, named) in [
            ("80", "no CBOR map"),
            ("a1", "no CBOR map"),
            ("a10001 00", "no CBOR map"),
            ("a1 00 01", "topic-name"),
            ("a1 00 60", "topic-name"),
            ("a1 00 61 01", "topic-name"),
            ("a1 02 63 412042", "resource-type"),
            ("a1 03 1a 00010000", "topic-content-format"),
            ("a1 05 1a 64289abf", "expiration-date"),
            ("a1 05 c1 20", "expiration-date"),
            ("a1 06 20", "max-subscribers"),
            ("a1 07 00", "observer-check"),
            ("a1 08 60", "initialize"),
            ("a1 09 00", "no topic property"),
            ("a1 61 61 00", "no topic property"),
            ("a2 06 01 06 02", "twice"),
        ] {
            let said = parse(hex).unwrap_err();
            assert!(said.contains(named), "{hex}: {said}");
        }
    }

    #[test]
    fn properties_that_do_not_go_together_are_refused() {
        let check = |hex| parse(hex).unwrap().check(1_000).map_err(|bad| bad.0);
        assert!(check("a1 08 41 80").unwrap_err().contains("topic-content-format"));
        assert!(check("a2 03 18 3c 08 41 a1").unwrap_err().contains("not of"));
        assert!(check("a2 03 18 32 08 41 7b").unwrap_err().contains("not of"));
        assert!(check("a2 03 18 3c 08 41 80").is_ok());
        assert!(check("a1 05 c1 19 03e8").unwrap_err().contains("over"));
        assert!(check("a1 05 c1 19 03e9").is_ok());
    }

    #[test]
    fn changes_leave_the_fixed_alone_and_replace_all_or_only_what_they_name() {
        let topic = parse("a4 00 61 61 02 61 62 04 61 74 06 05").unwrap();
        let change = parse("a1 06 07").unwrap();
        assert_eq!(topic.patched(&change).topic_type.as_deref(), Some("t"));
        let replaced = topic.replaced(&change);
        assert_eq!(
            (replaced.name, replaced.topic_type, replaced.max_subscribers),
            (topic.name.clone(), None, Some(7))
        );
        assert!(topic.check_changes(&parse("a1 00 61 61").unwrap()).is_ok());
        assert!(topic.check_changes(&parse("a1 00 61 62").unwrap()).is_err());
        assert!(topic.match_all(&parse("a2 00 61 61 06 05").unwrap()));
        assert!(!topic.match_all(&parse("a2 00 61 61 07 05").unwrap()));
        assert!(topic.match_all(&Properties::default()));
    }

    #[test]
    fn an_array_of_keys_asks_for_properties() {
        assert_eq!(
            wanted(&[0x82, 1, 3]),
            Ok(vec![Property::Data, Property::ContentFormat])
        );
        assert_eq!(wanted(&[0x81, 0x18, 99]), Ok(vec![]));
        assert!(wanted(&[0xa0]).is_err());
        assert!(wanted(&[0x81, 0x61, 0x61]).is_err());
    }
}
