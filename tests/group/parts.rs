//! What all share, part by part: what is taken away, what lay there before, what is lost, and what is noted but not yet in force.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::json;

use super::configuration::{add, added, by_input, comes_in, group, is_let_in, key, said, version};
use super::engine::Redis;
use super::nodes::{self, Node};
use super::support::gateway::hex;
use super::support::{Config, ports, wait_until};

fn line(identity: &str) -> String {
    format!("{identity}:{}\n", hex(key(identity).as_bytes()))
}

fn appended(node: &Node, identity: &str) {
    let before = std::fs::read_to_string(node.path("psk.txt")).unwrap();
    node.write("psk.txt", format!("{before}{}", line(identity)).as_bytes());
}

fn text(node: &Node) -> String {
    std::fs::read_to_string(node.path("portcullis.toml")).unwrap()
}

#[track_caller]
fn has_version(node: &Node, wanted: u64) {
    node.metric_becomes("group_config_applied_version", &[], wanted as f64);
}

#[test]
fn a_listener_and_access_rules_that_are_taken_away_are_gone_at_all_and_later_changes_work() {
    let redis = Redis::start();
    let nodes = ["a", "b"].map(|name| {
        let port = ports::reserve();
        let config = Config::new()
            .set(
                "listeners.dtls.north",
                &format!("bind = \"127.0.0.1:{}\"\npsk_file = \"north.txt\"", port.number),
            )
            .set("authorization", "acl_file = \"rules.txt\"")
            .file("north.txt", line("north-1"))
            .file("rules.txt", "topic readwrite #\n");
        (nodes::start(&redis, name, config), port)
    });
    let [(a, _), (b, _)] = &nodes;
    for node in [a, b] {
        has_version(node, 1);
    }
    let (status, body) = a.change("PUT", "config", &json!({"listeners": {"dtls": {"north": null}}}));
    assert_eq!(status, 200, "{body}");
    has_version(b, 2);
    let (status, body) = b.change("PUT", "config", &json!({"authorization": {"acl_file": null}}));
    assert_eq!(status, 200, "{body}");
    for node in [a, b] {
        has_version(node, 3);
        assert!(
            !text(node).contains("north.txt") && !text(node).contains("rules.txt"),
            "{}",
            text(node)
        );
    }
    added(a, "lamp-21");
    added(b, "lamp-22");
    for node in [a, b] {
        is_let_in(node, "lamp-21");
        is_let_in(node, "lamp-22");
        node.assert_serves();
    }
}

