//! What is tried with every database, through the gateway.

use super::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option, wait_until};

/// Everybody may publish below `open/`.
const ACL: &str = "pattern readwrite open/#\n";

/// What every gateway of these tests has.
pub fn with_acl(config: Config) -> Config {
    config
        .set("authorization", "acl_file = \"acl\"")
        .file("acl", ACL)
        .set("admin", "bind = \"127.0.0.1:0\"")
        .set("limits", "failed_logins_per_minute = 0")
}

/// A publish to `topic` as `user`.
pub fn publish(client: &mut Client, topic: &str, user: &str, password: &str) -> Message {
    let request = Request::post(&format!("ps/{topic}"))
        .payload("x")
        .query("clientid=c1");
    client.request(
        &request
            .query(format!("username={user}"))
            .query(format!("password={password}")),
    )
}

/// Users of the page and of the tests: right, wrong, unknown, superuser, rules and an end of their own.
pub fn judges(gateway: &Gateway, kind: Kind) {
    let mut client = gateway.client(kind);
    let client = &mut client;
    publish(client, "open/t", "alice", "correct horse").expect(code::CHANGED);
    let wrong = publish(client, "open/t", "alice", "correct horses").expect(code::UNAUTHORIZED);
    let unknown = publish(client, "open/t", "eve", "correct horse").expect(code::UNAUTHORIZED);
    assert_eq!(wrong.text(), "Login Failed: bad username or password");
    assert_eq!(wrong.payload, unknown.payload, "who exists is not told");
    publish(client, "secret/t", "alice", "correct horse").expect(code::UNAUTHORIZED);
    publish(client, "secret/t", "root", "battery staple").expect(code::CHANGED);
    publish(client, "secret/t", "root", "correct horse").expect(code::UNAUTHORIZED);
    publish(client, "own/c1", "bob", "correct horse").expect(code::CHANGED);
    publish(client, "own/c2", "bob", "correct horse").expect(code::UNAUTHORIZED);
    let expired = publish(client, "open/t", "carl", "correct horse").expect(code::UNAUTHORIZED);
    assert_eq!(expired.text(), "Login Failed: credentials expired");
}

/// Names that would be something else if they were pasted into what a database is asked.
const INJECTIONS: &[&str] = &[
    "alice' OR '1'='1",
    "' OR 1=1 -- ",
    "'; DROP TABLE mqtt_user; --",
    "alice\\",
    "alice\"",
    "alice$1",
    "$1",
    "?",
    "${password}",
    "alice password_hash salt",
    "alice}",
    "alice*",
    "*",
    "al*",
    "alice)(uid=*",
    "*)(|(uid=*))",
    "alice,ou=people",
    "alice+cn=x",
    "{\"$ne\": null}",
    "\u{2019} OR 1=1",
    "",
];

/// None of the injections gets in or breaks anything, in any field.
pub fn takes_no_injections(gateway: &Gateway) {
    let mut client = gateway.client(Kind::Udp);
    for text in INJECTIONS {
        publish(&mut client, "open/t", text, "correct horse").expect(code::UNAUTHORIZED);
        publish(&mut client, "open/t", "alice", text).expect(code::UNAUTHORIZED);
        let named = Request::post("ps/open/t")
            .payload("x")
            .query("username=alice")
            .query("password=correct horse");
        let answer = client.request(&named.query(format!("clientid={text}")));
        // A wildcard in a client id is not good for patterns of the ACL.
        let right = [code::CHANGED, code::BAD_REQUEST, code::UNAUTHORIZED];
        let judged = right.contains(&answer.code) && !answer.text().contains("Login Failed");
        assert!(judged, "{text}: {} {}", answer.status(), answer.text());
    }
    publish(&mut client, "open/t", "alice", "correct horse").expect(code::CHANGED);
}

