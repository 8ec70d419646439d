//! MongoDB's protocol, by mongo-java-server: `make test-peers`.

use std::path::PathBuf;

use mongodb::bson::{Document, serialize_to_document};

use super::servers::Running;
use super::support::pki::Pki;
use super::support::{Config, Gateway, Kind, code};
use super::{page, tries};

/// What `tests/interop/peers.sh` makes.
fn home() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/target").into(),
        PathBuf::from,
    );
    target.join("interop/mongodb")
}

pub struct Mongo {
    pub running: Running,
    /// How the tests speak to it.
    query: String,
}

impl Mongo {
    /// A server with what the page and the tests put into it.
    pub fn start() -> Self {
        Self::start_with(Running::new(), &[])
    }

    /// The same, spoken to by TLS.
    fn start_tls(pki: &Pki) -> Self {
        let running = Running::new();
        let [cert, key, _] = running.install(pki);
        let ca = running.shown("ca.pem");
        Self::start_with(running, &[cert, key, ca])
    }

    /// With certificate, key, and the authority that vouches for them, where it speaks TLS.
    fn start_with(mut running: Running, tls: &[String]) -> Self {
        let home = home().display().to_string();
        let classes = format!("{home}:{home}/lib/*");
        let port = running.port.number.to_string();
        let mut words = vec!["java", "-Xmx64m", "-cp", &classes, "DocumentServer", &port];
        words.extend(tls.iter().take(2).map(String::as_str));
        running.started_by(&words);
        let query = tls.last().map(|ca| format!("/?tls=true&tlsCAFile={ca}"));
        let query = query.unwrap_or_default();
        let mut server = Self { running, query };
        server.up();
        server
    }

    pub fn up(&mut self) {
        let port = self.running.port.number;
        self.running
            .start(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        self.fill();
    }

    fn fill(&self) {
        self.insert("mqtt_user", &(page::block("text mongodb") + MORE));
    }

    /// Adds documents, one a line.
    pub fn insert(&self, collection: &str, lines: &str) {
        let url = format!("mongodb://127.0.0.1:{}{}", self.running.port.number, self.query);
        insert(&url, collection, lines);
    }

    pub fn config(&self) -> Config {
        let there = format!("127.0.0.1:{}", self.running.port.number);
        tries::with_acl(page::config("mongodb", "127.0.0.1:27017", &there))
    }
}

fn insert(url: &str, collection: &str, lines: &str) {
    let document = |line| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        serialize_to_document(&value).unwrap()
    };
    let documents: Vec<Document> = lines.lines().map(document).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = mongodb::Client::with_uri_str(url).await.unwrap();
        let all = client.database("devices").collection::<Document>(collection);
        all.insert_many(documents).await.unwrap();
    });
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

#[test]
#[ignore = "needs Maven: make test-peers"]
fn a_server_with_a_certificate_of_others_is_not_spoken_to() {
    let pki = Pki::new();
    let server = Mongo::start_tls(&pki);
    let with = |anchor: &[u8]| {
        let config = server.config().file("anchor.pem", anchor);
        let config = config.replace("authentication.mongodb", "query_timeout", "\"3s\"");
        let tls = "enable = true\nca_file = \"anchor.pem\"";
        let gateway = Gateway::start(config.set("authentication.mongodb.tls", tls));
        let answer = tries::publish(&mut gateway.client(Kind::Udp), "open/t", "alice", "correct horse");
        let log = gateway.log();
        assert!(!log.contains("correct horse"), "{log}");
        answer.code
    };
    assert_eq!(with(&pki.ca.cert_pem()), code::CHANGED);
    assert_eq!(with(&Pki::new().ca.cert_pem()), code::UNAVAILABLE);
}

#[test]
#[ignore = "needs Maven: make test-peers"]
fn no_field_of_a_login_is_a_part_of_the_question() {
    let server = Mongo::start();
    let known = r#"{"clientid": "c1", "listener": "default", "#;
    server.insert("known", &page::block("text mongodb").replacen('{', known, 1));
    let table = "authentication.mongodb";
    let config = server.config().replace(table, "collection", "\"known\"").replace(
        table,
        "filter",
        "{ username = \"${username}\", clientid = \"${clientid}\", listener = \"${listener}\" }",
    );
    tries::takes_no_injections_in_any_field(config, table);
}
