//! Every step against overload, begun by each thing that may run short and ended again.

use super::*;
use crate::gateway::metrics::PublishResult;
use crate::policy::overload::Step;
use crate::types::reason::{DropReason, Label as _, Limit};

/// The steps against what everything needs, each with a little more than the pressure at which it begins.
const HOUSE: [(Step, f64); 4] = [
    (Step::ShortIdle, 0.61),
    (Step::NoUnproven, 0.76),
    (Step::NoQos0, 0.86),
    (Step::RefuseAll, 0.96),
];

/// The steps against a spool that fills.
const SPOOL: [(Step, f64); 2] = [(Step::NoQos0, 0.86), (Step::NoPublish, 0.96)];

fn connectionless() -> Site {
    let mut settings = settings(1);
    settings.connection_required = false;
    Site::with(settings)
}

fn held(site: &Site) -> Vec<Step> {
    let is_held = |step: &Step| site.metrics[0].overload.get(*step) == 1;
    Step::ALL.iter().copied().filter(is_held).collect()
}

fn tell(site: &mut Site, memory: f64, spool: f64) {
    let request = ControlRequest::Pressure { memory, spool };
    site.workers[0].handle(site.now, Input::Control { ticket: 1, request });
    while site.workers[0].poll_output().is_some() {}
    site.pass(Duration::from_secs(1));
}

/// Raises the pressure to each step and lets it fall again; `press` sets it and lets a reading be taken.
fn each_step_begins_and_ends(site: &mut Site, steps: &[(Step, f64)], mut press: impl FnMut(&mut Site, f64)) {
    let names: Vec<Step> = steps.iter().map(|(step, _)| *step).collect();
    for (level, (_, begin)) in steps.iter().enumerate() {
        press(site, *begin);
        assert_eq!(held(site), names[..=level], "at {begin}");
    }
    for (level, (_, begin)) in steps.iter().enumerate().rev() {
        press(site, begin - 0.03);
        press(site, begin - 0.03);
        press(site, begin - 0.03);
        assert_eq!(held(site), names[..=level], "held a little under its beginning");
        press(site, begin - 0.08);
        assert_eq!(held(site), names[..level], "ended");
    }
    assert!(site.metrics[0].pressure_millis.get() < 800);
}

#[test]
fn memory_begins_and_ends_each_step() {
    each_step_begins_and_ends(&mut connectionless(), &HOUSE, |site, pressure| {
        tell(site, pressure, 0.0);
    });
}

#[test]
fn the_spool_begins_and_ends_each_step() {
    each_step_begins_and_ends(&mut connectionless(), &SPOOL, |site, pressure| {
        tell(site, 0.0, pressure);
    });
}

#[test]
fn a_queue_that_stands_begins_and_ends_each_step() {
    let tolerable = Duration::from_millis(250);
    each_step_begins_and_ends(&mut connectionless(), &HOUSE, |site, pressure| {
        // Three readings in a row that are late by as much.
        for _ in 0..3 {
            site.pass(Duration::ZERO);
            site.now = site.workers[0].pressure.due + tolerable.mul_f64(pressure);
            site.workers[0].handle_timeout(site.now);
        }
    });
}

#[test]
fn strangers_with_connections_displace_each_other_and_begin_no_step() {
    let mut settings = settings(1);
    settings.caps.memory = 400_000;
    let mut site = Site::with(settings);
    site.create(0, 1000, "first");
    for port in 1001..1500 {
        // Past half of their share they are answered so that they can prove their address, and none of these does.
        let client = format!("clientid=c{port}");
        let request = site.request(RequestType::Post, "mqtt/connection", &[&client]);
        site.ask(0, port, &request);
        let gateway = &site.workers[0];
        assert!(gateway.connections.len() <= 100_000 / 768);
        assert_eq!(gateway.ledger.gives_way(), None);
    }
    site.pass(Duration::from_secs(2));
    assert!(!site.workers[0].pressure.refuses_all());
    let overload = &site.workers[0].metrics.overload;
    assert!(Step::ALL.iter().all(|step| overload.get(*step) == 0));
    let first = crate::types::ClientId::new("first").unwrap();
    assert!(site.workers[0].connections.of_client(&first).is_none());
    let limits = &site.workers[0].metrics.limits;
    assert!(limits.get(Limit::Memory) > 300, "{}", limits.get(Limit::Memory));
}

#[test]
fn a_full_memory_refuses_everything_and_says_when_to_try_again() {
    let mut settings = settings(1);
    settings.connection_required = false;
    let mut site = Site::with(settings);
    let publish = |site: &mut Site, port| {
        let request = site.request(RequestType::Post, "ps/x", &[]);
        site.ask(0, port, &request)
    };
    let tell = |site: &mut Site, memory| {
        let request = ControlRequest::Pressure { memory, spool: 0.0 };
        site.workers[0].handle(site.now, Input::Control { ticket: 1, request });
        while site.workers[0].poll_output().is_some() {}
        site.pass(Duration::from_secs(1));
    };
    assert_eq!(code(&publish(&mut site, 1)[0]), ResponseType::Changed);
    tell(&mut site, 0.99);
    let refused = publish(&mut site, 1);
    assert_eq!(code(&refused[0]), ResponseType::ServiceUnavailable);
    assert!(refused[0].get_first_option(CoapOption::MaxAge).is_some());
    for _ in 0..12 {
        tell(&mut site, 0.10);
    }
    assert_eq!(code(&publish(&mut site, 1)[0]), ResponseType::Changed);
}

