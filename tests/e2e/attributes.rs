//! What is known of a client keeps it to its own topics, and what one listener has of its own.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::coap::typ;
use crate::support::jwt::hs256;
use crate::support::ports::{self, Port};
use crate::support::{Client, Config, Gateway, Kind, Request, code, ms, wait_until};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Clients log in by a token, and whoever comes to the listener `open` sees every topic.
fn config(open: &Port) -> Config {
    let listener = format!(
        "bind = \"127.0.0.1:{}\"\nauthentication = false\nmountpoint = \"\"",
        open.number
    );
    Config::new()
        .set("authentication", "backend = \"jwt\"")
        .set("authentication.jwt", "key_file = \"jwt.key\"")
        .file("jwt.key", SECRET)
        .set("listeners.udp.open", &listener)
}

fn watcher(open: &Port) -> Client {
    Client::udp(SocketAddr::from(([127, 0, 0, 1], open.number)))
}

/// A publish by somebody of whom a token tells this.
fn publish(client: &mut Client, topic: &str, attributes: &Value) -> u8 {
    let token = hs256(SECRET, &json!({ "client_attrs": attributes }));
    let request = Request::put(&format!("ps/{topic}?username=u&password={token}")).payload("x");
    client.request(&request).code
}

#[test]
fn an_attribute_is_a_level_of_the_mountpoint_and_no_way_out_of_it() {
    let open = ports::reserve();
    let gateway = Gateway::start(config(&open).coap("mountpoint = \"t/${attr.tenant}/\""));
    let mut watcher = watcher(&open);
    let all = watcher.observe("ps/#");
    let mut client = gateway.client(Kind::Udp);
    assert_eq!(
        publish(&mut client, "a", &json!({"tenant": "acme"})),
        code::CHANGED
    );
    assert_eq!(watcher.notification(&all.token).text(), "x");
    for (attributes, wanted) in [
        (json!({"tenant": "a/b"}), code::BAD_REQUEST),
        (json!({"tenant": "../acme"}), code::BAD_REQUEST),
        (json!({"tenant": "+"}), code::BAD_REQUEST),
        (json!({"tenant": "#"}), code::BAD_REQUEST),
        (json!({"tenant": "a\u{0}"}), code::UNAUTHORIZED),
        (json!({"tenant": "a\n"}), code::UNAUTHORIZED),
        (json!({"tenant": ["acme"]}), code::UNAUTHORIZED),
        (json!({"tenant": ""}), code::UNAUTHORIZED),
        (json!({"tenant": null}), code::UNAUTHORIZED),
        (json!({"Tenant": "acme"}), code::UNAUTHORIZED),
        (json!({}), code::UNAUTHORIZED),
    ] {
        assert_eq!(publish(&mut client, "a", &attributes), wanted, "{attributes}");
        assert_eq!(
            publish(&mut client, "acme/a", &attributes),
            wanted,
            "{attributes}"
        );
    }
    watcher.no_notification(&all.token, ms(300));
    assert_eq!(
        publish(&mut client, "b", &json!({"tenant": "acme"})),
        code::CHANGED
    );
    assert_eq!(watcher.notification(&all.token).text(), "x");
}

#[test]
fn an_attribute_stands_in_rules_and_is_told_with_who_comes() {
    let open = ports::reserve();
    let rules = "topic read $portcullis/#\npattern readwrite own/${attr.tenant}/#\n";
    let config = config(&open)
        .set("authorization", "acl_file = \"acl\"")
        .file("acl", rules);
    let gateway = Gateway::start(config);
    let mut client = gateway.client(Kind::Udp);
    let acme = json!({"tenant": "acme"});
    assert_eq!(publish(&mut client, "own/acme/a", &acme), code::CHANGED);
    for attributes in [
        &acme,
        &json!({"tenant": "+"}),
        &json!({"tenant": "#"}),
        &json!({}),
    ] {
        assert_eq!(
            publish(&mut client, "own/other/a", attributes),
            code::UNAUTHORIZED,
            "{attributes}"
        );
    }
    let mut watcher = watcher(&open);
    let path = "ps/$portcullis/+/clients/+/connected";
    let told = watcher.observe(path);
    let token = hs256(SECRET, &json!({ "client_attrs": {"tenant": "acme", "floor": 3} }));
    let create = Request::post("mqtt/connection?c=m-7").payload(token);
    client.request(&create).expect(code::CREATED);
    let first = watcher.notification(&told.token);
    // Its address is not proved, so the event comes in small blocks.
    let event = watcher.rest_of(&Request::get(path), &first);
    let event: Value = serde_json::from_slice(&event).unwrap();
    assert_eq!(
        event["attributes"],
        json!({"tenant": "acme", "floor": "3"}),
        "{event}"
    );
}

#[test]
fn one_listener_asks_for_connections_and_the_other_does_not() {
    let lines = "connection_required = true\nheartbeat = \"400ms\"\nnotify_type = \"con\"";
    let gateway = Gateway::start(Config::new().dtls(lines));
    let mut plain = gateway.client(Kind::Udp);
    let mut sealed = gateway.client(Kind::Dtls);
    sealed.request(&Request::get("ps/t")).expect(code::BAD_REQUEST);
    let token = sealed.create("m-1");
    let observed = sealed.observe(&format!("ps/t?c=m-1&t={token}"));
    let by_plain = plain.observe("ps/t");
    plain
        .request(&Request::put("ps/t?q=0").payload("x"))
        .expect(code::CHANGED);
    assert_eq!(plain.notification(&by_plain.token).typ, typ::NON);
    assert_eq!(sealed.notification(&observed.token).typ, typ::CON);
    // It lives by the heartbeat of the listener that it is used from.
    let kept = plain.create("m-2");
    wait_until("the connection runs out", || {
        std::thread::sleep(ms(900));
        sealed
            .request(&Request::put(&format!("mqtt/connection?c=m-1&t={token}")))
            .code
            == code::UNAUTHORIZED
    });
    assert_eq!(plain.heartbeat("m-2", &kept), code::CHANGED);
}
