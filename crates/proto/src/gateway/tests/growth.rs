//! What peers who come and go leave behind.

use super::super::cx;
use super::super::pending_requests::Awaited;
use super::*;
use crate::coap::contract::ObservationId;
use crate::gateway::settings::NotifyType;
use crate::policy::ledger::Table;
use crate::types::reason::{Label as _, Limit};
use crate::types::standing::Standing;

fn ping(site: &mut Site, port: u16) {
    let mut packet = Packet::new();
    packet.header.code = MessageClass::Empty;
    packet.header.set_type(MessageType::Confirmable);
    packet.header.message_id = site.next_mid;
    site.next_mid += 1;
    assert_eq!(
        site.ask(0, port, &packet)[0].header.get_type(),
        MessageType::Reset
    );
}

#[test]
fn observing_again_and_again_leaves_no_timer_for_what_was_replaced() {
    let mut settings = settings(1);
    settings.connection_required = false;
    let mut site = Site::with(settings);
    let before = site.workers[0].timers.len();
    for _ in 0..1000 {
        let mut observe = site.request(RequestType::Get, "ps/t", &[]);
        observe.set_observe_value(0);
        site.ask(0, 1000, &observe);
    }
    assert_eq!(site.workers[0].timers.len(), before + 1);
    let mut cancel = site.request(RequestType::Get, "ps/t", &[]);
    cancel.set_observe_value(1);
    site.ask(0, 1000, &cancel);
    assert_eq!(site.workers[0].timers.len(), before);
}

#[test]
fn connections_that_come_go_and_move_leave_no_timers() {
    let mut site = Site::new(2);
    let before: Vec<_> = site.workers.iter().map(|worker| worker.timers.len()).collect();
    for _ in 0..200 {
        site.create(0, 1000, "meter");
    }
    let token = site.create(1, 2000, "meter");
    for n in 0..200 {
        let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
        let (worker, port) = if n % 2 == 0 { (0, 1000) } else { (1, 2000) };
        let answer = site.ask(worker, port, &heartbeat);
        assert_eq!(code(&answer[0]), ResponseType::Changed);
    }
    site.pass(Duration::from_secs(1));
    let here: Vec<_> = site.workers.iter().map(|worker| worker.timers.len()).collect();
    assert_eq!(here.iter().sum::<usize>(), before.iter().sum::<usize>() + 1);
    let close = site.credentialed(RequestType::Delete, "mqtt/connection", "meter", &token);
    site.ask(1, 2000, &close);
    let after: Vec<_> = site.workers.iter().map(|worker| worker.timers.len()).collect();
    assert_eq!(after, before);
}

#[test]
fn a_ping_costs_no_more_where_many_connections_share_an_address() {
    let mut settings = settings(1);
    settings.heartbeat = Some(Duration::from_secs(3600));
    let mut site = Site::with(settings);
    let time = |site: &mut Site| {
        let begun = clock();
        for _ in 0..200 {
            ping(site, 1000);
        }
        clock().duration_since(begun)
    };
    site.create(0, 1000, "first");
    let one = time(&mut site);
    for n in 0..10_000 {
        site.create(0, 1000, &format!("c{n}"));
    }
    let many = time(&mut site);
    assert!(
        many < one * 20 + Duration::from_millis(50),
        "{one:?} with one connection, {many:?} with 10,001"
    );
}

#[test]
fn pings_and_nothing_else_keep_the_connections_of_their_address() {
    let mut site = Site::new(1);
    let tokens: Vec<_> = ["a", "b"].map(|client| site.create(0, 1000, client)).into();
    let elsewhere = site.create(0, 2000, "c");
    for _ in 0..10 {
        site.pass(Duration::from_secs(40));
        ping(&mut site, 1000);
    }
    assert_eq!(site.workers[0].connections.len(), 2);
    let late = site.credentialed(RequestType::Put, "mqtt/connection", "c", &elsewhere);
    assert_eq!(code(&site.ask(0, 2000, &late)[0]), ResponseType::Unauthorized);
    // From another address it has lived as long as its old one was heard of, and no longer.
    site.pass(Duration::from_secs(40));
    let moved = site.credentialed(RequestType::Put, "mqtt/connection", "a", &tokens[0]);
    assert_eq!(code(&site.ask(0, 3000, &moved)[0]), ResponseType::Changed);
    site.pass(Duration::from_secs(10));
    assert_eq!(
        site.workers[0].connections.len(),
        1,
        "b was not heard of for 50 s"
    );
    site.pass(Duration::from_secs(36));
    assert_eq!(site.workers[0].connections.len(), 0);
}

