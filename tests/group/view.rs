//! One view: clients of all nodes at each of them, and nodes that do not answer.

use std::collections::BTreeSet;
use std::process::Command;

use super::engine::Redis;
use super::nodes::{self, Node};
use super::support::{Client, Config, Kind, wait_until};

/// Clients `NAME-0`, `NAME-1`, ... with connections at a node.
fn devices(node: &Node, name: &str, count: usize) -> Vec<Client> {
    (0..count)
        .map(|number| {
            let mut client = node.client(Kind::Udp);
            client.create(&format!("{name}-{number}"));
            client
        })
        .collect()
}

fn names(page: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let clients = page["data"].as_array().unwrap().iter();
    clients
        .map(|client| (text(&client["clientid"]), text(&client["node"])))
        .collect()
}

/// All clients, page by page.
fn walk(node: &Node, limit: usize, more: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for page in 1..100 {
        let answer = node.get(&format!("clients?page={page}&limit={limit}{more}"));
        let found = names(&answer);
        assert!(found.len() <= limit, "{answer}");
        all.extend(found);
        if answer["meta"]["hasnext"] != true {
            return all;
        }
    }
    panic!("no last page: {all:?}");
}

#[test]
fn clients_of_all_nodes_are_listed_shown_and_kicked_at_each_of_them() {
    let redis = Redis::start();
    // No client says a word while the pages are turned.
    let config = || Config::new().connection_mode().set("coap", "heartbeat = \"0s\"");
    let nodes: Vec<Node> = ["a", "b", "c"]
        .iter()
        .map(|name| nodes::start(&redis, name, config()))
        .collect();
    for node in &nodes {
        node.metric_becomes("group_nodes", &[], 3.0);
    }
    let kept: Vec<Vec<Client>> = nodes
        .iter()
        .zip(["x", "y", "z"])
        .map(|(node, name)| devices(node, name, 5))
        .collect();
    for node in &nodes {
        for limit in [1, 2, 4, 5, 7, 15, 100] {
            let all = walk(node, limit, "");
            let once: BTreeSet<_> = all.iter().cloned().collect();
            assert_eq!((all.len(), once.len()), (15, 15), "{limit}: {all:?}");
            assert!(once.contains(&("y-3".to_owned(), "b".to_owned())), "{all:?}");
            let sorted = walk(node, limit, "&sort=clientid&order=desc");
            let wanted: Vec<String> = ["z", "y", "x"]
                .iter()
                .flat_map(|name| (0..5).rev().map(move |n| format!("{name}-{n}")))
                .collect();
            assert_eq!(
                sorted.into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
                wanted,
                "{limit}"
            );
        }
        let few = node.get("clients?like_clientid=y-&limit=100");
        assert_eq!(
            (names(&few).len(), few["meta"]["count"].as_u64()),
            (5, Some(5)),
            "{few}"
        );
        let (_, own) = node.ask("GET", "clients?limit=100", "Portcullis-Scope: local\r\n", "");
        let own: serde_json::Value = serde_json::from_str(&own).unwrap();
        assert_eq!(names(&own).len(), 5, "{own}");
        assert_eq!(node.get("clients/z-2")["node"], "c");
    }
    assert_eq!(nodes[0].ask("DELETE", "clients/y-1", "", "").0, 204);
    nodes[1].metric_becomes("connections", &[], 4.0);
    assert_eq!(nodes[0].ask("DELETE", "clients/y-1", "", "").0, 404);
    assert!(
        nodes[1].log().contains("@a"),
        "the audit line says who asked, and where"
    );
    let output = nodes[2].command_line(&["clients", "list"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("NODE") && text.contains("x-4") && text.contains("y-4"),
        "{text}"
    );
    let output = nodes[2].command_line(&["group", "status"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.lines().count() == 4, "{text}");
    drop(kept);
}

#[test]
fn a_node_that_does_not_answer_is_named() {
    let redis = Redis::start();
    let config = || Config::new().connection_mode().set("group", "lease = \"1m\"");
    let nodes: Vec<Node> = ["a", "b"]
        .iter()
        .map(|name| nodes::start(&redis, name, config()))
        .collect();
    for node in &nodes {
        wait_until("both live", || {
            node.group()["nodes"].as_array().is_some_and(|all| all.len() == 2)
        });
    }
    let kept = devices(&nodes[0], "x", 2);
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
    let page = nodes[0].get("clients?limit=10");
    let (status, missing) = nodes[0].ask("GET", "clients/nobody", "", "");
    signal("-CONT");
    assert!(
        status == 502 && missing.contains("node b ("),
        "{status} {missing}"
    );
    assert_eq!(names(&page).len(), 2, "{page}");
    assert!(page["unreachable"].to_string().contains("node b ("), "{page}");
    assert!(page["meta"]["count"].is_null(), "{page}");
    drop(kept);
}

#[test]
fn nobody_without_the_key_asks_a_node() {
    let redis = Redis::start();
    let node = nodes::start(&redis, "a", Config::new());
    node.metric_becomes("group_nodes", &[], 1.0);
    // In the clear, and with a TLS that has no key.
    let address = format!("127.0.0.1:{}", node.port.number);
    let said = super::support::http::get(address.parse().unwrap(), "/api/v1/status");
    assert!(
        said.is_err() || said.as_ref().is_ok_and(|(status, _)| *status != 200),
        "{said:?}"
    );
    let mut client = Command::new("openssl");
    let output = client
        .args(["s_client", "-connect", &address, "-tls1_3"])
        .stdin(std::process::Stdio::null())
        .output();
    assert!(!output.unwrap().status.success());
    // What nodes ask is not served where others come in.
    for what in ["check", "commit"] {
        assert_eq!(node.ask_at("POST", &format!("/group/v1/{what}"), "", "{}").0, 404);
    }
    node.assert_serves();
}
