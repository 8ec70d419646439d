//! What the CoAP layer tells the gateway and what it is told: exchanges, notifications, requests to devices.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::state::Held;
use crate::types::TopicName;
use bytes::Bytes;

/// A peer as the message layer knows it: one UDP address on one listener, or one DTLS session. Assigned by the gateway,
/// unique in the process, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// A request of a peer that wants an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// An observation; assigned by the gateway, unique in the process, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObservationId(pub u64);

/// A request of ours to a device; assigned by the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A CoAP token: 0 to 8 bytes (RFC 7252, 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Token {
    bytes: [u8; 8],
    len: u8,
}

impl Token {
    /// The token, or nothing when it is longer than 8 bytes.
    #[must_use]
    pub fn new(token: &[u8]) -> Option<Self> {
        let mut bytes = [0; 8];
        bytes.get_mut(..token.len())?.copy_from_slice(token);
        Some(Self {
            bytes,
            len: u8::try_from(token.len()).ok()?,
        })
    }

    /// The bytes of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// A CoAP code byte: class in the upper three bits, detail in the lower five (RFC 7252, 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u8);

/// The codes by name (RFC 7252, 12.1; RFC 7959, 2.9; RFC 8132; RFC 8516).
#[expect(missing_docs, reason = "the names are those of the registry")]
impl Code {
    pub const EMPTY: Self = Self(0);
    pub const GET: Self = Self(1);
    pub const POST: Self = Self(2);
    pub const PUT: Self = Self(3);
    pub const DELETE: Self = Self(4);
    pub const FETCH: Self = Self(5);
    pub const PATCH: Self = Self(6);
    pub const IPATCH: Self = Self(7);
    pub const CREATED: Self = Self(0x41);
    pub const DELETED: Self = Self(0x42);
    pub const VALID: Self = Self(0x43);
    pub const CHANGED: Self = Self(0x44);
    pub const CONTENT: Self = Self(0x45);
    /// 2.07, the answer to an unsubscription in the EMQX gateway's interface.
    pub const NO_CONTENT: Self = Self(0x47);
    pub const CONTINUE: Self = Self(0x5F);
    pub const BAD_REQUEST: Self = Self(0x80);
    pub const UNAUTHORIZED: Self = Self(0x81);
    pub const BAD_OPTION: Self = Self(0x82);
    pub const FORBIDDEN: Self = Self(0x83);
    pub const NOT_FOUND: Self = Self(0x84);
    pub const METHOD_NOT_ALLOWED: Self = Self(0x85);
    pub const NOT_ACCEPTABLE: Self = Self(0x86);
    pub const REQUEST_ENTITY_INCOMPLETE: Self = Self(0x88);
    pub const PRECONDITION_FAILED: Self = Self(0x8C);
    pub const REQUEST_ENTITY_TOO_LARGE: Self = Self(0x8D);
    pub const UNSUPPORTED_CONTENT_FORMAT: Self = Self(0x8F);
    pub const TOO_MANY_REQUESTS: Self = Self(0x9D);
    pub const INTERNAL_SERVER_ERROR: Self = Self(0xA0);
    pub const SERVICE_UNAVAILABLE: Self = Self(0xA3);
    pub const PROXYING_NOT_SUPPORTED: Self = Self(0xA5);

    /// 0 for requests, 2 for success, 4 and 5 for errors.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// Whether it is a request method.
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.0 != 0
    }

    /// Whether it is a response.
    #[must_use]
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2 | 4 | 5)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.0 & 0x1f)
    }
}

/// What has to hold of a resource before a request is done (RFC 7252, 5.10.8).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// If-Match: the ETags of which the resource has to have one; an empty one is met by any state.
    pub any_of: Vec<Box<[u8]>>,
    /// If-None-Match: there has to be no state.
    pub none: bool,
}

impl Preconditions {
    /// Whether they hold, given the ETag of the state that there is.
    #[must_use]
    pub fn hold(&self, state: Option<[u8; 8]>) -> bool {
        let matches = |wanted: &[u8]| state.is_some_and(|state| wanted.is_empty() || wanted == state);
        let is_met = self.any_of.is_empty() || self.any_of.iter().any(|wanted| matches(wanted));
        is_met && !(self.none && state.is_some())
    }

    /// What holds a request that nothing can be done for.
    #[must_use]
    pub fn failed() -> Response {
        Response::diagnostic(Code::PRECONDITION_FAILED, "If-Match or If-None-Match is not met")
    }
}

