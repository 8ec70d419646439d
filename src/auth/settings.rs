//! What the backends are built from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::types::ListenerId;

/// Reads the time of day, which the times in a token are compared with.
pub type WallClock = fn() -> SystemTime;

/// All backends and what they may use.
#[derive(Debug, Clone)]
pub struct AuthSettings {
    /// For every listener that has none of its own.
    pub backend: BackendSettings,
    /// Listeners with a backend of their own.
    pub per_listener: BTreeMap<ListenerId, BackendSettings>,
    /// Names of the listeners in the order of their [`ListenerId`], for `${listener}`.
    pub listeners: Vec<Arc<str>>,
    /// What all of it together may use.
    pub caps: AuthCaps,
    /// How long a positive verdict of the file or HTTP backend is remembered; zero: not at all.
    pub cache: Duration,
    /// Reads the time of day.
    pub clock: WallClock,
}

/// What authentication may use.
#[derive(Debug, Clone, Copy)]
pub struct AuthCaps {
    /// Logins that wait or are worked on; peers that have not proved their address get at most half of it.
    pub pending: usize,
    /// Passwords that are hashed at the same time.
    pub hashers: usize,
    /// Memory that password hashes take together, in KiB; a file whose hashes need more for one is refused.
    pub hash_memory_kib: u32,
    /// Requests to HTTP servers at the same time.
    pub http_requests: usize,
    /// A login that is not decided after this time is [`crate::policy::authentication::Verdict::Unavailable`].
    pub deadline: Duration,
    /// Verdicts that are remembered.
    pub cached: usize,
}

impl Default for AuthCaps {
    fn default() -> Self {
        // A core stays free for the packet path, where there is more than one.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            pending: 256,
            hashers: (cores - 1).clamp(1, 4),
            hash_memory_kib: 128 << 10,
            http_requests: 64,
            deadline: Duration::from_secs(10),
            cached: 16_384,
        }
    }
}

/// One backend.
#[derive(Debug, Clone)]
pub enum BackendSettings {
    /// The DTLS handshake alone: who proved an identity that is the client id or user name comes in.
    Identity,
    /// A users file.
    File(FileSettings),
    /// An HTTP server.
    Http(HttpSettings),
    /// JSON Web Tokens.
    Jwt(JwtSettings),
}

/// A users file.
#[derive(Debug, Clone)]
pub struct FileSettings {
    /// The file.
    pub path: PathBuf,
}

/// How an HTTP server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// `body` goes into the query.
    Get,
    /// `body` is the body.
    Post,
}

/// How the fields of `body` are sent with POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// A JSON object.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// TLS towards a server.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// Trust anchors; the system's when there is no file.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain to show, if the server wants one.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// An HTTP server that is asked about each login. Values may hold `${clientid}`, `${username}`, `${password}`,
/// `${peerhost}`, `${identity}`, `${listener}`; in the URL only after the host, percent-encoded there.
#[derive(Clone)]
pub struct HttpSettings {
    /// GET or POST.
    pub method: HttpMethod,
    /// `http://` or `https://`.
    pub url: String,
    /// Headers beside Host, Content-Type and Content-Length.
    pub headers: Vec<(String, String)>,
    /// The fields that are sent.
    pub body: BTreeMap<String, String>,
    /// How they are sent with POST.
    pub format: BodyFormat,
    /// For all of it: connecting, asking, the answer.
    pub timeout: Duration,
    /// For `https`.
    pub tls: TlsSettings,
}

impl HttpSettings {
    /// POST of clientid, username and password as JSON to `url`, with five seconds for it.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let fields = ["clientid", "username", "password"];
        Self {
            method: HttpMethod::Post,
            url: url.to_owned(),
            headers: Vec::new(),
            body: fields
                .map(|field| (field.to_owned(), format!("${{{field}}}")))
                .into(),
            format: BodyFormat::Json,
            timeout: Duration::from_secs(5),
            tls: TlsSettings::default(),
        }
    }
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers often hold an API key, and so may the query.
        let url = self.url.split('?').next().unwrap_or_default();
        f.debug_struct("HttpSettings")
            .field("method", &self.method)
            .field("url", &url)
            .finish_non_exhaustive()
    }
}

/// Where the client puts its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFrom {
    /// In the password.
    Password,
    /// In the user name.
    Username,
}

/// What tokens are verified with.
#[derive(Debug, Clone)]
pub enum JwtKeys {
    /// A secret: HS256. The file's bytes, one line end at its end left out.
    Secret {
        /// The file.
        file: PathBuf,
        /// Whether the file holds base64 of the secret.
        base64: bool,
    },
    /// A public key or certificate in PEM: RS256, ES256 or EdDSA, by the kind of key.
    PublicKey {
        /// The file.
        file: PathBuf,
    },
    /// A set of public keys from a server (RFC 7517).
    Jwks {
        /// `http://` or `https://`.
        url: String,
        /// How often it is fetched; sooner when a token names a key that is not there.
        refresh: Duration,
        /// For `https`.
        tls: TlsSettings,
    },
}

/// JSON Web Tokens (RFC 7519).
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// Where the token is.
    pub from: TokenFrom,
    /// What it is verified with.
    pub keys: JwtKeys,
    /// Claims that must be there with this value, which may hold `${clientid}`, `${username}` and the others.
    pub verify_claims: BTreeMap<String, String>,
    /// The claim with the ACL.
    pub acl_claim: String,
    /// How far the clocks of issuer and gateway may be apart.
    pub leeway: Duration,
}

impl JwtSettings {
    /// Tokens in the password, the ACL in `acl`, no leeway.
    #[must_use]
    pub fn new(keys: JwtKeys) -> Self {
        Self {
            from: TokenFrom::Password,
            keys,
            verify_claims: BTreeMap::new(),
            acl_claim: "acl".to_owned(),
            leeway: Duration::ZERO,
        }
    }
}
