//! Redis: one server, a master behind a sentinel, a cluster.

use std::process::Command;

use super::servers::{Running, run};
use super::support::pki::Pki;
use super::support::{Config, Gateway, Kind, code, wait_until};
use super::{page, tries};

pub const PASSWORD: &str = "a password of the gateway";

pub struct Redis {
    pub running: Running,
}

impl Redis {
    /// A server; `more` of its configuration.
    pub fn start(more: &str) -> Self {
        let mut running = Running::new();
        let port = running.port.number;
        let directory = running.shown("");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {directory}\nsave \"\"\nappendonly yes\nappendfsync always\nrequirepass admin\nmasterauth admin\n{more}\n"
        );
        let file = running.write("redis.conf", text);
        running.started_by(&["redis-server", &file]);
        let mut server = Self { running };
        server.up();
        server
    }

    fn cli(&self) -> Command {
        let mut cli = Command::new("redis-cli");
        cli.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.running.port.number.to_string(),
            "--no-auth-warning",
            "-a",
            "admin",
        ]);
        cli
    }

    pub fn say(&self, text: &str) -> String {
        run(&mut self.cli(), text)
    }

    /// What the page and the tests put into it.
    pub fn fill(&self) {
        let said =
            self.say(&(page::block("text redis").replace(">secret", &format!("\">{PASSWORD}\"")) + MORE));
        assert!(!said.contains("ERR") && !said.contains("MOVED"), "{said}");
    }

    pub fn up(&mut self) {
        let port = self.running.port.number;
        self.running
            .start(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        wait_until("it answers", || {
            let output = self.cli().arg("PING").output().unwrap();
            output.stdout.starts_with(b"PONG")
        });
    }

    pub fn at(&self) -> String {
        format!("127.0.0.1:{}", self.running.port.number)
    }
}

pub fn config(there: &str) -> Config {
    let config = page::config("redis", "127.0.0.1:6379", there);
    tries::with_acl(config).file("redis.password", PASSWORD)
}

/// SHA-256 of the salt and the password, by Python's hashlib.
const MORE: &str = r#"
HSET mqtt_user:root password_hash 7eae589372577768eb0b05474861e8f2bb3e7f404e7b6cc692441fd5f97c204d salt s1 is_superuser 1
HSET mqtt_user:bob password_hash 53f1f7171e77310a5428a62906e36ce9fa2bb8bfc265ccc9460cd251db8e0ce5 salt s2 acl "[{\"permission\": \"allow\", \"action\": \"publish\", \"topic\": \"own/${clientid}\"}]"
HSET mqtt_user:carl password_hash 8226b7b4882039534fbdb624b71d86b59cf36a99c461db701192b158a43a5fbf salt s3 expire_at 1700000000
HSET mqtt_user:dora password_hash $sha256$suffix$c2FsdA$n+NyCAC8BTzorAU7AQEsEfh4qDAh0HpRtPLX0dsQdAo expire_at 4000000000
"#;

#[test]
fn a_login_is_judged_by_what_a_hash_says() {
    let server = Redis::start("");
    server.fill();
    let gateway = Gateway::start(config(&server.at()));
    page::login_works(&gateway);
    tries::judges(&gateway, Kind::Udp);
    tries::judges(&gateway, Kind::Dtls);
    tries::takes_no_injections(&gateway);
    assert_eq!(server.say("DBSIZE\n").trim(), "5");
    let log = gateway.log();
    assert!(!log.contains("correct horse") && !log.contains(PASSWORD), "{log}");
}

#[test]
fn a_server_that_is_stopped_concerns_only_who_is_new() {
    let mut server = Redis::start("");
    server.fill();
    let gateway = Gateway::start(config(&server.at()));
    let server = std::cell::RefCell::new(&mut server);
    let start = || {
        server.borrow_mut().up();
        // Its accounts are not kept, what it holds is.
        server.borrow_mut().fill();
    };
    tries::serves_without(&gateway, || server.borrow_mut().running.stop(), start);
}

