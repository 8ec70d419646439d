//! Uri-Path to resource, Uri-Query to parameters (interface 2.1 and 2.2).
//!
//! CoAP already decoded both; nothing is percent-decoded again, so the segment `50%off` is a legal topic level.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::conditions::{self, Conditions};
use crate::types::ClientId;
use crate::types::message::Qos;
use crate::types::text::unsendable;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedResource {
    /// `mqtt/connection`.
    Connection,
    /// `auth/jwt`: a token for the whole DTLS session.
    SessionToken,
    /// `ps/{topic}` or `mqtt/{topic}`; the text is not yet checked as topic or filter.
    Topic(String),
    /// `ps`: the topic collection.
    Collection,
    /// `ps-conf/{id}`: the configuration of a topic of the collection.
    Configuration(String),
    /// `.well-known/core` (RFC 6690).
    Discovery,
    /// Anything else: 4.04.
    Unknown,
}

/// What is wrong with a path or query; the text is the diagnostic payload of the 4.00 answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUri(String);

impl fmt::Display for BadUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The resource that Uri-Path segments name.
///
/// # Errors
/// When a topic is no UTF-8, or its last segment holds parameters behind `&` where `?` was meant.
pub fn resource<'a>(mut path: impl Iterator<Item = &'a [u8]> + Clone) -> Result<NamedResource, BadUri> {
    let first = path.next();
    let mut rest = path.clone();
    let rest = (rest.next(), rest.next());
    match (first, rest) {
        (Some(b"mqtt"), (Some(b"connection"), None)) => Ok(NamedResource::Connection),
        (Some(b"auth"), (Some(b"jwt"), None)) => Ok(NamedResource::SessionToken),
        (Some(b"mqtt"), (Some(last), None)) if last.starts_with(b"connection&") => Err(ampersand()),
        (Some(b".well-known"), (Some(b"core"), None)) => Ok(NamedResource::Discovery),
        (Some(b"ps"), (None, _)) => Ok(NamedResource::Collection),
        (Some(b"ps-conf"), (Some(id), None)) => Ok(std::str::from_utf8(id)
            .map_or(NamedResource::Unknown, |id| {
                NamedResource::Configuration(id.into())
            })),
        (Some(b"ps" | b"mqtt"), _) => topic_text(path).map(NamedResource::Topic),
        _ => Ok(NamedResource::Unknown),
    }
}

fn topic_text<'a>(segments: impl Iterator<Item = &'a [u8]> + Clone) -> Result<String, BadUri> {
    let len: usize = segments.clone().map(|segment| segment.len() + 1).sum();
    let mut topic = String::with_capacity(len);
    for (nth, segment) in segments.enumerate() {
        if nth > 0 {
            topic.push('/');
        }
        let level = std::str::from_utf8(segment).map_err(|_| BadUri("topic is not valid UTF-8".into()))?;
        topic.push_str(level);
    }
    let last = topic.rsplit('/').next().unwrap_or_default();
    let parameter_like = last.split('&').skip(1).any(|part| {
        part.split_once('=')
            .is_some_and(|(name, _)| Name::parse(name.as_bytes()).is_some())
    });
    if parameter_like {
        Err(ampersand())
    } else {
        Ok(topic)
    }
}

fn ampersand() -> BadUri {
    BadUri("parameters stand in the path: begin them with '?', not with '&'".into())
}

/// Whom a parameter names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The client id.
    Client,
    /// The user name.
    User,
}

/// Whom the parameter of this name names, if anyone.
#[must_use]
pub fn who(name: &str) -> Option<Who> {
    match Name::parse(name.as_bytes())? {
        Name::ClientId => Some(Who::Client),
        Name::Username => Some(Who::User),
        _ => None,
    }
}

/// Whether a query parameter of this name means something to the gateway itself.
#[must_use]
pub fn is_parameter(name: &[u8]) -> bool {
    Name::parse(name).is_some()
}

/// Whether the value of the parameter of this name is a secret, or was meant to be one: what devices misspell is masked too.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    matches!(Name::parse(name.as_bytes()), Some(Name::Token | Name::Password))
        || ["token", "pass", "pwd", "secret", "psk", "key"]
            .iter()
            .any(|word| name.contains(word))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    ClientId,
    Token,
    Username,
    Password,
    Qos,
    Retain,
    Expiry,
    Lifetime,
    Fresh,
    NoLocal,
    RetainHandling,
    Greater,
    Less,
    Step,
    Band,
    Edge,
    MinPeriod,
    MaxPeriod,
    MinEvaluation,
    MaxEvaluation,
    Confirmable,
}

