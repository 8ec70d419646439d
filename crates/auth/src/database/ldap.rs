//! LDAP directories (RFC 4511).

use std::sync::Arc;

use ldap3::asn1::StructureTag;
use ldap3::{
    Ldap as Handle, LdapConnAsync, LdapConnSettings, LdapError, ResultEntry, Scope, SearchOptions, dn_escape,
    ldap_escape,
};
use native_tls::{Certificate, Identity, TlsConnector};
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::super::client;
use super::super::hash::StoredHash;
use super::super::settings::{LdapMethod, LdapSettings, TlsSettings};
use super::super::template::{Template, Values, Variable};
use super::super::users::FileError;
use super::pool::Server;
use super::record::Field;
use super::{Failure, Found, Record, host_and_port, password};

/// Result codes (RFC 4511, appendix A).
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const CONSTRAINT_VIOLATION: u32 = 19;
const NO_SUCH_OBJECT: u32 = 32;
const INVALID_DN_SYNTAX: u32 = 34;
const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
const INVALID_CREDENTIALS: u32 = 49;
const INSUFFICIENT_ACCESS_RIGHTS: u32 = 50;
const UNWILLING_TO_PERFORM: u32 = 53;

pub(super) struct Ldap {
    url: String,
    connecting: LdapConnSettings,
    account: String,
    password: Option<Zeroizing<String>>,
    base: Template,
    filter: Template,
    settings: LdapSettings,
    wanted: Arc<[String]>,
}

pub(super) struct Connection {
    ldap: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A name and its values.
type Attribute = (String, Vec<Vec<u8>>);

impl Ldap {
    pub(super) fn open(settings: &LdapSettings) -> Result<Self, FileError> {
        let place = &settings.place;
        let (scheme, usual) = if place.tls.is_some() {
            ("ldaps", 636)
        } else {
            ("ldap", 389)
        };
        let (host, port) = host_and_port(&place.server, usual)?;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        let mut connecting = LdapConnSettings::new();
        if let Some(settings) = &place.tls {
            connecting = connecting.set_connector(tls(settings)?);
        }
        let template = |key: &str, text: &str| {
            Template::new(text).map_err(|error| FileError::whole(key.as_ref(), error))
        };
        let named = [
            &settings.superuser_attribute,
            &settings.publish_attribute,
            &settings.subscribe_attribute,
            &settings.all_attribute,
        ];
        let mut wanted: Vec<String> = named
            .into_iter()
            .chain(settings.attributes.values())
            .cloned()
            .collect();
        if settings.method != LdapMethod::Bind {
            wanted.push(settings.password_attribute.clone());
        }
        wanted.retain(|name| !name.is_empty());
        // Without a name all of them would come.
        wanted.push("1.1".to_owned());
        Ok(Self {
            url: format!("{scheme}://{host}:{port}"),
            connecting,
            account: place.username.clone(),
            password: password(place)?,
            base: template("base_dn", &settings.base_dn)?,
            filter: template("filter", &settings.filter)?,
            settings: settings.clone(),
            wanted: wanted.into(),
        })
    }

    /// Binds as the account that searches.
    async fn bind(&self, ldap: &mut Handle) -> Result<(), Failure> {
        let secret = self.password.as_ref().map_or("", |password| password.as_str());
        if self.account.is_empty() && secret.is_empty() {
            return Ok(());
        }
        let bound = ldap.simple_bind(&self.account, secret).await.map_err(broken)?;
        match bound.rc {
            0 => Ok(()),
            code => Err(Failure::Broken(format!(
                "its account is not taken (result code {code})"
            ))),
        }
    }

