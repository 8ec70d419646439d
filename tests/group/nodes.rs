//! Gateways of one group, and their management interface by its Unix socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::engine::{PASSWORD, Redis};
use super::support::{Config, Gateway, ports, wait_until};

/// What `group.key` holds.
pub const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A gateway, and where the others reach it.
pub struct Node {
    pub gateway: Gateway,
    pub port: ports::Port,
}

impl std::ops::Deref for Node {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

/// A node that is not started yet.
pub fn prepare(redis: &Redis, name: &str, config: Config) -> Node {
    let url = format!("redis://127.0.0.1:{}", redis.port());
    prepare_at(&url, name, config)
}

/// The same with another way to the engine.
pub fn prepare_at(url: &str, name: &str, config: Config) -> Node {
    let port = ports::reserve();
    let config = config
        .set("node", &format!("name = \"{name}\""))
        .set("admin", "bind = \"\"\nsocket = \"admin.sock\"")
        .or("group", "url", &format!("{url:?}"))
        .or("group", "bind", &format!("\"127.0.0.1:{}\"", port.number))
        .or("group", "password_file", "\"engine.password\"")
        .file("engine.password", format!("{PASSWORD}\n"));
    let has_key = config.files.iter().any(|(name, _)| name == "group.key");
    let config = if has_key {
        config
    } else {
        config.file("group.key", KEY)
    };
    Node {
        gateway: Gateway::prepare(&config),
        port,
    }
}

pub fn start(redis: &Redis, name: &str, config: Config) -> Node {
    let mut node = prepare(redis, name, config);
    node.gateway.launch();
    node
}

/// Nodes `a`, `b`, ... that know each other.
pub fn group(redis: &Redis, count: usize) -> Vec<Node> {
    let names = ["a", "b", "c", "d"];
    let nodes: Vec<Node> = names[..count]
        .iter()
        .map(|name| start(redis, name, Config::new()))
        .collect();
    for node in &nodes {
        node.metric_becomes("group_nodes", &[], count as f64);
    }
    nodes
}

impl Node {
    /// Status and body of a request to the management interface.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        self.ask_at(method, &format!("/api/v1/{path}"), headers, body)
    }

    /// The same of a whole path.
    pub fn ask_at(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.path("admin.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // At once: one that refuses by the head alone need not wait for the rest.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap();
        (status, body.to_owned())
    }

    /// The same with a JSON body.
    pub fn change(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.ask(
            method,
            path,
            "Content-Type: application/json\r\n",
            &body.to_string(),
        );
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, text) = self.ask("GET", path, "", "");
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// What `status` says of the group.
    pub fn group(&self) -> Value {
        self.get("status")["group"].clone()
    }

    /// The id that it has.
    pub fn id(&self) -> u64 {
        self.group()["node_id"].as_u64().unwrap_or_default()
    }

    /// Events of these kinds so far, as text.
    pub fn events(&self, kinds: &str) -> String {
        self.ask("GET", &format!("events?follow=false&kind={kinds}"), "", "")
            .1
    }

    /// A command of the command line with this node's configuration.
    pub fn command_line(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .args(words)
            .arg("--config")
            .arg(self.path("portcullis.toml"));
        command.output().unwrap()
    }

    #[track_caller]
    pub fn fault_becomes(&self, wanted: &str) {
        wait_until(&format!("a fault with {wanted:?}"), || {
            self.group()["fault"]
                .as_str()
                .is_some_and(|fault| fault.contains(wanted))
        });
    }
}
