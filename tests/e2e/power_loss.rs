//! A power loss that nobody notices: what was kept in memory is gone, and sessions go on from disk.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::restart::{Relay, device_with_certificate, handshakes, with_certificates};
use crate::roaming::Roaming;
use crate::support::client::PATIENCE;
use crate::support::pki::Pki;
use crate::support::{Client, Config, Gateway, Kind, Reaction, Request, code, dtls, ms, psk_of};

fn on_disk() -> Config {
    Config::new().set("state", "keep = \"disk\"")
}

#[track_caller]
fn assert_restored(gateway: &Gateway, what: &str, result: &str, count: usize) {
    let labels = ["how=\"disk\"", &format!("result=\"{result}\"")];
    gateway.metric_becomes(&format!("{what}_restored_total"), &labels, count as f64);
}

/// Waits until all of so many records are on disk.
#[track_caller]
fn are_on_disk(gateway: &Gateway, records: usize) {
    gateway.metric_becomes("state_disk_records", &[], records as f64);
}

fn with_suite(gateway: &Gateway, suite: &str) -> Client {
    let options = dtls::Options::psk("dev2", psk_of("dev2").as_bytes()).ciphers(suite);
    Client::dtls(gateway.dtls_addr(), &options)
}

#[test]
fn a_power_loss_costs_no_session_but_those_whose_nonces_are_record_numbers() {
    let pki = Pki::new();
    let mut gateway = Gateway::start(with_certificates(&pki).set("state", "keep = \"disk\""));
    let mut devices: Vec<Client> = ["PSK-AES128-CCM8", "PSK-AES128-GCM-SHA256", "PSK-AES256-CCM"]
        .iter()
        .map(|suite| with_suite(&gateway, suite))
        .collect();
    devices.push(device_with_certificate(&gateway, &pki));
    devices.push(Client::over(Box::new(Roaming::connect(gateway.dtls_addr()))));
    let mut chacha = with_suite(&gateway, "PSK-CHACHA20-POLY1305");
    for round in 0..4 {
        for device in &mut devices {
            device.publish("ps/a", "before");
        }
        if round == 0 {
            chacha.publish("ps/a", "before");
            gateway.metric_becomes("sessions_not_kept_total", &["reason=\"chacha20\""], 1.0);
        }
        // The issuers of the certificate too.
        are_on_disk(&gateway, devices.len() + 1);
        if round == 2 {
            gateway.kill();
        } else {
            gateway.lose_power();
        }
        gateway.launch();
        for device in &mut devices {
            device.publish("ps/a", "after");
            device.publish("ps/a", "again");
        }
        if round != 2 {
            assert_restored(&gateway, "sessions", "ok", devices.len());
        }
        gateway.metric_becomes("dtls_gated_sessions", &[], 0.0);
        assert_eq!(
            gateway.metric("sessions", &["transport=\"dtls\""]),
            devices.len() as f64
        );
        assert_eq!(handshakes(&gateway), 0.0);
    }
    let put = Request::post("ps/a").payload("x");
    assert!(chacha.try_request(&put, ms(300)).is_none());
    with_suite(&gateway, "PSK-CHACHA20-POLY1305").publish("ps/a", "x");
    for mut device in devices {
        assert_eq!(device.ended(), None);
    }
    gateway.assert_serves();
}

