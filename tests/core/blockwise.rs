//! RFC 7959: bodies in blocks, both ways.

use portcullis::coap::contract::{CoapSettings, Code, PeerId, Response};
use portcullis::types::limits::Caps;
use portcullis::types::reason::Limit;

use crate::harness::*;

fn sized(max_block_size: usize, max_body_size: usize) -> Sim {
    let settings = CoapSettings {
        max_block_size,
        max_body_size,
        ..CoapSettings::default()
    };
    Sim::with(settings, Caps::default())
}

fn block1(mid: u16, num: u32, more: bool, size: usize, payload: &[u8]) -> Msg {
    Msg::put(mid, "ps/a", payload).block(BLOCK1, num, more, size)
}

/// Sends a body in blocks; returns the last answer's block option after the request was answered with 2.04.
fn upload(sim: &mut Sim, body: &[u8], size: usize) -> Vec<u8> {
    let blocks: Vec<&[u8]> = body.chunks(size).collect();
    for (num, block) in blocks.iter().enumerate() {
        let more = num + 1 < blocks.len();
        sim.receive(&block1(num as u16, num as u32, more, size, block));
        if more {
            let answer = sim.one();
            assert_eq!(answer.code(), Code::CONTINUE);
            assert_eq!(answer.block_of(BLOCK1), Some((num as u32, true, size)));
            assert!(sim.events().is_empty());
        }
    }
    let (exchange, request) = sim.request();
    sim.respond(exchange, changed());
    let answer = sim.one();
    assert_eq!(answer.code(), Code::CHANGED);
    assert_eq!(
        answer.block_of(BLOCK1),
        Some((blocks.len() as u32 - 1, false, size))
    );
    request.payload.to_vec()
}

/// Fetches a body block by block with a new token for each.
fn download(sim: &mut Sim, first: &Msg, size: usize, mid: u16) -> Vec<u8> {
    let mut got = first.body().to_vec();
    let etag = first.option(ETAG).unwrap().to_vec();
    let mut more = first.block_of(BLOCK2).unwrap().1;
    let mut mid = mid;
    while more {
        mid += 1;
        let num = (got.len() / size) as u32;
        sim.receive(&Msg::get(mid, "ps/a").block(BLOCK2, num, false, size));
        let answer = sim.one();
        assert_eq!((answer.kind(), answer.code()), (Ack, Code::CONTENT));
        assert_eq!(answer.token(), mid.to_be_bytes());
        assert_eq!(answer.option(ETAG).unwrap(), etag);
        assert!(!answer.has(OBSERVE));
        let block = answer.block_of(BLOCK2).unwrap();
        assert_eq!((block.0, block.2), (num, size));
        got.extend_from_slice(answer.body());
        more = block.1;
    }
    assert!(sim.events().is_empty(), "the rest is served from what is kept");
    got
}

#[test]
fn an_upload_is_put_together_and_its_answer_names_the_last_block() {
    for (len, size) in [(48, 16), (40, 16), (5_000, 512), (65_536, 1_024)] {
        let mut sim = Sim::new();
        assert_eq!(upload(&mut sim, &body(len), size), body(len));
    }
    let mut sim = Sim::new();
    let answer = sim.serve(&block1(1, 0, false, 64, b"short"), changed());
    assert_eq!(answer.block_of(BLOCK1), Some((0, false, 64)));
}

#[test]
fn each_block_may_have_another_token_and_peers_do_not_mix() {
    let mut sim = Sim::new();
    sim.receive(&block1(1, 0, true, 16, &[b'a'; 16]).token_is(b"1"));
    sim.from(OTHER, &block1(1, 0, true, 16, &[b'b'; 16]).token_is(b"1"));
    sim.receive(&block1(2, 1, false, 16, b"end").token_is(b"2"));
    let (_, request) = sim.request();
    assert_eq!(request.payload, "aaaaaaaaaaaaaaaaend");
    assert_eq!(request.token.as_bytes(), b"2");
}

