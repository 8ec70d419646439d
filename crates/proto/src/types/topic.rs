//! MQTT topic names and filters (MQTT 5, 4.7), checked once and carried as checked.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest topic name or filter in bytes (MQTT 5, 1.5.4).
pub const MAX_TOPIC_LEN: usize = 65_535;

/// Why a text is no topic name or no topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// It has no characters.
    Empty,
    /// It is over [`MAX_TOPIC_LEN`] bytes.
    TooLong,
    /// It holds U+0000.
    Nul,
    /// A topic name holds `+` or `#`.
    Wildcard,
    /// `+` or `#` does not stand alone in its level, or `#` is not the last level.
    MisplacedWildcard,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "topic is empty",
            Self::TooLong => "topic is longer than 65535 bytes",
            Self::Nul => "topic holds a NUL character",
            Self::Wildcard => "wildcards + and # are for subscriptions only",
            Self::MisplacedWildcard => "+ and # must fill a whole level, and # must be the last",
        })
    }
}

fn check_length(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_TOPIC_LEN {
        return Err(TopicError::TooLong);
    }
    if text.contains('\0') {
        return Err(TopicError::Nul);
    }
    Ok(())
}

/// A topic that a message is published to: no wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks `text`.
    ///
    /// # Errors
    /// When it is empty, too long, or holds NUL or a wildcard.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        if text.contains(['+', '#']) {
            return Err(TopicError::Wildcard);
        }
        Ok(Self(text.into()))
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
    /// Checks `text`.
    ///
    /// # Errors
    /// When it is empty, too long, holds NUL, or a wildcard does not stand where MQTT 5, 4.7.1 allows it.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let alone = level.len() == 1;
            if level.contains(['+', '#']) && !alone || level == "#" && levels.peek().is_some() {
                return Err(TopicError::MisplacedWildcard);
            }
        }
        Ok(Self(text.into()))
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
    fn names_refuse_wildcards_nul_and_emptiness() {
        assert_eq!(TopicName::new("a/+"), Err(TopicError::Wildcard));
        assert_eq!(TopicName::new(""), Err(TopicError::Empty));
        assert_eq!(TopicName::new("a\0"), Err(TopicError::Nul));
        assert_eq!(TopicName::new(&"x".repeat(65_536)), Err(TopicError::TooLong));
        assert!(TopicName::new("50%off").is_ok());
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
