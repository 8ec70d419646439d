//! RFC 7252, 4.5: each message is handled once, for EXCHANGE_LIFETIME and NON_LIFETIME.

use portcullis::coap::contract::{CoapSettings, Code, PeerId};
use portcullis::types::limits::Caps;
use portcullis::types::reason::{DropReason, Limit};

use crate::harness::*;

#[test]
fn a_duplicate_gets_the_same_bytes_and_is_delivered_once() {
    let mut sim = Sim::new();
    let request = Msg::put(1, "a", b"x");
    let first = sim.serve(&request, content("once"));
    for _ in 0..3 {
        sim.pass_s(60);
        sim.receive(&request);
        assert_eq!(sim.one().bytes, first.bytes);
        assert!(sim.events().is_empty());
    }
    assert_eq!(
        (sim.metrics.duplicates.get(), sim.dropped(DropReason::Duplicate)),
        (3, 3)
    );
}

#[test]
fn a_con_is_remembered_for_exchange_lifetime_and_a_non_for_non_lifetime() {
    for (request, lifetime) in [(Msg::put(1, "a", b"x"), 247), (Msg::put(1, "a", b"x").non(), 145)] {
        let mut sim = Sim::new();
        sim.serve(&request, changed());
        sim.pass_s(lifetime - 1);
        sim.receive(&request);
        assert!(sim.events().is_empty(), "{lifetime}");
        sim.sent();
        sim.pass_s(1);
        sim.receive(&request);
        sim.request();
    }
}

#[test]
fn lifetimes_follow_the_transmission_parameters() {
    let settings = CoapSettings {
        ack_timeout: std::time::Duration::from_secs(4),
        max_retransmit: 2,
        ..CoapSettings::default()
    };
    let mut sim = Sim::with(settings, Caps::default());
    let request = Msg::put(1, "a", b"x");
    sim.serve(&request, changed());
    sim.pass_s(4 * 3 * 3 / 2 + 200 + 4 - 1);
    sim.receive(&request);
    assert!(sim.events().is_empty());
    sim.pass_s(1);
    sim.receive(&request);
    sim.request();
}

#[test]
fn a_duplicate_of_a_pending_request_is_dropped_and_later_acknowledged_again() {
    let mut sim = Sim::new();
    let request = Msg::put(1, "a", b"x");
    sim.receive(&request);
    let (exchange, _) = sim.request();
    sim.receive(&request);
    sim.silent();
    sim.pass_ms(1_500);
    let ack = sim.one();
    assert_eq!((ack.kind(), ack.code()), (Ack, Code::EMPTY));
    sim.receive(&request);
    assert_eq!(sim.one().bytes, ack.bytes);
    sim.respond(exchange, changed());
    let response = sim.one();
    assert_eq!(response.kind(), Con);
    sim.receive(&request);
    assert_eq!(
        sim.one().bytes,
        ack.bytes,
        "the response has a retransmission of its own"
    );
    assert!(sim.events().is_empty());
}

#[test]
fn a_rebooted_device_that_uses_an_old_id_again_is_heard() {
    let mut sim = Sim::new();
    sim.serve(&Msg::put(1, "a", b"x").token_is(b"old"), changed());
    let answer = sim.serve(&Msg::put(1, "a", b"x").token_is(b"new"), content("2"));
    assert_eq!((answer.token(), answer.text()), (&b"new"[..], "2"));
    let answer = sim.serve(&Msg::put(1, "a", b"y").token_is(b"new"), content("3"));
    assert_eq!(answer.text(), "3");
    sim.receive(&Msg::put(1, "a", b"y").token_is(b"new"));
    assert_eq!(sim.one().text(), "3");
}

#[test]
fn the_same_id_of_another_peer_is_another_message() {
    let mut sim = Sim::new();
    let request = Msg::put(1, "a", b"x");
    sim.serve(&request, changed());
    sim.from(OTHER, &request);
    sim.request();
}

#[test]
fn the_memory_is_bounded_and_the_oldest_goes() {
    let caps = Caps {
        remembered_exchanges: 4,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    for mid in 1..=5 {
        sim.serve(&Msg::put(mid, "a", b"x"), changed());
    }
    assert_eq!(sim.limited(Limit::RememberedExchanges), 1);
    sim.receive(&Msg::put(5, "a", b"x"));
    assert!(sim.events().is_empty());
    sim.receive(&Msg::put(1, "a", b"x"));
    sim.request();
}

#[test]
fn refusals_of_this_layer_are_remembered_too() {
    let mut sim = Sim::new();
    let request = Msg::get(1, "a").opt(9, b"");
    sim.receive(&request);
    let first = sim.one();
    sim.receive(&request);
    assert_eq!(sim.one().bytes, first.bytes);
    assert_eq!(sim.metrics.duplicates.get(), 1);
}

#[test]
fn a_retransmission_is_answered_once_more_although_strangers_pushed_its_peer_out() {
    let caps = Caps {
        remembered_exchanges: 20,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    let publish = Msg::put(0x2a01, "ps/meter", b"17");
    let answer = sim.serve(&publish, changed());
    sim.remove(PEER);
    for stranger in 100..160 {
        sim.add(PeerId(stranger), false);
        sim.from(PeerId(stranger), &Msg::put(9, "ps/noise", b"x").non());
        sim.remove(PeerId(stranger));
    }
    assert!(sim.limited(Limit::RememberedExchanges) > 0);
    assert!(sim.requests().is_empty(), "a peer that is gone asks for nothing");
    sim.add(PEER, false);
    sim.pass_s(6);
    sim.receive(&publish);
    assert!(sim.events().is_empty(), "handled once");
    assert_eq!(sim.one().bytes, answer.bytes);
    sim.pass_s(247);
    sim.receive(&publish);
    sim.request();
}

#[test]
fn a_peer_that_is_gone_leaves_only_what_it_sent() {
    let mut sim = Sim::new();
    sim.serve(&Msg::put(1, "a", b"x"), changed());
    sim.receive(&Msg::put(2, "a", b"x"));
    sim.remove(PEER);
    assert!(sim.events().is_empty(), "its requests are not delivered any more");
    assert_eq!(sim.metrics.remembered_exchanges.get(), 2);
    sim.pass_s(300);
    assert_eq!(sim.metrics.remembered_exchanges.get(), 0);
    assert_eq!(sim.endpoint.poll_timeout(), None);
}
