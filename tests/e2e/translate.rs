//! The same data in CBOR on the air and in JSON behind.

use crate::each_transport;
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option};

each_transport!(
    what_is_published_in_cbor_is_json_and_each_reads_what_it_accepts,
    observers_of_one_topic_get_the_encoding_that_each_accepts,
    a_pack_becomes_one_message_for_each_record,
    what_cannot_be_translated_is_refused_and_nothing_ends,
    what_cannot_be_translated_passes_where_the_rule_says_so,
    a_translation_has_an_etag_of_its_own_that_preconditions_know,
    a_value_that_is_told_each_second_is_translated_once,
    a_long_translation_travels_in_blocks,
    a_reload_changes_the_rules,
    what_is_told_each_second_is_told_by_the_rules_of_a_reload,
);

const JSON: u32 = 50;
const CBOR: u32 = 60;
const SENML_JSON: u32 = 110;
const SENML_CBOR: u32 = 112;

fn gateway(rule: &str) -> Gateway {
    Gateway::start(Config::new().set("[translate]", rule))
}

fn put(client: &mut Client, uri: &str, format: u32, payload: &[u8]) -> Message {
    client.request(&Request::put(uri).format(format).payload(payload))
}

fn accepting(uri: &str, format: u32) -> Request {
    Request::get(uri).uint(option::ACCEPT, format)
}

fn shown(message: &Message) -> (Option<u32>, &[u8]) {
    (message.format(), &message.payload)
}

fn what_is_published_in_cbor_is_json_and_each_reads_what_it_accepts(kind: Kind) {
    let gateway = gateway("topics = \"tanks/+\"");
    let mut client = gateway.client(kind);
    // {"level": 12.5, "raw": h'ff00', "id": 2^64 - 1}
    let cbor = b"\xa3\x65level\xf9\x4a\x40\x63raw\x42\xff\x00\x62id\x1b\xff\xff\xff\xff\xff\xff\xff\xff";
    let json = br#"{"level":12.5,"raw":"_wA","id":18446744073709551615}"#;
    put(&mut client, "ps/tanks/1?retain=1", CBOR, cbor).expect(code::CHANGED);
    let read = client.request(&Request::get("ps/tanks/1")).expect(code::CONTENT);
    assert_eq!(shown(&read), (Some(JSON), &json[..]));
    let read = client
        .request(&accepting("ps/tanks/1", JSON))
        .expect(code::CONTENT);
    assert_eq!(shown(&read), (Some(JSON), &json[..]));
    let read = client
        .request(&accepting("ps/tanks/1", CBOR))
        .expect(code::CONTENT);
    // A byte string is a text from here on.
    let text = b"\xa3\x65level\xf9\x4a\x40\x63raw\x63_wA\x62id\x1b\xff\xff\xff\xff\xff\xff\xff\xff";
    assert_eq!(shown(&read), (Some(CBOR), &text[..]));
    client
        .request(&accepting("ps/tanks/1", 0))
        .expect(code::NOT_ACCEPTABLE);
    client
        .request(&accepting("ps/tanks/1", SENML_CBOR))
        .expect(code::NOT_ACCEPTABLE);
    // Other topics and formats are left alone.
    put(&mut client, "ps/other?retain=1", CBOR, cbor).expect(code::CHANGED);
    let read = client.request(&Request::get("ps/other")).expect(code::CONTENT);
    assert_eq!(shown(&read), (Some(CBOR), &cbor[..]));
    client
        .request(&accepting("ps/other", JSON))
        .expect(code::NOT_ACCEPTABLE);
    put(&mut client, "ps/tanks/2?retain=1", 42, b"\xa1").expect(code::CHANGED);
    let read = client.request(&Request::get("ps/tanks/2")).expect(code::CONTENT);
    assert_eq!(shown(&read), (Some(42), &b"\xa1"[..]));
    gateway.metric_becomes("translations_total", &["result=\"published\""], 1.0);
    gateway.metric_becomes("translations_total", &["result=\"delivered\""], 1.0);
}

