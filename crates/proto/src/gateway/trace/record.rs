//! What a trace shows: a message or a step of DTLS, in words, with its secrets masked.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bridge::contract::BrokerError;
use crate::bridge::uri;
use crate::coap::contract::Code;
use crate::coap::describe::{Described, code_name};
use crate::labels;
use crate::policy::authorization::{Action, Decision};
use crate::session::SessionInfo;
use crate::session::{CloseReason, DtlsNote};
use crate::types::message::Qos;
use crate::types::reason::{DropReason, Label as _};
use crate::types::{ListenerId, Message, PeerAddr, TopicFilter, Transport};

/// What stands for a secret.
pub const MASK: &str = "***";

/// One thing that a traced device sent, got, or went through.
#[derive(Debug, Clone)]
pub struct TraceRecord {
    /// When it happened.
    pub at: Instant,
    /// On which listener.
    pub listener: ListenerId,
    /// How the peer speaks.
    pub transport: Transport,
    /// Where the peer is, as far as the worker that tells knows.
    pub address: Option<PeerAddr>,
    /// The client id that the message or its peer named.
    pub client: Option<Arc<str>>,
    /// The identity that the handshake proved, or that a failed one named.
    pub identity: Option<Arc<str>>,
    /// What happened.
    pub what: Traced,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Traced {
    /// A message came.
    Received {
        /// The message.
        message: TracedMessage,
        /// Why it went no further; `None` when it was taken.
        dropped: Option<DropReason>,
    },
    /// A message left.
    Sent {
        /// The message.
        message: TracedMessage,
        /// Whether it could be handed to the transport.
        sealed: bool,
    },
    /// A datagram came that is no message, or that nobody looked at.
    Datagram {
        /// Its length in bytes.
        len: usize,
        /// Why it went no further.
        dropped: DropReason,
    },
    /// A handshake ended well.
    Established(SessionInfo),
    /// The session has another address now (RFC 9146).
    Moved,
    /// The session ended.
    Closed(CloseReason),
    /// A step outside of sessions.
    Dtls(DtlsNote),
    /// The access rules were asked.
    Judged {
        /// What is wanted.
        action: Action,
        /// Of which topic, as the client names it.
        topic: Arc<str>,
        /// What they say, and which of them.
        decision: Decision,
    },
    /// The broker is asked for something.
    Asked {
        /// For what.
        errand: Errand,
        /// With which topic, mountpoint included.
        carried: Carried,
    },
    /// The broker answered.
    Answered {
        /// What it was asked for.
        errand: Errand,
        /// The topic.
        topic: Arc<str>,
        /// Why it was not done; `None` when it was.
        error: Option<BrokerError>,
        /// How long that took.
        after: Duration,
    },
    /// The broker brought a message that the client observes.
    Delivered(Carried),
}

labels! {
    /// What the broker is asked for.
    pub enum Errand {
        /// To take a message.
        Publish = "publish",
        /// To bring the messages of a filter.
        Subscribe = "subscribe",
    }
}

/// A message or a filter on the MQTT side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The topic or filter, mountpoint included.
    pub topic: Arc<str>,
    /// Its QoS.
    pub qos: Qos,
    /// Whether the message is to be, or was, retained.
    pub retain: bool,
    /// Bytes of payload.
    pub len: usize,
}

impl Carried {
    /// A message.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        Self {
            topic: mask(message.topic.as_str()).into(),
            qos: message.qos,
            retain: message.retain,
            len: message.payload.len(),
        }
    }

    /// A filter.
    #[must_use]
    pub fn filter(filter: &TopicFilter, qos: Qos) -> Self {
        Self {
            topic: mask(filter.as_str()).into(),
            qos,
            retain: false,
            len: 0,
        }
    }
}

/// A message in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedMessage {
    /// `con`, `non`, `ack` or `rst`.
    pub kind: &'static str,
    /// The code by name: `GET`, `2.05 Content`.
    pub code: Cow<'static, str>,
    /// The message id.
    pub mid: u16,
    /// The token's bytes.
    pub token: Vec<u8>,
    /// The path, with a slash before each segment; empty without Uri-Path.
    pub path: String,
    /// The Uri-Query options, secrets masked.
    pub query: Vec<String>,
    /// All other options by name, in the order of their numbers.
    pub options: Vec<(Cow<'static, str>, String)>,
    /// Bytes of payload.
    pub payload_len: usize,
    /// The first bytes of the payload, as many as were asked for; none of one that is secret.
    pub preview: Vec<u8>,
    /// Whether the payload is a secret: the token that create returns, or what a request for a connection brings.
    pub secret: bool,
}

