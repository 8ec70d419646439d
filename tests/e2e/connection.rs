//! Connection mode: create, re-create, heartbeat, close, tokens, moving to a new address.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::each_transport;
use crate::support::client::PATIENCE;
use crate::support::{
    Client, Config, Gateway, Kind, Message, Reaction, Request, code, ms, option, typ, wait_until,
};

each_transport!(
    every_other_request_needs_clientid_and_token,
    a_wrong_token_is_unauthorized,
    wrong_tokens_are_rate_limited_per_source,
    everything_works_with_clientid_and_token,
    create_again_from_the_same_address_replaces,
    create_again_from_another_address_replaces,
    several_clientids_share_one_port,
    a_connection_ends_without_heartbeat,
    valid_requests_keep_a_connection_alive,
    rejected_requests_do_not_keep_it_alive,
    acknowledging_notifications_keeps_it_alive,
    pings_keep_it_alive,
    heartbeat_0s_switches_expiry_off,
    a_closed_connection_is_gone_with_its_observations,
    closing_needs_the_token,
    a_device_that_rebooted_can_close_after_creating_again,
    a_refused_create_leaves_the_old_connection_alone,
);

fn gateway() -> Gateway {
    Gateway::start(Config::new().connection_mode())
}

/// `path` with the pair, and `more` parameters.
fn with(path: &str, clientid: &str, token: &str, more: &str) -> String {
    format!("{path}?clientid={clientid}&token={token}{more}")
}

fn every_other_request_needs_clientid_and_token(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    for query in ["".to_owned(), "?clientid=a".to_owned(), format!("?token={token}")] {
        for (method, path) in [
            (code::PUT, "mqtt/connection"),
            (code::DELETE, "mqtt/connection"),
            (code::POST, "ps/a"),
            (code::PUT, "ps/a"),
            (code::GET, "ps/a"),
            (code::DELETE, "ps/a"),
            (code::POST, "mqtt/a"),
        ] {
            let answer = client.request(&Request::new(method, &format!("{path}{query}")));
            answer
                .expect(code::BAD_REQUEST)
                .naming("Missing token or clientid");
        }
        for observe in [0, 1] {
            let answer = client.request(&Request::get(&format!("ps/a{query}")).observe(observe));
            answer
                .expect(code::BAD_REQUEST)
                .naming("Missing token or clientid");
        }
    }
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
}

fn a_wrong_token_is_unauthorized(kind: Kind) {
    let gateway = Gateway::start(
        Config::new()
            .connection_mode()
            .set("limits", "failed_logins_per_minute = 0"),
    );
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let other = client.create("b");
    let shorter = &token[..token.len() - 1];
    let longer = format!("{token}x");
    for (clientid, wrong) in [
        ("a", "0"),
        ("a", ""),
        ("a", shorter),
        ("a", longer.as_str()),
        ("a", other.as_str()),
        ("b", token.as_str()),
        ("nobody", token.as_str()),
    ] {
        for request in [
            Request::put(&with("mqtt/connection", clientid, wrong, "")),
            Request::delete(&with("mqtt/connection", clientid, wrong, "")),
            Request::post(&with("ps/a", clientid, wrong, "")).payload("x"),
            Request::get(&with("ps/a", clientid, wrong, "")).observe(0),
        ] {
            client
                .request(&request)
                .expect(code::UNAUTHORIZED)
                .naming("Invalid token or clientid");
        }
    }
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
    assert_eq!(client.heartbeat("b", &other), code::CHANGED);
}

fn wrong_tokens_are_rate_limited_per_source(kind: Kind) {
    let config = Config::new()
        .connection_mode()
        .set("limits", "failed_logins_per_minute = 5");
    let gateway = Gateway::start(config);
    let mut good = client_from(&gateway, kind, "127.0.0.3");
    let token = good.create("good");
    let mut guesser = client_from(&gateway, kind, "127.0.0.2");
    let answers: Vec<Message> = (0..12)
        .map(|i| {
            guesser.request(&Request::put(&with(
                "mqtt/connection",
                "good",
                &format!("guess{i}"),
                "",
            )))
        })
        .collect();
    assert_eq!(answers[0].status(), "4.01");
    let last = answers.last().unwrap().clone().expect(code::TOO_MANY_REQUESTS);
    let max_age = last.uint(option::MAX_AGE).expect("Max-Age");
    assert!((1..=60).contains(&max_age), "{max_age}");
    let refused = answers
        .iter()
        .filter(|answer| answer.code == code::UNAUTHORIZED)
        .count();
    assert!(
        (3..=8).contains(&refused),
        "{refused} guesses were judged with a limit of 5"
    );
    assert_eq!(
        good.heartbeat("good", &token),
        code::CHANGED,
        "another source is not throttled"
    );
    assert!(gateway.metric("limits_rejected_total", &["limit=\"failed_logins_per_minute\""]) >= 1.0);
}

