//! Pre-shared keys that a server knows, looked up while a handshake waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::page;
use super::postgresql::Postgresql;
use super::redis::Redis;
use super::support::client::PATIENCE;
use super::support::gateway::{hex, psk_options};
use super::support::pki::Pki;
use super::support::web::WebServer;
use super::support::{Config, Gateway, Kind, dtls, ms, wait_until};

const SOURCE: &str = "listeners.dtls.default.psk_source";
const KEY: &[u8] = b"lamp-1-key-0123456";

fn options(identity: &str, key: &[u8]) -> dtls::Options {
    dtls::Options::psk(identity, key).patience(PATIENCE)
}

/// Whether a handshake ends well; one that must not is not waited for as long.
fn comes_in(gateway: &Gateway, identity: &str, key: &[u8]) -> bool {
    dtls::connect(gateway.dtls_addr(), &options(identity, key)).is_ok()
}

fn stays_out(gateway: &Gateway, identity: &str, key: &[u8]) {
    let options = dtls::Options::psk(identity, key).patience(ms(3500));
    assert!(
        dtls::connect(gateway.dtls_addr(), &options).is_err(),
        "{identity}"
    );
}

fn lookups(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("psk_lookups_total", &[&format!("result=\"{result}\"")])
}

/// What every source of keys is tried with: it knows `lamp-1`, and of `both` two keys.
fn judges(gateway: &Gateway) {
    page::key_works(gateway);
    assert!(comes_in(gateway, "lamp-1", KEY));
    stays_out(gateway, "lamp-1", b"another key");
    stays_out(gateway, "lamp-2", KEY);
    for injection in ["lamp-1' OR '1'='1", "*", "lamp-1)(uid=*", "x y", "lamp-1\\"] {
        stays_out(gateway, injection, KEY);
    }
    for key in [&b"the newer key"[..], b"the older key"] {
        // With a key exchange the second would be tried at the second handshake.
        let options = options("both", key).ciphers("PSK-AES128-CCM8:@SECLEVEL=0");
        assert!(dtls::connect(gateway.dtls_addr(), &options).is_ok(), "{key:?}");
    }
    // The file goes first.
    let in_file = dtls::connect(gateway.dtls_addr(), &psk_options("dev1"));
    assert!(in_file.is_ok());
    assert!(lookups(gateway, "found") >= 2.0 && lookups(gateway, "unknown") >= 1.0);
    gateway.assert_serves();
    let log = gateway.log();
    assert!(!log.contains(&hex(KEY)) && !log.contains("lamp-1-key"), "{log}");
}

/// While the server is away who is known comes in, others hear so, and the rest goes on.
fn serves_without(gateway: &Gateway, stop: impl FnOnce(), start: impl FnOnce()) {
    assert!(comes_in(gateway, "lamp-1", KEY));
    let mut standing = gateway.client(Kind::Dtls);
    stop();
    stays_out(gateway, "both", b"the newer key");
    assert!(gateway.metric("dtls_handshakes_total", &["result=\"key_source\""]) >= 1.0);
    assert!(lookups(gateway, "unavailable") >= 1.0);
    assert!(comes_in(gateway, "lamp-1", KEY), "remembered");
    standing.publish("ps/open/t", "x");
    gateway.assert_serves();
    start();
    wait_until("keys are found again", || {
        let options = dtls::Options::psk("both", b"the newer key").patience(ms(2000));
        dtls::connect(gateway.dtls_addr(), &options).is_ok()
    });
}

fn redis_config(server: &Redis) -> Config {
    let config = page::config("psk-redis", "127.0.0.1:6379", &server.at());
    config.file("redis.password", super::redis::PASSWORD)
}

fn filled_redis() -> Redis {
    let server = Redis::start("");
    server.fill();
    server.say(&page::block("text psk-redis"));
    server.say(&format!(
        "HSET device_key:both key {} previous_key {}\n",
        hex(b"the newer key"),
        hex(b"the older key")
    ));
    server
}

#[test]
fn keys_are_looked_up_in_redis() {
    let server = filled_redis();
    let gateway = Gateway::start(redis_config(&server));
    judges(&gateway);
}

#[test]
fn a_redis_that_is_stopped_concerns_only_who_is_new() {
    let server = std::cell::RefCell::new(filled_redis());
    let gateway = Gateway::start(redis_config(&server.borrow()));
    let start = || {
        server.borrow_mut().up();
        // Its accounts are not kept, what it holds is.
        server.borrow().fill();
        server.borrow().say(&page::block("text psk-redis"));
    };
    serves_without(&gateway, || server.borrow_mut().running.stop(), start);
}

fn filled_postgresql() -> Postgresql {
    let server = Postgresql::start(&Pki::new());
    server.sql("devices", &page::block("sql psk-postgresql"));
    let both = format!(
        "INSERT INTO device_key VALUES ('both', '{}', '{}')",
        hex(b"the newer key"),
        hex(b"the older key")
    );
    server.sql("devices", &both);
    server
}

