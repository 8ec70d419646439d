//! From the configuration of a database to what its backend is built from.

use crate::auth::hash::{Digest, HashAlgorithm, Position};
use crate::auth::settings::{
    DatabaseSettings, LdapMethod, LdapSettings, MongoSettings, Place, RedisKind, RedisSettings, Source,
    SqlSettings, TlsSettings,
};
use crate::config::Authentication;
use crate::config::access::Backend;
use crate::config::databases::{
    self as config, Common, HashName, MacFunction, PasswordHash, RedisType, SaltPosition,
};

/// The settings of the database that decides, if one does.
pub(super) fn settings(authentication: &Authentication) -> Option<DatabaseSettings> {
    let common = authentication.database()?;
    let source = match authentication.backend {
        Backend::Postgresql => Source::Postgresql(SqlSettings {
            place: place(&common),
            database: authentication.postgresql.database.clone(),
            query: authentication.postgresql.query.clone(),
        }),
        Backend::Mysql => Source::Mysql(SqlSettings {
            place: place(&common),
            database: authentication.mysql.database.clone(),
            query: authentication.mysql.query.clone(),
        }),
        Backend::Mongodb => {
            let mongodb = &authentication.mongodb;
            Source::Mongodb(MongoSettings {
                place: place(&common),
                replica_set: Some(mongodb.replica_set_name.clone()).filter(|name| !name.is_empty()),
                auth_source: mongodb.auth_source.clone(),
                database: mongodb.database.clone(),
                collection: mongodb.collection.clone(),
                filter: mongodb.filter.clone(),
            })
        }
        Backend::Ldap => Source::Ldap(Box::new(ldap(&authentication.ldap, place(&common)))),
        Backend::Redis => {
            let redis = &authentication.redis;
            Source::Redis(RedisSettings {
                place: place(&common),
                kind: match redis.redis_type {
                    RedisType::Single => RedisKind::Single,
                    RedisType::Sentinel => RedisKind::Sentinel(redis.sentinel.clone()),
                    RedisType::Cluster => RedisKind::Cluster,
                },
                database: redis.database,
                cmd: redis.cmd.clone(),
            })
        }
        Backend::None | Backend::File | Backend::Http | Backend::Jwt => return None,
    };
    Some(DatabaseSettings {
        source,
        algorithm: algorithm(common.hash),
        legacy_hashes: authentication.legacy_hashes,
        timeout: common.query_timeout,
        grace: authentication.grace,
    })
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

fn place(common: &Common<'_>) -> Place {
    Place {
        server: common.server.to_owned(),
        username: common.username.to_owned(),
        password_file: common.password_file.cloned(),
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
