//! Devices that sleep: how long they may be silent, and whether they can be reached.

use std::process::Command;
use std::thread::sleep;

use serde_json::Value;

use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option, wait_until};

/// A gateway in connection mode with a command line and short times.
fn gateway(coap: &str, sleep: &str) -> Gateway {
    let config = Config::new()
        .coap(&format!("connection_required = true\n{coap}"))
        .set("coap.sleep", sleep)
        .set("admin", "bind = \"\"\nsocket = \"admin.sock\"");
    Gateway::start(config)
}

/// `portcullis ... --json`.
fn asked(gateway: &Gateway, arguments: &[&str]) -> Option<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .args(["--json", "--config"])
        .arg(gateway.path("portcullis.toml"))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

fn shown(gateway: &Gateway, client: &str) -> Option<Value> {
    asked(gateway, &["clients", "show", client])
}

#[track_caller]
fn becomes(gateway: &Gateway, client: &str, state: &str) {
    wait_until(&format!("{client} is {state}"), || {
        shown(gateway, client).is_some_and(|it| it["state"] == state)
    });
}

/// Creates a connection with `more` parameters; its token, and the answer.
fn create(client: &mut Client, id: &str, more: &str) -> (String, Message) {
    let answer = client.request(&Request::post(&format!("mqtt/connection?clientid={id}{more}")));
    (answer.clone().expect(code::CREATED).text(), answer)
}

/// A heartbeat with `more` parameters.
fn beat(client: &mut Client, id: &str, token: &str, more: &str) -> Message {
    client.request(&Request::put(&format!(
        "mqtt/connection?clientid={id}&token={token}{more}"
    )))
}

#[test]
fn a_device_that_says_so_may_be_silent_for_longer_than_the_heartbeat() {
    for kind in [Kind::Udp, Kind::Dtls] {
        let gateway = gateway("heartbeat = \"500ms\"", "");
        let mut others = gateway.client_as(kind, "dev2");
        let (other, _) = create(&mut others, "wakeful", "");
        let mut device = gateway.client(kind);
        let (token, answer) = create(&mut device, "sleeper", "&lifetime=3600");
        assert_eq!(answer.uint(option::MAX_AGE), Some(3600));
        gateway.metric_becomes("connections_total", &["result=\"expired\""], 1.0);
        assert_eq!(
            beat(&mut others, "wakeful", &other, "").code,
            code::UNAUTHORIZED,
            "who said nothing is held to the heartbeat"
        );
        let it = shown(&gateway, "sleeper").unwrap();
        assert_eq!(
            (&it["state"], &it["lifetime_seconds"]),
            (&"online".into(), &3600.into())
        );
        assert_eq!(beat(&mut device, "sleeper", &token, "").code, code::CHANGED);
        // 0 takes it back.
        let back = beat(&mut device, "sleeper", &token, "&lifetime=0").expect(code::CHANGED);
        assert_eq!(back.uint(option::MAX_AGE), None);
        gateway.metric_becomes("connections_total", &["result=\"expired\""], 2.0);
    }
}

#[test]
fn a_lifetime_that_is_too_long_is_cut_and_the_answer_says_so() {
    let gateway = gateway("", "max_lifetime = \"2h\"");
    let mut device = gateway.client(Kind::Udp);
    let (token, answer) = create(&mut device, "a", "&lifetime=4294967295");
    assert_eq!(answer.uint(option::MAX_AGE), Some(7200));
    let again = beat(&mut device, "a", &token, "&lifetime=90").expect(code::CHANGED);
    assert_eq!(again.uint(option::MAX_AGE), Some(90));
    for wrong in ["", "-1", "1.5", "4294967296", "1h"] {
        beat(&mut device, "a", &token, &format!("&lifetime={wrong}"))
            .expect(code::BAD_REQUEST)
            .naming("lifetime");
    }
    assert_eq!(beat(&mut device, "a", &token, "").code, code::CHANGED);
    assert_eq!(shown(&gateway, "a").unwrap()["lifetime_seconds"], 90);
}

