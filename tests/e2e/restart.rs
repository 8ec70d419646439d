//! A restart that nobody notices: sessions go on in the next process, whatever ended the one before.

use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use openssl::x509::X509Crl;

use crate::roaming::Roaming;
use crate::support::certs::revocation_list;
use crate::support::client::PATIENCE;
use crate::support::pki::Pki;
use crate::support::{Client, Config, Gateway, Kind, Request, code, dtls, ms, psk_of, typ};

const RESTORED: &str = "sessions_restored_total";

/// Workers restore side by side with the start.
#[track_caller]
fn assert_restored(gateway: &Gateway, results: &[(&str, f64)]) {
    for (result, count) in results {
        let labels = ["how=\"memory\"", &format!("result=\"{result}\"")];
        gateway.metric_becomes(RESTORED, &labels, *count);
    }
}

pub(crate) fn handshakes(gateway: &Gateway) -> f64 {
    gateway.metric("dtls_handshakes_total", &[])
}

/// The files in memory that a gateway keeps state in.
fn memories(gateway: &Gateway) -> Vec<PathBuf> {
    let files = fs::read_dir(gateway.memory_directory())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("state."))
        .collect()
}

fn edit(gateway: &Gateway, at: u64, change: impl Fn(u64) -> u64) {
    for path in memories(gateway) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut word = [0; 8];
        file.read_exact_at(&mut word, at).unwrap();
        file.write_all_at(&change(u64::from_ne_bytes(word)).to_ne_bytes(), at)
            .unwrap();
    }
}

/// The number of the cell in which the first session of the only memory begins, and of that in which its bytes do.
fn session_cells(gateway: &Gateway) -> (u64, u64) {
    const LIVE_SESSION: u64 = 0x01A5;
    let file = File::open(&memories(gateway)[0]).unwrap();
    let word = |cell: u64, at: u64| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, cell * 128 + at * 8).unwrap();
        u64::from_ne_bytes(word)
    };
    let cell = (1..4096).find(|cell| word(*cell, 0) == LIVE_SESSION).unwrap();
    (cell, word(cell, 1) & 0xffff_ffff)
}

pub(crate) fn with_certificates(pki: &Pki) -> Config {
    pki.install(Config::new()).dtls("verify = \"optional\"")
}

pub(crate) fn device_with_certificate(gateway: &Gateway, pki: &Pki) -> Client {
    Client::dtls(
        gateway.dtls_addr(),
        &dtls::Options::certificate(Some(&pki.client), &pki.ca.certificate),
    )
}

#[test]
fn neither_a_stop_nor_a_kill_costs_a_device_its_session() {
    let pki = Pki::new();
    let mut gateway = Gateway::start(with_certificates(&pki));
    let suites = [
        "PSK-AES128-CCM8",
        "PSK-AES128-GCM-SHA256",
        "PSK-CHACHA20-POLY1305",
    ];
    let with_suite = |suite: &&str| {
        let options = dtls::Options::psk("dev2", psk_of("dev2").as_bytes()).ciphers(suite);
        Client::dtls(gateway.dtls_addr(), &options)
    };
    let mut devices: Vec<Client> = suites.iter().map(with_suite).collect();
    devices.push(device_with_certificate(&gateway, &pki));
    devices.push(Client::over(Box::new(Roaming::connect(gateway.dtls_addr()))));
    for round in 0..4 {
        for device in &mut devices {
            device.publish("ps/a", "before");
        }
        if round % 2 == 0 {
            assert!(gateway.stop().success());
        } else {
            gateway.kill();
        }
        gateway.launch();
        for device in &mut devices {
            device.publish("ps/a", "after");
            device.publish("ps/a", "again");
        }
        assert_restored(&gateway, &[("ok", 5.0)]);
        assert_eq!(gateway.metric("sessions", &["transport=\"dtls\""]), 5.0);
        assert_eq!(gateway.metric("dtls_cid_sessions", &[]), 1.0);
        assert_eq!(handshakes(&gateway), 0.0);
    }
    for mut device in devices {
        assert_eq!(device.ended(), None);
    }
    gateway.assert_serves();
}

