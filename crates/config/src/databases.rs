//! The databases of `[authentication]`, in the shape of EMQX's keys.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::access::FIELDS;
use super::check::{between, millis, placeholders, secs};
use super::section::section;
use super::value::words;

section! {
    /// TLS towards a database.
    pub struct ServerTls {
        /// Whether it is spoken to over TLS.
        enable: bool = false;
        /// Trust anchors, PEM; "" are those of the system.
        ca_file: Option<PathBuf> = "";
        /// The certificate to show, PEM, and its chain.
        cert_file: Option<PathBuf> = "";
        /// Its private key, PEM.
        key_file: Option<PathBuf> = "";
    }
}

/// How passwords are hashed in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashName {
    /// bcrypt.
    Bcrypt,
    /// Argon2id.
    Argon2id,
    /// PBKDF2.
    Pbkdf2,
    /// One SHA-512.
    Sha512,
    /// One SHA-256.
    Sha256,
    /// One SHA-1.
    Sha,
    /// One MD5.
    Md5,
}

words!(HashName {
    "bcrypt" => HashName::Bcrypt,
    "argon2id" => HashName::Argon2id,
    "pbkdf2" => HashName::Pbkdf2,
    "sha512" => HashName::Sha512,
    "sha256" => HashName::Sha256,
    "sha" => HashName::Sha,
    "md5" => HashName::Md5,
});

/// Where a salt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaltPosition {
    /// Before the password.
    Prefix,
    /// After it.
    Suffix,
    /// Nowhere.
    Disable,
}

words!(SaltPosition {
    "prefix" => SaltPosition::Prefix,
    "suffix" => SaltPosition::Suffix,
    "disable" => SaltPosition::Disable,
});

/// The function of PBKDF2's HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacFunction {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

words!(MacFunction {
    "sha256" => MacFunction::Sha256,
    "sha512" => MacFunction::Sha512,
});

section! {
    /// How the hashes of a database were made that do not begin with `$`, by which they would tell it.
    pub struct PasswordHash {
        /// The algorithm; `md5` and `sha` (SHA-1) want `legacy_hashes`.
        name: HashName = "sha256";
        /// Where the salt stands when it is hashed with the password.
        salt_position: SaltPosition = "prefix";
        /// The function of the HMAC of `pbkdf2`.
        mac_fun: MacFunction = "sha256";
        /// The iterations of `pbkdf2`, 1 to 10000000.
        iterations: u32 = 4096, between(1, 10_000_000);
    }
}

section! {
    /// What every database has.
    pub struct Common {
        /// File with the password of the account on its first line.
        password_file: Option<PathBuf> = "";
        /// Most connections, 1 to 64.
        pool_size: u32 = 8, between(1, 64);
        /// An answer that takes longer counts as none, "100ms" to "10s".
        query_timeout: Duration = "5s", between(millis(100), secs(10));
        section /// How passwords are hashed.
        password_hash_algorithm: PasswordHash;
        section /// TLS.
        tls: ServerTls;
    }
}

section! {
    /// Asking a PostgreSQL database.
    pub struct Postgresql {
        /// Where it is, `HOST` or `HOST:PORT` (5432).
        server: String = "", servers;
        /// The name of the database; "" is that of the account.
        database: String = "";
        /// The account.
        username: String = "";
        /// What is asked; placeholders become parameters, so they stand without quotes.
        query: String = "SELECT password_hash, salt, is_superuser FROM mqtt_user WHERE username = ${username} LIMIT 1", query;
        with /// What every database has.
        common: Common;
    }
}

section! {
    /// Asking a MySQL or MariaDB database.
    pub struct Mysql {
        /// Where it is, `HOST` or `HOST:PORT` (3306).
        server: String = "", servers;
        /// The name of the database.
        database: String = "";
        /// The account.
        username: String = "";
        /// What is asked; placeholders become parameters, so they stand without quotes.
        query: String = "SELECT password_hash, salt, is_superuser FROM mqtt_user WHERE username = ${username} LIMIT 1", query;
        with /// What every database has.
        common: Common;
    }
}

section! {
    /// Asking a MongoDB database. With a certificate to show, `cert_file` and `key_file` name one file that holds both.
    pub struct Mongodb {
        /// Where it is, or some members of its set, or routers of its shards: `HOST` or `HOST:PORT` (27017), with commas between.
        server: String = "", servers;
        /// The name of the replica set; "" for one server or shards.
        replica_set_name: String = "";
        /// The database with the collection.
        database: String = "mqtt";
        /// The collection with the clients.
        collection: String = "mqtt_user";
        /// The account; "" logs in with none.
        username: String = "";
        /// The database that knows the account; "" is `admin`.
        auth_source: String = "";
        /// The fields that the document of a client has; a value is a text whatever is in it.
        filter: BTreeMap<String, String> = { username = "${username}" }, filter;
        with /// What every database has.
        common: Common;
    }
}

/// How a directory says whether a password is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LdapMethod {
    /// It is bound as the entry with it.
    Bind,
    /// It is compared with the hash in an attribute.
    Hash,
}

words!(LdapMethod {
    "bind" => LdapMethod::Bind,
    "hash" => LdapMethod::Hash,
});

