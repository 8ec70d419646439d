//! Peers over plain UDP that have not proved their address (RFC 9175, 2.4).

use std::time::Duration;

use portcullis::coap::contract::{CoapSettings, Code, Event, NotificationOutcome, PeerId, Response};
use portcullis::types::limits::Caps;
use portcullis::types::reason::Limit;

use crate::harness::*;

const UDP: PeerId = PeerId(77);

fn sim() -> Sim {
    with(false)
}

fn with(challenge_unproven: bool) -> Sim {
    let settings = CoapSettings {
        challenge_unproven,
        ..CoapSettings::default()
    };
    let mut sim = Sim::with(settings, Caps::default());
    sim.add(UDP, false);
    sim
}

/// The answer to a request, which an empty ACK may precede, and the bytes of both.
fn serve(sim: &mut Sim, msg: &Msg, response: Response) -> (Msg, usize) {
    sim.from(UDP, msg);
    for (exchange, _) in sim.requests() {
        sim.respond(exchange, response.clone());
    }
    let mut sent = sim.sent();
    let bytes = sent.iter().map(|msg| msg.bytes.len()).sum();
    let answer = sent.pop().unwrap();
    let before: Vec<_> = sent
        .iter()
        .map(|msg| (msg.kind(), msg.code(), msg.mid()))
        .collect();
    match answer.kind() {
        Con if msg.kind() == Con => assert_eq!(before, [(Ack, Code::EMPTY, msg.mid())]),
        _ => assert_eq!(before, []),
    }
    (answer, bytes)
}

#[test]
fn an_answer_is_at_most_three_times_its_request_or_136_bytes() {
    for padding in [0, 10, 60, 100, 200] {
        for len in [0, 50, 90, 120, 136, 500, 5_000] {
            let mut sim = sim();
            let request = Msg::get(1, "ps/a")
                .token_is(b"12345678")
                .opt(2048, &vec![0; padding]);
            let limit = (request.encode().len() * 3).max(136);
            let mut response = content(body(len));
            (response.content_format, response.max_age, response.observe) =
                (Some(65_000), Some(100_000), Some(1 << 23));
            let (answer, bytes) = serve(&mut sim, &request, response);
            assert!(bytes <= limit, "{bytes} of {limit} for {len}");
            assert!(answer.body().len() >= len.min(32), "{len}");
        }
    }
}

#[test]
fn a_late_answer_and_its_repetitions_stay_within_the_budget_together() {
    let mut sim = sim();
    let request = Msg::get(1, "ps/a");
    sim.from(UDP, &request);
    let (exchange, _) = sim.request();
    sim.pass_s(1);
    assert_eq!(sim.one().bytes.len(), 4);
    sim.respond(exchange, content(body(5_000)));
    let answer = sim.one();
    assert_eq!(answer.kind(), Con);
    sim.pass_s(100);
    assert_eq!(sim.sent().len(), 1, "four more would be too many bytes");
    assert_eq!(sim.limited(Limit::UnprovenBytes), 3);
}

#[test]
fn many_requests_of_one_socket_are_answered_each() {
    for confirmable in [true, false] {
        for len in [0, 20, 45, 60, 110, 700, 5_000] {
            let mut sim = sim();
            let (mut came, mut went, mut last) = (0, 0, 0);
            for mid in 1..=12 {
                let request = Msg::get(mid, "r").token_is(&mid.to_be_bytes());
                let request = if confirmable { request } else { request.non() };
                let was_proven = sim.is_proven(UDP);
                let (answer, bytes) = serve(&mut sim, &request, content(body(len)));
                assert_eq!(answer.code(), Code::CONTENT, "{mid} of {len} bytes");
                assert_eq!(answer.token(), request.token());
                (came, went, last) = (came + request.encode().len(), went + bytes, answer.body().len());
                assert!(was_proven || went <= 136.max(3 * came), "{went} for {came}");
                if answer.kind() == Con {
                    sim.ack(&answer);
                    assert!(sim.is_proven(UDP));
                }
            }
            assert_eq!(last, len.min(1_024), "whole in the end");
        }
    }
}

