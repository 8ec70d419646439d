//! Long bodies (RFC 7959): uploads by Block1, downloads by Block2, notifications.

use crate::each_transport;
use crate::support::coap::Block;
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option, typ};

each_transport!(
    an_upload_in_blocks_is_published_once_and_whole,
    every_block_size_works_both_ways,
    blocks_of_one_upload_may_have_any_token,
    the_final_answer_carries_block1,
    the_gateway_negotiates_its_block_size_late,
    the_client_negotiates_its_block_size_late,
    a_block_without_its_predecessor_is_incomplete,
    a_repeated_first_block_starts_afresh,
    a_body_over_the_limit_is_refused_with_size1,
    an_announced_size_over_the_limit_is_refused_at_once,
    a_single_message_over_the_limit_is_refused,
    uploads_of_several_peers_do_not_mix,
    request_tags_keep_uploads_of_one_peer_apart,
    a_download_in_blocks_has_one_etag,
    a_download_may_start_at_any_block,
    a_block_beyond_the_end_is_refused,
    a_download_of_a_changed_resource_shows_it,
    a_long_notification_is_fetched_in_blocks,
    a_changed_notification_has_another_etag,
    a_bad_block_option_is_refused,
);

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

/// The `num`-th block of `body` as a request.
fn block(uri: &str, body: &[u8], num: usize, size: usize) -> Request {
    let start = num * size;
    let end = (start + size).min(body.len());
    Request::post(uri)
        .block1(u32::try_from(num).unwrap(), end < body.len(), size)
        .payload(&body[start..end])
}

/// Uploads in blocks of `size`, following the gateway where it asks for smaller ones; the final answer.
fn upload(client: &mut Client, uri: &str, body: &[u8], size: usize) -> Message {
    let mut size = size;
    let mut sent = 0;
    loop {
        let request = block(uri, body, sent / size, size);
        let more = sent + size < body.len();
        let answer = client.request(&request);
        if !more || answer.code != code::CONTINUE {
            return answer;
        }
        sent += size;
        let echoed = answer.block(option::BLOCK1).expect("Block1 in 2.31");
        size = size.min(echoed.size);
    }
}

fn an_upload_in_blocks_is_published_once_and_whole(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a?qos=0");
    let body = body(1000);
    upload(&mut client, "ps/a?retain=true", &body, 256).expect(code::CHANGED);
    assert_eq!(client.read("ps/a"), body);
    let first = client.notification(&observation.token);
    let whole = client.rest_of(&Request::get("ps/a"), &first);
    assert_eq!(whole, body);
    client.no_notification(&observation.token, ms(100));
}

fn every_block_size_works_both_ways(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    for size in [16, 32, 64, 128, 256, 512, 1024] {
        for length in [size, size + 1, 3 * size, 3 * size + 7] {
            let body = body(length);
            upload(&mut client, "ps/a?retain=true", &body, size).expect(code::CHANGED);
            let request = Request::get("ps/a");
            let first = client
                .request(&request.clone().block2(0, size))
                .expect(code::CONTENT);
            assert!(first.payload.len() <= size);
            assert_eq!(
                client.rest_of(&request, &first),
                body,
                "{length} bytes in blocks of {size}"
            );
        }
    }
}

fn blocks_of_one_upload_may_have_any_token(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let body = body(100);
    for tokens in [
        [&b"a"[..], b"b", b"c", b"d"],
        [b"", b"", b"", b""],
        [b"z", b"z", b"z", b"z"],
    ] {
        for (num, token) in tokens.iter().enumerate() {
            let answer = client.request(&block("ps/a?retain=true", &body, num, 32).token(token));
            answer.expect(if num < 3 { code::CONTINUE } else { code::CHANGED });
        }
        assert_eq!(client.read("ps/a"), body);
        client.request(&Request::delete("ps/a")).expect(code::DELETED);
    }
}

