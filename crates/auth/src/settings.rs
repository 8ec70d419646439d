//! What the backends are built from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis_proto::types::ListenerId;
use portcullis_proto::types::reason::Label as _;

use super::hash::HashAlgorithm;
use super::metrics::Backend;

/// Reads the time of day, which the times in a token are compared with.
pub type WallClock = fn() -> SystemTime;

/// All backends and what they may use.
#[derive(Debug, Clone)]
pub struct AuthSettings {
    /// For every listener that has none of its own.
    pub backend: BackendSettings,
    /// Listeners with a backend of their own.
    pub per_listener: BTreeMap<ListenerId, BackendSettings>,
    /// Listeners with a source of keys for their handshakes.
    pub key_sources: BTreeMap<ListenerId, KeySourceSettings>,
    /// Names of the listeners in the order of their [`ListenerId`], for `${listener}`.
    pub listeners: Vec<Arc<str>>,
    /// What all of it together may use.
    pub caps: AuthCaps,
    /// How long a positive verdict of the file or HTTP backend is remembered; zero: not at all.
    pub cache: Duration,
    /// Reads the time of day.
    pub clock: WallClock,
}

impl AuthSettings {
    /// The longest grace of all backends.
    pub(super) fn grace(&self) -> Duration {
        let all = self.per_listener.values().chain([&self.backend]);
        let graces = all.filter_map(|backend| match backend {
            BackendSettings::Database(database) => Some(database.grace),
            BackendSettings::Http(http) => Some(http.grace),
            BackendSettings::Identity | BackendSettings::File(_) | BackendSettings::Jwt(_) => None,
        });
        graces.max().unwrap_or_default()
    }
}

/// A server that knows the pre-shared keys of devices.
#[derive(Debug, Clone)]
pub struct KeySourceSettings {
    /// What is asked, and how.
    pub server: KeyServer,
    /// For one question to a database; an HTTP server has its own.
    pub timeout: Duration,
    /// Questions that are put to it at the same time.
    pub at_once: usize,
    /// Questions that are not answered, those that wait for their turn included.
    pub lookups: usize,
    /// How long keys that were found are used without asking again.
    pub lifetime: Duration,
    /// How much longer they are while it cannot be asked.
    pub grace: Duration,
    /// How long it is remembered of an identity that it has none.
    pub unknown_lifetime: Duration,
    /// Identities that are remembered, those with keys and those without.
    pub cached: usize,
}

/// What kind of server knows keys.
#[derive(Debug, Clone)]
pub enum KeyServer {
    /// An HTTP server.
    Http(HttpSettings),
    /// A database or directory.
    Database(Source),
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
    /// A login that is not decided after this time is [`portcullis_proto::policy::authentication::Verdict::Unavailable`].
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

/// What decides about the logins of a listener.
#[derive(Debug, Clone)]
pub enum BackendSettings {
    /// The DTLS handshake alone: who proved an identity that is the client id or user name comes in.
    Identity,
    /// Lines `user:hash` in a file that this process reads.
    File(FileSettings),
    /// An HTTP server that is asked about each login.
    Http(HttpSettings),
    /// A signed token that the client shows (RFC 7519).
    Jwt(JwtSettings),
    /// A database or directory that knows each client.
    Database(Box<DatabaseSettings>),
}

/// A database or directory with the passwords of clients.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// Which one, and what it is asked.
    pub source: Source,
    /// How the hashes in it were made that do not tell it.
    pub algorithm: HashAlgorithm,
    /// Whether single MD5 and SHA-1 hashes are taken.
    pub legacy_hashes: bool,
    /// For one question: waiting for a connection, making one, the answer.
    pub timeout: Duration,
    /// How long a login that was right stays right while the database cannot be asked.
    pub grace: Duration,
}

/// A server that knows clients, and what it is asked. Placeholders are those of [`HttpSettings`]; their values are bound, or
/// escaped where a protocol has no other way, so that they are never read as a part of the question.
#[derive(Debug, Clone)]
pub enum Source {
    /// PostgreSQL.
    Postgresql(SqlSettings),
    /// MySQL or MariaDB.
    Mysql(SqlSettings),
    /// MongoDB.
    Mongodb(MongoSettings),
    /// Redis or Valkey.
    Redis(RedisSettings),
    /// An LDAP directory.
    Ldap(Box<LdapSettings>),
}

