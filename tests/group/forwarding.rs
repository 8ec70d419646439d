//! A record that reaches another node than its session's: served where the session is, answered where the device hears it.

use std::net::{SocketAddr, UdpSocket};

use super::engine::Redis;
use super::nodes::{self, Node};
use super::roaming::{Balancer, Roaming};
use super::support::{Client, Config, Kind, Request, ms, wait_until};

/// Nodes `a` and `b` that know each other.
fn pair(redis: &Redis, config: impl Fn() -> Config) -> [Node; 2] {
    let nodes = ["a", "b"].map(|name| nodes::start(redis, name, config()));
    for node in &nodes {
        node.metric_becomes("group_nodes", &[], 2.0);
    }
    nodes
}

fn handshakes(node: &Node) -> f64 {
    node.metric("dtls_handshakes_total", &["result=\"ok\""])
}

fn forwarded(node: &Node, result: &str) -> f64 {
    node.metric("group_records_forwarded_total", &[&format!("result={result:?}")])
}

fn received(node: &Node, result: &str) -> f64 {
    node.metric("group_datagrams_received_total", &[&format!("result={result:?}")])
}

#[track_caller]
fn received_becomes(node: &Node, result: &str, count: f64) {
    let labels = [&*format!("result={result:?}")];
    node.metric_becomes("group_datagrams_received_total", &labels, count);
}

#[test]
fn a_device_whose_records_reach_another_node_is_served_and_answered_there() {
    let redis = Redis::start();
    let nodes = nodes::group(&redis, 3);
    let balancer = Balancer::to(nodes[0].dtls_addr());
    for changes_ports in [false, true] {
        balancer.lead(nodes[0].dtls_addr());
        let roaming = Roaming::through(&balancer, changes_ports);
        let id = u16::try_from(nodes[0].id()).unwrap();
        assert_eq!(roaming.server_cid()[1..3], id.to_be_bytes());
        let mut device = Client::over(Box::new(roaming));
        let observation = device.observe("ps/valve");
        for (n, node) in [1, 2, 0, 1, 0, 2].into_iter().enumerate() {
            balancer.lead(nodes[node].dtls_addr());
            device.publish("ps/valve", format!("{n}"));
            assert_eq!(device.notification(&observation.token).text(), n.to_string());
            device.publish("ps/other", "x");
            assert_eq!(balancer.answered_from(), Some(nodes[node].dtls_addr()), "{n}");
        }
    }
    assert_eq!(nodes.iter().map(handshakes).collect::<Vec<_>>(), [2.0, 0.0, 0.0]);
    for node in &nodes[1..] {
        // Counted when the datagram has left, which may be after its answer came.
        wait_until("all are counted", || {
            forwarded(node, "ok") >= 8.0 && received(node, "answer") >= 8.0
        });
        // Nothing of it counts as dropped.
        assert_eq!(
            node.metric("dtls_records_dropped_total", &["reason=\"unknown_cid\""]),
            0.0
        );
    }
    wait_until("all are counted", || {
        let returned = nodes[0].metric("group_answers_returned_total", &["result=\"ok\""]);
        received(&nodes[0], "record") >= 16.0 && returned >= 16.0
    });
    for node in &nodes {
        node.assert_serves();
    }
}

#[test]
fn with_direct_replies_the_node_of_the_session_answers_itself() {
    let redis = Redis::start();
    let nodes = pair(&redis, || Config::new().set("group", "reply = \"direct\""));
    let balancer = Balancer::to(nodes[0].dtls_addr());
    let mut device = Client::over(Box::new(Roaming::through(&balancer, false)));
    balancer.lead(nodes[1].dtls_addr());
    for n in 0..3 {
        device.publish("ps/a?retain=true", format!("{n}"));
        assert_eq!(balancer.answered_from(), Some(nodes[0].dtls_addr()));
    }
    assert_eq!(device.read("ps/a"), b"2");
    wait_until("all are counted", || forwarded(&nodes[1], "ok") >= 4.0);
    assert_eq!(received(&nodes[1], "answer"), 0.0);
    nodes[1].assert_serves();
}

#[test]
fn a_record_that_was_acted_on_is_not_acted_on_again_by_way_of_another_node() {
    let redis = Redis::start();
    let nodes = pair(&redis, Config::new);
    let balancer = Balancer::to(nodes[0].dtls_addr());
    let mut device = Client::over(Box::new(Roaming::through(&balancer, false)));
    let mut observer = nodes[0].client(Kind::Udp);
    let token = observer.observe("ps/door").token;
    device.publish("ps/door?retain=true", "unlock");
    let unlock = balancer.of_device().last().unwrap().clone();
    assert_eq!(observer.notification(&token).text(), "unlock");
    device.publish("ps/door?retain=true", "lock");
    assert_eq!(observer.notification(&token).text(), "lock");
    let published = nodes[0].metric("publishes_total", &[]);
    // By whoever recorded it, from anywhere, to the other node and to both in turn.
    let replayer = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        replayer.send_to(&unlock, nodes[1].dtls_addr()).unwrap();
        replayer.send_to(&unlock, nodes[0].dtls_addr()).unwrap();
    }
    let replays = ["reason=\"replay\""];
    nodes[0].metric_becomes("dtls_records_dropped_total", &replays, 6.0);
    assert_eq!(nodes[0].metric("publishes_total", &[]), published);
    observer.no_notification(&token, ms(300));
    // Nor does a forged one move the session, or end it.
    let mut forged = unlock.clone();
    *forged.last_mut().unwrap() ^= 1;
    replayer.send_to(&forged, nodes[1].dtls_addr()).unwrap();
    nodes[0].metric_becomes("dtls_records_dropped_total", &["reason=\"replay\""], 7.0);
    balancer.lead(nodes[1].dtls_addr());
    assert_eq!(device.read("ps/door"), b"lock");
    assert_eq!(nodes.iter().map(handshakes).collect::<Vec<_>>(), [1.0, 0.0]);
    for node in &nodes {
        node.assert_serves();
    }
}

