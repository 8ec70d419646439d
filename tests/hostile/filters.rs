//! Filters made to cost: deep, with as many wildcards as fit, and looking through everything that is retained.

use std::time::{Duration, Instant};

use crate::Noise;
use crate::support::{Client, Config, Gateway, Kind, Request, code, ms};

/// Two honest peers that were there before: one over plain UDP, one with a DTLS session.
struct Standing(Vec<Client>);

impl Standing {
    fn of(gateway: &Gateway) -> Self {
        Self(
            [Kind::Udp, Kind::Dtls]
                .map(|kind| gateway.client_as(kind, "dev2"))
                .into(),
        )
    }

    /// How long a publish takes in the middle of many, each peer's in turn, with `before` in front of every turn.
    #[track_caller]
    fn usual(&mut self, rounds: usize, mut before: impl FnMut(usize)) -> Duration {
        let mut took = vec![];
        for round in 0..rounds {
            before(round);
            for client in &mut self.0 {
                let begun = Instant::now();
                client.publish("ps/good/standing", "x");
                took.push(begun.elapsed());
            }
        }
        took.sort();
        took[took.len() / 2]
    }
}

/// Observes without waiting for the answer, as long as few are owed.
fn observe(client: &mut Client, path: &[&str]) {
    let request = path
        .iter()
        .fold(Request::get("ps"), |request, level| request.segment(level));
    let message = client.message(&request.non().observe(0));
    client.send(&message);
    client.recv(ms(2000));
}

fn quietly(config: Config) -> Gateway {
    Gateway::start(config.set("log", "level = \"warn\""))
}

#[test]
fn deep_filters_cost_what_they_weigh() {
    let gateway = quietly(Config::new());
    let mut standing = Standing::of(&gateway);
    standing.usual(10, |_| ());
    let before = gateway.rss_kib();
    // They keep their ports: who comes from the port of another with its tokens is that one.
    let mut crowd: Vec<Client> = (0..30).map(|_| gateway.client(Kind::Udp)).collect();
    for (peer, greedy) in crowd.iter_mut().enumerate() {
        for number in 0..128 {
            let own = format!("{peer}-{number}");
            // One in four is deeper than it may be.
            let levels = if number % 4 == 0 { 90 } else { 30 };
            let path: Vec<&str> = ["+", &own]
                .into_iter()
                .chain(std::iter::repeat_n("d", levels))
                .collect();
            observe(greedy, &path);
        }
    }
    // Each of the two workers has one of its own, for the topics of the collection.
    gateway.metric_becomes("broker_subscriptions", &[], f64::from(30 * 96 + 2));
    gateway.metric_becomes("limits_rejected_total", &["limit=\"topics\""], f64::from(30 * 32));
    let table = gateway.metric("broker_filter_bytes", &[]);
    assert!(table < 30.0 * 96.0 * 400.0, "{table} bytes in the table");
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more than before");
    standing.usual(10, |_| ());
    gateway.assert_serves();
}

#[test]
fn filters_of_one_word_at_random_do_not_stall_publishes() {
    let gateway = quietly(Config::new());
    let mut standing = Standing::of(&gateway);
    let mut noise = Noise(77);
    for _ in 0..60 {
        let mut greedy = gateway.client(Kind::Udp);
        for _ in 0..128 {
            let mut path: Vec<&str> = (0..31).map(|_| ["+", "a"][noise.below(2)]).collect();
            path.push("end");
            observe(&mut greedy, &path);
        }
    }
    let quiet = standing.usual(50, |_| ());
    let mut hostile = gateway.client(Kind::Udp);
    let path = (0..32).fold(Request::put("ps?qos=0"), |request, _| request.segment("a"));
    let busy = standing.usual(50, |_| {
        for _ in 0..4 {
            let message = hostile.message(&path.clone().non().payload("x"));
            hostile.send(&message);
        }
    });
    // A walk over every node that matches took seconds here.
    assert!(busy < quiet + ms(500), "{busy:?}, and {quiet:?} without");
    gateway.assert_serves();
}

#[test]
fn filters_that_look_through_all_that_is_retained_do_not_stall_publishes() {
    let gateway = quietly(Config::new());
    let mut standing = Standing::of(&gateway);
    let mut filler = gateway.client(Kind::Udp);
    for number in 0..4000 {
        filler.publish(&format!("ps/kept/{}/{number}?retain=1&qos=0", number % 13), "x");
    }
    let mut hostile: Vec<Client> = (0..4).map(|_| gateway.client(Kind::Udp)).collect();
    let quiet = standing.usual(50, |_| ());
    let busy = standing.usual(60, |round| {
        for client in &mut hostile {
            for filter in [format!("ps/+/+/x{round}"), "ps/#".into(), "ps/kept/+/+".into()] {
                let message = client.message(&Request::get(&filter).non().observe(0));
                client.send(&message);
            }
        }
    });
    assert!(busy < quiet + ms(1000), "{busy:?}, and {quiet:?} without");
    assert!(gateway.metric("retained_cut_total", &[]) >= 1.0);
    let mut late = gateway.client(Kind::Dtls);
    let narrow = late.observe("ps/kept/+/77");
    assert_eq!(narrow.first.text(), "x");
    late.request(&Request::get("ps/kept/+/77").observe(1))
        .expect(code::NO_CONTENT);
    gateway.assert_serves();
}
