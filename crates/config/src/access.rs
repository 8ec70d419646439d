//! `[authentication]` and `[authorization]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::check::{at_most, between, hours, millis, placeholders, secs, web_url};
use super::databases::{Database, Databases};
use super::document::{Document, Table};
use super::paths::PathBase;
use super::section::section;
use super::value::{Complaint, Value, expected, items, word, words};

/// What decides whether a login is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Nobody is asked for credentials.
    None,
    /// A file of users and password hashes.
    File,
    /// An HTTP service that is asked about each login.
    Http,
    /// A signed token that the client shows.
    Jwt,
    /// A PostgreSQL database.
    Postgresql,
    /// A MySQL or MariaDB database.
    Mysql,
    /// A MongoDB database.
    Mongodb,
    /// Redis or Valkey.
    Redis,
    /// An LDAP directory.
    Ldap,
}

words!(Backend {
    "none" => Backend::None,
    "file" => Backend::File,
    "http" => Backend::Http,
    "jwt" => Backend::Jwt,
    "postgresql" => Backend::Postgresql,
    "mysql" => Backend::Mysql,
    "mongodb" => Backend::Mongodb,
    "redis" => Backend::Redis,
    "ldap" => Backend::Ldap,
});

/// The method of the HTTP backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// The body's fields become the query.
    Get,
    /// The body's fields are sent as JSON, or as a form when `headers` say so.
    Post,
}

words!(HttpMethod {
    "get" => HttpMethod::Get,
    "post" => HttpMethod::Post,
});

/// Where a client shows its JWT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtFrom {
    /// In the `password` parameter.
    Password,
    /// In the `username` parameter.
    Username,
}

words!(JwtFrom {
    "password" => JwtFrom::Password,
    "username" => JwtFrom::Username,
});

/// A signature algorithm (RFC 7518, 3.1; RFC 8037, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the registry")]
pub enum JwtAlgorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

const ALGORITHMS: [(&str, JwtAlgorithm); 4] = [
    ("HS256", JwtAlgorithm::Hs256),
    ("RS256", JwtAlgorithm::Rs256),
    ("ES256", JwtAlgorithm::Es256),
    ("EdDSA", JwtAlgorithm::EdDsa),
];

impl Value for Vec<JwtAlgorithm> {
    const KIND: &'static str = "list of `HS256` `RS256` `ES256` `EdDSA`";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let array = value
            .as_array()
            .ok_or_else(|| expected("a list of algorithms such as [\"ES256\"]", value))?;
        let all = items(array, |item| word(item, &ALGORITHMS))?;
        if all.is_empty() {
            return Err(vec!["at least one algorithm is needed".to_owned().into()]);
        }
        Ok(all)
    }
}

section! {
    /// Whether and how clients log in.
    pub struct Authentication {
        /// What decides whether a login is right.
        backend: Backend = "none";
        /// Users and password hashes, lines `user:hash` (Argon2id PHC; bcrypt and mosquitto_passwd's `$7$` accepted).
        file: Option<PathBuf> = "users.txt";
        /// Whether passwords may be kept as a single MD5 or SHA-1, which anyone who has them finds out in minutes.
        legacy_hashes: bool = false;
        /// How long a login that a database or an HTTP service found right stays right while that cannot be asked, "0s" to "24h".
        grace: Duration = "5m", between(secs(0), hours(24));
        with /// The databases.
        databases: Databases;
        section /// The `http` backend.
        http: Http;
        section /// The `jwt` backend.
        jwt: Jwt;
    }
}

impl Authentication {
    /// The database that decides, if one does.
    #[must_use]
    pub fn database(&self) -> Option<Database<'_>> {
        match self.backend {
            Backend::None | Backend::File | Backend::Http | Backend::Jwt => None,
            Backend::Postgresql => Some(Database::Postgresql(&self.databases.postgresql)),
            Backend::Mysql => Some(Database::Mysql(&self.databases.mysql)),
            Backend::Mongodb => Some(Database::Mongodb(&self.databases.mongodb)),
            Backend::Redis => Some(Database::Redis(&self.databases.redis)),
            Backend::Ldap => Some(Database::Ldap(&self.databases.ldap)),
        }
    }
}

/// Who decides about the logins of one listener.
#[derive(Debug, Clone, PartialEq)]
pub enum Login {
    /// As `[authentication]` says: nobody, where that is `none`.
    Inherited,
    /// What `[authentication]` says, or, where that is `none`, the identity of the handshake alone.
    Required,
    /// Nobody is asked for credentials.
    Off,
    /// A backend of its own.
    Own(Box<Authentication>),
}

/// What the key `authentication` of a listener holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// The file does not give it.
    Unset,
    /// Whether logins are asked for.
    Set(bool),
    /// A table, which is read as [`Authentication`].
    Table,
}

