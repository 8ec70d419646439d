//! MongoDB's protocol, by mongo-java-server: `make test-peers`.

use std::path::PathBuf;

use mongodb::bson::{Document, serialize_to_document};

use super::servers::Running;
use super::support::{Config, Gateway, Kind};
use super::{page, tries};

/// What `tests/interop/peers.sh` makes.
fn home() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/target").into(),
        PathBuf::from,
    );
    target.join("interop/mongodb")
}

struct Mongo {
    running: Running,
}

impl Mongo {
    /// A server with what the page and the tests put into it.
    fn start() -> Self {
        let mut running = Running::new();
        let home = home().display().to_string();
        let classes = format!("{home}:{home}/lib/*");
        let port = running.port.number.to_string();
        running.started_by(&["java", "-Xmx64m", "-cp", &classes, "DocumentServer", &port]);
        let mut server = Self { running };
        server.up();
        server
    }

    fn up(&mut self) {
        let port = self.running.port.number;
        self.running
            .start(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        self.fill();
    }

    fn fill(&self) {
        let texts = page::block("text mongodb") + MORE;
        let documents: Vec<Document> = texts
            .lines()
            .map(|line| {
                serialize_to_document(&serde_json::from_str::<serde_json::Value>(line).unwrap()).unwrap()
            })
            .collect();
        let url = format!("mongodb://127.0.0.1:{}", self.running.port.number);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let client = mongodb::Client::with_uri_str(&url).await.unwrap();
            let users = client.database("devices").collection::<Document>("mqtt_user");
            users.insert_many(documents).await.unwrap();
        });
    }

    fn config(&self) -> Config {
        let there = format!("127.0.0.1:{}", self.running.port.number);
        tries::with_acl(page::config("mongodb", "127.0.0.1:27017", &there))
    }
}

/// A superuser, rules, an end, and a hash that tells how it was made.
const MORE: &str = r#"{"username": "root", "password_hash": "7eae589372577768eb0b05474861e8f2bb3e7f404e7b6cc692441fd5f97c204d", "salt": "s1", "is_superuser": true}
{"username": "bob", "password_hash": "53f1f7171e77310a5428a62906e36ce9fa2bb8bfc265ccc9460cd251db8e0ce5", "salt": "s2", "acl": [{"permission": "allow", "action": "publish", "topic": "own/${clientid}"}]}
{"username": "carl", "password_hash": "8226b7b4882039534fbdb624b71d86b59cf36a99c461db701192b158a43a5fbf", "salt": "s3", "expire_at": 1700000000}
{"username": "dora", "password_hash": "$sha256$suffix$c2FsdA$n+NyCAC8BTzorAU7AQEsEfh4qDAh0HpRtPLX0dsQdAo"}
"#;

#[test]
#[ignore = "needs Maven: make test-peers"]
fn a_login_is_judged_by_what_a_document_says() {
    let server = Mongo::start();
    let gateway = Gateway::start(server.config());
    page::login_works(&gateway);
    tries::judges(&gateway, Kind::Udp);
    tries::judges(&gateway, Kind::Dtls);
    tries::takes_no_injections(&gateway);
    let log = gateway.log();
    assert!(!log.contains("correct horse"), "{log}");
}

#[test]
#[ignore = "needs Maven: make test-peers"]
fn a_database_that_is_stopped_concerns_only_who_is_new() {
    let mut server = Mongo::start();
    let gateway = Gateway::start(server.config().replace(
        "authentication.mongodb",
        "query_timeout",
        "\"1s\"",
    ));
    let server = std::cell::RefCell::new(&mut server);
    tries::serves_without(
        &gateway,
        || server.borrow_mut().running.stop(),
        || server.borrow_mut().up(),
    );
}
