//! The topic collection (draft-ietf-core-coap-pubsub-21): topics created, found, changed and deleted over real sockets.

use crate::each_transport;
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option};

each_transport!(
    the_collection_is_found_listed_and_filtered,
    a_topic_is_created_read_changed_and_deleted,
    what_is_no_topic_is_refused_by_name_and_nothing_is_created,
    data_of_another_content_format_is_refused,
    subscribers_beyond_the_most_are_answered_without_observe,
    a_long_list_comes_in_blocks,
);

const PUBSUB: u32 = 606;
const LOCATION_PATH: u16 = 8;

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

fn of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// `{0: name, 2: "core.ps.data"}`, and `more` entries in hex.
fn topic(name: &str, more: (u8, &str)) -> Vec<u8> {
    let mut map = vec![0xa2 + more.0, 0, 0x60 + u8::try_from(name.len()).unwrap()];
    map.extend(name.as_bytes());
    map.extend(of("02 6c 636f72652e70732e64617461"));
    map.extend(of(more.1));
    map
}

/// Creates a topic; its path.
fn create(client: &mut Client, payload: &[u8]) -> String {
    let request = Request::post("ps").format(PUBSUB).payload(payload);
    let answer = client.request(&request).expect(code::CREATED);
    assert_eq!(answer.format(), Some(PUBSUB));
    let location = answer
        .options
        .iter()
        .filter(|(number, _)| *number == LOCATION_PATH);
    let segments = location.map(|(_, value)| String::from_utf8(value.clone()).unwrap());
    segments.collect::<Vec<_>>().join("/")
}

fn text(client: &mut Client, uri: &str) -> String {
    let answer = client.request(&Request::get(uri)).expect(code::CONTENT);
    assert_eq!(answer.format(), Some(40));
    answer.text()
}

fn fetch(client: &mut Client, uri: &str, format: u32, payload: &[u8]) -> Message {
    client.request(&Request::new(code::FETCH, uri).format(format).payload(payload))
}

fn the_collection_is_found_listed_and_filtered(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    assert_eq!(
        text(&mut client, ".well-known/core?rt=core.ps.coll"),
        "</ps>;rt=\"core.ps.coll\";ct=40"
    );
    assert_eq!(text(&mut client, "ps"), "");
    let one = create(&mut client, &topic("a b", (2, "03 18 70 04 61 74")));
    let two = create(&mut client, &topic("c", (0, "")));
    let mut listed: Vec<_> = text(&mut client, "ps").split(',').map(str::to_owned).collect();
    listed.sort();
    let mut wanted = [format!("</{one}>"), format!("</{two}>")];
    wanted.sort();
    assert_eq!(listed, wanted);
    let data = text(&mut client, "ps?rt=core.ps.data&href=/ps/a*");
    assert_eq!(data, "</ps/a%20b>");
    let found = text(&mut client, ".well-known/core?rt=core.ps.conf");
    assert!(
        found.contains(&format!("</{two}>;rt=\"core.ps.conf\"")),
        "{found}"
    );
    let found = text(&mut client, ".well-known/core?rt=core.ps.data&ct=112");
    assert_eq!(found, "</ps/a%20b>;rt=\"core.ps.data\";ct=112;obs");

    let filtered = fetch(&mut client, "ps", PUBSUB, &of("a1 04 61 74")).expect(code::CONTENT);
    assert_eq!(
        (filtered.format(), filtered.text()),
        (Some(40), format!("</{one}>"))
    );
    let none = fetch(&mut client, "ps", PUBSUB, &of("a1 04 61 75")).expect(code::CONTENT);
    assert_eq!(none.text(), "");
    fetch(&mut client, "ps", 60, &of("a0")).expect(code::UNSUPPORTED_CONTENT_FORMAT);
    let refused = client.request(&Request::get("ps").uint(option::ACCEPT, 50));
    refused.expect(code::NOT_ACCEPTABLE);
    // Nothing can be published to no topic.
    for request in [Request::put("ps").payload("1"), Request::delete("ps")] {
        client.request(&request).expect(code::BAD_REQUEST).naming("empty");
    }
    client
        .request(&Request::new(code::FETCH, "ps/c"))
        .expect(code::METHOD_NOT_ALLOWED);
    gateway.metric_becomes("topics", &[], 2.0);
}

