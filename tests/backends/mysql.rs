//! MySQL's protocol, by MariaDB.

use std::process::Command;

use super::servers::{Running, command, run, works};
use super::support::pki::Pki;
use super::support::{Config, Gateway, Kind, code, wait_until};
use super::{page, tries};

pub const PASSWORD: &str = "a password of the gateway";

pub struct Mariadb {
    pub running: Running,
}

impl Mariadb {
    /// A server with what the page and the tests put into it.
    pub fn start(pki: &Pki) -> Self {
        let mut running = Running::new();
        let data = format!("--datadir={}", running.shown("data"));
        // A server that starts removes what another one has at work in a directory for both.
        let temporary = format!("--tmpdir={}", running.shown(""));
        let mut init = command("mariadb-install-db");
        init.args([
            "--no-defaults",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ]);
        run(init.args([&data, &temporary]).current_dir(running.path("")), "");
        let [cert, key, ca] = running.install(pki);
        let socket = running.shown("socket");
        let more = [
            format!("--port={}", running.port.number),
            format!("--socket={socket}"),
            format!("--pid-file={}", running.shown("pid")),
            format!("--ssl-cert={cert}"),
            format!("--ssl-key={key}"),
            format!("--ssl-ca={ca}"),
        ];
        let mut words = vec!["mariadbd", "--no-defaults", &data, &temporary];
        words.extend(["--bind-address=127.0.0.1", "--innodb-buffer-pool-size=8M"]);
        words.extend(more.iter().map(String::as_str));
        running.started_by(&words);
        let mut server = Self { running };
        server.up();
        server.sql("CREATE DATABASE devices");
        let text = page::block("sql mysql").replace("'secret'", &format!("'{PASSWORD}'"));
        server.sql(&format!("USE devices;\n{text}{MORE}"));
        server
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
        client.arg(format!("--socket={}", self.running.shown("socket")));
        client
    }

    pub fn sql(&self, text: &str) -> String {
        run(&mut self.client(), text)
    }

    pub fn up(&mut self) {
        let mut probe = self.client();
        probe.args(["-e", "SELECT 1"]);
        self.running.start(|| works(&mut probe));
    }

    pub fn config(&self) -> Config {
        let there = format!("127.0.0.1:{}", self.running.port.number);
        let config = page::config("mysql", "127.0.0.1:3306", &there);
        tries::with_acl(config).file("mysql.password", PASSWORD)
    }
}

/// A superuser, rules, an end, and a hash that tells how it was made.
const MORE: &str = r#"
INSERT INTO mqtt_user VALUES
  ('root', SHA2('s1battery staple', 256), 's1', true, NULL, NULL, 'hq'),
  ('bob', SHA2('s2correct horse', 256), 's2', false, '[{"permission": "allow", "action": "publish", "topic": "own/${clientid}"}]', NULL, NULL),
  ('carl', SHA2('s3correct horse', 256), 's3', false, NULL, NOW() - INTERVAL 1 MINUTE, NULL),
  ('dora', CONCAT('$sha256$suffix$c2FsdA$', TO_BASE64(UNHEX(SHA2('correct horsesalt', 256)))), NULL, false, NULL, NOW() + INTERVAL 1 DAY, NULL);
"#;

#[test]
fn a_login_is_judged_by_what_a_row_says() {
    let server = Mariadb::start(&Pki::new());
    let gateway = Gateway::start(server.config());
    page::login_works(&gateway);
    tries::judges(&gateway, Kind::Udp);
    tries::judges(&gateway, Kind::Dtls);
    tries::takes_no_injections(&gateway);
    assert_eq!(server.sql("SELECT count(*) FROM devices.mqtt_user").trim(), "5");
    let log = gateway.log();
    assert!(!log.contains("correct horse") && !log.contains(PASSWORD), "{log}");
}

#[test]
fn a_database_that_is_stopped_concerns_only_who_is_new() {
    let mut server = Mariadb::start(&Pki::new());
    let gateway = Gateway::start(server.config());
    let server = std::cell::RefCell::new(&mut server);
    tries::serves_without(
        &gateway,
        || server.borrow_mut().running.stop(),
        || server.borrow_mut().up(),
    );
}

#[test]
fn a_time_that_needs_a_zone_and_a_wrong_query_are_told_apart() {
    let server = Mariadb::start(&Pki::new());
    for (query, why) in [
        (
            "SELECT password_hash, salt, expire_at FROM mqtt_user WHERE username = ${username}",
            "UNIX_TIMESTAMP",
        ),
        (
            "SELECT password_hsah FROM mqtt_user WHERE username = ${username}",
            "password_hsah",
        ),
    ] {
        let config = server
            .config()
            .replace("authentication.mysql", "query", &format!("\"{query}\""));
        let gateway = Gateway::start(config);
        let mut client = gateway.client(Kind::Udp);
        tries::publish(&mut client, "open/t", "dora", "correct horse").expect(code::UNAVAILABLE);
        wait_until("the log says why", || gateway.log().contains(why));
    }
}

#[test]
fn a_server_with_a_certificate_of_others_is_not_spoken_to() {
    let pki = Pki::new();
    let server = Mariadb::start(&pki);
    let with = |anchor: &[u8]| {
        let config = server.config().file("anchor.pem", anchor);
        let tls = "enable = true\nca_file = \"anchor.pem\"";
        let gateway = Gateway::start(config.set("authentication.mysql.tls", tls));
        tries::publish(&mut gateway.client(Kind::Udp), "open/t", "alice", "correct horse").code
    };
    assert_eq!(with(&pki.ca.cert_pem()), code::CHANGED);
    assert_eq!(with(&Pki::new().ca.cert_pem()), code::UNAVAILABLE);
}

#[test]
fn no_field_of_a_login_is_a_part_of_the_question() {
    let server = Mariadb::start(&Pki::new());
    let query = "SELECT password_hash, salt FROM mqtt_user WHERE username = ${username} AND ${clientid} = 'c1' AND ${password} <> '' \
                 AND coalesce(${identity}, '') IN ('', 'dev1') AND ${peerhost} LIKE '127.%' AND ${listener} = 'default'";
    let table = "authentication.mysql";
    let config = server.config().replace(table, "query", &format!("\"{query}\""));
    tries::takes_no_injections_in_any_field(config, table);
}

#[test]
fn a_function_that_fails_for_one_device_keeps_no_other_out() {
    let server = Mariadb::start(&Pki::new());
    server.sql(
        "USE devices;\nDELIMITER //\nCREATE FUNCTION known(name text) RETURNS int DETERMINISTIC BEGIN \
         IF name = 'odd' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no such device'; END IF; RETURN 1; END//\n\
         DELIMITER ;\nGRANT EXECUTE ON FUNCTION known TO portcullis@'%';",
    );
    let query = "\"SELECT password_hash, salt, is_superuser FROM mqtt_user WHERE username = ${username} AND known(${username}) = 1\"";
    let config = server.config().replace("authentication.mysql", "query", query);
    tries::is_odd_to_one_alone(config);
}
