//! The servers that decide about logins, each with many users of its own making.

use std::net::{Ipv4Addr, SocketAddr};

use base64ct::{Base64, Encoding as _};
use openssl::sha::sha256;

use super::ldap::Slapd;
use super::mongodb::Mongo;
use super::mysql::Mariadb;
use super::postgresql::Postgresql;
use super::redis::Redis;
use super::support::Config;
use super::support::gateway::hex;
use super::support::pki::Pki;

/// What every user that is added logs in with.
pub const PASSWORD: &str = "password";

/// A server with what the page and the tests put into it.
pub trait Logins: Sized {
    /// The backend and its table.
    const NAME: &'static str;

    fn filled() -> Self;
    /// A gateway that asks it, and compares salted SHA-256.
    fn config(&self) -> Config;
    fn port(&self) -> u16;
    /// Adds users, each with a salt of its own.
    fn add(&self, users: &[String]);

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// The same at the end of another way to it.
    fn config_by(&self, there: &str) -> Config {
        let table = format!("authentication.{}", Self::NAME);
        self.config().replace(&table, "server", &format!("\"{there}\""))
    }
}

/// The digits of a password's hash with the salt before it.
fn hash(salt: &str) -> String {
    hex(&sha256(format!("{salt}{PASSWORD}").as_bytes()))
}

impl Logins for Postgresql {
    const NAME: &'static str = "postgresql";

    fn filled() -> Self {
        Self::start(&Pki::new())
    }

    fn config(&self) -> Config {
        self.config()
    }

    fn port(&self) -> u16 {
        self.running.port.number
    }

    fn add(&self, users: &[String]) {
        let row = |user: &String| format!("('{user}', '{}', '{user}')", hash(user));
        let rows: Vec<_> = users.iter().map(row).collect();
        let text = "INSERT INTO mqtt_user (username, password_hash, salt) VALUES ";
        self.sql("devices", &(text.to_owned() + &rows.join(", ")));
    }
}

impl Logins for Mariadb {
    const NAME: &'static str = "mysql";

    fn filled() -> Self {
        Self::start(&Pki::new())
    }

    fn config(&self) -> Config {
        self.config()
    }

    fn port(&self) -> u16 {
        self.running.port.number
    }

    fn add(&self, users: &[String]) {
        let row = |user: &String| format!("('{user}', '{}', '{user}')", hash(user));
        let rows: Vec<_> = users.iter().map(row).collect();
        let text = "INSERT INTO devices.mqtt_user (username, password_hash, salt) VALUES ";
        self.sql(&(text.to_owned() + &rows.join(", ")));
    }
}

impl Logins for Redis {
    const NAME: &'static str = "redis";

    fn filled() -> Self {
        let server = Self::start("");
        server.fill();
        server
    }

    fn config(&self) -> Config {
        super::redis::config(&self.at())
    }

    fn port(&self) -> u16 {
        self.running.port.number
    }

    fn add(&self, users: &[String]) {
        let line =
            |user: &String| format!("HSET mqtt_user:{user} password_hash {} salt {user}\n", hash(user));
        let said = self.say(&users.iter().map(line).collect::<String>());
        assert!(!said.contains("ERR"), "{said}");
    }
}

impl Logins for Mongo {
    const NAME: &'static str = "mongodb";

    fn filled() -> Self {
        Self::start()
    }

    fn config(&self) -> Config {
        self.config()
    }

    fn port(&self) -> u16 {
        self.running.port.number
    }

    fn add(&self, users: &[String]) {
        let line = |user: &String| {
            let hash = hash(user);
            format!(r#"{{"username": "{user}", "password_hash": "{hash}", "salt": "{user}"}}"#)
        };
        let lines: Vec<_> = users.iter().map(line).collect();
        self.insert("mqtt_user", &lines.join("\n"));
    }
}

impl Logins for Slapd {
    const NAME: &'static str = "ldap";

    fn filled() -> Self {
        Self::start(&Pki::new())
    }

    fn config(&self) -> Config {
        self.by_hash()
    }

    fn port(&self) -> u16 {
        self.running.port.number
    }

    fn add(&self, users: &[String]) {
        let entry = |user: &String| {
            let hash = sha256(format!("{PASSWORD}{user}").as_bytes());
            let hash = Base64::encode_string(&[&hash, user.as_bytes()].concat());
            format!(
                "dn: uid={user},ou=devices,dc=example,dc=net\nobjectClass: account\nobjectClass: mqttUser\n\
                 uid: {user}\nuserPassword: {{SSHA256}}{hash}\n\n"
            )
        };
        self.ldif(&users.iter().map(entry).collect::<String>());
    }
}