fn postgresql_config(server: &Postgresql) -> Config {
    let there = format!("127.0.0.1:{}", server.running.port.number);
    let config = page::config("psk-postgresql", "127.0.0.1:5432", &there);
    config.file("postgresql.password", super::postgresql::PASSWORD)
}

#[test]
fn keys_are_looked_up_in_postgresql() {
    let server = filled_postgresql();
    let gateway = Gateway::start(postgresql_config(&server));
    judges(&gateway);
}

#[test]
fn a_postgresql_that_is_stopped_concerns_only_who_is_new() {
    let server = std::cell::RefCell::new(filled_postgresql());
    let gateway = Gateway::start(postgresql_config(&server.borrow()));
    serves_without(
        &gateway,
        || server.borrow_mut().running.stop(),
        || server.borrow_mut().up(),
    );
}

/// A service that knows the same devices.
fn service() -> WebServer {
    WebServer::start(|got| {
        let asked: serde_json::Value = serde_json::from_str(&got.body).unwrap_or_default();
        match asked["identity"].as_str() {
            Some("lamp-1") => (
                200,
                format!(r#"{{"key": "{}", "client_attrs": {{"site": "7"}}}}"#, hex(KEY)),
            ),
            Some("both") => (
                200,
                format!(
                    r#"{{"key": "{}", "previous_key": "{}"}}"#,
                    hex(b"the newer key"),
                    hex(b"the older key")
                ),
            ),
            Some("broken") => (200, r#"{"key": "no digits"}"#.to_owned()),
            _ => (404, String::new()),
        }
    })
}

#[test]
fn keys_are_looked_up_by_http() {
    let service = service();
    let there = service.url("").trim_end_matches('/').to_owned();
    let gateway = Gateway::start(page::config("psk-http", "https://keys.example.net", &there));
    judges(&gateway);
    stays_out(&gateway, "broken", KEY);
    assert_eq!(lookups(&gateway, "unavailable"), 1.0);
    assert!(!gateway.log().contains("no digits"), "{}", gateway.log());
}

/// How many handshakes come at once, and what each waits for.
const STORM: usize = 500;
const SECONDS: &str = "0.3";

#[test]
fn while_five_hundred_handshakes_wait_for_a_slow_database_nobody_else_does() {
    let server = filled_postgresql();
    server.sql(
        "devices",
        &format!(
            "INSERT INTO device_key SELECT 'storm-' || n, '{}' FROM generate_series(0, {}) AS n",
            hex(KEY),
            STORM - 1
        ),
    );
    let table = format!("{SOURCE}.postgresql");
    let slow = format!("\"SELECT key FROM device_key, pg_sleep({SECONDS}) WHERE identity = ${{identity}}\"");
    let config = postgresql_config(&server)
        .replace(&table, "query", &slow)
        .set(&table, "pool_size = 8\nquery_timeout = \"10s\"");
    let gateway = Gateway::start(config);
    let mut standing = gateway.client(Kind::Dtls);
    let (next, ended, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let published = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut published = 0;
            while !over.load(Ordering::Acquire) {
                standing.publish("ps/open/storm", "still here");
                published += 1;
            }
            published
        });
        let devices: Vec<_> = (0..100)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= STORM {
                            return;
                        }
                        // Where the database was too slow to be asked, a device tries again.
                        wait_until("it comes in", || comes_in(&gateway, &format!("storm-{n}"), KEY));
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let all_well = devices.into_iter().all(|device| device.join().is_ok());
        over.store(true, Ordering::Release);
        assert!(all_well);
        publisher.join().unwrap()
    });
    assert_eq!(ended.load(Ordering::Relaxed), STORM);
    assert!(lookups(&gateway, "found") >= STORM as f64);
    // The database alone takes longer than two seconds for all: who waited for it could not have said so often that it is here.
    assert!(published >= 20, "{published}");
    gateway.assert_serves();
}

#[test]
fn a_configuration_of_keys_says_what_it_lacks() {
    let gateway = Gateway::prepare(&Config::new());
    for (lines, wanted) in [
        ("backend = \"postgres\"", "postgresql"),
        ("lifetime = \"5m\"", "it names its backend"),
        ("backend = \"redis\"", "needs to know where the server is"),
        ("backend = \"redis\"", "has to ask for the key of ${identity}"),
        ("backend = \"http\"", "needs the URL of the service"),
        ("backend = \"file\"", "http"),
    ] {
        let config = Config::new().set(SOURCE, lines);
        gateway.configure(&config);
        let output = gateway.command("check-config").output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(78), "{lines}: {said}");
        assert!(said.contains(wanted), "{lines}: {said}");
    }
}
