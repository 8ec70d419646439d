//! One configuration: what is changed at one node reaches all or none, one that was away catches up, and what is changed by hand is noticed.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::json;

use super::engine::Redis;
use super::nodes::{self, Node};
use super::support::client::PATIENCE;
use super::support::gateway::hex;
use super::support::{Config, dtls, ms, wait_until};

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

pub fn key(identity: &str) -> String {
    format!("a key of {identity}, 16 and more")
}

pub fn comes_in(node: &Node, identity: &str) -> bool {
    let options = dtls::Options::psk(identity, key(identity).as_bytes()).patience(ms(1500));
    dtls::connect(node.dtls_addr(), &options).is_ok()
}

/// The identity comes in at once.
#[track_caller]
pub fn is_let_in(node: &Node, identity: &str) {
    let options = dtls::Options::psk(identity, key(identity).as_bytes()).patience(PATIENCE);
    dtls::connect(node.dtls_addr(), &options).unwrap_or_else(|why| panic!("{identity}: {why}"));
}

pub fn add(node: &Node, identity: &str) -> (u16, serde_json::Value) {
    let key = hex(key(identity).as_bytes());
    node.change("POST", "psk", &json!({"identity": identity, "key": key}))
}

#[track_caller]
pub fn added(node: &Node, identity: &str) {
    let (status, body) = add(node, identity);
    assert_eq!(status, 201, "{identity}: {body}");
}

pub fn version(node: &Node) -> u64 {
    node.group()["config_version"].as_u64().unwrap()
}

/// Nodes that have the first configuration.
pub fn group(redis: &Redis, count: usize) -> Vec<Node> {
    let nodes = nodes::group(redis, count);
    for node in &nodes {
        node.metric_becomes("group_config_applied_version", &[], 1.0);
    }
    nodes
}

