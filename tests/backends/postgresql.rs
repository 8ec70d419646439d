//! PostgreSQL.

use std::path::PathBuf;
use std::process::Command;

use super::servers::{Running, command, run, works};
use super::support::pki::Pki;
use super::support::{Config, Gateway, Kind, code, wait_until};
use super::{page, tries};

pub const PASSWORD: &str = "a password of the gateway";

pub struct Postgresql {
    pub running: Running,
}

/// The newest of the servers that are installed; Debian keeps them off the path.
fn program(name: &str) -> String {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed");
    let mut all: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    let newest = all.last().expect("postgresql is installed");
    newest.join("bin").join(name).display().to_string()
}

impl Postgresql {
    /// A server with what the page and the tests put into it.
    pub fn start(pki: &Pki) -> Self {
        let mut running = Running::new();
        let data = running.shown("data");
        let mut init = command(&program("initdb"));
        init.args([
            "--no-sync",
            "--auth=scram-sha-256",
            "--username=admin",
            "-D",
            &data,
        ]);
        let secret = running.write("admin.password", "admin");
        run(init.arg(format!("--pwfile={secret}")), "");
        let [cert, key, _] = running.install(pki);
        let port = running.port.number.to_string();
        let socket = format!("unix_socket_directories={}", running.path("").display());
        let files = [format!("ssl_cert_file={cert}"), format!("ssl_key_file={key}")];
        running.started_by(&[
            &program("postgres"),
            "-D",
            &data,
            "-p",
            &port,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            &socket,
            "-c",
            "fsync=off",
            "-c",
            "ssl=on",
            "-c",
            &files[0],
            "-c",
            &files[1],
        ]);
        let mut server = Self { running };
        server.up();
        server.sql("postgres", "CREATE DATABASE devices");
        server.sql(
            "devices",
            &page::block("sql postgresql").replace("'secret'", &format!("'{PASSWORD}'")),
        );
        server.sql("devices", MORE);
        server
    }

    fn client(&self, database: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.env("PGPASSWORD", "admin").args([
            "-h",
            "127.0.0.1",
            "-U",
            "admin",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            database,
        ]);
        psql.args(["-p", &self.running.port.number.to_string()]);
        psql
    }

    pub fn sql(&self, database: &str, text: &str) -> String {
        run(self.client(database).arg("-qAt"), text)
    }

    pub fn up(&mut self) {
        let mut probe = self.client("postgres");
        probe.args(["-c", "SELECT 1"]);
        self.running.start(|| works(&mut probe));
    }

    pub fn config(&self) -> Config {
        let there = format!("127.0.0.1:{}", self.running.port.number);
        let config = page::config("postgresql", "127.0.0.1:5432", &there);
        tries::with_acl(config).file("postgresql.password", PASSWORD)
    }
}

/// A superuser, rules, an end, and a hash that tells how it was made (Argon2id of `correct horse`).
const MORE: &str = r#"
INSERT INTO mqtt_user VALUES
  ('root', encode(sha256('s1battery staple'), 'hex'), 's1', true, NULL, NULL, 'hq'),
  ('bob', encode(sha256('s2correct horse'), 'hex'), 's2', false, '[{"permission": "allow", "action": "publish", "topic": "own/${clientid}"}]', NULL, NULL),
  ('carl', encode(sha256('s3correct horse'), 'hex'), 's3', false, NULL, now() - interval '1 minute', NULL),
  ('dora', '$sha256$suffix$c2FsdA$' || encode(sha256('correct horsesalt'), 'base64'), NULL, false, NULL, now() + interval '1 day', NULL);
"#;

#[test]
fn a_login_is_judged_by_what_a_row_says() {
    let server = Postgresql::start(&Pki::new());
    let gateway = Gateway::start(server.config());
    page::login_works(&gateway);
    tries::judges(&gateway, Kind::Udp);
    tries::judges(&gateway, Kind::Dtls);
    tries::takes_no_injections(&gateway);
    assert_eq!(
        server.sql("devices", "SELECT count(*) FROM mqtt_user").trim(),
        "5"
    );
    let log = gateway.log();
    assert!(!log.contains("correct horse") && !log.contains(PASSWORD), "{log}");
}

