//! Who may come in: users files, HTTP servers, tokens, each by the listener that asks for it.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use argon2::{Argon2, Params, PasswordHasher};
use serde_json::{Value, json};

use crate::each_transport;
use crate::support::gateway::psk_options;
use crate::support::jwt::{Es256, hs256, in_seconds};
use crate::support::pki::Pki;
use crate::support::ports::{self, Port};
use crate::support::web::{Got, WebServer};
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, option, wait_until};

each_transport!(
    files_of_mosquitto_passwd_let_in,
    a_token_stands_for_the_login,
    an_http_server_lets_in,
    what_an_http_server_says_ends_with_its_time,
    a_token_ends_the_connection_when_it_expires,
    credentials_longer_than_an_option_come_in_the_payload,
    logins_in_progress_do_not_delay_a_publisher,
    a_guesser_is_throttled_and_nobody_else,
);

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn backend(lines: &str) -> Config {
    Config::new().set("authentication", lines)
}

fn file_backend(users: &str) -> Config {
    backend("backend = \"file\"\nfile = \"users.txt\"").file("users.txt", users)
}

/// A users file made by mosquitto's own command.
fn users(people: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    for (at, (user, password)) in people.iter().enumerate() {
        let mut command = Command::new("mosquitto_passwd");
        command.args(["-b"]).args((at == 0).then_some("-c"));
        let output = command.arg(&path).args([user, password]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    std::fs::read_to_string(path).unwrap()
}

fn publish(client: &mut Client, credentials: &[&str]) -> Message {
    let mut request = Request::post("ps/t").payload("x");
    for parameter in credentials {
        request = request.query(parameter);
    }
    client.request(&request)
}

fn login(user: &str, password: &str) -> [String; 2] {
    [format!("username={user}"), format!("password={password}")]
}

fn publish_as(client: &mut Client, user: &str, password: &str) -> Message {
    let [user, password] = login(user, password);
    publish(client, &[&user, &password])
}

fn create_as(client: &mut Client, clientid: &str, user: &str, password: &str) -> Message {
    let [user, password] = login(user, password);
    let request = Request::post(&format!("mqtt/connection?clientid={clientid}"));
    client.request(&request.query(user).query(password))
}

fn files_of_mosquitto_passwd_let_in(kind: Kind) {
    let people = users(&[("ann", "p&w=ü"), ("bob", "two")]);
    assert!(people.starts_with("ann:$7$"), "{people}");
    let gateway = Gateway::start(file_backend(&people));
    let mut client = gateway.client(kind);
    publish_as(&mut client, "ann", "p&w=ü").expect(code::CHANGED);
    publish_as(&mut client, "bob", "two").expect(code::CHANGED);
    let wrong = publish_as(&mut client, "ann", "two").expect(code::UNAUTHORIZED);
    let unknown = publish_as(&mut client, "eve", "two").expect(code::UNAUTHORIZED);
    assert_eq!(wrong.text(), "Login Failed: bad username or password");
    assert_eq!(wrong.payload, unknown.payload, "who exists is not told");
    publish(&mut client, &[]).expect(code::UNAUTHORIZED);
    publish(&mut client, &["username=ann"]).expect(code::UNAUTHORIZED);
    let subscribe = |password: &str| {
        let [user, password] = login("bob", password);
        Request::get("ps/t").observe(0).query(user).query(password)
    };
    client.request(&subscribe("ann")).expect(code::UNAUTHORIZED);
    client.observe_with(subscribe("two"));
    let refused = create_as(&mut client, "c1", "bob", "no").expect(code::UNAUTHORIZED);
    assert_eq!(refused.text(), "Login Failed: bad username or password");
    let token = create_as(&mut client, "c1", "bob", "two")
        .expect(code::CREATED)
        .text();
    assert_eq!(client.heartbeat("c1", &token), code::CHANGED);
}

fn a_token_stands_for_the_login(kind: Kind) {
    let config = file_backend(&users(&[("ann", "one")])).coap("mountpoint = \"of/${username}/\"");
    let gateway = Gateway::start(config);
    let mut client = gateway.client(kind);
    let token = create_as(&mut client, "c1", "ann", "one")
        .expect(code::CREATED)
        .text();
    let pair = ["clientid=c1".to_owned(), format!("token={token}")];
    publish(&mut client, &[&pair[0], &pair[1], "retain=1"]).expect(code::CHANGED);
    let read = Request::get("ps/t")
        .query(&login("ann", "one")[0])
        .query(&login("ann", "one")[1]);
    assert_eq!(client.request(&read).expect(code::CONTENT).text(), "x");
    publish(&mut client, &[&pair[0]]).expect(code::UNAUTHORIZED);
    publish(&mut client, &[&pair[0], "token=guessed"])
        .expect(code::UNAUTHORIZED)
        .naming("Invalid token or clientid");
}

/// Lets `right` in; what else to say stands in the user name.
fn http_answer(got: &Got) -> (u16, String) {
    let said: Value = serde_json::from_str(&got.body).unwrap();
    match (said["username"].as_str(), said["password"].as_str()) {
        (Some("nobody-home"), _) => (503, String::new()),
        (Some("no-json"), _) => (200, "allow".to_owned()),
        (Some("quiet"), Some("right")) => (204, String::new()),
        (Some("short"), Some("right")) => {
            let answer = json!({"result": "allow", "expire_at": in_seconds(5)});
            (200, answer.to_string())
        }
        (Some("narrow"), Some("right")) => {
            let acl = json!([{"permission": "allow", "action": "publish", "topic": "own/${clientid}"},
                {"permission": "deny", "action": "all", "topic": "#"}]);
            (200, json!({"result": "allow", "acl": acl}).to_string())
        }
        (_, Some("right")) => (200, json!({"result": "allow"}).to_string()),
        _ => (200, json!({"result": "deny"}).to_string()),
    }
}

fn http_backend(server: &WebServer) -> Config {
    let url = server.url("/auth");
    backend(&format!("backend = \"http\"\nhttp = {{ url = \"{url}\" }}"))
}

fn an_http_server_lets_in(kind: Kind) {
    let server = WebServer::start(http_answer);
    let gateway = Gateway::start(http_backend(&server).connection_mode());
    let mut client = gateway.client(kind);
    for user in ["ann", "quiet"] {
        create_as(&mut client, "c1", user, "right").expect(code::CREATED);
        create_as(&mut client, "c1", user, "wrong").expect(code::UNAUTHORIZED);
    }
    for user in ["nobody-home", "no-json"] {
        let answer = create_as(&mut client, "c1", user, "right");
        assert_eq!(answer.status(), "5.03", "{answer:?}");
        assert!(answer.uint(option::MAX_AGE).is_some(), "{answer:?}");
    }
    let asked = server.got();
    let first: Value = serde_json::from_str(&asked[0].body).unwrap();
    assert_eq!(
        first,
        json!({"clientid": "c1", "username": "ann", "password": "right"})
    );
    let token = create_as(&mut client, "c2", "narrow", "right")
        .expect(code::CREATED)
        .text();
    let publish = |topic: &str| Request::post(&format!("ps/{topic}?clientid=c2&token={token}")).payload("x");
    client.request(&publish("own/c2")).expect(code::CHANGED);
    client.request(&publish("own/c1")).expect(code::UNAUTHORIZED);
    client
        .request(&Request::get(&format!("ps/%23?clientid=c2&token={token}").replace("%23", "#")).observe(0))
        .expect(code::UNAUTHORIZED);
    gateway.metric_becomes(
        "authentications_total",
        &["backend=\"http\"", "result=\"unavailable\""],
        2.0,
    );
    drop(server);
    let answer = create_as(&mut client, "c3", "ann", "never-asked-before");
    assert_eq!(answer.status(), "5.03", "a server that is gone lets nobody in");
}

fn what_an_http_server_says_ends_with_its_time(kind: Kind) {
    let server = WebServer::start(http_answer);
    let gateway = Gateway::start(http_backend(&server).connection_mode());
    let mut client = gateway.client(kind);
    let short = create_as(&mut client, "c1", "short", "right")
        .expect(code::CREATED)
        .text();
    let long = create_as(&mut client, "c2", "ann", "right")
        .expect(code::CREATED)
        .text();
    assert_eq!(client.heartbeat("c1", &short), code::CHANGED);
    wait_until("the connection ends with the credential", || {
        client.heartbeat("c1", &short) == code::UNAUTHORIZED
    });
    assert_eq!(client.heartbeat("c2", &long), code::CHANGED);
}

fn jwt_backend(lines: &str) -> Config {
    backend("backend = \"jwt\"").set("authentication.jwt", lines)
}

type Sign<'a> = &'a dyn Fn(&Value) -> String;

fn a_token_ends_the_connection_when_it_expires(kind: Kind) {
    let key = Es256::new("k1");
    let shared = jwt_backend("key_file = \"jwt.key\"\nrequired_claims = { sub = \"${clientid}\" }")
        .file("jwt.key", SECRET)
        .connection_mode();
    let public = jwt_backend("key_file = \"jwt.pem\"\nrequired_claims = { sub = \"${clientid}\" }")
        .file("jwt.pem", key.public_pem())
        .connection_mode();
    let by_secret = |claims: &Value| hs256(SECRET, claims);
    let by_key = |claims: &Value| key.sign(claims);
    let stranger = Es256::new("k1");
    let signers: [(Config, Sign<'_>, String); 2] = [
        (shared, &by_secret, hs256("another secret", &json!({"sub": "c1"}))),
        (public, &by_key, stranger.sign(&json!({"sub": "c1"}))),
    ];
    for (config, sign, forged) in signers {
        let gateway = Gateway::start(config);
        let mut client = gateway.client(kind);
        let mut create = |clientid: &str, token: &str| create_as(&mut client, clientid, "u", token);
        create("c1", &forged).expect(code::UNAUTHORIZED);
        create("c1", &sign(&json!({"sub": "c2"}))).expect(code::UNAUTHORIZED);
        create("c1", &sign(&json!({"sub": "c1", "exp": 1}))).expect(code::UNAUTHORIZED);
        let forever = create("c2", &sign(&json!({"sub": "c2"})))
            .expect(code::CREATED)
            .text();
        let claims = json!({"sub": "c1", "exp": in_seconds(5), "acl": {"pub": ["a/${clientid}"]}});
        let token = create("c1", &sign(&claims)).expect(code::CREATED).text();
        client.publish(&format!("ps/a/c1?clientid=c1&token={token}"), "x");
        wait_until("the connection ends with its token", || {
            client.heartbeat("c1", &token) == code::UNAUTHORIZED
        });
        assert_eq!(client.heartbeat("c2", &forever), code::CHANGED);
    }
}

/// Claims of an ordinary token with rules, which no option can hold.
fn long_claims(client: &str) -> Value {
    let rule = |action: &str, topic: &str| json!({"permission": "allow", "action": action, "topic": format!("{topic}/{client}/#")});
    json!({
        "iss": "https://id.example.org/realms/meters",
        "sub": client,
        "exp": in_seconds(600),
        "acl": [rule("publish", "meters"), rule("subscribe", "orders")],
    })
}

/// A CBOR map of texts (RFC 8949, 3).
fn cbor_map(members: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let len = u16::try_from(text.len()).unwrap().to_be_bytes();
        [&[0x79][..], &len, text.as_bytes()].concat()
    };
    let mut map = vec![0xa0 | u8::try_from(members.len()).unwrap()];
    map.extend(
        members
            .iter()
            .flat_map(|(name, value)| [text(name), text(value)].concat()),
    );
    map
}

fn credentials_longer_than_an_option_come_in_the_payload(kind: Kind) {
    const CREATE: &str = "mqtt/connection";
    let key = Es256::new("k");
    let config = jwt_backend("key_file = \"jwt.pem\"\nrequired_claims = { sub = \"${clientid}\" }")
        .file("jwt.pem", key.public_pem())
        .connection_mode();
    let gateway = Gateway::start(config);
    let mut client = gateway.client(kind);
    let token = key.sign(&long_claims("m-31"));
    assert!(token.len() > 255);
    let json = json!({"clientid": "m-31", "p": token}).to_string();
    let form = format!("c=m%2D31&password={token}");
    let cbor = cbor_map(&[("clientid", "m-31"), ("password", &token)]);
    for request in [
        Request::post(CREATE).payload(&form),
        Request::post(CREATE).format(0).payload(&form),
        Request::post(CREATE).format(50).payload(&json),
        Request::post(CREATE).format(60).payload(&cbor),
        Request::post(&format!("{CREATE}?c=m-31")).payload(&token),
        Request::post(CREATE).format(0).payload(&token),
    ] {
        let connection = client.request(&request).expect(code::CREATED).text();
        let topic = format!("ps/meters/m-31/a?clientid=m-31&token={connection}");
        client.publish(&topic, "x");
    }
    // Block by block it is the same.
    upload(&mut client, CREATE, json.as_bytes(), 50, 64).expect(code::CREATED);
    // What is said twice, is another's, or is nothing of the kind.
    let twice = Request::post(&format!("{CREATE}?clientid=m-31"))
        .format(50)
        .payload(&json);
    client
        .request(&twice)
        .expect(code::BAD_REQUEST)
        .naming("clientid");
    let both = format!("password={token}&p=x&c=m-31");
    client
        .request(&Request::post(CREATE).payload(both))
        .expect(code::BAD_REQUEST)
        .naming("password");
    let other = Request::post(&format!("{CREATE}?c=m-32")).payload(&token);
    client.request(&other).expect(code::UNAUTHORIZED);
    assert_eq!(
        client
            .request(&Request::post(CREATE).format(42).payload(&form))
            .status(),
        "4.15"
    );
    for (format, broken) in [
        (50, &b"[1]"[..]),
        (50, b"{\"c\":"),
        (60, b"\xa1\x61c"),
        (0, b"c=%z1"),
    ] {
        let request = Request::post(CREATE).format(format).payload(broken);
        client.request(&request).expect(code::BAD_REQUEST);
    }
    let huge = format!("c=m-31&p={}", "x".repeat(60_000));
    assert_eq!(
        upload(&mut client, CREATE, huge.as_bytes(), 0, 1024).code,
        code::TOO_LARGE
    );
    assert!(!gateway.log().contains(&token[..40]));
}

/// Uploads a body in blocks; the final answer.
fn upload(client: &mut Client, uri: &str, body: &[u8], format: u32, size: usize) -> Message {
    let mut size = size;
    let mut sent = 0;
    loop {
        let end = (sent + size).min(body.len());
        let number = u32::try_from(sent / size).unwrap();
        let request = Request::post(uri)
            .format(format)
            .block1(number, end < body.len(), size)
            .payload(&body[sent..end]);
        let answer = client.request(&request);
        if end == body.len() || answer.code != code::CONTINUE {
            return answer;
        }
        sent = end;
        size = size.min(answer.block(option::BLOCK1).expect("Block1 in 2.31").size);
    }
}

#[test]
fn a_token_lets_in_a_whole_session_until_its_end() {
    let key = Es256::new("k");
    let config = jwt_backend("key_file = \"jwt.pem\"").file("jwt.pem", key.public_pem());
    let gateway = Gateway::start(config);
    let bind = |token: &str| Request::post("auth/jwt").payload(token);
    let mut claims = long_claims("m-44");
    claims["exp"] = in_seconds(12).into();
    let token = key.sign(&claims);
    let mut udp = gateway.client(Kind::Udp);
    assert_eq!(udp.request(&bind(&token)).status(), "4.03");
    let mut client = gateway.client(Kind::Dtls);
    let publish = Request::post("ps/meters/m-44/a").payload("x");
    client.request(&publish).expect(code::UNAUTHORIZED);
    client.request(&bind("a.b.c")).expect(code::UNAUTHORIZED);
    client
        .request(&Request::get("auth/jwt"))
        .expect(code::METHOD_NOT_ALLOWED);
    let bound = client.request(&bind(&token)).expect(code::CREATED);
    let left = bound.uint(option::MAX_AGE).expect("Max-Age");
    assert!(bound.payload.is_empty() && (1..=12).contains(&left), "{left}");
    client.request(&publish).expect(code::CHANGED);
    // With the rights that the token gives, for the client that it names, on this session only.
    let foreign = Request::post("ps/meters/m-45/a?clientid=m-45").payload("x");
    client.request(&foreign).expect(code::UNAUTHORIZED);
    let mut other = gateway.client_as(Kind::Dtls, "dev2");
    other.request(&publish).expect(code::UNAUTHORIZED);
    client
        .request(&Request::post("mqtt/connection"))
        .expect(code::CREATED);
    wait_until("the end of the token", || {
        client.request(&publish).code == code::UNAUTHORIZED
    });
    claims["exp"] = in_seconds(600).into();
    client.request(&bind(&key.sign(&claims))).expect(code::CREATED);
    client.request(&publish).expect(code::CHANGED);
}

#[test]
fn a_token_without_an_end_is_refused_unless_it_may_be() {
    let endless = |more: &str| {
        let lines = format!("key_file = \"jwt.key\"\n{more}");
        let gateway = Gateway::start(jwt_backend(&lines).file("jwt.key", SECRET));
        let token = crate::support::jwt::endless(SECRET, &json!({"sub": "c1"}));
        let answer = publish_as(&mut gateway.client(Kind::Udp), "u", &token);
        answer.code
    };
    assert_eq!(endless(""), code::UNAUTHORIZED);
    assert_eq!(endless("require_exp = false"), code::CHANGED);
}

/// A source port decides which worker a datagram reaches, and a guesser has 65,535 of them.
#[test]
fn a_guesser_with_many_ports_has_no_more_tries_than_with_one() {
    const ALLOWED: usize = 5;
    let config = file_backend(&users(&[("ann", "one")]))
        .connection_mode()
        .set("node", "workers = 4")
        .set("limits", &format!("failed_logins_per_minute = {ALLOWED}"));
    let gateway = Gateway::start(config);
    let mut honest = gateway.client(Kind::Udp);
    let token = create_as(&mut honest, "c1", "ann", "one")
        .expect(code::CREATED)
        .text();
    let from = |source: [u8; 4]| Client::udp_from(gateway.udp_addr(), (source, 0).into());
    let judged = |source: [u8; 4], guess: &dyn Fn(&mut Client) -> Message| {
        let answers = (0..40).map(|_| guess(&mut from(source)).code);
        let judged = answers.filter(|code| {
            assert!([code::UNAUTHORIZED, code::TOO_MANY_REQUESTS].contains(code));
            *code == code::UNAUTHORIZED
        });
        judged.count()
    };
    let tokens = judged([127, 0, 2, 1], &|client| {
        client.request(&Request::put("mqtt/connection?clientid=c1&token=guessed"))
    });
    assert_eq!(tokens, ALLOWED);
    let logins = judged([127, 0, 2, 2], &|client| {
        create_as(client, "c2", "ann", "guessed")
    });
    assert_eq!(logins, ALLOWED);
    assert_eq!(honest.heartbeat("c1", &token), code::CHANGED);
    create_as(&mut from([127, 0, 2, 3]), "c3", "ann", "one").expect(code::CREATED);
}

#[test]
fn the_log_says_why_a_login_was_refused_and_not_with_which_words() {
    let gateway = Gateway::start(file_backend(&users(&[("alice", "right horse")])));
    let mut client = gateway.client(Kind::Udp);
    let refused = publish_as(&mut client, "alice", "wrong horse");
    assert_eq!(refused.code, code::UNAUTHORIZED);
    let told = || gateway.log().matches("login refused").count();
    wait_until("the log tells of it", || told() > 0);
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("login refused")).unwrap();
    for part in ["user=\"alice\"", "bad_credentials", "listener=", "127.0.0.1"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!log.contains("horse"), "{log}");
    assert_eq!(
        log.matches("refused").count(),
        1,
        "one line tells of one login: {log}"
    );
    // Those that come at once are counted instead of told.
    for _ in 0..60 {
        publish_as(&mut client, "alice", "wrong horse");
    }
    assert!(told() < 40, "{}", told());
}

#[test]
fn the_acl_in_a_token_holds_beside_the_file() {
    let acl = "user u\ntopic readwrite own/#\n";
    let gateway = Gateway::start(
        jwt_backend("key_file = \"jwt.key\"")
            .file("jwt.key", SECRET)
            .set("authorization", "acl_file = \"acl\"")
            .file("acl", acl),
    );
    let mut client = gateway.client(Kind::Udp);
    let token = hs256(SECRET, &json!({"acl": {"pub": ["more/#"]}}));
    let plain = hs256(SECRET, &json!({"sub": "x"}));
    let mut publish = |topic: &str, token: &str| {
        let request = Request::post(&format!("ps/{topic}?username=u&password={token}")).payload("x");
        client.request(&request).status()
    };
    assert_eq!(publish("more/a", &plain), "4.01");
    assert_eq!(publish("more/a", &token), "2.04");
    assert_eq!(publish("own/a", &plain), "2.04");
    assert_eq!(publish("other", &token), "4.01");
}

#[test]
fn keys_of_a_key_set_change_while_it_serves() {
    let pki = Pki::new();
    let (old, new) = (Es256::new("old"), Es256::new("new"));
    let fetched = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&fetched);
    let sets = [json!({"keys": [old.jwk()]}), json!({"keys": [new.jwk()]})].map(|set| set.to_string());
    let server = WebServer::start_tls(&pki.server, move |got| {
        assert_eq!((got.method.as_str(), got.uri.as_str()), ("GET", "/keys"));
        let nth = usize::try_from(count.fetch_add(1, Ordering::AcqRel)).unwrap();
        (200, sets[nth.min(1)].clone())
    });
    let config = jwt_backend(&format!(
        "jwks_url = \"{}\"\nca_file = \"ca.pem\"",
        server.url("/keys")
    ));
    let gateway = Gateway::start(config.file("ca.pem", pki.ca.cert_pem()));
    let mut client = gateway.client(Kind::Udp);
    let (by_old, by_new) = (old.sign(&json!({})), new.sign(&json!({})));
    publish_as(&mut client, "u", &by_old).expect(code::CHANGED);
    // A token of an unknown key is a reason to fetch, but not each time.
    for _ in 0..3 {
        publish_as(&mut client, "u", &by_new).expect(code::UNAUTHORIZED);
    }
    assert_eq!(fetched.load(Ordering::Acquire), 1);
    wait_until("the new key is fetched", || {
        std::thread::sleep(ms(500));
        publish_as(&mut client, "u", &by_new).code == code::CHANGED
    });
    publish_as(&mut client, "u", &by_old).expect(code::UNAUTHORIZED);
    assert_eq!(fetched.load(Ordering::Acquire), 2);
}

