//! Who lives: leases that are had, kept over a restart, lost and given back; and what is said when something is in the way.

use std::os::unix::fs::PermissionsExt as _;

use super::engine::Redis;
use super::nodes::{self, KEY, Node};
use super::support::{Config, Gateway, Kind, wait_until};

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn nodes_of_a_group_know_who_lives() {
    let redis = Redis::start();
    let mut nodes = nodes::group(&redis, 3);
    let ids: std::collections::BTreeSet<u64> = nodes.iter().map(Node::id).collect();
    assert!(ids.len() == 3 && !ids.contains(&0), "{ids:?}");
    for node in &nodes {
        let group = node.group();
        let names: Vec<&str> = group["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(names.len(), 3, "{group}");
        assert!(group["fault"].is_null(), "{group}");
        assert_eq!(node.metric("group_lease", &["state=\"held\""]), 1.0);
    }
    let lease = redis.say(&format!("GET portcullis:{{group}}:node:{}\n", nodes[2].id()));
    assert!(
        lease.contains("\"name\":\"c\"") && lease.contains(&format!("127.0.0.1:{}", nodes[2].port.number)),
        "{lease}"
    );
    let ttl: i64 = redis
        .say(&format!("PTTL portcullis:{{group}}:node:{}\n", nodes[2].id()))
        .trim()
        .parse()
        .unwrap();
    assert!((1..=3000).contains(&ttl), "{ttl}");
    // One is killed: the others find out by its lease. It comes back as who it was.
    let id = nodes[2].id();
    nodes[2].gateway.kill();
    nodes[0].metric_becomes("group_nodes", &[], 2.0);
    nodes[2].gateway.launch();
    nodes[2].metric_becomes("group_nodes", &[], 3.0);
    assert_eq!(nodes[2].id(), id);
    // Killed again and there before its lease is over: it need not wait for it.
    nodes[2].gateway.kill();
    nodes[2].gateway.launch();
    nodes[2].metric_becomes("group_node_id", &[], id as f64);
    nodes[0].metric_becomes("group_nodes", &[], 3.0);
    // One that is stopped says so.
    nodes[1].gateway.stop();
    let left = redis.say("SMEMBERS portcullis:{group}:nodes\n");
    assert_eq!(left.lines().count(), 2, "{left}");
    nodes[0].metric_becomes("group_nodes", &[], 2.0);
    let events = nodes[0].events("node_joined,node_left");
    assert!(
        events.contains("b (node") && events.matches("node_left").count() >= 2,
        "{events}"
    );
    let status = said(&nodes[0].command_line(&["status"]));
    assert!(status.contains("of 2: ") && status.contains("c ("), "{status}");
    let doctor = said(&nodes[0].command_line(&["doctor"]));
    assert!(
        doctor.contains("nodes that live: ") && doctor.contains("a (node"),
        "{doctor}"
    );
}

#[test]
fn without_its_engine_a_node_serves_on() {
    let mut redis = Redis::start();
    let node = nodes::start(&redis, "a", Config::new().set("group", "lease = \"1s\""));
    node.metric_becomes("group_nodes", &[], 1.0);
    let id = node.id();
    let mut standing = node.client(Kind::Dtls);
    standing.publish("ps/t", "1");
    redis.running.stop();
    node.metric_becomes("group_connected", &[], 0.0);
    node.metric_becomes("group_lease", &["state=\"lost\""], 1.0);
    node.fault_becomes("group.url: ");
    assert!(node.is_ready());
    standing.publish("ps/t", "2");
    node.assert_serves();
    assert!(node.metric("group_errors_total", &[]) >= 1.0);
    let doctor = node.command_line(&["doctor"]);
    assert!(said(&doctor).contains("look at group.url"), "{}", said(&doctor));
    assert!(said(&node.command_line(&["status"])).contains("the engine does not answer"));
    redis.up();
    node.metric_becomes("group_lease", &["state=\"held\""], 1.0);
    node.metric_becomes("group_connected", &[], 1.0);
    assert_eq!(node.id(), id);
    let events = node.events("group_fault,group_mended");
    assert!(
        events.contains("group_fault") && events.contains("group_mended"),
        "{events}"
    );
    standing.publish("ps/t", "3");
    node.assert_serves();
}

#[test]
fn a_node_starts_without_its_engine_and_joins_when_it_is_there() {
    let mut redis = Redis::start();
    redis.running.stop();
    let node = nodes::start(&redis, "a", Config::new());
    node.assert_serves();
    node.fault_becomes("group.url: ");
    redis.up();
    node.metric_becomes("group_nodes", &[], 1.0);
}

#[test]
fn what_keeps_a_node_from_its_group_is_named_by_the_key_to_mend() {
    let redis = Redis::start();
    let first = nodes::start(&redis, "a", Config::new().set("group", "node = 7"));
    first.metric_becomes("group_node_id", &[], 7.0);
    let taken = nodes::start(&redis, "b", Config::new().set("group", "node = 7"));
    taken.fault_becomes("group.node: 7 is leased by a at 127.0.0.1:");
    taken.assert_serves();
    let twin = nodes::start(&redis, "a", Config::new());
    twin.fault_becomes("node.name: ");
    let stranger = nodes::start(
        &redis,
        "c",
        Config::new().file("group.key", KEY.replace("00", "11")),
    );
    stranger.fault_becomes("group.key_file: ");
    let doctor = said(&stranger.command_line(&["doctor"]));
    assert!(doctor.contains("look at group.key_file"), "{doctor}");
    let wrong = Config::new()
        .file("other.password", "wrong")
        .set("group", "password_file = \"other.password\"");
    let refused = nodes::start(&redis, "d", wrong);
    refused.fault_becomes("group.password_file: ");
    for node in [&first, &taken, &twin, &stranger, &refused] {
        let log = node.log();
        assert!(
            !log.contains(&KEY[2..20]) && !log.contains(super::engine::PASSWORD),
            "{log}"
        );
        assert!(node.is_ready());
    }
}

#[test]
fn a_configuration_that_names_no_group_rightly_is_refused_with_what_would_be_right() {
    let check = |lines: &str, key: Option<(&str, u32)>| {
        let gateway = Gateway::prepare(&Config::new().set("group", lines));
        if let Some((content, mode)) = key {
            gateway.write("group.key", content.as_bytes());
            std::fs::set_permissions(gateway.path("group.key"), std::fs::Permissions::from_mode(mode))
                .unwrap();
        }
        let output = gateway.command("check-config").output().unwrap();
        (output.status.code().unwrap(), said(&output))
    };
    assert_eq!(check("", Some((KEY, 0o600))).0, 0);
    assert_eq!(
        check(
            "lease = \"10s\"\nnode = 65535\nreply = \"direct\"",
            Some((KEY, 0o600))
        )
        .0,
        0
    );
    let key = Some((KEY, 0o600));
    for (lines, key, wanted) in [
        ("", None, "openssl rand -hex 32"),
        ("", Some((KEY, 0o640)), "chmod 600"),
        ("", Some(("abc", 0o600)), "64 hexadecimal digits"),
        ("url = \"http://x\"", key, "redis+sentinel://"),
        ("url = \"redis://a:b@x\"", key, "password_file"),
        ("node = 65536", key, "0 to 65535"),
        ("lease = \"100ms\"", key, "1s"),
        ("bind = \"0.0.0.0:7683\"", key, "group.bind"),
        ("bind = \"127.0.0.1:0\"", key, "name one"),
        ("reply = \"both\"", key, "\"via\", \"direct\""),
        ("lesae = \"3s\"", key, "lease"),
    ] {
        let (code, said) = check(lines, key);
        assert!(code == 78 && said.contains(wanted), "{lines}: {code}: {said}");
        assert!(!said.contains("0011223344"), "{said}");
    }
}

#[test]
fn a_sentinel_names_the_engine_and_its_successor() {
    let mut master = Redis::start();
    let replica = Redis::with(&format!("replicaof 127.0.0.1 {}", master.port()));
    let mut sentinel = super::servers::Running::new();
    let (port, at) = (sentinel.port.number, master.port());
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor gateways 127.0.0.1 {at} 1\nsentinel auth-pass gateways \"{}\"\nsentinel down-after-milliseconds gateways 1000\nsentinel failover-timeout gateways 5000\n",
        sentinel.shown(""),
        super::engine::PASSWORD
    );
    let file = sentinel.write("sentinel.conf", text);
    sentinel.started_by(&["redis-sentinel", &file]);
    sentinel.start(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    wait_until("the replica is known", || {
        let mut asking = std::process::Command::new("redis-cli");
        let output = asking
            .args(["-p", &port.to_string(), "SENTINEL", "REPLICAS", "gateways"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).contains(&replica.port().to_string())
    });
    let url = format!("redis+sentinel://127.0.0.1:{port}/gateways");
    let mut node = nodes::prepare_at(&url, "a", Config::new());
    node.gateway.launch();
    node.metric_becomes("group_nodes", &[], 1.0);
    let id = node.id();
    master.running.stop();
    node.metric_becomes("group_connected", &[], 0.0);
    node.metric_becomes("group_connected", &[], 1.0);
    node.metric_becomes("group_node_id", &[], id as f64);
    node.assert_serves();
}

#[test]
fn all_that_a_group_keeps_lies_on_one_node_of_a_cluster() {
    let servers: Vec<Redis> = (0..3)
        .map(|_| Redis::with("cluster-enabled yes\ncluster-port 0\ncluster-node-timeout 5000"))
        .collect();
    let mut create = std::process::Command::new("redis-cli");
    create.args([
        "--no-auth-warning",
        "-a",
        super::engine::PASSWORD,
        "--cluster",
        "create",
    ]);
    create
        .args(
            servers
                .iter()
                .map(|server| format!("127.0.0.1:{}", server.port())),
        )
        .arg("--cluster-yes");
    super::servers::run(&mut create, "");
    wait_until("the cluster serves", || {
        servers
            .iter()
            .all(|one| one.say("CLUSTER INFO\n").contains("cluster_state:ok"))
    });
    for server in &servers {
        let url = format!("redis+cluster://127.0.0.1:{}", server.port());
        let mut node = nodes::prepare_at(&url, &format!("n{}", server.port()), Config::new());
        node.gateway.launch();
        node.metric_becomes("group_nodes", &[], 1.0);
    }
}
