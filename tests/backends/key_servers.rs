//! The servers that know keys, and what each is filled with.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::keys::SOURCE;
use super::ldap::Slapd;
use super::mongodb::Mongo;
use super::mysql::Mariadb;
use super::page;
use super::postgresql::Postgresql;
use super::redis::Redis;
use super::support::Config;
use super::support::gateway::hex;
use super::support::pki::Pki;
use super::support::web::WebServer;

/// The keys of the device `both`.
pub const NEWER: &[u8] = b"the newer key";
pub const OLDER: &[u8] = b"the older key";

/// A server that knows `lamp-1` as the page says, and `both` with two keys.
pub trait Keys: Sized {
    /// The backend and its table.
    const NAME: &'static str;
    /// The key of that table which says how long an answer may take.
    const TIMEOUT: &'static str = "query_timeout";
    /// Most questions to it at the same time, as a configuration has it.
    const AT_ONCE: &'static str = "pool_size = 64";

    fn filled() -> Self;
    fn address(&self) -> SocketAddr;
    /// A gateway that asks the server `there`.
    fn config(&self, there: &str) -> Config;
    /// Adds devices that have this key.
    fn add(&self, devices: &[String], key: &[u8]);
    fn down(&mut self);
    /// Starts it again, with what it knew.
    fn back(&mut self);

    fn at(&self) -> String {
        self.address().to_string()
    }

    fn table() -> String {
        format!("{SOURCE}.{}", Self::NAME)
    }
}

fn on_loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Keys for Postgresql {
    const NAME: &'static str = "postgresql";
    // An account is proved by thousands of hashes for each connection, which take long in a build for tests.
    const AT_ONCE: &'static str = "pool_size = 16";

    fn filled() -> Self {
        let server = Self::start(&Pki::new());
        let (newer, older) = (hex(NEWER), hex(OLDER));
        let both = format!("INSERT INTO device_key VALUES ('both', '{newer}', '{older}')");
        server.sql("devices", &(page::block("sql psk-postgresql") + &both));
        server
    }

    fn address(&self) -> SocketAddr {
        on_loopback(self.running.port.number)
    }

    fn config(&self, there: &str) -> Config {
        let config = page::config("psk-postgresql", "127.0.0.1:5432", there);
        config.file("postgresql.password", super::postgresql::PASSWORD)
    }

    fn add(&self, devices: &[String], key: &[u8]) {
        let row = |device: &String| format!("('{device}', '{}')", hex(key));
        let rows: Vec<_> = devices.iter().map(row).collect();
        let text = format!("INSERT INTO device_key VALUES {}", rows.join(", "));
        self.sql("devices", &text);
    }

    fn down(&mut self) {
        self.running.stop();
    }

    fn back(&mut self) {
        self.up();
    }
}

impl Keys for Mariadb {
    const NAME: &'static str = "mysql";

    fn filled() -> Self {
        let server = Self::start(&Pki::new());
        let (newer, older) = (hex(NEWER), hex(OLDER));
        let both = format!("INSERT INTO device_key VALUES ('both', '{newer}', '{older}', NULL)");
        server.sql(&format!("USE devices;\n{}{both}", page::block("sql psk-mysql")));
        server
    }

    fn address(&self) -> SocketAddr {
        on_loopback(self.running.port.number)
    }

    fn config(&self, there: &str) -> Config {
        let config = page::config("psk-mysql", "127.0.0.1:3306", there);
        config.file("mysql.password", super::mysql::PASSWORD)
    }

    fn add(&self, devices: &[String], key: &[u8]) {
        let row = |device: &String| format!("('{device}', '{}', NULL, NULL)", hex(key));
        let rows: Vec<_> = devices.iter().map(row).collect();
        let text = format!("INSERT INTO devices.device_key VALUES {}", rows.join(", "));
        self.sql(&text);
    }

    fn down(&mut self) {
        self.running.stop();
    }

    fn back(&mut self) {
        self.up();
    }
}

impl Keys for Redis {
    const NAME: &'static str = "redis";

    fn filled() -> Self {
        let server = Self::start("");
        server.know_keys();
        server
    }

    fn address(&self) -> SocketAddr {
        on_loopback(self.running.port.number)
    }

    fn config(&self, there: &str) -> Config {
        let config = page::config("psk-redis", "127.0.0.1:6379", there);
        config.file("redis.password", super::redis::PASSWORD)
    }

    fn add(&self, devices: &[String], key: &[u8]) {
        let line = |device: &String| format!("HSET device_key:{device} key {}\n", hex(key));
        let said = self.say(&devices.iter().map(line).collect::<String>());
        assert!(!said.contains("ERR"), "{said}");
    }

    fn down(&mut self) {
        self.running.stop();
    }

    fn back(&mut self) {
        self.up();
        // Its accounts are not kept, what it holds is.
        self.know_keys();
    }
}

