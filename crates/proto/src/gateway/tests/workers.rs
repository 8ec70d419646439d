//! Connections that are used from several workers.

use super::*;
use crate::gateway::contract::Cursor;
use crate::gateway::workers::WorkerMessage;
use crate::types::reason::Limit;

#[test]
fn a_connection_serves_its_client_at_every_worker() {
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
            "AAAAAAAAAAAAAAAAAAAAAAAA",
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

/// A site whose worker 0 has the connection of `meter`, and its token.
fn with_meter(workers: u8) -> (Site, String) {
    let mut site = Site::new(workers);
    let token = site.create(0, 1000, "meter");
    (site, token)
}

/// Sends a datagram to a worker, and gives what that worker tells others.
fn forwarded(site: &mut Site, worker: usize, port: u16, request: &Packet) -> Vec<WorkerMessage> {
    let mut bytes = request.to_bytes().unwrap();
    let input = Input::Datagram {
        local: None,
        listener: ListenerId(0),
        from: ([127, 0, 0, 1], port).into(),
        bytes: &mut bytes,
    };
    site.workers[worker].handle(site.now, input);
    told(site, worker)
}

fn told(site: &mut Site, worker: usize) -> Vec<WorkerMessage> {
    let outputs = std::iter::from_fn(|| site.workers[worker].poll_output());
    let told = outputs.map(|output| match output {
        Output::Worker { message, .. } => message,
        other => panic!("{other:?}"),
    });
    told.collect()
}

#[test]
fn a_request_whose_worker_takes_nothing_in_is_answered_after_two_seconds() {
    let (mut site, token) = with_meter(2);
    let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    assert_eq!(forwarded(&mut site, 1, 2000, &heartbeat).len(), 1);
    let begun = site.now;
    while site.workers[1].forwarded.len() > 0 {
        site.now = site.workers[1].poll_timeout().unwrap();
        site.workers[1].handle_timeout(site.now);
        told(&mut site, 1);
    }
    let waited = site.now - begun;
    assert!((2.0..2.6).contains(&waited.as_secs_f64()), "{waited:?}");
    let answers: Vec<_> = site.sent(1, 2000);
    assert_eq!(code(answers.last().unwrap()), ResponseType::ServiceUnavailable);
}

#[test]
fn a_request_that_its_worker_took_in_waits_as_long_as_the_broker_takes() {
    let (mut site, token) = with_meter(2);
    site.held = Some(Vec::new());
    let mut observe = site.credentialed(RequestType::Get, "ps/t", "meter", &token);
    observe.set_observe_value(0);
    assert_eq!(site.ask(1, 2000, &observe), []);
    site.pass(Duration::from_secs(20));
    let empty = site.sent(1, 2000);
    assert!(
        empty
            .iter()
            .all(|packet| packet.header.code == MessageClass::Empty)
    );
    for (worker, event) in site.held.take().unwrap() {
        site.workers[worker].handle(site.now, Input::Broker(event));
    }
    site.settle();
    assert_eq!(code(&site.sent(1, 2000)[0]), ResponseType::Content);
}

#[test]
fn a_request_that_finds_the_way_to_its_worker_full_is_answered_at_once() {
    let (mut site, token) = with_meter(2);
    let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    let message = forwarded(&mut site, 1, 2000, &heartbeat).remove(0);
    assert!(message.may_be_refused());
    site.workers[1].handle(site.now, Input::Refused(message));
    assert_eq!(code(&site.sent(1, 2000)[0]), ResponseType::ServiceUnavailable);
    assert_eq!(site.metrics[1].limits.get(Limit::Channel), 1);
    assert_eq!(site.workers[1].forwarded.len(), 0);
}

#[test]
fn what_is_on_its_way_to_other_workers_is_bounded() {
    let mut settings = settings(2);
    // A quarter of it for those who have not proved their address.
    settings.caps.pending_requests = 160;
    let mut site = Site::with(settings);
    let token = site.create(0, 1000, "meter");
    for n in 0..50 {
        let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
        let passed = forwarded(&mut site, 1, 2000 + n, &heartbeat).len();
        assert_eq!(passed, usize::from(n < 40));
        let refused = site.sent(1, 2000 + n);
        assert_eq!(refused.len(), usize::from(n >= 40));
        assert!(
            refused
                .iter()
                .all(|answer| code(answer) == ResponseType::ServiceUnavailable)
        );
    }
}

#[test]
fn a_worker_that_stops_answers_what_it_had_handed_on() {
    let (mut site, token) = with_meter(2);
    let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    forwarded(&mut site, 1, 2000, &heartbeat);
    let request = ControlRequest::Drain { goodbye: true };
    site.workers[1].handle(site.now, Input::Control { ticket: 1, request });
    assert_eq!(code(&site.sent(1, 2000)[0]), ResponseType::ServiceUnavailable);
}

#[test]
fn pings_at_another_worker_keep_a_connection_and_silence_there_ends_it() {
    let (mut site, token) = with_meter(2);
    let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    assert_eq!(code(&site.ask(1, 2000, &heartbeat)[0]), ResponseType::Changed);
    for _ in 0..20 {
        site.pass(Duration::from_secs(13));
        let mut ping = Packet::new();
        ping.header.set_type(MessageType::Confirmable);
        ping.header.code = MessageClass::Empty;
        ping.header.message_id = site.next_mid;
        site.next_mid += 1;
        site.ask(1, 2000, &ping);
    }
    assert_eq!(site.workers[0].connections.len(), 1);
    site.pass(Duration::from_secs(53));
    assert_eq!(site.events(ConnectionEvent::Expired), 1);
    assert!(site.workers.iter().all(|worker| worker.connections.len() == 0));
}

#[test]
fn a_flood_of_pings_is_not_passed_on() {
    let (mut site, token) = with_meter(2);
    let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    site.ask(1, 2000, &heartbeat);
    let mut news = 0;
    for mid in 0..500 {
        let mut ping = Packet::new();
        ping.header.set_type(MessageType::Confirmable);
        ping.header.code = MessageClass::Empty;
        ping.header.message_id = mid;
        news += forwarded(&mut site, 1, 2000, &ping).len();
    }
    assert_eq!(news, 1);
}

#[test]
fn a_reset_at_another_worker_ends_the_observation() {
    let (mut site, token) = with_meter(2);
    let mut observe = site.credentialed(RequestType::Get, "ps/t", "meter", &token);
    observe.set_observe_value(0);
    assert_eq!(code(&site.ask(1, 2000, &observe)[0]), ResponseType::Content);
    site.publish(&Site::message("t", b"x"));
    let mut reset = acknowledgement(&site.sent(1, 2000)[0]);
    reset.header.set_type(MessageType::Reset);
    site.ask(1, 2000, &reset);
    assert_eq!(site.workers[0].observations.len(), 0);
    assert!(site.subscriptions.is_empty());
}

#[test]
fn an_operator_sees_and_ends_a_client_of_another_worker_where_its_connection_is() {
    let (mut site, token) = with_meter(2);
    let mut observe = site.credentialed(RequestType::Get, "ps/t", "meter", &token);
    observe.set_observe_value(0);
    site.ask(1, 2000, &observe);
    let client = crate::types::ClientId::new("meter").unwrap();
    let show = || ControlRequest::Show {
        client: client.clone(),
    };
    assert!(matches!(site.control(1, show()), ControlAnswer::NotFound));
    let ControlAnswer::Client(info, observations) = site.control(0, show()) else {
        panic!("it is there");
    };
    assert_eq!(info.address.unwrap().to_string(), "127.0.0.1:2000");
    assert_eq!((info.observations, observations.len()), (1, 1));
    let places = 100;
    for (worker, wanted) in [(0, 1), (1, 0)] {
        let mut from = Some(Cursor::Connections(None));
        let mut seen = 0;
        while let Some(cursor) = from {
            let page = ControlRequest::Page { from: cursor, places };
            let ControlAnswer::Page { clients, next } = site.control(worker, page) else {
                panic!("a page");
            };
            seen += clients.iter().filter(|client| client.client.is_some()).count();
            from = next;
        }
        assert_eq!(seen, wanted, "worker {worker}");
    }
    let kick = ControlRequest::Kick {
        client: client.clone(),
    };
    assert!(matches!(site.control(0, kick), ControlAnswer::Done));
    site.publish(&Site::message("t", b"after"));
    assert_eq!(site.sent(1, 2000), []);
    let dead = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
    assert_eq!(code(&site.ask(1, 2000, &dead)[0]), ResponseType::Unauthorized);
}

#[test]
fn a_token_of_a_larger_site_is_answered_here() {
    let (mut site, _) = with_meter(3);
    for first in ["AA", "AD", "D_", "__", "a*", "=="] {
        let foreign = format!("{first}AAAAAAAAAAAAAAAAAAAAAA");
        let request = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &foreign);
        let answer = site.ask(1, 2000, &request).remove(0);
        assert!(matches!(
            code(&answer),
            ResponseType::Unauthorized | ResponseType::TooManyRequests
        ));
    }
}

#[test]
fn a_client_that_comes_again_at_another_worker_is_told_once_as_gone_and_as_taken_over() {
    let mut site = Site::new(4);
    site.create(0, 1000, "meter");
    site.create(3, 2000, "meter");
    let told: Vec<_> = site
        .events
        .iter()
        .map(|event| {
            (
                event.kind,
                event.reason,
                event.address.map(|at| at.socket_addr().port()),
            )
        })
        .collect();
    let replaced = Some("replaced");
    for (wanted, times) in [
        ((EventKind::Connected, None, Some(1000)), 1),
        ((EventKind::Connected, None, Some(2000)), 1),
        ((EventKind::TakenOver, replaced, Some(1000)), 1),
        ((EventKind::Disconnected, replaced, Some(1000)), 1),
    ] {
        assert_eq!(
            told.iter().filter(|event| **event == wanted).count(),
            times,
            "{told:?}"
        );
    }
    assert_eq!(told.len(), 4, "{told:?}");
}
