//! Peers over plain UDP that have not proved their address (RFC 9175, 2.4).

use std::time::Duration;

use portcullis::coap::contract::{CoapSettings, Code, Event, NotificationOutcome, PeerId, Response};
use portcullis::types::limits::Caps;

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
    sim.endpoint.add_peer(UDP, LISTENER, false);
    sim
}

fn serve(sim: &mut Sim, msg: &Msg, response: Response) -> Msg {
    sim.from(UDP, msg);
    let (exchange, _) = sim.request();
    sim.respond(exchange, response);
    sim.one()
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
            let answer = serve(&mut sim, &request, response);
            assert!(
                answer.bytes.len() <= limit,
                "{} of {limit} for {len}",
                answer.bytes.len()
            );
            assert!(answer.body().len() >= len.min(64), "{len}");
        }
    }
}

#[test]
fn an_answer_that_is_retransmitted_is_at_most_136_bytes() {
    let mut sim = sim();
    sim.from(UDP, &Msg::get(1, "ps/a").opt(2048, &[0; 500]));
    let (exchange, _) = sim.request();
    sim.pass_s(1);
    assert_eq!(sim.one().bytes.len(), 4);
    sim.respond(exchange, content(body(5_000)));
    let answer = sim.one();
    assert!(answer.kind() == Con && answer.bytes.len() <= 136);
}

#[test]
fn the_rest_of_a_long_body_is_fetched_in_small_blocks() {
    let mut sim = sim();
    let whole = body(500);
    let first = serve(&mut sim, &Msg::get(1, "ps/a"), content(whole.clone()));
    let (_, _, size) = first.block_of(BLOCK2).unwrap();
    assert_eq!(size, 64);
    let mut got = first.body().to_vec();
    let mut mid = 1;
    while got.len() < whole.len() {
        mid += 1;
        let request = Msg::get(mid, "ps/a").block(BLOCK2, (got.len() / size) as u32, false, size);
        sim.from(UDP, &request);
        let answer = sim.one();
        assert!(answer.bytes.len() <= 136);
        got.extend_from_slice(answer.body());
    }
    assert_eq!(got, whole);
}

#[test]
fn a_follow_up_that_asks_for_large_blocks_gets_small_ones_of_the_same_offset() {
    let mut sim = sim();
    let whole = body(5_000);
    serve(&mut sim, &Msg::get(1, "ps/a"), content(whole.clone()));
    sim.from(UDP, &Msg::get(2, "ps/a").block(BLOCK2, 2, false, 1_024));
    let answer = sim.one();
    assert_eq!(answer.block_of(BLOCK2), Some((32, true, 64)));
    assert_eq!(answer.body(), &whole[2_048..2_112]);
}

#[test]
fn diagnostics_are_cut() {
    let mut sim = sim();
    let answer = serve(
        &mut sim,
        &Msg::get(1, "a"),
        Response::diagnostic(Code::BAD_REQUEST, "é".repeat(400)),
    );
    assert!(answer.bytes.len() <= 136 && answer.text().len() > 80);
    assert!(!answer.has(BLOCK2));
}

#[test]
fn notifications_to_it_are_small_and_the_seventeenth_asks_for_proof() {
    let mut sim = sim();
    for number in 1..=20 {
        let mut notification = note(1, number, false);
        notification.payload = body(300).into();
        sim.notify_peer(UDP, 1, notification);
        sim.notify_peer(UDP, 2, note(2, number, false));
    }
    let sent = sim.sent();
    assert_eq!(sent.len(), 17);
    assert!(sent.iter().all(|msg| msg.bytes.len() <= 136));
    assert!(sent[..16].iter().all(|msg| msg.kind() == Non));
    assert_eq!(sent[16].kind(), Con);
    assert!(!sim.endpoint.is_proven(UDP));
    sim.ack(&sent[16]);
    assert!(sim.endpoint.is_proven(UDP));
    let rest = sim.sent();
    assert_eq!(rest.len(), 23, "what waited follows");
    assert!(rest.iter().all(|msg| msg.kind() == Non));
    assert!(rest.iter().any(|msg| msg.body() == body(300)), "whole now");
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
    let sent = sim.sent();
    assert_eq!(
        sent.len(),
        16 + 3 * 5,
        "and one CON for each observation, one after the other"
    );
    let lost: Vec<_> = sim.outcomes();
    assert_eq!(lost.len(), 3);
    assert!(
        lost.iter()
            .all(|(_, outcome)| *outcome == NotificationOutcome::TimedOut)
    );
    sim.notify_peer(UDP, 9, note(9, 1, false));
    assert_eq!(
        sim.one().kind(),
        Con,
        "observing anew does not start the count anew"
    );
}

#[test]
fn a_token_elsewhere_proves_the_address_and_frees_what_waits() {
    let mut sim = sim();
    for number in 1..=20 {
        sim.notify_peer(UDP, 1, note(1, number, false));
        sim.notify_peer(UDP, 2, note(2, number, false));
    }
    assert_eq!(sim.sent().len(), 17);
    sim.endpoint.set_proven(UDP);
    assert!(sim.sent().len() > 10, "the other observation goes on");
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
    assert!(!sim.endpoint.is_proven(UDP));
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
    assert!(sim.endpoint.is_proven(UDP));
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

#[test]
fn idle_peers_are_known_by_age() {
    let mut sim = sim();
    sim.endpoint.add_peer(PeerId(78), LISTENER, false);
    assert_eq!(sim.endpoint.idle_since(UDP), None);
    sim.from(UDP, &Msg::get(1, "a"));
    assert_eq!(sim.endpoint.idle_since(UDP), Some(sim.now()));
    assert_eq!(sim.endpoint.oldest_idle(), Some(PeerId(78)));
    sim.endpoint.remove_peer(PeerId(78));
    assert_eq!(sim.endpoint.oldest_idle(), Some(UDP));
    assert_eq!(sim.endpoint.peer_count(), 3);
}
