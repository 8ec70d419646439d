//! The message layer: duplicates, ping, malformed messages, critical options, proxying, Accept, No-Response.

use crate::each_transport;
use crate::support::client::PATIENCE;
use crate::support::coap::uint_bytes;
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option, typ};

each_transport!(
    a_con_answer_is_piggybacked_or_separate_with_the_token,
    a_non_request_gets_a_non_answer,
    every_method_is_answered_non_to_a_non,
    a_payload_that_means_nothing_is_ignored,
    a_host_and_a_port_are_taken_as_they_come,
    a_duplicate_con_publishes_once_and_gets_the_same_answer,
    a_duplicate_non_publishes_once,
    the_same_id_from_another_peer_is_no_duplicate,
    a_ping_gets_a_rst,
    malformed_cons_get_a_rst,
    malformed_nons_get_silence,
    other_versions_and_runts_get_silence,
    stray_acks_resets_and_responses_change_nothing,
    a_token_of_any_length_comes_back,
    an_unknown_critical_option_is_refused,
    an_unknown_elective_option_is_ignored,
    proxying_is_not_supported,
    accept_is_honoured,
    an_observer_is_not_shown_a_format_that_it_does_not_accept,
    an_observer_is_never_notified_in_a_format_that_it_does_not_accept,
    a_format_without_a_known_media_type_is_accepted_where_it_is_there,
    no_response_is_honoured,
    one_datagram_carries_one_message,
);

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

fn a_con_answer_is_piggybacked_or_separate_with_the_token(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let message = client.message(&Request::post("ps/a").token(b"tok").payload("x"));
    let answer = client
        .exchange(&message, ms(5000))
        .expect("an answer")
        .expect(code::CHANGED);
    assert_eq!(answer.token, b"tok");
    if answer.typ == typ::ACK {
        assert_eq!(answer.id, message.id);
    }
}