    /// Whether the directory takes the password of the entry `dn`. The connection is the account's again afterwards.
    async fn takes(&self, ldap: &mut Handle, dn: &str, password: &str) -> Result<bool, Failure> {
        // RFC 4513, 5.1.2: without a password it would be nobody who is bound, and that with success.
        if password.is_empty() {
            return Ok(false);
        }
        let bound = ldap.simple_bind(dn, password).await.map_err(broken)?;
        let takes = match bound.rc {
            0 => true,
            // The entry has no password, is locked, or must not log in: the directory itself is well.
            INVALID_CREDENTIALS
            | INAPPROPRIATE_AUTHENTICATION
            | INSUFFICIENT_ACCESS_RIGHTS
            | CONSTRAINT_VIOLATION
            | UNWILLING_TO_PERFORM
            | NO_SUCH_OBJECT => false,
            code => return Err(Failure::Broken(format!("a bind ended with result code {code}"))),
        };
        if self.account.is_empty() {
            let nobody = ldap.simple_bind("", "").await.map_err(broken)?;
            return match nobody.rc {
                0 => Ok(takes),
                code => Err(Failure::Broken(format!(
                    "a bind as nobody ended with result code {code}"
                ))),
            };
        }
        self.bind(ldap).await.map(|()| takes)
    }

    fn record(&self, attributes: &[Attribute]) -> Result<Record, Failure> {
        let values = |wanted: &str| {
            let of = |(name, _): &&Attribute| !wanted.is_empty() && name.eq_ignore_ascii_case(wanted);
            attributes
                .iter()
                .find(of)
                .map_or(&[][..], |(_, values)| &**values)
        };
        let text = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
        let mut record = Record::default();
        if let Some(is) = values(&self.settings.superuser_attribute).first().map(text) {
            let is = is.eq_ignore_ascii_case("true") || is == "1";
            record.put("is_superuser", Field::Typed(is.into()));
        }
        let rules = [
            ("pub", &self.settings.publish_attribute),
            ("sub", &self.settings.subscribe_attribute),
            ("all", &self.settings.all_attribute),
        ];
        let mut acl = Map::new();
        for (kind, attribute) in rules {
            let topics: Vec<Value> = values(attribute).iter().map(|value| text(value).into()).collect();
            if !topics.is_empty() {
                acl.insert(kind.to_owned(), topics.into());
            }
        }
        if !acl.is_empty() {
            record.put("acl", Field::Typed(acl.into()));
        }
        for (name, attribute) in &self.settings.attributes {
            if let Some(value) = values(attribute).first() {
                record.put(&format!("attr_{name}"), Field::Bytes(value.clone()));
            }
        }
        let of_device = values(&self.settings.password_attribute);
        match (self.settings.method, of_device) {
            (LdapMethod::Bind, _) => {}
            (LdapMethod::Hash, all) => {
                // An entry may have several; the first that is understood, else the first.
                let known = |value: &&Vec<u8>| {
                    std::str::from_utf8(value).is_ok_and(|text| StoredHash::parse(text).is_ok())
                };
                if let Some(hash) = all.iter().find(known).or_else(|| all.first()) {
                    record.put("password_hash", Field::Bytes(hash.clone()));
                }
            }
            (LdapMethod::Keys, [_, _, _, ..]) => {
                return Err(Failure::OfOne(format!(
                    "an entry has more than two values of {}: a device has two keys at most",
                    self.settings.password_attribute
                )));
            }
            // Which of them is newer a directory does not say.
            (LdapMethod::Keys, keys) => {
                for (name, key) in ["key", "previous_key"].into_iter().zip(keys) {
                    record.put(name, Field::Bytes(key.clone()));
                }
            }
        }
        Ok(record)
    }
}

impl Server for Ldap {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, Failure> {
        let made = LdapConnAsync::with_settings(self.connecting.clone(), &self.url).await;
        let (connection, ldap) = made.map_err(broken)?;
        let driver = tokio::spawn(async move { drop(connection.drive().await) });
        let mut connection = Connection { ldap, driver };
        self.bind(&mut connection.ldap).await?;
        Ok(connection)
    }

