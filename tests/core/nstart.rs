//! RFC 7252, 4.7: one confirmable notification at a time for each peer, and nobody held up for ever.

use std::time::Duration;

use portcullis::coap::contract::{CoapSettings, NotificationOutcome, ObservationId, PeerId};
use portcullis::coap::metrics::NotificationResult;
use portcullis::types::limits::Caps;
use portcullis::types::reason::Limit;

use crate::harness::*;

/// Acknowledges whatever comes until nothing more does, and returns it in order.
fn drain(sim: &mut Sim) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let sent = sim.sent();
        if sent.is_empty() {
            return all;
        }
        for msg in &sent {
            all.push(msg.text().to_owned());
            if msg.kind() == Con {
                sim.ack(msg);
            }
        }
    }
}

#[test]
fn confirmable_notifications_go_one_by_one_and_observations_take_turns() {
    let mut sim = Sim::new();
    for number in 1..=3 {
        for observation in 1..=3 {
            sim.notify(observation, note(observation, number, true));
        }
    }
    assert_eq!(
        drain(&mut sim),
        ["1.1", "2.1", "3.1", "1.2", "2.2", "3.2", "1.3", "2.3", "3.3"]
    );
    assert_eq!(sim.notifications(true, NotificationResult::Acked), 9);
    assert_eq!(sim.metrics.queued_bytes.get(), 0);
}

#[test]
fn other_peers_do_not_wait() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    sim.notify_peer(OTHER, 2, note(2, 1, true));
    assert_eq!(texts(&sim.sent()), ["1.1", "2.1"]);
}

#[test]
fn non_confirmable_notifications_of_other_observations_do_not_wait() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    sim.notify(2, note(2, 1, false));
    sim.notify(2, note(2, 2, false));
    let sent = sim.sent();
    assert_eq!(texts(&sent), ["1.1", "2.1", "2.2"]);
    assert_eq!([sent[0].kind(), sent[1].kind(), sent[2].kind()], [Con, Non, Non]);
}

#[test]
fn messages_of_one_observation_are_never_reordered() {
    let mut sim = Sim::new();
    for number in 1..=12 {
        sim.notify(1, note(1, number, number % 3 == 1));
        sim.notify(2, note(2, number, true));
    }
    let all = drain(&mut sim);
    for observation in ["1.", "2."] {
        let mine: Vec<u32> = all
            .iter()
            .filter_map(|text| text.strip_prefix(observation)?.parse().ok())
            .collect();
        assert_eq!(mine, (1..=12).collect::<Vec<_>>());
    }
}

#[test]
fn an_unanswered_con_holds_the_others_up_for_one_retransmission_time_out_only() {
    let mut sim = Sim::new();
    for observation in 1..=4 {
        sim.notify(observation, note(observation, 1, true));
        sim.notify(observation, note(observation, 2, true));
    }
    sim.pass_ms(1_999);
    assert_eq!(texts(&sim.sent()), ["1.1"]);
    sim.pass_ms(1_001);
    let sent = sim.sent();
    assert_eq!(
        texts(&sent),
        ["1.1", "2.1", "3.1", "4.1"],
        "a retransmission, then one of each"
    );
    sim.ack(&sent[2]);
    assert_eq!(texts(&sim.sent()), ["3.2"]);
    sim.pass_s(100);
    let outcomes = sim.outcomes();
    let mut lost: Vec<u64> = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == NotificationOutcome::TimedOut)
        .map(|(observation, _)| *observation)
        .collect();
    lost.sort_unstable();
    assert_eq!(lost, [1, 2, 3, 4]);
    assert_eq!(sim.endpoint.poll_timeout(), None);
}