fn a_topic_is_created_read_changed_and_deleted(kind: Kind) {
    let gateway = gateway();
    let (mut client, mut other) = (gateway.client(kind), gateway.client(kind));
    let path = create(&mut client, &topic("hall", (1, "06 05")));
    let whole = "a4 00 64 68616c6c 01 68 2f70732f68616c6c 02 6c 636f72652e70732e64617461 06 05";
    let read = other.request(&Request::get(&path)).expect(code::CONTENT);
    assert_eq!((read.format(), read.payload), (Some(PUBSUB), of(whole)));
    let part = fetch(&mut other, &path, 60, &of("82 01 07")).expect(code::CONTENT);
    assert_eq!(part.payload, of("a1 01 68 2f70732f68616c6c"));

    let half = other.request(&Request::get("ps/hall").observe(0));
    half.expect(code::NOT_FOUND);
    let first = client.request(&Request::put("ps/hall").payload("21"));
    first.expect(code::CREATED);
    client.publish("ps/hall", "22");
    let observation = other.observe("ps/hall");
    assert_eq!(observation.first.text(), "22");
    client.publish("ps/hall", "23");
    assert_eq!(other.notification(&observation.token).text(), "23");

    let patch = Request::new(code::IPATCH, &path)
        .format(PUBSUB)
        .payload(of("a1 07 19 0e10"));
    let patched = client.request(&patch).expect(code::CHANGED);
    let text = "06 05 07 19 0e10";
    assert!(patched.payload.ends_with(&of(text)), "{patched:?}");
    let replace = Request::post(&path)
        .format(PUBSUB)
        .payload(of("a2 00 64 68616c6c 04 61 74"));
    let replaced = client.request(&replace).expect(code::CHANGED);
    assert!(replaced.payload.ends_with(&of("04 61 74")), "{replaced:?}");
    let rename = Request::new(code::IPATCH, &path)
        .format(PUBSUB)
        .payload(of("a1 00 61 78"));
    client
        .request(&rename)
        .expect(code::BAD_REQUEST)
        .naming("topic-name");

    client.request(&Request::delete("ps/hall")).expect(code::DELETED);
    other.notification(&observation.token).expect(code::NOT_FOUND);
    client.request(&Request::get(&path)).expect(code::CONTENT);
    client
        .request(&Request::get("ps/hall").observe(0))
        .expect(code::NOT_FOUND);
    let first = client.request(&Request::put("ps/hall").payload("24"));
    first.expect(code::CREATED);
    let observation = other.observe("ps/hall");
    client.request(&Request::delete(&path)).expect(code::DELETED);
    other.notification(&observation.token).expect(code::NOT_FOUND);
    for uri in [&path, "ps/hall"] {
        client.request(&Request::get(uri)).expect(code::NOT_FOUND);
    }
    client.request(&Request::delete(&path)).expect(code::NOT_FOUND);
    gateway.metric_becomes("subscriptions", &[], 0.0);
    // From here on it is a topic like any other.
    client.publish("ps/hall", "25");
}

fn what_is_no_topic_is_refused_by_name_and_nothing_is_created(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let standing = client.observe("ps/standing?qos=1");
    for (payload, named) in [
        (of(""), "CBOR map"),
        (of("80"), "CBOR map"),
        (of("a1 00 61 61"), "resource-type"),
        (of("a1 02 61 61"), "topic-name"),
        (topic("a/+", (0, "")), "wildcard"),
        (topic("x", (1, "18 63 00")), "no topic property"),
        (topic("x", (1, "05 c1 01")), "expiration-date"),
        (topic("x", (1, "08 41 80")), "topic-content-format"),
        (topic("x", (1, "01 68 636f61703a2f2f61")), "topic-data"),
    ] {
        let request = Request::post("ps").format(PUBSUB).payload(payload);
        client.request(&request).expect(code::BAD_REQUEST).naming(named);
    }
    let reserved = Request::post("ps").payload(topic("$SYS/x", (0, "")));
    client.request(&reserved).expect(code::UNAUTHORIZED);
    let long = Request::post("ps").format(PUBSUB).payload(vec![0x41; 5_000]);
    client.request(&long.block1(0, true, 1024).payload(vec![0; 1024]));
    create(&mut client, &topic("x", (0, "")));
    let again = Request::post("ps").payload(topic("x", (0, "")));
    client.request(&again).expect(code::BAD_REQUEST).naming("in use");
    let same_data = Request::post("ps").payload(topic("y", (1, "01 65 2f70732f78")));
    client
        .request(&same_data)
        .expect(code::BAD_REQUEST)
        .naming("in use");
    gateway.metric_becomes("topics", &[], 1.0);
    client.publish("ps/standing", "still");
    assert_eq!(client.notification(&standing.token).text(), "still");
}

