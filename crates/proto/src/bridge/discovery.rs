//! Link-format documents (RFC 6690): what is here, and which topics were created.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::collection::topic::Topic;
use super::uri;

/// Content-Format of link-format documents.
pub const LINK_FORMAT: u16 = 40;

/// Whether the attributes of links are written out. Where the request says which there are, they only cost airtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    /// They are.
    Shown,
    /// They are not.
    Elided,
}

/// A resource with what is said of it.
#[derive(Debug, Clone)]
pub struct Link<'a> {
    target: Cow<'a, str>,
    attributes: Vec<(&'static str, Cow<'a, str>)>,
}

impl<'a> Link<'a> {
    fn new(target: impl Into<Cow<'a, str>>, attributes: &[(&'static str, &'a str)]) -> Self {
        let attributes = attributes.iter().map(|(name, value)| (*name, Cow::from(*value)));
        Self {
            target: target.into(),
            attributes: attributes.collect(),
        }
    }

    /// The resource that a topic's configuration is.
    #[must_use]
    pub fn configuration(topic: &'a Topic) -> Self {
        Self::new(format!("/ps-conf/{}", topic.id()), &[("rt", "core.ps.conf")])
    }

    /// The resource that a topic's data is published to.
    #[must_use]
    pub fn data(topic: &'a Topic) -> Self {
        let properties = topic.properties();
        let kind = properties.resource_type.as_deref().unwrap_or_default();
        let mut link = Self::new(properties.data.as_deref().unwrap_or_default(), &[("rt", kind)]);
        if let Some(format) = properties.content_format {
            link.attributes.push(("ct", format.to_string().into()));
        }
        link.attributes.push(("obs", "".into()));
        link
    }

    /// Whether it meets a `name=value` query (RFC 6690, 4.1): a trailing `*` matches any rest, and a value with blanks is a list of
    /// which one must match.
    fn meets(&self, filter: &[u8]) -> bool {
        let Ok(filter) = std::str::from_utf8(filter) else {
            return false;
        };
        let Some((name, pattern)) = filter.split_once('=') else {
            return true;
        };
        let meets = |value: &str| match pattern.strip_suffix('*') {
            Some(prefix) => value.starts_with(prefix),
            None => value == pattern,
        };
        if name == "href" {
            return meets(&self.target);
        }
        self.attributes
            .iter()
            .any(|(key, value)| *key == name && value.split(' ').any(meets))
    }

    fn write(&self, attributes: Attributes, document: &mut String) {
        if !document.is_empty() {
            document.push(',');
        }
        // Text takes what is written to it.
        let _infallible = write!(document, "<{}>", self.target);
        for (key, value) in self.attributes.iter().filter(|_| attributes == Attributes::Shown) {
            let quote = if value.bytes().all(|byte| byte.is_ascii_digit()) {
                ""
            } else {
                "\""
            };
            let _infallible = match value.is_empty() {
                true => write!(document, ";{key}"),
                false => write!(document, ";{key}={quote}{value}{quote}"),
            };
        }
    }
}

/// What there is in any case.
pub fn fixed<'a>() -> impl Iterator<Item = Link<'a>> {
    [
        Link::new("/ps", &[("rt", "core.ps")]),
        Link::new("/ps", &[("rt", "core.ps.coll"), ("ct", "40")]),
        Link::new("/mqtt", &[("rt", "core.ps")]),
        Link::new(
            "/mqtt/connection",
            &[("rt", "portcullis.connection"), ("ct", "0")],
        ),
    ]
    .into_iter()
}

/// The document of those links that meet all filters of a query.
#[must_use]
pub fn document<'l, 'q>(
    links: impl Iterator<Item = Link<'l>>,
    query: impl Iterator<Item = &'q [u8]> + Clone,
    attributes: Attributes,
) -> String {
    let mut document = String::new();
    for link in links.filter(|link| query.clone().all(|filter| link.meets(filter))) {
        link.write(attributes, &mut document);
    }
    document
}

/// The filters among the parameters of a query: those that mean nothing else here.
pub fn filters<'a>(query: impl Iterator<Item = &'a [u8]> + Clone) -> impl Iterator<Item = &'a [u8]> + Clone {
    query.filter(|parameter| !uri::is_parameter(uri::split(parameter).0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::collection::properties::Properties;
    use crate::types::TopicName;

    fn filtered(filter: &str) -> String {
        document(fixed(), std::iter::once(filter.as_bytes()), Attributes::Shown)
    }

    #[test]
    fn the_pubsub_resource_is_found_by_its_type() {
        let all = document(fixed(), std::iter::empty(), Attributes::Shown);
        assert!(all.starts_with("</ps>;rt=\"core.ps\","), "{all}");
        assert_eq!(filtered("rt=core.ps.coll"), "</ps>;rt=\"core.ps.coll\";ct=40");
        assert!(filtered("rt=core.ps").starts_with("</ps>"));
        assert!(!filtered("rt=core.ps").contains("coll"));
        assert!(!filtered("rt=core.*").contains("connection"));
        assert_eq!(filtered("rt=nothing"), "");
        assert!(filtered("href=/mqtt/*").contains("/mqtt/connection"));
    }

    #[test]
    fn links_are_found_by_every_attribute_and_prefix() {
        let count = |filter: &str| filtered(filter).matches("</").count();
        let all = count("href=*");
        assert!(all > 3);
        assert_eq!(count("rt=*"), filtered("href=*").matches(";rt=").count());
        // A link of several types is found by each of them.
        let links = || std::iter::once(Link::new("/a", &[("rt", "core.ps other.type")]));
        for (filter, found) in [
            ("rt=core.ps", true),
            ("rt=other.type", true),
            ("rt=oth*", true),
            ("rt=ther*", false),
            ("rt=core.ps other.type", false),
            ("ct=*", false),
        ] {
            let text = document(links(), std::iter::once(filter.as_bytes()), Attributes::Shown);
            assert_eq!(!text.is_empty(), found, "{filter}");
        }
        for absent in ["if=*", "if=core*", "sz=*", "href="] {
            assert_eq!(filtered(absent), "", "{absent}");
        }
    }

    #[test]
    fn topics_are_found_by_what_they_are() {
        let mut properties = Properties::implicit("a b");
        properties.content_format = Some(112);
        let topic = Topic::new(TopicName::new("x/a b").unwrap(), 2, properties);
        let links = || [Link::configuration(&topic), Link::data(&topic)].into_iter();
        let query = |filter: &'static str| std::iter::once(filter.as_bytes());
        assert_eq!(
            document(links(), query("rt=core.ps.data"), Attributes::Shown),
            "</ps/a%20b>;rt=\"core.ps.data\";ct=112;obs"
        );
        let shown = document(links(), query("rt=core.ps.conf"), Attributes::Elided);
        assert_eq!(shown, format!("</ps-conf/{}>", topic.id()));
        let query = [&b"clientid=a"[..], b"rt=core.ps.conf", b"t=secret"];
        assert!(filters(query.into_iter()).eq([&b"rt=core.ps.conf"[..]]));
    }
}