/// A whole request of a peer: duplicates removed, blocks put together, options that RFC 7252 says to refuse refused. It prints
/// neither path, query nor payload: tokens and passwords stand there.
#[derive(Clone)]
pub struct Request {
    /// The method; any code of class 0.
    pub method: Code,
    /// Whether it came as CON.
    pub confirmable: bool,
    /// Its token.
    pub token: Token,
    /// The Observe option's value (RFC 7641, 2).
    pub observe: Option<u32>,
    /// The Content-Format option's value.
    pub content_format: Option<u16>,
    /// The Accept option's value.
    pub accept: Option<u16>,
    /// The payload, put together from its blocks.
    pub payload: Bytes,
    /// When the Echo value that it brings was handed out to its peer first.
    pub echo_issued: Option<Instant>,
    /// What has to hold before it is done.
    pub preconditions: Option<Box<Preconditions>>,
    /// What it is about: method, path and query.
    pub resource: ResourceKey,
    /// The block size that it asks for, as the exponent of a Block2 option: `16 << szx` bytes.
    pub block_szx: Option<u8>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("confirmable", &self.confirmable)
            .field("token", &self.token)
            .field("observe", &self.observe)
            .finish_non_exhaustive()
    }
}

/// A resource as block-wise transfer tells resources apart (RFC 7959, 2.4): the method, and the Uri-Path and Uri-Query options as they
/// stood, never the token. It holds secrets in the query, and prints none of them.
///
/// In bytes: the method, then for each option its number, its length and its value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ResourceKey(pub Arc<[u8]>);

impl ResourceKey {
    /// What a GET of this path without a query is about.
    #[must_use]
    pub fn get<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        let mut key = vec![Code::GET.0];
        for segment in path {
            super::options::push_segment(&mut key, super::options::URI_PATH, segment.as_bytes());
        }
        Self(Arc::from(key))
    }

    /// The Uri-Path segments in order, as they stood.
    pub fn path(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.of(super::options::URI_PATH)
    }

    /// The Uri-Query options in order, as they stood.
    pub fn query(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.of(super::options::URI_QUERY)
    }

    fn of(&self, wanted: u16) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = self.0.get(1..).unwrap_or_default();
        std::iter::from_fn(move || {
            let [number, len, behind @ ..] = rest else {
                return None;
            };
            let (value, behind) = behind.split_at_checked(usize::from(*len))?;
            rest = behind;
            Some((u16::from(*number), value))
        })
        .filter_map(move |(number, value)| (number == wanted).then_some(value))
    }

    /// The same resource, asked for by GET.
    #[must_use]
    pub(crate) fn as_get(&self) -> Self {
        match self.0.split_first() {
            Some((method, rest)) if *method != Code::GET.0 => {
                Self(std::iter::once(Code::GET.0).chain(rest.iter().copied()).collect())
            }
            _ => self.clone(),
        }
    }
}

impl fmt::Debug for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResourceKey(..)")
    }
}

/// An answer to a request. The layer adds message id, token, type, blocks and ETag. It does not print its body, which may be the
/// token that create returns.
#[derive(Clone)]
pub struct Response {
    /// The response code.
    pub code: Code,
    /// The body; cut into blocks as needed.
    pub payload: Bytes,
    /// The Content-Format of the body.
    pub content_format: Option<u16>,
    /// The Observe option, 24 bits, when the answer begins an observation.
    pub observe: Option<u32>,
    /// The observation that the answer begins: it ends when a separate answer is rejected or never acknowledged (RFC 7641, 3.6 and
    /// 4.5).
    pub observation: Option<ObservationId>,
    /// Max-Age in seconds.
    pub max_age: Option<u32>,
    /// The ETag of the body, for those who name it in If-Match.
    pub etag: Option<[u8; 8]>,
    /// The answer asks for the request once more, with an Echo value that is no older than this (RFC 9175, 2.4).
    pub wants_echo: Option<Duration>,
    /// Location-Path, a segment each: where what was created is.
    pub location: Vec<Box<str>>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("code", &self.code)
            .field("payload_len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl Response {
    /// An answer without payload and options.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self {
            code,
            payload: Bytes::new(),
            content_format: None,
            observe: None,
            observation: None,
            max_age: None,
            etag: None,
            wants_echo: None,
            location: Vec::new(),
        }
    }

    /// An answer with a diagnostic payload (RFC 7252, 5.5.2).
    #[must_use]
    pub fn diagnostic(code: Code, text: impl Into<String>) -> Self {
        Self {
            payload: Bytes::from(text.into()),
            ..Self::new(code)
        }
    }
}

