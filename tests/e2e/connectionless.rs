//! The default mode: no connection, no token; a subscription belongs to the peer and its CoAP token.

use std::thread::sleep;

use crate::each_transport;
use crate::support::{Config, Gateway, Kind, Reaction, Request, code, ms, typ, wait_until};

each_transport!(
    nothing_needs_to_be_created,
    a_subscription_belongs_to_the_peer_and_its_token,
    the_clientid_names_the_publisher,
    a_silent_observer_of_non_notifications_stays,
    a_silent_observer_is_checked_with_a_con,
    a_silent_observer_is_checked_without_news_too,
    connections_are_token_checked_here_too,
    an_unneeded_token_does_no_harm,
    a_presented_token_is_checked_on_every_request,
    requests_with_its_token_keep_a_connection_alive,
    what_a_token_observes_ends_with_its_connection,
);

fn nothing_needs_to_be_created(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(kind);
    client.publish("ps/a?retain=true", "x");
    assert_eq!(client.read("ps/a"), b"x");
    assert_eq!(client.observe("ps/a").first.text(), "x");
    gateway.metric_becomes("connections", &[], 0.0);
}

fn a_subscription_belongs_to_the_peer_and_its_token(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let (mut one, mut two) = (gateway.client(kind), gateway.client(kind));
    let request = Request::get("ps/a").observe(0).token(b"same");
    one.observe_with(request.clone());
    two.observe_with(request);
    one.publish("ps/a", "1");
    assert_eq!(one.notification(b"same").text(), "1");
    assert_eq!(two.notification(b"same").text(), "1");
    one.request(&Request::get("ps/a").observe(1).token(b"same"))
        .expect(code::NO_CONTENT);
    one.publish("ps/a", "2");
    assert_eq!(two.notification(b"same").text(), "2");
    one.no_notification(b"same", ms(100));
}

fn the_clientid_names_the_publisher(kind: Kind) {
    let gateway = Gateway::start(Config::new().coap("mountpoint = \"by/${clientid}/\""));
    let mut client = gateway.client(kind);
    client.publish("ps/a?clientid=one&retain=true", "of one");
    client.publish("ps/a?c=two&retain=true", "of two");
    assert_eq!(client.read("ps/a?clientid=one"), b"of one");
    assert_eq!(client.read("ps/a?clientid=two"), b"of two");
    let observation = client.observe("ps/a?clientid=one");
    client.publish("ps/a?clientid=two", "not for one");
    client.publish("ps/a?clientid=one", "for one");
    assert_eq!(client.notification(&observation.token).text(), "for one");
}

fn a_silent_observer_of_non_notifications_stays(kind: Kind) {
    let gateway = Gateway::start(Config::new().coap("heartbeat = \"200ms\""));
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a?qos=0");
    sleep(ms(1500));
    let mut publisher = gateway.client(kind);
    for _ in 0..3 {
        publisher.publish("ps/a", "x");
        assert_eq!(client.notification(&observation.token).typ, typ::NON);
    }
}

fn a_silent_observer_is_checked_with_a_con(kind: Kind) {
    let gateway = Gateway::start(Config::new().coap("observe_check = \"12s\""));
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a?qos=0");
    let mut publisher = gateway.client(kind);
    publisher.publish("ps/a", "soon");
    assert_eq!(client.notification(&observation.token).typ, typ::NON);
    // Late enough for news to be the check, and before the gateway checks without news.
    sleep(ms(9300));
    publisher.publish("ps/a", "late");
    let late = client.notification(&observation.token);
    assert_eq!((late.typ, late.text().as_str()), (typ::CON, "late"));
    // What comes from another socket may be taken before its acknowledgement.
    gateway.metric_becomes("coap_messages_received_total", &["type=\"ack\""], 1.0);
    publisher.publish("ps/a", "after");
    assert_eq!(
        client.notification(&observation.token).typ,
        typ::NON,
        "it showed that it lives"
    );
}

