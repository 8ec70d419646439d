//! `.well-known/core`: the link-format description of the gateway (RFC 6690).

/// Content-Format of link-format documents.
pub const LINK_FORMAT: u16 = 40;

struct Link {
    target: &'static str,
    attributes: &'static [(&'static str, &'static str)],
}

const LINKS: &[Link] = &[
    Link {
        target: "/ps",
        attributes: &[("rt", "core.ps")],
    },
    Link {
        target: "/mqtt",
        attributes: &[("rt", "core.ps")],
    },
    Link {
        target: "/mqtt/connection",
        attributes: &[("rt", "portcullis.connection"), ("ct", "0")],
    },
];

/// The document, filtered by `name=value` queries (RFC 6690, 4.1): all must match, a trailing `*` matches any rest, and a
/// value with blanks is a list of which one must match.
#[must_use]
pub fn document<'a>(query: impl Iterator<Item = &'a [u8]> + Clone) -> String {
    let links: Vec<String> = LINKS
        .iter()
        .filter(|link| query.clone().all(|filter| link.meets(filter)))
        .map(Link::to_text)
        .collect();
    links.join(",")
}

impl Link {
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
            return meets(self.target);
        }
        self.attributes
            .iter()
            .any(|(key, value)| *key == name && value.split(' ').any(meets))
    }

    fn to_text(&self) -> String {
        let mut text = format!("<{}>", self.target);
        for (key, value) in self.attributes {
            let quoted = !value.bytes().all(|byte| byte.is_ascii_digit());
            let quote = if quoted { "\"" } else { "" };
            text.push_str(&format!(";{key}={quote}{value}{quote}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(filter: &str) -> String {
        document(std::iter::once(filter.as_bytes()))
    }

    #[test]
    fn the_pubsub_resource_is_found_by_its_type() {
        assert!(
            document(std::iter::empty()).starts_with("</ps>;rt=\"core.ps\","),
            "no ct: nothing is read there"
        );
        assert_eq!(filtered("rt=core.ps"), filtered("rt=core.*"));
        assert!(filtered("rt=core.ps").starts_with("</ps>"));
        assert!(!filtered("rt=core.ps").contains("connection"));
        assert_eq!(filtered("rt=nothing"), "");
        assert!(filtered("href=/mqtt/*").contains("/mqtt/connection"));
    }
}