#[test]
fn one_stall_of_the_machine_is_no_overload() {
    let mut settings = settings(1);
    settings.connection_required = false;
    let mut site = Site::with(settings);
    site.pass(Duration::from_secs(10));
    site.now += Duration::from_secs(30);
    site.workers[0].handle_timeout(site.now);
    let request = site.request(RequestType::Post, "ps/x", &[]);
    assert_eq!(code(&site.ask(0, 1, &request)[0]), ResponseType::Changed);
}

#[test]
fn the_first_step_shortens_how_long_silent_peers_are_known() {
    for (memory, known) in [(0.1, 1), (0.61, 0)] {
        let mut site = connectionless();
        let publish = site.request(RequestType::Post, "ps/x", &[]);
        site.ask(0, 1, &publish);
        tell(&mut site, memory, 0.0);
        site.pass(Duration::from_secs(200));
        assert_eq!(
            site.metrics[0].listeners[0].udp_peers.get(),
            known,
            "memory {memory}"
        );
    }
}

#[test]
fn the_third_step_refuses_qos_0_and_nothing_else() {
    let mut site = connectionless();
    tell(&mut site, 0.86, 0.0);
    let mut publish = |query: &str| {
        let request = site.request(RequestType::Post, "ps/x", &[query]);
        code(&site.ask(0, 1, &request)[0])
    };
    assert_eq!(publish("qos=0"), ResponseType::ServiceUnavailable);
    assert_eq!(publish("qos=1"), ResponseType::Changed);
    assert_eq!(site.metrics[0].limits.get(Limit::Overload), 1);
    tell(&mut site, 0.1, 0.0);
    tell(&mut site, 0.1, 0.0);
    tell(&mut site, 0.1, 0.0);
    let request = site.request(RequestType::Post, "ps/x", &["qos=0"]);
    assert_eq!(code(&site.ask(0, 1, &request)[0]), ResponseType::Changed);
}

#[test]
fn a_full_spool_refuses_what_is_to_be_published_and_nothing_else() {
    let mut site = Site::new(1);
    let token = site.create(0, 1000, "meter");
    tell(&mut site, 0.1, 0.96);
    let mut ask = |method, path| {
        let request = site.credentialed(method, path, "meter", &token);
        let answer = site.ask(0, 1000, &request).remove(0);
        let wait = answer.get_first_option(CoapOption::MaxAge).cloned();
        (code(&answer), wait)
    };
    let refused = (ResponseType::ServiceUnavailable, Some(vec![10]));
    for method in [RequestType::Post, RequestType::Put, RequestType::Delete] {
        assert_eq!(ask(method, "ps/x"), refused, "{method:?}");
    }
    assert_eq!(ask(RequestType::Put, "mqtt/connection").0, ResponseType::Changed);
    assert_eq!(ask(RequestType::Get, "ps/x").0, ResponseType::NotFound);
    assert_eq!(ask(RequestType::Get, ".well-known/core").0, ResponseType::Content);
    assert_eq!(
        ask(RequestType::Delete, "mqtt/connection").0,
        ResponseType::Deleted
    );
    assert_eq!(site.metrics[0].limits.get(Limit::Overload), 3);
    assert_eq!(site.metrics[0].publishes.get(PublishResult::Unavailable), 3);
    let token = site.create(0, 1000, "meter");
    let mut observe = site.credentialed(RequestType::Get, "ps/x", "meter", &token);
    observe.set_observe_value(0);
    assert_eq!(code(&site.ask(0, 1000, &observe)[0]), ResponseType::Content);
}

#[test]
fn heartbeats_keep_a_connection_through_a_spool_that_stays_full() {
    let mut site = Site::new(1);
    let token = site.create(0, 1000, "meter");
    for _ in 0..10 {
        tell(&mut site, 0.1, 1.0);
        site.pass(Duration::from_secs(29));
        let heartbeat = site.credentialed(RequestType::Put, "mqtt/connection", "meter", &token);
        assert_eq!(code(&site.ask(0, 1000, &heartbeat)[0]), ResponseType::Changed);
    }
    assert_eq!(site.workers[0].connections.len(), 1);
}

#[test]
fn who_has_not_proved_his_address_is_dropped_over_his_rate_and_who_has_is_not() {
    let mut settings = settings(1);
    settings.unproven_datagrams_per_second = 10;
    let mut site = Site::with(settings);
    let token = site.create(0, 1000, "honest");
    let heartbeat = |site: &mut Site| {
        let request = site.credentialed(RequestType::Put, "mqtt/connection", "honest", &token);
        site.ask(0, 1000, &request)
    };
    assert_eq!(code(&heartbeat(&mut site)[0]), ResponseType::Changed);
    site.prove_address(1000, "honest", &token);
    // From many ports of the same address: the rate is that of the address.
    let answered = (2000..2100)
        .filter(|port| {
            let request = site.request(RequestType::Get, "ps/x", &[]);
            !site.ask(0, *port, &request).is_empty()
        })
        .count();
    assert_eq!(
        answered, 6,
        "four were the honest client's, before it had proved its address"
    );
    assert_eq!(site.metrics[0].listeners[0].dropped.get(DropReason::Rate), 94);
    assert_eq!(site.metrics[0].limits.get(Limit::UnprovenRate), 94);
    assert_eq!(
        site.metrics[0].listeners[0].udp_peers.get(),
        7,
        "nothing is kept of them"
    );
    for _ in 0..100 {
        assert_eq!(code(&heartbeat(&mut site)[0]), ResponseType::Changed);
    }
}
