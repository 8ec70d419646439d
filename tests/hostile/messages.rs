//! Options and tokens of any size; too many transfers, observations, connections.

use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option, typ};

#[test]
fn token_lengths_9_to_15_and_huge_options() {
    let gateway = Gateway::start(Config::new());
    for kind in [Kind::Udp, Kind::Dtls] {
        let mut client = gateway.client(kind);
        let most = if kind == Kind::Udp { 60_000 } else { 15_000 };
        for length in 9..=15 {
            for body in [0, 1, 8, 15, 100] {
                let id = client.next_id();
                let head = [0x40 | length, 1, id.to_be_bytes()[0], id.to_be_bytes()[1]];
                client.send_raw(&[&head[..], &vec![7; body]].concat());
                assert_eq!(client.recv(ms(5000)), Some(Message::empty(typ::RST, id)));
            }
        }
        for request in [
            Request::post("ps/a").option(65_000, &vec![1; most]),
            Request::post("ps/a").query(vec![b'q'; most]),
            Request::post("ps").segment(vec![b's'; most]),
            Request::post("ps/a").option(option::ETAG, &vec![1; most]),
            Request::post("ps/a").option(option::OBSERVE, &vec![1; most]),
            Request::post("ps/a").option(option::BLOCK1, &vec![1; most]),
            Request::post("ps/a").option(option::CONTENT_FORMAT, &vec![1; most]),
            Request::post("ps/a").option(option::REQUEST_TAG, &vec![1; most]),
            Request::post("ps/a").option(option::ECHO, &vec![1; most]),
            Request::post("ps/a").option(option::NO_RESPONSE, &[0, 0, 0, 0, 0]),
        ] {
            // Which answer is for the RFC to say of each; that there is one, or an RST, is what counts here.
            let answer = client.request(&request.payload("x"));
            assert!(answer.typ == typ::RST || answer.code >> 5 >= 2, "{answer:?}");
        }
        let mut many = Request::post("ps/a").payload("x");
        for i in 0..4000 {
            many = many.query(format!("x{i}"));
        }
        many.options.truncate(most / 7);
        client.request(&many);
        let mut deep = Request::post("ps").payload("x");
        for _ in 0..most / 2 {
            deep = deep.segment("a");
        }
        client.request(&deep);
    }
    gateway.assert_serves();
}

#[test]
fn uploads_that_never_end_are_capped() {
    let config = Config::new().set("log", "level = \"warn\"");
    let gateway = Gateway::start(config.set("limits", "memory = \"8MiB\""));
    let before = gateway.rss_kib();
    for kind in [Kind::Udp, Kind::Dtls] {
        let mut greedy = gateway.client(kind);
        for i in 0..1500_u32 {
            let request = Request::post("ps/a")
                .block1(0, true, 1024)
                .option(option::REQUEST_TAG, &i.to_be_bytes())
                .payload([7; 1024]);
            let answer = greedy.request(&request);
            let refused = [code::UNAVAILABLE, code::TOO_MANY_REQUESTS, code::TOO_LARGE];
            assert!(
                answer.code == code::CONTINUE || refused.contains(&answer.code),
                "{answer:?}"
            );
        }
    }
    assert!(
        gateway.metric("limits_rejected_total", &["limit=\"transfers\""]) >= 1.0,
        "{}",
        gateway.metrics()
    );
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more than before");
    for kind in [Kind::Udp, Kind::Dtls] {
        let mut good = gateway.client(kind);
        let body = vec![b'g'; 150];
        for num in 0..3 {
            let block = &body[num * 64..150.min(num * 64 + 64)];
            let number = u32::try_from(num).unwrap();
            let answer = good.request(
                &Request::post("ps/good?retain=1")
                    .block1(number, num < 2, 64)
                    .payload(block),
            );
            answer.expect(if num < 2 { code::CONTINUE } else { code::CHANGED });
        }
        assert_eq!(good.read("ps/good"), body);
    }
    gateway.assert_serves();
}

#[test]
fn observations_without_end_are_capped() {
    let gateway = Gateway::start(Config::new().set("log", "level = \"warn\""));
    let before = gateway.rss_kib();
    for i in 0..12 {
        let mut greedy = gateway.client(if i % 3 == 0 { Kind::Dtls } else { Kind::Udp });
        for j in 0..200 {
            let answer = greedy.request(&Request::get(&format!("ps/x/{i}/{j}/+/#")).observe(0));
            assert!(answer.code >> 5 >= 2, "{answer:?}");
        }
    }
    assert!(gateway.metric("limits_rejected_total", &["limit=\"observations\""]) >= 12.0);
    assert!(gateway.metric("subscriptions", &[]) < 12.0 * 200.0);
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more than before");
    gateway.assert_serves();
}

#[test]
fn a_requests_rate_is_limited_for_its_client_only() {
    let gateway = Gateway::start(Config::new().set("limits", "requests_per_second = 20"));
    for kind in [Kind::Udp, Kind::Dtls] {
        let mut greedy = gateway.client_as(kind, "dev2");
        let answers: Vec<Message> = (0..100)
            .map(|_| greedy.request(&Request::post("ps/a").payload("x")))
            .collect();
        let refused: Vec<&Message> = answers
            .iter()
            .filter(|answer| answer.code != code::CHANGED)
            .collect();
        assert!(refused.len() >= 30, "{} of 100", refused.len());
        for answer in refused {
            assert_eq!(answer.status(), "4.29");
            assert!(answer.uint(option::MAX_AGE).is_some(), "{answer:?}");
        }
        let mut good = gateway.client_as(kind, "dev1");
        good.publish("ps/a", "x");
        std::thread::sleep(ms(1100));
        greedy.publish("ps/a", "later");
    }
    gateway.assert_serves();
}

#[test]
fn many_peers_come_and_go() {
    let gateway = Gateway::start(Config::new().set("log", "level = \"warn\""));
    let before = gateway.rss_kib();
    for _ in 0..2000 {
        let mut passing: Client = gateway.client(Kind::Udp);
        let message = passing.message(&Request::get("ps/a"));
        passing.send(&message);
    }
    for _ in 0..100 {
        gateway.client(Kind::Dtls).publish("ps/a", "x");
    }
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB more than before");
    gateway.assert_serves();
}
