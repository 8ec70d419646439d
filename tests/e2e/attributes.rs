//! What is known of a client keeps it to its own topics, and what one listener has of its own.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::coap::typ;
use crate::support::dtls::Options;
use crate::support::gateway::hex;
use crate::support::jwt::hs256;
use crate::support::pki::Pki;
use crate::support::ports::{self, Port};
use crate::support::{Client, Config, Gateway, Kind, Request, code, ms, psk_of, wait_until};

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

/// A device over DTLS, its topics below what is known of it, and somebody who sees them all.
fn below_its_site(config: Config, open: &Port) -> Gateway {
    let listener = format!("bind = \"127.0.0.1:{}\"\nmountpoint = \"\"", open.number);
    Gateway::start(
        config
            .set("listeners.udp.open", &listener)
            .dtls("mountpoint = \"t/${attr.site}/\""),
    )
}

#[test]
fn what_stands_behind_a_key_is_an_attribute_of_who_has_it() {
    let open = ports::reserve();
    let gateway = below_its_site(Config::new(), &open);
    let key = |identity: &str| hex(psk_of(identity).as_bytes());
    let keys = format!(
        "dev1:{} {{\"site\": \"north\"}}\ndev2:{} {{\"site\": \"a/b\"}}\ndev3:{}\ndev4:{}\n",
        key("dev1"),
        key("dev2"),
        key("dev3"),
        key("dev4"),
    );
    gateway.write("psk.txt", keys.as_bytes());
    assert!(gateway.reloaded());
    let mut watcher = watcher(&open);
    let north = watcher.observe("ps/t/north/#");
    let mut device = gateway.client(Kind::Dtls);
    device.publish("ps/a", "here");
    assert_eq!(watcher.notification(&north.token).text(), "here");
    // With a connection too.
    let token = device.create("m-1");
    device
        .request(&Request::put(&format!("ps/b?c=m-1&t={token}")).payload("there"))
        .expect(code::CHANGED);
    assert_eq!(watcher.notification(&north.token).text(), "there");
    for (identity, wanted) in [("dev2", code::BAD_REQUEST), ("dev3", code::UNAUTHORIZED)] {
        let mut other = gateway.client_as(Kind::Dtls, identity);
        let answer = other.request(&Request::put("ps/a").payload("x"));
        assert_eq!(answer.code, wanted, "{identity}");
    }
    // A new key keeps what is known of the device.
    let mut add = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    add.args(["psk", "add", "dev1", "--another", "--config"])
        .arg(gateway.path("portcullis.toml"));
    assert!(add.output().unwrap().status.success());
    let lines = std::fs::read_to_string(gateway.path("psk.txt")).unwrap();
    assert_eq!(lines.matches("{\"site\": \"north\"}").count(), 2, "{lines}");
}

#[test]
fn attributes_are_given_by_commands_and_shown_with_the_client() {
    let open = ports::reserve();
    let gateway = below_its_site(Config::new().set("admin", "bind = \"127.0.0.1:0\""), &open);
    let portcullis = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let config = gateway.path("portcullis.toml");
        let output = command.args(words).arg("--config").arg(config).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let described = portcullis(&["psk", "attributes", "dev2", r#"{"site": "attic 3", "floor": 2}"#]);
    assert_eq!(described.0, Some(0), "{described:?}");
    let added = portcullis(&["psk", "add", "dev9", "--attributes", r#"{"site": "yard"}"#]);
    assert_eq!(added.0, Some(0), "{added:?}");
    for (words, code) in [
        (["psk", "attributes", "nobody", "{}"], Some(67)),
        (["psk", "attributes", "dev2", "[]"], Some(65)),
        (["psk", "attributes", "dev2", r#"{"site": ["x"]}"#], Some(65)),
        (["psk", "attributes", "dev2", r#"{"a b": "x"}"#], Some(65)),
    ] {
        assert_eq!(portcullis(&words).0, code, "{words:?}");
    }
    assert!(gateway.reloaded());
    let (_, listed) = portcullis(&["psk", "list"]);
    assert!(
        listed.contains("dev2  floor=2  site=attic 3\n") && listed.contains("dev9  site=yard\n"),
        "{listed}"
    );
    let mut watcher = watcher(&open);
    let attic = watcher.observe("ps/t/attic 3/#");
    let mut device = gateway.client_as(Kind::Dtls, "dev2");
    device.publish("ps/a", "here");
    assert_eq!(watcher.notification(&attic.token).text(), "here");
    let (_, shown) = portcullis(&["clients", "show", "dev2"]);
    assert!(shown.contains("floor=2 site=attic 3"), "{shown}");
    device.create("m-2");
    let (_, shown) = portcullis(&["clients", "show", "m-2", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["attributes"], json!({"site": "attic 3", "floor": "2"}));
    // They are taken away with the next handshake.
    assert_eq!(portcullis(&["psk", "attributes", "dev2", "{}"]).0, Some(0));
    assert!(gateway.reloaded());
    let mut again = gateway.client_as(Kind::Dtls, "dev2");
    again
        .request(&Request::put("ps/a").payload("x"))
        .expect(code::UNAUTHORIZED);
}

#[test]
fn what_a_certificate_says_is_an_attribute_of_who_shows_it() {
    let open = ports::reserve();
    let pki = Pki::new();
    let config = pki
        .install(Config::new())
        .dtls("verify = \"optional\"\ncert_attributes = { site = \"cn\" }");
    let gateway = below_its_site(config, &open);
    let mut watcher = watcher(&open);
    let own = watcher.observe("ps/t/device-7/#");
    let options = Options::certificate(Some(&pki.client), &pki.ca.certificate);
    let mut device = Client::dtls(gateway.dtls_addr(), &options);
    device.publish("ps/a", "here");
    assert_eq!(watcher.notification(&own.token).text(), "here");
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
