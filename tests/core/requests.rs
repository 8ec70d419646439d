//! Requests of ours to devices.

use std::time::Duration;

use bytes::Bytes;
use portcullis::coap::contract::{
    CoapSettings, Code, Event, OutgoingRequest, RequestError, RequestId, Response,
};
use portcullis::types::limits::Caps;
use portcullis::types::reason::{DropReason, Limit};

use crate::harness::*;

fn ask(payload: impl Into<Bytes>) -> OutgoingRequest {
    OutgoingRequest {
        method: Code::PUT,
        path: vec!["led".into(), "1".into()],
        query: vec!["on=1".into()],
        content_format: Some(0),
        payload: payload.into(),
        timeout: Duration::from_secs(200),
    }
}

fn send(sim: &mut Sim, id: u64, request: OutgoingRequest) {
    let now = sim.now();
    sim.endpoint
        .request(now, sim.peers.get(PEER), RequestId(id), request);
}

fn answers(sim: &mut Sim) -> Vec<(u64, Result<Response, RequestError>)> {
    let answer = |event| match event {
        Event::Answered { request, result } => Some((request.0, result)),
        _ => None,
    };
    sim.events().into_iter().filter_map(answer).collect()
}

#[track_caller]
fn failed(sim: &mut Sim, error: RequestError) {
    let answers = answers(sim);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1.as_ref().unwrap_err(), &error);
}

fn piggyback(to: &Msg, code: Code) -> Msg {
    Msg::new(Ack, code, to.mid(), to.token())
}

#[test]
fn a_piggybacked_answer() {
    let mut sim = Sim::new();
    send(&mut sim, 5, ask("on"));
    let request = sim.one();
    assert_eq!(
        (request.kind(), request.code(), request.text()),
        (Con, Code::PUT, "on")
    );
    assert_eq!(request.token().len(), 8);
    assert_eq!(
        (request.option(11), request.option(15)),
        (Some(&b"led"[..]), Some(&b"on=1"[..]))
    );
    sim.receive(
        &piggyback(&request, Code::CHANGED)
            .opt(CONTENT_FORMAT, &[50])
            .payload(b"ok"),
    );
    let answers = answers(&mut sim);
    let response = answers[0].1.as_ref().unwrap();
    assert_eq!((answers[0].0, response.code), (5, Code::CHANGED));
    assert_eq!(
        (&response.payload[..], response.content_format),
        (&b"ok"[..], Some(50))
    );
    assert_eq!(sim.endpoint.poll_timeout(), None);
}

#[test]
fn a_separate_answer_is_acknowledged_and_so_are_its_duplicates() {
    let mut sim = Sim::new();
    send(&mut sim, 5, ask("on"));
    let request = sim.one();
    sim.ack(&request);
    sim.pass_s(60);
    sim.silent();
    let answer = Msg::new(Con, Code::CONTENT, 4_000, request.token()).payload(b"21 C");
    sim.receive(&answer);
    let ack = sim.one();
    assert_eq!((ack.kind(), ack.mid(), ack.code()), (Ack, 4_000, Code::EMPTY));
    assert_eq!(answers(&mut sim)[0].1.as_ref().unwrap().payload, "21 C");
    sim.receive(&answer);
    assert_eq!(sim.one().bytes, ack.bytes, "our ACK was lost");
    assert!(answers(&mut sim).is_empty());
    assert_eq!(sim.dropped(DropReason::Duplicate), 1);
}

#[test]
fn an_answer_that_overtakes_its_ack_counts() {
    let mut sim = Sim::new();
    send(&mut sim, 5, ask("on"));
    let request = sim.one();
    sim.receive(&Msg::new(Non, Code::CHANGED, 4_000, request.token()));
    assert_eq!(answers(&mut sim).len(), 1);
    sim.pass_s(100);
    sim.silent();
}

#[test]
fn an_answer_with_another_token_is_not_taken() {
    let mut sim = Sim::new();
    send(&mut sim, 5, ask("on"));
    let request = sim.one();
    sim.receive(&Msg::new(Con, Code::CHANGED, 4_000, b"x"));
    assert_eq!(sim.one().kind(), Rst);
    sim.from(OTHER, &Msg::new(Con, Code::CHANGED, 4_000, request.token()));
    assert_eq!(sim.one().kind(), Rst, "nor one of another peer");
    sim.receive(&Msg::new(Ack, Code::CHANGED, request.mid(), b"x"));
    assert!(answers(&mut sim).is_empty());
    assert_eq!(sim.dropped(DropReason::UnexpectedResponse), 3);
}

