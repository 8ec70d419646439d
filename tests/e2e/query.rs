//! Query parameters: long and short names, repeated, malformed, unknown.

use std::thread::sleep;

use crate::each_transport;
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, typ};

each_transport!(
    short_names_mean_the_same_on_connections,
    short_names_mean_the_same_on_publishes,
    a_clientid_has_1_to_128_bytes,
    create_needs_a_clientid,
    values_may_contain_the_equals_sign,
    qos_is_0_1_or_2,
    retain_is_true_1_false_or_0,
    expiry_is_seconds,
    an_expired_retained_message_is_gone,
    no_local_and_retain_handling_take_their_values_only,
    a_repeated_parameter_is_refused,
    a_parameter_without_a_value_is_refused,
    an_unknown_parameter_is_ignored,
    an_ampersand_for_a_question_mark_is_explained,
    a_bad_parameter_ends_nothing,
);

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

fn short_names_mean_the_same_on_connections(kind: Kind) {
    let gateway = Gateway::start(Config::new().connection_mode());
    let mut client = gateway.client(kind);
    let token = client
        .request(&Request::post("mqtt/connection?c=a&u=user&p=pass"))
        .expect(code::CREATED)
        .text();
    client
        .request(&Request::put(&format!("mqtt/connection?c=a&t={token}")))
        .expect(code::CHANGED);
    client
        .request(&Request::put(&format!("mqtt/connection?clientid=a&t={token}")))
        .expect(code::CHANGED);
    client
        .request(&Request::put(&format!("mqtt/connection?c=a&token={token}")))
        .expect(code::CHANGED);
    client.publish(&format!("ps/a?c=a&t={token}"), "x");
    client
        .request(&Request::delete(&format!("mqtt/connection?c=a&t={token}")))
        .expect(code::DELETED);
    let long = "mqtt/connection?clientid=b&username=user&password=pass";
    client.request(&Request::post(long)).expect(code::CREATED);
}

fn short_names_mean_the_same_on_publishes(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    for (query, notified_as) in [
        ("q=0", typ::NON),
        ("q=1", typ::CON),
        ("qos=0", typ::NON),
        ("qos=2", typ::CON),
    ] {
        client.publish(&format!("ps/a?{query}"), "x");
        assert_eq!(
            client.notification(&observation.token).typ,
            notified_as,
            "{query}"
        );
    }
    client.publish("ps/a?r=1", "kept");
    assert_eq!(client.read("ps/a"), b"kept");
    let observation = client.observe("ps/b?q=1");
    client.publish("ps/b?q=0", "x");
    assert_eq!(client.notification(&observation.token).typ, typ::CON);
}

fn a_clientid_has_1_to_128_bytes(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let create = |client: &mut Client, id: &[u8]| {
        let parameter = [b"clientid=", id].concat();
        client.request(&Request::post("mqtt/connection").query(parameter))
    };
    let umlauts = "ü".repeat(64);
    for id in [&b"a"[..], &[b'a'; 128], umlauts.as_bytes(), b"a b/c=d&e"] {
        create(&mut client, id).expect(code::CREATED);
    }
    let long_umlauts = "ü".repeat(65);
    for id in [&b""[..], &[b'a'; 129], long_umlauts.as_bytes(), b"\xff", b"a\xc3"] {
        create(&mut client, id)
            .expect(code::BAD_REQUEST)
            .naming("clientid");
    }
}

fn create_needs_a_clientid(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client
        .request(&Request::post("mqtt/connection"))
        .expect(code::BAD_REQUEST)
        .naming("clientid");
    let without = Request::post("mqtt/connection?username=a&password=b");
    client
        .request(&without)
        .expect(code::BAD_REQUEST)
        .naming("clientid");
}

fn values_may_contain_the_equals_sign(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let token = client.create("a=b==");
    let pair = |id: &str| {
        Request::put("mqtt/connection")
            .query(format!("c={id}"))
            .query(format!("t={token}"))
    };
    client.request(&pair("a=b==")).expect(code::CHANGED);
    client.request(&pair("a")).expect(code::UNAUTHORIZED);
    client.request(&pair("a=b")).expect(code::UNAUTHORIZED);
    let create = Request::post("mqtt/connection?clientid=c&username=u=v&password=YWJj=");
    client.request(&create).expect(code::CREATED);
}

/// That each of these values is refused with a diagnostic that names the parameter.
fn refused(client: &mut Client, request: &Request, name: &str, values: &[&str]) {
    for value in values {
        let answer = client.request(&request.clone().query(format!("{name}={value}")));
        answer.expect(code::BAD_REQUEST).naming(name);
    }
}

fn taken(client: &mut Client, request: &Request, name: &str, values: &[&str]) {
    for value in values {
        let answer = client.request(&request.clone().query(format!("{name}={value}")));
        assert_eq!(answer.code >> 5, 2, "{name}={value}: {answer:?}");
    }
}

const NO_NUMBERS: &[&str] = &[
    "abc",
    "",
    "-1",
    "+1",
    "1.0",
    "0x1",
    " 1",
    "1 ",
    "\u{661}",
    "99999999999999999999",
];

fn qos_is_0_1_or_2(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for request in [
        Request::post("ps/a").payload("x"),
        Request::get("ps/a").observe(0),
    ] {
        taken(&mut client, &request, "qos", &["0", "1", "2"]);
        refused(&mut client, &request, "qos", &["3", "9", "256"]);
        refused(&mut client, &request, "qos", NO_NUMBERS);
    }
}

