//! Requests that are only meant now: Echo as a proof of freshness (RFC 9175, 2.4).

use std::time::Duration;

use crate::each_transport;
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option};

each_transport!(
    a_publish_that_is_meant_now_brings_the_echo_that_it_is_asked_for,
    where_a_listener_wants_it_all_that_changes_something_is_fresh,
    an_echo_that_is_too_old_or_anothers_is_asked_for_again,
    the_blocks_of_a_fresh_body_go_on_with_its_echo,
);

/// The Echo value that a refused request is to bring.
fn wanted(answer: Message) -> Vec<u8> {
    let answer = answer.expect(code::UNAUTHORIZED);
    answer.option(option::ECHO).expect("an Echo option").to_vec()
}

/// Sends it with the Echo values that it is asked for until it is done; however slow the machine is, one comes in time.
fn fresh(client: &mut Client, request: &Request) -> Message {
    let mut answer = client.request(request);
    for _ in 0..100 {
        if answer.code != code::UNAUTHORIZED {
            break;
        }
        let echo = wanted(answer);
        answer = client.request(&request.clone().option(option::ECHO, &echo));
    }
    answer
}

fn a_publish_that_is_meant_now_brings_the_echo_that_it_is_asked_for(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let (mut client, mut observer) = (gateway.client(kind), gateway.client(kind));
    let observation = observer.observe("ps/valve?qos=1");
    let open = Request::put("ps/valve?fresh=1").payload("open");
    let echo = wanted(client.request(&open));
    observer.no_notification(&observation.token, ms(100));
    let open = open.option(option::ECHO, &echo);
    client.request(&open).expect(code::CHANGED);
    assert_eq!(observer.notification(&observation.token).text(), "open");
    // The value is good for a while, and for this client alone.
    client.request(&open).expect(code::CHANGED);
    observer.notification(&observation.token);
    let mut other = gateway.client(kind);
    wanted(other.request(&open));
    client.publish("ps/valve?fresh=0", "shut");
    assert_eq!(observer.notification(&observation.token).text(), "shut");
    let bad = client.request(&Request::put("ps/valve?fresh=maybe").payload("x"));
    bad.expect(code::BAD_REQUEST).naming("fresh");
    gateway.metric_becomes("stale_requests_total", &[], 2.0);
}

fn where_a_listener_wants_it_all_that_changes_something_is_fresh(kind: Kind) {
    let key = "fresh_requests = \"1h\"";
    let gateway = Gateway::start(Config::new().udp(key).dtls(key));
    let mut client = gateway.client(kind);
    client.observe("ps/a");
    fresh(&mut client, &Request::put("ps/a?retain=1").payload("1")).expect(code::CHANGED);
    assert_eq!(client.read("ps/a"), b"1");
    let mut other = gateway.client(kind);
    wanted(other.request(&Request::delete("ps/a")));
    // {0: "t", 2: "core.ps.data"}
    let topic = b"\xa2\x00\x61t\x02\x6ccore.ps.data";
    wanted(other.request(&Request::post("ps").payload(topic)));
    fresh(&mut other, &Request::delete("ps/a")).expect(code::DELETED);
    gateway.metric_becomes("topics", &[], 0.0);
}

fn an_echo_that_is_too_old_or_anothers_is_asked_for_again(kind: Kind) {
    let key = "fresh_requests = \"1s\"";
    let gateway = Gateway::start(Config::new().udp(key).dtls(key));
    let mut client = gateway.client(kind);
    let request = Request::put("ps/a").payload("1");
    let first = wanted(client.request(&request));
    std::thread::sleep(Duration::from_millis(1_100));
    let late = request.clone().option(option::ECHO, &first);
    let second = wanted(client.request(&late));
    assert_ne!(first, second);
    for forged in [&[0; 8][..], b"short", &first] {
        wanted(client.request(&request.clone().option(option::ECHO, forged)));
    }
    fresh(&mut client, &request).expect(code::CHANGED);
}

fn the_blocks_of_a_fresh_body_go_on_with_its_echo(kind: Kind) {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(kind);
    let block = |number: u32| {
        let request = Request::put("ps/long?fresh=1&retain=1").block1(number, number < 2, 64);
        request.payload([b'a' + u8::try_from(number).unwrap(); 64])
    };
    client.request(&block(0)).expect(code::CONTINUE);
    client.request(&block(1)).expect(code::CONTINUE);
    let echo = wanted(client.request(&block(2)));
    for number in 0..2 {
        let block = block(number).option(option::ECHO, &echo);
        client.request(&block).expect(code::CONTINUE);
    }
    client
        .request(&block(2).option(option::ECHO, &echo))
        .expect(code::CHANGED);
    assert_eq!(client.read("ps/long").len(), 192);
}