fn the_final_answer_carries_block1(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let body = body(80);
    for (num, more) in [(0, true), (1, true), (2, false)] {
        let answer = client.request(&block("ps/a", &body, num, 32));
        let echoed = answer.block(option::BLOCK1).expect("Block1");
        assert_eq!(
            (echoed.num as usize, echoed.more, echoed.size),
            (num, more, 32),
            "{answer:?}"
        );
        answer.expect(if more { code::CONTINUE } else { code::CHANGED });
    }
    // A body that fits its only block.
    let answer = client
        .request(&Request::post("ps/a").block1(0, false, 64).payload("x"))
        .expect(code::CHANGED);
    assert_eq!(answer.block(option::BLOCK1), Some(Block::new(0, false, 64)));
}

fn the_gateway_negotiates_its_block_size_late(kind: Kind) {
    let gateway = Gateway::start(Config::new().set("coap.blockwise", "max_block_size = 64"));
    let mut client = gateway.client(kind);
    let body = body(3000);
    let first = client
        .request(&block("ps/a?retain=true", &body, 0, 1024))
        .expect(code::CONTINUE);
    assert_eq!(first.block(option::BLOCK1), Some(Block::new(0, true, 64)));
    // All of the first block's 1024 bytes were taken: the next one in blocks of 64 is number 16.
    for num in 16.. {
        let answer = client.request(&block("ps/a?retain=true", &body, num, 64));
        if answer.code != code::CONTINUE {
            answer.expect(code::CHANGED);
            break;
        }
    }
    let request = Request::get("ps/a");
    let first = client
        .request(&request.clone().block2(0, 1024))
        .expect(code::CONTENT);
    assert_eq!(first.block(option::BLOCK2), Some(Block::new(0, true, 64)));
    assert_eq!(client.rest_of(&request, &first), body);
    assert_eq!(client.read("ps/a"), body, "without a wish, too");
}

fn the_client_negotiates_its_block_size_late(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let body = body(3000);
    upload(&mut client, "ps/a?retain=true", &body, 1024).expect(code::CHANGED);
    // The first request asks for nothing, the next ones for smaller blocks (RFC 7959, 2.4).
    let first = client.request(&Request::get("ps/a")).expect(code::CONTENT);
    let mut got = first.payload.clone();
    assert_eq!(
        first.block(option::BLOCK2).map(|block| (block.num, block.more)),
        Some((0, true))
    );
    while got.len() < body.len() {
        let num = u32::try_from(got.len() / 32).unwrap();
        let next = client
            .request(&Request::get("ps/a").block2(num, 32))
            .expect(code::CONTENT);
        let more = got.len() + next.payload.len() < body.len();
        assert_eq!(next.block(option::BLOCK2), Some(Block::new(num, more, 32)));
        got.extend(&next.payload);
    }
    assert_eq!(got, body);
}

fn a_block_without_its_predecessor_is_incomplete(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    let body = body(200);
    client
        .request(&block("ps/a", &body, 2, 32))
        .expect(code::INCOMPLETE);
    client
        .request(&block("ps/a", &body, 6, 32))
        .expect(code::INCOMPLETE);
    client
        .request(&block("ps/a", &body, 0, 32))
        .expect(code::CONTINUE);
    client
        .request(&block("ps/a", &body, 2, 32))
        .expect(code::INCOMPLETE);
    client.no_notification(&observation.token, ms(50));
    upload(&mut client, "ps/a", &body, 32).expect(code::CHANGED);
    client.notification(&observation.token);
}

fn a_repeated_first_block_starts_afresh(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let old = body(100);
    let new: Vec<u8> = old.iter().map(|byte| byte ^ 0xff).collect();
    client
        .request(&block("ps/a?retain=1", &old, 0, 32))
        .expect(code::CONTINUE);
    client
        .request(&block("ps/a?retain=1", &old, 1, 32))
        .expect(code::CONTINUE);
    upload(&mut client, "ps/a?retain=1", &new, 32).expect(code::CHANGED);
    assert_eq!(client.read("ps/a"), new);
}

