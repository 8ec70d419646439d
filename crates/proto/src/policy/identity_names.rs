//! Client ids and user names made of what a handshake proved.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use crate::types::{ClientId, Identity, Proof};

/// Largest compiled expression in bytes.
const MAX_COMPILED: usize = 1 << 20;

/// Placeholders: the proved name, and the same where a certificate has proved it.
const IDENTITY: &str = "${identity}";

/// A name made of an identity.
#[derive(Debug, Clone)]
pub struct NameTemplate {
    text: Box<str>,
    /// What stands for the name of a certificate, if the text has that.
    certificate: Option<Box<str>>,
    /// What the whole must match; its group is the name.
    pattern: Option<Regex>,
}

impl NameTemplate {
    /// A text with `${identity}`, or with `certificate` (such as `${cert.san_uri}`), whose value is the same but only certificates
    /// have it. The whole must match `pattern`, where there is one, from its beginning to its end, and its one group is the name.
    ///
    /// # Errors
    /// What is wrong with the pattern, or with the text.
    pub fn new(text: &str, certificate: &str, pattern: Option<&str>) -> Result<Self, String> {
        let has_certificate = text.contains(certificate);
        if !text.contains(IDENTITY) && !has_certificate {
            return Err(format!(
                "it names nobody: it has neither {IDENTITY} nor {certificate}, so all devices would be the same"
            ));
        }
        let pattern = pattern
            .map(|pattern| {
                let whole = format!("^(?:{pattern})$");
                let regex = RegexBuilder::new(&whole).size_limit(MAX_COMPILED).build();
                let regex =
                    regex.map_err(|_| "this is no regular expression, or a too large one".to_owned())?;
                if regex.captures_len() == 2 {
                    Ok(regex)
                } else {
                    Err("the expression has one group, ( ), which is the name".to_owned())
                }
            })
            .transpose()?;
        Ok(Self {
            text: text.into(),
            certificate: has_certificate.then(|| certificate.into()),
            pattern,
        })
    }

    /// The name; nothing where the identity does not fit, or leaves nothing of it.
    #[must_use]
    pub fn of(&self, identity: &Identity) -> Option<Arc<str>> {
        if self.certificate.is_some() && identity.proof != Proof::Certificate {
            return None;
        }
        if self.pattern.is_none() && *self.text == *IDENTITY {
            return Some(Arc::clone(&identity.name));
        }
        // One pass, so that what an identity holds is never taken for a placeholder.
        let mut whole = String::with_capacity(self.text.len() + identity.name.len());
        let mut rest = &*self.text;
        let words = [Some(IDENTITY), self.certificate.as_deref()];
        while let Some((at, word)) = words
            .iter()
            .flatten()
            .filter_map(|word| rest.find(word).map(|at| (at, *word)))
            .min()
        {
            whole.push_str(rest.get(..at)?);
            whole.push_str(&identity.name);
            rest = rest.get(at + word.len()..)?;
        }
        whole.push_str(rest);
        let name = match &self.pattern {
            None => whole.as_str(),
            Some(pattern) => pattern.captures(&whole)?.get(1)?.as_str(),
        };
        (!name.is_empty()).then(|| name.into())
    }
}

/// What the devices of a listener are called by what they proved.
#[derive(Debug, Clone, Default)]
pub struct IdentityNames {
    /// The client id, where it is made; else the identity itself is it.
    pub client: Option<NameTemplate>,
    /// The user name, as above.
    pub username: Option<NameTemplate>,
}

impl IdentityNames {
    /// The client id of an identity.
    #[must_use]
    pub fn client_of(&self, identity: &Identity) -> Option<ClientId> {
        match &self.client {
            Some(template) => ClientId::shared(&template.of(identity)?),
            None => ClientId::shared(&identity.name),
        }
    }

    /// The user name of an identity.
    #[must_use]
    pub(crate) fn username_of(&self, identity: &Identity) -> Option<Arc<str>> {
        match &self.username {
            Some(template) => template.of(identity),
            None => Some(Arc::clone(&identity.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERT: &str = "${cert.san_uri}";

    fn named(text: &str, pattern: Option<&str>, name: &str, proof: Proof) -> Option<String> {
        let template = NameTemplate::new(text, CERT, pattern).unwrap();
        let identity = Identity::new(name, proof);
        template.of(&identity).map(|name| name.to_string())
    }

    #[test]
    fn a_name_is_made_of_what_was_proved() {
        for (text, pattern, name, wanted) in [
            ("${identity}", None, "meter-7", Some("meter-7")),
            ("fleet-${identity}", None, "meter-7", Some("fleet-meter-7")),
            (
                "${identity}",
                Some("urn:dev:(.+)"),
                "urn:dev:ops:1",
                Some("ops:1"),
            ),
            ("${identity}", Some("urn:dev:(.+)"), "xurn:dev:ops", None),
            ("${identity}", Some("(a|b)c"), "bcd", None),
            ("${identity}", Some("(x*)y"), "y", None),
            ("${identity}", Some("x(y)|z"), "z", None),
            (
                "${identity}-${identity}",
                None,
                "${identity}",
                Some("${identity}-${identity}"),
            ),
        ] {
            assert_eq!(
                named(text, pattern, name, Proof::Psk).as_deref(),
                wanted,
                "{text} {name}"
            );
        }
    }

    #[test]
    fn a_certificate_is_not_what_a_key_is_called() {
        assert_eq!(
            named(CERT, None, "urn:1", Proof::Certificate).as_deref(),
            Some("urn:1")
        );
        assert_eq!(named(CERT, None, "urn:1", Proof::Psk), None);
        assert_eq!(named(CERT, None, "urn:1", Proof::RawKey), None);
    }

    #[test]
    fn what_names_nobody_or_more_than_one_is_refused() {
        for (text, pattern) in [
            ("device", None),
            ("${cert.cn}", None),
            ("${identity}", Some("(a)(b)")),
            ("${identity}", Some("abc")),
            ("${identity}", Some("(")),
            ("${identity}", Some("(\\w{1000}){1000}")),
        ] {
            assert!(
                NameTemplate::new(text, CERT, pattern).is_err(),
                "{text} {pattern:?}"
            );
        }
    }
}
