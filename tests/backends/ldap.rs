//! LDAP, by OpenLDAP's slapd.

use std::process::Command;

use super::servers::{Running, run, works};
use super::support::pki::Pki;
use super::support::ports::{self, Port};
use super::support::{Config, Gateway, Kind, code};
use super::{page, tries};

pub const PASSWORD: &str = "a password of the gateway";

pub struct Slapd {
    pub running: Running,
    tls: Port,
}

impl Slapd {
    /// A server with what the page and the tests put into it.
    pub fn start(pki: &Pki) -> Self {
        let mut running = Running::new();
        let tls = ports::reserve();
        let [cert, key, ca] = running.install(pki);
        let data = running.shown("data");
        run(super::servers::command("mkdir").arg(&data), "");
        let schemas = page::block("text schema") + &page::block("text psk-schema");
        let schema = running.write("mqtt.schema", schemas);
        let text = format!(
            "include /etc/ldap/schema/core.schema\ninclude {schema}\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             TLSCertificateFile {cert}\nTLSCertificateKeyFile {key}\nTLSCACertificateFile {ca}\npidfile {pid}\n\
             database mdb\ndbnosync\nindex objectClass,uid eq\nsuffix \"dc=example,dc=net\"\nrootdn \"cn=admin,dc=example,dc=net\"\nrootpw admin\ndirectory {data}\n\
             access to attrs=userPassword by anonymous auth by dn=\"cn=hashes,dc=example,dc=net\" read by * none\n\
             access to attrs=deviceKey by dn=\"cn=portcullis,dc=example,dc=net\" read by * none\n\
             access to * by users read by anonymous auth\n",
            pid = running.shown("pid"),
        );
        let file = running.write("slapd.conf", text);
        let urls = format!(
            "ldap://127.0.0.1:{} ldaps://127.0.0.1:{}",
            running.port.number, tls.number
        );
        running.started_by(&["slapd", "-d", "0", "-f", &file, "-h", &urls]);
        let mut server = Self { running, tls };
        server.up();
        let text =
            page::block("text ldif").replace("userPassword: secret", &format!("userPassword: {PASSWORD}"));
        server.ldif(&format!("{text}{MORE}"));
        server
    }

    /// Adds entries.
    pub fn ldif(&self, text: &str) {
        run(self.client("ldapadd").arg("-x"), text);
    }

    fn client(&self, program: &str) -> Command {
        let mut client = Command::new(program);
        client.args(["-H", &format!("ldap://127.0.0.1:{}", self.running.port.number)]);
        client.args(["-D", "cn=admin,dc=example,dc=net", "-w", "admin"]);
        client
    }

    pub fn up(&mut self) {
        let mut probe = self.client("ldapwhoami");
        probe.arg("-x");
        self.running.start(|| works(&mut probe));
    }

    pub fn config(&self) -> Config {
        let there = format!("127.0.0.1:{}", self.running.port.number);
        let config = page::config("ldap", "127.0.0.1:389", &there);
        tries::with_acl(config).file("ldap.password", PASSWORD)
    }

    /// The same by an account that reads hashes.
    pub fn by_hash(&self) -> Config {
        let table = "authentication.ldap";
        let account = "\"cn=hashes,dc=example,dc=net\"";
        let config = self.config().replace(table, "username", account);
        config.set(table, "method = \"hash\"")
    }
}

/// A superuser, rules, a hash beside a password in the clear (which slapd itself takes), and an account that may read both.
const MORE: &str = "
dn: uid=root,ou=devices,dc=example,dc=net
objectClass: account
objectClass: mqttUser
uid: root
userPassword: battery staple
isSuperuser: TRUE

dn: uid=bob,ou=devices,dc=example,dc=net
objectClass: account
objectClass: mqttUser
uid: bob
userPassword: correct horse
mqttPublishTopic: own/${clientid}

dn: uid=dora,ou=devices,dc=example,dc=net
objectClass: account
objectClass: mqttUser
uid: dora
userPassword: correct horse
userPassword: {SSHA256}n+NyCAC8BTzorAU7AQEsEfh4qDAh0HpRtPLX0dsQdApzYWx0

dn: cn=hashes,dc=example,dc=net
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: hashes
userPassword: a password of the gateway
";

/// As with the others, save that no entry has an end.
fn judges(gateway: &Gateway, kind: Kind) {
    let mut client = gateway.client(kind);
    let client = &mut client;
    tries::publish(client, "open/t", "alice", "correct horse").expect(code::CHANGED);
    let wrong = tries::publish(client, "open/t", "alice", "correct horses").expect(code::UNAUTHORIZED);
    let unknown = tries::publish(client, "open/t", "eve", "correct horse").expect(code::UNAUTHORIZED);
    assert_eq!(wrong.payload, unknown.payload, "who exists is not told");
    tries::publish(client, "open/t", "alice", "").expect(code::UNAUTHORIZED);
    tries::publish(client, "secret/t", "alice", "correct horse").expect(code::UNAUTHORIZED);
    tries::publish(client, "secret/t", "root", "battery staple").expect(code::CHANGED);
    tries::publish(client, "own/c1", "bob", "correct horse").expect(code::CHANGED);
    tries::publish(client, "own/c2", "bob", "correct horse").expect(code::UNAUTHORIZED);
}

