//! Topic filters of access rules, whose levels may hold the client's own names.

use std::fmt;

use super::attributes::{Attributes, attribute_of};
use crate::types::{TopicFilter, topic::TopicError};

/// Who asks. An absent name is `None`; the empty text is a name like any other (and never fits a placeholder).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The authenticated user name.
    pub user: Option<&'a str>,
    /// The client id.
    pub client: Option<&'a str>,
    /// The identity that the DTLS handshake proved.
    pub identity: Option<&'a str>,
    /// What is known of it beside.
    pub attributes: Option<&'a Attributes>,
}

impl<'a> Subject<'a> {
    fn value(&self, placeholder: &Placeholder) -> Option<&'a str> {
        match placeholder {
            Placeholder::Client => self.client,
            Placeholder::User => self.user,
            Placeholder::Identity => self.identity,
            Placeholder::Attribute(name) => self.attributes?.get(name),
        }
    }
}

/// How placeholders are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// None: `%c` stands for itself, as in mosquitto's `topic` lines.
    Literal,
    /// `%c`, `%u`, `%i`, as in mosquitto's `pattern` lines, and `${attr.NAME}`.
    Percent,
    /// `${clientid}`, `${username}`, `${identity}`, `${client_attrs.NAME}`, as in EMQX's rules, and `${attr.NAME}`.
    Dollar,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Placeholder {
    Client,
    User,
    Identity,
    Attribute(Box<str>),
}

impl Syntax {
    fn words(self) -> &'static [(&'static str, Placeholder)] {
        match self {
            Self::Literal => &[],
            Self::Percent => &[
                ("%c", Placeholder::Client),
                ("%u", Placeholder::User),
                ("%i", Placeholder::Identity),
            ],
            Self::Dollar => &[
                ("${clientid}", Placeholder::Client),
                ("${username}", Placeholder::User),
                ("${identity}", Placeholder::Identity),
            ],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Value(Placeholder),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Any,
    Rest,
    Parts(Box<[Part]>),
}

/// How well the names of a subject fit a pattern's placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Each placeholder has a value that stays within its level.
    Whole,
    /// A placeholder has no value: the pattern says nothing about this subject.
    Absent,
    /// A value is empty or holds `+`, `#` or `/`: it would reach beyond its level.
    Unsafe,
}

