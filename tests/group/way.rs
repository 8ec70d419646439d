//! The way to the engine: it goes silent, it holds back what takes long, it leads past servers that are gone.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};

use super::engine::Redis;
use super::nodes::{self, Node};
use super::support::{Config, ms, wait_until};

/// What lies between a node and the engine.
#[derive(Default)]
struct Way {
    /// Connections that were made.
    made: AtomicUsize,
    /// Those up to this one are silent for ever, but stand.
    silent: AtomicUsize,
    /// Questions with these bytes are held back, and with them all of their connection.
    held_back: Mutex<Option<&'static [u8]>>,
    /// Connections that are held back, while the node has not given them up.
    holds: AtomicUsize,
}

impl Way {
    /// A way to `redis`, and the address where it begins.
    fn to(redis: &Redis) -> (Arc<Self>, String) {
        let (way, server) = (Arc::new(Self::default()), redis.port());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let lead = Arc::clone(&way);
        spawn(move || {
            for (client, number) in listener.incoming().zip(1..) {
                let (client, engine) = (
                    client.unwrap(),
                    TcpStream::connect(("127.0.0.1", server)).unwrap(),
                );
                let (from, to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
                lead.made.store(number, Ordering::SeqCst);
                let (there, back) = (Arc::clone(&lead), Arc::clone(&lead));
                spawn(move || there.carry(number, from, to));
                spawn(move || back.carry(number, engine, client));
            }
        });
        (way, url)
    }

    fn is_silent(&self, number: usize) -> bool {
        self.silent.load(Ordering::SeqCst) >= number
    }

    fn carry(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..length];
            let wanted = *self.held_back.lock().unwrap();
            let is_wanted = |what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
            if wanted.is_some_and(is_wanted) {
                self.holds.fetch_add(1, Ordering::SeqCst);
                // Until the node gives it up.
                while let Ok(1..) = from.read(&mut vec![0; 65_536]) {}
                self.holds.fetch_sub(1, Ordering::SeqCst);
                break;
            }
            if !self.is_silent(number) && to.write_all(bytes).is_err() {
                break;
            }
        }
        _ = to.shutdown(Shutdown::Both);
    }
}

/// How long the lease of a node lasts still, in milliseconds; below 0 where there is none.
fn left(redis: &Redis, id: u64) -> i64 {
    let said = redis.say(&format!("PTTL portcullis:{{group}}:node:{id}\n"));
    said.trim().parse().unwrap()
}

/// Whether a lease is renewed so many times while `is_so`.
fn is_renewed(redis: &Redis, id: u64, times: usize, is_so: impl Fn() -> bool) -> bool {
    let (mut before, mut renewed) = (left(redis, id), 0);
    while renewed < times {
        sleep(ms(50));
        let now = left(redis, id);
        if before < 0 || now < 0 || !is_so() {
            return false;
        }
        renewed += usize::from(now > before);
        before = now;
    }
    true
}

fn start_at(url: &str, name: &str) -> Node {
    let mut node = nodes::prepare_at(url, name, Config::new());
    node.gateway.launch();
    node
}

#[test]
fn what_takes_long_at_the_engine_holds_up_no_renewal() {
    let redis = Redis::start();
    let (way, url) = Way::to(&redis);
    *way.held_back.lock().unwrap() = Some(b"manifest");
    let node = start_at(&url, "a");
    node.metric_becomes("group_nodes", &[], 1.0);
    wait_until(
        "the lease is renewed while the configuration is waited for",
        || {
            wait_until("it is asked for", || way.holds.load(Ordering::SeqCst) > 0);
            is_renewed(&redis, node.id(), 2, || way.holds.load(Ordering::SeqCst) > 0)
        },
    );
    assert_eq!(node.metric("group_config_applied_version", &[]), 0.0);
    *way.held_back.lock().unwrap() = None;
    node.metric_becomes("group_config_applied_version", &[], 1.0);
    node.assert_serves();
}

#[test]
fn a_connection_to_the_engine_that_goes_silent_costs_no_lease() {
    let redis = Redis::start();
    let (way, url) = Way::to(&redis);
    let node = start_at(&url, "a");
    node.metric_becomes("group_config_applied_version", &[], 1.0);
    let id = node.id();
    wait_until("the lease is had all along", || {
        if !is_renewed(&redis, id, 1, || true) {
            return false;
        }
        let made = way.made.load(Ordering::SeqCst);
        way.silent.store(made, Ordering::SeqCst);
        let again = || way.made.load(Ordering::SeqCst) > made;
        while !again() {
            sleep(ms(20));
            if left(&redis, id) < 0 {
                return false;
            }
        }
        is_renewed(&redis, id, 1, || true)
    });
    node.assert_serves();
}