impl TracedMessage {
    /// The message with its secrets masked and at most `preview` bytes of its payload.
    #[must_use]
    pub fn of(described: &Described, preview: usize) -> Self {
        let text = |bytes: &Vec<u8>| mask(&String::from_utf8_lossy(bytes));
        // The only answer of ours with this code is that of create, and its payload is the connection's token. A
        // login may bring its credentials in the payload.
        let secret =
            described.code == Code::CREATED || described.code.is_request() && is_login(&described.path);
        let shown = if secret { 0 } else { preview };
        Self {
            kind: described.kind.label(),
            code: code_name(described.code),
            mid: described.mid,
            token: described.token.as_bytes().to_vec(),
            path: described
                .path
                .iter()
                .map(|segment| format!("/{}", text(segment)))
                .collect(),
            query: described.query.iter().map(text).collect(),
            options: described
                .options
                .iter()
                .map(|(name, value)| (name.clone(), mask(value)))
                .collect(),
            payload_len: described.payload.len(),
            preview: described.payload.iter().copied().take(shown).collect(),
            secret,
        }
    }
}

/// Whether a request brings credentials, also where its parameters slipped into the path.
fn is_login(path: &[Vec<u8>]) -> bool {
    let [first, second, ..] = path else { return false };
    match &**first {
        b"mqtt" => second.starts_with(b"connection"),
        b"auth" => second.starts_with(b"jwt"),
        _ => false,
    }
}

/// A query parameter, or a segment into which parameters slipped, with the values of its secrets masked.
pub(in crate::gateway) fn mask(text: &str) -> String {
    let parts: Vec<Cow<'_, str>> = text
        .split('&')
        .map(|part| match part.split_once('=') {
            Some((name, _)) if uri::is_secret(name) => Cow::Owned(format!("{name}={MASK}")),
            // Where a token of the JWT backend stands for the user name.
            Some((name, value)) if is_web_token(value) => Cow::Owned(format!("{name}={MASK}")),
            _ => Cow::Borrowed(part),
        })
        .collect();
    parts.join("&")
}

/// Whether it looks like a JSON Web Token: three parts, of which the first encodes `{"`.
fn is_web_token(value: &str) -> bool {
    value.starts_with("eyJ") && value.split('.').count() == 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coap::describe::describe;

    /// CON POST with these path segments, each shorter than 13 bytes, and this payload.
    fn post(path: &[&[u8]], payload: &[u8]) -> TracedMessage {
        let mut bytes = vec![0x40, 2, 0, 1];
        for (index, segment) in path.iter().enumerate() {
            let delta = if index == 0 { 0xb0 } else { 0 };
            bytes.push(delta | u8::try_from(segment.len()).unwrap());
            bytes.extend_from_slice(segment);
        }
        bytes.push(0xff);
        bytes.extend_from_slice(payload);
        TracedMessage::of(&describe(&bytes).unwrap(), 64)
    }

    #[test]
    fn a_password_in_the_payload_of_a_login_is_not_shown() {
        for path in [
            &[&b"mqtt"[..], b"connection"][..],
            &[b"mqtt", b"connection?"],
            &[b"auth", b"jwt"],
        ] {
            let login = post(path, b"clientid=a&password=hunter2");
            assert!(login.secret && login.preview.is_empty());
        }
        let publish = post(&[b"mqtt", b"t"], b"21.5");
        assert!(!publish.secret && publish.preview == b"21.5");
    }

    #[test]
    fn secrets_are_masked_in_every_spelling() {
        for (shown, wanted) in [
            ("token=abc", "token=***"),
            ("t=abc=def", "t=***"),
            ("p=x", "p=***"),
            ("Password=x", "Password=***"),
            ("passwd=x", "passwd=***"),
            ("clientid=a&token=abc", "clientid=a&token=***"),
            ("temp&p=x&q=1", "temp&p=***&q=1"),
            ("username=eyJh.eyJz.c2ln", "username=***"),
            (" p=x", " p=***"),
            ("clientid=tom", "clientid=tom"),
            ("token", "token"),
        ] {
            assert_eq!(mask(shown), wanted);
        }
    }
}
