//! What topics, filters, client ids and user names may be.

use crate::each_transport;
use crate::support::dtls::Options;
use crate::support::gateway::hex;
use crate::support::{Client, Config, Gateway, Kind, Request, code, psk_of};

each_transport!(
    topics_over_the_limits_are_refused_with_the_limit,
    the_limits_hold_for_the_topic_that_the_broker_sees,
    limits_change_with_a_reload,
    topics_and_filters_that_mqtt_does_not_carry_are_refused,
    client_ids_that_mqtt_does_not_carry_are_refused,
    user_names_that_mqtt_does_not_carry_are_refused,
);

/// Control characters, and non-characters of three planes.
const UNSENDABLE: [&str; 9] = [
    "\u{1}",
    "\t",
    "\u{1f}",
    "\u{7f}",
    "\u{80}",
    "\u{9f}",
    "\u{fdd5}",
    "\u{fffe}",
    "\u{affff}",
];

/// Everything that can be done with a topic.
fn operations(topic: &str) -> [Request; 6] {
    let at = |request: Request| topic.split('/').fold(request, Request::segment);
    [
        at(Request::post("ps")).payload("x"),
        at(Request::put("ps?qos=0")).payload("x").non(),
        at(Request::get("ps")),
        at(Request::get("ps")).observe(0),
        at(Request::get("ps")).observe(1),
        at(Request::delete("ps")),
    ]
}

#[track_caller]
fn refused(client: &mut Client, topic: &str, diagnostic: &str) {
    for request in operations(topic) {
        client
            .request(&request)
            .expect(code::BAD_REQUEST)
            .naming(diagnostic);
    }
}

#[track_caller]
fn taken(client: &mut Client, topic: &str) {
    let path = format!("ps/{topic}");
    let observation = client.observe(&path);
    client.publish(&path, "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
}

fn deep(levels: usize) -> String {
    vec!["l"; levels].join("/")
}

fn long(bytes: usize) -> String {
    let segment = "s".repeat(100);
    let mut topic = vec![segment; bytes / 101].join("/");
    topic.push('/');
    topic.push_str(&"s".repeat(bytes - topic.len()));
    topic
}

fn topics_over_the_limits_are_refused_with_the_limit(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(kind);
    taken(&mut client, &deep(32));
    taken(&mut client, &long(1024));
    refused(&mut client, &deep(33), "more than 32 levels");
    refused(&mut client, &long(1025), "longer than 1024 bytes");
    client
        .request(&Request::get(&format!("ps/{}/#", vec!["+"; 32].join("/"))).observe(0))
        .expect(code::BAD_REQUEST)
        .naming("more than 32 levels");
    client.observe(&format!("ps/{}/#", vec!["+"; 31].join("/")));
    assert_eq!(
        gateway.metric("limits_rejected_total", &["limit=\"topics\""]),
        13.0
    );
}

fn the_limits_hold_for_the_topic_that_the_broker_sees(kind: Kind) {
    let config = Config::new()
        .coap("mountpoint = \"site/${listener}/\"")
        .set("limits", "topic_levels = 9\ntopic_bytes = 300");
    let gateway = Gateway::start(config);
    let mut client = gateway.client(kind);
    taken(&mut client, &deep(7));
    taken(&mut client, &long(300 - "site/default/".len()));
    refused(&mut client, &deep(8), "more than 9 levels");
    refused(
        &mut client,
        &long(301 - "site/default/".len()),
        "longer than 300 bytes",
    );
}

fn limits_change_with_a_reload(kind: Kind) {
    let config =
        |levels: u32| Config::new().set("limits", &format!("topic_levels = {levels}\ntopic_bytes = 0"));
    let gateway = Gateway::start(config(5));
    let mut client = gateway.client(kind);
    refused(&mut client, &deep(6), "more than 5 levels");
    taken(&mut client, "s".repeat(250).as_str());
    gateway.configure(&config(0));
    assert!(gateway.reloaded());
    taken(&mut client, &deep(200));
    refused(&mut client, &deep(201), "more than 200 levels");
}

fn topics_and_filters_that_mqtt_does_not_carry_are_refused(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(kind);
    for odd in UNSENDABLE {
        let diagnostic = format!("U+{:04X}", u32::from(odd.chars().next().unwrap()));
        refused(&mut client, &format!("a/b{odd}c"), &diagnostic);
        let filter = Request::get("ps")
            .segment("+")
            .segment(odd)
            .segment("#")
            .observe(0);
        client
            .request(&filter)
            .expect(code::BAD_REQUEST)
            .naming(&diagnostic);
    }
    taken(&mut client, "50%off/zähler/\u{a0}/\u{fffd}");
}

fn client_ids_that_mqtt_does_not_carry_are_refused(kind: Kind) {
    let gateway = Gateway::start(Config::new().coap("mountpoint = \"by/${clientid}/\""));
    let mut client = gateway.client(kind);
    for odd in UNSENDABLE {
        for request in [
            Request::post("mqtt/connection").query(format!("clientid=a{odd}b")),
            Request::post("ps/t").payload("x").query(format!("c={odd}")),
            Request::get("ps/t").observe(0).query(format!("c={odd}")),
        ] {
            client
                .request(&request)
                .expect(code::BAD_REQUEST)
                .naming("clientid");
        }
    }
    client.create("zähler 1");
}

fn user_names_that_mqtt_does_not_carry_are_refused(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(kind);
    for odd in UNSENDABLE {
        for request in [
            Request::post("mqtt/connection?clientid=a").query(format!("username=a{odd}b")),
            Request::post("ps/t").payload("x").query(format!("u={odd}")),
        ] {
            client
                .request(&request)
                .expect(code::BAD_REQUEST)
                .naming("username");
        }
    }
    client.publish("ps/t?u=zähler", "x");
}

#[test]
fn an_identity_that_mqtt_does_not_carry_is_known_by_its_digits() {
    let odd = "dev\u{1}";
    for setting in [
        "identity = \"clientid\"",
        "identity = \"username\"",
        "mountpoint = \"of/${identity}/\"",
    ] {
        let keys = [odd, "dev4"]
            .map(|name| format!("hex:{}:{}\n", hex(name.as_bytes()), hex(psk_of(name).as_bytes())));
        let gateway = Gateway::start(Config::new().dtls(setting).file("psk.txt", keys.concat()));
        let options = Options::psk(odd, psk_of(odd).as_bytes());
        let mut client = Client::dtls(gateway.dtls_addr(), &options);
        client
            .request(&Request::post("ps/t").payload("x"))
            .expect(code::CHANGED);
        gateway.assert_serves();
    }
}