impl Name {
    fn parse(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"clientid" | b"c" => Self::ClientId,
            b"token" | b"t" => Self::Token,
            b"username" | b"u" => Self::Username,
            b"password" | b"p" => Self::Password,
            b"qos" | b"q" => Self::Qos,
            b"retain" | b"r" => Self::Retain,
            b"expiry" => Self::Expiry,
            b"lifetime" => Self::Lifetime,
            b"fresh" => Self::Fresh,
            b"nl" => Self::NoLocal,
            b"rh" => Self::RetainHandling,
            b"c.gt" => Self::Greater,
            b"c.lt" => Self::Less,
            b"c.st" => Self::Step,
            b"c.band" => Self::Band,
            b"c.edge" => Self::Edge,
            b"c.pmin" => Self::MinPeriod,
            b"c.pmax" => Self::MaxPeriod,
            b"c.epmin" => Self::MinEvaluation,
            b"c.epmax" => Self::MaxEvaluation,
            b"c.con" => Self::Confirmable,
            _ => return None,
        })
    }

    const fn long(self) -> &'static str {
        match self {
            Self::ClientId => "clientid",
            Self::Token => "token",
            Self::Username => "username",
            Self::Password => "password",
            Self::Qos => "qos",
            Self::Retain => "retain",
            Self::Expiry => "expiry",
            Self::Lifetime => "lifetime",
            Self::Fresh => "fresh",
            Self::NoLocal => "nl",
            Self::RetainHandling => "rh",
            Self::Greater => "c.gt",
            Self::Less => "c.lt",
            Self::Step => "c.st",
            Self::Band => "c.band",
            Self::Edge => "c.edge",
            Self::MinPeriod => "c.pmin",
            Self::MaxPeriod => "c.pmax",
            Self::MinEvaluation => "c.epmin",
            Self::MaxEvaluation => "c.epmax",
            Self::Confirmable => "c.con",
        }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::ClientId => "1 to 128 bytes of UTF-8 without control characters",
            Self::Token => "the token that create returned",
            Self::Username => "UTF-8 text without control characters",
            Self::Password => "name=value",
            Self::Qos | Self::RetainHandling => "0, 1 or 2",
            Self::Retain => "true, 1, false or 0",
            Self::Expiry | Self::Lifetime => "seconds, 0 to 4294967295",
            Self::NoLocal | Self::Fresh => "0 or 1",
            Self::Greater | Self::Less => "a decimal number",
            Self::Step => "a decimal number greater than 0",
            Self::Band => "no value",
            Self::Edge | Self::Confirmable => "1, true, 0 or false",
            Self::MinPeriod | Self::MaxPeriod | Self::MinEvaluation | Self::MaxEvaluation => {
                "seconds, more than 0, as a decimal number"
            }
        }
    }

    fn malformed(self) -> BadUri {
        BadUri(format!(
            "bad parameter {}: expected {}",
            self.long(),
            self.expected()
        ))
    }
}

/// When a subscription gets retained messages (MQTT 5, 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// Always.
    #[default]
    Send,
    /// Only if the client did not observe this filter yet.
    SendIfNew,
    /// Never.
    DoNotSend,
}

impl RetainHandling {
    /// Whether a subscription brings what is retained; `known`: whether it was there before.
    #[must_use]
    pub const fn sends(self, known: bool) -> bool {
        match self {
            Self::Send => true,
            Self::SendIfNew => !known,
            Self::DoNotSend => false,
        }
    }
}

/// The query parameters of a request.
#[derive(Clone, Default)]
pub struct QueryParams {
    /// `clientid`.
    pub client: Option<ClientId>,
    /// `token`.
    pub token: Option<Bytes>,
    /// `username`.
    pub username: Option<Arc<str>>,
    /// `password`; any bytes.
    pub password: Option<Bytes>,
    /// `qos`.
    pub qos: Option<Qos>,
    /// `retain`; `None` where nothing is said.
    pub retain: Option<bool>,
    /// `expiry` in seconds; `None` and 0 never.
    pub expiry: Option<u32>,
    /// `lifetime` of a connection in seconds; 0 is none of its own, `None` where nothing is said.
    pub lifetime: Option<u32>,
    /// `fresh`: whether the request is only meant now.
    pub fresh: bool,
    /// `nl`.
    pub no_local: bool,
    /// `rh`.
    pub retain_handling: RetainHandling,
    /// The conditions of an observation, where there are any.
    pub conditions: Option<Box<Conditions>>,
}

