//! The prefix that keeps clients apart: `${clientid}`, `${username}`, `${identity}`, `${listener}`, `${attr.NAME}`.

use crate::policy::attributes::{Attributes, attribute_of};
use crate::types::text::unsendable;

/// What the placeholders stand for in one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    /// The client id, named or proved.
    pub client: Option<&'a str>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The name that the DTLS handshake proved.
    pub identity: Option<&'a str>,
    /// The listener's name.
    pub listener: &'a str,
    /// What is known of the client beside.
    pub attributes: Option<&'a Attributes>,
}

/// Why a mountpoint cannot be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// The value of what is called so would reach beyond its level, or cannot be sent.
    Unsafe(&'static str),
    /// An attribute is not known, or empty: who has none would share the topics of all who have none.
    Missing,
}

/// Fills in a mountpoint. A placeholder without a value is empty, unless it is an attribute.
///
/// # Errors
/// When a value is missing, or holds `+`, `#` or `/`, which would let one client reach into another's topics,
/// or what is [`unsendable`], or when it makes the first level begin with `$`, where broker and gateway have theirs.
pub fn expand(template: &str, values: Values<'_>) -> Result<String, Misfit> {
    let mut prefix = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        prefix.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            prefix.push_str("${");
            rest = after;
            continue;
        };
        let (name, value) = match name {
            "clientid" => ("clientid", values.client),
            "username" => ("username", values.username),
            "identity" => ("identity", values.identity),
            "listener" => ("listener", Some(values.listener)),
            placeholder => match attribute_of(placeholder) {
                None => ("placeholder", None),
                Some(_) => {
                    let value = values.attributes.and_then(|all| all.named(placeholder));
                    let value = value.filter(|value| !value.is_empty());
                    ("client attribute", Some(value.ok_or(Misfit::Missing)?))
                }
            },
        };
        let value = value.unwrap_or_default();
        let begins = prefix.is_empty() && value.starts_with('$');
        if begins || value.contains(['+', '#', '/']) || unsendable(value).is_some() {
            return Err(Misfit::Unsafe(name));
        }
        prefix.push_str(value);
        rest = after;
    }
    prefix.push_str(rest);
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in() {
        let values = Values {
            client: Some("c1"),
            listener: "default",
            ..Values::default()
        };
        assert_eq!(
            expand("site/${listener}/${clientid}/", values),
            Ok("site/default/c1/".into())
        );
        assert_eq!(expand("", values), Ok(String::new()));
    }

    #[test]
    fn a_value_with_a_wildcard_or_a_control_character_is_no_part_of_a_mountpoint() {
        for client in ["+", "#", "a/b", "a\u{1}", "\u{fdd1}"] {
            let values = Values {
                client: Some(client),
                ..Values::default()
            };
            assert_eq!(
                expand("dev/${clientid}/", values),
                Err(Misfit::Unsafe("clientid"))
            );
        }
        assert_eq!(expand("${username}/", Values::default()), Ok("/".into()));
    }

    #[test]
    fn no_client_is_called_into_the_topics_of_broker_and_gateway() {
        for client in ["$portcullis", "$SYS", "$"] {
            let values = Values {
                client: Some(client),
                ..Values::default()
            };
            assert_eq!(expand("${clientid}/", values), Err(Misfit::Unsafe("clientid")));
            assert_eq!(
                expand("${username}${clientid}/", values),
                Err(Misfit::Unsafe("clientid"))
            );
            assert_eq!(expand("a${clientid}/", values), Ok(format!("a{client}/")));
        }
    }

    #[test]
    fn an_attribute_keeps_its_client_within_its_level() {
        let with = |tenant: &str| {
            let attributes = Attributes::new([("tenant", tenant)]).unwrap();
            let values = Values {
                attributes: Some(&attributes),
                ..Values::default()
            };
            expand("t/${attr.tenant}/", values)
        };
        assert_eq!(with("acme"), Ok("t/acme/".into()));
        assert_eq!(with("acme.eu"), Ok("t/acme.eu/".into()));
        for out in ["+", "#", "a/b", "../x", "/"] {
            assert_eq!(with(out), Err(Misfit::Unsafe("client attribute")), "{out}");
        }
        assert_eq!(with(""), Err(Misfit::Missing));
        assert_eq!(
            expand("t/${attr.tenant}/", Values::default()),
            Err(Misfit::Missing)
        );
        assert_eq!(
            expand("t/${client_attrs.x}/", Values::default()),
            Err(Misfit::Missing)
        );
        let broker = Attributes::new([("tenant", "$SYS")]).unwrap();
        let values = Values {
            attributes: Some(&broker),
            ..Values::default()
        };
        assert_eq!(
            expand("${attr.tenant}/", values),
            Err(Misfit::Unsafe("client attribute"))
        );
    }
}