    async fn ask(&self, connection: &mut Connection, values: &Values<'_>) -> Result<Found, Failure> {
        let unaskable = |_| Failure::Unaskable;
        let base = self.base.render(values, in_name).map_err(unaskable)?;
        let filter = self.filter.render(values, in_filter).map_err(unaskable)?;
        let ldap = &mut connection.ldap;
        ldap.with_search_options(SearchOptions::new().sizelimit(2));
        let found = ldap
            .search(&base, Scope::Subtree, &filter, &self.wanted)
            .await
            .map_err(broken)?;
        let (entries, result) = (found.0, found.1);
        match result.rc {
            0 | SIZE_LIMIT_EXCEEDED => {}
            NO_SUCH_OBJECT | INVALID_DN_SYNTAX => return Ok(Found::Nobody),
            code => {
                return Err(Failure::Refused(format!(
                    "the search ended with result code {code}"
                )));
            }
        }
        let mut entries = entries
            .into_iter()
            .filter(|entry| !entry.is_ref() && !entry.is_intermediate());
        let Some(first) = entries.next() else {
            return Ok(Found::Nobody);
        };
        if entries.next().is_some() {
            return Err(Failure::OfOne(
                "more than one entry is found: filter and base_dn leave open who is meant".to_owned(),
            ));
        }
        let malformed = || Failure::Broken("an entry is malformed".to_owned());
        let (dn, attributes) = entry(first).ok_or_else(malformed)?;
        let record = self.record(&attributes)?;
        match self.settings.method {
            LdapMethod::Hash | LdapMethod::Keys => Ok(Found::Somebody(record)),
            LdapMethod::Bind => {
                let secret = values.get(Variable::Password).map_err(unaskable)?;
                let takes = self.takes(ldap, &dn, secret.unwrap_or_default()).await?;
                Ok(Found::Judged(record, takes))
            }
        }
    }
}

/// The name and the attributes of an entry (RFC 4511, 4.5.2): `ldap3`'s own reader ends the process at one that is malformed.
fn entry(entry: ResultEntry) -> Option<(String, Vec<Attribute>)> {
    let mut parts = entry.0.match_id(4)?.expect_constructed()?.into_iter();
    let dn = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
    let attribute = |tag: StructureTag| {
        let mut parts = tag.expect_constructed()?.into_iter();
        let name = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        let values = parts.next()?.expect_constructed()?.into_iter();
        let values = values
            .map(StructureTag::expect_primitive)
            .collect::<Option<_>>()?;
        Some((name, values))
    };
    let attributes = parts.next()?.expect_constructed()?.into_iter().map(attribute);
    Some((dn, attributes.collect::<Option<_>>()?))
}

fn in_filter(value: &str, into: &mut String) {
    into.push_str(&ldap_escape(value));
}

fn in_name(value: &str, into: &mut String) {
    into.push_str(&dn_escape(value));
}

fn broken(error: LdapError) -> Failure {
    Failure::Broken(client::chain(&error))
}

fn tls(settings: &TlsSettings) -> Result<TlsConnector, FileError> {
    let mut tls = TlsConnector::builder();
    let read = |file| std::fs::read(file).map_err(|error| FileError::whole(file, error));
    if let Some(file) = &settings.ca_file {
        let wrong = |_| FileError::whole(file, "no certificate in PEM can be read from this");
        tls.disable_built_in_roots(true);
        for anchor in Certificate::stack_from_pem(&read(file)?).map_err(wrong)? {
            tls.add_root_certificate(anchor);
        }
    }
    if let (Some(cert_file), Some(key_file)) = (&settings.cert_file, &settings.key_file) {
        let wrong = |_| {
            FileError::whole(
                key_file,
                "no key and certificate that fit can be read from this and cert_file",
            )
        };
        tls.identity(
            Identity::from_pkcs8(&read(cert_file)?, &Zeroizing::new(read(key_file)?)).map_err(wrong)?,
        );
    }
    tls.build()
        .map_err(|error| FileError::whole("TLS".as_ref(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_values_in_filters_and_names() {
        let escaped = |escape: fn(&str, &mut String), value: &str| {
            let mut text = String::new();
            escape(value, &mut text);
            text
        };
        assert_eq!(
            escaped(in_filter, "*)(|(uid=*\\\0"),
            "\\2a\\29\\28|\\28uid=\\2a\\5c\\00"
        );
        for bad in ["a,ou=x", "a+cn=x", "#a", " a", "a\"b", "a;b", "a<b>c"] {
            assert!(escaped(in_name, bad).contains('\\'), "{bad}");
        }
    }
}
