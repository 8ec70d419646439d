//! MQTT topic names and filters (MQTT 5, 4.7), checked once and carried as checked.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::text::unsendable;

/// What a topic or filter may be at most, as the broker sees it: mountpoint included.
///
/// Every level costs each of the others something: a look at it for each message, and its place in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicLimits {
    levels: usize,
    bytes: usize,
}

impl TopicLimits {
    /// What no setting exceeds: 200 levels, beyond which brokers hang up, and 65,535 bytes (MQTT 5, 1.5.4).
    pub const MAX: Self = Self {
        levels: 200,
        bytes: 65_535,
    };

    /// At most so many levels and bytes; 0, and what is over [`Self::MAX`], stands for that.
    #[must_use]
    pub fn new(levels: usize, bytes: usize) -> Self {
        let within = |value: usize, max: usize| if value == 0 { max } else { value.min(max) };
        Self {
            levels: within(levels, Self::MAX.levels),
            bytes: within(bytes, Self::MAX.bytes),
        }
    }

    /// The topic name in `text`.
    ///
    /// # Errors
    /// When it is empty, too long or too deep, or holds a wildcard or what MQTT says not to send.
    pub fn name(self, text: &str) -> Result<TopicName, TopicError> {
        self.check(text)?;
        if text.contains(['+', '#']) {
            return Err(TopicError::Wildcard);
        }
        Ok(TopicName(text.into()))
    }

    /// The topic filter in `text`.
    ///
    /// # Errors
    /// When it is empty, too long or too deep, holds what MQTT says not to send, or a wildcard does not stand where MQTT 5, 4.7.1
    /// allows it.
    pub fn filter(self, text: &str) -> Result<TopicFilter, TopicError> {
        self.check(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let alone = level.len() == 1;
            if level.contains(['+', '#']) && !alone || level == "#" && levels.peek().is_some() {
                return Err(TopicError::MisplacedWildcard);
            }
        }
        Ok(TopicFilter(text.into()))
    }

    /// Whether `text` is within the limits and can be sent, be it a name or a filter.
    ///
    /// # Errors
    /// When it is empty, too long or too deep, or holds what MQTT says not to send.
    pub fn check(self, text: &str) -> Result<(), TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > self.bytes {
            return Err(TopicError::TooLong(self.bytes));
        }
        if text.bytes().filter(|byte| *byte == b'/').count() >= self.levels {
            return Err(TopicError::TooDeep(self.levels));
        }
        unsendable(text).map_or(Ok(()), |c| Err(TopicError::Unsendable(c)))
    }
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self {
            levels: 32,
            bytes: 1_024,
        }
    }
}

/// Why a text is no topic name or no topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// It has no characters.
    Empty,
    /// It has more bytes than this.
    TooLong(usize),
    /// It has more levels than this.
    TooDeep(usize),
    /// It holds a code point that MQTT says not to send (MQTT 5, 1.5.4).
    Unsendable(char),
    /// A topic name holds `+` or `#`.
    Wildcard,
    /// `+` or `#` does not stand alone in its level, or `#` is not the last level.
    MisplacedWildcard,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("topic is empty"),
            Self::TooLong(bytes) => write!(f, "topic is longer than {bytes} bytes"),
            Self::TooDeep(levels) => write!(f, "topic has more than {levels} levels"),
            Self::Unsendable(c) => write!(
                f,
                "topic holds U+{:04X}, which MQTT does not carry",
                u32::from(*c)
            ),
            Self::Wildcard => f.write_str("wildcards + and # are for subscriptions only"),
            Self::MisplacedWildcard => f.write_str("+ and # must fill a whole level, and # must be the last"),
        }
    }
}

/// A topic that a message is published to: no wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks `text` against [`TopicLimits::MAX`].
    ///
    /// # Errors
    /// As [`TopicLimits::name`].
    pub fn new(text: &str) -> Result<Self, TopicError> {
        TopicLimits::MAX.name(text)
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it belongs to the broker (`$SYS/...`) or the gateway (`$portcullis/...`), where clients may not publish.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        matches!(self.0.split('/').next(), Some("$SYS" | "$portcullis"))
    }
}

/// What the topics of the gateway itself begin with, unless the operator says otherwise.
pub const EVENTS_PREFIX: &str = "$portcullis";

