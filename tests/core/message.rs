//! RFC 7252, 3 to 5.4: what is a message, what is refused, and how.

use portcullis::coap::contract::{Code, Event, Response};
use portcullis::types::reason::DropReason;

use crate::harness::*;

#[test]
fn a_confirmable_request_is_answered_in_its_ack() {
    let mut sim = Sim::new();
    sim.receive(
        &Msg::get(7, "ps/a/b")
            .opt(15, b"q=1")
            .opt(OBSERVE, b"")
            .opt(CONTENT_FORMAT, &[50])
            .payload(b"x"),
    );
    let (exchange, request) = sim.request();
    assert!(request.resource.path().eq([&b"ps"[..], b"a", b"b"]));
    assert!(request.resource.query().eq([b"q=1"]));
    assert_eq!((request.observe, request.content_format), (Some(0), Some(50)));
    assert!(request.confirmable && request.payload == "x");
    let mut response = content("hello");
    response.content_format = Some(0);
    response.max_age = Some(60);
    response.observe = Some(0x0100_0005);
    sim.respond(exchange, response);
    let answer = sim.one();
    assert_eq!(
        (answer.kind(), answer.code(), answer.mid()),
        (Ack, Code::CONTENT, 7)
    );
    assert_eq!((answer.token(), answer.text()), (&[0, 7][..], "hello"));
    assert_eq!(answer.uint(CONTENT_FORMAT), Some(0));
    assert_eq!(answer.uint(MAX_AGE), Some(60));
    assert_eq!(answer.uint(OBSERVE), Some(5), "24 bits");
    assert!(!answer.has(BLOCK2) && !answer.has(ETAG));
    assert_eq!(
        sim.endpoint
            .poll_timeout()
            .map(|at| at - sim.now())
            .unwrap()
            .as_secs(),
        247
    );
}

#[test]
fn a_non_confirmable_request_is_answered_non_under_an_id_of_ours() {
    let mut sim = Sim::new();
    let mut mids = Vec::new();
    for mid in [5, 6, 7] {
        let answer = sim.serve(&Msg::get(mid, "a").non(), changed());
        assert_eq!((answer.kind(), answer.token()), (Non, &mid.to_be_bytes()[..]));
        mids.push(answer.mid());
    }
    assert_eq!(mids, [mids[0], mids[0].wrapping_add(1), mids[0].wrapping_add(2)]);
    let other = {
        sim.from(OTHER, &Msg::get(1, "a").non());
        let (exchange, _) = sim.request();
        sim.respond(exchange, changed());
        sim.one().mid()
    };
    assert!(
        other.abs_diff(mids[0]) > 3,
        "each peer's ids begin somewhere else"
    );
}

#[test]
fn a_ping_is_reset_and_shows_life() {
    let mut sim = Sim::new();
    sim.receive(&Msg::empty(Con, 99));
    let pong = sim.one();
    assert_eq!((pong.kind(), pong.code(), pong.mid()), (Rst, Code::EMPTY, 99));
    assert!(matches!(sim.events()[..], [Event::Alive { peer: PEER }]));
    assert_eq!(sim.all_dropped(), 0);
}