#[test]
fn a_record_that_was_taken_before_a_kill_is_not_taken_again() {
    let mut gateway = Gateway::start(Config::new());
    let relay = Relay::before(gateway.dtls_addr());
    let options = dtls::Options::psk("dev1", psk_of("dev1").as_bytes());
    let mut device = Client::dtls(relay.address, &options);
    device.publish("ps/door?retain=true", "unlock");
    let unlock = relay.of_device().last().unwrap().clone();
    device.publish("ps/door?retain=true", "lock");
    gateway.kill();
    gateway.launch();
    relay.outside.send(&unlock).unwrap();
    gateway.metric_becomes("dtls_records_dropped_total", &["reason=\"replay\""], 1.0);
    assert_eq!(device.read("ps/door"), b"lock");
}

/// What went one way.
type Datagrams = Arc<Mutex<Vec<Vec<u8>>>>;

/// Stands between a device and the gateway, and remembers what they sent.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) outside: UdpSocket,
    of_device: Datagrams,
    of_gateway: Datagrams,
}

impl Relay {
    pub(crate) fn before(gateway: SocketAddr) -> Self {
        let inside = UdpSocket::bind("127.0.0.1:0").unwrap();
        let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
        outside.connect(gateway).unwrap();
        let (of_device, of_gateway) = (Datagrams::default(), Datagrams::default());
        let relay = Self {
            address: inside.local_addr().unwrap(),
            outside: outside.try_clone().unwrap(),
            of_device: Arc::clone(&of_device),
            of_gateway: Arc::clone(&of_gateway),
        };
        let (to_device, from_gateway) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
        let device: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let there = Arc::clone(&device);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = inside.recv_from(&mut buffer) {
                *there.lock().unwrap() = Some(from);
                of_device.lock().unwrap().push(buffer[..length].to_vec());
                // A gateway that is being restarted refuses.
                let _ = outside.send(&buffer[..length]);
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                if let Ok(length) = from_gateway.recv(&mut buffer)
                    && let Some(device) = *device.lock().unwrap()
                {
                    of_gateway.lock().unwrap().push(buffer[..length].to_vec());
                    to_device.send_to(&buffer[..length], device).unwrap();
                }
            }
        });
        relay
    }

    pub(crate) fn of_device(&self) -> Vec<Vec<u8>> {
        self.of_device.lock().unwrap().clone()
    }

    pub(crate) fn of_gateway(&self) -> Vec<Vec<u8>> {
        self.of_gateway.lock().unwrap().clone()
    }
}

#[test]
fn who_lost_his_right_meanwhile_is_told_so_and_nobody_else() {
    let pki = Pki::new();
    let with_certificates = |pki| {
        let config = with_certificates(pki).set("admin", "socket = \"admin.sock\"");
        config.set("node", "workers = 1")
    };
    let config = with_certificates(&pki);
    let mut gateway = Gateway::start(config);
    let mut stays = gateway.client_as(Kind::Dtls, "dev1");
    let mut goes = gateway.client_as(Kind::Dtls, "dev2");
    let mut revoked = device_with_certificate(&gateway, &pki);
    for device in [&mut stays, &mut goes, &mut revoked] {
        device.publish("ps/a", "x");
    }
    gateway.kill();
    let psks = fs::read_to_string(gateway.path("psk.txt")).unwrap();
    let without: String = psks
        .lines()
        .filter(|line| !line.starts_with("dev2:"))
        .map(|line| format!("{line}\n"))
        .collect();
    gateway.write("psk.txt", without.as_bytes());
    let list: X509Crl = revocation_list(&pki.ca, &[&pki.client]);
    gateway.write("crl.pem", &list.to_pem().unwrap());
    gateway.configure(&with_certificates(&pki).dtls("crl_file = \"crl.pem\""));
    gateway.launch();
    stays.publish("ps/a", "y");
    assert_restored(&gateway, &[("ok", 1.0), ("revoked", 2.0)]);
    let status = gateway.command("status").output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.contains("1 DTLS sessions; not: 2 DTLS sessions (revoked)"),
        "{status}"
    );
    let log = gateway.log();
    let told = |what: &str, why: &str| {
        let mut lines = log.lines();
        lines.any(|line| line.contains(&format!("restored: {what} sessions")) && line.contains(why))
    };
    assert!(
        told("1", "reason=\"ok\"") && told("2", "reason=\"revoked\""),
        "{log}"
    );
    assert!(log.contains("2 DTLS sessions (revoked)"), "{log}");
    for mut device in [goes, revoked] {
        crate::support::wait_until("close_notify", || {
            device.ended().as_deref() == Some("close_notify")
        });
    }
    assert_eq!(stays.ended(), None);
    gateway.assert_serves();
}