pub fn by_input(node: &Node, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .args(words)
        .arg("--config")
        .arg(node.path("portcullis.toml"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_thousand_keys_that_one_node_is_given_let_devices_in_at_the_others() {
    let redis = Redis::start();
    let nodes = group(&redis, 3);
    let lines: String = (0..1000)
        .map(|number| {
            format!(
                "meter-{number},{}\n",
                hex(key(&format!("meter-{number}")).as_bytes())
            )
        })
        .collect();
    nodes[0].write("keys.csv", format!("identity,key\n{lines}").as_bytes());
    let file = nodes[0].path("keys.csv").display().to_string();
    let began = Instant::now();
    let output = nodes[0].command_line(&["psk", "import", &file]);
    assert!(output.status.success(), "{}", said(&output));
    let told = began.elapsed();
    is_let_in(&nodes[1], "meter-999");
    eprintln!(
        "1000 keys: told after {told:?}, a device in at another node after {:?}",
        began.elapsed()
    );
    is_let_in(&nodes[2], "meter-0");
    is_let_in(&nodes[0], "meter-500");
    // One by one, by the interface of another node.
    added(&nodes[1], "lamp-1");
    is_let_in(&nodes[0], "lamp-1");
    is_let_in(&nodes[2], "lamp-1");
    assert_eq!(nodes[1].ask("DELETE", "psk/lamp-1", "", "").0, 204);
    assert!(!comes_in(&nodes[0], "lamp-1") && !comes_in(&nodes[2], "lamp-1"));
    for node in &nodes {
        node.metric_becomes("group_config_applied_version", &[], 4.0);
        assert_eq!(node.metric("group_config_drift", &[]), 0.0);
        node.assert_serves();
    }
    // Nobody who reads the engine learns a key, a name, or a setting.
    let dump = redis.dump();
    for secret in [
        "meter-",
        "lamp-",
        &hex(key("meter-1").as_bytes()),
        "dev1",
        "psk_file",
        "embedded",
    ] {
        assert!(!dump.contains(secret), "{secret}");
    }
}

#[test]
fn users_bans_tokens_and_settings_reach_all_too() {
    let redis = Redis::start();
    let config = Config::new()
        .set("authentication", "backend = \"file\"")
        .file("users.txt", "");
    let nodes: Vec<Node> = ["a", "b"]
        .iter()
        .map(|name| nodes::start(&redis, name, config.clone()))
        .collect();
    for node in &nodes {
        node.metric_becomes("group_config_applied_version", &[], 1.0);
    }
    let (status, body) = nodes[0].change(
        "POST",
        "users",
        &json!({"name": "ann", "password": "a password of hers"}),
    );
    assert_eq!(status, 201, "{body}");
    assert!(nodes[1].get("users").to_string().contains("ann"));
    let (status, body) = nodes[1].change("POST", "bans", &json!({"clientid": "stolen", "reason": "it was"}));
    assert_eq!(status, 201, "{body}");
    assert!(nodes[0].get("bans").to_string().contains("stolen"));
    assert_eq!(nodes[0].metric("bans", &["kind=\"clientid\""]), 1.0);
    assert_eq!(nodes[0].ask("DELETE", "bans/clientid/stolen", "", "").0, 204);
    assert!(!nodes[1].get("bans").to_string().contains("stolen"));
    let (status, body) = nodes[0].change("POST", "tokens", &json!({"name": "robot", "role": "readonly"}));
    assert_eq!(status, 201, "{body}");
    assert!(nodes[1].get("tokens").to_string().contains("robot"));
    let (status, body) = nodes[1].change("PUT", "config", &json!({"coap": {"heartbeat": "77s"}}));
    assert_eq!(status, 200, "{body}");
    let text = std::fs::read_to_string(nodes[0].path("portcullis.toml")).unwrap();
    assert!(text.contains("77s") && text.contains("name = \"a\""), "{text}");
    // What is a node's own concerns nobody else, and needs nobody's word.
    for node in &nodes {
        node.metric_becomes("group_config_applied_version", &[], 6.0);
    }
    let (status, body) = nodes[0].change("PUT", "config", &json!({"metrics": {"bind": ""}}));
    assert_eq!(status, 200, "{body}");
    for node in &nodes {
        assert_eq!(node.metric("group_config_applied_version", &[]), 6.0);
    }
    let other = std::fs::read_to_string(nodes[1].path("portcullis.toml")).unwrap();
    assert!(other.contains(&nodes[1].metrics_addr().to_string()), "{other}");
    assert!(nodes.iter().all(|node| node.is_ready()));
}

#[test]
fn a_configuration_that_one_node_cannot_apply_is_applied_by_none() {
    let redis = Redis::start();
    let nodes = group(&redis, 3);
    let texts = || -> Vec<String> {
        nodes
            .iter()
            .map(|node| std::fs::read_to_string(node.path("portcullis.toml")).unwrap())
            .collect()
    };
    let before = texts();
    nodes[0].write("service.token", b"secret\n");
    nodes[2].write("service.token", b"secret\n");
    let wanted = json!({
        "authentication": {"backend": "http", "http": {"url": "http://127.0.0.1:9/", "token_file": "service.token"}},
        "coap": {"heartbeat": "55s"},
    });
    let (status, body) = nodes[0].change("PUT", "config", &wanted);
    let message = body["message"].as_str().unwrap_or_default();
    assert!(
        status == 409 && body["code"] == "group_refused",
        "{status} {body}"
    );
    assert!(
        message.contains("node b (") && message.contains("service.token"),
        "{message}"
    );
    assert!(!message.contains("node c ("), "{message}");
    assert_eq!(texts(), before);
    for node in &nodes {
        assert_eq!(version(node), 1);
        node.assert_serves();
    }
    assert_eq!(
        nodes[0].metric("group_changes_total", &["result=\"refused\""]),
        1.0
    );
    // With what it lacked it takes it, and so do all.
    nodes[1].write("service.token", b"secret\n");
    let (status, body) = nodes[0].change("PUT", "config", &wanted);
    assert_eq!(status, 200, "{body}");
    assert!(
        texts()
            .iter()
            .all(|text| text.contains("55s") && text.contains("service.token"))
    );
    // What this node itself cannot apply is refused before anybody is asked.
    let (status, body) = nodes[1].change("PUT", "config", &json!({"coap": {"heartbeat": "x"}}));
    assert!(status == 400 && body["code"] == "invalid_config", "{body}");
}

#[test]
fn a_node_that_cannot_be_asked_is_named_and_nobody_changes() {
    let redis = Redis::start();
    let config = || Config::new().set("group", "lease = \"1m\"");
    let nodes: Vec<Node> = ["a", "b"]
        .iter()
        .map(|name| nodes::start(&redis, name, config()))
        .collect();
    for node in &nodes {
        node.metric_becomes("group_config_applied_version", &[], 1.0);
    }
    let signal = |name: &str| {
        let pid = nodes[1].pid().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    signal("-STOP");
    let (status, body) = add(&nodes[0], "lamp-1");
    signal("-CONT");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(status == 409 && message.contains("node b ("), "{body}");
    assert!(!comes_in(&nodes[0], "lamp-1"));
    added(&nodes[0], "lamp-1");
    is_let_in(&nodes[1], "lamp-1");
}

#[test]
fn one_that_was_away_has_what_changed_before_it_serves() {
    let redis = Redis::start();
    let mut nodes = group(&redis, 2);
    added(&nodes[0], "lamp-1");
    nodes[1].gateway.stop();
    added(&nodes[0], "lamp-2");
    assert_eq!(nodes[0].ask("DELETE", "psk/lamp-1", "", "").0, 204);
    let (status, body) = nodes[0].change("POST", "bans", &json!({"clientid": "stolen"}));
    assert_eq!(status, 201, "{body}");
    let (status, body) = nodes[0].change("PUT", "config", &json!({"coap": {"heartbeat": "44s"}}));
    assert_eq!(status, 200, "{body}");
    nodes[1].gateway.launch();
    is_let_in(&nodes[1], "lamp-2");
    assert!(!comes_in(&nodes[1], "lamp-1"));
    assert!(nodes[1].get("bans").to_string().contains("stolen"));
    assert!(
        std::fs::read_to_string(nodes[1].path("portcullis.toml"))
            .unwrap()
            .contains("44s")
    );
    // A new one, with files of its own, has what the others have; its own are put aside.
    let late = nodes::start(
        &redis,
        "c",
        Config::new().file("psk.txt", "mine:00112233445566778899aabbccddeeff\n"),
    );
    late.metric_becomes(
        "group_config_applied_version",
        &[],
        nodes[0].metric("group_config_version", &[]),
    );
    is_let_in(&late, "lamp-2");
    let aside = std::fs::read_dir(late.path("state/group.replaced")).unwrap();
    let kept: Vec<String> = aside
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert!(kept.iter().any(|text| text.contains("mine:0011")), "{kept:?}");
    late.assert_serves();
}

#[test]
fn what_is_changed_by_hand_is_refused_given_to_all_brought_back_or_kept() {
    let redis = Redis::start();
    let nodes = group(&redis, 2);
    let line = |identity: &str| format!("{identity}:{}\n", hex(key(identity).as_bytes()));
    let psk = || std::fs::read_to_string(nodes[1].path("psk.txt")).unwrap();
    let by_hand =
        |identity: &str| nodes[1].write("psk.txt", format!("{}{}", psk(), line(identity)).as_bytes());
    by_hand("lamp-1");
    assert!(!nodes[1].gateway.reloaded());
    assert!(nodes[1].log().contains("portcullis group import"));
    assert!(!comes_in(&nodes[1], "lamp-1"));
    // Until it is decided what is to be done nobody changes anything unseen.
    let (status, body) = add(&nodes[0], "lamp-9");
    assert!(
        status == 409 && body.to_string().contains("changed by hand"),
        "{body}"
    );
    let output = nodes[1].command_line(&["group", "import"]);
    assert!(
        output.status.success() && said(&output).contains("psk_file"),
        "{}",
        said(&output)
    );
    is_let_in(&nodes[0], "lamp-1");
    is_let_in(&nodes[1], "lamp-1");
    assert!(nodes[1].gateway.reloaded());
    let good = psk();
    by_hand("lamp-2");
    let output = nodes[1].command_line(&["group", "restore"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(psk(), good);
    assert!(nodes[1].path("state/group.replaced").exists());
    by_hand("lamp-3");
    let output = nodes[1].command_line(&["reload", "--local"]);
    assert!(output.status.success(), "{}", said(&output));
    is_let_in(&nodes[1], "lamp-3");
    assert!(!comes_in(&nodes[0], "lamp-3"));
    assert_eq!(nodes[1].metric("group_config_drift", &[]), 1.0);
    // What is wrong is refused by all, and stays where it was written.
    nodes[1].write("psk.txt", format!("{good}no key\n").as_bytes());
    let output = nodes[1].command_line(&["group", "import"]);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(psk().contains("no key"));
    is_let_in(&nodes[1], "lamp-3");
    assert!(nodes[1].command_line(&["group", "restore"]).status.success());
    assert_eq!(nodes[1].metric("group_config_drift", &[]), 0.0);
    // A change for one node alone lasts until all change the same.
    let key_of = hex(key("lamp-4").as_bytes());
    let (status, text) = nodes[1].ask(
        "POST",
        "psk",
        "Content-Type: application/json\r\nPortcullis-Scope: local\r\n",
        &json!({"identity": "lamp-4", "key": key_of}).to_string(),
    );
    assert_eq!(status, 201, "{text}");
    is_let_in(&nodes[1], "lamp-4");
    assert!(!comes_in(&nodes[0], "lamp-4"));
    added(&nodes[0], "lamp-5");
    is_let_in(&nodes[1], "lamp-5");
    assert!(!comes_in(&nodes[1], "lamp-4"));
}

#[test]
fn commands_change_all_nodes_or_say_why_not() {
    let redis = Redis::start();
    let mut nodes = group(&redis, 2);
    let hex_of = |identity: &str| hex(key(identity).as_bytes());
    let output = by_input(
        &nodes[0],
        &["psk", "add", "lamp-1", "--key-stdin"],
        &hex_of("lamp-1"),
    );
    assert!(
        output.status.success() && said(&output).contains("All nodes"),
        "{}",
        said(&output)
    );
    is_let_in(&nodes[1], "lamp-1");
    let output = by_input(
        &nodes[0],
        &["psk", "add", "lamp-2", "--key-stdin", "--local"],
        &hex_of("lamp-2"),
    );
    assert!(output.status.success(), "{}", said(&output));
    assert!(nodes[0].command_line(&["reload", "--local"]).status.success());
    is_let_in(&nodes[0], "lamp-2");
    assert!(!comes_in(&nodes[1], "lamp-2"));
    assert!(
        nodes[0]
            .command_line(&["ban", "add", "clientid", "stolen"])
            .status
            .success()
    );
    assert!(nodes[1].get("bans").to_string().contains("stolen"));
    // Of a gateway that does not run nothing is changed.
    nodes[1].gateway.stop();
    let before = std::fs::read(nodes[1].path("psk.txt")).unwrap();
    let output = by_input(
        &nodes[1],
        &["psk", "add", "lamp-3", "--key-stdin"],
        &hex_of("lamp-3"),
    );
    assert!(
        !output.status.success() && said(&output).contains("--local"),
        "{}",
        said(&output)
    );
    assert_eq!(std::fs::read(nodes[1].path("psk.txt")).unwrap(), before);
}

#[test]
fn two_nodes_that_change_at_once_lose_nothing() {
    let redis = Redis::start();
    let nodes = group(&redis, 2);
    std::thread::scope(|scope| {
        for (name, node) in [("left", &nodes[0]), ("right", &nodes[1])] {
            scope.spawn(move || (0..10).for_each(|number| added(node, &format!("{name}-{number}"))));
        }
    });
    for node in &nodes {
        let all = node.get("psk").to_string();
        for number in 0..10 {
            assert!(
                all.contains(&format!("left-{number}")) && all.contains(&format!("right-{number}")),
                "{all}"
            );
        }
    }
}

#[test]
fn without_the_engine_nothing_changes_for_all_and_what_it_lost_it_is_given_again() {
    let mut redis = Redis::start();
    let nodes = group(&redis, 2);
    added(&nodes[0], "lamp-1");
    redis.running.stop();
    let (status, body) = add(&nodes[0], "lamp-2");
    assert!(status == 409 && body["code"] == "group_unavailable", "{body}");
    assert!(!comes_in(&nodes[0], "lamp-2"));
    is_let_in(&nodes[1], "lamp-1");
    redis.up();
    nodes[0].metric_becomes("group_connected", &[], 1.0);
    nodes[1].metric_becomes("group_connected", &[], 1.0);
    let before = version(&nodes[0]);
    redis.say("FLUSHALL\n");
    wait_until("the engine has what nodes have", || {
        version(&nodes[0]) > before && version(&nodes[1]) > before
    });
    wait_until("all nodes live for each other", || {
        nodes.iter().all(|node| node.metric("group_nodes", &[]) == 2.0)
    });
    added(&nodes[1], "lamp-3");
    is_let_in(&nodes[0], "lamp-3");
    is_let_in(&nodes[0], "lamp-1");
    // What is written there without the key is nobody's configuration.
    redis.say("HSET portcullis:{group}:config version 1000\n");
    let (status, body) = add(&nodes[0], "lamp-4");
    assert!(status == 409 && body.to_string().contains("group.key"), "{body}");
    nodes.iter().for_each(|node| node.assert_serves());
    is_let_in(&nodes[1], "lamp-3");
    redis.say("DEL portcullis:{group}:config\n");
    wait_until("the engine has what nodes have again", || {
        add(&nodes[0], "lamp-5").0 == 201
    });
    is_let_in(&nodes[1], "lamp-5");
}

#[test]
fn a_node_that_is_stopped_behind_a_change_leaves_the_place_of_who_changes_something() {
    let redis = Redis::start();
    let mut nodes = group(&redis, 2);
    added(&nodes[0], "meter-41");
    nodes[0].gateway.stop();
    assert_eq!(redis.say("EXISTS portcullis:{group}:config:change\n").trim(), "0");
    added(&nodes[1], "meter-42");
    is_let_in(&nodes[1], "meter-41");
}