/// Whether a topic or filter is `prefix`, which may have several levels, or below it.
#[must_use]
pub fn is_below(text: &str, prefix: &str) -> bool {
    let rest = text.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a topic or filter is about what the gateway tells of its clients (below `$portcullis` or `prefix`), in a shared
/// subscription too.
#[must_use]
pub fn is_of_gateway(text: &str, prefix: &str) -> bool {
    let shared = text.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    let text = shared.map_or(text, |(_, filter)| filter);
    is_below(text, EVENTS_PREFIX) || is_below(text, prefix)
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a subscription names: a topic, or a pattern with `+` and `#`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);

impl TopicFilter {
    /// Checks `text` against [`TopicLimits::MAX`].
    ///
    /// # Errors
    /// As [`TopicLimits::filter`].
    pub fn new(text: &str) -> Result<Self, TopicError> {
        TopicLimits::MAX.filter(text)
    }

    /// The text of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it holds `+` or `#`.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.0.contains(['+', '#'])
    }

    /// Whether a message on `topic` belongs to this subscription. A leading wildcard does not match a topic that
    /// starts with `$` (MQTT 5, 4.7.2).
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.0.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.0.split('/');
        for level in self.0.split('/') {
            match (level, names.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (level, Some(name)) if level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for TopicFilter {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, topic: &str) -> bool {
        TopicFilter::new(filter)
            .unwrap()
            .matches(&TopicName::new(topic).unwrap())
    }

    #[test]
    fn names_refuse_wildcards_emptiness_and_what_is_too_long() {
        assert_eq!(TopicName::new("a/+"), Err(TopicError::Wildcard));
        assert_eq!(TopicName::new(""), Err(TopicError::Empty));
        assert_eq!(
            TopicName::new(&"x".repeat(65_536)),
            Err(TopicError::TooLong(65_535))
        );
        assert!(TopicName::new("50%off").is_ok());
    }

    #[test]
    fn names_and_filters_refuse_what_brokers_hang_up_on() {
        for c in [
            '\0',
            '\u{1}',
            '\t',
            '\u{1f}',
            '\u{7f}',
            '\u{85}',
            '\u{fdd0}',
            '\u{ffff}',
            '\u{9fffe}',
        ] {
            let text = format!("a/b{c}");
            assert_eq!(TopicName::new(&text), Err(TopicError::Unsendable(c)));
            assert_eq!(TopicFilter::new(&text), Err(TopicError::Unsendable(c)));
        }
        assert!(TopicName::new("maß/\u{a0}/\u{fffd}/😀").is_ok());
    }

    #[test]
    fn limits_hold_for_levels_and_bytes_and_0_is_the_most_there_is() {
        let limits = TopicLimits::new(3, 10);
        assert!(limits.name("a/b/c").is_ok() && limits.filter("a/+/#").is_ok());
        assert_eq!(limits.filter("a/+/c/#"), Err(TopicError::TooDeep(3)));
        assert_eq!(limits.name("///"), Err(TopicError::TooDeep(3)));
        assert_eq!(limits.name("a/b/0123456"), Err(TopicError::TooLong(10)));
        assert_eq!(TopicLimits::new(0, 0), TopicLimits::MAX);
        assert_eq!(TopicLimits::new(201, 70_000), TopicLimits::MAX);
        let deep = |levels: usize| vec!["a"; levels].join("/");
        assert!(TopicFilter::new(&deep(200)).is_ok());
        assert_eq!(TopicName::new(&deep(201)), Err(TopicError::TooDeep(200)));
    }

    #[test]
    fn wildcards_stand_alone_and_hash_stands_last() {
        for bad in ["a+", "a/#/b", "#a", "a/b#"] {
            assert_eq!(TopicFilter::new(bad), Err(TopicError::MisplacedWildcard), "{bad}");
        }
        for good in ["#", "+", "a/+/b", "a/#", "/", "+/+/#"] {
            assert!(TopicFilter::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn matching_follows_mqtt_4_7() {
        assert!(matches("a/#", "a"));
        assert!(matches("a/#", "a/b/c"));
        assert!(matches("a/+", "a/"));
        assert!(matches("/+", "/a"));
        assert!(matches("+/+", "/a"));
        assert!(!matches("+", "/a"));
        assert!(!matches("a/+", "a/b/c"));
        assert!(!matches("a", "a/b"));
    }

    #[test]
    fn leading_wildcards_leave_dollar_topics_alone() {
        assert!(!matches("#", "$SYS/x"));
        assert!(!matches("+/x", "$SYS/x"));
        assert!(matches("$SYS/#", "$SYS/x"));
    }
}