impl Value for Switch {
    const KIND: &'static str = "boolean or table";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        match value {
            DeValue::Boolean(switch) => Ok(Self::Set(*switch)),
            DeValue::Table(_) => Ok(Self::Table),
            _ => Err(expected("`true`, `false`, or a table as [authentication]", value)),
        }
    }

    fn unset() -> Option<Self> {
        Some(Self::Unset)
    }
}

impl Login {
    /// Reads what follows from the key `authentication` of the listener in `table`.
    pub(super) fn read(switch: Switch, table: &mut Table<'_>, doc: &mut Document<'_>) -> Option<Self> {
        Some(match switch {
            Switch::Unset => Self::Inherited,
            Switch::Set(true) => Self::Required,
            Switch::Set(false) => Self::Off,
            Switch::Table => {
                let own = table.section::<Authentication>(doc, "authentication")?;
                let backend = format!("{}.backend", table.key("authentication"));
                if !doc.has(&backend) {
                    doc.complain(&[&backend], "a listener's own authentication names its backend");
                }
                Self::Own(Box::new(own))
            }
        })
    }
}

section! {
    /// Asking an HTTP service, in the manner of EMQX's HTTP authenticator.
    pub struct Http {
        /// The service's URL.
        url: String = "", web_url;
        /// `post` sends `body` in the body, `get` in the query.
        method: HttpMethod = "post";
        /// Headers of the request; not `authorization`, for which there is `token_file`.
        headers: BTreeMap<String, String> = { "content-type" = "application/json" }, headers;
        /// Fields of the request; may hold ${clientid}, ${username}, ${password}, ${identity}, ${peerhost} and ${listener}.
        body: BTreeMap<String, String> = {
            clientid = "${clientid}", username = "${username}", password = "${password}"
        }, fields;
        /// File with a bearer token for the service; "" sends none.
        token_file: Option<PathBuf> = "";
        /// Trust anchors of an `https` service, PEM; "" are those of the system.
        ca_file: Option<PathBuf> = "";
        /// An answer that takes longer counts as none, "100ms" to "1m".
        timeout: Duration = "5s", between(millis(100), secs(60));
    }
}

section! {
    /// Checking a JSON Web Token (RFC 7519), or a CBOR Web Token (RFC 8392), that the client shows.
    pub struct Jwt {
        /// Where the client shows it.
        from: JwtFrom = "password";
        /// Which algorithms are accepted; the key's kind decides which of them can verify.
        algorithms: Vec<JwtAlgorithm> = ["HS256", "RS256", "ES256", "EdDSA"];
        /// The key: PEM of a public key or certificate, else the shared secret of HS256.
        key_file: Option<PathBuf> = "";
        /// Where a JSON Web Key Set is fetched from instead of `key_file`.
        jwks_url: String = "", web_url;
        /// Trust anchors of an `https` key set, PEM; "" are those of the system.
        ca_file: Option<PathBuf> = "";
        /// How often it is fetched, "10s" to "24h".
        refresh: Duration = "5m", between(secs(10), hours(24));
        /// Claims that a token must have with these values; may hold ${clientid} and ${username}.
        required_claims: BTreeMap<String, String> = {}, claims;
        /// Whether a token without `exp`, which would count for ever, is refused.
        require_exp: bool = true;
        /// The claim that holds a client's access rules.
        acl_claim: String = "acl", |text: &String| at_most(text, 256);
    }
}

section! {
    /// What clients may publish and subscribe to.
    pub struct Authorization {
        /// Access rules in the form of mosquitto's `acl_file`, for topics without the mountpoint; "" allows everything.
        acl_file: Option<PathBuf> = "";
        /// What holds for what no rule of `acl_file` decides.
        no_match: NoMatch = "deny";
    }
}

/// What holds for what no access rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoMatch {
    /// Whatever no rule names may be done.
    Allow,
    /// Only what a rule allows may be done.
    Deny,
}

words!(NoMatch {
    "allow" => NoMatch::Allow,
    "deny" => NoMatch::Deny,
});

/// What placeholders may stand for in what a backend is asked.
pub(super) const FIELDS: [&str; 6] = [
    "clientid", "username", "password", "identity", "peerhost", "listener",
];

fn fields(fields: &BTreeMap<String, String>) -> Result<(), String> {
    fields.values().try_for_each(|text| placeholders(text, &FIELDS))
}

fn claims(claims: &BTreeMap<String, String>) -> Result<(), String> {
    claims
        .values()
        .try_for_each(|text| placeholders(text, &["clientid", "username"]))
}

fn headers(headers: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in headers {
        if name.is_empty()
            || !name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
        {
            return Err(format!("`{name}` is no header name (RFC 9110, 5.1)"));
        }
        if value.contains(char::is_control) {
            return Err(format!(
                "the value of header `{name}` may not hold control characters"
            ));
        }
        if name.eq_ignore_ascii_case("authorization") || name.eq_ignore_ascii_case("cookie") {
            return Err(format!(
                "`{name}` is a secret, and the configuration holds none: put the token into a file and name it in token_file"
            ));
        }
    }
    Ok(())
}
