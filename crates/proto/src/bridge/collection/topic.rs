//! A topic that was created: its properties, where its data is, and how both are kept.

use ciborium::Value;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::properties::{self, BadProperties, Properties, Property};
use crate::types::TopicName;

/// Of a path segment what has to be escaped (RFC 3986, 3.3).
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Keys of what is kept beside the properties, from the range for private use (section 8.4).
const IS_FULL: i64 = -65_537;
const TOPIC: i64 = -65_538;
const MOUNTED: i64 = -65_539;

/// A topic of the collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    id: Box<str>,
    topic: TopicName,
    mounted: usize,
    properties: Properties,
    /// Whether data was published to it (FULLY CREATED, section 3.1) and not deleted since.
    pub is_full: bool,
}

impl Topic {
    /// A topic whose data is at `topic`, of whose text the first `mounted` bytes are the mountpoint's. Which id it has depends on its
    /// mountpoint and name alone, so that of two that are created at the same time at two places only one stays.
    #[must_use]
    pub fn new(topic: TopicName, mounted: usize, mut properties: Properties) -> Self {
        let prefix = topic.as_str().get(..mounted).unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(u64::try_from(prefix.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(prefix);
        hash.update(properties.name.as_deref().unwrap_or_default());
        let digest = hash.finalize();
        properties.data = Some(reference(topic.as_str().get(mounted..).unwrap_or_default()).into());
        Self {
            id: hex::encode(digest.get(..8).unwrap_or_default()).into(),
            topic,
            mounted,
            properties,
            is_full: false,
        }
    }

    /// What it is known by: the last segment of `ps-conf/{id}`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its data is at the broker.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The mountpoint that it was created under.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.topic.as_str().get(..self.mounted).unwrap_or_default()
    }

    /// Its data's topic as clients under that mountpoint name it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.topic.as_str().get(self.mounted..).unwrap_or_default()
    }

    /// Its properties.
    #[must_use]
    pub const fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The same topic with other properties.
    #[must_use]
    pub fn with(&self, properties: Properties) -> Self {
        Self {
            properties,
            ..self.clone()
        }
    }

    /// Its representation (section 2.2): a CBOR map.
    #[must_use]
    pub(crate) fn represent(&self, wanted: impl Fn(Property) -> bool) -> Vec<u8> {
        properties::encode(self.properties.map(wanted))
    }

    /// What is kept of it.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        let mut map = self.properties.map(|_| true);
        map.push((Value::from(IS_FULL), Value::from(self.is_full)));
        map.push((Value::from(TOPIC), Value::from(self.topic.as_str())));
        let mounted = u64::try_from(self.mounted).unwrap_or(u64::MAX);
        map.push((Value::from(MOUNTED), Value::from(mounted)));
        properties::encode(map)
    }

    /// Reads what was kept.
    ///
    /// # Errors
    /// When it is no [`Self::record`].
    pub(crate) fn from_record(record: &[u8]) -> Result<Self, BadProperties> {
        let (private, public): (Vec<_>, Vec<_>) = properties::map(record)?
            .into_iter()
            .partition(|(key, _)| key.as_integer().is_some_and(|key| i128::from(key) < 0));
        let kept = |wanted: i64| {
            let mut private = private.iter();
            private.find_map(|(key, value)| (*key == Value::from(wanted)).then_some(value))
        };
        let properties = Properties::collect(public)?;
        properties.require()?;
        let topic = kept(TOPIC).and_then(Value::as_text);
        let topic = topic.and_then(|text| TopicName::new(text).ok());
        let mounted = kept(MOUNTED).and_then(Value::as_integer);
        let mounted = mounted.and_then(|mounted| usize::try_from(mounted).ok());
        match (topic, mounted) {
            (Some(topic), Some(mounted))
                if topic.as_str().get(mounted..).is_some_and(|text| !text.is_empty()) =>
            {
                let mut read = Self::new(topic, mounted, properties);
                read.is_full = kept(IS_FULL).and_then(Value::as_bool).unwrap_or(false);
                Ok(read)
            }
            _ => Err(BadProperties("no topic is kept there".into())),
        }
    }
}

/// The reference of a topic's data.
fn reference(topic: &str) -> String {
    let levels = topic.split('/').map(|level| utf8_percent_encode(level, SEGMENT));
    levels.fold("/ps".to_owned(), |path, level| format!("{path}/{level}"))
}

/// The topic that a reference names, where it is one of ours: `/ps/` and percent-encoded levels.
#[must_use]
pub fn topic_of(reference: &str) -> Option<String> {
    let path = reference.strip_prefix("/ps/")?;
    if path.contains(['?', '#']) {
        return None;
    }
    let levels = path.split('/').map(|level| {
        let decoded = percent_decode_str(level).decode_utf8().ok()?;
        // An escaped slash is no end of a level, and a level holds none.
        (!decoded.contains('/')).then(|| decoded.into_owned())
    });
    let levels: Vec<String> = levels.collect::<Option<_>>()?;
    Some(levels.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_kept_whole_and_its_id_is_that_of_its_name_and_mountpoint() {
        let topic = TopicName::new("site/a b/50%/c").unwrap();
        let mut made = Topic::new(topic.clone(), 5, Properties::implicit("room"));
        assert_eq!(made.properties().data.as_deref(), Some("/ps/a%20b/50%25/c"));
        assert_eq!((made.prefix(), made.text()), ("site/", "a b/50%/c"));
        made.is_full = true;
        assert_eq!(Topic::from_record(&made.record()), Ok(made.clone()));
        let id = |topic: &str, mounted, name| {
            Topic::new(
                TopicName::new(topic).unwrap(),
                mounted,
                Properties::implicit(name),
            )
            .id()
            .to_owned()
        };
        assert_eq!(made.id(), id("site/elsewhere", 5, "room"));
        assert_ne!(made.id(), id("site/a b/50%/c", 5, "hall"));
        assert_ne!(made.id(), id("site/a b/50%/c", 0, "room"));
        assert_ne!(id("ab/c", 2, "x"), id("ab/c", 1, "bx"));
    }

    #[test]
    fn references_are_ours_or_none() {
        assert_eq!(topic_of("/ps/a%20b/50%25").as_deref(), Some("a b/50%"));
        assert_eq!(topic_of("/ps//a").as_deref(), Some("/a"));
        for other in [
            "coap://example.com/ps/a",
            "/mqtt/a",
            "ps/a",
            "/ps/a?x",
            "/ps/a%2Fb",
            "/ps/%ff",
        ] {
            assert_eq!(topic_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_record_that_is_none_is_refused() {
        let made = Topic::new(TopicName::new("a").unwrap(), 0, Properties::implicit("a"));
        let record = made.record();
        for cut in 0..record.len() {
            assert!(Topic::from_record(&record[..cut]).is_err());
        }
        assert!(Topic::from_record(&made.represent(|_| true)).is_err());
    }
}
