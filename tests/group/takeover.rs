//! Sessions of a node that died, gone on from at another: with `keep = "group"`.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use super::engine::{PASSWORD, Redis};
use super::nodes::{self, Node};
use super::roaming::{Balancer, Roaming};
use super::support::{Client, Config, Kind, Request, ms, wait_until};

fn config() -> Config {
    Config::new()
        .set("group", "lease = \"1s\"")
        .set("state", "keep = \"group\"")
}

/// Nodes that know each other, and the engine for longer than two leases.
fn start<const N: usize>(redis: &Redis, names: [&str; N]) -> [Node; N] {
    let nodes = names.map(|name| nodes::start(redis, name, config()));
    for node in &nodes {
        node.metric_becomes("group_nodes", &[], N as f64);
    }
    settle();
    nodes
}

/// Nobody takes over in the first two leases with a server of the engine.
fn settle() {
    std::thread::sleep(Duration::from_millis(3500));
}

fn handshakes(node: &Node) -> f64 {
    node.metric("dtls_handshakes_total", &["result=\"ok\""])
}

/// Stops a process, or lets it go on.
fn signal(node: &Node, which: &str) {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{which}")).arg(node.pid().to_string());
    assert!(kill.status().unwrap().success());
}

fn looked_up(node: &Node, result: &str) -> f64 {
    node.metric("group_lookups_total", &[&format!("result={result:?}")])
}

/// What a node has is where the group sees it.
fn shown(node: &Node, records: f64) {
    wait_until("kept state is where the group sees it", || {
        node.metric("group_state_records", &[]) >= records
    });
    // The words of a record that change with each packet are looked at once a second.
    std::thread::sleep(ms(1500));
}

/// A device, and what leads it to a node.
fn device_at(node: &Node) -> (Balancer, Client) {
    let balancer = Balancer::to(node.dtls_addr());
    let device = Client::over(Box::new(Roaming::through(&balancer, false)));
    (balancer, device)
}

/// Two nodes of which the first stands still, and the second has the device's session and acted on its request.
fn taken_from_one_that_stands_still(redis: &Redis) -> ([Node; 2], Balancer, Client) {
    let nodes = start(redis, ["a", "b"]);
    let (balancer, mut device) = device_at(&nodes[0]);
    device.publish("ps/door", "1");
    shown(&nodes[0], 1.0);
    signal(&nodes[0], "STOP");
    nodes[1].metric_becomes("group_nodes", &[], 1.0);
    balancer.lead(nodes[1].dtls_addr());
    device.publish("ps/door", "2");
    (nodes, balancer, device)
}

fn dies(nodes: &mut [Node], at: usize, other: usize) {
    nodes[at].gateway.kill();
    nodes[other].metric_becomes("group_nodes", &[], (nodes.len() - 1) as f64);
}

#[test]
fn a_session_of_a_node_that_died_goes_on_at_another_with_its_observation_and_without_a_handshake() {
    let redis = Redis::start();
    let mut nodes = start(&redis, ["a", "b"]);
    let (balancer, mut device) = device_at(&nodes[0]);
    let observation = device.observe("ps/valve");
    device.publish("ps/valve", "1");
    assert_eq!(device.notification(&observation.token).text(), "1");
    shown(&nodes[0], 2.0);
    let stands = redis.dump();
    assert!(
        stands.contains(":s:") && !stands.contains("dev1") && !stands.contains("valve"),
        "{stands}"
    );
    balancer.lead(nodes[1].dtls_addr());
    dies(&mut nodes, 0, 1);
    // Its records are repeated until the other node has the session, and until the device has shown that it lives.
    device.publish("ps/valve", "2");
    wait_until("it was taken over", || looked_up(&nodes[1], "taken") == 1.0);
    assert_eq!(device.notification(&observation.token).text(), "2");
    for n in 3..8 {
        device.publish("ps/valve", n.to_string());
        assert_eq!(device.notification(&observation.token).text(), n.to_string());
    }
    let restored = ["how=\"group\"", "result=\"ok\""];
    assert_eq!(nodes[1].metric("sessions_restored_total", &restored), 1.0);
    assert_eq!(nodes[1].metric("observations_restored_total", &restored), 1.0);
    assert_eq!(handshakes(&nodes[1]), 0.0);
    // Others publish too.
    nodes[1].client(Kind::Udp).publish("ps/valve", "other");
    assert_eq!(device.notification(&observation.token).text(), "other");
    nodes[1].assert_serves();
}

