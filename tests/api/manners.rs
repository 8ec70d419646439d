//! What whoever asks badly must not be able to do: hang up in the middle, hold all places, get secrets back.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::PLAIN;
use crate::commands::start;
use crate::http::{TOKEN, ask, get, send};
use crate::site::Served;
use crate::support::{Config, Kind, ms, wait_until};

/// Sends a change and hangs up after `patience`, whatever was done until then.
fn hang_up(address: SocketAddr, method: &str, path: &str, body: &str, patience: Duration) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    std::thread::sleep(patience);
}

#[test]
fn who_hangs_up_gets_no_change_that_is_half_done_or_not_in_the_log() {
    let managed = start(Config::new());
    let lines = |words: &[&str]| {
        let log = managed.gateway.log();
        let said = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(said).count()
    };
    let audited = || lines(&["audit: ", "status=200"]);
    let mut changes = 0;
    for n in 0..12_u32 {
        let limit = 5000 + n;
        let body = json!({"limits": {"requests_per_second": limit}}).to_string();
        let patience = if n < 10 { ms(2 * u64::from(n)) } else { ms(2000) };
        hang_up(managed.admin, "PUT", "/api/v1/config", &body, patience);
        // A slow gateway does not get to read what one says who is gone at once.
        let end = Instant::now() + ms(5000);
        while audited() == changes && Instant::now() < end {
            std::thread::sleep(ms(5));
        }
        let text = std::fs::read_to_string(managed.gateway.path("portcullis.toml")).unwrap();
        let is_changed = text.contains(&format!("requests_per_second = {limit}"));
        changes += usize::from(is_changed);
        assert_eq!(audited(), changes, "{}", managed.gateway.log());
        assert!(
            lines(&["reloaded"]) >= changes,
            "what is written is in force: {}",
            managed.gateway.log()
        );
    }
    assert!(changes >= 2, "who waits for the answer is heard");
}

#[test]
fn who_hangs_up_does_not_leave_a_file_that_the_gateway_refuses() {
    let managed = start(Config::new());
    let before = std::fs::read_to_string(managed.gateway.path("portcullis.toml")).unwrap();
    // An address that is right, and that nobody can listen at.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let body = json!({"kind": "udp", "name": "second", "settings": {"bind": taken.local_addr().unwrap().to_string()}});
    let body = body.to_string();
    for patience in [3, 6, 9, 12, 15, 20] {
        hang_up(managed.admin, "POST", "/api/v1/listeners", &body, ms(patience));
    }
    wait_until("the lines of the refusals", || {
        let log = managed.gateway.log();
        let lines = log.lines().filter(|line| line.contains("audit: "));
        lines.filter(|line| line.contains("status=409")).count() == 6
    });
    let after = std::fs::read_to_string(managed.gateway.path("portcullis.toml")).unwrap();
    assert_eq!(after, before);
}

#[test]
fn requests_without_an_end_do_not_lock_the_operator_out() {
    let config = format!("{PLAIN}[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"tokens\"\n");
    let token = "manners-0123456789abcdef";
    let served = Served::with_files(&config, &[("tokens", token)]);
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(served.address).unwrap();
        drop(stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n"));
        slow.push(stream);
    }
    let bearer = format!("Bearer {token}");
    for _ in 0..5 {
        ask(
            served.address,
            "GET",
            "/api/v1/status",
            &[("Authorization", &bearer)],
            b"",
        )
        .expect(200);
    }
}

#[test]
fn a_flood_of_connections_does_not_end_what_an_operator_has_under_way() {
    let managed = start(Config::new());
    let body = json!({"target": "127.0.0.1", "seconds": 60}).to_string();
    let mut trace = TcpStream::connect(managed.admin).unwrap();
    trace.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = format!(
        "POST /api/v1/trace HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        managed.admin,
        body.len()
    );
    trace.write_all(head.as_bytes()).unwrap();
    let mut lines = BufReader::new(trace).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("HTTP/1.1 200"));
    let flood: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(managed.admin).unwrap())
        .collect();
    get(managed.admin, "/api/v1/status").expect(200);
    managed.gateway.client(Kind::Udp).publish("ps/seen", "1");
    assert!(
        lines.any(|line| line.unwrap().contains("/ps/seen")),
        "the trace goes on"
    );
    drop(flood);
}

#[test]
fn a_secret_of_a_wrong_type_does_not_come_back_in_the_error() {
    let managed = start(Config::new());
    for (path, body) in [
        (
            "/api/v1/users",
            json!({"name": "a", "password": 31_415_926_535_u64}),
        ),
        ("/api/v1/users", json!({"name": "a", "password": ["31415926535"]})),
        ("/api/v1/psk", json!({"identity": "a", "key": 31_415_926_535_u64})),
        (
            "/api/v1/psk",
            json!({"identity": "a", "key": {"hex": "31415926535"}}),
        ),
    ] {
        let error = send(managed.admin, "POST", path, &body).error(400, "bad_request");
        assert!(!error.to_string().contains("31415926535"), "{error}");
    }
}

#[test]
fn a_list_does_not_pass_for_an_object() {
    let served = Served::start(PLAIN);
    let body = json!(["127.0.0.1", 64, 5]);
    send(served.address, "POST", "/api/v1/trace", &body).error(400, "bad_request");
}

#[test]
fn a_media_type_is_known_in_any_case() {
    let served = Served::start(PLAIN);
    let json = [("Content-Type", "Application/JSON; charset=utf-8")];
    ask(served.address, "PUT", "/api/v1/config", &json, b"{}").expect(200);
    let toml = [("Content-Type", "APPLICATION/TOML")];
    ask(served.address, "PUT", "/api/v1/config", &toml, PLAIN.as_bytes()).expect(200);
}