section! {
    /// Asking an LDAP directory.
    pub struct Ldap {
        /// Where it is, `HOST` or `HOST:PORT` (389, with TLS 636).
        server: String = "", servers;
        /// The name of the account that searches; "" searches as nobody.
        username: String = "";
        /// Below which entry is searched; values of placeholders are escaped.
        base_dn: String = "", named;
        /// What the entry of a client must be (RFC 4515); values of placeholders are escaped.
        filter: String = "(&(objectClass=mqttUser)(uid=${username}))", query;
        /// `bind` binds as the entry with the password; `hash` compares it with `password_attribute`.
        method: LdapMethod = "bind";
        /// The attribute with the hash.
        password_attribute: String = "userPassword";
        /// The attribute that says whether the ACL does not concern the client; "" for none, as in the next three.
        is_superuser_attribute: String = "isSuperuser";
        /// The attribute with topics that may be published to.
        publish_attribute: String = "mqttPublishTopic";
        /// The attribute with topics that may be observed.
        subscribe_attribute: String = "mqttSubscriptionTopic";
        /// The attribute with topics for both.
        all_attribute: String = "mqttPubSubTopic";
        /// Attributes of clients by their names, and the directory's that hold them.
        attributes: BTreeMap<String, String> = {};
        with /// What every database has.
        common: Common;
    }
}

/// How Redis servers stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisType {
    /// One server.
    Single,
    /// A master that sentinels name.
    Sentinel,
    /// A cluster.
    Cluster,
}

words!(RedisType {
    "single" => RedisType::Single,
    "sentinel" => RedisType::Sentinel,
    "cluster" => RedisType::Cluster,
});

section! {
    /// Asking Redis or Valkey.
    pub struct Redis {
        /// How several servers stand together.
        redis_type: RedisType = "single";
        /// Where it, its sentinels or some nodes of its cluster are, `HOST` or `HOST:PORT` (6379, sentinels 26379), with commas between.
        server: String = "", servers;
        /// The name by which sentinels know the master.
        sentinel: String = "mymaster";
        /// The number of the database.
        database: u32 = 0;
        /// The account; "" logs in with the password alone, if there is one.
        username: String = "";
        /// What is asked: `HMGET KEY FIELD...`, `HGET KEY FIELD` or `HGETALL KEY`; placeholders stand in the key.
        cmd: String = "HMGET mqtt_user:${username} password_hash salt is_superuser", query;
        with /// What every database has.
        common: Common;
    }
}

section! {
    /// The databases that may be asked about clients.
    pub struct Databases {
        section /// The `postgresql` backend.
        postgresql: Postgresql;
        section /// The `mysql` backend.
        mysql: Mysql;
        section /// The `mongodb` backend.
        mongodb: Mongodb;
        section /// The `redis` backend.
        redis: Redis;
        section /// The `ldap` backend.
        ldap: Ldap;
    }
}

/// A database, by its kind.
#[derive(Debug, Clone, Copy)]
pub enum Database<'c> {
    /// PostgreSQL.
    Postgresql(&'c Postgresql),
    /// MySQL or MariaDB.
    Mysql(&'c Mysql),
    /// MongoDB.
    Mongodb(&'c Mongodb),
    /// Redis or Valkey.
    Redis(&'c Redis),
    /// An LDAP directory.
    Ldap(&'c Ldap),
}

/// What a database has, whatever its kind.
#[derive(Debug, Clone, Copy)]
pub struct Server<'c> {
    /// Its table within that of the authentication.
    pub table: &'static str,
    /// Where it is.
    pub server: &'c str,
    /// The account.
    pub username: &'c str,
    /// How it is reached and asked.
    pub common: &'c Common,
}

impl<'c> Database<'c> {
    /// What it has, whatever its kind.
    #[must_use]
    pub fn server(&self) -> Server<'c> {
        let (table, server, username, common) = match *self {
            Self::Postgresql(it) => ("postgresql", &it.server, &it.username, &it.common),
            Self::Mysql(it) => ("mysql", &it.server, &it.username, &it.common),
            Self::Mongodb(it) => ("mongodb", &it.server, &it.username, &it.common),
            Self::Redis(it) => ("redis", &it.server, &it.username, &it.common),
            Self::Ldap(it) => ("ldap", &it.server, &it.username, &it.common),
        };
        Server {
            table,
            server,
            username,
            common,
        }
    }
}

#[expect(
    clippy::ptr_arg,
    reason = "the checks of a section take a reference to the key's own type"
)]
fn servers(text: &String) -> Result<(), String> {
    let fits = |server: &str| {
        let server = server.trim();
        !server.is_empty() && !server.contains(['/', '@', ' ', '$'])
    };
    if text.is_empty() || text.split(',').all(fits) {
        Ok(())
    } else {
        Err("expected a host such as db.example.net:5432; the account has keys of its own".to_owned())
    }
}

#[expect(
    clippy::ptr_arg,
    reason = "the checks of a section take a reference to the key's own type"
)]
fn query(text: &String) -> Result<(), String> {
    placeholders(text, &FIELDS)?;
    if text.trim().is_empty() {
        return Err("nothing would be asked".to_owned());
    }
    if ["'${", "\"${", "`${"].iter().any(|quoted| text.contains(quoted)) {
        return Err(
            "a placeholder stands without quotes: its value travels beside the text, never in it".to_owned(),
        );
    }
    Ok(())
}

#[expect(
    clippy::ptr_arg,
    reason = "the checks of a section take a reference to the key's own type"
)]
fn named(text: &String) -> Result<(), String> {
    placeholders(text, &FIELDS)
}

fn filter(fields: &BTreeMap<String, String>) -> Result<(), String> {
    if fields.is_empty() {
        return Err("without a field any document would do".to_owned());
    }
    if let Some(name) = fields.keys().find(|name| name.starts_with('$')) {
        return Err(format!("`{name}` is an operator and not the name of a field"));
    }
    fields.values().try_for_each(|text| placeholders(text, &FIELDS))
}