#[test]
fn the_oldest_of_a_full_queue_is_dropped_and_counted() {
    let caps = Caps {
        queued_per_observation: 2,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    for number in 1..=6 {
        sim.notify(1, note(1, number, true));
    }
    assert_eq!(drain(&mut sim), ["1.1", "1.5", "1.6"]);
    assert_eq!(sim.notifications(true, NotificationResult::Dropped), 3);
    assert_eq!(sim.limited(Limit::QueuedNotifications), 3);
}

#[test]
fn bytes_that_wait_are_bounded() {
    let caps = Caps {
        queued_bytes: 80_000,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    for number in 0..64 {
        let mut notification = note(1, number, true);
        notification.payload = body(1_000).into();
        sim.notify(1, notification);
        assert!(sim.metrics.queued_bytes.get() <= 10_000, "an eighth for one peer");
    }
    assert!(sim.limited(Limit::QueuedNotifications) > 50);
    sim.remove(PEER);
    assert_eq!(sim.metrics.queued_bytes.get(), 0);
}

#[test]
fn what_waits_for_strangers_pushes_out_nothing_that_waits_for_others() {
    let caps = Caps {
        queued_bytes: 80_000,
        ..Caps::default()
    };
    let mut sim = Sim::with(CoapSettings::default(), caps);
    for number in 1..=20 {
        sim.notify(1, note(1, number, true));
    }
    for stranger in 100..400 {
        sim.add(PeerId(stranger), false);
        for number in 1..=12 {
            let mut notification = note(stranger, number, true);
            notification.payload = vec![0; 100].into();
            sim.notify_peer(PeerId(stranger), stranger, notification);
        }
    }
    let dropped = sim.notifications(true, NotificationResult::Dropped);
    assert!(dropped > 3_000, "{dropped}");
    assert!(sim.metrics.queued_bytes.get() <= 20_000 + 19 * 200);
    let mut got = 0;
    while let Some(con) = sim.sent().into_iter().find(|msg| msg.peer == PEER) {
        got += 1;
        assert_eq!(con.text(), format!("1.{got}"));
        sim.ack(&con);
    }
    assert_eq!(got, 20);
    for stranger in 100..400 {
        sim.remove(PeerId(stranger));
    }
    assert_eq!(sim.metrics.queued_bytes.get(), 0);
}

#[test]
fn what_expired_while_it_waited_is_not_sent() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    for number in 2..=4 {
        let mut notification = note(1, number, true);
        notification.expires_at = (number != 4).then(|| sim.now() + Duration::from_secs(number.into()));
        sim.notify(1, notification);
    }
    sim.pass_ms(2_500);
    let first = sim.sent().remove(0);
    sim.ack(&first);
    assert_eq!(drain(&mut sim), ["1.3", "1.4"]);
    assert_eq!(sim.notifications(true, NotificationResult::Expired), 1);
    let mut stale = note(2, 1, false);
    stale.expires_at = Some(sim.now());
    sim.notify(2, stale);
    sim.silent();
    assert_eq!(sim.notifications(false, NotificationResult::Expired), 1);
}

#[test]
fn a_cancelled_observation_frees_the_others() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    sim.notify(1, note(1, 2, true));
    sim.notify(2, note(2, 1, true));
    sim.sent();
    sim.endpoint.cancel(sim.peers.get(PEER), ObservationId(1));
    assert_eq!(texts(&sim.sent()), ["2.1"]);
    assert_eq!(sim.notifications(true, NotificationResult::Dropped), 2);
    sim.pass_s(100);
    assert!(sim.sent().iter().all(|msg| msg.text() == "2.1"));
    assert_eq!(sim.outcomes(), [(2, NotificationOutcome::TimedOut)]);
}

#[test]
fn what_is_pending_moves_with_a_client_in_order() {
    let mut sim = Sim::new();
    for number in 1..=3 {
        sim.notify(1, note(1, number, true));
    }
    sim.notify(2, note(2, 1, true));
    sim.sent();
    let pending = sim.endpoint.take_pending(sim.peers.get(PEER), [ObservationId(1)]);
    let numbers: Vec<u32> = pending
        .iter()
        .map(|(_, notification)| notification.observe)
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(texts(&sim.sent()), ["2.1"]);
    for (_, notification) in pending {
        sim.notify_peer(OTHER, 1, notification);
    }
    assert_eq!(drain(&mut sim), ["1.1", "1.2", "1.3"]);
}