#[test]
fn uploads_to_one_resource_differ_by_request_tag() {
    let mut sim = Sim::new();
    sim.receive(&block1(1, 0, true, 16, &[b'a'; 16]).opt(REQUEST_TAG, b"1"));
    sim.receive(&block1(2, 0, true, 16, &[b'b'; 16]).opt(REQUEST_TAG, b"2"));
    sim.receive(&block1(3, 1, false, 16, b"end").opt(REQUEST_TAG, b"1"));
    assert_eq!(sim.request().1.payload, "aaaaaaaaaaaaaaaaend");
    sim.receive(&block1(4, 1, false, 16, b"end").opt(REQUEST_TAG, b"2"));
    assert_eq!(sim.request().1.payload, "bbbbbbbbbbbbbbbbend");
}

#[test]
fn a_block_that_is_too_large_is_taken_and_a_smaller_size_asked_for() {
    let mut sim = sized(32, 4_096);
    let whole = body(300);
    sim.receive(&block1(1, 0, true, 128, &whole[..128]));
    assert_eq!(
        sim.one().block_of(BLOCK1),
        Some((0, true, 32)),
        "RFC 7959, figure 9"
    );
    for num in 4..10 {
        let (begin, end) = (num * 32, (num * 32 + 32).min(300));
        sim.receive(&block1(num as u16, num as u32, end < 300, 32, &whole[begin..end]));
    }
    assert_eq!(sim.request().1.payload, whole);
}

#[test]
fn gaps_and_blocks_out_of_nowhere_are_incomplete() {
    let mut sim = Sim::new();
    sim.receive(&block1(1, 1, true, 16, &[0; 16]));
    assert_eq!(sim.one().code(), Code::REQUEST_ENTITY_INCOMPLETE);
    sim.receive(&block1(2, 0, true, 16, &[0; 16]));
    sim.sent();
    sim.receive(&block1(3, 2, true, 16, &[0; 16]));
    assert_eq!(sim.one().code(), Code::REQUEST_ENTITY_INCOMPLETE, "a gap");
    sim.receive(&block1(4, 1, true, 16, &[0; 16]));
    assert_eq!(
        sim.one().code(),
        Code::REQUEST_ENTITY_INCOMPLETE,
        "the gap ended it"
    );
    sim.receive(&block1(5, 0, true, 16, &[0; 16]));
    sim.sent();
    sim.receive(&block1(6, 1, true, 16, &[0; 16]).opt(CONTENT_FORMAT, &[50]));
    assert_eq!(
        sim.one().code(),
        Code::REQUEST_ENTITY_INCOMPLETE,
        "another format"
    );
    assert!(sim.events().is_empty());
}

#[test]
fn a_block_sent_again_under_a_new_id_goes_on() {
    let mut sim = Sim::new();
    sim.receive(&block1(1, 0, true, 16, &[b'a'; 16]));
    sim.receive(&block1(2, 1, true, 16, &[b'b'; 16]));
    sim.receive(&block1(3, 1, true, 16, &[b'b'; 16]));
    assert!(sim.sent().iter().all(|msg| msg.code() == Code::CONTINUE));
    sim.receive(&block1(4, 2, false, 16, b"c"));
    assert_eq!(sim.request().1.payload, "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbc");
}

#[test]
fn bodies_over_the_limit_are_refused_with_size1() {
    let mut sim = sized(64, 100);
    sim.receive(&block1(1, 0, true, 64, &[0; 64]).opt(SIZE1, &[101]));
    let answer = sim.one();
    assert_eq!(
        (answer.code(), answer.uint(SIZE1)),
        (Code::REQUEST_ENTITY_TOO_LARGE, Some(100)),
        "announced"
    );
    sim.receive(&block1(2, 0, true, 64, &[0; 64]));
    assert_eq!(sim.one().code(), Code::CONTINUE);
    sim.receive(&block1(3, 1, true, 64, &[0; 64]));
    let answer = sim.one();
    assert_eq!(
        (answer.code(), answer.uint(SIZE1)),
        (Code::REQUEST_ENTITY_TOO_LARGE, Some(100))
    );
    sim.receive(&Msg::put(4, "ps/a", &[0; 101]));
    let answer = sim.one();
    assert_eq!(
        (answer.code(), answer.uint(SIZE1)),
        (Code::REQUEST_ENTITY_TOO_LARGE, Some(100)),
        "in one message"
    );
    assert_eq!(sim.limited(Limit::BodySize), 3);
    sim.receive(&Msg::put(5, "ps/a", &[0; 100]));
    sim.request();
}