#[test]
fn a_key_set_from_a_server_that_nobody_vouches_for_is_not_used() {
    let (pki, other) = (Pki::new(), Pki::new());
    let key = Es256::new("k");
    let set = json!({"keys": [key.jwk()]}).to_string();
    let server = WebServer::start_tls(&pki.server, move |_| (200, set.clone()));
    let config = jwt_backend(&format!(
        "jwks_url = \"{}\"\nca_file = \"ca.pem\"",
        server.url("/keys")
    ));
    let gateway = Gateway::start(config.file("ca.pem", other.ca.cert_pem()));
    let mut client = gateway.client(Kind::Udp);
    let answer = publish_as(&mut client, "u", &key.sign(&json!({})));
    assert_eq!(answer.status(), "5.03", "{answer:?}");
    assert!(server.got().is_empty());
}

/// Gateways with `default`, whose users are in a file, and `second`, which takes tokens.
fn two_backends(more: &Port) -> Config {
    file_backend(&users(&[("ann", "one")]))
        .file("jwt.key", SECRET)
        .dtls("authentication = false")
        .set(
            "listeners.udp.second",
            &format!(
                "bind = \"127.0.0.1:{}\"\n[listeners.udp.second.authentication]\nbackend = \"jwt\"\n\
                 jwt = {{ key_file = \"jwt.key\" }}",
                more.number
            ),
        )
}