fn observers_of_one_topic_get_the_encoding_that_each_accepts(kind: Kind) {
    let gateway = gateway("observe = \"cbor\"");
    let mut publisher = gateway.client(kind);
    let mut clients: Vec<_> = (0..3).map(|_| gateway.client(kind)).collect();
    let requests = [
        Request::get("ps/t"),
        accepting("ps/t", JSON),
        accepting("ps/t", CBOR),
    ];
    let mut observe = |(client, request): (&mut Client, Request)| {
        client.observe_with(request.query("qos=1").observe(0)).token
    };
    let tokens: Vec<_> = clients.iter_mut().zip(requests).map(&mut observe).collect();
    for (format, payload) in [(JSON, &b"[21,null]"[..]), (CBOR, b"\x82\x15\xf6")] {
        put(&mut publisher, "ps/t", format, payload).expect(code::CHANGED);
        let told: Vec<_> = clients
            .iter_mut()
            .zip(&tokens)
            .map(|(client, token)| client.notification(token))
            .collect();
        assert_eq!(shown(&told[0]), (Some(CBOR), &b"\x82\x15\xf6"[..]));
        assert_eq!(shown(&told[1]), (Some(JSON), &b"[21,null]"[..]));
        assert_eq!(shown(&told[2]), (Some(CBOR), &b"\x82\x15\xf6"[..]));
    }
    // For who accepts JSON alone.
    put(&mut publisher, "ps/t", JSON, b"[1e999]").expect(code::CHANGED);
    put(&mut publisher, "ps/t", JSON, b"5").expect(code::CHANGED);
    assert_eq!(clients[1].notification(&tokens[1]).text(), "[1e999]");
    assert_eq!(clients[1].notification(&tokens[1]).text(), "5");
    for of_cbor in [0, 2] {
        let told = clients[of_cbor].notification(&tokens[of_cbor]);
        assert_eq!(shown(&told), (Some(CBOR), &b"\x05"[..]));
    }
}

fn a_pack_becomes_one_message_for_each_record(kind: Kind) {
    let gateway = gateway("batch = \"each\"");
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/pack?qos=1");
    // [{-2: "a/", -3: 1700000000, 0: "t", 2: 20}, {0: "h", 6: 5, 2: 55}, {0: "d", 4: true}]
    let pack = b"\x83\xa4\x21\x62a/\x22\x1a\x65\x53\xf1\x00\x00\x61t\x02\x14\xa3\x00\x61h\x06\x05\x02\x18\x37\xa2\x00\x61d\x04\xf5";
    put(&mut client, "ps/pack?retain=1", SENML_CBOR, pack).expect(code::CHANGED);
    for wanted in [
        r#"[{"n":"a/t","v":20,"t":1700000000}]"#,
        r#"[{"n":"a/h","v":55,"t":1700000005}]"#,
        r#"[{"n":"a/d","t":1700000000,"vb":true}]"#,
    ] {
        let told = client.notification(&observation.token);
        assert_eq!(shown(&told), (Some(SENML_JSON), wanted.as_bytes()));
    }
    assert_eq!(
        client.read("ps/pack"),
        br#"[{"n":"a/d","t":1700000000,"vb":true}]"#
    );
    put(&mut client, "ps/pack", JSON, b"[1,2]").expect(code::CHANGED);
    assert_eq!(client.notification(&observation.token).text(), "1");
    assert_eq!(client.notification(&observation.token).text(), "2");
    client.no_notification(&observation.token, ms(100));
    gateway.metric_becomes("publishes_total", &["result=\"accepted\""], 5.0);
}

fn what_cannot_be_translated_is_refused_and_nothing_ends(kind: Kind) {
    let gateway = gateway("");
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/t?qos=1");
    let deep = [vec![0x81; 40], vec![0x00]].concat();
    for (format, payload) in [
        (CBOR, &b"\x82\x01"[..]),
        (CBOR, b"\x01\x02"),
        (CBOR, b"\xa1\x80\x01"),
        (CBOR, &deep),
        (SENML_CBOR, b"\xa1\x00\x61a"),
        (SENML_CBOR, b"\x81\xa1\x18\x63\x01"),
    ] {
        let answer = put(&mut client, "ps/t", format, payload).expect(code::UNSUPPORTED_CONTENT_FORMAT);
        assert!(!answer.payload.is_empty(), "it says why");
    }
    put(&mut client, "ps/t", CBOR, b"\x01").expect(code::CHANGED);
    assert_eq!(client.notification(&observation.token).text(), "1");
    gateway.metric_becomes("translations_total", &["result=\"refused\""], 6.0);
    gateway.assert_serves();
}

fn what_cannot_be_translated_passes_where_the_rule_says_so(kind: Kind) {
    let gateway = gateway("unfit = \"pass\"\nobserve = \"cbor\"");
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/t?qos=1");
    put(&mut client, "ps/t", CBOR, b"\x82\x01").expect(code::CHANGED);
    let told = client.notification(&observation.token);
    assert_eq!(shown(&told), (Some(CBOR), &b"\x82\x01"[..]));
    put(&mut client, "ps/t", JSON, b"{oops").expect(code::CHANGED);
    let told = client.notification(&observation.token);
    assert_eq!(shown(&told), (Some(JSON), &b"{oops"[..]));
    gateway.metric_becomes("translations_total", &["result=\"passed\""], 2.0);
}