#[test]
fn who_wants_it_so_says_goodbye_at_a_stop() {
    for lines in ["keep = \"none\"", "goodbye = true"] {
        let mut gateway = Gateway::start(Config::new().set("state", lines));
        let mut device = gateway.client(Kind::Dtls);
        device.publish("ps/a", "x");
        assert!(gateway.stop().success());
        assert_eq!(device.ended().as_deref(), Some("close_notify"), "{lines}");
        gateway.launch();
        assert_restored(&gateway, &[("ok", 0.0)]);
    }
}

#[test]
fn a_session_that_cannot_be_kept_is_told_of_the_stop() {
    let config =
        Config::new().dtls("legacy_cbc = true\nciphers = \"PSK-AES128-CBC-SHA256:PSK-AES128-GCM-SHA256\"");
    let mut gateway = Gateway::start(config);
    let with_suite = |suite| {
        let options = dtls::Options::psk("dev1", psk_of("dev1").as_bytes()).ciphers(suite);
        Client::dtls(gateway.dtls_addr(), &options)
    };
    let [mut old, mut new] = ["PSK-AES128-CBC-SHA256", "PSK-AES128-GCM-SHA256"].map(with_suite);
    old.publish("ps/a", "x");
    new.publish("ps/a", "x");
    gateway.metric_becomes("sessions_not_kept_total", &["reason=\"cbc\""], 1.0);
    assert!(gateway.stop().success());
    assert_eq!(old.ended().as_deref(), Some("close_notify"));
    gateway.launch();
    new.publish("ps/a", "y");
    assert_eq!(new.ended(), None);
}

#[test]
fn sessions_find_their_workers_whether_there_are_more_or_fewer() {
    let workers = |count: u8| Config::new().set("node", &format!("workers = {count}"));
    let mut gateway = Gateway::start(workers(3));
    let mut devices: Vec<Client> = (0..12).map(|_| gateway.client(Kind::Dtls)).collect();
    let connect = |_| Client::over(Box::new(Roaming::connect(gateway.dtls_addr())));
    devices.extend((0..8).map(connect));
    for count in [1, 4, 2] {
        for device in &mut devices {
            device.publish("ps/a", "before");
        }
        gateway.kill();
        gateway.configure(&workers(count));
        gateway.launch();
        for device in &mut devices {
            device.publish("ps/a", "after");
        }
        assert_restored(&gateway, &[("ok", 20.0)]);
        assert_eq!(handshakes(&gateway), 0.0, "{count} workers");
        assert_eq!(memories(&gateway).len(), usize::from(count));
    }
    // Who comes anew from where a session of before was, is a new session.
    gateway.assert_serves();
}

#[test]
fn what_does_not_read_back_is_left_out_by_name() {
    let mut gateway = Gateway::start(Config::new().set("node", "workers = 1"));
    let mut devices = [0, 1].map(|_| gateway.client(Kind::Dtls));
    for device in &mut devices {
        device.publish("ps/a", "x");
    }
    gateway.kill();
    // The check word.
    let (_, bytes) = session_cells(&gateway);
    edit(&gateway, bytes * 128 + 2 * 8, |word| word ^ 1);
    gateway.launch();
    assert_restored(&gateway, &[("ok", 1.0), ("damaged", 1.0)]);
    gateway.kill();
    // The process died of the one that is left.
    let (cell, _) = session_cells(&gateway);
    edit(&gateway, 5 * 8, |_| cell);
    edit(&gateway, 6 * 8, |_| 1);
    gateway.launch();
    assert_restored(&gateway, &[("ok", 0.0), ("poisoned", 1.0)]);
    let mut device = gateway.client(Kind::Dtls);
    device.publish("ps/a", "x");
    gateway.kill();
    // Another release wrote it.
    edit(&gateway, 0, |word| word.wrapping_add(1 << 56));
    gateway.launch();
    assert_restored(&gateway, &[("ok", 0.0), ("layout", 1.0)]);
    gateway.assert_serves();
}