#[test]
fn a_server_that_says_nothing_keeps_no_node_from_those_behind_it() {
    let redis = Redis::start();
    // It takes connections, as a machine does whose process hangs.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sentinel = super::servers::Running::new();
    let port = sentinel.port.number;
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor gateways 127.0.0.1 {} 1\nsentinel auth-pass gateways \"{}\"\n",
        sentinel.shown(""),
        redis.port(),
        super::engine::PASSWORD
    );
    let file = sentinel.write("sentinel.conf", text);
    sentinel.started_by(&["redis-sentinel", &file]);
    sentinel.start(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
    let silent = silent.local_addr().unwrap();
    let node = start_at(
        &format!("redis+sentinel://{silent},{silent},127.0.0.1:{port}/gateways"),
        "a",
    );
    node.metric_becomes("group_nodes", &[], 1.0);
    node.metric_becomes("group_config_applied_version", &[], 1.0);
    node.assert_serves();
}

#[test]
fn ids_that_are_none_take_the_place_of_no_node_and_are_taken_out() {
    let redis = Redis::start();
    let key = "portcullis:{group}:nodes";
    let junk = |digit: char| {
        let ids: Vec<String> = (0..3_000).map(|n| format!("{digit}{n:04}")).collect();
        redis.say(&format!("SADD {key} {} 70000 99999 00\n", ids.join(" ")));
    };
    let known = || redis.say(&format!("SCARD {key}\n")).trim().to_owned();
    junk('x');
    let nodes = nodes::group(&redis, 2);
    for digit in ['0', 'y'] {
        junk(digit);
        wait_until("they are gone", || known() == "2");
        for node in &nodes {
            assert_eq!(node.metric("group_nodes", &[]), 2.0);
        }
    }
    for node in &nodes {
        node.assert_serves();
    }
}

#[test]
fn a_part_that_is_longer_than_any_node_wrote_is_not_read_by_one_that_joins() {
    let redis = Redis::start();
    let node = nodes::start(&redis, "a", Config::new());
    node.metric_becomes("group_config_applied_version", &[], 1.0);
    let before = most_memory(&node);
    let config = "portcullis:{group}:config";
    let fields = redis.say(&format!("HKEYS {config}\n"));
    let field = fields.lines().find(|field| field.starts_with("part:")).unwrap();
    redis.feed(&["HSET", config, field], &vec![b'x'; 96 << 20]);
    let joining = nodes::start(&redis, "b", Config::new());
    joining.says("in the engine was not written with this group.key, or is damaged");
    assert!(most_memory(&joining) < before + 48, "{before} MiB before");
    // The first has it still, and gives it anew.
    redis.say(&format!("DEL {config}\n"));
    wait_until("both have it", || {
        let version = node.metric("group_config_version", &[]);
        version > 0.0 && joining.metric("group_config_applied_version", &[]) == version
    });
    for node in [&node, &joining] {
        node.assert_serves();
    }
}

/// The most memory that a node had so far, in MiB.
fn most_memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024
}

#[test]
fn what_somebody_writes_to_the_engine_is_not_read_whole_by_every_node() {
    let redis = Redis::start();
    let nodes = nodes::group(&redis, 2);
    for node in &nodes {
        node.metric_becomes("group_config_applied_version", &[], 1.0);
    }
    let before: Vec<u64> = nodes.iter().map(most_memory).collect();
    let large = vec![b'x'; 96 << 20];
    redis.put("portcullis:{group}:node:7", &large);
    redis.put("portcullis:{group}:tickets", &large);
    let config = "portcullis:{group}:config";
    redis.feed(&["HSET", config, "manifest"], &large);
    redis.say(&format!("HSET {config} version 99\n"));
    for node in &nodes {
        node.says("the shared configuration in the engine");
    }
    redis.say(&format!("DEL {config}\n"));
    let (key, id) = ("portcullis:{group}:nodes", nodes[0].id());
    // Ids that are none, another way to write one that is, and a lease that is no text.
    redis.say(&format!(
        "SADD {key} 7 9 0{id} x 70000 {}\nRPUSH portcullis:{{group}}:node:9 x\nSET portcullis:{{group}}:node:0{id} x\n",
        "9".repeat(5_000)
    ));
    for node in &nodes {
        node.fault_becomes("another group.key");
        assert_eq!(node.metric("group_nodes", &[]), 2.0);
    }
    redis.say(&format!(
        "DEL portcullis:{{group}}:node:7 portcullis:{{group}}:node:9\nSREM {key} 7 9\n"
    ));
    for (node, before) in nodes.iter().zip(before) {
        wait_until("the fault is mended", || node.group()["fault"].is_null());
        wait_until("the configuration is there again", || {
            let version = node.metric("group_config_version", &[]);
            version > 0.0 && version < 99.0 && node.metric("group_config_applied_version", &[]) == version
        });
        assert_eq!(node.metric("group_nodes", &[]), 2.0);
        assert!(most_memory(node) < before + 48, "{before} MiB before");
        node.assert_serves();
    }
}