#[test]
fn a_record_that_a_dead_node_acted_on_is_not_acted_on_by_who_takes_over_nor_by_it_when_it_is_back() {
    let redis = Redis::start();
    let mut nodes = start(&redis, ["a", "b"]);
    let (balancer, mut device) = device_at(&nodes[0]);
    device.publish("ps/door", "unlock");
    let unlock = balancer.of_device().last().unwrap().clone();
    shown(&nodes[0], 1.0);
    balancer.lead(nodes[1].dtls_addr());
    dies(&mut nodes, 0, 1);
    let mut observer = nodes[1].client(Kind::Udp);
    let token = observer.observe("ps/door").token;
    // By whoever recorded it, before the device itself says anything. A forged one leads to nothing; one that is not known to have been
    // acted on may lead to the session, and is not acted on.
    let replayer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut forged = unlock.clone();
    *forged.last_mut().unwrap() ^= 1;
    replayer.send_to(&forged, nodes[1].dtls_addr()).unwrap();
    wait_until("it was looked for", || {
        looked_up(&nodes[1], "not_authentic") == 1.0
    });
    assert_eq!(looked_up(&nodes[1], "taken"), 0.0);
    replayer.send_to(&unlock, nodes[1].dtls_addr()).unwrap();
    observer.no_notification(&token, ms(500));
    device.publish("ps/door", "lock");
    assert_eq!(observer.notification(&token).text(), "lock");
    let lock = balancer.of_device();
    for record in lock.iter().chain([&unlock, &forged]) {
        replayer.send_to(record, nodes[1].dtls_addr()).unwrap();
    }
    observer.no_notification(&token, ms(500));
    // The node is back with the memory of before: what it had is another's.
    nodes[0].gateway.launch();
    nodes[1].metric_becomes("group_nodes", &[], 2.0);
    wait_until("it let go", || {
        nodes[0].metric("group_state_lost_total", &[]) >= 1.0
    });
    for record in &lock {
        replayer.send_to(record, nodes[0].dtls_addr()).unwrap();
    }
    observer.no_notification(&token, ms(500));
    // By either way the device reaches its session, which is at one of them.
    balancer.lead(nodes[0].dtls_addr());
    device.publish("ps/door", "again");
    assert_eq!(observer.notification(&token).text(), "again");
    balancer.lead(nodes[1].dtls_addr());
    device.publish("ps/door", "and again");
    assert_eq!(observer.notification(&token).text(), "and again");
    // That of the device, before the kill, is forgotten with the process.
    assert_eq!(nodes.iter().map(handshakes).collect::<Vec<_>>(), [0.0, 0.0]);
    for node in &nodes {
        node.assert_serves();
    }
}

#[test]
fn a_request_that_was_on_its_way_when_its_node_died_is_answered_when_it_is_repeated() {
    let redis = Redis::start();
    let mut nodes = start(&redis, ["a", "b"]);
    let (balancer, mut device) = device_at(&nodes[0]);
    device.publish("ps/a?retain=true", "before");
    shown(&nodes[0], 1.0);
    nodes[0].gateway.kill();
    balancer.lead(nodes[1].dtls_addr());
    // The first copies find a node that has no business with it yet.
    device.publish("ps/a?retain=true", "outstanding");
    assert_eq!(device.read("ps/a"), b"outstanding");
    assert_eq!(handshakes(&nodes[1]), 0.0);
    nodes[1].assert_serves();
}