#[test]
fn every_malformed_datagram_has_one_reason_and_a_good_one_is_served_after_it() {
    let cases: &[(&[u8], DropReason, bool)] = &[
        (b"", DropReason::EmptyDatagram, false),
        (b"\x40\x01\x00", DropReason::Malformed, false),
        (b"\x00\x01\x00\x01", DropReason::Version, false),
        (b"\xc0\x01\x00\x01", DropReason::Version, false),
        (b"\x49\x01\x00\x01123456789", DropReason::Malformed, true),
        (b"\x59\x01\x00\x01123456789", DropReason::Malformed, false),
        (b"\x44\x01\x00\x01123", DropReason::Malformed, true),
        (b"\x40\x01\x00\x01\xb5a", DropReason::Malformed, true),
        (b"\x40\x01\x00\x01\xff", DropReason::Malformed, true),
        (b"\x50\x01\x00\x01\xff", DropReason::Malformed, false),
        (b"\x40\x00\x00\x01\xffx", DropReason::Malformed, true),
        (b"\x50\x00\x00\x01", DropReason::Malformed, false),
        (b"\x40\x21\x00\x01", DropReason::ReservedCode, true),
        (b"\x50\xe1\x00\x01", DropReason::ReservedCode, false),
        (b"\x40\x45\x00\x01", DropReason::UnexpectedResponse, true),
        (b"\x50\x45\x00\x01", DropReason::UnexpectedResponse, false),
        (b"\x60\x45\x00\x01", DropReason::Unmatched, false),
        (b"\x60\x00\x00\x01", DropReason::Unmatched, false),
        (b"\x70\x00\x00\x01", DropReason::Unmatched, false),
        (b"\x60\x01\x00\x01", DropReason::Malformed, false),
    ];
    for (datagram, reason, reset) in cases {
        let mut sim = Sim::new();
        sim.raw(PEER, datagram);
        assert_eq!(sim.dropped(*reason), 1, "{datagram:02x?}");
        assert_eq!(sim.all_dropped(), 1, "{datagram:02x?}");
        let sent = sim.sent();
        assert_eq!(sent.len(), usize::from(*reset), "{datagram:02x?}");
        if let [rst] = &sent[..] {
            assert_eq!((rst.kind(), rst.mid(), rst.bytes.len()), (Rst, 1, 4));
        }
        assert!(sim.events().is_empty());
        assert_eq!(sim.serve(&Msg::get(1, "a"), changed()).code(), Code::CHANGED);
    }
}

#[test]
fn an_unknown_critical_option_is_named_on_con_and_ignored_on_non() {
    let mut sim = Sim::new();
    sim.receive(&Msg::get(1, "a").opt(9, b"x"));
    let answer = sim.one();
    assert_eq!((answer.kind(), answer.code()), (Ack, Code::BAD_OPTION));
    assert!(answer.text().contains('9'));
    sim.receive(&Msg::get(2, "a").opt(9, b"x").non());
    sim.silent();
    assert_eq!(sim.dropped(DropReason::CriticalOption), 1);
    assert!(sim.events().is_empty());
    sim.receive(&Msg::get(3, "a").opt(17, b"").opt(17, b""));
    assert_eq!(sim.one().code(), Code::BAD_OPTION, "Accept twice");
    assert_eq!(
        sim.serve(&Msg::get(4, "a").opt(16, &[3]).opt(2050, b"z"), changed())
            .code(),
        Code::CHANGED
    );
}

#[test]
fn proxying_is_refused() {
    let mut sim = Sim::new();
    sim.receive(&Msg::get(1, "a").opt(35, b"coap://example/"));
    assert_eq!(sim.one().code(), Code::PROXYING_NOT_SUPPORTED);
    sim.receive(&Msg::get(2, "a").opt(39, b"coap"));
    assert_eq!(sim.one().code(), Code::PROXYING_NOT_SUPPORTED);
    assert!(sim.events().is_empty());
}

#[test]
fn preconditions_are_handed_on_and_bad_ones_refused() {
    let mut sim = Sim::new();
    sim.receive(&Msg::put(3, "a", b"x").opt(1, b"").opt(1, b"12345678").opt(5, b""));
    let preconditions = sim.request().1.preconditions.unwrap();
    assert_eq!(
        preconditions.any_of,
        [Box::from(&b""[..]), Box::from(&b"12345678"[..])]
    );
    assert!(preconditions.none && !preconditions.hold(None) && !preconditions.hold(Some([1; 8])));
    for (number, value) in [(1, &b"123456789"[..]), (5, b"x")] {
        sim.receive(&Msg::put(4 + number, "a", b"x").opt(number, value));
        assert_eq!(sim.one().code(), Code::BAD_OPTION);
    }
    assert!(sim.events().is_empty());
}