#[test]
fn a_request_that_is_refused_at_a_new_address_takes_back_no_ping_at_the_old_one() {
    let mut site = Site::new(1);
    let token = site.create(0, 1000, "meter");
    site.pass(Duration::from_secs(40));
    ping(&mut site, 1000);
    // Before the ping is seen by the connection's own timer.
    site.pass(Duration::from_secs(4));
    let refused = site.credentialed(RequestType::Put, "ps/t/+", "meter", &token);
    assert_eq!(code(&site.ask(0, 3000, &refused)[0]), ResponseType::BadRequest);
    site.pass(Duration::from_secs(40));
    assert_eq!(site.workers[0].connections.len(), 1, "the ping was 44 s ago");
    site.pass(Duration::from_secs(2));
    assert_eq!(site.workers[0].connections.len(), 0);
}

#[test]
fn a_request_that_is_refused_for_its_format_or_its_size_keeps_no_connection() {
    let mut site = Site::new(1);
    let token = site.create(0, 1000, "meter");
    let mut of_another_format = site.credentialed(RequestType::Post, "ps", "meter", &token);
    of_another_format.set_content_format(coap_lite::ContentFormat::TextPlain);
    of_another_format.payload = b"text".to_vec();
    let mut not_to_be_had = site.credentialed(RequestType::Get, "ps", "meter", &token);
    not_to_be_had.add_option(CoapOption::Accept, vec![50]);
    let mut too_large = site.credentialed(RequestType::Post, "ps", "meter", &token);
    too_large.payload = vec![0; 5000];
    for (request, refusal) in [
        (of_another_format, ResponseType::UnsupportedContentFormat),
        (not_to_be_had, ResponseType::NotAcceptable),
        (too_large, ResponseType::RequestEntityTooLarge),
    ] {
        site.pass(Duration::from_secs(14));
        assert_eq!(code(&site.ask(0, 1000, &request)[0]), refusal);
    }
    site.pass(Duration::from_secs(4));
    assert_eq!(site.workers[0].connections.len(), 0);
}

#[test]
fn who_finds_no_room_to_subscribe_is_counted() {
    let mut settings = settings(1);
    settings.connection_required = false;
    settings.caps.pending_requests = 4;
    let mut site = Site::with(settings);
    let gateway = &mut site.workers[0];
    for id in 1..=4 {
        let awaited = Awaited::Subscribe {
            reply: None,
            observation: ObservationId(id),
        };
        gateway
            .pending
            .wait(&mut cx!(gateway, site.now), awaited)
            .unwrap();
    }
    let mut observe = site.request(RequestType::Get, "ps/t", &[]);
    observe.set_observe_value(0);
    let answer = site.ask(0, 1000, &observe);
    assert_eq!(code(&answer[0]), ResponseType::ServiceUnavailable);
    assert_eq!(site.metrics[0].limits.get(Limit::PendingRequests), 1);
}

#[test]
fn the_last_messages_of_observations_are_weighed_and_bounded() {
    static LONG: [u8; 1_000] = [b'x'; 1_000];
    let mut settings = settings(1);
    settings.connection_required = false;
    settings.notify_type = NotifyType::Con;
    settings.caps.memory = 300_000;
    let mut site = Site::with(settings);
    let observe = |site: &mut Site, n: u8, value: u32| {
        let mut observe = site.request(RequestType::Get, &format!("ps/t/{n}"), &[]);
        observe.set_token(vec![n]);
        observe.set_observe_value(value);
        site.ask(0, 1000, &observe);
    };
    let tell = |site: &mut Site, n: u8, payload| {
        site.publish(&Site::message(&format!("t/{n}"), payload));
        for notification in site.sent(0, 1000) {
            site.ask(0, 1000, &acknowledgement(&notification));
        }
    };
    let weighed = |site: &Site| -> u64 {
        let by_standing = &site.workers[0].metrics.standing_bytes;
        let all = Standing::ALL.iter();
        all.map(|standing| by_standing.of(*standing).get(Table::Observations))
            .sum()
    };
    for n in 0..60 {
        observe(&mut site, n, 0);
        tell(&mut site, n, b"short");
    }
    let small = weighed(&site);
    for n in 0..60 {
        tell(&mut site, n, &LONG);
    }
    assert_eq!(site.workers[0].observations.len(), 60);
    let more = weighed(&site) - small;
    assert!(
        more > 0 && more % (1_000 - 256) == 0 && more < 60 * (1_000 - 256),
        "{more}"
    );
    assert!(site.workers[0].metrics.limits.get(Limit::Memory) > 0);
    for n in 0..60 {
        tell(&mut site, n, b"short");
    }
    assert_eq!(weighed(&site), small);
    for n in 0..60 {
        tell(&mut site, n, &LONG);
        observe(&mut site, n, 1);
    }
    assert_eq!((weighed(&site), site.workers[0].observations.len()), (0, 0));
}
