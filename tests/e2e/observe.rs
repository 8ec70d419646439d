//! Subscribing: retained messages, retain handling, no-local, replacing, cancelling.

use std::collections::BTreeSet;

use crate::each_transport;
use crate::support::{
    Client, Config, Gateway, Kind, Message, Reaction, Request, code, ms, option, typ, wait_until,
};

each_transport!(
    the_first_answer_carries_the_retained_message,
    a_wildcard_gets_every_retained_message,
    a_second_observer_of_a_filter_gets_the_retained_message_and_the_first_not_again,
    rh_0_sends_retained_messages_always,
    rh_1_sends_them_to_a_new_subscription_only,
    rh_2_never_sends_them,
    no_local_keeps_the_own_messages_back,
    overlapping_filters_each_get_the_message_once,
    observing_again_with_a_new_token_replaces,
    observing_again_with_the_same_token_renews,
    rst_to_a_con_cancels_that_observation_only,
    rst_to_a_non_cancels_that_observation_only,
    silence_to_a_con_cancels_that_observation_only,
    clearing_a_retained_message_is_notified,
    observations_are_capped_for_one_client,
    a_late_deregistration_ends_only_the_observation_of_its_token,
    the_empty_token_observes_like_any_other,
    a_read_ends_no_observation,
    the_rest_of_a_notification_is_fetched_by_get_and_by_post_whoever_subscribed_by_post,
);

fn gateway() -> Gateway {
    Gateway::start(Config::new())
}

fn the_first_answer_carries_the_retained_message(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=true", "kept");
    let observation = client.observe("ps/a");
    assert_eq!(observation.first.text(), "kept");
    client.no_notification(&observation.token, ms(150));
    client.publish("ps/a?retain=true", "newer");
    assert_eq!(client.notification(&observation.token).text(), "newer");
    client.no_notification(&observation.token, ms(50));
}

fn a_wildcard_gets_every_retained_message(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let wanted: BTreeSet<String> = (0..5).map(|i| format!("kept {i}")).collect();
    for (i, payload) in wanted.iter().enumerate() {
        client.publish(&format!("ps/w/{i}?retain=true"), payload);
    }
    client.publish("ps/v?retain=true", "another topic");
    let observation = client.observe("ps/w/+");
    let mut got = BTreeSet::from([observation.first.text()]);
    let mut last = observation.first.observe().unwrap();
    for _ in 1..wanted.len() {
        let notification = client.notification(&observation.token);
        assert!(notification.observe().unwrap() > last, "Observe numbers ascend");
        last = notification.observe().unwrap();
        got.insert(notification.text());
    }
    assert_eq!(got, wanted);
    client.no_notification(&observation.token, ms(100));
}

fn a_second_observer_of_a_filter_gets_the_retained_message_and_the_first_not_again(kind: Kind) {
    let gateway = gateway();
    let mut one = gateway.client(kind);
    one.publish("ps/a?retain=true", "kept");
    let first = one.observe("ps/a");
    for _ in 0..4 {
        let mut two = gateway.client(kind);
        assert_eq!(two.observe("ps/a").first.text(), "kept");
    }
    one.no_notification(&first.token, ms(100));
}

fn rh_0_sends_retained_messages_always(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=true", "kept");
    assert_eq!(client.observe("ps/a?rh=0").first.text(), "kept");
    assert_eq!(client.observe("ps/a?rh=0").first.text(), "kept");
}

fn rh_1_sends_them_to_a_new_subscription_only(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=true", "kept");
    assert_eq!(client.observe("ps/a?rh=1").first.text(), "kept");
    let again = client.observe("ps/a?rh=1");
    assert_eq!(again.first.payload, b"");
    client.no_notification(&again.token, ms(100));
}

fn rh_2_never_sends_them(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=true", "kept");
    let observation = client.observe("ps/a?rh=2");
    assert_eq!(observation.first.payload, b"");
    client.no_notification(&observation.token, ms(100));
    client.publish("ps/a", "live");
    assert_eq!(client.notification(&observation.token).text(), "live");
}