#[test]
fn without_the_engine_nothing_is_taken_over_and_a_node_serves_what_it_has() {
    let mut redis = Redis::start();
    let mut nodes = start(&redis, ["a", "b"]);
    let (balancer, mut device) = device_at(&nodes[0]);
    let (_of_b, mut other) = device_at(&nodes[1]);
    device.publish("ps/a", "1");
    let token = other.observe("ps/b").token;
    other.publish("ps/b", "1");
    assert_eq!(other.notification(&token).text(), "1");
    shown(&nodes[0], 1.0);
    shown(&nodes[1], 2.0);
    redis.running.stop();
    wait_until("the lease of b is over", || {
        nodes[1].metric("group_lease", &["state=\"lost\""]) == 1.0
    });
    nodes[0].gateway.kill();
    balancer.lead(nodes[1].dtls_addr());
    let put = Request::post("ps/a").payload("x");
    assert!(device.try_request(&put, ms(3000)).is_none());
    assert_eq!(looked_up(&nodes[1], "taken"), 0.0);
    // Its own: the device shows once that it lives, and goes on.
    for n in 2..5 {
        other.publish("ps/b", n.to_string());
        assert_eq!(other.notification(&token).text(), n.to_string());
    }
    nodes[1].assert_serves();
    redis.up();
    nodes[1].metric_becomes("group_lease", &["state=\"held\""], 1.0);
    // An engine that came back may have forgotten who lives: nobody takes over for two leases, and then somebody does.
    wait_until("the session goes on", || {
        device.try_request(&put, ms(2500)).is_some() || looked_up(&nodes[1], "unknown") > 0.0
    });
    assert_eq!(looked_up(&nodes[1], "unknown"), 0.0);
    other.publish("ps/b", "after");
    assert_eq!(other.notification(&token).text(), "after");
    nodes[1].assert_serves();
}

#[test]
fn a_node_that_stood_still_while_another_took_over_lets_go_before_it_acts_on_anything() {
    let redis = Redis::start();
    let (nodes, balancer, mut device) = taken_from_one_that_stands_still(&redis);
    let acted_on = balancer.of_device();
    let published = nodes[1].metric("publishes_total", &[]);
    // What the other node acted on waits at this one when it goes on.
    let replayer = UdpSocket::bind("127.0.0.1:0").unwrap();
    for record in &acted_on {
        replayer.send_to(record, nodes[0].dtls_addr()).unwrap();
    }
    signal(&nodes[0], "CONT");
    wait_until("it let go", || {
        nodes[0].metric("group_state_lost_total", &[]) >= 1.0
    });
    assert_eq!(nodes[0].metric("publishes_total", &[]), 1.0);
    assert_eq!(nodes[1].metric("publishes_total", &[]), published);
    device.publish("ps/door", "3");
    for node in &nodes {
        node.assert_serves();
    }
}

#[test]
fn the_end_of_a_session_where_it_was_taken_over_holds_for_the_node_that_had_it() {
    let redis = Redis::start();
    let (nodes, _balancer, _device) = taken_from_one_that_stands_still(&redis);
    shown(&nodes[1], 1.0);
    let (status, body) = nodes[1].ask("DELETE", "clients/dev1", "Portcullis-Scope: local\r\n", "");
    assert!((200..300).contains(&status), "{status} {body}");
    wait_until("its end is known", || redis.dump().contains("ended"));
    signal(&nodes[0], "CONT");
    wait_until("it let go", || {
        nodes[0].metric("group_state_lost_total", &[]) >= 1.0
    });
    let stands = redis.dump();
    assert!(stands.contains("ended") && !stands.contains("root"), "{stands}");
    for node in &nodes {
        node.assert_serves();
    }
}

#[test]
fn an_engine_that_lost_everything_or_has_something_else_there_has_all_again() {
    let redis = Redis::start();
    let mut nodes = start(&redis, ["a", "b"]);
    let (balancer, mut device) = device_at(&nodes[0]);
    let token = device.observe("ps/valve").token;
    device.publish("ps/valve", "1");
    assert_eq!(device.notification(&token).text(), "1");
    shown(&nodes[0], 2.0);
    let bundle = redis.say("KEYS portcullis:{group}:s:*\n").trim().to_owned();
    let lose = "redis.call('FLUSHALL') return redis.call('SET', KEYS[1], 'strange')";
    redis.say(&format!("EVAL \"{lose}\" 1 {bundle}\n"));
    wait_until("it stands there again", || {
        redis.say(&format!("TYPE {bundle}\n")).trim() == "hash"
    });
    assert_eq!(nodes[0].metric("group_state_failures_total", &[]), 0.0);
    nodes[1].metric_becomes("group_nodes", &[], 2.0);
    balancer.lead(nodes[1].dtls_addr());
    dies(&mut nodes, 0, 1);
    device.publish("ps/valve", "2");
    assert_eq!(looked_up(&nodes[1], "taken"), 1.0);
    assert_eq!(device.notification(&token).text(), "2");
    assert_eq!(handshakes(&nodes[1]), 0.0);
    nodes[1].assert_serves();
}

