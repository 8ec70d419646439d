//! Pre-shared keys that a server knows, looked up while a handshake waits: the same with every kind of server.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::key_servers::{Keys, NEWER, OLDER, Service};
use super::ldap::Slapd;
use super::mongodb::Mongo;
use super::mysql::Mariadb;
use super::postgresql::Postgresql;
use super::redis::Redis;
use super::slow::SlowWay;
use super::support::client::PATIENCE;
use super::support::gateway::{hex, psk_options};
use super::support::ports;
use super::support::{Client, Config, Gateway, Kind, dtls, ms, wait_until};
use super::{page, tries};

pub const SOURCE: &str = "listeners.dtls.default.psk_source";

/// The key on the page.
pub const KEY: &[u8] = b"lamp-1-key-0123456";

/// With a key alone: what is tried then is decided within one handshake.
const KEY_ALONE: &str = "PSK-AES128-CCM8:@SECLEVEL=0";
/// With a key exchange: one key for each handshake.
const KEY_EXCHANGE: &str = "ECDHE-PSK-CHACHA20-POLY1305";

fn options(identity: &str, key: &[u8]) -> dtls::Options {
    dtls::Options::psk(identity, key).patience(PATIENCE)
}

/// Whether a handshake ends well; one that must not is not waited for as long.
pub fn comes_in(gateway: &Gateway, identity: &str, key: &[u8]) -> bool {
    dtls::connect(gateway.dtls_addr(), &options(identity, key)).is_ok()
}

fn stays_out(gateway: &Gateway, identity: &str, key: &[u8]) {
    let options = dtls::Options::psk(identity, key).patience(ms(3500));
    assert!(
        dtls::connect(gateway.dtls_addr(), &options).is_err(),
        "{identity}"
    );
}

pub fn lookups(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("psk_lookups_total", &[&format!("result=\"{result}\"")])
}

/// What would be something else if it were pasted into what a server is asked.
const INJECTIONS: &[&str] = &[
    "lamp-1' OR '1'='1",
    "' UNION SELECT '00', NULL, NULL -- ",
    "lamp-1'; DROP TABLE device_key; --",
    "lamp-1\\",
    "lamp-1\" -- ",
    "*",
    "lamp*",
    "lamp-1)(uid=*",
    "*)(|(uid=*))",
    "lamp-1,ou=devices",
    "lamp-1 key",
    "lamp-1\r\nPING",
    "{\"$ne\": null}",
    "${peerhost}",
    "lamp-1\u{2019}",
];

fn keys_are_looked_up<K: Keys>() {
    let server = K::filled();
    let open = ports::reserve();
    let seen = format!("bind = \"127.0.0.1:{}\"\nmountpoint = \"\"", open.number);
    let config = server
        .config(&server.at())
        .set("listeners.udp.open", &seen)
        .dtls("mountpoint = \"t/${attr.site}/\"");
    let gateway = Gateway::start(config);
    page::key_works(&gateway);
    assert!(comes_in(&gateway, "lamp-1", KEY));
    stays_out(&gateway, "lamp-1", b"another key");
    stays_out(&gateway, "lamp-2", KEY);
    for injection in INJECTIONS {
        stays_out(&gateway, injection, KEY);
    }
    for key in [NEWER, OLDER] {
        let alone = options("both", key).ciphers(KEY_ALONE);
        assert!(dtls::connect(gateway.dtls_addr(), &alone).is_ok(), "{key:?}");
        // From one address, where the key that did not fit is remembered; a device tries again.
        let local = ports::reserve();
        let there = format!("127.0.0.1:{}", local.number).parse().unwrap();
        let exchanged = options("both", key).ciphers(KEY_EXCHANGE).local(there);
        let exchanged = exchanged.patience(ms(6000));
        wait_until("one of its next handshakes ends well", || {
            dtls::connect(gateway.dtls_addr(), &exchanged).is_ok()
        });
    }
    // What is known beside the key is an attribute of who has it.
    let mut watcher = Client::udp(([127, 0, 0, 1], open.number).into());
    let own = watcher.observe("ps/t/site-7/#");
    Client::dtls(gateway.dtls_addr(), &options("lamp-1", KEY)).publish("ps/a", "here");
    assert_eq!(watcher.notification(&own.token).text(), "here");
    // The file goes first.
    assert!(dtls::connect(gateway.dtls_addr(), &psk_options("dev1")).is_ok());
    assert!(lookups(&gateway, "found") >= 2.0 && lookups(&gateway, "unknown") >= 1.0);
    assert_eq!(lookups(&gateway, "unavailable"), 0.0, "{}", gateway.log());
    let log = gateway.log();
    assert!(!log.contains(&hex(KEY)) && !log.contains("lamp-1-key"), "{log}");
}

/// While the server is away who is known comes in, others hear so, and the rest goes on.
fn a_server_that_is_away_concerns_only_who_is_new<K: Keys>() {
    let server = RefCell::new(K::filled());
    let there = server.borrow().at();
    let config = server.borrow().config(&there);
    let gateway = Gateway::start(config.replace(&K::table(), K::TIMEOUT, "\"2s\""));
    assert!(comes_in(&gateway, "lamp-1", KEY));
    let mut standing = gateway.client(Kind::Dtls);
    server.borrow_mut().down();
    stays_out(&gateway, "both", NEWER);
    assert!(gateway.metric("dtls_handshakes_total", &["result=\"key_source\""]) >= 1.0);
    assert!(lookups(&gateway, "unavailable") >= 1.0);
    assert!(comes_in(&gateway, "lamp-1", KEY), "remembered");
    standing.publish("ps/open/t", "x");
    gateway.assert_serves();
    server.borrow_mut().back();
    wait_until("keys are found again", || {
        let options = dtls::Options::psk("both", NEWER).patience(ms(2000));
        dtls::connect(gateway.dtls_addr(), &options).is_ok()
    });
}