#[test]
fn each_listener_asks_its_own_backend() {
    let more = ports::reserve();
    let gateway = Gateway::start(two_backends(&more));
    let mut first = gateway.client(Kind::Udp);
    let mut second = Client::udp(([127, 0, 0, 1], more.number).into());
    let token = hs256(SECRET, &json!({"sub": "ann"}));
    // What one backend lets in is no word of the other's, remembered verdicts included.
    for _ in 0..3 {
        publish_as(&mut first, "ann", "one").expect(code::CHANGED);
        publish_as(&mut second, "ann", "one").expect(code::UNAUTHORIZED);
        publish_as(&mut second, "ann", &token).expect(code::CHANGED);
        publish_as(&mut first, "ann", &token).expect(code::UNAUTHORIZED);
    }
    publish(&mut gateway.client(Kind::Dtls), &[]).expect(code::CHANGED);
    publish(&mut first, &[]).expect(code::UNAUTHORIZED);
    publish(&mut second, &[]).expect(code::UNAUTHORIZED);
    for backend in ["file", "jwt"] {
        let label = format!("backend=\"{backend}\"");
        assert!(gateway.metric("authentications_total", &[&label, "result=\"denied\""]) >= 3.0);
    }
}

#[test]
fn a_listeners_own_backend_changes_with_a_reload_and_a_broken_one_changes_nothing() {
    let more = ports::reserve();
    let gateway = Gateway::start(two_backends(&more));
    let mut second = Client::udp(([127, 0, 0, 1], more.number).into());
    let token = hs256(SECRET, &json!({"sub": "ann"}));
    publish_as(&mut second, "ann", &token).expect(code::CHANGED);

    gateway.write("jwt.key", b"short");
    assert!(!gateway.reloaded());
    wait_until("the place in the file is shown", || {
        let log = gateway.log();
        log.contains("authentication.jwt.key_file: ") && log.contains("shorter than the 32 bytes")
    });
    publish_as(&mut second, "ann", &token).expect(code::CHANGED);

    let other = "fedcba9876543210fedcba9876543210";
    gateway.write("jwt.key", other.as_bytes());
    assert!(gateway.reloaded());
    publish_as(&mut second, "ann", &token).expect(code::UNAUTHORIZED);
    let token = hs256(other, &json!({"sub": "ann"}));
    publish_as(&mut second, "ann", &token).expect(code::CHANGED);

    // A gateway that asked nobody asks after a reload.
    let text = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    let mut sealed = gateway.client(Kind::Dtls);
    publish(&mut sealed, &[]).expect(code::CHANGED);
    gateway.write(
        "portcullis.toml",
        text.replace(
            "authentication = false",
            "authentication = { backend = \"file\" }",
        )
        .as_bytes(),
    );
    assert!(gateway.reloaded());
    publish(&mut sealed, &[]).expect(code::UNAUTHORIZED);
    publish_as(&mut sealed, "ann", "one").expect(code::CHANGED);
}

