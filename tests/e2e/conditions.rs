//! Observing with conditions: what is told, when, and what is refused.

use crate::each_transport;
use crate::support::{Client, Config, Gateway, Kind, Request, code, ms, option, typ, wait_until};

each_transport!(
    a_limit_is_told_when_it_is_crossed,
    senml_in_json_and_cbor_is_judged_by_its_value,
    within_the_least_period_only_the_newest_value_is_told,
    after_the_most_period_the_state_is_told_again_with_its_age,
    conditions_that_do_not_fit_are_refused_by_name_and_nothing_ends,
    what_is_retained_and_no_number_is_refused_and_what_comes_later_is_told,
    confirmable_notifications_are_had_by_asking,
    an_observation_with_conditions_ends_like_any_other,
);

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

/// Publishes values in turn, each once the gateway took the one before.
fn publish(client: &mut Client, uri: &str, values: &[&str]) {
    for value in values {
        client.publish(uri, value);
    }
}

fn told(client: &mut Client, token: &[u8], count: usize) -> Vec<String> {
    (0..count).map(|_| client.notification(token).text()).collect()
}

fn a_limit_is_told_when_it_is_crossed(kind: Kind) {
    let gateway = gateway();
    let (mut client, mut publisher) = (gateway.client(kind), gateway.client(kind));
    publisher.publish("ps/hall?retain=1", "18.5");
    let observation = client.observe("ps/hall?c.gt=25&c.lt=-5&qos=1");
    assert_eq!(observation.first.text(), "18.5");
    let values = ["20", "25", "26", "31", "25", "0", "-6", "-7", "-5"];
    publish(&mut publisher, "ps/hall?retain=1", &values);
    assert_eq!(told(&mut client, &observation.token, 4), ["26", "25", "-6", "-5"]);
    client.no_notification(&observation.token, ms(100));
    gateway.metric_becomes("observe_conditions_total", &["result=\"notified\""], 4.0);
    gateway.metric_becomes("observe_conditions_total", &["result=\"withheld\""], 5.0);
}

