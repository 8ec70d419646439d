//! RFC 7252, 4.2 and 4.8: ACK_TIMEOUT, ACK_RANDOM_FACTOR, MAX_RETRANSMIT.

use std::time::Duration;

use portcullis::coap::contract::{CoapSettings, NotificationOutcome};
use portcullis::coap::metrics::NotificationResult;
use portcullis::types::limits::Caps;

use crate::harness::*;

fn gaps(sent: &[Msg]) -> Vec<f64> {
    sent.windows(2)
        .map(|pair| (pair[1].at - pair[0].at).as_secs_f64())
        .collect()
}

#[test]
fn an_unanswered_con_is_sent_again_with_doubling_time_outs_and_then_given_up() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    sim.pass_s(100);
    let sent = sim.sent();
    assert_eq!(sent.len(), 5, "once and MAX_RETRANSMIT times");
    assert!(sent.iter().all(|msg| msg.bytes == sent[0].bytes));
    let gaps = gaps(&sent);
    assert!((2.0..=3.0).contains(&gaps[0]), "ACK_TIMEOUT x 1..1.5: {gaps:?}");
    for pair in gaps.windows(2) {
        assert!((pair[1] / pair[0] - 2.0).abs() < 1e-6, "{gaps:?}");
    }
    assert_eq!(sim.outcomes(), [(1, NotificationOutcome::TimedOut)]);
    assert_eq!(sim.metrics.retransmissions.get(), 4);
    assert_eq!(sim.notifications(true, NotificationResult::Timeout), 1);
    assert_eq!(sim.endpoint.poll_timeout(), None);
}

#[test]
fn it_is_given_up_after_max_transmit_wait() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    sim.pass_ms(61_999);
    assert!(sim.outcomes().is_empty(), "2 x 31 s at the soonest");
    sim.pass_ms(31_001);
    assert_eq!(sim.outcomes().len(), 1, "93 s at the latest");
}

#[test]
fn first_time_outs_are_spread() {
    let mut sim = Sim::new();
    let mut first = Vec::new();
    for n in 0..20 {
        let begin = sim.elapsed;
        sim.notify(n, note(n, 1, true));
        sim.pass_s(4);
        let sent = sim.sent();
        first.push((sent[1].at - begin).as_millis());
        sim.ack(&sent[0]);
    }
    assert!(first.iter().all(|ms| (2_000..=3_000).contains(ms)));
    let (least, most) = (first.iter().min().unwrap(), first.iter().max().unwrap());
    assert!(most - least > 300, "{first:?}");
}

#[test]
fn an_ack_ends_retransmission() {
    let mut sim = Sim::new();
    sim.notify(1, note(1, 1, true));
    sim.pass_s(10);
    let sent = sim.sent();
    assert_eq!(sent.len(), 3);
    sim.ack(&sent[0]);
    sim.pass_s(100);
    sim.silent();
    assert_eq!(sim.outcomes(), [(1, NotificationOutcome::Acknowledged)]);
}

#[test]
fn ids_wrap_around() {
    let mut sim = Sim::new();
    let mut last = None;
    for n in 0..70_000_u32 {
        sim.notify(1, note(1, n, false));
        let mid = sim.one().mid();
        if let Some(last) = last {
            assert_eq!(mid, u16::wrapping_add(last, 1));
        }
        last = Some(mid);
    }
}

#[test]
fn parameters_of_the_settings_are_used_and_can_change() {
    let settings = CoapSettings {
        ack_timeout: Duration::from_millis(100),
        max_retransmit: 1,
        ..CoapSettings::default()
    };
    let mut sim = Sim::with(settings, Caps::default());
    sim.notify(1, note(1, 1, true));
    sim.pass_s(1);
    let sent = sim.sent();
    assert_eq!(sent.len(), 2);
    assert!((0.1..=0.15).contains(&gaps(&sent)[0]));
    sim.endpoint.reconfigure(CoapSettings::default(), Caps::default());
    sim.notify(1, note(1, 2, true));
    sim.pass_s(100);
    assert_eq!(sim.sent().len(), 5);
}