impl Redis {
    fn know_keys(&self) {
        self.fill();
        let (newer, older) = (hex(NEWER), hex(OLDER));
        let both = format!("HSET device_key:both key {newer} previous_key {older}\n");
        let said = self.say(&(page::block("text psk-redis") + &both));
        assert!(!said.contains("ERR"), "{said}");
    }
}

impl Keys for Mongo {
    const NAME: &'static str = "mongodb";

    fn filled() -> Self {
        let server = Self::start();
        server.know_keys();
        server
    }

    fn address(&self) -> SocketAddr {
        on_loopback(self.running.port.number)
    }

    fn config(&self, there: &str) -> Config {
        page::config("psk-mongodb", "127.0.0.1:27017", there)
    }

    fn add(&self, devices: &[String], key: &[u8]) {
        let line = |device: &String| format!(r#"{{"identity": "{device}", "key": "{}"}}"#, hex(key));
        let lines: Vec<_> = devices.iter().map(line).collect();
        self.insert("device_key", &lines.join("\n"));
    }

    fn down(&mut self) {
        self.running.stop();
    }

    fn back(&mut self) {
        self.up();
        self.know_keys();
    }
}

impl Mongo {
    fn know_keys(&self) {
        let (newer, older) = (hex(NEWER), hex(OLDER));
        let both = format!(r#"{{"identity": "both", "key": "{newer}", "previous_key": "{older}"}}"#);
        self.insert("device_key", &(page::block("text psk-mongodb") + &both));
    }
}

impl Keys for Slapd {
    const NAME: &'static str = "ldap";

    fn filled() -> Self {
        let server = Self::start(&Pki::new());
        let (newer, older) = (hex(NEWER), hex(OLDER));
        let both = entry("both") + &format!("deviceKey: {newer}\ndeviceKey: {older}\n");
        server.ldif(&format!("{}\n{both}", page::block("text psk-ldif")));
        server
    }

    fn address(&self) -> SocketAddr {
        on_loopback(self.running.port.number)
    }

    fn config(&self, there: &str) -> Config {
        let config = page::config("psk-ldap", "127.0.0.1:389", there);
        config.file("ldap.password", super::ldap::PASSWORD)
    }

    fn add(&self, devices: &[String], key: &[u8]) {
        let one = |device: &String| format!("{}deviceKey: {}\n\n", entry(device), hex(key));
        self.ldif(&devices.iter().map(one).collect::<String>());
    }

    fn down(&mut self) {
        self.running.stop();
    }

    fn back(&mut self) {
        self.up();
    }
}

fn entry(device: &str) -> String {
    format!(
        "dn: uid={device},ou=devices,dc=example,dc=net\nobjectClass: account\nobjectClass: pskDevice\nuid: {device}\n"
    )
}

/// A service of a site's own.
pub struct Service {
    server: WebServer,
    known: Arc<Mutex<Known>>,
}

/// Devices with the answers about them.
#[derive(Default)]
struct Known {
    answers: std::collections::HashMap<String, String>,
    is_down: bool,
}

impl Keys for Service {
    const NAME: &'static str = "http";
    const TIMEOUT: &'static str = "timeout";
    const AT_ONCE: &'static str = "";

    fn filled() -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let asked = Arc::clone(&known);
        let server = WebServer::start(move |got| {
            let known = asked.lock().unwrap();
            let question: serde_json::Value = serde_json::from_str(&got.body).unwrap_or_default();
            match known
                .answers
                .get(question["identity"].as_str().unwrap_or_default())
            {
                _ if known.is_down => (503, String::new()),
                Some(answer) => (200, answer.clone()),
                None => (404, String::new()),
            }
        });
        let service = Self { server, known };
        let (newer, older, page) = (hex(NEWER), hex(OLDER), hex(super::keys::KEY));
        service.answers(
            "both",
            &format!(r#"{{"key": "{newer}", "previous_key": "{older}"}}"#),
        );
        let site = r#"{"site": "site-7"}"#;
        service.answers(
            "lamp-1",
            &format!(r#"{{"key": "{page}", "client_attrs": {site}}}"#),
        );
        service
    }

    fn address(&self) -> SocketAddr {
        let url = self.server.url("");
        url.trim_start_matches("http://").parse().unwrap()
    }

    fn config(&self, there: &str) -> Config {
        page::config("psk-http", "https://keys.example.net", &format!("http://{there}"))
    }

    fn add(&self, devices: &[String], key: &[u8]) {
        for device in devices {
            self.answers(device, &format!(r#"{{"key": "{}"}}"#, hex(key)));
        }
    }

    fn down(&mut self) {
        self.known.lock().unwrap().is_down = true;
    }

    fn back(&mut self) {
        self.known.lock().unwrap().is_down = false;
    }
}

impl Service {
    /// What it answers about a device.
    pub fn answers(&self, device: &str, answer: &str) {
        let mut known = self.known.lock().unwrap();
        known.answers.insert(device.to_owned(), answer.to_owned());
    }
}