#[test]
fn a_database_that_is_stopped_concerns_only_who_is_new() {
    let mut server = Postgresql::start(&Pki::new());
    let gateway = Gateway::start(server.config());
    let server = std::cell::RefCell::new(&mut server);
    tries::serves_without(
        &gateway,
        || server.borrow_mut().running.stop(),
        || server.borrow_mut().up(),
    );
}

#[test]
fn a_column_of_numbers_and_a_wrong_query_are_told_apart() {
    let server = Postgresql::start(&Pki::new());
    server.sql("devices", "CREATE TABLE numbered (id bigint, hash text); INSERT INTO numbered VALUES (7, '$sha256$prefix$c2FsdA$' || encode(sha256('saltpw'), 'base64'))");
    server.sql("devices", "GRANT SELECT ON numbered TO portcullis");
    let config = |query: &str| {
        server
            .config()
            .replace("authentication.postgresql", "query", &format!("\"{query}\""))
    };
    let gateway = Gateway::start(config(
        "SELECT hash AS password_hash FROM numbered WHERE id = ${username}",
    ));
    let mut client = gateway.client(Kind::Udp);
    tries::publish(&mut client, "open/t", "7", "pw").expect(code::CHANGED);
    for nobody in ["8", "seven", "7 OR 1=1", "99999999999999999999"] {
        tries::publish(&mut client, "open/t", nobody, "pw").expect(code::UNAUTHORIZED);
    }
    let gateway = Gateway::start(config("SELECT hsah FROM numbered WHERE id = ${username}"));
    let mut client = gateway.client(Kind::Udp);
    tries::publish(&mut client, "open/t", "7", "pw").expect(code::UNAVAILABLE);
    wait_until("the log says why", || {
        gateway.log().contains("the query is wrong")
    });
}

#[test]
fn a_server_with_a_certificate_of_others_is_not_spoken_to() {
    let pki = Pki::new();
    let server = Postgresql::start(&pki);
    let with = |anchor: &[u8]| {
        let config = server.config().file("anchor.pem", anchor);
        let gateway = Gateway::start(config.set(
            "authentication.postgresql.tls",
            "enable = true\nca_file = \"anchor.pem\"",
        ));
        tries::publish(&mut gateway.client(Kind::Udp), "open/t", "alice", "correct horse").code
    };
    assert_eq!(with(&pki.ca.cert_pem()), code::CHANGED);
    assert_eq!(with(&Pki::new().ca.cert_pem()), code::UNAVAILABLE);
}

#[test]
fn no_field_of_a_login_is_a_part_of_the_question() {
    let server = Postgresql::start(&Pki::new());
    let query = "SELECT password_hash, salt FROM mqtt_user WHERE username = ${username} AND ${clientid} = 'c1' AND ${password} <> '' \
                 AND coalesce(${identity}, '') IN ('', 'dev1') AND ${peerhost} LIKE '127.%' AND ${listener} = 'default'";
    let table = "authentication.postgresql";
    let config = server.config().replace(table, "query", &format!("\"{query}\""));
    tries::takes_no_injections_in_any_field(config, table);
}

#[test]
fn a_function_that_fails_for_one_device_keeps_no_other_out() {
    let server = Postgresql::start(&Pki::new());
    let function = "CREATE FUNCTION known(name text) RETURNS text LANGUAGE plpgsql AS \
                    $$ BEGIN IF name = 'odd' THEN RAISE 'no such device: %', name; END IF; RETURN name; END $$";
    server.sql("devices", function);
    let query = "\"SELECT password_hash, salt FROM mqtt_user WHERE username = known(${username})\"";
    let config = server
        .config()
        .replace("authentication.postgresql", "query", query);
    tries::is_odd_to_one_alone(config);
}