#[test]
fn listeners_that_come_and_go_go_on_asking_their_own_backends() {
    const OTHER: &str = "fedcba9876543210fedcba9876543210";
    let (more, another) = (ports::reserve(), ports::reserve());
    let gateway = Gateway::start(two_backends(&more).file("other.key", OTHER));
    let at = |port: &Port| Client::udp(([127, 0, 0, 1], port.number).into());
    let token = |secret: &str| hs256(secret, &json!({"sub": "ann"}));
    let both = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    // Before the others in the file, behind them in the process.
    let added = format!(
        "[listeners.udp.added]\nbind = \"127.0.0.1:{}\"\n[listeners.udp.added.authentication]\nbackend = \"jwt\"\n\
         jwt = {{ key_file = \"other.key\" }}\n",
        another.number
    );
    let (before, second) = both.split_once("[listeners.udp.second]").unwrap();
    let without_second = second
        .find("\n[listeners.udp.default")
        .map_or(before.to_owned(), |end| format!("{before}{}", &second[end..]));
    for (text, has_second) in [
        (format!("{added}{both}"), true),
        (format!("{added}{without_second}"), false),
        (format!("{added}{both}"), true),
    ] {
        gateway.write("portcullis.toml", text.as_bytes());
        assert!(gateway.reloaded(), "{text}");
        assert_eq!(text.contains("udp.second]"), has_second);
        let mut default = gateway.client(Kind::Udp);
        publish_as(&mut default, "ann", "one").expect(code::CHANGED);
        publish_as(&mut default, "ann", &token(OTHER)).expect(code::UNAUTHORIZED);
        let mut added = at(&another);
        publish_as(&mut added, "ann", &token(OTHER)).expect(code::CHANGED);
        publish_as(&mut added, "ann", &token(SECRET)).expect(code::UNAUTHORIZED);
        publish_as(&mut added, "ann", "one").expect(code::UNAUTHORIZED);
        if has_second {
            let mut second = at(&more);
            publish_as(&mut second, "ann", &token(SECRET)).expect(code::CHANGED);
            publish_as(&mut second, "ann", &token(OTHER)).expect(code::UNAUTHORIZED);
        }
    }
}