fn a_non_request_gets_a_non_answer(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let mut ids = vec![];
    for _ in 0..4 {
        let answer = client
            .request(&Request::get("ps/a").non())
            .expect(code::NOT_FOUND);
        assert_eq!(answer.typ, typ::NON);
        ids.push(answer.id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 4, "message ids of the gateway's own");
}

fn every_method_is_answered_non_to_a_non(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for (request, answered) in [
        (Request::put("ps/n?retain=1").payload("put"), code::CHANGED),
        (Request::get("ps/n"), code::CONTENT),
        (Request::post("ps/n").payload("posted"), code::CHANGED),
        (Request::delete("ps/n"), code::DELETED),
        (Request::get("ps/n"), code::NOT_FOUND),
    ] {
        let answer = client.request(&request.non().token(b"non")).expect(answered);
        assert_eq!((answer.typ, &answer.token[..]), (typ::NON, &b"non"[..]));
    }
}

/// RFC 7252, 5.5: where the method has none, a payload is ignored.
fn a_payload_that_means_nothing_is_ignored(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=1", "kept");
    let read = client.request(&Request::get("ps/a").format(50).payload("{}"));
    assert_eq!(read.expect(code::CONTENT).text(), "kept");
    let observation = client.observe_with(Request::get("ps/a").observe(0).payload("noise"));
    assert_eq!(observation.first.text(), "kept");
    let well_known = Request::get(".well-known/core").payload("noise");
    client.request(&well_known).expect(code::CONTENT);
    let cleared = client.request(&Request::delete("ps/a").payload("noise"));
    cleared.expect(code::DELETED);
    assert_eq!(client.notification(&observation.token).payload, b"");
}

/// RFC 7252, 5.10.1: they name the server, and whatever name it was reached by is its own.
fn a_host_and_a_port_are_taken_as_they_come(kind: Kind) {
    const URI_HOST: u16 = 3;
    const URI_PORT: u16 = 7;
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=1", "x");
    for host in ["gateway.example", "192.0.2.9", "[2001:db8::1]", "a"] {
        let named = Request::get("ps/a").option(URI_HOST, host.as_bytes());
        client
            .request(&named.uint(URI_PORT, 61_616))
            .expect(code::CONTENT);
    }
    let nameless = Request::get("ps/a").option(URI_HOST, b"");
    client.request(&nameless).expect(code::BAD_OPTION);
}

fn a_duplicate_con_publishes_once_and_gets_the_same_answer(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let mut observer = gateway.client(kind);
    let observation = observer.observe("ps/a");
    let message = client.message(&Request::post("ps/a").payload("once"));
    let first = client.exchange(&message, ms(5000)).expect("an answer");
    for _ in 0..3 {
        let again = client.exchange(&message, ms(5000)).expect("an answer");
        assert_eq!(again, first);
    }
    assert_eq!(observer.notification(&observation.token).text(), "once");
    observer.no_notification(&observation.token, ms(150));
    gateway.metric_becomes("coap_duplicates_total", &[], 3.0);

    let refused = client.message(&Request::post("ps/a?qos=abc"));
    let first = client.exchange(&refused, ms(5000)).expect("an answer");
    assert_eq!(client.exchange(&refused, ms(5000)).expect("an answer"), first);
}

fn a_duplicate_non_publishes_once(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let mut observer = gateway.client(kind);
    let observation = observer.observe("ps/a");
    let message = client.message(&Request::post("ps/a").non().payload("once"));
    for _ in 0..3 {
        client.send(&message);
    }
    assert_eq!(observer.notification(&observation.token).text(), "once");
    observer.no_notification(&observation.token, ms(150));
}

fn the_same_id_from_another_peer_is_no_duplicate(kind: Kind) {
    let gateway = gateway();
    let mut observer = gateway.client(kind);
    let observation = observer.observe("ps/a");
    for payload in ["1", "2", "3"] {
        let mut client = gateway.client(kind);
        let mut message = client.message(&Request::post("ps/a").token(b"t").payload(payload));
        message.id = 4711;
        client
            .exchange(&message, ms(5000))
            .expect("an answer")
            .expect(code::CHANGED);
        assert_eq!(observer.notification(&observation.token).text(), payload);
    }
}

fn a_ping_gets_a_rst(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for id in [0, 1, 0xffff] {
        client.send(&Message::empty(typ::CON, id));
        assert_eq!(client.recv(ms(5000)), Some(Message::empty(typ::RST, id)));
    }
}

/// Messages that RFC 7252 (3, 4.2, 4.3) tells to reject, as type-less bytes: the type is put into the first one.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let mut samples = vec![
        ("a token beyond the end", vec![0x44, 1, 0, 0, 1, 2]),
        ("a payload marker without payload", vec![0x40, 1, 0, 0, 0xff]),
        ("the same behind an option", vec![0x40, 1, 0, 0, 0xb1, b'a', 0xff]),
        ("an option delta of 15", vec![0x40, 1, 0, 0, 0xf1, 0]),
        ("an option length of 15", vec![0x40, 1, 0, 0, 0x1f, 0]),
        ("an option beyond the end", vec![0x40, 1, 0, 0, 0xb5, b'a']),
        ("an extended delta that is missing", vec![0x40, 1, 0, 0, 0xd0]),
        ("half an extended length", vec![0x40, 1, 0, 0, 0x1e, 0]),
        (
            "an option number over 65535",
            vec![0x40, 1, 0, 0, 0xe0, 0xff, 0xff],
        ),
        ("an empty message with a token", vec![0x41, 0, 0, 0, 1]),
        ("an empty message with an option", vec![0x40, 0, 0, 0, 0xb1, b'a']),
        ("an empty message with a payload", vec![0x40, 0, 0, 0, 0xff, b'a']),
        ("a code of the reserved class 1", vec![0x40, 0x21, 0, 0]),
        ("a code of the reserved class 6", vec![0x40, 0xc1, 0, 0]),
        ("a code of the class 7", vec![0x40, 0xe1, 0, 0]),
    ];
    for length in 9..=15 {
        samples.push((
            "a token length over 8",
            [&[0x40 | length, 1, 0, 0][..], &[7; 16]].concat(),
        ));
    }
    samples
}

/// The sample as this type and with this message id.
fn sample(bytes: &[u8], typ: u8, id: u16) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[0] |= typ << 4;
    bytes[2..4].copy_from_slice(&id.to_be_bytes());
    bytes
}

fn malformed_cons_get_a_rst(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for (what, bytes) in malformed() {
        let id = client.next_id();
        client.send_raw(&sample(&bytes, typ::CON, id));
        assert_eq!(
            client.recv(ms(5000)),
            Some(Message::empty(typ::RST, id)),
            "{what}"
        );
    }
    client.publish("ps/a", "still served");
}

fn malformed_nons_get_silence(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for (_, bytes) in malformed() {
        let id = client.next_id();
        client.send_raw(&sample(&bytes, typ::NON, id));
    }
    // RFC 7252, 4.3 lets a recipient reject a NON with RST, or ignore it; an answer it never gets.
    while let Some(message) = client.recv(ms(200)) {
        assert_eq!(
            (message.typ, message.code),
            (typ::RST, code::EMPTY),
            "{message:?}"
        );
    }
    client.publish("ps/a", "still served");
}