/// How many devices come at once.
const STORM: usize = 500;

/// A gateway that asks a server at the end of a slow way about these devices.
pub fn far_from<K: Keys>(server: &K, way: &SlowWay, devices: usize) -> (Gateway, Vec<String>) {
    let names: Vec<_> = (0..devices).map(|n| format!("storm-{n}")).collect();
    server.add(&names, KEY);
    let config = server
        .config(&way.at())
        .set(SOURCE, &format!("max_lookups = {}", 4 * devices))
        .replace(&K::table(), K::TIMEOUT, "\"10s\"")
        .set(&K::table(), K::AT_ONCE)
        .dtls(&format!("max_half_open = {}", 2 * devices));
    (Gateway::start(config), names)
}

/// A device that tries until it comes in, after ever longer pauses, as devices do: on a machine that has much else to do a
/// handshake may take too long.
fn comes_in_at_last(gateway: &Gateway, device: &str, over: &AtomicBool) -> bool {
    let mut pause = ms(1000);
    while !over.load(Ordering::Acquire) {
        if comes_in(gateway, device, KEY) {
            return true;
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(ms(8000));
    }
    false
}

fn while_hundreds_of_handshakes_wait_nobody_else_does<K: Keys>() {
    let server = K::filled();
    let way = SlowWay::to(server.address());
    way.close();
    let (gateway, devices) = far_from(&server, &way, STORM);
    let mut standing = gateway.client(Kind::Dtls);
    let (over, came) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for device in &devices {
            let (gateway, came, over) = (&gateway, &came, &over);
            let small = std::thread::Builder::new().stack_size(512 << 10);
            let run = move || {
                if comes_in_at_last(gateway, device, over) {
                    came.fetch_add(1, Ordering::AcqRel);
                }
            };
            small.spawn_scoped(scope, run).unwrap();
        }
        wait_until("most of them wait", || {
            gateway.metric("dtls_half_open", &[]) > (STORM / 2) as f64
        });
        // The server has not said a word yet, so nobody here can have waited for one.
        for _ in 0..50 {
            tries::is_served(&gateway, &mut standing, "ps/open/storm");
        }
        wait_until("a device that is in the file comes in", || {
            dtls::connect(gateway.dtls_addr(), &psk_options("dev2")).is_ok()
        });
        assert_eq!(lookups(&gateway, "found"), 0.0);
        assert_eq!(came.load(Ordering::Acquire), 0);
        way.open();
        let end = Instant::now() + 4 * PATIENCE;
        while came.load(Ordering::Acquire) < STORM && Instant::now() < end {
            tries::is_served(&gateway, &mut standing, "ps/open/storm");
            std::thread::sleep(ms(20));
        }
        over.store(true, Ordering::Release);
    });
    assert_eq!(came.load(Ordering::Acquire), STORM);
    assert!(lookups(&gateway, "found") >= STORM as f64);
}

/// What is tried with each kind of server.
macro_rules! each_kind {
    ($($name:ident: $server:ty $(, $ignored:meta)?;)+) => {
        $(mod $name {
            use super::*;

            #[test]
            $(#[$ignored])?
            fn keys_are_looked_up() {
                super::keys_are_looked_up::<$server>();
            }

            #[test]
            $(#[$ignored])?
            fn a_server_that_is_away_concerns_only_who_is_new() {
                super::a_server_that_is_away_concerns_only_who_is_new::<$server>();
            }

            #[test]
            $(#[$ignored])?
            fn while_hundreds_of_handshakes_wait_nobody_else_does() {
                super::while_hundreds_of_handshakes_wait_nobody_else_does::<$server>();
            }
        })+
    };
}

each_kind! {
    http: Service;
    in_ldap: Slapd;
    in_mongodb: Mongo, ignore = "needs Maven: make test-peers";
    in_mysql: Mariadb;
    in_postgresql: Postgresql;
    in_redis: Redis;
}

#[test]
fn an_answer_with_no_key_in_it_lets_nobody_in_and_is_not_told() {
    let service = Service::filled();
    service.answers("broken", r#"{"key": "no digits"}"#);
    service.answers(
        "twice",
        &format!(r#"{{"key": "{}", "key": "00"}}"#, hex(b"first of two")),
    );
    let gateway = Gateway::start(service.config(&service.at()));
    stays_out(&gateway, "broken", KEY);
    stays_out(&gateway, "twice", b"first of two");
    assert_eq!(lookups(&gateway, "unavailable"), 2.0);
    let log = gateway.log();
    assert!(
        !log.contains("no digits") && !log.contains(&hex(b"first of two")),
        "{log}"
    );
}

#[test]
fn an_entry_with_more_keys_than_a_device_may_have_lets_nobody_in() {
    let server = Slapd::filled();
    let text = "dn: uid=many,ou=devices,dc=example,dc=net\nobjectClass: account\nobjectClass: pskDevice\nuid: many\n\
                deviceKey: 01\ndeviceKey: 02\ndeviceKey: 03\n";
    server.ldif(text);
    let gateway = Gateway::start(Keys::config(&server, &server.at()));
    stays_out(&gateway, "many", &[1]);
    wait_until("the log says why", || {
        gateway.log().contains("more than two values")
    });
    assert!(comes_in(&gateway, "both", NEWER));
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