impl Source {
    /// Who decides, for metrics.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self {
            Self::Postgresql(_) => Backend::Postgresql,
            Self::Mysql(_) => Backend::Mysql,
            Self::Mongodb(_) => Backend::Mongodb,
            Self::Redis(_) => Backend::Redis,
            Self::Ldap(_) => Backend::Ldap,
        }
    }

    /// Where it is, and who asks it.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self {
            Self::Postgresql(sql) | Self::Mysql(sql) => &sql.place,
            Self::Mongodb(mongodb) => &mongodb.place,
            Self::Redis(redis) => &redis.place,
            Self::Ldap(ldap) => &ldap.place,
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.backend().label()
    }
}

/// Whether this build has the backend with this name.
#[must_use]
pub fn is_built_in(name: &str) -> bool {
    let of_features = [
        ("postgresql", cfg!(feature = "postgresql")),
        ("mysql", cfg!(feature = "mysql")),
        ("mongodb", cfg!(feature = "mongodb")),
        ("redis", cfg!(feature = "redis")),
        ("ldap", cfg!(feature = "ldap")),
    ];
    of_features.iter().all(|(feature, has)| *feature != name || *has)
}

/// Where a server is, and who asks it.
#[derive(Debug, Clone)]
pub struct Place {
    /// `HOST` or `HOST:PORT`; where several may be named, with commas between them.
    pub server: String,
    /// The name that is logged in with; none where it is empty.
    pub username: String,
    /// The password for it, on the first line of this file.
    pub password_file: Option<PathBuf>,
    /// Most connections, each for one question at a time.
    pub pool_size: usize,
    /// TLS; `None` speaks in clear.
    pub tls: Option<TlsSettings>,
}

/// How Redis servers stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisKind {
    /// One server; of several that are named the first that can be reached.
    Single,
    /// The master that sentinels know by this name.
    Sentinel(String),
    /// A cluster, of which some nodes are named.
    Cluster,
}

/// A Redis or Valkey server that is asked for the fields of a hash.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// Where it, its sentinels, or some nodes of its cluster are.
    pub place: Place,
    /// How several stand together.
    pub kind: RedisKind,
    /// The number of the database.
    pub database: u32,
    /// `HMGET KEY FIELD...`, `HGET KEY FIELD` or `HGETALL KEY`; placeholders stand in the key only.
    pub cmd: String,
}

/// A collection of MongoDB, in which a document is looked for whose fields have these values.
#[derive(Debug, Clone)]
pub struct MongoSettings {
    /// Where it is, or some members of its set, or routers of its shards.
    pub place: Place,
    /// The name of the replica set.
    pub replica_set: Option<String>,
    /// The database that knows the account; "" is the driver's own choice.
    pub auth_source: String,
    /// The database with the collection.
    pub database: String,
    /// The collection with the clients.
    pub collection: String,
    /// Names of fields and their values, which may hold placeholders; a value is a text and never an operator.
    pub filter: BTreeMap<String, String>,
}

/// What a directory is asked for beside the rights of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LdapMethod {
    /// It is bound as the entry, with the password.
    Bind,
    /// The password is compared with the hash in an attribute.
    Hash,
    /// There is no password: the values of an attribute are the pre-shared keys, at most two.
    Keys,
}

/// An LDAP directory that is searched for the entry of a client; where `place` names no port, TLS is on 636.
#[derive(Debug, Clone)]
pub struct LdapSettings {
    /// Where it is, and the name and password of the account that searches; as nobody without them.
    pub place: Place,
    /// Below which entry is searched.
    pub base_dn: String,
    /// What an entry must be (RFC 4515).
    pub filter: String,
    /// How the password is judged.
    pub method: LdapMethod,
    /// The attribute with the hash, or with the keys.
    pub password_attribute: String,
    /// The attribute that says whether the ACL does not concern the client; "" for none, as below.
    pub superuser_attribute: String,
    /// The attribute with topics that may be published to.
    pub publish_attribute: String,
    /// The attribute with topics that may be observed.
    pub subscribe_attribute: String,
    /// The attribute with topics for both.
    pub all_attribute: String,
    /// Attributes of clients by their names, and the directory's that hold them.
    pub attributes: BTreeMap<String, String>,
}

/// A database that is asked in SQL.
#[derive(Debug, Clone)]
pub struct SqlSettings {
    /// Where it is.
    pub place: Place,
    /// The name of the database.
    pub database: String,
    /// A SELECT of at most one row; its placeholders become parameters.
    pub query: String,
}

/// Where the backend `file` finds its users.
#[derive(Debug, Clone)]
pub struct FileSettings {
    /// Lines `user:hash`, read at the start and at a reload.
    pub path: PathBuf,
    /// Whether single MD5 and SHA-1 hashes are taken.
    pub legacy_hashes: bool,
}