fn senml_in_json_and_cbor_is_judged_by_its_value(kind: Kind) {
    let gateway = gateway();
    let (mut client, mut publisher) = (gateway.client(kind), gateway.client(kind));
    let observation = client.observe("ps/tank?c.st=5&qos=1");
    let mut send = |format: u32, payload: &[u8]| {
        let request = Request::put("ps/tank").format(format).payload(payload);
        publisher.request(&request).expect(code::CHANGED);
    };
    send(110, br#"[{"bn":"tank/","n":"level","bv":100,"v":0.5}]"#);
    send(110, br#"[{"n":"tank/level","v":104}]"#);
    // [{0: "tank/level", 2: 105.5}]
    send(112, b"\x81\xa2\x00\x6atank/level\x02\xfb\x40\x5a\x60\0\0\0\0\0");
    // [{0: "tank/level", 2: 103}]
    send(112, b"\x81\xa2\x00\x6atank/level\x02\x18\x67");
    send(60, b"\x18\x64");
    let formats = (0..3).map(|_| {
        client
            .notification(&observation.token)
            .uint(option::CONTENT_FORMAT)
    });
    assert_eq!(formats.collect::<Vec<_>>(), [Some(110), Some(112), Some(60)]);
    client.no_notification(&observation.token, ms(100));
}

fn within_the_least_period_only_the_newest_value_is_told(kind: Kind) {
    let gateway = gateway();
    let (mut client, mut publisher) = (gateway.client(kind), gateway.client(kind));
    let observation = client.observe("ps/a?c.pmin=2&qos=1");
    publish(&mut publisher, "ps/a", &["1", "2", "3"]);
    // On a machine that stands still for two seconds in between there may be more of them, and never one out of order.
    let mut last = client.notification(&observation.token).text();
    assert!(last == "3" || gateway.metric("observe_conditions_total", &["result=\"notified\""]) > 0.0);
    while last != "3" {
        last = client.notification(&observation.token).text();
    }
    client.no_notification(&observation.token, ms(100));
}

fn after_the_most_period_the_state_is_told_again_with_its_age(kind: Kind) {
    let gateway = gateway();
    let (mut client, mut publisher) = (gateway.client(kind), gateway.client(kind));
    publisher.publish("ps/a?retain=1", "7");
    let observation = client.observe("ps/a?c.pmax=1.5&c.gt=100");
    assert_eq!(observation.first.uint(option::MAX_AGE), Some(1));
    let mut observe = observation.first.observe();
    for _ in 0..2 {
        let again = client.notification(&observation.token);
        assert_eq!(
            (again.text().as_str(), again.uint(option::MAX_AGE)),
            ("7", Some(1))
        );
        assert!(again.observe() > observe, "Observe numbers ascend");
        observe = again.observe();
    }
    publisher.publish("ps/a", "8");
    wait_until(
        "the state that was not worth a notification of its own is told",
        || client.notification(&observation.token).text() == "8",
    );
}

fn conditions_that_do_not_fit_are_refused_by_name_and_nothing_ends(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let standing = client.observe("ps/kept?qos=1");
    for (uri, named) in [
        ("ps/a?c.gt=warm", "c.gt"),
        ("ps/a?c.st=0", "c.st"),
        ("ps/a?c.band", "c.band"),
        ("ps/a?c.edge=7", "c.edge"),
        ("ps/a?c.pmin=-1", "c.pmin"),
        ("ps/a?c.pmin=9&c.pmax=8", "c.pmax"),
        ("ps/a?c.epmin=9&c.epmax=9", "c.epmax"),
        ("ps/a?c.lt=1&c.lt=2", "c.lt"),
        ("ps/+/a?c.gt=1", "one topic"),
        ("ps/#?c.pmax=60", "one topic"),
    ] {
        let answer = client.request(&Request::get(uri).observe(0));
        answer.expect(code::BAD_REQUEST).naming(named);
    }
    client.publish("ps/kept", "still");
    assert_eq!(client.notification(&standing.token).text(), "still");
    gateway.metric_becomes("subscriptions", &[], 1.0);
}

fn what_is_retained_and_no_number_is_refused_and_what_comes_later_is_told(kind: Kind) {
    let gateway = gateway();
    let (mut client, mut publisher) = (gateway.client(kind), gateway.client(kind));
    publisher.publish("ps/state?retain=1", "starting");
    let answer = client.request(&Request::get("ps/state?c.gt=5").observe(0));
    answer.expect(code::BAD_REQUEST).naming("number");
    gateway.metric_becomes("subscriptions", &[], 0.0);
    publisher.publish("ps/state?retain=1", "3");
    let observation = client.observe("ps/state?c.gt=5&qos=1");
    publish(&mut publisher, "ps/state", &["4", "fault", "4", "5"]);
    assert_eq!(told(&mut client, &observation.token, 2), ["fault", "4"]);
    client.no_notification(&observation.token, ms(100));
}

fn confirmable_notifications_are_had_by_asking(kind: Kind) {
    let gateway = gateway();
    let (mut client, mut publisher) = (gateway.client(kind), gateway.client(kind));
    let observation = client.observe("ps/+?c.con=1&qos=0");
    publisher.publish("ps/a", "1");
    assert_eq!(client.notification(&observation.token).typ, typ::CON);
}

fn an_observation_with_conditions_ends_like_any_other(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a?c.pmax=1&c.gt=3");
    let end = Request::get("ps/a?c.pmax=1&c.gt=3")
        .observe(1)
        .token(&observation.token);
    client.request(&end).expect(code::NO_CONTENT);
    gateway.metric_becomes("subscriptions", &[], 0.0);
    while client.try_notification(&observation.token, ms(1)).is_some() {}
    client.no_notification(&observation.token, ms(1500));
}