#[test]
fn silence_and_reset_and_absence_are_told_apart() {
    let mut sim = Sim::new();
    send(&mut sim, 1, ask("on"));
    sim.pass_s(94);
    assert_eq!(sim.sent().len(), 5);
    failed(&mut sim, RequestError::Unreached);

    let mut patient = ask("on");
    patient.timeout = Duration::from_secs(1);
    send(&mut sim, 2, patient);
    sim.pass_s(1);
    failed(&mut sim, RequestError::Unreached);
    sim.sent();
    sim.pass_s(100);
    sim.silent();

    send(&mut sim, 3, ask("on"));
    let request = sim.one();
    sim.reset(&request);
    failed(&mut sim, RequestError::Reset);

    send(&mut sim, 4, ask("on"));
    sim.remove(PEER);
    failed(&mut sim, RequestError::Gone);
    sim.pass_s(300);
    assert_eq!(sim.endpoint.poll_timeout(), None);
}

#[test]
fn one_request_at_a_time_and_a_bounded_number_waits() {
    let mut sim = Sim::new();
    for id in 0..20 {
        send(&mut sim, id, ask("on"));
    }
    let busy = answers(&mut sim);
    assert_eq!(busy.len(), 3);
    assert!(
        busy.iter()
            .all(|(_, result)| result.as_ref().unwrap_err() == &RequestError::Busy)
    );
    assert_eq!(sim.limited(Limit::PendingRequests), 3);
    for id in 0..17 {
        let request = sim.one();
        sim.receive(&piggyback(&request, Code::CHANGED));
        assert_eq!(answers(&mut sim)[0].0, id);
    }
    sim.silent();
}

#[test]
fn a_waiting_request_times_out_where_it_stands() {
    let mut sim = Sim::new();
    send(&mut sim, 1, ask("on"));
    let mut hasty = ask("on");
    hasty.timeout = Duration::from_secs(1);
    send(&mut sim, 2, hasty);
    sim.pass_s(1);
    let answers = answers(&mut sim);
    assert_eq!((answers.len(), answers[0].0), (1, 2));
}

#[test]
fn a_long_payload_goes_in_blocks_of_the_devices_size() {
    let settings = CoapSettings {
        max_block_size: 256,
        ..CoapSettings::default()
    };
    let mut sim = Sim::with(settings, Caps::default());
    let whole = body(1_000);
    send(&mut sim, 1, ask(whole.clone()));
    let mut got = Vec::new();
    let mut tokens = Vec::new();
    loop {
        let request = sim.one();
        let (num, more, size) = request.block_of(BLOCK1).unwrap();
        assert_eq!(num as usize * size, got.len());
        assert_eq!(request.uint(SIZE1), got.is_empty().then_some(1_000));
        got.extend_from_slice(request.body());
        assert!(!tokens.contains(&request.token().to_vec()));
        tokens.push(request.token().to_vec());
        let code = if more { Code::CONTINUE } else { Code::CHANGED };
        sim.receive(&piggyback(&request, code).block(BLOCK1, num, more, 64));
        if !more {
            break;
        }
    }
    assert_eq!(got, whole);
    assert_eq!(tokens.len(), 1 + 12);
    assert_eq!(answers(&mut sim)[0].1.as_ref().unwrap().code, Code::CHANGED);
}

#[test]
fn a_device_that_finds_it_too_large_is_offered_smaller_blocks() {
    let mut sim = Sim::new();
    send(&mut sim, 1, ask(body(800)));
    let request = sim.one();
    assert!(!request.has(BLOCK1));
    sim.receive(&piggyback(&request, Code::REQUEST_ENTITY_TOO_LARGE).block(BLOCK1, 0, true, 128));
    let request = sim.one();
    assert_eq!(request.block_of(BLOCK1), Some((0, true, 128)));
    sim.receive(&piggyback(&request, Code::REQUEST_ENTITY_TOO_LARGE));
    let answers = answers(&mut sim);
    assert_eq!(
        answers[0].1.as_ref().unwrap().code,
        Code::REQUEST_ENTITY_TOO_LARGE
    );
}