impl FileSettings {
    /// The users of `path`, none of them by a legacy hash.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            legacy_hashes: false,
        }
    }
}

/// How an HTTP server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// `body` goes into the query.
    Get,
    /// `body` is the body: a form where the header Content-Type says `application/x-www-form-urlencoded`, else JSON.
    Post,
}

/// TLS towards a server.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// Trust anchors; the system's when there is no file.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain to show, if the server wants one.
    pub cert_file: Option<PathBuf>,
    /// Private key of the certificate in `cert_file`, PEM.
    pub key_file: Option<PathBuf>,
}

/// An HTTP server that is asked about each login. Values may hold `${clientid}`, `${username}`, `${password}`,
/// `${peerhost}`, `${identity}`, `${listener}`; in the URL only after the host, percent-encoded there.
#[derive(Clone)]
pub struct HttpSettings {
    /// Whether the fields of `body` go into the query or into the body.
    pub method: HttpMethod,
    /// Where it is asked: begins with `http://` or `https://`; may hold placeholders after the host.
    pub url: String,
    /// Headers beside Host and Content-Length.
    pub headers: BTreeMap<String, String>,
    /// File with a token that is sent as `Authorization: Bearer`, on its first line.
    pub token_file: Option<PathBuf>,
    /// The fields that are sent.
    pub body: BTreeMap<String, String>,
    /// For all of it: connecting, asking, the answer.
    pub timeout: Duration,
    /// How long a login that was right stays right while the server cannot be asked.
    pub grace: Duration,
    /// Trust anchors and a certificate to show, when the URL begins with `https://`.
    pub tls: TlsSettings,
}

impl HttpSettings {
    /// POST of clientid, username and password as JSON to `url`, with five seconds for it and no grace.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let fields = ["clientid", "username", "password"];
        Self {
            method: HttpMethod::Post,
            url: url.to_owned(),
            headers: BTreeMap::new(),
            token_file: None,
            body: fields
                .map(|field| (field.to_owned(), format!("${{{field}}}")))
                .into(),
            timeout: Duration::from_secs(5),
            grace: Duration::ZERO,
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
    /// In the `password` parameter of a request.
    Password,
    /// In the `username` parameter of a request.
    Username,
}

/// What tokens are verified with.
#[derive(Debug, Clone)]
pub enum JwtKeys {
    /// A public key or certificate in PEM (RS256, ES256 or EdDSA by the kind of key), or else a shared secret (HS256): the
    /// file's bytes, one line end at its end left out.
    File {
        /// Where the key is, read at the start and at a reload.
        path: PathBuf,
    },
    /// A set of public keys from a server (RFC 7517).
    Jwks {
        /// Where the set is: begins with `http://` or `https://`.
        url: String,
        /// How often it is fetched; sooner when a token names a key that is not there.
        refresh: Duration,
        /// Trust anchors and a certificate to show, when the URL begins with `https://`.
        tls: TlsSettings,
    },
}

/// How a token is signed (RFC 7518, 3.1; RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256 and a shared secret.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// EdDSA with the curve Ed25519 (RFC 8037).
    EdDsa,
}

impl Algorithm {
    /// Every algorithm that can be configured; `none` is not among them.
    pub const ALL: &'static [Self] = &[Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// Its name in a token.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// JSON Web Tokens (RFC 7519).
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// Where the token is.
    pub from: TokenFrom,
    /// What it is verified with.
    pub keys: JwtKeys,
    /// Which of the algorithms that the keys are for may be used.
    pub algorithms: Vec<Algorithm>,
    /// Claims that must be there with this value, which may hold `${clientid}`, `${username}` and the others.
    pub required_claims: BTreeMap<String, String>,
    /// The claim with the ACL.
    pub acl_claim: String,
    /// How far the clocks of issuer and gateway may be apart.
    pub leeway: Duration,
    /// Whether a token without an end lets nobody in.
    pub require_exp: bool,
}

impl JwtSettings {
    /// Tokens in the password, the ACL in `acl`, no leeway, `exp` demanded.
    #[must_use]
    pub fn new(keys: JwtKeys) -> Self {
        Self {
            from: TokenFrom::Password,
            keys,
            algorithms: Algorithm::ALL.to_vec(),
            required_claims: BTreeMap::new(),
            acl_claim: "acl".to_owned(),
            leeway: Duration::ZERO,
            require_exp: true,
        }
    }
}
