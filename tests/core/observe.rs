//! RFC 7641: notifications and how observations end.

use portcullis::coap::contract::{Code, Event, NotificationOutcome, ObservationId, Response};
use portcullis::coap::metrics::NotificationResult;
use portcullis::types::reason::DropReason;

use crate::harness::*;

#[test]
fn a_notification_carries_token_number_and_format() {
    let mut sim = Sim::new();
    let mut notification = note(3, 0x0112_3456, false);
    notification.content_format = Some(50);
    sim.notify(3, notification);
    let sent = sim.one();
    assert_eq!((sent.kind(), sent.code()), (Non, Code::CONTENT));
    assert_eq!(sent.token(), 3_u64.to_be_bytes());
    assert_eq!(sent.uint(OBSERVE), Some(0x12_3456));
    assert_eq!(sent.uint(CONTENT_FORMAT), Some(50));
}

#[test]
fn an_error_that_ends_an_observation_carries_no_number() {
    let mut sim = Sim::new();
    let mut notification = note(3, 5, true);
    notification.code = Code::NOT_FOUND;
    sim.notify(3, notification);
    let sent = sim.one();
    assert_eq!((sent.code(), sent.has(OBSERVE)), (Code::NOT_FOUND, false));
}

#[test]
fn a_reset_con_ends_that_observation_only() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    sim.notify(1, note(1, 2, true));
    sim.notify(2, note(2, 1, true));
    let first = sim.one();
    sim.reset(&first);
    assert_eq!(sim.outcomes(), [(1, NotificationOutcome::Reset)]);
    assert_eq!(sim.one().text(), "2.1", "what waited of the first is gone");
    assert_eq!(sim.notifications(true, NotificationResult::Dropped), 1);
    assert_eq!(sim.notifications(true, NotificationResult::Reset), 1);
}

#[test]
fn a_reset_non_ends_that_observation_only() {
    let mut sim = Sim::new();
    for number in 1..=4 {
        sim.notify(1, note(1, number, false));
        sim.notify(2, note(2, number, false));
    }
    let sent = sim.sent();
    let second = sent.iter().find(|msg| msg.text() == "1.2").unwrap();
    sim.reset(second);
    assert_eq!(sim.outcomes(), [(1, NotificationOutcome::Reset)]);
    sim.reset(second);
    assert!(sim.outcomes().is_empty());
    sim.receive(&Msg::empty(Rst, second.mid().wrapping_sub(100)));
    assert_eq!(sim.dropped(DropReason::Unmatched), 1);
    sim.notify(2, note(2, 5, false));
    assert_eq!(sim.one().text(), "2.5");
}

#[test]
fn ids_of_non_notifications_are_remembered_for_non_lifetime() {
    for (seconds, known) in [(144, true), (182, false)] {
        let mut sim = Sim::new();
        sim.notify(1, note(1, 1, false));
        let sent = sim.one();
        sim.pass_s(seconds);
        sim.reset(&sent);
        assert_eq!(sim.outcomes().len(), usize::from(known));
    }
}

#[test]
fn silence_on_a_con_ends_that_observation_only() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    sim.pass_s(3);
    sim.sent();
    sim.notify(2, note(2, 1, true));
    let other = sim.one();
    sim.ack(&other);
    sim.pass_s(100);
    assert_eq!(
        sim.outcomes(),
        [
            (2, NotificationOutcome::Acknowledged),
            (1, NotificationOutcome::TimedOut)
        ]
    );
}

#[test]
fn an_acknowledgement_shows_life() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    let sent = sim.one();
    sim.ack(&sent);
    assert!(matches!(
        sim.events()[..],
        [Event::Alive { peer: PEER }, Event::Notified { .. }]
    ));
    sim.ack(&sent);
    assert!(sim.events().is_empty());
    assert_eq!(sim.dropped(DropReason::Unmatched), 1);
}