#[test]
fn a_listener_that_asks_comes_to_a_gateway_that_asked_nobody() {
    let another = ports::reserve();
    let gateway = Gateway::start(Config::new().file("own.txt", users(&[("ann", "one")])));
    let text = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    let added = format!(
        "[listeners.udp.added]\nbind = \"127.0.0.1:{}\"\nauthentication = {{ backend = \"file\", file = \"own.txt\" }}\n",
        another.number
    );
    gateway.write("portcullis.toml", format!("{added}{text}").as_bytes());
    assert!(gateway.reloaded());
    let mut asked = Client::udp(([127, 0, 0, 1], another.number).into());
    publish(&mut asked, &[]).expect(code::UNAUTHORIZED);
    publish_as(&mut asked, "ann", "one").expect(code::CHANGED);
    publish(&mut gateway.client(Kind::Udp), &[]).expect(code::CHANGED);
}

#[test]
fn a_gateway_without_a_backend_gets_one_by_a_reload() {
    let mut config = Config::new();
    let gateway = Gateway::start(config.clone());
    let mut client = gateway.client(Kind::Udp);
    publish(&mut client, &[]).expect(code::CHANGED);
    config = config.set("authentication", "backend = \"file\"");
    gateway.write("users.txt", users(&[("ann", "one")]).as_bytes());
    gateway.configure(&config);
    assert!(gateway.reloaded());
    publish(&mut client, &[]).expect(code::UNAUTHORIZED);
    publish_as(&mut client, "ann", "one").expect(code::CHANGED);
}