#[test]
fn blocks_of_the_wrong_length_and_the_reserved_size_are_bad_requests() {
    let mut sim = Sim::new();
    for (mid, request) in [
        (1, block1(1, 0, true, 16, &[0; 5])),
        (2, block1(2, 0, true, 16, &[0; 17])),
        (3, block1(3, 0, false, 16, &[0; 17])),
        (4, Msg::put(4, "a", b"x").opt(BLOCK1, &[7])),
        (5, Msg::get(5, "a").opt(BLOCK2, &[0x17])),
    ] {
        sim.receive(&request);
        let answer = sim.one();
        assert_eq!((answer.mid(), answer.code()), (mid, Code::BAD_REQUEST));
    }
    sim.receive(&Msg::put(6, "a", b"x").opt(BLOCK1, &[0, 0, 0, 0x08]));
    assert_eq!(sim.one().code(), Code::BAD_OPTION, "four bytes");
    assert!(sim.events().is_empty());
}

#[test]
fn block_numbers_have_twenty_bits() {
    let mut sim = sized(16, 1 << 24);
    let whole = vec![3; 16 * 4_200];
    assert_eq!(upload(&mut sim, &whole, 16), whole, "numbers of 3 bytes");
    sim.receive(&block1(60_000, (1 << 20) - 1, false, 16, b"x"));
    assert_eq!(sim.one().code(), Code::REQUEST_ENTITY_INCOMPLETE);
}

#[test]
fn an_upload_that_stands_still_is_forgotten_after_exchange_lifetime() {
    for (seconds, code) in [(246, Code::CONTINUE), (247, Code::REQUEST_ENTITY_INCOMPLETE)] {
        let mut sim = Sim::new();
        sim.receive(&block1(1, 0, true, 16, &[0; 16]));
        sim.pass_s(seconds);
        sim.sent();
        sim.receive(&block1(2, 1, true, 16, &[0; 16]));
        assert_eq!(sim.one().code(), code);
    }
}