#[test]
fn a_server_with_a_certificate_of_others_is_not_spoken_to() {
    let pki = Pki::new();
    let files = Running::new();
    let [cert, key, ca] = files.install(&pki);
    let tls_port = files.port.number;
    let server = Redis::start(&format!(
        "tls-port {tls_port}\ntls-cert-file {cert}\ntls-key-file {key}\ntls-ca-cert-file {ca}\ntls-auth-clients no"
    ));
    server.fill();
    let with = |anchor: &[u8]| {
        let config = config(&format!("127.0.0.1:{tls_port}")).file("anchor.pem", anchor);
        let gateway = Gateway::start(config.set(
            "authentication.redis.tls",
            "enable = true\nca_file = \"anchor.pem\"",
        ));
        tries::publish(&mut gateway.client(Kind::Udp), "open/t", "alice", "correct horse").code
    };
    assert_eq!(with(&pki.ca.cert_pem()), code::CHANGED);
    assert_eq!(with(&Pki::new().ca.cert_pem()), code::UNAVAILABLE);
}

#[test]
fn a_master_is_found_by_its_sentinel_and_its_successor_too() {
    let mut master = Redis::start("");
    let replica = Redis::start(&format!("replicaof 127.0.0.1 {}", master.running.port.number));
    master.fill();
    let mut sentinel = Running::new();
    let (port, at) = (sentinel.port.number, master.running.port.number);
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor devices 127.0.0.1 {at} 1\nsentinel auth-pass devices admin\nsentinel down-after-milliseconds devices 1000\nsentinel failover-timeout devices 5000\n",
        sentinel.shown("")
    );
    let file = sentinel.write("sentinel.conf", text);
    sentinel.started_by(&["redis-sentinel", &file]);
    sentinel.start(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    wait_until("the replica is known", || {
        let output = Command::new("redis-cli")
            .args(["-p", &port.to_string(), "SENTINEL", "REPLICAS", "devices"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).contains(&replica.running.port.number.to_string())
    });
    wait_until("it has what the master has", || {
        replica.say("DBSIZE\n").trim() == "5"
    });
    replica.say(&format!(
        "ACL SETUSER portcullis on \">{PASSWORD}\" ~mqtt_user:* +hmget +ping\n"
    ));
    let config = config(&format!("127.0.0.1:{port}")).set(
        "authentication.redis",
        "redis_type = \"sentinel\"\nsentinel = \"devices\"",
    );
    let gateway = Gateway::start(config);
    let mut client = gateway.client(Kind::Udp);
    tries::publish(&mut client, "open/t", "alice", "correct horse").expect(code::CHANGED);
    master.running.stop();
    wait_until("the successor is asked", || {
        tries::publish(&mut client, "open/t", "dora", "correct horse").code == code::CHANGED
    });
}

#[test]
fn whichever_node_of_a_cluster_has_the_user_is_asked() {
    let nodes: Vec<Redis> = (0..3)
        .map(|_| Redis::start("cluster-enabled yes\ncluster-port 0\ncluster-node-timeout 5000"))
        .collect();
    let mut create = Command::new("redis-cli");
    create.args(["--no-auth-warning", "-a", "admin", "--cluster", "create"]);
    create.args(nodes.iter().map(Redis::at)).arg("--cluster-yes");
    run(&mut create, "");
    for node in &nodes {
        wait_until("the cluster stands", || {
            node.say("CLUSTER INFO\n").contains("cluster_state:ok")
        });
        node.say(&format!(
            "ACL SETUSER portcullis on \">{PASSWORD}\" ~mqtt_user:* +hmget +ping\n"
        ));
    }
    let mut cli = nodes[0].cli();
    let said = run(cli.arg("-c"), &format!("{}{MORE}", page::block("text redis")));
    assert!(!said.contains("ERR"), "{said}");
    let there = format!("{},{}", nodes[0].at(), nodes[1].at());
    let gateway = Gateway::start(config(&there).set("authentication.redis", "redis_type = \"cluster\""));
    tries::judges(&gateway, Kind::Udp);
    tries::takes_no_injections(&gateway);
}

#[test]
fn no_field_of_a_login_is_a_part_of_the_question() {
    let server = Redis::start("");
    server.fill();
    server.say("COPY mqtt_user:alice mqtt_user:c1/alice/default\n");
    let table = "authentication.redis";
    let cmd = "\"HMGET mqtt_user:${clientid}/${username}/${listener} password_hash salt\"";
    tries::takes_no_injections_in_any_field(config(&server.at()).replace(table, "cmd", cmd), table);
}

#[test]
fn a_key_that_holds_something_else_keeps_no_other_device_out() {
    let server = Redis::start("");
    server.fill();
    server.say("SET mqtt_user:odd \"no hash\"\n");
    tries::is_odd_to_one_alone(config(&server.at()));
}