/// A gateway that takes bodies of 4 KiB.
fn small() -> Gateway {
    Gateway::start(Config::new().set("coap.blockwise", "max_body_size = \"4KiB\""))
}

fn a_body_over_the_limit_is_refused_with_size1(kind: Kind) {
    let gateway = small();
    let mut client = gateway.client(kind);
    let answer = upload(&mut client, "ps/a?retain=1", &body(4097), 1024).expect(code::TOO_LARGE);
    assert_eq!(answer.uint(option::SIZE1), Some(4096), "how much it would take");
    client.request(&Request::get("ps/a")).expect(code::NOT_FOUND);
    upload(&mut client, "ps/a?retain=1", &body(4096), 1024).expect(code::CHANGED);
    assert_eq!(client.read("ps/a"), body(4096));
    assert!(gateway.metric("limits_rejected_total", &["limit=\"max_body_size\""]) >= 1.0);
}

fn an_announced_size_over_the_limit_is_refused_at_once(kind: Kind) {
    let gateway = small();
    let mut client = gateway.client(kind);
    let first = block("ps/a", &body(5000), 0, 1024).uint(option::SIZE1, 5000);
    let answer = client.request(&first).expect(code::TOO_LARGE);
    assert_eq!(answer.uint(option::SIZE1), Some(4096));
    let first = block("ps/a", &body(4000), 0, 1024).uint(option::SIZE1, 4000);
    client.request(&first).expect(code::CONTINUE);
}

fn a_single_message_over_the_limit_is_refused(kind: Kind) {
    let gateway = small();
    let mut client = gateway.client(kind);
    let answer = client
        .request(&Request::post("ps/a").payload(body(5000)))
        .expect(code::TOO_LARGE);
    assert_eq!(answer.uint(option::SIZE1), Some(4096));
    client
        .request(&Request::post("ps/a").payload(body(4000)))
        .expect(code::CHANGED);
}

fn uploads_of_several_peers_do_not_mix(kind: Kind) {
    let gateway = gateway();
    let mut clients: Vec<Client> = (0..4).map(|_| gateway.client(kind)).collect();
    let bodies: Vec<Vec<u8>> = (0..4).map(|i| vec![b'a' + i; 100]).collect();
    let observation = clients[0].observe("ps/a?qos=0");
    for num in 0..4 {
        for (client, body) in clients.iter_mut().zip(&bodies) {
            let answer = client.request(&block("ps/a", body, num, 32).token(b"same"));
            answer.expect(if num < 3 { code::CONTINUE } else { code::CHANGED });
        }
    }
    for body in &bodies {
        let first = clients[0].notification(&observation.token);
        assert_eq!(first.payload[0], body[0]);
        assert!(body.starts_with(&first.payload));
    }
}

fn request_tags_keep_uploads_of_one_peer_apart(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a?qos=0");
    let bodies = [[b'a'; 80], [b'b'; 80]];
    for num in 0..3 {
        for (tag, body) in bodies.iter().enumerate() {
            let tag = [u8::try_from(tag).unwrap()];
            let answer = client.request(&block("ps/a", body, num, 32).option(option::REQUEST_TAG, &tag));
            answer.expect(if num < 2 { code::CONTINUE } else { code::CHANGED });
        }
    }
    for body in bodies {
        assert_eq!(client.notification(&observation.token).payload, body);
    }
}

fn a_download_in_blocks_has_one_etag(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let body = body(500);
    client.publish("ps/a?retain=1", &body);
    let request = Request::get("ps/a");
    let first = client
        .request(&request.clone().block2(0, 64))
        .expect(code::CONTENT);
    let etag = first.option(option::ETAG).expect("ETag").to_vec();
    assert!((1..=8).contains(&etag.len()));
    assert_eq!(first.block(option::BLOCK2), Some(Block::new(0, true, 64)));
    if let Some(size) = first.uint(option::SIZE2) {
        assert_eq!(size, 500);
    }
    // `rest_of` compares the ETag of each block with the first one's.
    assert_eq!(client.rest_of(&request, &first), body);
    let short = client
        .request(&Request::get("ps/a").block2(7, 64))
        .expect(code::CONTENT);
    assert_eq!(short.block(option::BLOCK2), Some(Block::new(7, false, 64)));
    assert_eq!(short.payload, body[448..]);
}