/// RFC 7252, 5.9.1.3 and 5.10.6.2.
#[test]
fn who_has_the_state_already_gets_its_etag_and_nothing_else() {
    let mut sim = Sim::new();
    let state = |etag: [u8; 8]| {
        let mut response = content(body(3_000));
        (response.etag, response.content_format, response.max_age) = (Some(etag), Some(50), Some(9));
        response
    };
    for request in [
        Msg::get(1, "a").opt(ETAG, &[7; 8]),
        Msg::get(2, "a")
            .opt(ETAG, &[1])
            .opt(ETAG, &[2; 8])
            .opt(ETAG, &[7; 8]),
        Msg::get(3, "a").opt(ETAG, &[7; 8]).block(BLOCK2, 0, false, 64),
        Msg::get(4, "a").opt(ETAG, &[7; 8]).non(),
    ] {
        let answer = sim.serve(&request, state([7; 8]));
        assert_eq!(
            (answer.code(), answer.option(ETAG)),
            (Code::VALID, Some(&[7; 8][..]))
        );
        assert_eq!((answer.body(), answer.uint(MAX_AGE)), (&b""[..], Some(9)));
        assert!(!answer.has(CONTENT_FORMAT) && !answer.has(BLOCK2));
    }
    for (mid, known) in [(5, &[8; 8][..]), (6, &[7; 7]), (7, &[7])] {
        let answer = sim.serve(&Msg::get(mid, "a").opt(ETAG, known), state([7; 8]));
        assert_eq!(answer.code(), Code::CONTENT, "it has another");
    }
    let later = Msg::get(10, "b").opt(ETAG, &[7; 8]).block(BLOCK2, 1, false, 64);
    assert_eq!(sim.serve(&later, state([7; 8])).body(), &body(3_000)[64..128]);
    let mut begins = state([7; 8]);
    begins.observe = Some(1);
    let observes = Msg::get(8, "a").opt(OBSERVE, b"").opt(ETAG, &[7; 8]);
    assert_eq!(sim.serve(&observes, begins).code(), Code::CONTENT);
    let mut gone = Response::new(Code::NOT_FOUND);
    gone.etag = Some([7; 8]);
    let answer = sim.serve(&Msg::get(9, "a").opt(ETAG, &[7; 8]), gone);
    assert_eq!(answer.code(), Code::NOT_FOUND);
}

#[test]
fn no_response_keeps_back_what_the_client_does_not_want() {
    let mut sim = Sim::new();
    let quiet = sim.serve(&Msg::put(1, "a", b"x").opt(NO_RESPONSE, &[2]), changed());
    assert_eq!((quiet.kind(), quiet.code(), quiet.mid()), (Ack, Code::EMPTY, 1));
    sim.receive(&Msg::put(2, "a", b"x").opt(NO_RESPONSE, &[2]).non());
    let (exchange, _) = sim.request();
    sim.respond(exchange, changed());
    sim.silent();
    sim.receive(&Msg::put(3, "a", b"x").opt(NO_RESPONSE, &[2]).non());
    let (exchange, _) = sim.request();
    sim.respond(exchange, Response::new(Code::FORBIDDEN));
    assert_eq!(sim.one().code(), Code::FORBIDDEN, "errors are wanted");
    let loud = sim.serve(&Msg::put(4, "a", b"x").opt(NO_RESPONSE, b"").non(), changed());
    assert_eq!(loud.code(), Code::CHANGED);
}

#[test]
fn a_refused_exchange_is_reset_on_con_and_silent_on_non() {
    let mut sim = Sim::new();
    sim.receive(&Msg::get(1, "a"));
    let (exchange, _) = sim.request();
    sim.refuse(exchange);
    assert_eq!(sim.one().kind(), Rst);
    sim.respond(exchange, changed());
    sim.receive(&Msg::get(2, "a").non());
    let (exchange, _) = sim.request();
    sim.refuse(exchange);
    sim.silent();
}