#[test]
fn what_does_not_fit_waits_until_the_address_is_proved() {
    let mut sim = sim();
    let requests: Vec<Msg> = (1..=7).map(|mid| Msg::get(mid, "r")).collect();
    for request in &requests {
        sim.from(UDP, request);
    }
    for (exchange, _) in sim.requests() {
        sim.respond(exchange, content(body(60)));
    }
    let mut sent = sim.sent();
    let [came, went] = [&requests, &sent].map(|all| all.iter().map(|msg| msg.encode().len()).sum::<usize>());
    assert!(went <= 136.max(3 * came), "{went} bytes for {came}");
    let question = sent.iter().find(|msg| msg.kind() == Con).unwrap().clone();
    sim.ack(&question);
    sent.extend(sim.sent());
    for request in &requests {
        let is_answer = |msg: &&Msg| msg.code() == Code::CONTENT && msg.token() == request.token();
        assert_eq!(sent.iter().filter(is_answer).count(), 1, "{}", request.mid());
    }
}

#[test]
fn who_rejects_an_answer_asked_for_none_and_gets_no_more_for_it() {
    let mut sim = sim();
    let (answer, before) = serve(&mut sim, &Msg::get(1, "r"), content(body(90)));
    assert_eq!(answer.kind(), Con);
    sim.reset(&answer);
    assert!(!sim.is_proven(UDP));
    let request = Msg::get(2, "r");
    sim.from(UDP, &request);
    let (exchange, _) = sim.request();
    sim.respond(exchange, content(body(900)));
    sim.pass_s(100);
    let after: usize = sim.sent().iter().map(|msg| msg.bytes.len()).sum();
    assert!(before + after <= 136, "{before} and {after}");
}

#[test]
fn a_long_body_begins_in_the_ack_and_its_rest_comes_in_blocks_of_that_size() {
    for token in [&b"t"[..], b"12345678"] {
        let mut sim = sim();
        let whole = body(500);
        let request = |num: u32| Msg::get(1 + num as u16, "ps/a").token_is(token);
        let (first, _) = serve(&mut sim, &request(0), content(whole.clone()));
        assert_eq!((first.kind(), first.block_of(BLOCK2)), (Ack, Some((0, true, 32))));
        let mut got = first.body().to_vec();
        while got.len() < whole.len() {
            let num = (got.len() / 32) as u32;
            sim.from(UDP, &request(num).block(BLOCK2, num, false, 32));
            let sent = sim.sent();
            let answer = sent.last().expect("an answer");
            if answer.kind() == Con {
                assert!(num == 1, "asked once, with the second part");
                sim.ack(answer);
            }
            got.extend_from_slice(answer.body());
        }
        assert!(sim.is_proven(UDP));
        assert_eq!(got, whole);
    }
}

#[test]
fn a_follow_up_that_asks_for_large_blocks_gets_small_ones_of_the_same_offset() {
    let mut sim = sim();
    let whole = body(5_000);
    serve(&mut sim, &Msg::get(1, "ps/a"), content(whole.clone()));
    let request = Msg::get(2, "ps/a").block(BLOCK2, 2, false, 1_024);
    let (answer, _) = serve(&mut sim, &request.opt(2_048, &[0; 7]), content(whole.clone()));
    assert_eq!(answer.block_of(BLOCK2), Some((64, true, 32)));
    assert_eq!(answer.body(), &whole[2_048..2_080]);
}

#[test]
fn diagnostics_are_cut() {
    let mut sim = sim();
    let (answer, _) = serve(
        &mut sim,
        &Msg::get(1, "a"),
        Response::diagnostic(Code::BAD_REQUEST, "é".repeat(400)),
    );
    assert!(answer.bytes.len() <= 136 && answer.text().len() > 50);
    assert!(!answer.has(BLOCK2));
}

