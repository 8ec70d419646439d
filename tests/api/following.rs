//! Commands that go on until told to stop, and what devices say on a terminal.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::commands::{Managed, start};
use crate::http::PATIENCE;
use crate::support::{Client, Config, Kind, Request, ms};

fn follow(managed: &Managed, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .arg("--config")
        .arg(managed.gateway.path("portcullis.toml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn ends(mut child: Child, what: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{what} goes on");
        }
        std::thread::sleep(ms(20));
    }
    assert!(child.wait().unwrap().success(), "{what}");
}

#[test]
fn what_follows_ends_when_nobody_reads_it_any_more() {
    let managed = start(Config::new());
    for arguments in [
        &["top", "--json", "--interval", "1"][..],
        &["clients", "watch", "--json"],
    ] {
        let mut child = follow(&managed, arguments);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        // Devices come for as long as it takes, so that there is something to tell.
        let mut comers: Vec<Client> = Vec::new();
        let (told, tells) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            drop(told.send(line.clone()));
        });
        let come = |comers: &mut Vec<Client>| {
            let mut client = managed.gateway.client(Kind::Udp);
            let who = format!("mqtt/connection?clientid=comer-{}", comers.len());
            client.request(&Request::post(&who));
            comers.push(client);
        };
        while tells.recv_timeout(ms(100)).is_err() {
            come(&mut comers);
        }
        reader.join().unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            come(&mut comers);
            std::thread::sleep(ms(100));
        }
        ends(child, arguments[0]);
    }
}

#[test]
fn ctrl_c_ends_a_command_that_waits_for_a_gateway_that_hangs() {
    let managed = start(Config::new());
    for arguments in [
        &["top", "--json", "--interval", "1"][..],
        &["clients", "watch", "--json"],
    ] {
        let child = follow(&managed, arguments);
        std::thread::sleep(ms(700));
        let signal = |name: &str, pid: u32| {
            let status = Command::new("kill").args([name, &pid.to_string()]).status();
            assert!(status.unwrap().success());
        };
        signal("-STOP", managed.gateway.pid());
        // Now it has asked and waits.
        std::thread::sleep(ms(1500));
        signal("-INT", child.id());
        let began = Instant::now();
        ends(child, arguments[0]);
        signal("-CONT", managed.gateway.pid());
        assert!(began.elapsed() < PATIENCE);
    }
}

#[test]
fn json_of_a_client_id_cannot_move_the_cursor_of_a_terminal() {
    let managed = start(Config::new());
    let mut client = managed.gateway.client(Kind::Udp);
    let id = "a\u{202e}31mb";
    client.observe(&format!("ps/t?clientid={id}"));
    let output = follow(&managed, &["clients", "list", "--json"])
        .wait_with_output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.is_ascii(), "{text:?}");
    let clients: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(clients[0]["clientid"], id);
    let mut trace = follow(&managed, &["trace", "127.0.0.1", "--json", "--for", "3"]);
    std::thread::sleep(ms(800));
    client.request(&Request::get(&format!("ps/t?clientid={id}")));
    let mut text = String::new();
    trace.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    trace.wait().unwrap();
    assert!(text.contains("\\u202e") && text.is_ascii(), "{text:?}");
}