fn other_versions_and_runts_get_silence(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let good = client.message(&Request::get("ps/a")).encode();
    for version in [0, 2, 3] {
        let mut bytes = good.clone();
        bytes[0] = bytes[0] & 0x3f | version << 6;
        client.send_raw(&bytes);
    }
    for length in 1..4 {
        client.send_raw(&good[..length]);
    }
    client.silence(ms(200));
    client.publish("ps/a", "still served");
    let dropped =
        |reason: &str| gateway.metric("datagrams_dropped_total", &[&format!("reason=\"{reason}\"")]);
    assert_eq!(dropped("version"), 3.0);
    assert_eq!(dropped("malformed"), 3.0);
}

fn stray_acks_resets_and_responses_change_nothing(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    for id in [0, 1, 77, 0xffff] {
        client.send(&Message::empty(typ::ACK, id));
        client.send(&Message::empty(typ::RST, id));
        for typ in [typ::NON, typ::ACK] {
            let mut response = client.message(&Request::new(code::CONTENT, ""));
            (response.typ, response.id) = (typ, id);
            client.send(&response);
        }
    }
    // RFC 7252, 4.2: a confirmable message without context is rejected with RST.
    let mut response = client.message(&Request::new(code::CONTENT, ""));
    response.typ = typ::CON;
    client.send(&response);
    let mut reset = client.recv(ms(5000)).expect("a RST");
    while reset.id != response.id {
        assert_eq!(reset.typ, typ::RST, "{reset:?}");
        reset = client.recv(ms(5000)).expect("a RST");
    }
    assert_eq!(reset, Message::empty(typ::RST, response.id));
    client.publish("ps/a", "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
}

fn a_token_of_any_length_comes_back(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for length in 0..=8 {
        let token = vec![0xa5; length];
        let answer = client
            .request(&Request::get("ps/a").token(&token))
            .expect(code::NOT_FOUND);
        assert_eq!(answer.token, token);
    }
}

fn an_unknown_critical_option_is_refused(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    // 9 is OSCORE, 21 EDHOC, 65001 of the experimental range.
    for number in [9, 21, 65_001] {
        let request = Request::post("ps/a").option(number, b"v").payload("x");
        client.request(&request).expect(code::BAD_OPTION);
        let message = client.message(&request.non());
        client.send(&message);
        // Rejected silently, or with the RST that RFC 7252, 5.4.1 allows too.
        if let Some(answer) = client.recv(ms(100)) {
            assert_eq!(answer, Message::empty(typ::RST, message.id));
        }
    }
    client.no_notification(&observation.token, ms(50));
    assert!(gateway.metric("datagrams_dropped_total", &["reason=\"critical_option\""]) >= 3.0);
}

fn an_unknown_elective_option_is_ignored(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for number in [2, 16, 65_000] {
        let request = Request::post("ps/a").option(number, &[9; 100]).payload("x");
        client.request(&request).expect(code::CHANGED);
    }
}

fn proxying_is_not_supported(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let uri = b"coap://example.org/a";
    client
        .request(&Request::new(code::GET, "").option(option::PROXY_URI, uri))
        .expect(code::PROXYING_NOT_SUPPORTED);
    client
        .request(&Request::get("ps/a").option(option::PROXY_URI, uri))
        .expect(code::PROXYING_NOT_SUPPORTED);
    let scheme = Request::get("ps/a").option(option::PROXY_SCHEME, b"http");
    client.request(&scheme).expect(code::PROXYING_NOT_SUPPORTED);
}

fn accept_is_honoured(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client
        .request(&Request::put("ps/a?retain=1").format(60).payload("x"))
        .expect(code::CHANGED);
    let get = |accept: u32| Request::get("ps/a").uint(option::ACCEPT, accept);
    client.request(&get(60)).expect(code::CONTENT);
    client.request(&get(50)).expect(code::NOT_ACCEPTABLE);
    client.request(&get(0)).expect(code::NOT_ACCEPTABLE);
    let core = |accept: u32| Request::get(".well-known/core").uint(option::ACCEPT, accept);
    client.request(&core(40)).expect(code::CONTENT);
    client.request(&core(60)).expect(code::NOT_ACCEPTABLE);
    client
        .request(&Request::get("ps/none").uint(option::ACCEPT, 50))
        .expect(code::NOT_FOUND);
}

fn an_observer_is_not_shown_a_format_that_it_does_not_accept(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client
        .request(&Request::put("ps/a?retain=1").format(60).payload("x"))
        .expect(code::CHANGED);
    let observe = |accept: u32, token: &[u8]| {
        let request = Request::get("ps/a").observe(0).token(token);
        request.uint(option::ACCEPT, accept)
    };
    let refused = client.request(&observe(50, b"json")).expect(code::NOT_ACCEPTABLE);
    assert_eq!(refused.observe(), None);
    gateway.metric_becomes("subscriptions", &[], 0.0);
    let taken = client.request(&observe(60, b"cbor")).expect(code::CONTENT);
    assert_eq!((taken.format(), taken.text().as_str()), (Some(60), "x"));
    assert!(taken.observe().is_some());
}

fn a_format_without_a_known_media_type_is_accepted_where_it_is_there(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client
        .request(&Request::put("ps/a?retain=1").format(65_000).payload("x"))
        .expect(code::CHANGED);
    let get = |path: &str, accept: u32| Request::get(path).uint(option::ACCEPT, accept);
    let answer = client.request(&get("ps/a", 65_000)).expect(code::CONTENT);
    assert_eq!(answer.format(), Some(65_000));
    client.request(&get("ps/a", 65_001)).expect(code::NOT_ACCEPTABLE);
    client
        .request(&get("ps/none", 65_000))
        .expect(code::NOT_ACCEPTABLE);
    client.publish("ps/plain?retain=1", "x");
    client
        .request(&get("ps/plain", 65_000))
        .expect(code::NOT_ACCEPTABLE);
    let publish = Request::post("ps/a").payload("y").uint(option::ACCEPT, 65_000);
    client.request(&publish).expect(code::CHANGED);
    let observe = get("ps/a", 65_000).observe(0).token(b"any");
    let taken = client.request(&observe).expect(code::CONTENT);
    assert_eq!((taken.format(), taken.text().as_str()), (Some(65_000), "x"));
}

fn an_observer_is_never_notified_in_a_format_that_it_does_not_accept(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observe = |topic: &str, accept: u32, token: &[u8]| {
        let request = Request::get(topic).observe(0).token(token);
        request.uint(option::ACCEPT, accept)
    };
    for (accept, other) in [(60, 112), (270, 50), (64_999, 64_998)] {
        let topic = format!("ps/f/{accept}");
        client
            .request(&observe(&topic, accept, b"one"))
            .expect(code::CONTENT);
        client
            .request(&observe("ps/f/+", accept, b"all"))
            .expect(code::CONTENT);
        let publish = |format: u32| Request::put(&topic).format(format).payload(format.to_string());
        for format in [other, accept] {
            client.request(&publish(format)).expect(code::CHANGED);
        }
        for token in [b"one", b"all"] {
            let notification = client.notification(token);
            assert_eq!(notification.format(), Some(accept), "and not {other}");
        }
    }
    // What is retained in other formats below a wildcard is left out too.
    for (topic, format) in [("ps/r/a", 50), ("ps/r/b", 60), ("ps/r/c", 50)] {
        let publish = Request::put(&format!("{topic}?retain=1")).format(format);
        client.request(&publish.payload(topic)).expect(code::CHANGED);
    }
    let first = client
        .request(&observe("ps/r/+", 60, b"kept"))
        .expect(code::CONTENT);
    assert_eq!(first.text(), "ps/r/b");
    client.no_notification(b"kept", ms(100));
}

/// What a request with No-Response comes to: the codes of the answers within a while.
/// That `request` with this No-Response is answered by exactly `wanted`, a type and a code each.
#[track_caller]
fn answered(client: &mut Client, request: Request, suppress: u32, wanted: &[(u8, u8)]) {
    let message = client.message(&request.option(option::NO_RESPONSE, &uint_bytes(suppress)));
    client.send(&message);
    for wanted in wanted {
        let answer = client.recv(PATIENCE).expect("an answer");
        assert_eq!((answer.typ, answer.code), *wanted, "{suppress}");
    }
    client.silence(ms(300));
}

fn no_response_is_honoured(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let good = || Request::post("ps/a?retain=1").payload("x");
    let bad = || Request::post("ps/a?qos=9").payload("x");
    // 2 suppresses 2.xx, 8 4.xx, 26 everything, 0 nothing.
    answered(&mut client, good().non(), 2, &[]);
    answered(&mut client, bad().non(), 2, &[(typ::NON, code::BAD_REQUEST)]);
    answered(&mut client, bad().non(), 8, &[]);
    answered(&mut client, good().non(), 8, &[(typ::NON, code::CHANGED)]);
    answered(&mut client, good().non(), 26, &[]);
    answered(&mut client, bad().non(), 26, &[]);
    answered(&mut client, good().non(), 0, &[(typ::NON, code::CHANGED)]);
    // A CON is acknowledged all the same.
    answered(&mut client, good(), 26, &[(typ::ACK, code::EMPTY)]);
    assert_eq!(client.read("ps/a"), b"x", "and what it asked for was done");
}

fn one_datagram_carries_one_message(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    let payload = client.message(&Request::post("ps/a").payload("inner")).encode();
    client.publish("ps/a", &payload);
    assert_eq!(client.notification(&observation.token).payload, payload);
    client.no_notification(&observation.token, ms(50));
}