/// A topic filter with placeholders, split once.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    levels: Box<[Level]>,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl Pattern {
    /// Checks `text` as a topic filter and splits it.
    ///
    /// # Errors
    /// When it is no topic filter (MQTT 5, 4.7).
    pub fn new(text: &str, syntax: Syntax) -> Result<Self, TopicError> {
        TopicFilter::new(text)?;
        let levels = text
            .split('/')
            .map(|level| match level {
                "+" => Level::Any,
                "#" => Level::Rest,
                level => Level::Parts(split(level, syntax)),
            })
            .collect();
        Ok(Self {
            text: text.into(),
            levels,
        })
    }

    /// A topic that it matches, with the names of `who` and a word for each wildcard; nothing where the names do not fit.
    #[must_use]
    pub fn example(&self, who: &Subject<'_>) -> Option<String> {
        const WORD: &str = "demo";
        let level = |level: &Level| match level {
            Level::Any | Level::Rest => Some(WORD.to_owned()),
            Level::Parts(parts) => {
                let part = |part: &Part| match part {
                    Part::Text(text) => Some(text.to_string()),
                    Part::Value(placeholder) => Some(who.value(placeholder)?.to_owned()),
                };
                parts.iter().map(part).collect()
            }
        };
        let levels: Vec<String> = self.levels.iter().map(level).collect::<Option<_>>()?;
        (self.fit(who) == Fit::Whole).then(|| levels.join("/"))
    }

    /// The text of it, placeholders as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `who` has what its placeholders need.
    #[must_use]
    pub fn fit(&self, who: &Subject<'_>) -> Fit {
        let mut fit = Fit::Whole;
        for placeholder in self.placeholders() {
            match who.value(placeholder) {
                None => fit = Fit::Absent,
                Some(value) if is_unsafe(value) => return Fit::Unsafe,
                Some(_) => {}
            }
        }
        fit
    }

    /// Whether a message on `topic` matches. A leading wildcard or placeholder does not match a topic that starts
    /// with `$` (MQTT 5, 4.7.2).
    #[must_use]
    pub fn matches(&self, who: &Subject<'_>, topic: &str) -> bool {
        if topic.starts_with('$') && !self.text.starts_with('$') {
            return false;
        }
        let mut names = topic.split('/');
        for level in &self.levels {
            match (level, names.next()) {
                (Level::Rest, _) => return true,
                (Level::Any, Some(_)) => {}
                (Level::Parts(parts), Some(name)) if equals(parts, who, name) => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether every topic that `filter` matches is matched by this pattern too.
    #[must_use]
    pub fn covers(&self, who: &Subject<'_>, filter: &str) -> bool {
        if filter.starts_with('$') && !self.text.starts_with('$') {
            return false;
        }
        // Every topic has a first level, so these two match the same.
        if filter == "#" && *self.text == *"+/#" {
            return true;
        }
        let mut wanted = filter.split('/');
        for level in &self.levels {
            match (level, wanted.next()) {
                (Level::Rest, _) => return true,
                (Level::Any, Some(name)) if name != "#" => {}
                (Level::Parts(parts), Some(name))
                    if name != "#" && name != "+" && equals(parts, who, name) => {}
                _ => return false,
            }
        }
        wanted.next().is_none()
    }

    fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.levels
            .iter()
            .flat_map(|level| match level {
                Level::Parts(parts) => &**parts,
                Level::Any | Level::Rest => &[],
            })
            .filter_map(|part| match part {
                Part::Value(value) => Some(value),
                Part::Text(_) => None,
            })
    }
}

fn is_unsafe(value: &str) -> bool {
    value.is_empty() || value.contains(['+', '#', '/'])
}

fn split(level: &str, syntax: Syntax) -> Box<[Part]> {
    let mut parts = Vec::new();
    let mut rest = level;
    loop {
        let next = syntax
            .words()
            .iter()
            .filter_map(|(word, value)| rest.find(word).map(|at| (at, word.len(), value.clone())))
            .chain((syntax != Syntax::Literal).then(|| attribute(rest)).flatten())
            .min_by_key(|(at, ..)| *at);
        let Some((at, length, value)) = next else {
            if !rest.is_empty() {
                parts.push(Part::Text(rest.into()));
            }
            return parts.into();
        };
        let (before, from) = rest.split_at(at);
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        parts.push(Part::Value(value));
        rest = from.get(length..).unwrap_or_default();
    }
}

/// The first attribute that a text names: where, how long its placeholder is, and which.
fn attribute(text: &str) -> Option<(usize, usize, Placeholder)> {
    let mut from = 0;
    loop {
        let at = from + text.get(from..)?.find("${")?;
        let inside = text.get(at + 2..)?;
        let end = inside.find('}')?;
        if let Some(name) = inside.get(..end).and_then(attribute_of) {
            return Some((at, end + 3, Placeholder::Attribute(name.into())));
        }
        from = at + 2;
    }
}

fn equals(parts: &[Part], who: &Subject<'_>, name: &str) -> bool {
    let mut rest = name;
    for part in parts {
        let text = match part {
            Part::Text(text) => Some(&**text),
            Part::Value(value) => who.value(value).filter(|value| !is_unsafe(value)),
        };
        match text.and_then(|text| rest.strip_prefix(text)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Subject<'_> = Subject {
        user: Some("ann"),
        client: Some("c1"),
        identity: Some("id"),
        attributes: None,
    };

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text, Syntax::Percent).unwrap()
    }

    #[test]
    fn an_attribute_stands_for_its_value_and_never_reaches_beyond_its_level() {
        let of = |tenant: &str| Attributes::new([("tenant", tenant), ("n", "7")]).unwrap();
        let rule = |text: &str, syntax| Pattern::new(text, syntax).unwrap();
        for (text, syntax) in [
            ("t/${attr.tenant}/%c-${attr.n}/#", Syntax::Percent),
            ("t/${client_attrs.tenant}/${clientid}-${attr.n}/#", Syntax::Dollar),
        ] {
            let pattern = rule(text, syntax);
            for (tenant, topic, fits) in [
                ("acme", "t/acme/c1-7/x", true),
                ("acme", "t/other/c1-7/x", false),
                ("+", "t/other/c1-7/x", false),
                ("#", "t/other", false),
                ("a/b", "t/a/b/c1-7/x", false),
                ("", "t//c1-7/x", false),
            ] {
                let attributes = of(tenant);
                let who = Subject {
                    attributes: Some(&attributes),
                    ..WHO
                };
                assert_eq!(pattern.matches(&who, topic), fits, "{text} {tenant} {topic}");
                assert_eq!(pattern.covers(&who, topic), fits, "{text} {tenant} {topic}");
            }
            assert_eq!(pattern.fit(&WHO), Fit::Absent);
            assert!(!pattern.matches(&WHO, "t/acme/c1-7/x"));
        }
        assert!(rule("a/${attr.x}", Syntax::Literal).matches(&WHO, "a/${attr.x}"));
        assert!(rule("a/${other}${", Syntax::Percent).matches(&WHO, "a/${other}${"));
    }

    #[test]
    fn placeholders_may_stand_anywhere_in_a_level() {
        assert!(pattern("x/%u-%c.%i/#").matches(&WHO, "x/ann-c1.id/y"));
        assert!(!pattern("x/%u-%c/#").matches(&WHO, "x/ann-c2/y"));
        assert!(pattern("%u%u").matches(&WHO, "annann"));
        assert!(
            Pattern::new("a/${clientid}", Syntax::Dollar)
                .unwrap()
                .matches(&WHO, "a/c1")
        );
        assert!(
            Pattern::new("a/%c", Syntax::Literal)
                .unwrap()
                .matches(&WHO, "a/%c")
        );
    }

    #[test]
    fn a_name_with_wildcards_or_slashes_fits_nothing() {
        for bad in ["+", "#", "a/b", "x+", "", "/"] {
            let who = Subject {
                client: Some(bad),
                ..WHO
            };
            assert_eq!(pattern("d/%c/#").fit(&who), Fit::Unsafe, "{bad}");
            assert!(!pattern("d/%c/#").matches(&who, &format!("d/{bad}/x")), "{bad}");
            assert!(!pattern("d/%c/#").covers(&who, &format!("d/{bad}/x")), "{bad}");
        }
        assert_eq!(pattern("d/%c").fit(&Subject::default()), Fit::Absent);
        assert!(!pattern("d/%c").matches(&Subject::default(), "d/"));
    }

    #[test]
    fn a_filter_is_covered_only_as_a_whole() {
        let covered = |rule: &str, filter: &str| pattern(rule).covers(&WHO, filter);
        assert!(covered("a/#", "a/#"));
        assert!(covered("a/#", "a/+/b/#"));
        assert!(covered("a/#", "a"));
        assert!(covered("#", "+/x"));
        assert!(covered("+/b", "a/b"));
        assert!(covered("+/+", "a/+"));
        assert!(!covered("a/+", "a/#"));
        assert!(!covered("a/+/#", "a/#"));
        assert!(!covered("a/b", "a/+"));
        assert!(!covered("a/#", "#"));
        assert!(!covered("+", "#"));
        assert!(!covered("#", "$SYS/#"));
        assert!(covered("$SYS/#", "$SYS/broker/+"));
        assert!(!covered("$SYS/#", "#"));
    }

    #[test]
    fn coverage_agrees_with_matching_on_every_small_topic() {
        let words = ["a", "b", "+", "#"];
        let mut filters = Vec::new();
        for x in words {
            filters.push(x.to_owned());
            for y in words {
                filters.push(format!("{x}/{y}"));
                filters.extend(words.iter().map(|z| format!("{x}/{y}/{z}")));
            }
        }
        filters.retain(|text| TopicFilter::new(text).is_ok());
        let mut topics = Vec::new();
        for x in ["a", "b", "c", ""] {
            topics.push(x.to_owned());
            for y in ["a", "b", "c", ""] {
                topics.push(format!("{x}/{y}"));
                for z in ["a", "b", "c", ""] {
                    topics.push(format!("{x}/{y}/{z}"));
                    topics.push(format!("{x}/{y}/{z}/d"));
                }
            }
        }
        topics.retain(|text| !text.is_empty());
        for rule in &filters {
            for filter in &filters {
                let all = topics
                    .iter()
                    .filter(|topic| pattern(filter).matches(&WHO, topic))
                    .all(|topic| pattern(rule).matches(&WHO, topic));
                assert_eq!(pattern(rule).covers(&WHO, filter), all, "{rule} covers {filter}");
            }
        }
    }
}
