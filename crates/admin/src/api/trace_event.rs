//! One line of a trace.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use portcullis_dtls::contract::DtlsNote;
use portcullis_proto::bridge::contract::BrokerError;
use portcullis_proto::gateway::trace::{Carried, TraceRecord, Traced, TracedMessage};
use portcullis_proto::types::reason::Label as _;

use super::handle::{ListenerState, Moment};
use super::rfc3339;

/// One thing that a traced device sent, got, or went through.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TraceEvent {
    /// When it happened (RFC 3339, UTC, milliseconds).
    pub time: String,
    /// `received` and `sent`: a message. `datagram`: one that is no message, or that nobody looked at. `hello`: a handshake
    /// begins. `established`, `handshake_failed`: how it ended. `alert_sent`, `alert_received`, `record_dropped`: of DTLS.
    /// `moved`: the session has another address now. `closed`: the session ended. `acl`: the access rules were asked. `broker_asked`: a
    /// message or a filter goes to the broker; `broker_answered`: what it said; `broker_message`: it brought a message that the
    /// device observes. `lost`: events that there was no room for.
    pub event: String,
    /// The listener that it came to or left from, by name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub listener: String,
    /// The listener's transport: `udp`, `dtls`, `tcp` or `tls`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub transport: String,
    /// The device's address and port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The client id that it named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clientid: Option<String>,
    /// The identity that its handshake proved, or that a failed one named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Of `received`, `datagram` and `record_dropped`: why it was dropped. Of `sent`: `not_sent`. Of `handshake_failed`,
    /// `alert_*` and `closed`: which, by the word that the metrics have for it. Of `acl`: what decided, in a word. Of
    /// `broker_answered`: `ok`, or why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `received` and `sent`: the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<TraceMessage>,
    /// Of `datagram`: its length in bytes. Of `broker_asked` and `broker_message`: that of the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// Of `handshake_failed` and `broker_answered`: how long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Of `established`: the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<TraceSession>,
    /// Of `acl`: `publish`, `subscribe`, `receive` or `create`. Of `broker_asked` and `broker_answered`: `publish` or `subscribe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Of `acl`: the topic as the device names it. Of `broker_*`: the MQTT topic or filter, mountpoint included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Of `acl`: whether it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<bool>,
    /// Of `acl`: what decided, in words, with the line of the ACL file or the rule of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Of `broker_asked` and `broker_message`: the MQTT QoS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    /// Of `broker_asked` and `broker_message`: whether the message is to be, or was, retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// Of `lost`: how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// A CoAP message, its secrets masked.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TraceMessage {
    /// `con`, `non`, `ack` or `rst`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code by name, such as `GET` or `2.05 Content`.
    pub code: String,
    /// Its message id, which ties an acknowledgement to it.
    pub mid: u16,
    /// The token in hexadecimal digits.
    pub token: String,
    /// The path, with a slash before each segment; empty without one.
    pub path: String,
    /// Its Uri-Query options, passwords and tokens masked.
    pub query: Vec<String>,
    /// All other options, in the order of their numbers.
    pub options: Vec<TraceOption>,
    /// How long the whole payload is, in bytes.
    pub payload_length: usize,
    /// The beginning of the payload, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The beginning of the payload in hexadecimal digits, where it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// Whether the payload is a secret and therefore not shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub payload_secret: bool,
}

/// An option of a message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TraceOption {
    /// Its name at IANA, or its number.
    pub name: String,
    /// Its value in words.
    pub value: String,
}

/// A session as it begins.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TraceSession {
    /// The cipher suite, by its name at IANA.
    pub cipher: String,
    /// Whether it has a Connection ID (RFC 9146).
    pub cid: bool,
    /// Whether it was resumed by ticket.
    pub resumed: bool,
}

impl TraceEvent {
    pub(super) fn lost(now: &Moment, count: u64) -> Self {
        Self {
            time: rfc3339(now.wall),
            event: "lost".to_owned(),
            count: Some(count),
            ..Self::default()
        }
    }

    pub(super) fn of(record: &TraceRecord, now: &Moment, listeners: &[ListenerState]) -> Self {
        let listener = listeners.get(usize::from(record.listener.0));
        let mut event = Self {
            time: rfc3339(now.wall_of(record.at)),
            listener: listener.map(|listener| listener.name.clone()).unwrap_or_default(),
            transport: record.transport.label().to_owned(),
            address: record
                .address
                .map(|address| address.to_string())
                .unwrap_or_default(),
            clientid: record.client.as_deref().map(str::to_owned),
            identity: record.identity.as_deref().map(str::to_owned),
            ..Self::default()
        };
        event.tell(&record.what);
        event
    }

