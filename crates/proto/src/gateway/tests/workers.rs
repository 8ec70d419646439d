//! Connections that are used from several workers.

use super::*;

#[test]
fn a_connection_and_its_observations_follow_their_client_to_another_worker() {
    let mut site = Site::new(4);
    let token = site.create(0, 1000, "meter");
    let mut observe = site.credentialed(RequestType::Get, "ps/t", "meter", &token);
    observe.set_observe_value(0);
    let answer = site.ask(0, 1000, &observe);
    assert_eq!(code(&answer[0]), ResponseType::Content);

    for (worker, port) in [(3, 2000), (1, 3000), (1, 3001), (0, 1000)] {
        let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
        let answer = site.ask(worker, port, &heartbeat);
        assert_eq!(
            code(&answer[0]),
            ResponseType::Changed,
            "worker {worker} port {port}"
        );
        site.publish(&Site::message("t", b"hello"));
        let notified = site.sent(worker, port);
        assert_eq!(notified.len(), 1);
        assert_eq!(notified[0].payload, b"hello");
        assert_eq!(notified[0].get_token(), b"tok");
        assert_eq!(site.subscriptions.len(), 1);
    }
}

/// A connection with two observations on worker 0, and the answer on worker 1 that waits for a slow broker.
fn slowly_moved() -> Site {
    let mut site = Site::new(2);
    let token = site.create(0, 1000, "meter");
    for (topic, coap_token) in [("ps/t", b"t"), ("ps/u", b"u")] {
        let mut observe = site.credentialed(RequestType::Get, topic, "meter", &token);
        observe.set_observe_value(0);
        observe.set_token(coap_token.to_vec());
        site.ask(0, 1000, &observe);
    }
    site.held = Some(Vec::new());
    let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    assert_eq!(site.ask(1, 2000, &heartbeat), [], "nothing stands yet");
    site
}

#[test]
fn a_client_that_moved_is_answered_when_its_observations_stand() {
    let mut site = slowly_moved();
    let held = site.held.take().unwrap();
    assert_eq!(held.len(), 2);
    for (worker, event) in held {
        assert_eq!(site.sent(1, 2000), []);
        site.workers[worker].handle(site.now, Input::Broker(event));
        site.settle();
    }
    let answer = site.sent(1, 2000);
    assert_eq!(code(&answer[0]), ResponseType::Changed);
    site.publish(&Site::message("t", b"hello"));
    assert_eq!(site.sent(1, 2000).len(), 1);
}

#[test]
fn a_client_that_moved_is_answered_though_the_broker_is_silent() {
    let mut site = slowly_moved();
    site.now += Duration::from_secs(3);
    let now = site.now;
    site.workers[1].handle_timeout(now);
    let answers = site.sent(1, 2000);
    assert!(
        answers
            .iter()
            .any(|answer| answer.header.code == MessageClass::Response(ResponseType::Changed))
    );
}

#[test]
fn observe_numbers_go_on_ascending_on_another_worker() {
    let mut site = Site::new(2);
    let token = site.create(0, 1000, "c");
    let mut observe = site.credentialed(RequestType::Get, "ps/t", "c", &token);
    observe.set_observe_value(0);
    let mut last = site.ask(0, 1000, &observe)[0]
        .get_observe_value()
        .unwrap()
        .unwrap();
    for round in 0..6 {
        let (worker, port) = (round % 2, 1000 + u16::try_from(round % 2).unwrap());
        let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "c", &token);
        site.ask(worker, port, &heartbeat);
        site.publish(&Site::message("t", b"x"));
        let number = site.sent(worker, port)[0].get_observe_value().unwrap().unwrap();
        assert!(number > last);
        last = number;
    }
}

#[test]
fn a_wrong_token_moves_nothing_and_is_throttled_for_the_guesser_only() {
    let mut site = Site::new(2);
    let token = site.create(0, 1000, "meter");
    for attempt in 0..5 {
        let wrong = site.credentialed(
            RequestType::Put,
            "mqtt/connection",
            "meter",
            "AAAAAAAAAAAAAAAAAAAAAA",
        );
        let answer = site.ask(1, 6666, &wrong);
        let expected = if attempt < 3 {
            ResponseType::Unauthorized
        } else {
            ResponseType::TooManyRequests
        };
        assert_eq!(code(&answer[0]), expected);
    }
    let good = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    assert_eq!(code(&site.ask(0, 1000, &good)[0]), ResponseType::Changed);
    assert_eq!(site.events(ConnectionEvent::Moved), 0);
}

#[test]
fn creating_again_on_another_worker_kills_the_old_token_everywhere() {
    let mut site = Site::new(3);
    let old = site.create(0, 1000, "meter");
    let new = site.create(2, 2000, "meter");
    assert_eq!(
        site.workers
            .iter()
            .map(|worker| worker.connections.len())
            .sum::<usize>(),
        1
    );
    for (worker, port) in [(0, 1000), (1, 1500), (2, 2500)] {
        let dead = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &old);
        assert_eq!(
            code(&site.ask(worker, port, &dead)[0]),
            ResponseType::Unauthorized
        );
    }
    let live = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &new);
    assert_eq!(code(&site.ask(1, 1500, &live)[0]), ResponseType::Changed);
}