#[test]
fn diagnostics_leave_room_for_the_answers_that_follow() {
    let mut sim = sim();
    for mid in 1..=50 {
        let refusal = Response::diagnostic(Code::NOT_FOUND, "there is nothing of this name here");
        let (answer, _) = serve(&mut sim, &Msg::get(mid, "a").token_is(b"t"), refusal);
        assert_eq!(answer.code(), Code::NOT_FOUND, "answer {mid}");
    }
}

#[test]
fn notifications_to_it_are_small_and_one_asks_for_proof_before_the_budget_is_gone() {
    let mut sim = sim();
    for number in 1..=20 {
        let mut notification = note(1, number, false);
        notification.payload = body(300).into();
        sim.notify_peer(UDP, 2, note(2, number, false));
        sim.notify_peer(UDP, 1, notification);
    }
    let sent = sim.sent();
    let bytes: usize = sent.iter().map(|msg| msg.bytes.len()).sum();
    assert!(bytes <= 136, "{bytes}");
    let questions: Vec<&Msg> = sent.iter().filter(|msg| msg.kind() == Con).collect();
    assert_eq!(questions.len(), 1);
    assert!(!sim.is_proven(UDP));
    sim.ack(questions[0]);
    assert!(sim.is_proven(UDP));
    let rest = sim.sent();
    assert_eq!(rest.len(), 40 - sent.len(), "what waited follows");
    assert!(rest.iter().all(|msg| msg.kind() == Non));
    assert!(rest.iter().any(|msg| msg.body() == body(300)), "whole now");
}

#[test]
fn a_reset_proves_the_address_too() {
    let mut sim = sim();
    for number in 1..=9 {
        sim.notify_peer(UDP, 1, note(1, number, true));
        sim.notify_peer(UDP, 2, note(2, number, false));
    }
    let con = sim.sent().into_iter().find(|msg| msg.kind() == Con).unwrap();
    sim.reset(&con);
    assert!(sim.is_proven(UDP));
    assert_eq!(
        sim.sent().last().unwrap().text(),
        "2.9",
        "the other observation goes on"
    );
}

#[test]
fn a_peer_that_never_proves_itself_gets_no_more() {
    let mut sim = sim();
    for number in 1..=20 {
        for observation in 1..=3 {
            sim.notify_peer(UDP, observation, note(observation, number, false));
        }
    }
    sim.pass_s(400);
    let bytes: usize = sim.sent().iter().map(|msg| msg.bytes.len()).sum();
    assert!(bytes <= 136, "retransmissions and all: {bytes}");
    let lost = sim.outcomes();
    assert!(!lost.is_empty());
    assert!(
        lost.iter()
            .all(|(_, outcome)| *outcome == NotificationOutcome::TimedOut)
    );
    sim.notify_peer(UDP, 9, note(9, 1, false));
    sim.silent();
    sim.from(UDP, &Msg::get(1, "ps/a").opt(2_048, &[0; 60]));
    assert_eq!(
        sim.one().kind(),
        Con,
        "what it sends makes room for another question"
    );
}

#[test]
fn proof_elsewhere_frees_what_waits() {
    let mut sim = sim();
    for number in 1..=20 {
        sim.notify_peer(UDP, 1, note(1, number, false));
        sim.notify_peer(UDP, 2, note(2, number, false));
    }
    assert!(sim.sent().len() < 8);
    sim.set_proven(UDP);
    assert!(sim.sent().len() > 10, "the other observation goes on");
}