#[test]
fn a_login_is_judged_by_a_bind_as_the_entry() {
    let server = Slapd::start(&Pki::new());
    let gateway = Gateway::start(server.config());
    page::login_works(&gateway);
    judges(&gateway, Kind::Udp);
    judges(&gateway, Kind::Dtls);
    tries::takes_no_injections(&gateway);
    let log = gateway.log();
    assert!(!log.contains("correct horse") && !log.contains(PASSWORD), "{log}");
}

#[test]
fn a_login_is_judged_by_the_hash_in_an_attribute() {
    let server = Slapd::start(&Pki::new());
    let gateway = Gateway::start(server.by_hash());
    let mut client = gateway.client(Kind::Udp);
    tries::publish(&mut client, "open/t", "dora", "correct horse").expect(code::CHANGED);
    tries::publish(&mut client, "open/t", "dora", "correct horses").expect(code::UNAUTHORIZED);
    tries::publish(&mut client, "open/t", "eve", "correct horse").expect(code::UNAUTHORIZED);
    // In clear in the directory, which is no hash.
    tries::publish(&mut client, "open/t", "alice", "correct horse").expect(code::UNAVAILABLE);
}

#[test]
fn a_filter_that_leaves_open_who_is_meant_lets_nobody_in() {
    let server = Slapd::start(&Pki::new());
    let config = server.config().replace(
        "authentication.ldap",
        "filter",
        "\"(|(uid=${username})(uid=bob))\"",
    );
    let gateway = Gateway::start(config);
    let mut client = gateway.client(Kind::Udp);
    tries::publish(&mut client, "own/c1", "bob", "correct horse").expect(code::CHANGED);
    tries::publish(&mut client, "open/t", "alice", "correct horse").expect(code::UNAVAILABLE);
}

#[test]
fn a_directory_that_is_stopped_concerns_only_who_is_new() {
    let mut server = Slapd::start(&Pki::new());
    let gateway = Gateway::start(server.config());
    let server = std::cell::RefCell::new(&mut server);
    tries::serves_without(
        &gateway,
        || server.borrow_mut().running.stop(),
        || server.borrow_mut().up(),
    );
}

#[test]
fn a_server_with_a_certificate_of_others_is_not_spoken_to() {
    let pki = Pki::new();
    let server = Slapd::start(&pki);
    let there = format!("\"127.0.0.1:{}\"", server.tls.number);
    let with = |anchor: &[u8]| {
        let config = server.config().file("anchor.pem", anchor);
        let config = config.replace("authentication.ldap", "server", &there);
        let tls = "enable = true\nca_file = \"anchor.pem\"";
        let gateway = Gateway::start(config.set("authentication.ldap.tls", tls));
        tries::publish(&mut gateway.client(Kind::Udp), "open/t", "alice", "correct horse").code
    };
    assert_eq!(with(&pki.ca.cert_pem()), code::CHANGED);
    assert_eq!(with(&Pki::new().ca.cert_pem()), code::UNAVAILABLE);
}

#[test]
fn no_field_of_a_login_is_a_part_of_the_question() {
    let server = Slapd::start(&Pki::new());
    let text = "dn: ou=c1,ou=devices,dc=example,dc=net\nobjectClass: organizationalUnit\nou: c1\n\n\
                dn: uid=alice,ou=c1,ou=devices,dc=example,dc=net\nobjectClass: account\nobjectClass: mqttUser\nuid: alice\n\
                userPassword: correct horse\nl: default\n";
    server.ldif(text);
    let table = "authentication.ldap";
    let config = server
        .config()
        .replace(
            table,
            "base_dn",
            "\"ou=${clientid},ou=devices,dc=example,dc=net\"",
        )
        .replace(table, "filter", "\"(&(uid=${username})(l=${listener}))\"");
    tries::takes_no_injections_in_any_field(config, table);
}

#[test]
fn an_entry_without_a_password_or_that_is_there_twice_keeps_no_other_device_out() {
    let server = Slapd::start(&Pki::new());
    let entry = |unit: &str, name: &str, more: &str| {
        format!(
            "dn: uid={name},{unit}ou=devices,dc=example,dc=net\nobjectClass: account\nobjectClass: mqttUser\nuid: {name}\n{more}\n"
        )
    };
    let unit = "dn: ou=attic,ou=devices,dc=example,dc=net\nobjectClass: organizationalUnit\nou: attic\n\n";
    let odd = entry("ou=attic,", "odd", "userPassword: pw\n") + &entry("", "odd", "userPassword: pw\n");
    server.ldif(&format!("{unit}{odd}{}", entry("", "bare", "")));
    let gateway = tries::is_odd_to_one_alone(server.config());
    let mut client = gateway.client(Kind::Udp);
    for _ in 0..3 {
        tries::publish(&mut client, "open/t", "bare", "correct horse").expect(code::UNAUTHORIZED);
        tries::publish(&mut client, "own/c1", "bob", "correct horse").expect(code::CHANGED);
    }
}