fn no_local_keeps_the_own_messages_back(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let quiet = client.observe("ps/a?nl=1");
    let loud = client.observe("ps/+?nl=0");
    client.publish("ps/a", "own");
    assert_eq!(client.notification(&loud.token).text(), "own");
    client.no_notification(&quiet.token, ms(100));
    gateway.client(kind).publish("ps/a", "foreign");
    assert_eq!(client.notification(&quiet.token).text(), "foreign");
    assert_eq!(client.notification(&loud.token).text(), "foreign");
}

fn overlapping_filters_each_get_the_message_once(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let observations: Vec<_> = ["ps/o/a", "ps/o/+", "ps/o/#", "ps/+/a", "ps/#"]
        .iter()
        .map(|filter| client.observe(filter))
        .collect();
    client.publish("ps/o/a", "x");
    for observation in &observations {
        assert_eq!(client.notification(&observation.token).text(), "x");
    }
    for observation in &observations {
        client.no_notification(&observation.token, ms(30));
    }
}

fn observing_again_with_a_new_token_replaces(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let old = client.observe("ps/a");
    let new = client.observe("ps/a");
    assert_ne!(old.token, new.token);
    client.publish("ps/a", "x");
    assert_eq!(client.notification(&new.token).text(), "x");
    client.no_notification(&old.token, ms(100));
    gateway.metric_becomes("subscriptions", &[], 1.0);
}

fn observing_again_with_the_same_token_renews(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let request = Request::get("ps/a").observe(0).token(b"mine");
    let first = client.observe_with(request.clone());
    client.publish("ps/a", "x");
    let notification = client.notification(b"mine");
    let again = client.observe_with(request);
    assert!(
        again.first.observe() > notification.observe(),
        "{:?} {notification:?}",
        again.first
    );
    assert!(notification.observe() > first.first.observe());
    client.publish("ps/a", "y");
    assert_eq!(client.notification(b"mine").text(), "y");
    client.no_notification(b"mine", ms(50));
    gateway.metric_becomes("subscriptions", &[], 1.0);
}

/// That RST to a notification of `ps/a` cancels it, and `ps/b` of the same client lives on.
fn rst_cancels(kind: Kind, qos: u8, expected: u8) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let cancelled = client.observe(&format!("ps/a?qos={qos}"));
    let kept = client.observe(&format!("ps/b?qos={qos}"));
    let mut publisher = gateway.client(kind);
    client.reaction = Reaction::Ignore;
    publisher.publish("ps/a", "1");
    let notification = client.notification(&cancelled.token);
    assert_eq!(notification.typ, expected);
    client.send(&Message::empty(typ::RST, notification.id));
    client.reaction = Reaction::Acknowledge;
    wait_until("it is cancelled", || gateway.metric("subscriptions", &[]) == 1.0);
    publisher.publish("ps/a", "2");
    publisher.publish("ps/b", "3");
    assert_eq!(client.notification(&kept.token).text(), "3");
    client.no_notification(&cancelled.token, ms(50));
}

fn rst_to_a_con_cancels_that_observation_only(kind: Kind) {
    rst_cancels(kind, 1, typ::CON);
}

fn rst_to_a_non_cancels_that_observation_only(kind: Kind) {
    rst_cancels(kind, 0, typ::NON);
}

fn silence_to_a_con_cancels_that_observation_only(kind: Kind) {
    let gateway = Gateway::start(Config::new().transmission(100, 1));
    let mut client = gateway.client(kind);
    let cancelled = client.observe("ps/a?qos=1");
    let kept = client.observe("ps/b?qos=0");
    let mut publisher = gateway.client(kind);
    client.reaction = Reaction::Ignore;
    publisher.publish("ps/a", "1");
    assert_eq!(client.notification(&cancelled.token).text(), "1");
    wait_until("it is cancelled", || gateway.metric("subscriptions", &[]) == 1.0);
    client.reaction = Reaction::Acknowledge;
    publisher.publish("ps/a", "2");
    publisher.publish("ps/b", "3");
    assert_eq!(client.notification(&kept.token).text(), "3");
    assert_eq!(
        client
            .try_notification(&cancelled.token, ms(50))
            .map(|m| m.text()),
        None
    );
}

