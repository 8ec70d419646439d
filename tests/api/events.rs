//! What happens to clients: in the log, and as server-sent events.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::commands::{Managed, start};
use crate::http::{PATIENCE, TOKEN, get};
use crate::support::{Config, Kind, Request, code, dtls, ms, wait_until};

/// The events that are kept, of those that the query wants.
fn kept(managed: &Managed, query: &str) -> Vec<Value> {
    let answer = get(managed.admin, &format!("/api/v1/events?follow=false{query}")).expect(200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let data = answer.body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The first event of a kind, once it is there.
fn told(managed: &Managed, kind: &str, of: &str) -> Value {
    let find = || {
        let events = kept(managed, &format!("&kind={kind}"));
        let about = |event: &&Value| event["clientid"] == of || event["identity"] == of;
        events.iter().find(about).cloned()
    };
    wait_until(&format!("{kind} of {of}"), || find().is_some());
    find().unwrap()
}

/// A gateway at which one device did, and met with, all of it; and the token that it had.
fn lived() -> (Managed, String) {
    let rules = "pattern readwrite dev/%c/#\ntopic read open/#\n";
    let config = Config::new()
        .connection_mode()
        .set("authentication", "backend = \"file\"\nfile = \"users.txt\"")
        .set("authorization", "acl_file = \"acl\"")
        .set("log", "level = \"info\"")
        .dtls("identity = \"username\"\nhandshake_timeout = \"4s\"")
        .file("users.txt", "")
        .file("acl", rules);
    let managed = start(config);
    let mut device = managed.gateway.client(Kind::Dtls);
    let token = device.create("meter-17");
    let with = |path: &str| Request::post(&format!("ps/{path}?c=meter-17&t={token}")).payload("x");
    device.request(&with("dev/meter-17/t")).expect(code::CHANGED);
    device.request(&with("other/t")).expect(code::UNAUTHORIZED);
    device
        .request(&Request::post("ps/dev/meter-17/t?c=meter-17&t=not-the-token"))
        .expect(code::UNAUTHORIZED);
    let mut stranger = managed.gateway.client(Kind::Udp);
    stranger
        .request(&Request::post("mqtt/connection?c=meter-18&u=mallory&p=hunter2"))
        .expect(code::UNAUTHORIZED);
    let mut again = managed.gateway.client(Kind::Dtls);
    let moved = Request::post(&format!("ps/dev/meter-17/t?c=meter-17&t={token}"));
    again.request(&moved.payload("y")).expect(code::CHANGED);
    again.create("meter-17");
    again.close();
    let options = dtls::Options::psk("dev1", b"another's key...").patience(ms(6000));
    assert!(dtls::connect(managed.gateway.dtls_addr(), &options).is_err());
    (managed, token)
}

#[test]
fn the_life_of_a_device_stands_in_the_log_and_in_the_events() {
    let (managed, token) = lived();
    let came = told(&managed, "connected", "meter-17");
    assert_eq!(
        (&came["transport"], &came["username"]),
        (&json!("dtls"), &json!("dev1"))
    );
    let denied = told(&managed, "denied", "meter-17");
    assert_eq!(
        (&denied["action"], &denied["topic"]),
        (&json!("publish"), &json!("other/t"))
    );
    assert!(
        denied["detail"].as_str().unwrap().starts_with("denied"),
        "{denied}"
    );
    told(&managed, "token_refused", "meter-17");
    let refused = told(&managed, "login_refused", "meter-18");
    assert_eq!(
        (&refused["username"], &refused["reason"]),
        (&json!("mallory"), &json!("bad_credentials"))
    );
    let moved = told(&managed, "moved", "meter-17");
    assert!(
        moved["from"].is_string() && moved["from"] != moved["address"],
        "{moved}"
    );
    told(&managed, "taken_over", "meter-17");
    let gone = told(&managed, "disconnected", "meter-17");
    assert_eq!(gone["reason"], "replaced");
    told(&managed, "session_started", "dev1");
    assert_eq!(told(&managed, "session_ended", "dev1")["reason"], "close_notify");
    let failed = told(&managed, "handshake_failed", "dev1");
    assert_eq!(failed["reason"], "wrong_key");

    let log = managed.gateway.log();
    for words in [
        &[
            "client: connected",
            "client=\"meter-17\"",
            "user=\"dev1\"",
            "listener=\"dtls:default\"",
        ][..],
        &[
            "client: denied: publish \"other/t\" denied",
            "client=\"meter-17\"",
        ],
        &[
            "client: login refused",
            "user=\"mallory\"",
            "client=\"meter-18\"",
            "bad_credentials",
        ],
        &["client: handshake failed", "identity=\"dev1\"", "wrong_key"],
        &["client: disconnected", "client=\"meter-17\"", "replaced"],
        &["client: taken over", "client=\"meter-17\""],
        &["client: moved from", "client=\"meter-17\""],
    ] {
        let said = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(log.lines().any(said), "no line with {words:?} in:\n{log}");
    }
    for secret in ["hunter2", "not-the-token", token.as_str()] {
        assert!(!log.contains(secret), "{secret} in:\n{log}");
    }
    assert!(
        !log.contains("portcullis::") && !log.contains("client: request"),
        "{log}"
    );
}

#[test]
fn who_listens_hears_what_happens_from_the_place_where_it_stopped() {
    let managed = start(Config::new().connection_mode());
    let mut device = managed.gateway.client(Kind::Udp);
    for number in 0..5 {
        device.create(&format!("d-{number}"));
    }
    told(&managed, "connected", "d-4");
    assert_eq!(kept(&managed, "&client=d-3").len(), 1);
    assert_eq!(kept(&managed, "&listener=default&last=2").len(), 2);
    assert!(kept(&managed, "&listener=other").is_empty());
    let path = "/api/v1/events?follow=false&kind=nonsense";
    get(managed.admin, path).error(400, "bad_request");

    let mut stream = TcpStream::connect(managed.admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET /api/v1/events?kind=connected HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nLast-Event-ID: 4\r\n\r\n",
        managed.admin
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut next = || {
        lines
            .find_map(|line| Some(line.strip_prefix("data: ")?.to_owned()))
            .unwrap()
    };
    let event: Value = serde_json::from_str(&next()).unwrap();
    assert_eq!((&event["id"], &event["clientid"]), (&json!(5), &json!("d-4")));
    device.create("d-5");
    let event: Value = serde_json::from_str(&next()).unwrap();
    assert_eq!(event["clientid"], "d-5");
}

#[test]
fn one_who_fails_without_end_fills_neither_log_nor_events() {
    let managed = start(
        Config::new()
            .connection_mode()
            .set("limits", "failed_logins_per_minute = 0"),
    );
    let mut device = managed.gateway.client(Kind::Udp);
    let token = device.create("good");
    for _ in 0..200 {
        device
            .request(&Request::put("mqtt/connection?c=good&t=wrong"))
            .expect(code::UNAUTHORIZED);
    }
    wait_until("the count of what was left out", || {
        !kept(&managed, "&kind=left_out").is_empty()
    });
    let left_out: u64 = kept(&managed, "&kind=left_out")
        .iter()
        .map(|event| event["count"].as_u64().unwrap())
        .sum();
    let each = kept(&managed, "&kind=token_refused").len() as u64;
    assert!(
        each < 100 && each + left_out <= 200 && left_out > 50,
        "{each} and {left_out}"
    );
    managed.gateway.says("client: left out: ");
    assert_eq!(device.heartbeat("good", &token), code::CHANGED);
}

#[test]
fn each_request_stands_in_the_log_at_debug_and_in_no_event() {
    let managed = start(Config::new().set("log", "level = \"debug\""));
    let mut device = managed.gateway.client(Kind::Udp);
    device
        .request(&Request::put("ps/a/b?c=meter-5").payload("secret-payload"))
        .expect(code::CHANGED);
    wait_until("the request in the log", || {
        let log = managed.gateway.log();
        log.contains("client: request PUT /ps/a/b") && log.contains("client: answer 2.04 Changed after ")
    });
    assert!(!managed.gateway.log().contains("secret-payload"));
    std::thread::sleep(ms(50));
    assert!(kept(&managed, "").is_empty());
}