fn a_download_may_start_at_any_block(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let body = body(500);
    client.publish("ps/a?retain=1", &body);
    let mut other = gateway.client(kind);
    let answer = other
        .request(&Request::get("ps/a").block2(3, 64))
        .expect(code::CONTENT);
    assert_eq!(answer.payload, body[192..256]);
    assert_eq!(answer.block(option::BLOCK2), Some(Block::new(3, true, 64)));
}

fn a_block_beyond_the_end_is_refused(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=1", body(100));
    let answer = client.request(&Request::get("ps/a").block2(9, 64));
    assert_eq!(answer.code >> 5, 4, "{answer:?}");
}

fn a_download_of_a_changed_resource_shows_it(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=1", vec![b'a'; 300]);
    let first = client
        .request(&Request::get("ps/a").block2(0, 64))
        .expect(code::CONTENT);
    client.publish("ps/a?retain=1", vec![b'b'; 300]);
    let next = client
        .request(&Request::get("ps/a").block2(1, 64))
        .expect(code::CONTENT);
    let same = next.option(option::ETAG) == first.option(option::ETAG);
    // Either the old body goes on under its ETag or the new one shows another; never a mixture under one ETag.
    assert_eq!(same, next.payload[0] == b'a', "{next:?}");
}

fn a_long_notification_is_fetched_in_blocks(kind: Kind) {
    let gateway = gateway();
    for qos in [0, 1] {
        let mut client = gateway.client(kind);
        let observation = client.observe(&format!("ps/a?qos={qos}"));
        let body = body(5000);
        let mut publisher = gateway.client(kind);
        upload(&mut publisher, "ps/a", &body, 1024).expect(code::CHANGED);
        let first = client.notification(&observation.token).expect(code::CONTENT);
        assert_eq!(first.typ, if qos == 0 { typ::NON } else { typ::CON });
        assert!(first.observe().is_some());
        assert!(first.option(option::ETAG).is_some());
        let block = first.block(option::BLOCK2).expect("Block2");
        assert!(block.num == 0 && block.more, "{block:?}");
        // Not retained: the rest is there for who was notified.
        let request = Request::get(&format!("ps/a?qos={qos}"));
        assert_eq!(client.rest_of(&request, &first), body);
        client.no_notification(&observation.token, ms(50));
    }
}

fn a_changed_notification_has_another_etag(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a?qos=1");
    let mut etags = vec![];
    for byte in [b'a', b'b'] {
        upload(&mut client, "ps/a", &vec![byte; 3000], 1024).expect(code::CHANGED);
        let first = client.notification(&observation.token);
        assert_eq!(
            client.rest_of(&Request::get("ps/a?qos=1"), &first),
            vec![byte; 3000]
        );
        etags.push(first.option(option::ETAG).unwrap().to_vec());
    }
    assert_ne!(etags[0], etags[1]);
}

fn a_bad_block_option_is_refused(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    // SZX 7 is reserved; four bytes are too long.
    for value in [&[7][..], &[0xf], &[1, 0, 0, 0x06]] {
        for number in [option::BLOCK1, option::BLOCK2] {
            let answer = client.request(&Request::post("ps/a").option(number, value).payload("x"));
            let status = answer.status();
            assert!(
                status == "4.00" || status == "4.02",
                "{number} {value:?}: {answer:?}"
            );
        }
    }
    // A block that is not the last must be full.
    let short = Request::post("ps/a").block1(0, true, 64).payload("short");
    let answer = client.request(&short);
    assert_eq!(answer.code >> 5, 4, "{answer:?}");
    client.publish("ps/a", "x");
}
