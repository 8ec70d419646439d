//! Notifications: type, content format, order, retransmission, queues, expiry.

use std::thread::sleep;

use crate::each_transport;
use crate::support::client::{Observation, PATIENCE};
use crate::support::{Client, Config, Gateway, Kind, Message, Reaction, Request, code, ms, typ};

each_transport!(
    notify_type_non_and_con_decide_alone,
    notify_type_qos_takes_the_subscriptions_qos_first,
    notify_type_qos_takes_the_messages_qos_else,
    publish_qos_decides_where_the_request_does_not,
    subscribe_qos_decides_where_the_request_does_not,
    a_notification_has_code_token_observe_and_payload,
    content_format_travels_with_the_message,
    observe_numbers_ascend_in_publish_order,
    a_burst_keeps_its_order,
    an_unanswered_con_is_sent_again,
    at_most_one_con_is_outstanding,
    an_unanswered_con_does_not_hold_up_other_observations,
    the_newest_messages_wait_and_the_oldest_go,
    expiry_is_honoured_in_queues,
);

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

/// The type of the notification for a publish with these queries.
fn notified_as(gateway: &Gateway, kind: Kind, subscribe: &str, publish: Request) -> u8 {
    let mut client = gateway.client(kind);
    let observation = client.observe(&format!("ps/a{subscribe}"));
    client.request(&publish.payload("x")).expect(code::CHANGED);
    client.notification(&observation.token).typ
}

fn notify_type_non_and_con_decide_alone(kind: Kind) {
    for (name, expected) in [("non", typ::NON), ("con", typ::CON)] {
        let gateway = Gateway::start(Config::new().coap(&format!("notify_type = \"{name}\"")));
        for (subscribe, publish) in [
            ("", "ps/a?qos=1"),
            ("?qos=1", "ps/a?qos=0"),
            ("?qos=0", "ps/a?qos=2"),
        ] {
            assert_eq!(
                notified_as(&gateway, kind, subscribe, Request::post(publish)),
                expected
            );
        }
    }
}

fn notify_type_qos_takes_the_subscriptions_qos_first(kind: Kind) {
    let gateway = gateway();
    for publish in [0, 1, 2] {
        for (subscribe, expected) in [(0, typ::NON), (1, typ::CON), (2, typ::CON)] {
            let request = Request::post(&format!("ps/a?qos={publish}"));
            let got = notified_as(&gateway, kind, &format!("?qos={subscribe}"), request);
            assert_eq!(
                got, expected,
                "subscribed with {subscribe}, published with {publish}"
            );
        }
    }
}

fn notify_type_qos_takes_the_messages_qos_else(kind: Kind) {
    let gateway = gateway();
    for (publish, expected) in [(0, typ::NON), (1, typ::CON), (2, typ::CON)] {
        let request = Request::post(&format!("ps/a?qos={publish}"));
        assert_eq!(
            notified_as(&gateway, kind, "", request),
            expected,
            "published with {publish}"
        );
    }
}

fn publish_qos_decides_where_the_request_does_not(kind: Kind) {
    for (setting, con, non) in [
        ("coap", typ::CON, typ::NON),
        ("qos0", typ::NON, typ::NON),
        ("qos1", typ::CON, typ::CON),
        ("qos2", typ::CON, typ::CON),
    ] {
        let gateway = Gateway::start(Config::new().coap(&format!("publish_qos = \"{setting}\"")));
        assert_eq!(
            notified_as(&gateway, kind, "", Request::post("ps/a")),
            con,
            "CON with {setting}"
        );
        assert_eq!(
            notified_as(&gateway, kind, "", Request::post("ps/a").non()),
            non,
            "NON with {setting}"
        );
        assert_eq!(
            notified_as(&gateway, kind, "", Request::post("ps/a?qos=0")),
            typ::NON,
            "{setting}"
        );
    }
}

fn subscribe_qos_decides_where_the_request_does_not(kind: Kind) {
    // The type of a notification follows the QoS that the *request* gave; the default subscription QoS is what the
    // broker is asked for, so it may not change what arrives.
    for setting in ["coap", "qos0", "qos1", "qos2"] {
        let gateway = Gateway::start(Config::new().coap(&format!("subscribe_qos = \"{setting}\"")));
        let got = notified_as(&gateway, kind, "?qos=1", Request::post("ps/a?qos=0"));
        assert_eq!(got, typ::CON, "{setting}");
        let mut client = gateway.client(kind);
        let observation = client.observe("ps/b");
        client.publish("ps/b?qos=2", "x");
        assert_eq!(client.notification(&observation.token).text(), "x", "{setting}");
    }
}

fn a_notification_has_code_token_observe_and_payload(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe_with(Request::get("ps/a").observe(0).token(&[1, 2, 3]));
    client.publish("ps/a", b"\0\xffbinary");
    let notification = client.notification(&[1, 2, 3]).expect(code::CONTENT);
    assert!(notification.observe() > observation.first.observe());
    assert_eq!(notification.payload, b"\0\xffbinary");
    assert_eq!(notification.format(), None, "the publisher gave none");
}

fn content_format_travels_with_the_message(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    // text/plain, octet-stream, JSON, CBOR, SenML JSON, one of the experimental range.
    for format in [0, 42, 50, 60, 110, 65_001] {
        client
            .request(&Request::put("ps/a?retain=true").format(format).payload("x"))
            .expect(code::CHANGED);
        assert_eq!(client.notification(&observation.token).format(), Some(format));
        assert_eq!(
            client
                .request(&Request::get("ps/a"))
                .expect(code::CONTENT)
                .format(),
            Some(format)
        );
    }
    client.publish("ps/a?retain=true", "none");
    assert_eq!(client.notification(&observation.token).format(), None);
}