/// What tells the process of a node from others, as its lease has it.
fn boot_of(redis: &Redis, node: &Node) -> Vec<u8> {
    let lease = redis.say(&format!("GET portcullis:{{group}}:node:{}\n", node.id()));
    let lease: serde_json::Value = serde_json::from_str(lease.trim()).unwrap();
    let text = lease["boot"].as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn datagrams_that_no_node_sent_do_nothing() {
    let redis = Redis::start();
    let nodes = pair(&redis, Config::new);
    let balancer = Balancer::to(nodes[0].dtls_addr());
    let mut device = Client::over(Box::new(Roaming::through(&balancer, false)));
    balancer.lead(nodes[1].dtls_addr());
    device.publish("ps/a", "before");
    let record = balancer.of_device().last().unwrap().clone();
    let port: SocketAddr = ([127, 0, 0, 1], nodes[0].port.number).into();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |datagram: &[u8]| stranger.send_to(datagram, port).unwrap();
    for bad in [&[][..], b"x", &record, &[2; 200]] {
        send(bad);
    }
    received_becomes(&nodes[0], "malformed", 4.0);
    send(&[&[1][..], &[7; 16], &[0; 8], &record, &[0; 16]].concat());
    // In the name of the node itself.
    let own = boot_of(&redis, &nodes[0]);
    send(&[&[1][..], &own, &[0; 8], &record, &[0; 16]].concat());
    received_becomes(&nodes[0], "unknown_node", 2.0);
    // In that of the other: what it says is not sealed with the key of the group, whatever number it has.
    let other = boot_of(&redis, &nodes[1]);
    for counter in [1_000, u64::MAX] {
        let counter = counter.to_be_bytes();
        send(&[&[1][..], &other, &counter, &[1; 60], &record, &[0; 16]].concat());
    }
    received_becomes(&nodes[0], "not_authentic", 2.0);
    // A number that was used is not even looked at.
    send(&[&[1][..], &other, &[0; 8], &record, &[0; 16]].concat());
    received_becomes(&nodes[0], "replay", 1.0);
    for n in 0..5 {
        device.publish("ps/a?retain=true", format!("{n}"));
    }
    assert_eq!(device.read("ps/a"), b"4");
    for node in &nodes {
        node.assert_serves();
    }
}

#[test]
fn a_flood_in_the_name_of_sessions_of_another_node_leaves_both_serving() {
    let redis = Redis::start();
    let nodes = pair(&redis, Config::new);
    let balancer = Balancer::to(nodes[0].dtls_addr());
    let mut device = Client::over(Box::new(Roaming::through(&balancer, false)));
    device.publish("ps/a", "x");
    let record = balancer.of_device().last().unwrap().clone();
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..5_000_u32 {
        let mut forged = record.clone();
        // Other sessions of that node, and now and then one of a node that is not there.
        forged[15..19].copy_from_slice(&n.to_be_bytes());
        if n % 50 == 0 {
            forged[12] ^= 0x55;
        }
        let _full = flood.send_to(&forged, nodes[1].dtls_addr());
    }
    balancer.lead(nodes[1].dtls_addr());
    device.publish("ps/a", "y");
    let unknown = |node: &Node| node.metric("dtls_records_dropped_total", &["reason=\"unknown_cid\""]);
    // What went on its way is either there and refused, or lost with a reason.
    wait_until("the forged records are refused", || {
        unknown(&nodes[0]) > 0.0 && unknown(&nodes[1]) > 0.0
    });
    for node in &nodes {
        node.assert_serves();
    }
    device.publish("ps/a", "z");
    assert_eq!(nodes.iter().map(handshakes).sum::<f64>(), 3.0);
}

#[test]
fn a_session_of_a_node_that_died_is_nobodys_and_the_device_shakes_hands_where_it_is_led() {
    let redis = Redis::start();
    let mut nodes = pair(&redis, || Config::new().set("group", "lease = \"1s\""));
    let balancer = Balancer::to(nodes[0].dtls_addr());
    let mut device = Client::over(Box::new(Roaming::through(&balancer, false)));
    device.publish("ps/a", "x");
    balancer.lead(nodes[1].dtls_addr());
    device.publish("ps/a", "y");
    nodes[0].gateway.kill();
    nodes[1].metric_becomes("group_nodes", &[], 1.0);
    let put = Request::post("ps/a").payload("x");
    assert!(device.try_request(&put, ms(300)).is_none());
    wait_until("its records are nobody's", || {
        nodes[1].metric("dtls_records_dropped_total", &["reason=\"unknown_cid\""]) > 0.0
    });
    let mut again = Client::over(Box::new(Roaming::through(&balancer, false)));
    again.publish("ps/a", "z");
    // The same node in its next process: what it gave out before names it still, and is its own business.
    nodes[0].gateway.launch();
    nodes[1].metric_becomes("group_nodes", &[], 2.0);
    device.publish("ps/a", "after");
    for node in &nodes {
        node.assert_serves();
    }
}
