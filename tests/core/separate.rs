//! RFC 7252, 5.2.2: an answer that takes longer than its client waits.

use portcullis::coap::contract::{CoapSettings, Code, PeerId, Response};
use portcullis::types::limits::Caps;
use portcullis::types::reason::Limit;

use crate::harness::*;

#[test]
fn a_late_answer_goes_separately_and_is_retransmitted() {
    let mut sim = Sim::new();
    sim.receive(&Msg::get(9, "a"));
    let (exchange, _) = sim.request();
    sim.pass_ms(999);
    sim.silent();
    sim.pass_ms(1);
    let ack = sim.one();
    assert_eq!(
        (ack.kind(), ack.code(), ack.mid(), ack.bytes.len()),
        (Ack, Code::EMPTY, 9, 4)
    );
    sim.pass_s(20);
    sim.silent();
    sim.respond(exchange, content("late"));
    sim.pass_s(3);
    let sent = sim.sent();
    assert_eq!(sent.len(), 2);
    assert_eq!((sent[0].kind(), sent[0].code()), (Con, Code::CONTENT));
    assert_eq!((sent[0].token(), sent[0].text()), (&[0, 9][..], "late"));
    assert_eq!(sent[0].bytes, sent[1].bytes);
    sim.ack(&sent[0]);
    sim.pass_s(100);
    sim.silent();
    assert_eq!(sim.metrics.separate_responses.get(), 1);
}

#[test]
fn a_client_that_rejects_a_late_answer_gets_it_no_more() {
    let mut sim = Sim::new();
    sim.receive(&Msg::get(9, "a"));
    let (exchange, _) = sim.request();
    sim.pass_s(2);
    sim.sent();
    sim.respond(exchange, content("late"));
    let response = sim.one();
    sim.reset(&response);
    sim.pass_s(100);
    sim.silent();
}

#[test]
fn a_late_answer_to_a_non_is_non() {
    let mut sim = Sim::new();
    sim.receive(&Msg::get(9, "a").non());
    let (exchange, _) = sim.request();
    sim.pass_s(10);
    sim.silent();
    sim.respond(exchange, content("late"));
    assert_eq!(sim.one().kind(), Non);
}

#[test]
fn an_exchange_that_is_never_answered_is_forgotten() {
    let mut sim = Sim::new();
    sim.receive(&Msg::get(1, "a"));
    let (con, _) = sim.request();
    sim.receive(&Msg::get(2, "a").non());
    let (non, _) = sim.request();
    sim.pass_s(250);
    assert_eq!(sim.sent().len(), 1, "the empty ACK");
    sim.respond(con, changed());
    sim.respond(non, changed());
    sim.silent();
    assert_eq!(sim.endpoint.poll_timeout(), None);
}

#[test]
fn too_many_pending_requests_are_refused_with_max_age() {
    // Half of them for those whose address is proved.
    let caps = Caps {
        pending_requests: 6,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    for mid in 0..3 {
        sim.receive(&Msg::get(mid, "a"));
    }
    let pending = sim.requests();
    assert_eq!(pending.len(), 3);
    sim.receive(&Msg::get(3, "a"));
    let answer = sim.one();
    assert_eq!(answer.code(), Code::SERVICE_UNAVAILABLE);
    assert!(answer.uint(MAX_AGE).unwrap() > 0);
    assert_eq!(sim.limited(Limit::PendingRequests), 1);
    for (exchange, _) in pending {
        sim.respond(exchange, changed());
    }
    sim.sent();
    assert_eq!(sim.serve(&Msg::get(4, "a"), changed()).code(), Code::CHANGED);
}

#[test]
fn requests_of_strangers_that_wait_leave_room_for_those_of_others() {
    let caps = Caps {
        pending_requests: 80,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    for n in 0..60 {
        sim.add(PeerId(100 + n), false);
        sim.from(PeerId(100 + n), &Msg::get(1, "a"));
    }
    assert_eq!(sim.requests().len(), 20, "their quarter");
    sim.sent();
    for mid in 0..16 {
        sim.receive(&Msg::get(mid, "a"));
    }
    let mine = sim.requests();
    assert_eq!(mine.len(), 16);
    for (exchange, _) in mine {
        sim.respond(exchange, changed());
    }
    for n in 0..60 {
        sim.remove(PeerId(100 + n));
    }
    sim.add(PeerId(99), false);
    sim.from(PeerId(99), &Msg::get(1, "a"));
    assert_eq!(sim.requests().len(), 1, "who is gone has no part of it");
}

#[test]
fn a_client_that_acknowledges_no_late_answer_gets_them_unreliably() {
    let mut sim = Sim::new();
    let mut kinds = Vec::new();
    for mid in 0..70 {
        sim.receive(&Msg::get(mid, "a"));
        let (exchange, _) = sim.request();
        let now = sim.now() + std::time::Duration::from_secs(1);
        sim.endpoint.handle_timeout(now, &mut sim.peers);
        sim.sent();
        sim.endpoint
            .respond(now, &mut sim.peers, exchange, Response::new(Code::CHANGED));
        kinds.push(sim.one().kind());
    }
    assert!(kinds[..64].iter().all(|kind| *kind == Con));
    assert!(kinds[64..].iter().all(|kind| *kind == Non));
}
