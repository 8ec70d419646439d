//! From the configuration of a database to what its backend is built from.

use crate::auth::hash::{Digest, HashAlgorithm, Position};
use crate::auth::settings::{
    DatabaseSettings, LdapMethod, LdapSettings, MongoSettings, Place, RedisKind, RedisSettings, Source,
    SqlSettings, TlsSettings,
};
use crate::config::Authentication;
use crate::config::databases::{
    self as config, Database, HashName, MacFunction, PasswordHash, RedisType, SaltPosition, Server,
};

/// What a database is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Passwords.
    Logins,
    /// Pre-shared keys.
    Keys,
}

/// The settings of the database that decides, if one does.
pub(super) fn settings(authentication: &Authentication) -> Option<DatabaseSettings> {
    let database = authentication.database()?;
    let common = database.server().common;
    Some(DatabaseSettings {
        source: source(&database, Purpose::Logins),
        algorithm: algorithm(&common.password_hash_algorithm),
        legacy_hashes: authentication.legacy_hashes,
        timeout: common.query_timeout,
        grace: authentication.grace,
    })
}

/// A server, and what it is asked.
pub(super) fn source(database: &Database<'_>, purpose: Purpose) -> Source {
    let place = place(&database.server());
    match database {
        Database::Postgresql(sql) => Source::Postgresql(SqlSettings {
            place,
            database: sql.database.clone(),
            query: sql.query.clone(),
        }),
        Database::Mysql(sql) => Source::Mysql(SqlSettings {
            place,
            database: sql.database.clone(),
            query: sql.query.clone(),
        }),
        Database::Mongodb(mongodb) => Source::Mongodb(MongoSettings {
            place,
            replica_set: Some(mongodb.replica_set_name.clone()).filter(|name| !name.is_empty()),
            auth_source: mongodb.auth_source.clone(),
            database: mongodb.database.clone(),
            collection: mongodb.collection.clone(),
            filter: mongodb.filter.clone(),
        }),
        Database::Ldap(directory) => {
            let mut settings = ldap(directory, place);
            if purpose == Purpose::Keys {
                settings.method = LdapMethod::Keys;
            }
            Source::Ldap(Box::new(settings))
        }
        Database::Redis(redis) => Source::Redis(RedisSettings {
            place,
            kind: match redis.redis_type {
                RedisType::Single => RedisKind::Single,
                RedisType::Sentinel => RedisKind::Sentinel(redis.sentinel.clone()),
                RedisType::Cluster => RedisKind::Cluster,
            },
            database: redis.database,
            cmd: redis.cmd.clone(),
        }),
    }
}

fn ldap(ldap: &config::Ldap, place: Place) -> LdapSettings {
    LdapSettings {
        place,
        base_dn: ldap.base_dn.clone(),
        filter: ldap.filter.clone(),
        method: match ldap.method {
            config::LdapMethod::Bind => LdapMethod::Bind,
            config::LdapMethod::Hash => LdapMethod::Hash,
        },
        password_attribute: ldap.password_attribute.clone(),
        superuser_attribute: ldap.is_superuser_attribute.clone(),
        publish_attribute: ldap.publish_attribute.clone(),
        subscribe_attribute: ldap.subscribe_attribute.clone(),
        all_attribute: ldap.all_attribute.clone(),
        attributes: ldap.attributes.clone(),
    }
}

fn place(server: &Server<'_>) -> Place {
    let common = server.common;
    Place {
        server: server.server.to_owned(),
        username: server.username.to_owned(),
        password_file: common.password_file.clone(),
        pool_size: usize::try_from(common.pool_size).unwrap_or(usize::MAX),
        tls: common.tls.enable.then(|| TlsSettings {
            ca_file: common.tls.ca_file.clone(),
            cert_file: common.tls.cert_file.clone(),
            key_file: common.tls.key_file.clone(),
        }),
    }
}

fn algorithm(hash: &PasswordHash) -> HashAlgorithm {
    let position = match hash.salt_position {
        SaltPosition::Prefix => Position::Prefix,
        SaltPosition::Suffix => Position::Suffix,
        SaltPosition::Disable => Position::Disable,
    };
    let digest = |digest| HashAlgorithm::Digest { digest, position };
    match hash.name {
        HashName::Bcrypt | HashName::Argon2id => HashAlgorithm::Told,
        HashName::Sha512 => digest(Digest::Sha512),
        HashName::Sha256 => digest(Digest::Sha256),
        HashName::Sha => digest(Digest::Sha1),
        HashName::Md5 => digest(Digest::Md5),
        HashName::Pbkdf2 => HashAlgorithm::Pbkdf2 {
            digest: match hash.mac_fun {
                MacFunction::Sha256 => Digest::Sha256,
                MacFunction::Sha512 => Digest::Sha512,
            },
            iterations: hash.iterations,
        },
    }
}