#[test]
fn a_gateway_that_had_tokens_and_bans_before_it_joined_takes_what_the_group_has() {
    let redis = Redis::start();
    let first = nodes::start(&redis, "a", Config::new());
    has_version(&first, 1);
    let mut late = nodes::prepare(&redis, "b", Config::new());
    let joined = text(&late);
    let (before, after) = joined.split_once("[group]\n").unwrap();
    let after = after.find("\n[").map_or("", |at| &after[at..]);
    late.write("portcullis.toml", format!("{before}{after}").as_bytes());
    late.gateway.launch();
    let (status, body) = late.change("POST", "tokens", &json!({"name": "robot", "role": "readonly"}));
    assert_eq!(status, 201, "{body}");
    let (status, body) = late.change("POST", "bans", &json!({"clientid": "stolen-7"}));
    assert_eq!(status, 201, "{body}");
    late.gateway.stop();
    late.write("portcullis.toml", joined.as_bytes());
    late.gateway.launch();
    has_version(&late, 1);
    assert!(!late.get("tokens").to_string().contains("robot"));
    assert!(!late.get("bans").to_string().contains("stolen-7"));
    let kept: String = std::fs::read_dir(late.path("state/group.replaced"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert!(kept.contains("robot") && kept.contains("stolen-7"), "{kept}");
    assert_eq!(late.metric("group_config_drift", &[]), 0.0);
    for (number, node) in [&first, &late].into_iter().enumerate() {
        added(node, &format!("lamp-3{number}"));
    }
    is_let_in(&late, "lamp-30");
    is_let_in(&first, "lamp-31");
    let (status, body) = first.change("POST", "bans", &json!({"clientid": "stolen-8"}));
    assert_eq!(status, 201, "{body}");
    assert!(late.get("bans").to_string().contains("stolen-8"));
    assert!(late.gateway.reloaded());
}

#[test]
fn what_was_changed_by_hand_is_not_given_to_a_group_that_lost_what_it_shared() {
    let redis = Redis::start();
    let mut nodes = group(&redis, 2);
    added(&nodes[0], "lamp-41");
    nodes[1].gateway.stop();
    appended(&nodes[0], "lamp-42");
    redis.say("FLUSHALL\n");
    wait_until("it says why it gives nothing", || {
        nodes[0].log().contains("changed by hand")
    });
    wait_until("the engine has nothing", || version(&nodes[0]) == 0);
    let output = nodes[0].command_line(&["group", "restore"]);
    assert!(
        !output.status.success() && said(&output).contains("lost"),
        "{}",
        said(&output)
    );
    assert_eq!(version(&nodes[0]), 0);
    // One that has what all had gives it.
    nodes[1].gateway.launch();
    wait_until("the group has what all had", || version(&nodes[0]) > 2);
    is_let_in(&nodes[1], "lamp-41");
    assert!(!comes_in(&nodes[1], "lamp-42"));
    let output = nodes[0].command_line(&["group", "restore"]);
    assert!(output.status.success(), "{}", said(&output));
    added(&nodes[0], "lamp-43");
    is_let_in(&nodes[1], "lamp-43");
    assert!(!comes_in(&nodes[0], "lamp-42"));
    // By the word of an operator what lies here is what all have.
    nodes[1].gateway.stop();
    let before = version(&nodes[0]);
    appended(&nodes[0], "lamp-44");
    redis.say("FLUSHALL\n");
    wait_until("the engine has nothing again", || version(&nodes[0]) == 0);
    let output = nodes[0].command_line(&["group", "import"]);
    assert!(
        output.status.success() && said(&output).contains("psk_file"),
        "{}",
        said(&output)
    );
    nodes[1].gateway.launch();
    wait_until("the group has what was given", || version(&nodes[1]) > before);
    for node in &nodes {
        is_let_in(node, "lamp-44");
        node.assert_serves();
    }
}

#[test]
fn what_was_written_and_noted_and_never_put_in_force_is_in_force_all_the_same() {
    let redis = Redis::start();
    let nodes = group(&redis, 2);
    let signal = |name: &str| {
        let pid = nodes[1].pid().to_string();
        let sent = std::process::Command::new("kill").args([name, &pid]).status();
        assert!(sent.unwrap().success());
    };
    signal("-STOP");
    nodes[0].metric_becomes("group_nodes", &[], 1.0);
    added(&nodes[0], "lamp-51");
    // As who is cut short between the last file and the reload leaves them.
    for file in ["psk.txt", "state/group.json"] {
        nodes[1].write(file, &std::fs::read(nodes[0].path(file)).unwrap());
    }
    signal("-CONT");
    has_version(&nodes[1], 2);
    is_let_in(&nodes[1], "lamp-51");
    added(&nodes[1], "lamp-52");
    is_let_in(&nodes[0], "lamp-52");
}

#[test]
fn a_token_in_the_clear_is_the_same_for_all_once_each_node_has_hashed_it() {
    let redis = Redis::start();
    let nodes = group(&redis, 2);
    let token = "a-token-of-thirty-two-and-more-letters";
    nodes[0].write("state/tokens", format!("# whose\nreadonly:{token}\n").as_bytes());
    let output = nodes[0].command_line(&["group", "import"]);
    assert!(output.status.success(), "{}", said(&output));
    for (number, node) in nodes.iter().enumerate() {
        let shown = node.get("tokens").to_string();
        assert!(shown.contains("readonly-2"), "{shown}");
        added(node, &format!("lamp-6{number}"));
        assert!(node.gateway.reloaded());
        assert!(
            !std::fs::read_to_string(node.path("state/tokens"))
                .unwrap()
                .contains(token)
        );
    }
    // One that hashes what is noted in the clear has changed nothing.
    for node in &nodes {
        assert_eq!(node.metric("group_config_drift", &[]), 0.0);
        is_let_in(node, "lamp-60");
        is_let_in(node, "lamp-61");
    }
}

#[test]
fn a_listener_of_the_name_of_a_place_is_shared_like_any_other() {
    let redis = Redis::start();
    let names = ["bind", "psk_file"];
    let nodes = ["a", "b"].map(|node| {
        let ports = names.map(|_| ports::reserve());
        let mut config = Config::new();
        for (name, port) in names.iter().zip(&ports) {
            let lines = format!("bind = \"127.0.0.1:{}\"\nmountpoint = \"one/\"", port.number);
            config = config.set(&format!("listeners.udp.{name}"), &lines);
        }
        (nodes::start(&redis, node, config), ports)
    });
    let [(a, _), (b, of_b)] = &nodes;
    has_version(a, 1);
    has_version(b, 1);
    for (name, port) in names.iter().zip(of_b) {
        let wanted = json!({"listeners": {"udp": {*name: {"mountpoint": format!("two-{name}/")}}}});
        let (status, body) = a.change("PUT", "config", &wanted);
        assert_eq!(status, 200, "{body}");
        let there = text(b);
        assert!(there.contains(&format!("two-{name}/")), "{there}");
        assert!(there.contains(&port.number.to_string()), "{there}");
    }
    let (status, body) = b.change("PUT", "config", &json!({"listeners": {"udp": {"bind": null}}}));
    assert_eq!(status, 200, "{body}");
    assert!(
        !text(a).contains("two-bind/") && text(a).contains("two-psk_file/"),
        "{}",
        text(a)
    );
    nodes.iter().for_each(|(node, _)| node.assert_serves());
}

/// All is passed on; the answer to a new version is lost; and after it everything.
const PASSES: u8 = 0;
const LOSES_ANSWER: u8 = 1;
const LOSES_ALL: u8 = 2;

/// A way to the engine that loses what it is told to.
fn way(redis: &Redis) -> (String, Arc<AtomicU8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (mode, engine) = (Arc::new(AtomicU8::new(PASSES)), redis.port());
    let told = Arc::clone(&mode);
    std::thread::spawn(move || {
        let lost = Arc::new(AtomicU8::new(0));
        for client in listener.incoming().flatten() {
            if told.load(Ordering::Relaxed) == PASSES {
                lost.store(0, Ordering::Relaxed);
            }
            if lost.load(Ordering::Relaxed) == 1 && told.load(Ordering::Relaxed) == LOSES_ALL {
                continue;
            }
            let server = TcpStream::connect(("127.0.0.1", engine)).unwrap();
            let (mut asks, mut answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (told, lost) = (Arc::clone(&told), Arc::clone(&lost));
            let is_lost = Arc::new(AtomicU8::new(0));
            let loses = Arc::clone(&is_lost);
            let mut to_server = server;
            std::thread::spawn(move || {
                let mut bytes = [0; 1 << 16];
                while let Ok(got @ 1..) = asks.read(&mut bytes) {
                    let is_commit = bytes[..got].windows(8).any(|word| word == b"manifest")
                        && bytes[..got].windows(4).any(|word| word == b"HSET");
                    if is_commit && told.load(Ordering::Relaxed) != PASSES {
                        loses.store(1, Ordering::Relaxed);
                        lost.store(1, Ordering::Relaxed);
                    }
                    if to_server.write_all(&bytes[..got]).is_err() {
                        break;
                    }
                }
                drop(to_server.shutdown(Shutdown::Both));
            });
            let mut to_client = client;
            std::thread::spawn(move || {
                let mut bytes = [0; 1 << 16];
                while let Ok(got @ 1..) = answers.read(&mut bytes) {
                    if is_lost.load(Ordering::Relaxed) == 1 || to_client.write_all(&bytes[..got]).is_err() {
                        break;
                    }
                }
                drop(to_client.shutdown(Shutdown::Both));
            });
        }
    });
    (url, mode)
}

#[test]
fn a_change_whose_answer_is_lost_is_not_told_as_one_that_was_not_made() {
    let redis = Redis::start();
    let (url, mode) = way(&redis);
    let mut a = nodes::prepare_at(&url, "a", Config::new());
    a.gateway.launch();
    has_version(&a, 1);
    let b = nodes::start(&redis, "b", Config::new());
    has_version(&b, 1);
    a.metric_becomes("group_nodes", &[], 2.0);
    mode.store(LOSES_ANSWER, Ordering::Relaxed);
    added(&a, "lamp-81");
    is_let_in(&b, "lamp-81");
    mode.store(LOSES_ALL, Ordering::Relaxed);
    let (status, body) = add(&a, "lamp-82");
    assert!(
        status == 502 && body["code"] == "group_unknown",
        "{status} {body}"
    );
    mode.store(PASSES, Ordering::Relaxed);
    for node in [&a, &b] {
        has_version(node, 3);
        is_let_in(node, "lamp-82");
    }
    // A command leaves what may be in force at the others.
    wait_until("all nodes live for each other", || {
        [&a, &b].iter().all(|node| node.metric("group_nodes", &[]) == 2.0)
    });
    // The turn that could not be given back would run out by itself, later.
    redis.say("DEL portcullis:{group}:config:change\n");
    mode.store(LOSES_ALL, Ordering::Relaxed);
    let output = by_input(
        &a,
        &["psk", "add", "lamp-83", "--key-stdin"],
        &hex(key("lamp-83").as_bytes()),
    );
    mode.store(PASSES, Ordering::Relaxed);
    assert!(
        !output.status.success() && said(&output).contains("not known"),
        "{}",
        said(&output)
    );
    for node in [&a, &b] {
        has_version(node, 4);
        is_let_in(node, "lamp-83");
        node.assert_serves();
    }
}
