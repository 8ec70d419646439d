//! Texts with `${placeholders}` for what a login holds.

use percent_encoding::utf8_percent_encode;
use zeroize::Zeroizing;

use portcullis_proto::policy::authentication::AuthRequest;

use super::client::UNRESERVED;

/// A value of a login that a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variable {
    ClientId,
    Username,
    Password,
    PeerHost,
    Identity,
    Listener,
}

const VARIABLES: &[(&str, Variable)] = &[
    ("clientid", Variable::ClientId),
    ("username", Variable::Username),
    ("password", Variable::Password),
    ("peerhost", Variable::PeerHost),
    ("identity", Variable::Identity),
    ("listener", Variable::Listener),
];

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Value(Variable),
}

/// A text with placeholders, split once.
#[derive(Debug, Clone)]
pub(super) struct Template(Vec<Part>);

/// What the placeholders of one login stand for.
pub(super) struct Values<'a> {
    request: &'a AuthRequest,
    peerhost: String,
    listener: &'a str,
}

impl<'a> Values<'a> {
    pub(super) fn new(request: &'a AuthRequest, listener: &'a str) -> Self {
        Self {
            request,
            peerhost: request.peer.ip().to_string(),
            listener,
        }
    }

    /// `Err` when the password is needed and is no text.
    pub(super) fn get(&self, variable: Variable) -> Result<Option<&str>, NotText> {
        Ok(match variable {
            Variable::ClientId => self.request.clientid.as_ref().map(|id| id.as_str()),
            Variable::Username => self.request.username.as_deref(),
            Variable::Password => match &self.request.password {
                Some(password) => Some(std::str::from_utf8(password.expose()).map_err(|_| NotText)?),
                None => None,
            },
            Variable::PeerHost => Some(&self.peerhost),
            Variable::Identity => self.request.identity.as_ref().map(|identity| &*identity.name),
            Variable::Listener => Some(self.listener),
        })
    }
}

/// A value is needed as text and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotText;

impl Template {
    /// Splits a text at its placeholders `${name}`; the error says which is unknown or not closed.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after
                .split_once('}')
                .ok_or("a placeholder ${ is not closed with }")?;
            let known = VARIABLES.iter().find(|(word, _)| *word == name);
            let Some((_, variable)) = known else {
                let words: Vec<_> = VARIABLES.iter().map(|(word, _)| format!("${{{word}}}")).collect();
                return Err(format!("${{{name}}} is not known; there are {}", words.join(" ")));
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Value(*variable));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The text with `mark` of the number of each placeholder (from 1) in its place, and what they stand for in that order:
    /// values that travel beside a text cannot become a part of it.
    #[cfg(any(feature = "mysql", feature = "postgresql"))]
    pub(super) fn bound(&self, mark: impl Fn(usize) -> String) -> (String, Vec<Variable>) {
        let (mut text, mut variables) = (String::new(), Vec::new());
        for part in &self.0 {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Value(variable) => {
                    variables.push(*variable);
                    text.push_str(&mark(variables.len()));
                }
            }
        }
        (text, variables)
    }

    /// The text with values put through `escape`; nothing stands for an absent one.
    pub(super) fn render(
        &self,
        values: &Values<'_>,
        escape: fn(&str, &mut String),
    ) -> Result<Zeroizing<String>, NotText> {
        // An escaped byte takes three at most. A text that grows would leave copies of passwords behind.
        let mut room = 0;
        for part in &self.0 {
            room += match part {
                Part::Text(fixed) => fixed.len(),
                Part::Value(variable) => 3 * values.get(*variable)?.map_or(0, str::len),
            };
        }
        let mut text = Zeroizing::new(String::with_capacity(room));
        for part in &self.0 {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Value(variable) => escape(values.get(*variable)?.unwrap_or_default(), &mut text),
            }
        }
        Ok(text)
    }

    /// The text, or `None` when it is one placeholder that stands for nothing.
    pub(super) fn render_or_none(&self, values: &Values<'_>) -> Result<Option<Zeroizing<String>>, NotText> {
        if let [Part::Value(variable)] = &*self.0
            && values.get(*variable)?.is_none()
        {
            return Ok(None);
        }
        self.render(values, plain).map(Some)
    }
}

/// Puts `value` in as it is.
pub(super) fn plain(value: &str, into: &mut String) {
    into.push_str(value);
}

/// Puts `value` in percent-encoded.
pub(super) fn percent(value: &str, into: &mut String) {
    into.extend(utf8_percent_encode(value, UNRESERVED));
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;

    #[test]
    fn values_are_escaped_where_they_stand_and_text_is_not() {
        let mut asked = request("a/b?x=1&y", "p w");
        asked.identity = None;
        let values = Values::new(&asked, "default");
        let template = Template::new("/auth/${username}?p=${password}&i=${identity}&h=${peerhost}").unwrap();
        let text = template.render(&values, percent).unwrap();
        assert_eq!(*text, "/auth/a%2Fb%3Fx%3D1%26y?p=p%20w&i=&h=127.0.0.1");
        assert!(
            Template::new("${identity}")
                .unwrap()
                .render_or_none(&values)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_text_with_a_password_never_grows_and_so_leaves_no_copy() {
        let asked = request("ann", &"\u{1f511} ".repeat(100));
        let values = Values::new(&asked, "default");
        let template = Template::new("p=${password}&u=${username}").unwrap();
        for escape in [plain, percent] {
            let text = template.render(&values, escape).unwrap();
            let room = "p=&u=".len() + 3 * (500 + "ann".len());
            assert_eq!(text.capacity(), room);
        }
    }

    #[test]
    fn unknown_and_open_placeholders_are_errors() {
        assert!(Template::new("${user}").unwrap_err().contains("${username}"));
        assert!(Template::new("x${username").is_err());
        let values = request("ann", "x");
        let text = Template::new("$5 and }")
            .unwrap()
            .render(&Values::new(&values, ""), plain);
        assert_eq!(*text.unwrap(), "$5 and }");
    }

    #[test]
    fn a_password_that_is_no_text_is_not_mangled_into_one() {
        let mut asked = request("ann", "");
        asked.password = Some(portcullis_proto::policy::authentication::Password::new(
            b"\xff\xfe",
        ));
        let values = Values::new(&asked, "default");
        assert_eq!(
            Template::new("${password}").unwrap().render(&values, plain).err(),
            Some(NotText)
        );
    }
}