#[test]
fn a_connection_goes_with_the_session_that_its_client_is_at() {
    let redis = Redis::start();
    let mut nodes = start(&redis, ["a", "b"]);
    let (balancer, mut device) = device_at(&nodes[0]);
    let token = device.create("meter-7");
    let observation = device.observe(&format!("ps/m?c=meter-7&t={token}"));
    shown(&nodes[0], 3.0);
    balancer.lead(nodes[1].dtls_addr());
    dies(&mut nodes, 0, 1);
    device.publish(&format!("ps/m?c=meter-7&t={token}"), "2");
    assert_eq!(device.notification(&observation.token).text(), "2");
    assert_eq!(
        nodes[1].metric("connections_total", &["result=\"restored\""]),
        1.0
    );
    assert_eq!(handshakes(&nodes[1]), 0.0);
    nodes[1].assert_serves();
}

#[test]
fn a_device_is_led_to_who_took_its_session_over_by_any_node_while_the_first_one_is_back() {
    let redis = Redis::start();
    let mut nodes = start(&redis, ["a", "b", "c"]);
    let (balancer, mut device) = device_at(&nodes[0]);
    device.publish("ps/a?retain=true", "1");
    shown(&nodes[0], 1.0);
    balancer.lead(nodes[1].dtls_addr());
    dies(&mut nodes, 0, 1);
    device.publish("ps/a?retain=true", "2");
    // A third one knows by the engine who has it.
    balancer.lead(nodes[2].dtls_addr());
    assert_eq!(device.read("ps/a"), b"2");
    assert_eq!(looked_up(&nodes[2], "taken"), 0.0);
    assert!(looked_up(&nodes[2], "forwarded") >= 1.0);
    // Its Connection ID names the first one, which has it no more, and knows who has.
    nodes[0].gateway.launch();
    nodes[2].metric_becomes("group_nodes", &[], 3.0);
    wait_until("it let go", || {
        nodes[0].metric("group_state_lost_total", &[]) >= 1.0
    });
    for at in [2, 0, 1, 2] {
        balancer.lead(nodes[at].dtls_addr());
        device.publish("ps/a?retain=true", at.to_string());
        assert_eq!(device.read("ps/a"), at.to_string().as_bytes(), "by {at}");
    }
    assert_eq!(nodes.iter().map(handshakes).collect::<Vec<_>>(), [0.0; 3]);
    for node in &nodes {
        node.assert_serves();
    }
}

#[test]
fn an_account_with_the_rights_that_the_page_names_is_enough_to_take_over() {
    let redis = Redis::start();
    let page = include_str!("../../docs/scale-out.md");
    let rights = page.split_once("```text group-account\n").unwrap().1;
    let rights = rights.split_once("```").unwrap().0;
    let said = redis.say(&rights.replace(">secret", &format!("\">{PASSWORD}\"")));
    assert_eq!(said.trim(), "OK");
    let url = format!("redis://gateway@127.0.0.1:{}", redis.port());
    let mut nodes = ["a", "b"].map(|name| {
        let mut node = nodes::prepare_at(&url, name, config());
        node.gateway.launch();
        node
    });
    nodes[0].metric_becomes("group_nodes", &[], 2.0);
    settle();
    let (balancer, mut device) = device_at(&nodes[0]);
    let token = device.create("meter-31");
    device.observe(&format!("ps/m?c=meter-31&t={token}"));
    shown(&nodes[0], 3.0);
    balancer.lead(nodes[1].dtls_addr());
    dies(&mut nodes, 0, 1);
    device.publish(&format!("ps/m?c=meter-31&t={token}"), "2");
    assert_eq!(looked_up(&nodes[1], "taken"), 1.0);
    assert_eq!(nodes[1].metric("group_state_failures_total", &[]), 0.0);
    assert!(
        !redis.say("ACL LOG\n").contains("gateway"),
        "something was not allowed"
    );
    nodes[1].assert_serves();
}