#[test]
fn a_long_answer_is_put_together() {
    let mut sim = Sim::new();
    let whole = body(300);
    let mut request = ask("");
    request.method = Code::GET;
    send(&mut sim, 1, request);
    for num in 0..5_usize {
        let request = sim.one();
        if num > 0 {
            assert_eq!(request.block_of(BLOCK2), Some((num as u32, false, 64)));
        }
        let end = (num * 64 + 64).min(300);
        let answer = piggyback(&request, Code::CONTENT)
            .opt(ETAG, b"e")
            .block(BLOCK2, num as u32, end < 300, 64)
            .payload(&whole[num * 64..end]);
        sim.receive(&answer);
    }
    assert_eq!(answers(&mut sim)[0].1.as_ref().unwrap().payload, whole);
}

#[test]
fn blocks_that_do_not_continue_the_answer_are_bad() {
    let wrong: [fn(&Msg) -> Msg; 5] = [
        |to| {
            piggyback(to, Code::CONTENT)
                .opt(ETAG, b"e")
                .block(BLOCK2, 3, true, 16)
                .payload(&[0; 16])
        },
        |to| {
            piggyback(to, Code::CONTENT)
                .opt(ETAG, b"f")
                .block(BLOCK2, 1, true, 16)
                .payload(&[0; 16])
        },
        |to| {
            piggyback(to, Code::CONTENT)
                .opt(ETAG, b"e")
                .block(BLOCK2, 1, true, 16)
                .payload(&[0; 15])
        },
        |to| piggyback(to, Code::CONTENT).opt(ETAG, b"e").payload(&[0; 16]),
        |to| piggyback(to, Code::CONTENT).opt(9, b"").payload(&[0; 16]),
    ];
    for wrong in wrong {
        let mut sim = Sim::new();
        send(&mut sim, 1, ask(""));
        let request = sim.one();
        sim.receive(
            &piggyback(&request, Code::CONTENT)
                .opt(ETAG, b"e")
                .block(BLOCK2, 0, true, 16)
                .payload(&[0; 16]),
        );
        let request = sim.one();
        sim.receive(&wrong(&request));
        failed(&mut sim, RequestError::BadResponse);
    }
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let settings = CoapSettings {
        max_body_size: 4_096,
        ..CoapSettings::default()
    };
    let mut sim = Sim::with(settings, Caps::default());
    send(&mut sim, 1, ask(""));
    for num in 0..5 {
        let request = sim.one();
        sim.receive(
            &piggyback(&request, Code::CONTENT)
                .block(BLOCK2, num, true, 1_024)
                .payload(&[0; 1_024]),
        );
    }
    failed(&mut sim, RequestError::BadResponse);
    sim.silent();
}

#[test]
fn a_request_and_a_confirmable_notification_take_turns() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    send(&mut sim, 1, ask("on"));
    sim.notify(1, note(1, 2, true));
    let first = sim.one();
    assert_eq!(first.text(), "1.1");
    sim.ack(&first);
    let request = sim.one();
    assert_eq!(request.text(), "on");
    sim.ack(&request);
    let second = sim.one();
    assert_eq!(second.text(), "1.2");
    sim.ack(&second);
    sim.receive(&Msg::new(Con, Code::CHANGED, 77, request.token()));
    assert_eq!(answers(&mut sim).len(), 1);
}

#[test]
fn a_request_that_is_repeated_holds_notifications_up_no_longer() {
    let mut sim = Sim::new();
    send(&mut sim, 1, ask("on"));
    sim.notify(1, note(1, 1, true));
    assert_eq!(sim.one().text(), "on");
    sim.pass_s(3);
    let sent = sim.sent();
    assert!(texts(&sent).contains(&"1.1"));
}

#[test]
fn what_nobody_acknowledges_comes_back_with_all_that_waited_behind_it() {
    let mut sim = Sim::new();
    for number in 1..=3 {
        let mut notification = note(1, number, true);
        notification.returns = true;
        sim.notify(1, notification);
    }
    sim.pass_s(94);
    assert_eq!(sim.sent().len(), 5);
    let back = sim.events().into_iter().find_map(|event| match event {
        Event::Unanswered { notifications, .. } => Some(notifications),
        _ => None,
    });
    let numbers: Vec<u32> = back
        .unwrap()
        .iter()
        .map(|notification| notification.observe)
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    sim.pass_s(300);
    sim.silent();
    assert_eq!(sim.metrics.queued_bytes.get(), 0);
}