impl fmt::Debug for QueryParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryParams")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl QueryParams {
    /// Reads Uri-Query options.
    ///
    /// # Errors
    /// As those of [`Self::collect`].
    pub fn parse<'a>(query: impl Iterator<Item = &'a [u8]>) -> Result<Self, BadUri> {
        Self::collect(query.map(split))
    }

    /// Reads names with their values; where there is no value, the parameter is malformed. Unknown names are ignored.
    ///
    /// # Errors
    /// When a known parameter is malformed or given twice (long and short name count as the same), or parameters contradict each
    /// other.
    pub fn collect<'a>(
        parameters: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<Self, BadUri> {
        let mut params = Self::default();
        let mut seen = 0_u32;
        for (name, value) in parameters {
            let Some(name) = Name::parse(name) else { continue };
            let bit = 1 << name as u32;
            if seen & bit != 0 {
                return Err(BadUri(format!("repeated parameter {}", name.long())));
            }
            seen |= bit;
            match value {
                None if name == Name::Band => {
                    params.conditions.get_or_insert_default().band = true;
                    Some(())
                }
                Some(value) => params.set(name, value),
                None => None,
            }
            .ok_or_else(|| name.malformed())?;
        }
        if let Some(conditions) = &params.conditions {
            conditions.check().map_err(|what| BadUri(what.into()))?;
        }
        Ok(params)
    }

    fn set(&mut self, name: Name, value: &[u8]) -> Option<()> {
        let text = std::str::from_utf8(value).ok();
        match name {
            Name::ClientId => self.client = Some(ClientId::new(text?)?),
            Name::Token => self.token = Some(Bytes::copy_from_slice(value)),
            Name::Username => self.username = Some(text.filter(|name| unsendable(name).is_none())?.into()),
            Name::Password => self.password = Some(Bytes::copy_from_slice(value)),
            Name::Qos => self.qos = Some(Qos::from_number(digit(value)?)?),
            Name::Retain => {
                self.retain = Some(boolean(value)?);
            }
            Name::Expiry => self.expiry = Some(whole_seconds(value)?),
            Name::Lifetime => self.lifetime = Some(whole_seconds(value)?),
            Name::Fresh => self.fresh = bit(value)?,
            Name::NoLocal => self.no_local = bit(value)?,
            Name::RetainHandling => {
                self.retain_handling = match digit(value)? {
                    0 => RetainHandling::Send,
                    1 => RetainHandling::SendIfNew,
                    2 => RetainHandling::DoNotSend,
                    _ => return None,
                }
            }
            _ => self.conditions.get_or_insert_default().set(name, value)?,
        }
        Some(())
    }
}

/// Name and value of `name=value`, split at the first `=`.
#[must_use]
pub fn split(option: &[u8]) -> (&[u8], Option<&[u8]>) {
    let at = option.iter().position(|byte| *byte == b'=');
    match at.and_then(|at| option.split_at_checked(at)) {
        Some((name, rest)) => (name, rest.get(1..)),
        None => (option, None),
    }
}

impl Conditions {
    fn set(&mut self, name: Name, value: &[u8]) -> Option<()> {
        match name {
            Name::Greater => self.greater = Some(decimal(value)?),
            Name::Less => self.less = Some(decimal(value)?),
            Name::Step => self.step = Some(decimal(value).filter(|step| *step > 0.0)?),
            Name::Edge => self.edge = Some(boolean(value)?),
            Name::MinPeriod => self.min_period = Some(period(value)?),
            Name::MaxPeriod => self.max_period = Some(period(value)?.max(conditions::MIN_TIMED)),
            Name::MinEvaluation => self.min_evaluation = Some(period(value)?),
            Name::MaxEvaluation => self.max_evaluation = Some(period(value)?.max(conditions::MIN_TIMED)),
            Name::Confirmable => self.confirmable = boolean(value)?,
            _ => return None,
        }
        Some(())
    }
}

/// An `xs:decimal`; the draft's own examples have it in quotes.
fn decimal(value: &[u8]) -> Option<f64> {
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    let text = std::str::from_utf8(quoted.unwrap_or(value)).ok()?;
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
    text.parse()
        .ok()
        .filter(|number: &f64| plain && number.is_finite())
}

/// An `xs:boolean`.
fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

