//! Who is banned is out at once, stays out over a restart, and comes in again when the ban is lifted or over.

use std::net::SocketAddr;
use std::process::Command;
use std::thread::sleep;

use crate::support::{Client, Config, Gateway, Kind, Request, code, ms, wait_until};

/// `portcullis ban ...` by the gateway's socket.
fn ban(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("ban")
        .args(arguments)
        .arg("--config")
        .arg(gateway.path("portcullis.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn managed(config: Config) -> Gateway {
    Gateway::start(config.set("admin", "bind = \"\"\nsocket = \"admin.sock\""))
}

/// A handshake, and then whether the session is there for a request.
fn comes_in(gateway: &Gateway, identity: &str) -> bool {
    let mut client = gateway.client_as(Kind::Dtls, identity);
    client
        .try_request(&Request::put("ps/try").payload("x"), ms(500))
        .is_some()
}

#[test]
fn a_banned_client_loses_its_connection_and_comes_back_from_nowhere() {
    for kind in [Kind::Udp, Kind::Dtls] {
        let gateway = managed(Config::new().connection_mode().set("node", "workers = 2"));
        let mut other = gateway.client(kind);
        let kept = other.create("meter-78");
        let mut client = gateway.client(kind);
        let token = client.create("meter-77");
        let watched = format!("ps/t?clientid=meter-77&token={token}");
        let observation = client.observe(&watched);
        ban(&gateway, &["add", "clientid", "meter-77", "--reason", "stolen"]);
        gateway.metric_becomes("subscriptions", &[], 0.0);
        gateway.metric_becomes("connections", &[], 1.0);
        other.publish(&format!("ps/t?clientid=meter-78&token={kept}"), "x");
        client.no_notification(&observation.token, ms(300));
        // From a new address, with a new session, by its old token and by a new login.
        let mut again = gateway.client(kind);
        again.request(&Request::get(&watched)).expect(code::UNAUTHORIZED);
        let create = Request::post("mqtt/connection?clientid=meter-77");
        let refused = again.request(&create).expect(code::UNAUTHORIZED);
        assert_eq!(refused.text(), "Login Failed: banned");
        assert!(gateway.metric("bans_enforced_total", &["kind=\"clientid\""]) >= 2.0);
        assert_eq!(gateway.metric("bans", &["kind=\"clientid\""]), 1.0);
        ban(&gateway, &["remove", "clientid", "meter-77"]);
        again.request(&create).expect(code::CREATED);
        assert_eq!(other.heartbeat("meter-78", &kept), code::CHANGED);
        gateway.says("subject=\"meter-77\"");
    }
}

#[test]
fn a_banned_client_that_shares_an_address_takes_nobody_with_it() {
    let gateway = managed(Config::new());
    let mut proxy = gateway.client(Kind::Udp);
    let bad = proxy.observe("ps/a?clientid=tap-1");
    let good = proxy.observe("ps/b?clientid=tap-2");
    ban(&gateway, &["add", "clientid", "tap-1"]);
    let last = proxy.notification(&bad.token);
    assert_eq!(last.code, code::UNAUTHORIZED);
    proxy
        .request(&Request::put("ps/b?clientid=tap-1").payload("x"))
        .expect(code::UNAUTHORIZED);
    proxy.publish("ps/b?clientid=tap-2", "still");
    assert_eq!(proxy.notification(&good.token).text(), "still");
}

#[test]
fn a_banned_identity_loses_its_session_and_gets_no_other() {
    let config = Config::new().dtls("identity = \"clientid\"");
    let mut gateway = managed(config);
    let mut client = gateway.client_as(Kind::Dtls, "dev1");
    client.observe("ps/t");
    let mut other = gateway.client_as(Kind::Dtls, "dev2");
    let watching = other.observe("ps/t");
    for (kind, value) in [
        ("identity", "dev1"),
        ("identity", "hex:64657631"),
        ("clientid", "dev1"),
    ] {
        if kind == "clientid" {
            client = gateway.client_as(Kind::Dtls, "dev1");
            client.observe("ps/t");
        }
        ban(&gateway, &["add", kind, value]);
        gateway.metric_becomes("subscriptions", &[], 1.0);
        wait_until("the session ends", || client.ended().is_some());
        assert!(!comes_in(&gateway, "dev1"), "{kind}");
        other.publish("ps/t", kind);
        assert_eq!(other.notification(&watching.token).text(), kind);
        let listed = ban(&gateway, &["list", "--json"]);
        assert!(listed.contains("\"value\": \"dev1\""), "{listed}");
        ban(&gateway, &["remove", kind, value]);
        assert!(comes_in(&gateway, "dev1"), "{kind}");
    }
    // A restart forgets no ban.
    ban(&gateway, &["add", "identity", "dev1", "--for", "1h"]);
    assert!(gateway.stop().success());
    gateway.launch();
    assert!(!comes_in(&gateway, "dev1"));
    assert!(comes_in(&gateway, "dev2"));
    gateway.assert_serves();
}

#[test]
fn a_banned_network_is_not_heard_at_all() {
    let gateway = managed(Config::new());
    let local = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
    let from = |ip: &str| Client::udp_from(gateway.udp_addr(), local(ip));
    let (mut inside, mut outside) = (from("127.44.1.9"), from("127.44.2.9"));
    inside.observe("ps/t");
    let until = ["--until", "2999-01-01T00:00:00Z"];
    ban(&gateway, &["add", "address", "127.44.1.0/24", until[0], until[1]]);
    gateway.metric_becomes("subscriptions", &[], 0.0);
    let hello = Request::put("ps/t").payload("x");
    assert!(inside.try_request(&hello, ms(300)).is_none());
    outside.request(&hello).expect(code::CHANGED);
    assert!(gateway.metric("datagrams_dropped_total", &["reason=\"banned\""]) >= 1.0);
    ban(&gateway, &["remove", "address", "127.44.1.0/24"]);
    inside.request(&hello).expect(code::CHANGED);
    gateway.assert_serves();
}

#[test]
fn a_ban_is_over_when_its_time_is() {
    let gateway = managed(Config::new());
    let mut client = gateway.client(Kind::Udp);
    let asks = Request::put("ps/t?clientid=brief").payload("x");
    ban(&gateway, &["add", "clientid", "brief", "--for", "2s"]);
    client.request(&asks).expect(code::UNAUTHORIZED);
    wait_until("the ban is over", || {
        sleep(ms(100));
        client.request(&asks).code == code::CHANGED
    });
    assert_eq!(ban(&gateway, &["list", "--json"]).trim(), "[]");
}