/// A notification of an observation.
#[derive(Debug, Clone)]
pub struct Notification {
    /// The token of the request that began the observation.
    pub token: Token,
    /// The resource of that request, for those who fetch the rest of a long body.
    pub resource: ResourceKey,
    /// The block size that that request asked for (RFC 7959, 2.6).
    pub block_szx: Option<u8>,
    /// Whether to send it as CON.
    pub confirmable: bool,
    /// The 24-bit Observe number; ascending for one observation.
    pub observe: u32,
    /// 2.05, or an error that ends the observation.
    pub code: Code,
    /// The body.
    pub payload: Bytes,
    /// The Content-Format of the body.
    pub content_format: Option<u16>,
    /// Max-Age in seconds, where it is not 60 (RFC 7252, 5.10.5).
    pub max_age: Option<u32>,
    /// Dropped, and counted, when it is still queued at this time.
    pub expires_at: Option<Instant>,
    /// Where the next process finds it, until it is dropped.
    pub kept: Option<Arc<Held>>,
    /// Whether it comes back by [`Event::Unanswered`] when nobody acknowledges it: its client sleeps, and what is for it waits.
    pub returns: bool,
    /// The topic of its message, as far as it is known.
    pub topic: Option<TopicName>,
}

/// A request of ours to a device.
#[derive(Debug, Clone)]
pub struct OutgoingRequest {
    /// The method.
    pub method: Code,
    /// Uri-Path segments.
    pub path: Vec<String>,
    /// Uri-Query options.
    pub query: Vec<String>,
    /// The Content-Format of the payload.
    pub content_format: Option<u16>,
    /// The payload; sent block-wise when it is long.
    pub payload: Bytes,
    /// Give up after this time.
    pub timeout: Duration,
}

/// Why a device gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// It did not acknowledge the request, so that most likely it never got it.
    Unreached,
    /// It got the request, and did not answer in time.
    Timeout,
    /// It answered RST.
    Reset,
    /// Its answer was no valid one (wrong block, too large).
    BadResponse,
    /// The peer is gone.
    Gone,
    /// Too many requests wait for this peer.
    Busy,
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotificationOutcome {
    /// The peer acknowledged it.
    Acknowledged,
    /// The peer answered RST: the observation is cancelled (RFC 7641, 3.6).
    Reset,
    /// A confirmable one was never acknowledged: the observation is cancelled (RFC 7641, 4.5).
    TimedOut,
}

/// What the CoAP layer tells the gateway.
#[derive(Debug)]
pub enum Event {
    /// A request to answer with `Endpoint::respond`.
    Request {
        /// Whose.
        peer: PeerId,
        /// What the answer names.
        exchange: ExchangeId,
        /// The request.
        request: Request,
    },
    /// What became of a notification. After `Reset` and `TimedOut` the layer has forgotten the observation.
    Notified {
        /// Whose.
        peer: PeerId,
        /// Which observation.
        observation: ObservationId,
        /// What became of it.
        outcome: NotificationOutcome,
    },
    /// Nobody acknowledged a notification that [`Notification::returns`]: that one, and what waited behind it. The layer has forgotten
    /// the observation.
    Unanswered {
        /// Whose.
        peer: PeerId,
        /// Which observation.
        observation: ObservationId,
        /// Oldest first.
        notifications: Vec<Notification>,
    },
    /// The peer showed that it lives: it acknowledged a CON of ours, or pinged.
    Alive {
        /// Whose.
        peer: PeerId,
    },
    /// A request of ours is over.
    Answered {
        /// Which.
        request: RequestId,
        /// The device's answer, block-wise ones put together.
        result: Result<Response, RequestError>,
    },
}

/// Transmission parameters (RFC 7252, 4.8) and block-wise limits.
#[derive(Debug, Clone)]
pub struct CoapSettings {
    /// ACK_TIMEOUT.
    pub ack_timeout: Duration,
    /// MAX_RETRANSMIT.
    pub max_retransmit: u32,
    /// Largest block in both directions: 16, 32, ... 1024.
    pub max_block_size: usize,
    /// Largest body in both directions, in bytes.
    pub max_body_size: usize,
    /// Answer an unproven UDP peer's request with an Echo challenge (RFC 9175) instead of small blocks.
    pub challenge_unproven: bool,
}

impl Default for CoapSettings {
    fn default() -> Self {
        Self {
            ack_timeout: Duration::from_secs(2),
            max_retransmit: 4,
            max_block_size: 1024,
            max_body_size: 1 << 20,
            challenge_unproven: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_token_or_a_password_is_not_printed() {
        let secret = || Bytes::from_static(b"token=secret-of-a-device");
        let request = Request {
            method: Code::POST,
            confirmable: true,
            token: Token::default(),
            observe: None,
            content_format: None,
            accept: None,
            payload: secret(),
            echo_issued: None,
            preconditions: None,
            resource: ResourceKey(Arc::from(&*secret())),
            block_szx: None,
        };
        let response = Response {
            payload: secret(),
            ..Response::new(Code::CREATED)
        };
        let printed = format!("{request:?} {:?} {response:?}", request.resource);
        assert!(printed.contains("payload_len: 24"), "{printed}");
        for part in ["secret", "115, 101, 99"] {
            assert!(!printed.contains(part), "{printed}");
        }
    }
}