fn a_translation_has_an_etag_of_its_own_that_preconditions_know(kind: Kind) {
    const IF_MATCH: u16 = 1;
    let gateway = gateway("");
    let mut client = gateway.client(kind);
    let etag = |message: &Message| message.option(option::ETAG).expect("an ETag").to_vec();
    put(&mut client, "ps/t?retain=1", CBOR, b"\x07").expect(code::CHANGED);
    let json = etag(&client.request(&accepting("ps/t", JSON)).expect(code::CONTENT));
    let cbor = etag(&client.request(&accepting("ps/t", CBOR)).expect(code::CONTENT));
    assert_ne!(json, cbor);
    let change = |etag: &[u8], payload: &[u8]| {
        Request::put("ps/t?retain=1")
            .format(CBOR)
            .payload(payload)
            .option(IF_MATCH, etag)
    };
    client.request(&change(&cbor, b"\x08")).expect(code::CHANGED);
    client
        .request(&change(&cbor, b"\x09"))
        .expect(code::PRECONDITION_FAILED);
    client
        .request(&change(&json, b"\x09"))
        .expect(code::PRECONDITION_FAILED);
    assert_eq!(client.read("ps/t"), b"8");
}

fn a_value_that_is_told_each_second_is_translated_once(kind: Kind) {
    let gateway = gateway("observe = \"cbor\"");
    let mut publisher = gateway.client(kind);
    let conditions = ["c.pmax=1", "c.pmax=1&c.gt=40", "c.pmin=0.2&c.pmax=1"];
    let mut observers = conditions.map(|conditions| {
        let mut client = gateway.client(kind);
        let token = client.observe(&format!("ps/t?{conditions}")).token;
        (client, token)
    });
    put(&mut publisher, "ps/t", JSON, b"41").expect(code::CHANGED);
    let delivered = || gateway.metric("translations_total", &["result=\"delivered\""]);
    let mut tell = |times: usize| {
        for (client, token) in &mut observers {
            for _ in 0..times {
                while shown(&client.notification(token)) != (Some(CBOR), &b"\x18\x29"[..]) {}
            }
        }
    };
    tell(1);
    // Its observers may be at several workers, each of which translates it.
    let before = delivered();
    assert!((1.0..=3.0).contains(&before), "{before}");
    tell(3);
    assert_eq!(delivered(), before);
}

fn a_long_translation_travels_in_blocks(kind: Kind) {
    let gateway = gateway("");
    let mut client = gateway.client(kind);
    let json = format!("[{}0]", "1000000,".repeat(600));
    let first = Request::put("ps/t?retain=1").format(JSON);
    let blocks = json.as_bytes().chunks(256);
    let last = blocks.len() - 1;
    for (number, block) in blocks.enumerate() {
        let number = u32::try_from(number).unwrap();
        let is_last = usize::try_from(number).unwrap() == last;
        let request = first.clone().block1(number, !is_last, 256).payload(block);
        let wanted = if is_last { code::CHANGED } else { code::CONTINUE };
        client.request(&request).expect(wanted);
    }
    let request = accepting("ps/t", CBOR);
    let start = client.request(&request).expect(code::CONTENT);
    let cbor = client.rest_of(&request, &start);
    let wanted = [
        &b"\x99\x02\x59"[..],
        &b"\x1a\x00\x0f\x42\x40".repeat(600),
        b"\x00",
    ]
    .concat();
    assert_eq!(cbor, wanted);
}

fn what_is_told_each_second_is_told_by_the_rules_of_a_reload(kind: Kind) {
    let gateway = gateway("observe = \"cbor\"");
    let mut client = gateway.client(kind);
    let token = client.observe("ps/t?c.pmax=1").token;
    let mut publisher = gateway.client(kind);
    put(&mut publisher, "ps/t", JSON, b"43").expect(code::CHANGED);
    while shown(&client.notification(&token)) != (Some(CBOR), &b"\x18\x2b"[..]) {}
    gateway.configure(&Config::new());
    assert!(gateway.reloaded());
    while shown(&client.notification(&token)) != (Some(JSON), &b"43"[..]) {}
}

fn a_reload_changes_the_rules(kind: Kind) {
    let gateway = gateway("topics = \"x\"");
    let mut client = gateway.client(kind);
    put(&mut client, "ps/t?retain=1", CBOR, b"\x07").expect(code::CHANGED);
    assert_eq!(client.read("ps/t"), b"\x07");
    gateway.configure(&Config::new().set("[translate]", "topics = \"t\""));
    assert!(gateway.reloaded());
    put(&mut client, "ps/t?retain=1", CBOR, b"\x07").expect(code::CHANGED);
    assert_eq!(client.read("ps/t"), b"7");
}
