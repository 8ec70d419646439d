//! Windows, acknowledgements and ids of an MQTT session, over random lives too.

use super::*;
use crate::testing::{clock, message};
use portcullis_proto::types::message::Message;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

fn session(version: Protocol, connack: &[u8]) -> (Session, Instant) {
    let now = (clock().now)();
    let connect = Connect {
        client_id: "c".into(),
        clean_start: true,
        session_seconds: 0,
        keep_alive: 10,
        will: None,
    };
    let mut session = Session::new(now, version, connect, ("", ""));
    assert_eq!(received(&mut session, now, connack).len(), 1);
    session.output.clear();
    (session, now)
}

fn received(session: &mut Session, now: Instant, bytes: &[u8]) -> Vec<Happening> {
    session.input.extend_from_slice(bytes);
    let mut happenings = Vec::new();
    session.receive(now, &mut happenings);
    happenings
}

fn publish(session: &mut Session, now: Instant, qos: Qos) -> Sent {
    let message = message("t", "x");
    session.publish(now, &outbound(&message, qos, None))
}

fn outbound(message: &Message, qos: Qos, exchange: Option<u16>) -> Outbound<'_> {
    Outbound {
        message,
        qos,
        expiry: None,
        origin: None,
        exchange,
    }
}

#[test]
fn a_publish_at_qos_2_is_released_once_it_is_known_to_be_received() {
    for version in [Protocol::V4, Protocol::V5] {
        let connack: &[u8] = match version {
            Protocol::V4 => &[0x20, 2, 1, 0],
            Protocol::V5 => &[0x20, 3, 1, 0, 0],
        };
        let (mut session, now) = session(version, connack);
        session.requests.reserve([1, 2].into_iter());
        let message = message("t", "x");
        assert_eq!(publish(&mut session, now, Qos::ExactlyOnce), Sent::Packet(3));
        session.output.clear();
        let again = session.publish(now, &outbound(&message, Qos::ExactlyOnce, Some(2)));
        assert_eq!(again, Sent::Packet(2));
        assert_eq!(session.output.first(), Some(&0x3C), "DUP, QoS 2");
        session.output.clear();
        let taken = received(&mut session, now, &[0x50, 2, 0, 2]);
        assert!(matches!(*taken, [Happening::Received(2)]), "{taken:?}");
        assert!(session.output.is_empty());
        assert!(received(&mut session, now, &[0x50, 2, 0, 2]).is_empty());
        assert!(
            session.release(now, 2) && session.release(now, 1),
            "the second of an earlier one"
        );
        assert_eq!(session.output.as_ref(), [0x62, 2, 0, 2, 0x62, 2, 0, 1]);
        let done = received(&mut session, now, &[0x70, 2, 0, 2, 0x70, 2, 0, 1]);
        assert!(
            matches!(
                *done,
                [Happening::Acknowledged(2, 0), Happening::Acknowledged(1, 0)]
            ),
            "{done:?}"
        );
        assert!((session.requests.at_qos2() > 0), "the first is under way");
    }
}

#[test]
fn no_more_is_under_way_than_the_broker_takes() {
    // Receive Maximum 2.
    let (mut session, now) = session(Protocol::V5, &[0x20, 6, 0, 0, 3, 0x21, 0, 2]);
    assert_eq!(publish(&mut session, now, Qos::AtLeastOnce), Sent::Packet(1));
    assert_eq!(publish(&mut session, now, Qos::ExactlyOnce), Sent::Packet(2));
    assert_eq!(publish(&mut session, now, Qos::AtLeastOnce), Sent::Full);
    assert_eq!(publish(&mut session, now, Qos::AtMostOnce), Sent::Unconfirmed(1));
    let subscribed = session.unsubscribe(now, "f");
    assert_eq!(subscribed, Some(3), "only publishes count");
    // An acknowledgement of the wrong kind is none.
    assert!(received(&mut session, now, &[0x40, 2, 0, 2, 0x40, 2, 0, 3, 0x40, 2, 0, 9]).is_empty());
    let taken = received(&mut session, now, &[0x50, 2, 0, 2]);
    assert!(matches!(*taken, [Happening::Received(2)]), "{taken:?}");
    assert_eq!(
        publish(&mut session, now, Qos::AtLeastOnce),
        Sent::Full,
        "PUBREC ends nothing"
    );
    assert!(session.release(now, 2));
    let done = received(&mut session, now, &[0x70, 2, 0, 2]);
    assert!(matches!(*done, [Happening::Acknowledged(2, 0)]), "{done:?}");
    assert_eq!(publish(&mut session, now, Qos::AtLeastOnce), Sent::Packet(4));
}