#[test]
fn an_observation_may_begin_again_after_it_ended() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    let sent = sim.one();
    sim.reset(&sent);
    sim.notify(1, note(1, 2, true));
    let sent = sim.one();
    assert_eq!(sent.text(), "1.2");
    sim.ack(&sent);
    assert_eq!(
        sim.outcomes().last(),
        Some(&(1, NotificationOutcome::Acknowledged))
    );
}

#[test]
fn a_non_that_was_rejected_a_round_trip_late_ends_its_observation_and_no_other() {
    let mut sim = Sim::new();
    let mut sent = Vec::new();
    for number in 0..60 {
        for observation in 1..=3 {
            sim.notify(observation, note(observation, number, false));
        }
        sim.pass_ms(150);
        sent.extend(sim.sent());
    }
    // 59 more went out before the first RST is here.
    let late = sent.iter().find(|msg| msg.text() == "2.0").unwrap();
    sim.reset(late);
    assert_eq!(sim.outcomes(), [(2, NotificationOutcome::Reset)]);
    sim.reset(sent.iter().find(|msg| msg.text() == "2.1").unwrap());
    assert!(sim.outcomes().is_empty(), "ended once");
    assert_eq!(sim.dropped(DropReason::Unmatched), 0);
    sim.notify(1, note(1, 60, false));
    assert_eq!(sim.one().text(), "1.60");
}

#[test]
fn a_rejection_that_nobody_can_place_any_more_makes_the_next_ones_confirmable() {
    let mut sim = Sim::new();
    let mut sent = Vec::new();
    for number in 0..20 {
        for observation in 1..=300 {
            sim.notify(observation, note(observation, number, false));
        }
        sent.extend(sim.sent());
    }
    sim.reset(&sent[0]);
    assert!(sim.outcomes().is_empty(), "forgotten");
    sim.notify(1, note(1, 20, false));
    let question = sim.one();
    assert_eq!(question.kind(), Con);
    sim.reset(&question);
    assert_eq!(sim.outcomes(), [(1, NotificationOutcome::Reset)]);
    sim.notify(2, note(2, 20, false));
    let question = sim.one();
    assert_eq!(question.kind(), Con);
    sim.ack(&question);
    sim.notify(2, note(2, 21, false));
    assert_eq!(sim.one().kind(), Non, "asked once");
}

/// Begins an observation with an answer that was not ready in time.
fn begin_late(sim: &mut Sim, observation: u64, msg: &Msg) -> Msg {
    sim.receive(msg);
    let (exchange, _) = sim.request();
    sim.pass_s(1);
    sim.sent();
    let response = Response {
        observe: Some(1),
        observation: Some(ObservationId(observation)),
        ..content("first")
    };
    sim.respond(exchange, response);
    sim.one()
}

#[test]
fn a_late_first_answer_that_is_rejected_or_never_acknowledged_ends_the_observation() {
    let mut sim = Sim::new();
    let registration = || Msg::get(7, "ps/a").opt(OBSERVE, b"");
    let first = begin_late(&mut sim, 5, &registration());
    assert_eq!(first.kind(), Con);
    sim.ack(&first);
    assert_eq!(sim.outcomes(), [(5, NotificationOutcome::Acknowledged)]);

    let mut sim = Sim::new();
    let first = begin_late(&mut sim, 6, &registration());
    sim.notify(6, note(6, 2, true));
    sim.reset(&first);
    assert_eq!(sim.outcomes(), [(6, NotificationOutcome::Reset)]);
    assert_eq!(sim.notifications(true, NotificationResult::Dropped), 1);

    let mut sim = Sim::new();
    begin_late(&mut sim, 8, &registration());
    sim.pass_s(100);
    assert_eq!(sim.outcomes(), [(8, NotificationOutcome::TimedOut)]);

    let mut sim = Sim::new();
    let first = begin_late(&mut sim, 9, &registration().non());
    assert_eq!(first.kind(), Non);
    sim.reset(&first);
    assert_eq!(sim.outcomes(), [(9, NotificationOutcome::Reset)]);
}