#[test]
fn transfers_are_bounded_in_bytes() {
    let caps = Caps {
        transfer_bytes: 32_768,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    for n in 0..50 {
        sim.receive(&Msg::put(n, &format!("ps/{n}"), &[0; 1_024]).block(BLOCK1, 0, true, 1_024));
    }
    assert!(sim.limited(Limit::Transfers) >= 45);
    sim.sent();
    sim.receive(&Msg::put(100, "ps/0", &[0; 16]).block(BLOCK1, 64, false, 16));
    assert_eq!(sim.one().code(), Code::REQUEST_ENTITY_INCOMPLETE);
    sim.receive(&Msg::put(101, "ps/49", &[0; 16]).block(BLOCK1, 64, false, 16));
    assert_eq!(sim.request().1.payload.len(), 1_040);
}

#[test]
fn uploads_of_one_who_is_proven_go_on_while_strangers_begin_others() {
    let caps = Caps {
        transfer_bytes: 65_536,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    for num in 0..6 {
        sim.receive(&block1(num, num.into(), true, 256, &[7; 256]));
        assert_eq!(sim.one().code(), Code::CONTINUE, "block {num}");
        for n in 0..150 {
            let stranger = PeerId(1_000 * (u64::from(num) + 1) + n);
            sim.add(stranger, false);
            sim.from(stranger, &block1(1, 0, true, 256, &[8; 256]));
        }
        sim.sent();
    }
    sim.receive(&block1(6, 6, false, 256, &[7; 10]));
    assert_eq!(sim.request().1.payload.len(), 6 * 256 + 10);
    let unproven = Msg::put(1, "ps/long", &[0; 16]).opt(SIZE1, &20_000_u32.to_be_bytes());
    sim.add(PeerId(9), false);
    sim.from(PeerId(9), &unproven.block(BLOCK1, 0, true, 16));
    let answer = sim.one();
    assert_eq!(answer.code(), Code::REQUEST_ENTITY_TOO_LARGE);
    assert_eq!(
        answer.uint(SIZE1),
        Some(8_192),
        "what would have room in their quarter"
    );
}

#[test]
fn a_long_answer_is_cut_and_the_rest_is_fetched_with_other_tokens() {
    for (len, size) in [(1_025, 1_024), (2_048, 1_024), (5_000, 64), (70_000, 16)] {
        let mut sim = sized(size, 1 << 20);
        let mut response = content(body(len));
        response.content_format = Some(42);
        response.observe = Some(9);
        let first = sim.serve(&Msg::get(1, "ps/a"), response);
        assert_eq!(first.block_of(BLOCK2), Some((0, true, size)));
        assert_eq!(first.uint(SIZE2), Some(len as u32));
        assert_eq!(first.uint(OBSERVE), Some(9));
        assert_eq!(download(&mut sim, &first, size, 1), body(len));
    }
}

#[test]
fn the_client_may_ask_for_smaller_blocks_from_the_start_or_later() {
    let mut sim = Sim::new();
    let first = sim.serve(
        &Msg::get(1, "ps/a").block(BLOCK2, 0, false, 64),
        content(body(500)),
    );
    assert_eq!(first.block_of(BLOCK2), Some((0, true, 64)));
    assert_eq!(download(&mut sim, &first, 64, 1), body(500));
    let first = sim.serve(
        &Msg::get(100, "ps/a").block(BLOCK2, 0, false, 256),
        content(body(500)),
    );
    assert_eq!(download(&mut sim, &first, 32, 100), body(500));
    let short = sim.serve(
        &Msg::get(200, "ps/a").block(BLOCK2, 0, false, 64),
        content("short"),
    );
    assert_eq!(short.block_of(BLOCK2), Some((0, false, 64)));
    assert!(!short.has(ETAG));
}

/// RFC 7959, 2.2: it has no meaning there.
#[test]
fn the_m_bit_of_a_request_for_a_block_is_ignored() {
    let mut sim = sized(64, 4_096);
    let first = sim.serve(
        &Msg::get(1, "ps/a").block(BLOCK2, 0, true, 64),
        content(body(300)),
    );
    assert_eq!(first.block_of(BLOCK2), Some((0, true, 64)));
    for (num, more) in [(2, true), (4, false)] {
        sim.receive(&Msg::get(10 + num as u16, "ps/a").block(BLOCK2, num, true, 64));
        let answer = sim.one();
        assert_eq!(answer.code(), Code::CONTENT);
        assert_eq!(answer.block_of(BLOCK2), Some((num, more, 64)));
    }
}

#[test]
fn every_block_of_an_answer_has_its_format() {
    let mut sim = sized(64, 4_096);
    let mut response = content(body(200));
    response.content_format = Some(112);
    let first = sim.serve(&Msg::get(1, "ps/a"), response);
    assert_eq!(first.uint(CONTENT_FORMAT), Some(112));
    for num in 1..4 {
        sim.receive(&Msg::get(10 + num as u16, "ps/a").block(BLOCK2, num, false, 64));
        assert_eq!(sim.one().uint(CONTENT_FORMAT), Some(112), "block {num}");
    }
}

/// RFC 9175, 3.4: a proxy may have put the blocks together. And no response ever carries one.
#[test]
fn a_request_tag_without_blocks_means_nothing() {
    let mut sim = Sim::new();
    for tag in [&b""[..], b"1", b"12345678"] {
        let request = Msg::put(1 + tag.len() as u16, "ps/a", b"whole").opt(REQUEST_TAG, tag);
        sim.receive(&request);
        let (exchange, delivered) = sim.request();
        assert_eq!(delivered.payload, "whole");
        sim.respond(exchange, changed());
        let answer = sim.one();
        assert_eq!((answer.code(), answer.has(REQUEST_TAG)), (Code::CHANGED, false));
    }
    sim.receive(&block1(50, 0, true, 16, &[0; 16]).opt(REQUEST_TAG, b"t"));
    let answer = sim.one();
    assert_eq!((answer.code(), answer.has(REQUEST_TAG)), (Code::CONTINUE, false));
}

#[test]
fn a_block_of_a_body_that_is_not_kept_is_asked_for_above() {
    let mut sim = sized(64, 1 << 20);
    let answer = sim.serve(
        &Msg::get(1, "ps/a").block(BLOCK2, 2, false, 64).opt(OBSERVE, b""),
        {
            let mut response = content(body(500));
            response.observe = Some(4);
            response
        },
    );
    assert_eq!(answer.block_of(BLOCK2), Some((2, true, 64)));
    assert_eq!(answer.body(), &body(500)[128..192]);
    assert!(!answer.has(OBSERVE));
    sim.receive(&Msg::get(2, "ps/a").block(BLOCK2, 7, false, 64));
    let last = sim.one();
    assert_eq!(last.block_of(BLOCK2), Some((7, false, 64)));
    assert_eq!(last.option(ETAG), answer.option(ETAG));
    sim.receive(&Msg::get(3, "ps/a").block(BLOCK2, 8, false, 64));
    assert_eq!(sim.one().code(), Code::BAD_REQUEST, "behind the end");
    sim.receive(&Msg::put(4, "ps/a", b"").block(BLOCK2, 1, false, 64));
    assert_eq!(
        sim.one().code(),
        Code::REQUEST_ENTITY_INCOMPLETE,
        "a publish is not done again for its answer"
    );
    assert!(sim.events().is_empty());
}

#[test]
fn all_blocks_of_one_notification_share_an_etag_and_only_the_first_has_observe() {
    let mut sim = sized(64, 1 << 20);
    sim.receive(&Msg::get(1, "ps/a").opt(OBSERVE, b"").token_is(b"obs"));
    let (exchange, request) = sim.request();
    let mut response = content("");
    response.observe = Some(1);
    sim.respond(exchange, response);
    sim.sent();
    let mut notification = note(1, 2, false);
    notification.token = request.token;
    notification.resource = request.resource.clone();
    notification.payload = body(300).into();
    sim.notify(1, notification.clone());
    let first = sim.one();
    assert_eq!(first.token(), b"obs");
    assert_eq!(first.uint(OBSERVE), Some(2));
    assert_eq!(first.uint(SIZE2), Some(300));
    assert_eq!(download(&mut sim, &first, 64, 10), body(300));

    notification.payload = body(400).into();
    notification.observe = 3;
    sim.notify(1, notification.clone());
    let second = sim.one();
    assert_ne!(second.option(ETAG), first.option(ETAG));
    assert_eq!(
        download(&mut sim, &second, 64, 100),
        body(400),
        "the newer body replaced the older"
    );

    notification.payload = "short".into();
    sim.notify(1, notification);
    assert!(!sim.one().has(BLOCK2));
    sim.receive(&Msg::get(200, "ps/a").block(BLOCK2, 1, false, 64));
    sim.request();
}

#[test]
fn a_body_is_kept_for_exchange_lifetime_after_the_last_block() {
    let mut sim = sized(64, 1 << 20);
    sim.serve(&Msg::get(1, "ps/a"), content(body(300)));
    for mid in 2..5 {
        sim.pass_s(200);
        sim.receive(&Msg::get(mid, "ps/a").block(BLOCK2, 1, false, 64));
        assert_eq!(sim.one().code(), Code::CONTENT);
    }
    sim.pass_s(247);
    sim.receive(&Msg::get(9, "ps/a").block(BLOCK2, 2, false, 64));
    sim.request();
}

#[test]
fn a_body_that_is_too_large_to_send_is_an_error() {
    let mut sim = sized(64, 1_000);
    let answer = sim.serve(&Msg::get(1, "ps/a"), content(body(1_001)));
    assert_eq!(answer.code(), Code::INTERNAL_SERVER_ERROR);
    let mut notification = note(1, 1, false);
    notification.payload = body(1_001).into();
    sim.notify(1, notification);
    sim.silent();
    assert_eq!(sim.limited(Limit::BodySize), 2);
}

#[test]
fn upload_and_download_in_one_exchange() {
    let mut sim = sized(64, 4_096);
    sim.receive(
        &Msg::new(Con, Code::POST, 1, b"t")
            .path("ps/a")
            .payload(&[1; 64])
            .block(BLOCK1, 0, true, 64),
    );
    assert_eq!(sim.one().code(), Code::CONTINUE);
    sim.receive(
        &Msg::new(Con, Code::POST, 2, b"t")
            .path("ps/a")
            .payload(&[2; 3])
            .block(BLOCK1, 1, false, 64),
    );
    let (exchange, request) = sim.request();
    assert_eq!(request.payload.len(), 67);
    sim.respond(exchange, content(body(150)));
    let answer = sim.one();
    assert_eq!(answer.block_of(BLOCK1), Some((1, false, 64)));
    assert_eq!(answer.block_of(BLOCK2), Some((0, true, 64)));
    sim.receive(
        &Msg::new(Con, Code::POST, 3, b"u")
            .path("ps/a")
            .block(BLOCK2, 1, false, 64),
    );
    assert_eq!(sim.one().body(), &body(150)[64..128]);
}

/// What a device agreed on with its DTLS: max_fragment_length (RFC 6066, 4) or record_size_limit (RFC 8449).
#[test]
fn nothing_is_longer_than_a_record_that_the_device_takes() {
    for (longest, size) in [(512, 256), (1_024, 512), (200, 128), (2_048, 1_024)] {
        let mut sim = Sim::new();
        sim.peers.get(PEER).set_max_message(longest);
        let fits = |msg: &Msg| {
            assert!(msg.bytes.len() <= longest, "{} of {longest}", msg.bytes.len());
            assert_eq!(msg.block_of(BLOCK2), Some((0, true, size)));
        };
        let first = sim.serve(&Msg::get(1, "ps/a"), content(body(3_000)));
        fits(&first);
        assert_eq!(download(&mut sim, &first, size, 1), body(3_000));
        for confirmable in [false, true] {
            let mut notification = note(1, 1, confirmable);
            notification.payload = body(3_000).into();
            sim.notify(1, notification);
            fits(&sim.one());
        }
        let said = "w".repeat(1_000);
        let refusal = Response::diagnostic(Code::BAD_REQUEST, said);
        let refused = sim.serve(&Msg::get(99, "ps/b"), refusal);
        assert!(
            refused.bytes.len() <= longest,
            "{} of {longest}",
            refused.bytes.len()
        );
    }
}

#[test]
fn notifications_come_in_the_block_size_that_the_registration_asked_for() {
    let mut sim = Sim::new();
    sim.receive(&Msg::get(1, "ps/a").opt(OBSERVE, b"").block(BLOCK2, 0, false, 32));
    let (_, request) = sim.request();
    assert_eq!(request.block_szx, Some(1));
    let mut notification = note(1, 1, false);
    notification.block_szx = request.block_szx;
    notification.payload = body(100).into();
    sim.notify(1, notification.clone());
    let first = sim.one();
    assert_eq!(
        (first.block_of(BLOCK2), first.body()),
        (Some((0, true, 32)), &body(100)[..32])
    );
    notification.payload = body(20).into();
    sim.notify(1, notification);
    assert!(!sim.one().has(BLOCK2));
}