fn observe_numbers_ascend_in_publish_order(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a");
    let mut publisher = gateway.client(kind);
    let mut last = observation.first.observe().unwrap();
    for i in 0..40 {
        publisher.publish(&format!("ps/a?qos={}", i % 3), format!("{i}"));
        let notification = client.notification(&observation.token);
        assert_eq!(notification.text(), format!("{i}"));
        assert!(
            notification.observe().unwrap() > last,
            "{last} then {notification:?}"
        );
        last = notification.observe().unwrap();
        assert!(last < 1 << 24);
    }
}

fn a_burst_keeps_its_order(kind: Kind) {
    for qos in [0, 1] {
        let gateway = gateway();
        let mut client = gateway.client(kind);
        let observation = client.observe(&format!("ps/a?qos={qos}"));
        let mut publisher = gateway.client(kind);
        for i in 0..50 {
            let request = Request::post("ps/a").non().payload(format!("{i}"));
            let message = publisher.message(&request);
            publisher.send(&message);
        }
        let mut last = observation.first.observe().unwrap();
        for i in 0..50 {
            let notification = client.notification(&observation.token);
            assert_eq!(notification.text(), format!("{i}"), "qos {qos}");
            assert!(
                notification.observe().unwrap() > last,
                "{last} then {notification:?}"
            );
            last = notification.observe().unwrap();
        }
    }
}

/// An observer of `ps/a` by CON that says nothing, and a publisher.
fn silent_observer(gateway: &Gateway, kind: Kind) -> (Client, Observation, Client) {
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a?qos=1");
    client.reaction = Reaction::Ignore;
    (client, observation, gateway.client(kind))
}

fn an_unanswered_con_is_sent_again(kind: Kind) {
    let gateway = Gateway::start(Config::new().transmission(200, 2));
    let (mut client, _, mut publisher) = silent_observer(&gateway, kind);
    publisher.publish("ps/a", "x");
    let first = client.recv(PATIENCE).expect("a notification");
    for _ in 0..2 {
        assert_eq!(
            client.recv(PATIENCE).as_ref(),
            Some(&first),
            "the very same message"
        );
    }
    client.silence(ms(2000));
    assert!(gateway.metric("coap_retransmissions_total", &[]) >= 2.0);
}

fn at_most_one_con_is_outstanding(kind: Kind) {
    let gateway = Gateway::start(Config::new().transmission(2000, 4));
    let (mut client, observation, mut publisher) = silent_observer(&gateway, kind);
    for i in 0..5 {
        publisher.publish("ps/a", format!("{i}"));
    }
    let first = client.notification(&observation.token);
    assert_eq!(first.text(), "0");
    client.silence(ms(300));
    client.send(&Message::empty(typ::ACK, first.id));
    client.reaction = Reaction::Acknowledge;
    for i in 1..5 {
        assert_eq!(client.notification(&observation.token).text(), format!("{i}"));
    }
}

fn an_unanswered_con_does_not_hold_up_other_observations(kind: Kind) {
    let gateway = Gateway::start(Config::new().transmission(300, 6));
    let (mut client, _, mut publisher) = silent_observer(&gateway, kind);
    let confirmable = client.observe("ps/b?qos=1");
    let non = client.observe("ps/c?qos=0");
    publisher.publish("ps/a", "never acknowledged");
    publisher.publish("ps/b", "b");
    publisher.publish("ps/c", "c");
    assert_eq!(client.notification(&non.token).text(), "c");
    let b = client.notification(&confirmable.token);
    assert_eq!(b.text(), "b");
}

fn the_newest_messages_wait_and_the_oldest_go(kind: Kind) {
    let gateway = Gateway::start(Config::new().transmission(5000, 4));
    let (mut client, observation, mut publisher) = silent_observer(&gateway, kind);
    for i in 0..200 {
        publisher.publish("ps/a", format!("{i}"));
    }
    let first = client.notification(&observation.token);
    assert_eq!(first.text(), "0");
    client.reaction = Reaction::Acknowledge;
    client.send(&Message::empty(typ::ACK, first.id));
    let mut got = vec![];
    while got.last() != Some(&199) {
        got.push(
            client
                .notification(&observation.token)
                .text()
                .parse::<u32>()
                .unwrap(),
        );
    }
    assert!(
        got.len() < 199 && got.len() >= 16,
        "a bounded queue, not {}",
        got.len()
    );
    assert!(
        got.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "the newest, none missing: {got:?}"
    );
    let dropped = gateway.metric("limits_rejected_total", &["limit=\"queued_notifications\""]);
    assert_eq!(
        dropped,
        f64::from(199 - u32::try_from(got.len()).unwrap()),
        "each dropped one is counted"
    );
}

fn expiry_is_honoured_in_queues(kind: Kind) {
    let gateway = Gateway::start(Config::new().transmission(5000, 4));
    let (mut client, observation, mut publisher) = silent_observer(&gateway, kind);
    publisher.publish("ps/a", "outstanding");
    publisher.publish("ps/a?expiry=1", "stale");
    publisher.publish("ps/a?expiry=60", "fresh");
    publisher.publish("ps/a", "plain");
    sleep(ms(1300));
    let first = client.notification(&observation.token);
    client.reaction = Reaction::Acknowledge;
    client.send(&Message::empty(typ::ACK, first.id));
    assert_eq!(client.notification(&observation.token).text(), "fresh");
    assert_eq!(client.notification(&observation.token).text(), "plain");
}