#[test]
fn a_record_of_before_a_power_loss_is_not_acted_on() {
    let mut gateway = Gateway::start(on_disk());
    let relay = Relay::before(gateway.dtls_addr());
    let options = dtls::Options::psk("dev1", psk_of("dev1").as_bytes());
    let mut device = Client::dtls(relay.address, &options);
    device.publish("ps/door?retain=true", "closed");
    are_on_disk(&gateway, 1);
    let mut observer = gateway.client(Kind::Udp);
    let token = observer.observe("ps/door").token;
    // What was written of the session knows of none of these.
    device.publish("ps/door?retain=true", "unlock");
    let unlock = relay.of_device().last().unwrap().clone();
    device.publish("ps/door?retain=true", "lock");
    assert_eq!(observer.notification(&token).text(), "unlock");
    assert_eq!(observer.notification(&token).text(), "lock");
    gateway.lose_power();
    gateway.launch();
    for _ in 0..3 {
        relay.outside.send(&unlock).unwrap();
    }
    gateway.metric_becomes("dtls_records_dropped_total", &["reason=\"gated\""], 1.0);
    gateway.metric_becomes("dtls_records_dropped_total", &["reason=\"replay\""], 2.0);
    assert_eq!(gateway.metric("publishes_total", &[]), 0.0);
    assert_eq!(gateway.metric("dtls_gated_sessions", &[]), 1.0);
    // The device answers the ping that the replay brought it.
    assert_eq!(device.read("ps/door"), b"lock");
    gateway.metric_becomes("dtls_gated_sessions", &[], 0.0);
    relay.outside.send(&unlock).unwrap();
    gateway.metric_becomes("dtls_records_dropped_total", &["reason=\"replay\""], 3.0);
    device.publish("ps/door?retain=true", "open");
    assert_eq!(device.read("ps/door"), b"open");
    assert_eq!(handshakes(&gateway), 0.0);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// The explicit nonces of the protected records among these.
fn nonces(datagrams: &[Vec<u8>]) -> Vec<[u8; 8]> {
    let is_protected = |datagram: &&Vec<u8>| datagram[0] == 23 && datagram[3..5] == [0, 1];
    datagrams
        .iter()
        .filter(is_protected)
        .map(|datagram| datagram[13..21].try_into().unwrap())
        .collect()
}

#[test]
fn no_nonce_comes_twice_whatever_became_of_the_state_directory() {
    for suite in ["PSK-AES128-CCM8", "PSK-AES128-GCM-SHA256"] {
        let mut gateway = Gateway::start(on_disk());
        let relay = Relay::before(gateway.dtls_addr());
        let options = dtls::Options::psk("dev1", psk_of("dev1").as_bytes()).ciphers(suite);
        let mut device = Client::dtls(relay.address, &options);
        device.publish("ps/a", "x");
        are_on_disk(&gateway, 1);
        let (state, backup) = (gateway.path("state"), gateway.path("backup"));
        copy(&state, &backup);
        for round in 0..6 {
            for _ in 0..5 {
                device.publish("ps/a", "x");
            }
            match round % 3 {
                0 => gateway.lose_power(),
                1 => gateway.kill(),
                _ => assert!(gateway.stop().success()),
            }
            gateway.launch();
        }
        device.publish("ps/a", "x");
        assert_eq!(handshakes(&gateway), 0.0);
        // Twice from the same old copy: the numbers come again, and what is sealed with them does not.
        for _ in 0..2 {
            gateway.lose_power();
            copy(&backup, &state);
            gateway.launch();
            let before = nonces(&relay.of_gateway()).len();
            device.try_request(&Request::post("ps/a").payload("x"), ms(3000));
            crate::support::wait_until("pings", || nonces(&relay.of_gateway()).len() > before);
        }
        let sent = nonces(&relay.of_gateway());
        assert!(sent.len() > 30, "{}", sent.len());
        let different: HashSet<_> = sent.iter().collect();
        assert_eq!(different.len(), sent.len());
        gateway.assert_serves();
    }
}

#[test]
fn connections_observations_and_notifications_go_on_after_a_power_loss() {
    let mut gateway = Gateway::start(on_disk().connection_mode().set("node", "workers = 2"));
    let mut devices: Vec<(Client, String, String, Vec<u8>, u32)> = (0..6)
        .map(|n| {
            let mut client = gateway.client([Kind::Udp, Kind::Dtls][n % 2]);
            let id = format!("meter-{n}");
            let token = client.create(&id);
            let observation = client.observe(&format!("ps/{id}?c={id}&t={token}")).token;
            (client, id, token, observation, 0)
        })
        .collect();
    // 3 UDP peers and 3 sessions, 6 connections, 6 observations.
    are_on_disk(&gateway, 18);
    for round in 0..3 {
        if round == 1 {
            // The machine is switched off in good order.
            let memory = gateway.memory_directory();
            assert!(gateway.stop().success());
            fs::remove_dir_all(memory).unwrap();
        } else {
            gateway.lose_power();
        }
        gateway.launch();
        assert_restored(&gateway, "sessions", "ok", 3);
        assert_restored(&gateway, "observations", "ok", 6);
        let mut publisher = gateway.client_as(Kind::Udp, "dev4");
        let id = format!("publisher-{round}");
        let token = publisher.create(&id);
        for (device, meter, _, observation, last) in &mut devices {
            publisher.publish(&format!("ps/{meter}?c={id}&t={token}&qos=1"), format!("{round}"));
            // Nobody has to say a word: the notification has the device pinged.
            let notification = device.notification(observation);
            assert_eq!(notification.text(), round.to_string());
            let number = notification.observe().unwrap();
            assert!(number > *last + 4000 || round == 0, "{number} after {last}");
            *last = number;
        }
        gateway.metric_becomes("dtls_gated_sessions", &[], 0.0);
        for (device, id, token, ..) in &mut devices {
            assert_eq!(device.heartbeat(id, token), code::CHANGED);
        }
        publisher.request(
            &Request::delete("mqtt/connection")
                .query(format!("c={id}"))
                .query(format!("t={token}")),
        );
        // The publisher is remembered as a peer for a while.
        are_on_disk(&gateway, 19 + round);
    }
    assert_eq!(handshakes(&gateway), 0.0);
}

#[test]
fn who_speaks_on_and_answers_no_ping_is_given_up_and_whoever_sleeps_is_not() {
    let mut gateway = Gateway::start(on_disk());
    let [mut mute, mut sleeper] = ["dev1", "dev2"].map(|identity| gateway.client_as(Kind::Dtls, identity));
    mute.publish("ps/a", "x");
    let token = sleeper.observe("ps/news").token;
    are_on_disk(&gateway, 3);
    gateway.lose_power();
    gateway.launch();
    assert_restored(&gateway, "sessions", "ok", 2);
    mute.reaction = Reaction::Ignore;
    // The notification has the sleeper pinged, who is not there.
    gateway.client_as(Kind::Udp, "dev4").publish("ps/news", "n");
    let put = Request::post("ps/a").payload("y");
    let until = Instant::now() + 4 * PATIENCE;
    while mute.ended().as_deref() != Some("close_notify") {
        assert!(Instant::now() < until, "no close_notify");
        assert!(mute.try_request(&put, ms(1000)).is_none());
    }
    assert_restored(&gateway, "sessions", "unanswered", 1);
    gateway.metric_becomes("dtls_sessions_closed_total", &["reason=\"unanswered\""], 1.0);
    assert_eq!(sleeper.try_notification(&token, PATIENCE).unwrap().text(), "n");
    sleeper.publish("ps/a", "z");
    assert_eq!(gateway.metric("publishes_total", &[]), 2.0);
    gateway.assert_serves();
}

#[test]
fn what_ends_is_not_found_again_and_another_level_leaves_nothing_on_disk() {
    let mut gateway = Gateway::start(on_disk());
    let (goes, mut stays) = (gateway.client(Kind::Dtls), gateway.client(Kind::Dtls));
    stays.publish("ps/a", "x");
    are_on_disk(&gateway, 2);
    goes.close();
    are_on_disk(&gateway, 1);
    gateway.lose_power();
    gateway.launch();
    stays.publish("ps/a", "x");
    assert_restored(&gateway, "sessions", "ok", 1);
    let file = gateway.path("state/state.redb");
    assert!(file.exists());
    assert!(gateway.stop().success());
    gateway.configure(&Config::new());
    gateway.launch();
    stays.publish("ps/a", "x");
    assert!(!file.exists());
    assert_eq!(handshakes(&gateway), 0.0);
}

#[test]
fn a_key_that_others_can_read_is_refused_and_with_another_one_nothing_is_read() {
    let mut gateway = Gateway::start(on_disk());
    let mut device = gateway.client(Kind::Dtls);
    device.publish("ps/a", "x");
    are_on_disk(&gateway, 1);
    gateway.lose_power();
    let refused = |gateway: &Gateway, what: &str| {
        for subcommand in ["run", "check-config"] {
            let ended = gateway.command(subcommand).output().unwrap();
            let said = [ended.stdout, ended.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(
                !ended.status.success() && said.contains(what),
                "{subcommand}: {said}"
            );
        }
    };
    gateway.chmod("state/state.key", 0o644);
    refused(&gateway, "mode 0644");
    gateway.chmod("state/state.key", 0o600);
    gateway.write("other.key", "0f".repeat(31).as_bytes());
    gateway.configure(&Config::new().set("state", "keep = \"disk\"\nkey_file = \"other.key\""));
    refused(&gateway, "64 hexadecimal digits");
    gateway.write("other.key", "0f".repeat(32).as_bytes());
    gateway.launch();
    assert_restored(&gateway, "sessions", "key", 1);
    let mut device = gateway.client(Kind::Dtls);
    device.publish("ps/a", "x");
    are_on_disk(&gateway, 1);
    gateway.lose_power();
    gateway.launch();
    device.publish("ps/a", "x");
    assert_restored(&gateway, "sessions", "ok", 1);
}

#[test]
fn a_disk_that_takes_no_more_harms_nobody_and_is_written_to_once_it_does() {
    let mut gateway = Gateway::prepare(&on_disk());
    // The file size limit stands for a full disk; its signal is for programs that write without looking.
    let command = gateway.command("run");
    let mut patient = Command::new("/bin/sh");
    patient.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    patient.arg(command.get_program()).args(command.get_args());
    gateway.launch_by(&mut patient);
    let mut before = gateway.client(Kind::Dtls);
    before.publish("ps/a", "x");
    are_on_disk(&gateway, 1);
    let limit = |gateway: &Gateway, limit: &str| {
        let pid = gateway.pid().to_string();
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={limit}:")])
            .status();
        assert!(set.unwrap().success());
    };
    limit(&gateway, "1");
    let mut during = gateway.client(Kind::Dtls);
    during.publish("ps/a", "x");
    gateway.metric_becomes("state_disk_failed", &[], 1.0);
    assert!(gateway.metric("state_disk_failures_total", &[]) > 0.0);
    let said = gateway.log();
    assert!(said.contains("kept state is not written to disk"), "{said}");
    for device in [&mut before, &mut during] {
        device.publish("ps/a", "y");
    }
    limit(&gateway, "unlimited");
    gateway.metric_becomes("state_disk_failed", &[], 0.0);
    are_on_disk(&gateway, 2);
    gateway.lose_power();
    gateway.launch();
    for device in [&mut before, &mut during] {
        device.publish("ps/a", "z");
    }
    assert_restored(&gateway, "sessions", "ok", 2);
    assert_eq!(handshakes(&gateway), 0.0);
    gateway.assert_serves();
}