    fn tell(&mut self, what: &Traced) {
        let (event, reason) = match what {
            Traced::Received { message, dropped } => {
                self.message = Some(TraceMessage::of(message));
                ("received", dropped.map(|reason| reason.label()))
            }
            Traced::Sent { message, sealed } => {
                self.message = Some(TraceMessage::of(message));
                ("sent", (!sealed).then_some("not_sent"))
            }
            Traced::Datagram { len, dropped } => {
                self.bytes = Some(*len);
                ("datagram", Some(dropped.label()))
            }
            Traced::Established(info) => {
                self.session = Some(TraceSession {
                    cipher: info.suite.to_owned(),
                    cid: info.cid,
                    resumed: info.resumed,
                });
                ("established", None)
            }
            Traced::Moved => ("moved", None),
            Traced::Closed(reason) => ("closed", Some(reason.label())),
            Traced::Dtls(DtlsNote::Hello) => ("hello", None),
            Traced::Dtls(DtlsNote::Failed { result, after }) => {
                self.seconds = Some(after.as_secs_f64());
                ("handshake_failed", Some(result.label()))
            }
            Traced::Dtls(DtlsNote::AlertSent(alert)) => ("alert_sent", Some(alert.label())),
            Traced::Dtls(DtlsNote::AlertReceived(alert)) => ("alert_received", Some(alert.label())),
            Traced::Dtls(DtlsNote::Dropped(reason)) => ("record_dropped", Some(reason.label())),
            Traced::Judged {
                action,
                topic,
                decision,
            } => {
                self.action = Some(action.label().to_owned());
                self.topic = Some(topic.to_string());
                self.allowed = Some(decision.allowed);
                self.rule = Some(decision.to_string());
                ("acl", Some(decision.reason.label()))
            }
            Traced::Asked { errand, carried } => {
                self.action = Some(errand.label().to_owned());
                self.carry(carried);
                ("broker_asked", None)
            }
            Traced::Answered {
                errand,
                topic,
                error,
                after,
            } => {
                self.action = Some(errand.label().to_owned());
                self.topic = Some(topic.to_string());
                self.seconds = Some(after.as_secs_f64());
                ("broker_answered", Some(error.map_or("ok", BrokerError::label)))
            }
            Traced::Delivered(carried) => {
                self.carry(carried);
                ("broker_message", None)
            }
        };
        event.clone_into(&mut self.event);
        self.reason = reason.map(str::to_owned);
    }
}

impl TraceEvent {
    fn carry(&mut self, carried: &Carried) {
        self.topic = Some(carried.topic.to_string());
        self.qos = Some(carried.qos.number());
        self.retain = Some(carried.retain);
        self.bytes = Some(carried.len);
    }
}

impl TraceMessage {
    fn of(message: &TracedMessage) -> Self {
        let text = shown_text(message);
        let binary = text.is_none() && !message.preview.is_empty();
        Self {
            kind: message.kind.to_owned(),
            code: message.code.clone().into_owned(),
            mid: message.mid,
            token: hex::encode(&message.token),
            path: message.path.clone(),
            query: message.query.clone(),
            options: message
                .options
                .iter()
                .map(|(name, value)| TraceOption {
                    name: name.clone().into_owned(),
                    value: value.clone(),
                })
                .collect(),
            payload_length: message.payload_len,
            payload_hex: binary.then(|| hex::encode(&message.preview)),
            payload: text,
            payload_secret: message.secret && message.payload_len > 0,
        }
    }
}

/// The preview, if it is text. It may end within a character.
fn shown_text(message: &TracedMessage) -> Option<String> {
    if message.preview.is_empty() {
        return None;
    }
    let cut = message.preview.len() < message.payload_len;
    let valid = match std::str::from_utf8(&message.preview) {
        Ok(text) => text,
        Err(error) if cut && error.error_len().is_none() => {
            let whole = message.preview.get(..error.valid_up_to())?;
            std::str::from_utf8(whole).ok()?
        }
        Err(_) => return None,
    };
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    valid.chars().all(is_text).then(|| valid.to_owned())
}