#[test]
fn a_lifetime_goes_on_after_a_kill() {
    let mut gateway = gateway("heartbeat = \"700ms\"", "");
    let mut device = gateway.client(Kind::Dtls);
    let (token, _) = create(&mut device, "a", "&lifetime=600");
    gateway.kill();
    gateway.launch();
    gateway.metric_becomes("connections_total", &["result=\"restored\""], 1.0);
    sleep(ms(1500));
    assert_eq!(shown(&gateway, "a").unwrap()["lifetime_seconds"], 600);
    assert_eq!(beat(&mut device, "a", &token, "").code, code::CHANGED);
}

#[test]
fn who_is_silent_for_its_lifetime_is_lost_until_it_is_heard_of() {
    let config = Config::new()
        .coap("connection_required = true\nheartbeat = \"1h\"")
        .set("admin", "bind = \"\"\nsocket = \"admin.sock\"")
        .set("authorization", "acl_file = \"acl.txt\"")
        .file("acl.txt", "topic read $portcullis/#\n");
    let gateway = Gateway::start(config);
    let mut watcher = gateway.client(Kind::Udp);
    let (watching, _) = create(&mut watcher, "watcher", "");
    let news = watcher.observe(&format!(
        "ps/$portcullis/+/clients/sleeper/+?clientid=watcher&token={watching}"
    ));
    let mut told = || -> Value {
        let notification = watcher.notification(&news.token);
        serde_json::from_slice(&notification.payload).unwrap()
    };
    let mut device = gateway.client(Kind::Udp);
    let (token, _) = create(&mut device, "sleeper", "&lifetime=20");
    assert_eq!(told()["clientid"], "sleeper");
    becomes(&gateway, "sleeper", "lost");
    gateway.metric_becomes("connection_states", &["state=\"lost\""], 1.0);
    let lost = told();
    assert!(lost["idle_seconds"].as_u64().unwrap() >= 20, "{lost}");
    let beaten = beat(&mut device, "sleeper", &token, "&lifetime=1");
    beaten.expect(code::CHANGED);
    assert!(told()["idle_seconds"].is_number());
    gateway.metric_becomes("connections_total", &["result=\"expired\""], 1.0);
    gateway.metric_becomes("connection_states", &["state=\"lost\""], 0.0);
    let last = std::iter::repeat_with(told).find(|news| news["reason"].is_string());
    assert_eq!(last.unwrap()["reason"], "expired");
    let log = gateway.log();
    for line in ["lost after", "awake after", "disconnected"] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn who_has_no_session_any_more_sleeps_until_it_shakes_hands_again() {
    let gateway = gateway("heartbeat = \"1h\"", "");
    let mut device = gateway.client(Kind::Dtls);
    let (token, _) = create(&mut device, "a", "&lifetime=600");
    becomes(&gateway, "a", "online");
    device.close();
    becomes(&gateway, "a", "asleep");
    gateway.metric_becomes("connection_states", &["state=\"asleep\""], 1.0);
    let mut again = gateway.client(Kind::Dtls);
    assert_eq!(beat(&mut again, "a", &token, "").code, code::CHANGED);
    becomes(&gateway, "a", "online");
    gateway.metric_becomes("connection_states", &["state=\"asleep\""], 0.0);
    let log = gateway.log();
    assert!(
        log.contains("asleep after") && log.contains("awake after"),
        "{log}"
    );
}

#[test]
fn where_the_handshake_is_the_connection_a_heartbeat_says_how_long_it_may_sleep() {
    let config = Config::new()
        .coap("connection_required = true\nheartbeat = \"1s\"")
        .dtls("identity = \"clientid\"")
        .set("admin", "bind = \"\"\nsocket = \"admin.sock\"");
    let gateway = Gateway::start(config);
    let mut device = gateway.client_as(Kind::Dtls, "dev1");
    let answer = device.request(&Request::put("mqtt/connection?lifetime=120"));
    assert_eq!(answer.expect(code::CHANGED).uint(option::MAX_AGE), Some(120));
    let expired = || gateway.metric("connections_total", &["result=\"expired\""]);
    let before = expired();
    let mut other = gateway.client_as(Kind::Dtls, "dev2");
    other
        .request(&Request::put("mqtt/connection"))
        .expect(code::CHANGED);
    wait_until("dev2 went", || {
        expired() > before && shown(&gateway, "dev2").is_some_and(|it| it["connection"] == false)
    });
    let it = shown(&gateway, "dev1").unwrap();
    assert_eq!(
        (&it["state"], &it["connection"]),
        (&"online".into(), &true.into())
    );
}