fn whole_seconds(value: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(value).ok()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Seconds, rounded up to a millisecond.
fn period(value: &[u8]) -> Option<Duration> {
    let seconds = decimal(value).filter(|seconds| *seconds > 0.0 && *seconds <= f64::from(u32::MAX))?;
    Some(
        Duration::try_from_secs_f64(seconds)
            .ok()?
            .max(Duration::from_millis(1)),
    )
}

fn bit(value: &[u8]) -> Option<bool> {
    match value {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

fn digit(value: &[u8]) -> Option<u8> {
    match value {
        [byte @ b'0'..=b'9'] => Some(byte - b'0'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(path: &str) -> impl Iterator<Item = &[u8]> + Clone {
        path.split('/').map(str::as_bytes)
    }

    fn query(options: &[&str]) -> Result<QueryParams, BadUri> {
        QueryParams::parse(options.iter().map(|option| option.as_bytes()))
    }

    #[test]
    fn paths_name_resources() {
        let topic = |path: &str| match resource(segments(path)) {
            Ok(NamedResource::Topic(topic)) => topic,
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(topic("ps/a/b"), "a/b");
        assert_eq!(topic("mqtt/a"), "a");
        assert_eq!(topic("ps//a"), "/a");
        assert_eq!(topic("ps/a/"), "a/");
        assert_eq!(topic("ps/50%off"), "50%off");
        assert_eq!(topic("ps/"), "");
        assert_eq!(topic("mqtt"), "");
        assert_eq!(resource(segments("ps")), Ok(NamedResource::Collection));
        assert_eq!(
            resource(segments("ps-conf/0a1b")),
            Ok(NamedResource::Configuration("0a1b".into()))
        );
        assert_eq!(resource(segments("ps-conf")), Ok(NamedResource::Unknown));
        assert_eq!(resource(segments("ps-conf/a/b")), Ok(NamedResource::Unknown));
        assert_eq!(topic("mqtt/connection/x"), "connection/x");
        assert_eq!(
            resource(segments("mqtt/connection")),
            Ok(NamedResource::Connection)
        );
        assert_eq!(
            resource(segments(".well-known/core")),
            Ok(NamedResource::Discovery)
        );
        assert_eq!(resource(segments("auth/jwt")), Ok(NamedResource::SessionToken));
        assert_eq!(resource(segments("auth/jwt/x")), Ok(NamedResource::Unknown));
        assert_eq!(resource(segments("PS/a")), Ok(NamedResource::Unknown));
        assert_eq!(resource(std::iter::empty()), Ok(NamedResource::Unknown));
    }

    #[test]
    fn an_ampersand_for_a_question_mark_is_told() {
        for path in [
            "ps/coap/test&clientid=a&token=b",
            "ps/x&q=1",
            "mqtt/connection&clientid=a",
        ] {
            let error = resource(segments(path)).unwrap_err().to_string();
            assert!(
                error.contains('?') && !error.contains("token=b"),
                "{path}: {error}"
            );
        }
        assert!(resource(segments("ps/salt&pepper")).is_ok());
        assert!(resource(segments("ps/a&b=c")).is_ok());
    }

    #[test]
    fn values_may_contain_equal_signs_and_unknown_names_are_ignored() {
        let params = query(&[
            "p=YWJj==",
            "clientid=dev1",
            "color=red",
            "flag",
            "q=2",
            "r=1",
            "expiry=0",
        ])
        .unwrap();
        assert_eq!(params.password.as_deref(), Some(b"YWJj==".as_slice()));
        assert_eq!(params.client.unwrap().as_str(), "dev1");
        assert_eq!(
            (params.qos, params.retain, params.expiry),
            (Some(Qos::ExactlyOnce), Some(true), Some(0))
        );
    }

    #[test]
    fn malformed_and_repeated_parameters_are_named() {
        for (options, name) in [
            (&["qos=abc"][..], "qos"),
            (&["qos=3"], "qos"),
            (&["q="], "qos"),
            (&["clientid="], "clientid"),
            (&["clientid"], "clientid"),
            (&["c=a", "clientid=a"], "clientid"),
            (&["retain=True"], "retain"),
            (&["expiry=-1"], "expiry"),
            (&["expiry=+1"], "expiry"),
            (&["expiry=4294967296"], "expiry"),
            (&["nl=2"], "nl"),
            (&["rh=3"], "rh"),
            (&["fresh=yes"], "fresh"),
            (&["t=x", "t=x"], "token"),
            (&["c.gt=warm"], "c.gt"),
            (&["c.gt"], "c.gt"),
            (&["c.gt=1e3"], "c.gt"),
            (&["c.lt=nan"], "c.lt"),
            (&["c.st=0"], "c.st"),
            (&["c.st=-1"], "c.st"),
            (&["c.edge=10"], "c.edge"),
            (&["c.band=1", "c.gt=1"], "c.band"),
            (&["c.pmin=0"], "c.pmin"),
            (&["c.pmax=4294967296"], "c.pmax"),
            (&["c.con=yes"], "c.con"),
            (&["c.gt=1", "c.gt=1"], "c.gt"),
            (&["c=a\u{1}"], "clientid"),
            (&["u=\u{85}"], "username"),
            (&["u=a\u{2ffff}"], "username"),
        ] {
            let error = query(options).unwrap_err().to_string();
            assert!(error.contains(name), "{options:?}: {error}");
        }
    }
}