#[test]
fn an_identifier_is_never_taken_twice_at_once() {
    let (mut session, now) = session(Protocol::V4, &[0x20, 2, 0, 0]);
    assert_eq!(publish(&mut session, now, Qos::AtLeastOnce), Sent::Packet(1));
    for round in 0..70_000_u32 {
        let Sent::Packet(packet) = publish(&mut session, now, Qos::AtLeastOnce) else {
            panic!("round {round}");
        };
        assert!(packet > 1);
        let [high, low] = packet.to_be_bytes();
        assert_eq!(received(&mut session, now, &[0x40, 2, high, low]).len(), 1);
        session.output.clear();
    }
    assert_eq!(session.requests.order_len(), 1 + 70_000, "the first is not done");
    assert_eq!(received(&mut session, now, &[0x40, 2, 0, 1]).len(), 1);
    assert!(session.requests.order_len() == 0 && session.is_idle());
}

#[test]
fn what_the_broker_owes_is_timed_from_the_moment_it_is_the_oldest() {
    let (mut session, begun) = session(Protocol::V4, &[0x20, 2, 0, 0]);
    let at = |seconds| begun + Duration::from_secs(seconds);
    assert_eq!(session.requests.owed_since(), None);
    for second in 0..3 {
        publish(&mut session, at(second), Qos::AtLeastOnce);
    }
    assert!(!session.requests.were_of_use());
    received(&mut session, at(3), &[0x40, 2, 0, 2]);
    assert_eq!(
        session.requests.owed_since(),
        Some(at(0)),
        "a later one does not excuse the first"
    );
    assert!(session.requests.were_of_use());
    received(&mut session, at(9), &[0x40, 2, 0, 1]);
    assert_eq!(session.requests.owed_since(), Some(at(9)));
    received(&mut session, at(10), &[0x40, 2, 0, 3]);
    assert_eq!(session.requests.owed_since(), None);
    publish(&mut session, at(20), Qos::AtLeastOnce);
    assert_eq!(session.requests.owed_since(), Some(at(20)));
}

#[test]
fn a_ping_confirms_what_was_sent_before_it_and_nothing_later() {
    let (mut session, now) = session(Protocol::V5, &[0x20, 3, 0, 0, 0]);
    publish(&mut session, now, Qos::AtMostOnce);
    publish(&mut session, now, Qos::AtMostOnce);
    assert!(session.tick(now + CONFIRM_EVERY).is_none());
    publish(&mut session, now, Qos::AtMostOnce);
    let confirmed = received(&mut session, now, &[0xD0, 0]);
    assert!(matches!(*confirmed, [Happening::Confirmed(2)]), "{confirmed:?}");
    assert!(!session.is_idle());
    assert!(received(&mut session, now, &[0xD0, 0]).is_empty(), "nobody asked");
    assert!(session.tick(now + CONFIRM_EVERY * 2).is_none());
    let silent = session.tick(now + CONFIRM_EVERY * 2 + Duration::from_secs(10));
    assert!(silent.is_some_and(|ending| !ending.by_broker));
}

#[test]
fn a_message_at_qos_2_is_passed_on_once_until_it_is_released() {
    let (mut session, now) = session(Protocol::V4, &[0x20, 2, 0, 0]);
    let message = [0x34, 6, 0, 1, b't', 0, 7, b'x'];
    assert_eq!(received(&mut session, now, &message).len(), 1);
    assert!(received(&mut session, now, &message).is_empty());
    assert!(received(&mut session, now, &[0x62, 2, 0, 7]).is_empty());
    assert_eq!(received(&mut session, now, &message).len(), 1);
    assert_eq!(
        session.output.as_ref(),
        [0x50, 2, 0, 7, 0x50, 2, 0, 7, 0x70, 2, 0, 7, 0x50, 2, 0, 7]
    );
}

#[test]
fn no_bytes_of_a_broker_bring_a_session_down() {
    let now = (clock().now)();
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..5_000 {
        let mut bytes = [0; 48];
        rng.fill_bytes(&mut bytes);
        for byte in &mut bytes {
            if rng.random_bool(0.7) {
                *byte &= 0x73;
            }
        }
        let version = if round % 2 == 0 {
            Protocol::V4
        } else {
            Protocol::V5
        };
        feed(
            now,
            version,
            &bytes.chunks(rng.random_range(1..24)).collect::<Vec<_>>(),
        );
    }
}