fn data_of_another_content_format_is_refused(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    create(&mut client, &topic("t", (2, "03 18 3c 08 41 80")));
    let read = client.request(&Request::get("ps/t")).expect(code::CONTENT);
    assert_eq!((read.format(), read.payload), (Some(60), vec![0x80]));
    for request in [
        Request::put("ps/t").payload("x"),
        Request::put("ps/t").format(50).payload("1"),
    ] {
        client.request(&request).expect(code::UNSUPPORTED_CONTENT_FORMAT);
    }
    let fitting = Request::put("ps/t").format(60).payload([1]);
    client.request(&fitting).expect(code::CHANGED);
    gateway.metric_becomes("publishes_total", &["result=\"invalid\""], 2.0);
}

fn subscribers_beyond_the_most_are_answered_without_observe(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    create(&mut client, &topic("t", (1, "06 01")));
    client
        .request(&Request::put("ps/t").payload("1"))
        .expect(code::CREATED);
    let observation = client.observe("ps/t");
    let mut other = gateway.client(kind);
    let answer = other
        .request(&Request::get("ps/t").observe(0))
        .expect(code::CONTENT);
    assert_eq!((answer.text().as_str(), answer.observe()), ("1", None));
    // Who observes it may ask again; who leaves makes room.
    let observation = client.observe_with(Request::get("ps/t").observe(0).token(&observation.token));
    let stop = Request::get("ps/t").observe(1).token(&observation.token);
    client.request(&stop).expect(code::NO_CONTENT);
    other.observe("ps/t");
    client.publish("ps/t", "2");
    client.no_notification(&observation.token, ms(100));
}

fn a_long_list_comes_in_blocks(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for number in 0..60 {
        create(&mut client, &topic(&format!("n/{number}"), (0, "")));
    }
    let list = String::from_utf8(client.read("ps")).unwrap();
    assert_eq!(list.split(',').count(), 60, "{list}");
}

fn acl_and_users(lines: &str) -> Config {
    Config::new()
        .set("authorization", "acl_file = \"acl.txt\"")
        .file("acl.txt", lines)
}

#[test]
fn who_may_create_topics_is_a_right_of_its_own() {
    let config = acl_and_users("topic readwrite a/#\ntopic create a/own/#\ntopic read b\n");
    let gateway = Gateway::start(config);
    let mut client = gateway.client(Kind::Udp);
    let refused = Request::post("ps").payload(topic("a/x", (0, "")));
    client.request(&refused).expect(code::UNAUTHORIZED);
    let path = create(&mut client, &topic("a/own/x", (0, "")));
    client
        .request(&Request::put("ps/a/own/x").payload("1"))
        .expect(code::CREATED);
    assert_eq!(text(&mut client, "ps"), format!("</{path}>"));
    // Discovery shows what anybody may see.
    let all = String::from_utf8(client.read(".well-known/core")).unwrap();
    assert!(all.contains(&path), "{all}");
    gateway.metric_becomes(
        "authorizations_total",
        &["action=\"create\"", "result=\"denied\""],
        1.0,
    );
}

#[test]
fn topics_are_there_after_a_kill_with_their_data_and_rules() {
    let mut gateway = gateway();
    let mut client = gateway.client(Kind::Udp);
    let path = create(&mut client, &topic("t", (1, "03 00")));
    let text = Request::put("ps/t").format(0).payload("kept");
    client.request(&text).expect(code::CREATED);
    client.request(&text).expect(code::CHANGED);
    gateway.kill();
    gateway.launch();
    let mut client = gateway.client(Kind::Udp);
    let read = client.request(&Request::get(&path)).expect(code::CONTENT);
    assert!(read.payload.starts_with(&of("a4 00 61 74")), "{read:?}");
    client
        .request(&Request::put("ps/t").payload("x"))
        .expect(code::UNSUPPORTED_CONTENT_FORMAT);
    client.request(&text).expect(code::CHANGED);
}