/// A publish of somebody who is there is answered. On a machine with no time left a worker may refuse some, and says so.
pub fn is_served(gateway: &Gateway, client: &mut Client, path: &str) {
    let publish = Request::post(path).payload("still here");
    wait_until("a publish is taken", || {
        let answer = client.request(&publish);
        if answer.code == code::CHANGED {
            return true;
        }
        answer.expect(code::UNAVAILABLE);
        wait_until("it is told why", || {
            gateway.metric("limits_rejected_total", &["limit=\"overload\""]) > 0.0
        });
        std::thread::sleep(ms(200));
        false
    });
}

/// A device `odd`, about which the server has nothing of use, gets 5.03 whenever it comes, and others come in meanwhile as ever.
pub fn is_odd_to_one_alone(config: Config) -> Gateway {
    let gateway = Gateway::start(config);
    let mut client = gateway.client(Kind::Udp);
    for (user, password) in [
        ("alice", "correct horse"),
        ("dora", "correct horse"),
        ("root", "battery staple"),
    ] {
        publish(&mut client, "open/t", "odd", "pw").expect(code::UNAVAILABLE);
        publish(&mut client, "open/t", user, password).expect(code::CHANGED);
    }
    assert_eq!(gateway.metric("authentication_backend_up", &[]), 1.0);
    gateway
}

/// No injection gets in where the question holds every field that a device can write: `alice` is known as `c1` alone.
pub fn takes_no_injections_in_any_field(config: Config, table: &str) {
    let gateway = Gateway::start(config);
    let mut clients = [gateway.client(Kind::Udp), gateway.client(Kind::Dtls)];
    let mut login = |clientid: &str, user: &str, password: &str, wanted: &[u8]| {
        for client in &mut clients {
            let request = Request::post("ps/open/t").payload("x");
            let request = request.query(format!("clientid={clientid}"));
            let request = request.query(format!("username={user}"));
            let answer = client.request(&request.query(format!("password={password}")));
            assert!(
                wanted.contains(&answer.code),
                "{table}: {clientid:?} {user:?} {password:?}: {} {}",
                answer.status(),
                answer.text()
            );
        }
    };
    login("c1", "alice", "correct horse", &[code::CHANGED]);
    for text in INJECTIONS {
        // What is no client id is refused before anybody is asked.
        let refused = [code::UNAUTHORIZED, code::BAD_REQUEST];
        login(text, "alice", "correct horse", &refused);
        login("c1", text, "correct horse", &[code::UNAUTHORIZED]);
        login("c1", "alice", text, &[code::UNAUTHORIZED]);
    }
    assert_eq!(
        gateway.metric("authentications_total", &["result=\"unavailable\""]),
        0.0
    );
    for client in &mut clients {
        publish(client, "open/t", "alice", "correct horse").expect(code::CHANGED);
    }
}

/// While the server is away who was let in just now comes in, who was not is told to come again, and who has a connection is
/// not concerned.
pub fn serves_without(gateway: &Gateway, stop: impl FnOnce(), start: impl FnOnce()) {
    let mut client = gateway.client(Kind::Udp);
    publish(&mut client, "open/t", "alice", "correct horse").expect(code::CHANGED);
    let create = Request::post("mqtt/connection?clientid=standing");
    let create = create.query("username=root").query("password=battery staple");
    let token = client.request(&create).expect(code::CREATED).text();
    stop();
    publish(&mut client, "open/t", "alice", "correct horse").expect(code::CHANGED);
    assert_eq!(client.heartbeat("standing", &token), code::CHANGED);
    let away = publish(&mut client, "open/t", "dora", "correct horse").expect(code::UNAVAILABLE);
    assert!(away.uint(option::MAX_AGE).is_some(), "{away:?}");
    gateway.metric_becomes("authentication_backend_up", &[], 0.0);
    let status = gateway.command("status").output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    let of_logins = |line: &&str| line.starts_with("logins") && !line.ends_with("answers");
    assert!(said.lines().any(|line| of_logins(&line)), "{said}");
    start();
    wait_until("the server is asked again", || {
        publish(&mut client, "open/t", "dora", "correct horse").code == code::CHANGED
    });
    gateway.metric_becomes("authentication_backend_up", &[], 1.0);
    assert_eq!(client.heartbeat("standing", &token), code::CHANGED);
}
