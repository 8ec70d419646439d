//! Topic names and filters: what is taken keeps its bounds, and matches as MQTT 5, 4.7 says, level by level.

use portcullis::types::{TopicFilter, TopicName};

fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// Two lines: a topic and a filter.
pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (topic, filter) = text.split_once('\n').unwrap_or((text, text));
    let (name, wanted) = (TopicName::new(topic), TopicFilter::new(filter));
    for taken in [name.is_ok().then_some(topic), wanted.is_ok().then_some(filter)]
        .into_iter()
        .flatten()
    {
        assert!(!taken.is_empty() && taken.len() <= 65_535);
        assert!(!taken.chars().any(char::is_control), "{taken:?}");
    }
    if let (Ok(name), Ok(wanted)) = (name, wanted) {
        assert!(!topic.contains(['+', '#']));
        assert_eq!(wanted.matches(&name), matches(filter, topic), "{filter} {topic}");
    }
}