fn a_silent_observer_is_checked_without_news_too(kind: Kind) {
    let config = Config::new().coap("observe_check = \"1s\"").transmission(500, 2);
    let gateway = Gateway::start(config);
    let mut client = gateway.client(kind);
    let observation = client.observe("ps/a?qos=0");
    gateway.client(kind).publish("ps/a", "only");
    assert_eq!(client.notification(&observation.token).typ, typ::NON);
    let check = client.notification(&observation.token);
    assert_eq!((check.typ, check.text().as_str()), (typ::CON, "only"));
    // It acknowledges no further check: that ends the observation.
    client.reaction = Reaction::Ignore;
    gateway.metric_becomes("subscriptions", &[], 1.0);
    wait_until("the dead observer is gone", || {
        gateway.metric("subscriptions", &[]) == 0.0
    });
}

fn connections_are_token_checked_here_too(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let mut stranger = gateway.client(kind);
    for method in [code::PUT, code::DELETE] {
        let ask = |query: &str| Request::new(method, &format!("mqtt/connection{query}"));
        stranger
            .request(&ask(""))
            .expect(code::BAD_REQUEST)
            .naming("Missing token or clientid");
        stranger
            .request(&ask("?clientid=a"))
            .expect(code::BAD_REQUEST)
            .naming("Missing token or clientid");
        let answer = stranger.request(&ask("?clientid=a&token=wrong"));
        answer
            .expect(code::UNAUTHORIZED)
            .naming("Invalid token or clientid");
    }
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
    let close = format!("mqtt/connection?clientid=a&token={token}");
    client.request(&Request::delete(&close)).expect(code::DELETED);
    assert_eq!(client.heartbeat("a", &token), code::UNAUTHORIZED);
}

fn an_unneeded_token_does_no_harm(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let pair = format!("clientid=a&token={token}");
    let observation = client.observe(&format!("ps/t?{pair}"));
    client.publish(&format!("ps/t?{pair}"), "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
}

fn a_presented_token_is_checked_on_every_request(kind: Kind) {
    let gateway = Gateway::start(Config::new().set("limits", "failed_logins_per_minute = 0"));
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let other = client.create("b");
    for pair in [
        "c=a&t=wrong".to_owned(),
        format!("c=a&t={other}"),
        format!("c=nobody&t={token}"),
    ] {
        for request in [
            Request::post(&format!("ps/t?{pair}")).payload("x"),
            Request::put(&format!("ps/t?{pair}")).payload("x"),
            Request::get(&format!("ps/t?{pair}")),
            Request::get(&format!("ps/t?{pair}")).observe(0),
            Request::get(&format!("ps/t?{pair}")).observe(1),
            Request::delete(&format!("mqtt/t?{pair}")),
        ] {
            client
                .request(&request)
                .expect(code::UNAUTHORIZED)
                .naming("Invalid token or clientid");
        }
    }
    client
        .request(&Request::put(&format!("ps/t?t={token}")).payload("x"))
        .expect(code::BAD_REQUEST)
        .naming("Missing token or clientid");
    client.request(&Request::get("ps/t")).expect(code::NOT_FOUND);
}

fn requests_with_its_token_keep_a_connection_alive(kind: Kind) {
    let gateway = Gateway::start(Config::new().coap("heartbeat = \"3s\""));
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let silent = client.create("b");
    for _ in 0..6 {
        sleep(ms(1000));
        client.publish(&format!("ps/t?c=a&t={token}"), "x");
    }
    assert_eq!(client.heartbeat("a", &token), code::CHANGED);
    assert_eq!(client.heartbeat("b", &silent), code::UNAUTHORIZED);
}

fn what_a_token_observes_ends_with_its_connection(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(kind);
    let token = client.create("a");
    let bound = client.observe(&format!("ps/t?c=a&t={token}"));
    let free = client.observe("ps/u");
    gateway.metric_becomes("subscriptions", &[], 2.0);
    let close = format!("mqtt/connection?clientid=a&token={token}");
    client.request(&Request::delete(&close)).expect(code::DELETED);
    gateway.metric_becomes("subscriptions", &[], 1.0);
    client.publish("ps/t", "nobody");
    client.publish("ps/u", "still");
    assert_eq!(client.notification(&free.token).text(), "still");
    client.no_notification(&bound.token, ms(100));
}