/// Publishes from a device of its own, and sees that it comes to each observer with a later Observe number than all before.
#[track_caller]
fn assert_observed(gateway: &Gateway, topic: &str, payload: &str, observers: &mut [(Client, Vec<u8>, u32)]) {
    gateway.client_as(Kind::Udp, "dev4").publish(topic, payload);
    for (observer, token, last) in observers {
        let notification = observer.notification(token);
        assert_eq!(notification.text(), payload);
        let number = notification.observe().unwrap();
        assert!(number > *last, "{number} after {last}");
        *last = number;
    }
}

#[test]
fn observations_go_on_and_their_devices_need_not_say_a_word() {
    let pki = Pki::new();
    let workers = |count: u8| with_certificates(&pki).set("node", &format!("workers = {count}"));
    let mut gateway = Gateway::start(workers(2));
    let mut observers = Vec::new();
    for round in 0..4 {
        observers.push(gateway.client(Kind::Udp));
        observers.push(gateway.client(Kind::Dtls));
        observers.push(device_with_certificate(&gateway, &pki));
        if round % 2 == 0 {
            observers.push(Client::over(Box::new(Roaming::connect(gateway.dtls_addr()))));
        }
    }
    let mut observers: Vec<_> = observers
        .into_iter()
        .map(|mut client| {
            let token = client.observe("ps/news/+").token;
            (client, token, 0)
        })
        .collect();
    let count = observers.len() as f64;
    assert_observed(&gateway, "ps/news/a", "first", &mut observers);
    for (round, payload) in ["second", "third", "fourth"].into_iter().enumerate() {
        if round == 0 {
            assert!(gateway.stop().success());
        } else {
            gateway.kill();
        }
        gateway.launch();
        gateway.metric_becomes("subscriptions", &[], count);
        gateway.metric_becomes("observations_restored_total", &["result=\"ok\""], count);
        assert_observed(&gateway, "ps/news/b", payload, &mut observers);
        assert_observed(&gateway, "ps/news/c", payload, &mut observers);
    }
    for (mut observer, token, _) in observers {
        observer
            .request(&Request::get("ps/news/+").observe(1).token(&token))
            .expect(code::NO_CONTENT);
    }
    gateway.metric_becomes("subscriptions", &[], 0.0);
    gateway.kill();
    gateway.launch();
    assert_eq!(gateway.metric("observations_restored_total", &[]), 0.0);
    gateway.assert_serves();
}

#[test]
fn connections_go_on_with_their_tokens_and_observations() {
    let workers = |count: u8| {
        Config::new()
            .connection_mode()
            .set("node", &format!("workers = {count}"))
    };
    let mut gateway = Gateway::start(workers(3));
    let mut devices: Vec<(Client, String, String)> = (0..12)
        .map(|n| {
            let kind = if n % 2 == 0 { Kind::Udp } else { Kind::Dtls };
            let (mut client, id) = (gateway.client(kind), format!("meter-{n}"));
            let token = client.create(&id);
            (client, id, token)
        })
        .collect();
    let mut observers = Vec::new();
    for (device, id, token) in &mut devices {
        let observation = device.observe(&format!("ps/{id}?c={id}&t={token}"));
        observers.push(observation.token);
    }
    for round in 0..2 {
        gateway.kill();
        gateway.launch();
        // The publisher of the first round is one of them in the second.
        let count = f64::from(12 + round);
        gateway.metric_becomes("connections", &[], count);
        gateway.metric_becomes("connections_total", &["result=\"restored\""], count);
        gateway.metric_becomes("subscriptions", &[], 12.0);
        let mut publisher = gateway.client_as(Kind::Udp, "dev4");
        let token = publisher.create("publisher");
        // Those who are idle hear what is for them.
        for ((device, id, _), observer) in devices.iter_mut().zip(&observers) {
            publisher.publish(&format!("ps/{id}?c=publisher&t={token}"), format!("{round}"));
            assert_eq!(device.notification(observer).text(), round.to_string());
        }
        for (device, id, token) in &mut devices {
            assert_eq!(device.heartbeat(id, token), code::CHANGED);
        }
    }
    // A device that comes back over the wrong way, or with a wrong token, is nobody's.
    let (_, id, token) = &devices[1];
    assert_eq!(gateway.client(Kind::Udp).heartbeat(id, token), code::UNAUTHORIZED);
    let (device, id, token) = &mut devices[0];
    device.request(
        &Request::delete("mqtt/connection")
            .query(format!("c={id}"))
            .query(format!("t={token}")),
    );
    gateway.kill();
    gateway.launch();
    // The others and the last publisher.
    gateway.metric_becomes("connections", &[], 12.0);
}