fn retain_is_true_1_false_or_0(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for (value, kept) in [("true", true), ("1", true), ("false", false), ("0", false)] {
        client.publish(&format!("ps/r/{value}?retain={value}"), "x");
        let read = client.request(&Request::get(&format!("ps/r/{value}")));
        assert_eq!(read.code == code::CONTENT, kept, "{value}: {read:?}");
    }
    let request = Request::post("ps/a").payload("x");
    refused(
        &mut client,
        &request,
        "retain",
        &["", "yes", "2", "TRUE", "True", "on", "true "],
    );
    client.request(&Request::get("ps/a")).expect(code::NOT_FOUND);
}

fn expiry_is_seconds(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let request = Request::post("ps/a").payload("x");
    taken(&mut client, &request, "expiry", &["0", "1", "60", "4294967295"]);
    refused(&mut client, &request, "expiry", &["4294967296"]);
    refused(&mut client, &request, "expiry", NO_NUMBERS);
}

fn an_expired_retained_message_is_gone(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/short?retain=1&expiry=1", "short");
    client.publish("ps/zero?retain=1&expiry=0", "never");
    client.publish("ps/long?retain=1&expiry=3600", "long");
    assert_eq!(client.read("ps/short"), b"short");
    sleep(ms(1500));
    client.request(&Request::get("ps/short")).expect(code::NOT_FOUND);
    assert_eq!(client.observe("ps/short").first.payload, b"");
    assert_eq!(client.read("ps/zero"), b"never", "0 is no expiry");
    assert_eq!(client.read("ps/long"), b"long");
}

fn no_local_and_retain_handling_take_their_values_only(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let request = Request::get("ps/a").observe(0);
    taken(&mut client, &request, "nl", &["0", "1"]);
    taken(&mut client, &request, "rh", &["0", "1", "2"]);
    refused(&mut client, &request, "nl", &["2", "true"]);
    refused(&mut client, &request, "rh", &["3", "send"]);
    for name in ["nl", "rh"] {
        refused(&mut client, &request, name, NO_NUMBERS);
    }
}

fn a_repeated_parameter_is_refused(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for (uri, name) in [
        ("ps/a?qos=1&qos=1", "qos"),
        ("ps/a?qos=0&q=1", "qos"),
        ("ps/a?retain=1&retain=0", "retain"),
        ("ps/a?r=1&retain=1", "retain"),
        ("ps/a?expiry=1&expiry=2", "expiry"),
        ("ps/a?clientid=a&clientid=b", "clientid"),
        ("ps/a?c=a&clientid=a", "clientid"),
        ("mqtt/connection?clientid=a&clientid=a", "clientid"),
        ("mqtt/connection?clientid=a&u=a&username=a", "username"),
        ("mqtt/connection?clientid=a&p=a&password=a", "password"),
    ] {
        client
            .request(&Request::post(uri).payload("x"))
            .expect(code::BAD_REQUEST)
            .naming(name);
    }
    for name in ["nl", "rh"] {
        let uri = format!("ps/a?{name}=1&{name}=1");
        client
            .request(&Request::get(&uri).observe(0))
            .expect(code::BAD_REQUEST)
            .naming(name);
    }
    let token = client.create("a");
    let twice = format!("mqtt/connection?clientid=a&token={token}&t={token}");
    client
        .request(&Request::put(&twice))
        .expect(code::BAD_REQUEST)
        .naming("token");
    assert_eq!(
        client.heartbeat("a", &token),
        code::CHANGED,
        "the connection lives on"
    );
}

fn a_parameter_without_a_value_is_refused(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for name in ["qos", "retain", "expiry"] {
        let request = Request::post("ps/a").query(name).payload("x");
        client.request(&request).expect(code::BAD_REQUEST).naming(name);
    }
    client
        .request(&Request::post("mqtt/connection?clientid"))
        .expect(code::BAD_REQUEST)
        .naming("clientid");
}

fn an_unknown_parameter_is_ignored(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for parameter in ["foo=bar", "foo", "", "=", "QOS=9", "qo=1", "x=\u{fc}", "foo=1"] {
        client
            .request(&Request::post("ps/a").query(parameter).payload("x"))
            .expect(code::CHANGED);
    }
    client
        .request(&Request::post("ps/a").query(b"\xff=\xff").payload("x"))
        .expect(code::CHANGED);
    client
        .request(&Request::post("ps/a?foo=1&foo=2").payload("x"))
        .expect(code::CHANGED);
}

fn an_ampersand_for_a_question_mark_is_explained(kind: Kind) {
    let gateway = Gateway::start(Config::new().connection_mode());
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let explained = |answer: Message| {
        let answer = answer.expect(code::BAD_REQUEST);
        let text = answer.text();
        assert!(
            text.contains('?') && text.contains('&'),
            "should explain `&` and `?`: {text:?}"
        );
    };
    let segment = format!("test&clientid=a&token={token}");
    explained(client.request(&Request::post("ps/coap").segment(&segment).payload("x")));
    explained(client.request(&Request::get("ps/coap").segment(&segment).observe(0)));
    explained(client.request(&Request::put("mqtt").segment(format!("connection&clientid=a&token={token}"))));
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
}

fn a_bad_parameter_ends_nothing(kind: Kind) {
    let gateway = Gateway::start(Config::new().connection_mode());
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let pair = format!("clientid=a&token={token}");
    let observation = client.observe(&format!("ps/a?{pair}"));
    for query in [
        "qos=abc",
        "qos=3",
        "retain=maybe",
        "expiry=-1",
        "qos=1&qos=2",
        "nl=x",
        "rh=9",
    ] {
        for request in [
            Request::post(&format!("ps/b?{pair}&{query}")),
            Request::get(&format!("ps/b?{pair}&{query}")),
        ] {
            client.request(&request.payload("x"));
        }
    }
    client.publish(&format!("ps/a?{pair}"), "still here");
    assert_eq!(client.notification(&observation.token).text(), "still here");
}