fn clearing_a_retained_message_is_notified(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=true", "kept");
    let observation = client.observe("ps/a");
    client.publish("ps/a?retain=true", "");
    assert_eq!(client.notification(&observation.token).payload, b"");
    client.request(&Request::get("ps/a")).expect(code::NOT_FOUND);
}

fn observations_are_capped_for_one_client(kind: Kind) {
    let gateway = gateway();
    let mut greedy = gateway.client_as(kind, "dev2");
    let mut accepted = 0;
    let refusal = loop {
        let answer = greedy.request(&Request::get(&format!("ps/cap/{accepted}")).observe(0));
        if answer.code != code::CONTENT || answer.observe().is_none() {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 2_000, "no cap");
    };
    assert!(accepted >= 64, "{accepted}");
    assert!(refusal.observe().is_none());
    assert!(gateway.metric("limits_rejected_total", &["limit=\"observations\""]) >= 1.0);
    let mut good: Client = gateway.client(kind);
    let observation = good.observe("ps/good");
    good.publish("ps/good", "x");
    assert_eq!(good.notification(&observation.token).text(), "x");
}

fn a_late_deregistration_ends_only_the_observation_of_its_token(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let get = |observe: u32, token: &[u8]| Request::get("ps/late").observe(observe).token(token);
    for token in [b"one", b"two"] {
        client.request(&get(0, token)).expect(code::CONTENT);
    }
    for token in [&b"one"[..], b"other", b""] {
        client.request(&get(1, token)).expect(code::NO_CONTENT);
        client.publish("ps/late", "x");
        assert_eq!(client.notification(b"two").text(), "x");
    }
    client.request(&get(1, b"two")).expect(code::NO_CONTENT);
    gateway.metric_becomes("subscriptions", &[], 0.0);
}

fn the_empty_token_observes_like_any_other(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let request = Request::get("ps/bare").token(b"");
    let first = client.request(&request.clone().observe(0)).expect(code::CONTENT);
    assert!(first.observe().is_some());
    client.publish("ps/bare", "x");
    assert_eq!(client.notification(b"").text(), "x");
    client.request(&request.observe(1)).expect(code::NO_CONTENT);
    gateway.metric_becomes("subscriptions", &[], 0.0);
}

fn a_read_ends_no_observation(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    client.publish("ps/seen?retain=1", "0");
    let observation = client.observe("ps/seen");
    for (round, token) in [&observation.token[..], b"other", b""].into_iter().enumerate() {
        let read = client.request(&Request::get("ps/seen").token(token));
        assert_eq!(read.expect(code::CONTENT).observe(), None);
        client.publish("ps/seen?retain=1", round.to_string());
        assert_eq!(client.notification(&observation.token).text(), round.to_string());
    }
}

fn the_rest_of_a_notification_is_fetched_by_get_and_by_post_whoever_subscribed_by_post(kind: Kind) {
    let gateway = Gateway::start(Config::new().set("coap.blockwise", "max_block_size = 128"));
    let mut client = gateway.client(kind);
    let observation = client.observe_with(Request::post("ps/big/+?qos=1").observe(0));
    let body: Vec<u8> = (0..700_u32).map(|i| (i % 250) as u8).collect();
    let mut publisher = gateway.client(kind);
    for fetch in [Request::get("ps/big/+?qos=1"), Request::post("ps/big/+?qos=1")] {
        let publish = Request::put("ps/big/1").payload(&body);
        publisher.request(&publish).expect(code::CHANGED);
        let first = client.notification(&observation.token);
        assert!(
            first.block(option::BLOCK2).is_some_and(|block| block.more),
            "{first:?}"
        );
        assert_eq!(client.rest_of(&fetch, &first), body);
    }
}
