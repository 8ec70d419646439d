//! `psk_source` of a DTLS listener: where keys are looked up that no file has.

use std::time::Duration;

use toml::de::DeValue;

use super::access::Http;
use super::check::{between, hours, secs};
use super::databases::{Database, Databases};
use super::document::{Document, Table};
use super::paths::PathBase;
use super::section::section;
use super::value::{Complaint, Value, expected, words};

/// What kind of server knows keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyBackend {
    /// An HTTP service.
    Http,
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

words!(KeyBackend {
    "http" => KeyBackend::Http,
    "postgresql" => KeyBackend::Postgresql,
    "mysql" => KeyBackend::Mysql,
    "mongodb" => KeyBackend::Mongodb,
    "redis" => KeyBackend::Redis,
    "ldap" => KeyBackend::Ldap,
});

section! {
    /// Where the keys of PSK identities are looked up that `psk_file` does not have, while their handshakes wait. What it is asked has
    /// ${identity}, and its answer `key` in hexadecimal digits, perhaps `previous_key`, and attributes of the client.
    pub struct PskSource {
        /// What kind of server it is. Its table beside has the keys of that in `[authentication]`; `query`, `cmd` or `filter` has to be
        /// given, and `http.body` is `{ identity = "${identity}" }`.
        backend: KeyBackend = "http";
        /// How long keys that were found are used without asking again, "0s" to "24h".
        lifetime: Duration = "5m", between(secs(0), hours(24));
        /// How much longer they are while it cannot be asked, "0s" to "24h".
        grace: Duration = "1h", between(secs(0), hours(24));
        /// How long it is remembered of an identity that there is no key for it, "0s" to "1h".
        unknown_lifetime: Duration = "10s", between(secs(0), hours(1));
        /// Identities that are remembered, with keys and without, 1 to 1000000.
        max_cached: u32 = 100000, between(1, 1_000_000);
        /// Handshakes that wait for keys, over all workers, 1 to 100000. One source address has half of them at most.
        max_lookups: u32 = 1024, between(1, 100_000);
        with /// The databases.
        databases: Databases;
        section /// The `http` service.
        http: Http;
    }
}

/// Whether the key `psk_source` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given(pub bool);

impl Value for Given {
    const KIND: &'static str = "table";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        match value {
            DeValue::Table(_) => Ok(Self(true)),
            _ => Err(expected("a table with `backend` and what that needs", value)),
        }
    }

    fn unset() -> Option<Self> {
        Some(Self(false))
    }
}

impl PskSource {
    /// The database that knows the keys; nothing where it is an HTTP service.
    #[must_use]
    pub fn database(&self) -> Option<Database<'_>> {
        match self.backend {
            KeyBackend::Http => None,
            KeyBackend::Postgresql => Some(Database::Postgresql(&self.databases.postgresql)),
            KeyBackend::Mysql => Some(Database::Mysql(&self.databases.mysql)),
            KeyBackend::Mongodb => Some(Database::Mongodb(&self.databases.mongodb)),
            KeyBackend::Redis => Some(Database::Redis(&self.databases.redis)),
            KeyBackend::Ldap => Some(Database::Ldap(&self.databases.ldap)),
        }
    }

    /// What is asked, and the key for it.
    fn question(&self) -> (&'static str, String) {
        let all = |fields: &std::collections::BTreeMap<String, String>| {
            fields.values().cloned().collect::<Vec<_>>().join(" ")
        };
        match self.backend {
            KeyBackend::Http => {
                let mut whole = self.http.url.clone();
                whole.push_str(&all(&self.http.body));
                whole.push_str(&all(&self.http.headers));
                ("http.body", whole)
            }
            KeyBackend::Postgresql => ("postgresql.query", self.databases.postgresql.query.clone()),
            KeyBackend::Mysql => ("mysql.query", self.databases.mysql.query.clone()),
            KeyBackend::Mongodb => ("mongodb.filter", all(&self.databases.mongodb.filter)),
            KeyBackend::Redis => ("redis.cmd", self.databases.redis.cmd.clone()),
            KeyBackend::Ldap => (
                "ldap.filter",
                format!("{} {}", self.databases.ldap.filter, self.databases.ldap.base_dn),
            ),
        }
    }

    /// Reads the table `psk_source` of a listener.
    pub(super) fn read_from(table: &mut Table<'_>, doc: &mut Document<'_>) -> Option<Self> {
        let key = table.key("psk_source");
        let mut source = table.section::<Self>(doc, "psk_source")?;
        let backend = format!("{key}.backend");
        if !doc.has(&backend) {
            doc.complain(&[&backend], "it names its backend");
            return Some(source);
        }
        if !doc.has(&format!("{key}.http.body")) {
            source.http.body = [("identity".to_owned(), "${identity}".to_owned())].into();
        }
        let (name, question) = source.question();
        if !question.contains("${identity}") {
            let asked = format!("{key}.{name}");
            doc.complain(
                &[&asked, &backend],
                format!("{name} has to ask for the key of ${{identity}}"),
            );
        }
        let unknown = ["clientid", "username", "password"]
            .into_iter()
            .find(|name| question.contains(&format!("${{{name}}}")));
        if let Some(unknown) = unknown {
            let asked = format!("{key}.{name}");
            doc.complain(
                &[&asked, &backend],
                format!("${{{unknown}}} is not known in a handshake: there are ${{identity}}, ${{peerhost}} and ${{listener}}"),
            );
        }
        Some(source)
    }
}
