//! Who may publish and read what: mosquitto's ACL file over both transports, and the command that explains it.

use std::process::Command;

use crate::support::{Client, Config, Gateway, Kind, Request, code, ms};

const ACL: &str = "\
# everyone who is known by a name
user ann
topic read fleet/#
topic deny fleet/secret/#
topic write orders/+

pattern readwrite own/%c/#
pattern read user/%u/#
pattern readwrite dev/%i/#
";

fn config() -> Config {
    // Names without passwords: what counts here is what a name may do.
    Config::new()
        .set("authorization", "acl_file = \"acl\"")
        .file("acl", ACL)
        .dtls("identity = \"username\"")
}

/// A client's requests are all made under these names.
struct Named {
    client: Client,
    names: Vec<String>,
}

impl Named {
    fn new(client: Client, names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { client, names }
    }

    fn named(&self, mut request: Request) -> Request {
        for name in &self.names {
            request = request.query(name);
        }
        request
    }

    #[track_caller]
    fn publishes(&mut self, topic: &str, wanted: u8) {
        let request = self.named(Request::post(&format!("ps/{topic}")).payload("x"));
        self.client.request(&request).expect(wanted);
    }

    #[track_caller]
    fn subscribes(&mut self, filter: &str, wanted: u8) -> Vec<u8> {
        let token = self.client.next_token();
        let request = self.named(Request::get(&format!("ps/{filter}")).observe(0).token(&token));
        self.client.request(&request).expect(wanted);
        token
    }
}

#[test]
fn an_acl_file_decides_about_publishing_subscribing_and_each_message() {
    let gateway = Gateway::start(config());
    let mut ann = Named::new(gateway.client(Kind::Udp), &["username=ann", "clientid=c1"]);
    ann.publishes("orders/1", code::CHANGED);
    ann.publishes("orders/1/2", code::UNAUTHORIZED);
    ann.publishes("fleet/a", code::UNAUTHORIZED);
    ann.publishes("own/c1/a", code::CHANGED);
    ann.publishes("own/c2/a", code::UNAUTHORIZED);
    ann.publishes("dev/c1/a", code::UNAUTHORIZED);
    // A filter is judged by all that it covers.
    for denied in ["#", "+/a", "orders/1", "fleet/secret/#", "own/+/a", "user/bob/x"] {
        ann.subscribes(denied, code::UNAUTHORIZED);
    }
    ann.subscribes("own/c1/#", code::CONTENT);
    ann.subscribes("user/ann/+", code::CONTENT);
    let fleet = ann.subscribes("fleet/#", code::CONTENT);
    let request = ann.named(Request::get("ps/fleet/secret/a"));
    ann.client.request(&request).expect(code::UNAUTHORIZED);

    gateway.write("acl", format!("{ACL}user admin\ntopic #\n").as_bytes());
    assert!(gateway.reloaded());
    let mut admin = Named::new(gateway.client(Kind::Udp), &["username=admin"]);
    admin.publishes("fleet/secret/a", code::CHANGED);
    admin.publishes("fleet/open", code::CHANGED);
    // What a filter covers is still judged message by message.
    let first = ann.client.notification(&fleet);
    assert_eq!(first.text(), "x");
    ann.client.no_notification(&fleet, ms(300));
    assert!(
        gateway.metric(
            "authorizations_total",
            &["action=\"receive\"", "result=\"denied\""]
        ) >= 1.0
    );
}

#[test]
fn a_proved_identity_stands_for_i_and_for_the_user() {
    let gateway = Gateway::start(config());
    let mut device = Named::new(gateway.client_as(Kind::Dtls, "dev1"), &["clientid=c9"]);
    device.publishes("dev/dev1/a", code::CHANGED);
    device.publishes("dev/dev2/a", code::UNAUTHORIZED);
    device.publishes("own/c9/a", code::CHANGED);
    device.subscribes("user/dev1/#", code::CONTENT);
    device.subscribes("user/dev2/#", code::UNAUTHORIZED);
    // A name that was only said is no proved one, and cannot be a wildcard either.
    let mut plain = Named::new(gateway.client(Kind::Udp), &["username=dev1", "clientid=dev1"]);
    plain.publishes("dev/dev1/a", code::UNAUTHORIZED);
    for name in ["+", "#", "c9/a"] {
        let names = [format!("clientid={name}"), format!("username={name}")];
        let names = names.each_ref().map(String::as_str);
        let mut sly = Named::new(gateway.client(Kind::Udp), &names);
        sly.publishes("own/c9/a", code::UNAUTHORIZED);
        sly.subscribes("user/ann/x", code::UNAUTHORIZED);
    }
}

#[test]
fn a_broken_acl_file_keeps_the_rules_before_and_says_where() {
    let gateway = Gateway::start(config());
    let mut ann = Named::new(gateway.client(Kind::Udp), &["username=ann"]);
    ann.publishes("orders/1", code::CHANGED);
    gateway.write("acl", b"user ann\ntopic raed orders/#\n");
    assert!(!gateway.reloaded());
    gateway.says("acl, line 2");
    ann.publishes("orders/1", code::CHANGED);
    gateway.write("acl", b"user ann\n\xff\n");
    assert!(!gateway.reloaded(), "bytes that are no text are no rule");
    gateway.write("acl", b"# nobody may do anything\n");
    assert!(gateway.reloaded());
    ann.publishes("orders/1", code::UNAUTHORIZED);
}

#[test]
fn acl_check_says_what_the_gateway_does_and_which_line_decides() {
    let gateway = Gateway::start(config());
    let explain = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["acl", "check"])
            .args(arguments)
            .arg("--config")
            .arg(gateway.path("portcullis.toml"))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, said) = explain(&["ann", "publish", "orders/1"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said, "allowed by line 5 of the ACL file: topic write orders/+\n");
    let (_, said) = explain(&["ann", "receive", "fleet/secret/a"]);
    assert_eq!(
        said,
        "denied by line 4 of the ACL file: topic deny fleet/secret/#\n"
    );
    let (_, said) = explain(&["ann", "publish", "elsewhere"]);
    assert!(said.starts_with("denied: no line matches"), "{said}");
    // The same cases over the wire.
    let mut ann = Named::new(gateway.client(Kind::Udp), &["username=ann"]);
    ann.publishes("orders/1", code::CHANGED);
    ann.publishes("elsewhere", code::UNAUTHORIZED);
    gateway.write("acl", b"user ann\n\xff\n");
    let (status, _) = explain(&["ann", "publish", "orders/1"]);
    assert_eq!(status, Some(65), "what is no text is not guessed at");
}