#[test]
fn a_move_takes_the_proof_away_and_what_went_before_proves_nothing() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    let before = sim.one();
    sim.unprove(PEER);
    sim.ack(&before);
    assert!(!sim.is_proven(PEER), "who had the old address knows the id");
    for number in 2..=60 {
        let mut notification = note(1, number, false);
        notification.payload = body(900).into();
        sim.notify(1, notification);
    }
    sim.pass_s(60);
    let sent = sim.sent();
    let bytes: usize = sent.iter().map(|msg| msg.bytes.len()).sum();
    assert!(bytes <= 136, "{bytes}");
    let asked = sent.iter().find(|msg| msg.kind() == Con).unwrap();
    assert!(asked.mid().wrapping_sub(before.mid()) != 1);
    sim.ack(asked);
    assert!(sim.is_proven(PEER));
    assert!(sim.sent().len() > 50, "what waited follows");
}

#[test]
fn who_only_publishes_is_asked_by_a_separate_response() {
    let mut sim = sim();
    serve(&mut sim, &Msg::put(1, "ps/a", b"x"), changed());
    sim.peers.get(UDP).ask_for_proof();
    sim.from(UDP, &Msg::put(2, "ps/a", b"x").non());
    let (exchange, _) = sim.request();
    sim.respond(exchange, changed());
    assert_eq!(sim.one().kind(), Non, "one that waits for no ACK is not asked");
    sim.from(UDP, &Msg::put(3, "ps/a", b"x"));
    let (exchange, _) = sim.request();
    sim.respond(exchange, changed());
    let sent = sim.sent();
    assert_eq!(
        sent.iter()
            .map(|msg| (msg.kind(), msg.code()))
            .collect::<Vec<_>>(),
        [(Ack, Code::EMPTY), (Con, Code::CHANGED)]
    );
    assert_eq!((sent[0].mid(), sent[1].token()), (3, &3_u16.to_be_bytes()[..]));
    sim.ack(&sent[1]);
    assert!(sim.is_proven(UDP));
    let (answer, _) = serve(&mut sim, &Msg::put(4, "ps/a", b"x"), changed());
    assert_eq!((answer.kind(), answer.code()), (Ack, Code::CHANGED), "asked once");
}

#[test]
fn guessed_acknowledgements_prove_nothing() {
    let mut sim = sim();
    for mid in 0..16 {
        sim.from(UDP, &Msg::empty(Ack, mid));
    }
    sim.notify_peer(UDP, 1, note(1, 1, true));
    let sent = sim.one();
    sim.ack(&sent);
    assert!(!sim.is_proven(UDP));
}

#[test]
fn a_challenge_is_answered_with_the_echoed_value() {
    let mut sim = with(true);
    sim.from(UDP, &Msg::put(1, "a", b"x"));
    let challenge = sim.one();
    assert_eq!((challenge.kind(), challenge.code()), (Ack, Code::UNAUTHORIZED));
    let echo = challenge.option(ECHO).unwrap().to_vec();
    assert_eq!(echo.len(), 8);
    assert!(sim.events().is_empty());
    sim.from(UDP, &Msg::put(2, "a", b"x").opt(ECHO, b"wrong"));
    assert_eq!(
        sim.one().option(ECHO).unwrap(),
        echo,
        "the same while it is current"
    );
    sim.from(UDP, &Msg::put(3, "a", b"x").opt(ECHO, &echo));
    assert!(matches!(sim.events()[..], [Event::Request { peer: UDP, .. }]));
    assert!(sim.is_proven(UDP));
    sim.from(UDP, &Msg::put(4, "a", b"x"));
    sim.request();
}

#[test]
fn a_stale_echo_proves_nothing() {
    let mut sim = with(true);
    sim.from(UDP, &Msg::put(1, "a", b"x"));
    let echo = sim.one().option(ECHO).unwrap().to_vec();
    sim.pass(Duration::from_secs(120));
    sim.from(UDP, &Msg::put(2, "a", b"x").opt(ECHO, &echo));
    let challenge = sim.one();
    assert_eq!(challenge.code(), Code::UNAUTHORIZED);
    assert_ne!(challenge.option(ECHO).unwrap(), echo);
}