#[test]
fn check_config_shows_what_is_wrong_with_a_listeners_own_backend() {
    let config = Config::new().file("own.txt", "ann:plain\n").set(
        "listeners.udp.second",
        "bind = \"127.0.0.1:0\"\nauthentication = { backend = \"file\", file = \"own.txt\" }",
    );
    let gateway = Gateway::prepare(&config);
    let output = gateway.command("check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = std::fs::read_to_string(gateway.path("portcullis.toml")).unwrap();
    let (line, content) = (1..)
        .zip(text.lines())
        .find(|(_, line)| line.starts_with("authentication ="))
        .unwrap();
    let column = content.find("\"own.txt\"").unwrap() + 1;
    assert!(
        said.contains(&format!("line {line}, column {column}")) && said.contains("own.txt, line 1"),
        "{said}"
    );
    assert!(!said.contains("plain"), "{said}");
}

#[test]
fn user_add_finds_the_file_of_a_listener() {
    let config = file_backend("").set(
        "listeners.udp.second",
        "bind = \"127.0.0.1:0\"\nauthentication = { backend = \"file\", file = \"own.txt\" }",
    );
    let gateway = Gateway::prepare(&config);
    let add = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["user", "add", "ann"]).args(more);
        command.arg("--config").arg(gateway.path("portcullis.toml"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // A command that refuses does not read it.
        drop(std::io::Write::write_all(&mut input, b"one\n"));
        drop(input);
        child.wait_with_output().unwrap()
    };
    let output = add(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--listener"), "{said}");
    assert!(add(&["--listener", "second"]).status.success());
    let read = |file: &str| std::fs::read_to_string(gateway.path(file)).unwrap_or_default();
    assert!(read("own.txt").starts_with("ann:$argon2id$") && read("users.txt").is_empty());
    assert!(add(&["--listener", "default"]).status.success());
    assert!(read("users.txt").starts_with("ann:$argon2id$"));
    assert!(!add(&["--listener", "third"]).status.success());
}

#[test]
fn users_change_with_a_reload_and_a_broken_file_keeps_those_before() {
    let gateway = Gateway::start(file_backend(&users(&[("ann", "one")])));
    let mut client = gateway.client(Kind::Udp);
    publish_as(&mut client, "ann", "one").expect(code::CHANGED);
    gateway.write("users.txt", b"# broken\nann:hunter2\n");
    assert!(!gateway.reloaded());
    gateway.says("users.txt, line 2");
    assert!(!gateway.log().contains("hunter2"));
    publish_as(&mut client, "ann", "one").expect(code::CHANGED);
    gateway.write("users.txt", users(&[("bob", "two")]).as_bytes());
    assert!(gateway.reloaded());
    publish_as(&mut client, "ann", "one").expect(code::UNAUTHORIZED);
    publish_as(&mut client, "bob", "two").expect(code::CHANGED);
}

/// A line of a users file whose password takes long to check.
fn slow_user(name: &str, password: &str) -> String {
    let params = Params::new(48 << 10, 6, 1, None).unwrap();
    let hasher = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash = hasher
        .hash_password_with_salt(password.as_bytes(), b"salt-of-the-test")
        .unwrap();
    format!("{name}:{hash}\n")
}

/// Publishes until the logins of eight others are done; nearly all of it has to come through while they are not.
fn logins_in_progress_do_not_delay_a_publisher(kind: Kind) {
    const LOGINS: u8 = 8;
    const PUBLISHES: usize = 20;
    let gateway = Gateway::start(file_backend(&slow_user("ann", "one")).connection_mode());
    let mut publisher = gateway.client(kind);
    let token = create_as(&mut publisher, "publisher", "ann", "one")
        .expect(code::CREATED)
        .text();
    let mut others: Vec<Client> = (0..LOGINS)
        .map(|n| Client::udp_from(gateway.udp_addr(), ([127, 0, 1, n], 0).into()))
        .collect();
    for (n, other) in others.iter_mut().enumerate() {
        let create = Request::post(&format!(
            "mqtt/connection?clientid=c{n}&username=ann&password=one"
        ));
        let message = other.message(&create);
        other.send(&message);
    }
    let waiting = || gateway.metric("authentications_waiting", &[]);
    wait_until("all logins wait", || waiting() >= f64::from(LOGINS) - 1.0);
    let uri = format!("ps/t?clientid=publisher&token={token}");
    let mut published = 0;
    while waiting() >= f64::from(LOGINS) / 2.0 {
        publisher
            .request(&Request::post(&uri).payload("x"))
            .expect(code::CHANGED);
        published += 1;
    }
    assert!(
        published >= PUBLISHES,
        "only {published} publishes were answered while half of the logins were not"
    );
    // On a machine that is busy enough one may have waited too long.
    let answers = [code::CREATED, code::UNAVAILABLE];
    for other in &mut others {
        wait_until("the login is answered", || {
            other
                .recv(ms(500))
                .is_some_and(|message| answers.contains(&message.code))
        });
    }
}

fn a_guesser_is_throttled_and_nobody_else(kind: Kind) {
    let people = users(&[("ann", "one")]);
    let config = file_backend(&people).set("limits", "failed_logins_per_minute = 5");
    let gateway = Gateway::start(config);
    let client_at = |address: [u8; 4]| match kind {
        Kind::Udp => Client::udp_from(gateway.udp_addr(), (address, 0).into()),
        Kind::Dtls => Client::dtls(
            gateway.dtls_addr(),
            &psk_options("dev1").local((address, 0).into()),
        ),
    };
    let mut neighbour = client_at([127, 0, 2, 2]);
    publish_as(&mut neighbour, "ann", "one").expect(code::CHANGED);
    let mut guesser = client_at([127, 0, 2, 1]);
    let answers: Vec<Message> = (0..12)
        .map(|n| publish_as(&mut guesser, "ann", &format!("guess{n}")))
        .collect();
    let judged = answers
        .iter()
        .filter(|answer| answer.code == code::UNAUTHORIZED)
        .count();
    assert_eq!(judged, 5, "{answers:?}");
    for answer in &answers[judged..] {
        assert_eq!(answer.status(), "4.29");
        assert!(
            answer.uint(option::MAX_AGE).is_some_and(|age| age <= 12),
            "{answer:?}"
        );
    }
    let right = publish_as(&mut guesser, "ann", "one");
    assert_eq!(right.status(), "4.29", "who guesses is not told when it is right");
    for _ in 0..20 {
        publish_as(&mut neighbour, "ann", "one").expect(code::CHANGED);
    }
    publish_as(&mut client_at([127, 0, 2, 3]), "ann", "one").expect(code::CHANGED);
    gateway.metric_becomes(
        "limits_rejected_total",
        &["limit=\"failed_logins_per_minute\""],
        8.0,
    );
}