/// A client at another loopback address.
fn client_from(gateway: &Gateway, kind: Kind, ip: &str) -> Client {
    let local = format!("{ip}:0").parse().unwrap();
    match kind {
        Kind::Udp => Client::udp_from(gateway.udp_addr(), local),
        Kind::Dtls => {
            let options = crate::support::gateway::psk_options("dev1").local(local);
            Client::dtls(gateway.dtls_addr(), &options)
        }
    }
}

fn everything_works_with_clientid_and_token(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let observation = client.observe(&with("ps/t", "a", &token, ""));
    client.publish(&with("ps/t", "a", &token, "&retain=true"), "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
    assert_eq!(client.read(&with("ps/t", "a", &token, "")), b"x");
    let stop = Request::get(&with("ps/t", "a", &token, ""))
        .observe(1)
        .token(&observation.token);
    client.request(&stop).expect(code::NO_CONTENT);
    client
        .request(&Request::delete(&with("ps/t", "a", &token, "")))
        .expect(code::DELETED);
    client
        .request(&Request::get(&with("ps/t", "a", &token, "")))
        .expect(code::NOT_FOUND);
}

/// That `again`, which may be `before` itself, replaces the connection of `before`.
fn replaces(gateway: &Gateway, kind: Kind, mut before: Client, again: Option<Client>) {
    let old = before.create("a");
    let observation = before.observe(&with("ps/t", "a", &old, ""));
    let mut publisher = gateway.client(kind);
    let publisher_token = publisher.create("publisher");
    let uri = with("ps/t", "publisher", &publisher_token, "");
    publisher.publish(&uri, "1");
    assert_eq!(before.notification(&observation.token).text(), "1");

    let (new, mut after) = match again {
        Some(mut client) => (client.create("a"), client),
        None => (before.create("a"), gateway.client(kind)),
    };
    assert_ne!(old, new);
    // Where the old one lives at another worker, that one hears of it a moment later.
    gateway.metric_becomes("connections", &[], 2.0);
    publisher.publish(&uri, "2");
    before.no_notification(&observation.token, ms(200));
    assert_eq!(
        after.heartbeat("a", &old),
        code::UNAUTHORIZED,
        "the old token is dead"
    );
    assert_eq!(after.heartbeat("a", &new), code::CHANGED);
    let observation = after.observe(&with("ps/t", "a", &new, ""));
    publisher.publish(&uri, "3");
    assert_eq!(after.notification(&observation.token).text(), "3");
    assert_eq!(publisher.heartbeat("publisher", &publisher_token), code::CHANGED);
}

fn create_again_from_the_same_address_replaces(kind: Kind) {
    let gateway = gateway();
    let client = gateway.client(kind);
    replaces(&gateway, kind, client, None);
}

fn create_again_from_another_address_replaces(kind: Kind) {
    let gateway = gateway();
    let (before, after) = (gateway.client(kind), gateway.client(kind));
    replaces(&gateway, kind, before, Some(after));
}

fn several_clientids_share_one_port(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let tokens: Vec<String> = (0..3).map(|i| client.create(&format!("c{i}"))).collect();
    let observations: Vec<_> = (0..3)
        .map(|i| client.observe(&with(&format!("ps/t{i}"), &format!("c{i}"), &tokens[i], "")))
        .collect();
    for (i, observation) in observations.iter().enumerate() {
        client.publish(
            &with(&format!("ps/t{i}"), "c0", &tokens[0], ""),
            format!("to {i}"),
        );
        assert_eq!(client.notification(&observation.token).text(), format!("to {i}"));
    }
    client
        .request(&Request::delete(&with("mqtt/connection", "c1", &tokens[1], "")))
        .expect(code::DELETED);
    assert_eq!(client.heartbeat("c1", &tokens[1]), code::UNAUTHORIZED);
    for i in [0, 2] {
        assert_eq!(client.heartbeat(&format!("c{i}"), &tokens[i]), code::CHANGED);
    }
    client.publish(&with("ps/t1", "c0", &tokens[0], ""), "nobody");
    client.publish(&with("ps/t2", "c0", &tokens[0], ""), "still");
    assert_eq!(client.notification(&observations[2].token).text(), "still");
    client.no_notification(&observations[1].token, ms(50));
}

/// A gateway whose connections end after 4.5 s of silence: longer than a busy machine lets a test wait for its turn.
fn short_lived() -> Gateway {
    Gateway::start(Config::new().connection_mode().coap("heartbeat = \"3s\""))
}

/// Waits until the gateway has ended its last connection; how long that took.
fn ends(gateway: &Gateway, since: Instant) -> Duration {
    wait_until("the connection ends", || {
        gateway.metric("connections", &[]) == 0.0
    });
    since.elapsed()
}

fn a_connection_ends_without_heartbeat(kind: Kind) {
    let gateway = short_lived();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let observation = client.observe(&with("ps/t", "a", &token, ""));
    let since = Instant::now();
    gateway.metric_becomes("subscriptions", &[], 1.0);
    let took = ends(&gateway, since);
    assert!(took > ms(2500), "1.5 times the heartbeat of 3 s, not {took:?}");
    gateway.metric_becomes("subscriptions", &[], 0.0);
    assert_eq!(client.heartbeat("a", &token), code::UNAUTHORIZED);
    let mut publisher = gateway.client(kind);
    let other = publisher.create("b");
    publisher.publish(&with("ps/t", "b", &other, ""), "x");
    client.no_notification(&observation.token, ms(100));
}

fn valid_requests_keep_a_connection_alive(kind: Kind) {
    let gateway = short_lived();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    for i in 0..6 {
        sleep(ms(1000));
        match i % 2 {
            0 => assert_eq!(client.heartbeat("a", &token), code::CHANGED),
            _ => client.publish(&with("ps/t", "a", &token, ""), "x"),
        }
    }
}

fn rejected_requests_do_not_keep_it_alive(kind: Kind) {
    let gateway = Gateway::start(
        Config::new()
            .connection_mode()
            .coap("heartbeat = \"1s\"")
            .set("limits", "failed_logins_per_minute = 0"),
    );
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let since = Instant::now();
    while gateway.metric("connections", &[]) > 0.0 {
        client
            .request(&Request::put("mqtt/connection?clientid=a&token=wrong"))
            .expect(code::UNAUTHORIZED);
        client
            .request(&Request::put("mqtt/connection?clientid=a"))
            .expect(code::BAD_REQUEST);
        client
            .request(&Request::post("ps/t").payload("x"))
            .expect(code::BAD_REQUEST);
        // The token alone makes no valid request of it.
        let refused = client.request(&Request::put(&with("ps/t/+", "a", &token, "")).payload("x"));
        assert!(matches!(refused.code, code::BAD_REQUEST | code::UNAUTHORIZED));
        assert!(
            since.elapsed() < PATIENCE,
            "rejected requests keep the connection alive"
        );
        sleep(ms(200));
    }
    assert_eq!(client.heartbeat("a", &token), code::UNAUTHORIZED);
}

fn acknowledging_notifications_keeps_it_alive(kind: Kind) {
    let gateway = short_lived();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let observation = client.observe(&with("ps/t", "a", &token, "&qos=1"));
    let mut publisher = gateway.client(kind);
    let other = publisher.create("b");
    for _ in 0..6 {
        sleep(ms(1000));
        publisher.publish(&with("ps/t", "b", &other, ""), "x");
        assert_eq!(client.notification(&observation.token).typ, typ::CON);
    }
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
}

fn pings_keep_it_alive(kind: Kind) {
    let gateway = short_lived();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    for _ in 0..6 {
        sleep(ms(1000));
        let id = client.next_id();
        client.send(&Message::empty(typ::CON, id));
        let answer = client.recv(PATIENCE).expect("a RST");
        assert_eq!((answer.typ, answer.id), (typ::RST, id));
    }
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
}

fn heartbeat_0s_switches_expiry_off(kind: Kind) {
    let gateway = Gateway::start(Config::new().connection_mode().coap("heartbeat = \"0s\""));
    let mut client = gateway.client(kind);
    let token = client.create("a");
    sleep(ms(1500));
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
}

fn a_closed_connection_is_gone_with_its_observations(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let observation = client.observe(&with("ps/t", "a", &token, ""));
    client
        .request(&Request::delete(&with("mqtt/connection", "a", &token, "")))
        .expect(code::DELETED);
    assert_eq!(client.heartbeat("a", &token), code::UNAUTHORIZED);
    client
        .request(&Request::delete(&with("mqtt/connection", "a", &token, "")))
        .expect(code::UNAUTHORIZED);
    client
        .request(&Request::post(&with("ps/t", "a", &token, "")).payload("x"))
        .expect(code::UNAUTHORIZED);
    let mut publisher = gateway.client(kind);
    let other = publisher.create("b");
    publisher.publish(&with("ps/t", "b", &other, ""), "x");
    client.no_notification(&observation.token, ms(200));
}

fn closing_needs_the_token(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let mut stranger = gateway.client(kind);
    stranger
        .request(&Request::delete("mqtt/connection?clientid=a"))
        .expect(code::BAD_REQUEST);
    stranger
        .request(&Request::delete("mqtt/connection?clientid=a&token=guess"))
        .expect(code::UNAUTHORIZED);
    stranger
        .request(&Request::delete("mqtt/connection"))
        .expect(code::BAD_REQUEST);
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
}

fn a_device_that_rebooted_can_close_after_creating_again(kind: Kind) {
    let gateway = gateway();
    let old = gateway.client(kind).create("a");
    let mut rebooted = gateway.client(kind);
    let new = rebooted.create("a");
    assert_eq!(rebooted.heartbeat("a", &old), code::UNAUTHORIZED);
    rebooted
        .request(&Request::delete(&with("mqtt/connection", "a", &new, "")))
        .expect(code::DELETED);
    wait_until("both ended", || gateway.metric("connections", &[]) == 0.0);
}

fn a_refused_create_leaves_the_old_connection_alone(kind: Kind) {
    let gateway = gateway();
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let observation = client.observe(&with("ps/t", "a", &token, ""));
    let mut other = gateway.client(kind);
    let bad = Request::post("mqtt/connection?clientid=a&username=x&username=y");
    other.request(&bad).expect(code::BAD_REQUEST);
    client.publish(&with("ps/t", "a", &token, ""), "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
}

#[test]
fn a_verified_token_moves_the_connection_to_a_new_udp_address() {
    let gateway = gateway();
    let mut old = gateway.client(Kind::Udp);
    let token = old.create("a");
    let observation = old.observe(&with("ps/t", "a", &token, ""));
    let mut publisher = gateway.client(Kind::Udp);
    let other = publisher.create("b");
    let uri = with("ps/t", "b", &other, "");
    // Several new addresses, so that some belong to another worker than the old one.
    for i in 0..8 {
        let mut new = gateway.client(Kind::Udp);
        assert_eq!(new.heartbeat("a", &token), code::CHANGED);
        publisher.publish(&uri, format!("{i}"));
        assert_eq!(new.notification(&observation.token).text(), format!("{i}"));
        old.no_notification(&observation.token, ms(20));
        old = new;
    }
    let stop = Request::get(&with("ps/t", "a", &token, ""))
        .observe(1)
        .token(&observation.token);
    old.request(&stop).expect(code::NO_CONTENT);
    publisher.publish(&uri, "over");
    old.no_notification(&observation.token, ms(100));
}

#[test]
fn an_unverified_token_moves_nothing() {
    let gateway = gateway();
    let mut client = gateway.client(Kind::Udp);
    let token = client.create("a");
    let observation = client.observe(&with("ps/t", "a", &token, ""));
    for _ in 0..4 {
        let mut stranger = gateway.client(Kind::Udp);
        assert_eq!(stranger.heartbeat("a", "wrong"), code::UNAUTHORIZED);
        stranger
            .request(&Request::put("mqtt/connection?clientid=a"))
            .expect(code::BAD_REQUEST);
        let repeated = format!("mqtt/connection?clientid=a&token={token}&token=x");
        stranger
            .request(&Request::put(&repeated))
            .expect(code::BAD_REQUEST);
        client.publish(&with("ps/t", "a", &token, ""), "x");
        assert_eq!(client.notification(&observation.token).text(), "x");
        stranger.silence(ms(20));
    }
}

#[test]
fn notifications_that_wait_move_with_the_connection() {
    let gateway = Gateway::start(Config::new().connection_mode().transmission(300, 6));
    let mut old = gateway.client(Kind::Udp);
    let token = old.create("a");
    let observation = old.observe(&with("ps/t", "a", &token, "&qos=1"));
    old.reaction = Reaction::Ignore;
    let mut publisher = gateway.client(Kind::Udp);
    let other = publisher.create("b");
    for i in 0..3 {
        publisher.publish(&with("ps/t", "b", &other, ""), format!("{i}"));
    }
    assert_eq!(
        old.notification(&observation.token).text(),
        "0",
        "and is not acknowledged"
    );
    let mut new = gateway.client(Kind::Udp);
    assert_eq!(new.heartbeat("a", &token), code::CHANGED);
    let mut got = vec![];
    while got.last().is_none_or(|last| last != "2") {
        got.push(new.notification(&observation.token).text());
    }
    assert!(got.ends_with(&["1".to_owned(), "2".to_owned()]), "{got:?}");
}