#[test]
fn conditions_of_an_observation_hold_after_a_kill() {
    let mut gateway = Gateway::start(Config::new().set("node", "workers = 3"));
    let mut observer = gateway.client(Kind::Dtls);
    let token = observer.observe("ps/temperature?c.gt=25").token;
    gateway.kill();
    gateway.launch();
    // At once: no worker reads before all have their observers back.
    let mut publisher = gateway.client_as(Kind::Udp, "dev4");
    // The first value after the restart is told whatever it is: what was told last is not known any more.
    for value in ["20", "21", "22", "26"] {
        publisher.publish("ps/temperature", value);
    }
    assert_eq!(observer.notification(&token).text(), "20");
    assert_eq!(observer.notification(&token).text(), "26");
}

#[test]
fn what_was_answered_before_a_kill_is_not_done_again() {
    for kind in [Kind::Dtls, Kind::Udp] {
        is_not_done_again(kind);
    }
}

fn is_not_done_again(kind: Kind) {
    let mut gateway = Gateway::start(Config::new());
    let mut device = gateway.client(kind);
    let mut observer = gateway.client(Kind::Udp);
    let token = observer.observe("ps/count").token;
    let publish = device.message(&Request::put("ps/count").payload("1"));
    device.exchange(&publish, PATIENCE).unwrap().expect(code::CHANGED);
    assert_eq!(observer.notification(&token).text(), "1");
    for _ in 0..2 {
        gateway.kill();
        gateway.launch();
        // The answer was lost: the same message in a new record.
        let answer = device.exchange(&publish, PATIENCE).unwrap().expect(code::CHANGED);
        assert_eq!(
            (answer.typ, answer.id, &answer.token),
            (typ::ACK, publish.id, &publish.token)
        );
    }
    gateway.metric_becomes("publishes_total", &[], 0.0);
    assert_eq!(gateway.metric("coap_duplicates_total", &[]), 1.0);
    device.publish("ps/count", "2");
    assert_eq!(observer.notification(&token).text(), "2");
}

#[test]
fn an_observer_whom_the_rules_of_now_refuse_is_left_out() {
    let acl = |rules: &str| {
        Config::new()
            .set("authorization", "acl_file = \"acl.txt\"")
            .file("acl.txt", rules)
    };
    let mut gateway = Gateway::start(acl("topic readwrite #\n"));
    let [mut stays, mut goes] = [0, 1].map(|_| gateway.client(Kind::Udp));
    let token = stays.observe("ps/open").token;
    let other = goes.observe("ps/secret").token;
    gateway.kill();
    gateway.write("acl.txt", b"topic deny secret\ntopic readwrite #\n");
    gateway.launch();
    for result in ["ok", "revoked"] {
        let label = format!("result=\"{result}\"");
        gateway.metric_becomes("observations_restored_total", &[&label], 1.0);
    }
    let mut publisher = gateway.client_as(Kind::Udp, "dev4");
    publisher.publish("ps/open", "x");
    assert_eq!(stays.notification(&token).text(), "x");
    goes.no_notification(&other, ms(300));
}

#[test]
fn a_drain_says_goodbye_to_all_and_ends() {
    let mut gateway = Gateway::start(Config::new().set("admin", "socket = \"admin.sock\""));
    let mut device = gateway.client(Kind::Dtls);
    device.publish("ps/a", "x");
    let drained = gateway.command("drain").output().unwrap();
    let said = String::from_utf8_lossy(&drained.stdout).into_owned();
    assert!(
        drained.status.success() && said.starts_with("1 DTLS session"),
        "{drained:?}"
    );
    assert!(gateway.wait().success());
    assert_eq!(device.ended().as_deref(), Some("close_notify"));
    gateway.launch();
    assert_restored(&gateway, &[("ok", 0.0)]);
}
