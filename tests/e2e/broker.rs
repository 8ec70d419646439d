//! The embedded broker keeps its retained messages.

use crate::support::{Config, Gateway, Kind, Request, code};

/// Retained messages of each kind: plain, cleared, replaced, with format, long, expiring late.
fn fill(gateway: &Gateway) {
    let mut client = gateway.client(Kind::Udp);
    client.publish("ps/kept?retain=1", "kept");
    client.publish("ps/cleared?retain=1", "gone");
    client
        .request(&Request::delete("ps/cleared"))
        .expect(code::DELETED);
    client.publish("ps/replaced?retain=1", "old");
    client.publish("ps/replaced?retain=1", "new");
    client
        .request(&Request::post("ps/format?retain=1").format(60).payload("cbor"))
        .expect(code::CHANGED);
    client.publish("ps/long?retain=1", vec![b'x'; 5000]);
    client.publish("ps/late?retain=1&expiry=3600", "late");
    client.publish("ps/qos0?retain=1&qos=0", "qos 0");
    client.publish("ps/passing", "passing");
}

fn check(gateway: &Gateway) {
    let mut client = gateway.client(Kind::Dtls);
    assert_eq!(client.read("ps/kept"), b"kept");
    client
        .request(&Request::get("ps/cleared"))
        .expect(code::NOT_FOUND);
    assert_eq!(client.read("ps/replaced"), b"new");
    assert_eq!(
        client
            .request(&Request::get("ps/format"))
            .expect(code::CONTENT)
            .format(),
        Some(60)
    );
    assert_eq!(client.read("ps/long"), vec![b'x'; 5000]);
    assert_eq!(client.read("ps/late"), b"late");
    client
        .request(&Request::get("ps/passing"))
        .expect(code::NOT_FOUND);
    assert_eq!(client.observe("ps/kept").first.text(), "kept");
}

#[test]
fn retained_messages_survive_a_restart() {
    let mut gateway = Gateway::start(Config::new());
    fill(&gateway);
    assert!(gateway.stop().success());
    gateway.launch();
    check(&gateway);
    assert_eq!(
        gateway.client(Kind::Udp).read("ps/qos0"),
        b"qos 0",
        "an orderly stop writes everything"
    );
}

#[test]
fn retained_messages_survive_kill_9() {
    let mut gateway = Gateway::start(Config::new());
    fill(&gateway);
    gateway.kill();
    gateway.launch();
    check(&gateway);
}

#[test]
fn an_acknowledged_retained_message_survives_kill_9_at_once() {
    let mut gateway = Gateway::start(Config::new());
    for round in 0..5 {
        gateway
            .client(Kind::Udp)
            .publish("ps/a?retain=1", format!("{round}"));
        gateway.kill();
        gateway.launch();
        assert_eq!(
            gateway.client(Kind::Dtls).read("ps/a"),
            format!("{round}").as_bytes()
        );
    }
}

#[test]
fn an_expired_retained_message_does_not_come_back() {
    let mut gateway = Gateway::start(Config::new());
    gateway
        .client(Kind::Udp)
        .publish("ps/a?retain=1&expiry=1", "short");
    assert!(gateway.stop().success());
    std::thread::sleep(std::time::Duration::from_millis(1200));
    gateway.launch();
    gateway
        .client(Kind::Udp)
        .request(&Request::get("ps/a"))
        .expect(code::NOT_FOUND);
}
