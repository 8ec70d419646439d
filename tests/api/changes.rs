//! Configuration, listeners, users, keys, reload.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::PLAIN;
use crate::http::{Answer, ask, delete, get, put, send};
use crate::site::Served;
use crate::support::pki::Pki;
use crate::support::{Client, Request, ms};

const COMMENTED: &str = "# The lab.\n[node]\nname = \"lab\" # in MQTT client ids\n\n[coap]\nheartbeat = \"30s\"\n\n\
                         [listeners.udp.default]\nbind = \"127.0.0.1:0\"\n";

fn put_toml(served: &Served, text: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<_> = [("Content-Type", "application/toml")]
        .into_iter()
        .chain(headers.iter().copied())
        .collect();
    ask(served.address, "PUT", "/api/v1/config", &headers, text.as_bytes())
}

#[test]
fn the_configuration_is_read_as_json_and_as_it_stands() {
    let served = Served::start(COMMENTED);
    let json = get(served.address, "/api/v1/config").expect(200);
    assert_eq!(json.json()["node"]["name"], "lab");
    let toml = ask(
        served.address,
        "GET",
        "/api/v1/config",
        &[("Accept", "application/toml")],
        b"",
    )
    .expect(200);
    assert_eq!(toml.body, COMMENTED);
    assert_eq!(toml.header("content-type"), Some("application/toml"));
    assert_eq!(toml.header("etag"), json.header("etag"));
}

#[test]
fn a_merge_patch_changes_what_it_names_and_keeps_the_comments() {
    let served = Served::start(COMMENTED);
    let patch = json!({"coap": {"heartbeat": "10s"}, "limits": {"requests_per_second": 5}});
    let report = send(served.address, "PUT", "/api/v1/config", &patch)
        .expect(200)
        .json();
    assert_eq!(report, json!({"restart_required": [], "warnings": []}));
    assert_eq!(
        served.read("portcullis.toml"),
        format!(
            "{}\n[limits]\nrequests_per_second = 5\n",
            COMMENTED.replace("30s", "10s")
        )
    );
    use portcullis::admin::api::handle::Site as _;
    assert_eq!(served.site.config().coap.heartbeat, ms(10_000));
    let report = send(
        served.address,
        "PUT",
        "/api/v1/config",
        &json!({"node": {"name": "x", "workers": 200}}),
    );
    assert_eq!(
        report.expect(200).json()["restart_required"],
        json!(["node.name", "node.workers"])
    );
}

#[test]
fn a_wrong_configuration_is_refused_with_every_error_at_its_place() {
    let served = Served::start(COMMENTED);
    let wrong = COMMENTED.replace("heartbeat", "hartbeat").replace("\"lab\"", "5");
    let error = put_toml(&served, &wrong, &[]).error(400, "invalid_config");
    let problems = error["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{error}");
    assert_eq!(
        (&problems[0]["line"], &problems[0]["column"]),
        (&json!(3), &json!(8))
    );
    assert_eq!(
        (&problems[1]["line"], &problems[1]["key"]),
        (&json!(6), &json!("coap.hartbeat"))
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("line 3, column 8: "),
        "{error}"
    );
    let error = send(
        served.address,
        "PUT",
        "/api/v1/config",
        &json!({"node": {"workers": 256}}),
    );
    assert_eq!(
        error.error(400, "invalid_config")["problems"][0]["key"],
        "node.workers"
    );
    put_toml(&served, "[node", &[]).error(400, "invalid_config");
    send(served.address, "PUT", "/api/v1/config", &json!([])).error(400, "bad_request");
    ask(
        served.address,
        "PUT",
        "/api/v1/config",
        &[("Content-Type", "text/html")],
        b"x",
    )
    .error(400, "bad_request");
    assert_eq!(served.read("portcullis.toml"), COMMENTED, "nothing was written");
}

#[test]
fn a_change_by_someone_else_is_not_overwritten() {
    let served = Served::start(COMMENTED);
    let tag = get(served.address, "/api/v1/config")
        .header("etag")
        .unwrap()
        .to_owned();
    put_toml(&served, &COMMENTED.replace("30s", "20s"), &[("If-Match", &tag)]).expect(200);
    let error = put_toml(&served, &COMMENTED.replace("30s", "10s"), &[("If-Match", &tag)]);
    error.error(409, "changed_meanwhile");
    assert!(served.read("portcullis.toml").contains("20s"));
}

#[test]
fn the_mode_of_the_configuration_stays() {
    let served = Served::start(COMMENTED);
    let file = served.path("portcullis.toml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    put_toml(&served, &COMMENTED.replace("30s", "20s"), &[]).expect(200);
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o640
    );
}

#[test]
fn a_reload_reads_the_file_and_refuses_a_broken_one() {
    let served = Served::start(COMMENTED);
    let post = || ask(served.address, "POST", "/api/v1/reload", &[], b"");
    std::fs::write(
        served.path("portcullis.toml"),
        COMMENTED.replace("lab\"", "den\""),
    )
    .unwrap();
    assert_eq!(
        post().expect(200).json()["restart_required"],
        json!(["node.name"])
    );
    std::fs::write(served.path("portcullis.toml"), "[coap]\nheartbeat = 5\n").unwrap();
    let error = post().error(409, "reload_failed");
    assert_eq!(error["problems"][0]["key"], "coap.heartbeat");
    assert_eq!(
        get(served.address, "/api/v1/status").json()["node"],
        "den",
        "the old one is in force"
    );
}

#[test]
fn a_listener_is_switched_off_and_on() {
    let served = Served::start(PLAIN);
    let mut client = Client::udp(served.coap[0]);
    client.publish("ps/t", "1");
    let uri = "/api/v1/listeners/udp/default/enable";
    let listener = put(served.address, &format!("{uri}/false")).expect(200).json();
    assert_eq!(
        (&listener["kind"], &listener["enabled"]),
        (&json!("udp"), &json!(false))
    );
    assert_eq!(get(served.address, "/api/v1/status").json()["listeners"], 0);
    assert!(client.try_request(&Request::get("ps/t"), ms(300)).is_none());
    put(served.address, &format!("{uri}/true")).expect(200);
    client.publish("ps/t", "2");
    put(served.address, &format!("{uri}/maybe")).error(400, "bad_request");
    put(served.address, "/api/v1/listeners/udp/other/enable/true").error(404, "not_found");
    put(served.address, "/api/v1/listeners/tcp/default/enable/true").error(404, "not_found");
}

fn with_users() -> Served {
    let config =
        format!("{PLAIN}authentication = false\n[authentication]\nbackend = \"file\"\nfile = \"users\"\n");
    Served::with_files(&config, &[("users", "# people\n")])
}

#[test]
fn users_are_added_listed_and_removed() {
    let served = with_users();
    let add = |body: Value| send(served.address, "POST", "/api/v1/users", &body);
    let made = add(json!({"name": "ann", "password": "s3cret"})).expect(201);
    assert_eq!(made.json(), json!({"name": "ann"}));
    add(json!({"name": "ann", "password": "other"})).error(409, "exists");
    let before = served.read("users");
    add(json!({"name": "ann", "password": "other", "replace": true})).expect(201);
    assert!(
        before != served.read("users") && before.starts_with("# people\nann:$argon2id$"),
        "{before}"
    );
    let listed = get(served.address, "/api/v1/users").expect(200).json();
    assert_eq!(listed, json!([{"name": "ann", "hash": "argon2id"}]));
    for bad in [
        json!({"name": "a:b", "password": "x"}),
        json!({"name": "", "password": "x"}),
        json!({"name": "b", "password": ""}),
        json!({"name": "b", "password": "x".repeat(20_000)}),
        json!({"name": "b"}),
        json!({"name": "b", "password": "x", "admin": true}),
    ] {
        add(bad).error(400, "bad_request");
    }
    delete(served.address, "/api/v1/users/ann").expect(204);
    delete(served.address, "/api/v1/users/ann").error(404, "not_found");
    assert_eq!(served.read("users"), "# people\n");
    let mode = std::fs::metadata(served.path("users"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn without_a_file_of_users_there_are_none() {
    let served = Served::start(PLAIN);
    get(served.address, "/api/v1/users").error(409, "no_users_file");
    send(
        served.address,
        "POST",
        "/api/v1/users",
        &json!({"name": "a", "password": "b"}),
    )
    .error(409, "no_users_file");
    delete(served.address, "/api/v1/users/a").error(409, "no_users_file");
    get(served.address, "/api/v1/psk").error(409, "no_psk_file");
}

/// Two DTLS listeners with files of keys of their own; only the files matter here.
fn with_keys() -> Served {
    let config = format!(
        "{PLAIN}[listeners.dtls.a]\nbind = \"127.0.0.1:0\"\npsk_file = \"keys-a\"\n\
         [listeners.dtls.b]\nbind = \"127.0.0.1:0\"\npsk_file = \"keys-b\"\n\
         [listeners.dtls.c]\nbind = \"127.0.0.1:0\"\npsk_file = \"keys-b\"\n"
    );
    Served::with_files(
        &config,
        &[
            ("keys-a", "# fleet\nold:00112233445566778899aabbccddeeff\n"),
            ("keys-b", ""),
        ],
    )
}

#[test]
fn what_is_only_to_be_noted_is_not_given_as_a_reason_for_a_refusal() {
    let served = with_keys();
    let wrong = format!("{}\n[coap]\nhartbeat = \"45s\"\n", served.read("portcullis.toml"));
    let error = put_toml(&served, &wrong, &[]).error(400, "invalid_config");
    let keys: Vec<_> = error["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| &problem["key"])
        .collect();
    assert_eq!(
        keys,
        [&json!("coap.hartbeat")],
        "the file of keys that is empty comes before it"
    );
    assert!(error["message"].as_str().unwrap().contains("hartbeat"), "{error}");
}

#[test]
fn keys_are_given_and_taken_and_shown_once() {
    let served = with_keys();
    let add = |body: Value| send(served.address, "POST", "/api/v1/psk", &body);
    let made = add(json!({"identity": "lamp-1", "listener": "a"}))
        .expect(201)
        .json();
    let key = made["key"].as_str().unwrap();
    assert_eq!((key.len(), &made["listeners"]), (48, &json!(["a"])));
    let text = made["key_text"].as_str().unwrap();
    assert_eq!(hex::encode(text), key);
    let lines = made["try_lines"].as_array().unwrap();
    assert_eq!(lines.len(), 2);
    let starts = format!("coap-client-openssl -u lamp-1 -k {text} -m ");
    assert!(
        lines
            .iter()
            .all(|line| line.as_str().unwrap().starts_with(&starts)),
        "{lines:?}"
    );
    assert_eq!(
        served.read("keys-a"),
        format!("# fleet\nold:00112233445566778899aabbccddeeff\nlamp-1:{key}\n")
    );
    let own = add(json!({"identity": "own", "key": "AABBccdd", "listener": "c"}))
        .expect(201)
        .json();
    assert_eq!(
        own,
        json!({"identity": "own", "listeners": ["b", "c"]}),
        "a key that was given is not told again"
    );
    assert_eq!(served.read("keys-b"), "own:aabbccdd\n");
    let listed = get(served.address, "/api/v1/psk").expect(200);
    assert_eq!(
        listed.json(),
        json!([
            {"identity": "lamp-1", "listeners": ["a"], "keys": [{"last_used": null}]},
            {"identity": "old", "listeners": ["a"], "keys": [{"last_used": null}]},
            {"identity": "own", "listeners": ["b", "c"], "keys": [{"last_used": null}]}
        ])
    );
    assert!(!listed.body.contains(key) && !listed.body.contains("0011"));
    assert_eq!(
        get(served.address, "/api/v1/psk?listener=c")
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    get(served.address, "/api/v1/psk?listener=z").error(404, "not_found");
    add(json!({"identity": "old", "listener": "a"})).error(409, "exists");
    add(json!({"identity": "old", "listener": "a", "replace": true})).expect(201);
    for bad in [
        json!({"identity": "x"}),
        json!({"identity": "x\ny", "listener": "a"}),
        json!({"identity": "x", "key": "hunter2", "listener": "a"}),
        json!({"identity": "x", "key": "", "listener": "a"}),
    ] {
        assert!(!add(bad).error(400, "bad_request").to_string().contains("hunter2"));
    }
    delete(served.address, "/api/v1/psk/own?older=true").error(409, "one_key");
    let another = json!({"identity": "own", "key": "11223344", "listener": "b", "another": true});
    add(another.clone()).expect(201);
    assert_eq!(served.read("keys-b"), "own:aabbccdd\nown:11223344\n");
    add(another).error(409, "exists");
    add(json!({"identity": "own", "listener": "b", "another": true})).error(409, "exists");
    add(json!({"identity": "old", "listener": "a", "another": true, "replace": true}))
        .error(400, "bad_request");
    let two = get(served.address, "/api/v1/psk?listener=b").json();
    assert_eq!(two[0]["keys"].as_array().unwrap().len(), 2);
    delete(served.address, "/api/v1/psk/own?older=true").expect(204);
    assert_eq!(served.read("keys-b"), "own:11223344\n");
    delete(served.address, "/api/v1/psk/own").expect(204);
    delete(served.address, "/api/v1/psk/own").error(404, "not_found");
    delete(served.address, "/api/v1/psk/lamp-1?listener=b").error(404, "not_found");
    delete(served.address, "/api/v1/psk/lamp-1?listener=a").expect(204);
    assert!(!served.read("keys-a").contains("lamp-1"));
}

#[test]
fn what_is_known_of_a_device_is_given_shown_and_changed_without_its_key() {
    let served = with_keys();
    let new = json!({"identity": "lamp-2", "key": "00aabb", "listener": "a", "attributes": {"site": "north", "floor": "3"}});
    send(served.address, "POST", "/api/v1/psk", &new).expect(201);
    assert!(
        served
            .read("keys-a")
            .ends_with("lamp-2:00aabb {\"floor\":\"3\",\"site\":\"north\"}\n")
    );
    let of = |identity: &str| {
        let all = get(served.address, "/api/v1/psk?listener=a").json();
        let one = all
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["identity"] == identity);
        one.unwrap()["attributes"].clone()
    };
    assert_eq!(of("lamp-2"), json!({"site": "north", "floor": "3"}));
    assert_eq!(of("old"), Value::Null);
    let put =
        |identity: &str, body: &Value| send(served.address, "PUT", &format!("/api/v1/psk/{identity}"), body);
    put("old", &json!({"attributes": {"site": "south: {1}"}})).expect(204);
    put("lamp-2", &json!({"attributes": {}})).expect(204);
    assert_eq!(of("old"), json!({"site": "south: {1}"}));
    assert_eq!(
        served.read("keys-a"),
        "# fleet\nold:00112233445566778899aabbccddeeff {\"site\":\"south: {1}\"}\nlamp-2:00aabb\n"
    );
    // A new key keeps what is known, unless something else is said with it.
    let again = json!({"identity": "old", "key": "11", "listener": "a", "replace": true});
    send(served.address, "POST", "/api/v1/psk", &again).expect(201);
    assert_eq!(of("old"), json!({"site": "south: {1}"}));
    put("nobody", &json!({"attributes": {}})).error(404, "not_found");
    let many: serde_json::Map<String, Value> = (0..33).map(|n| (format!("a{n}"), json!("x"))).collect();
    for bad in [
        json!({}),
        json!({"attributes": {"a b": "x"}}),
        json!({"attributes": {"site": "a\u{0}b"}}),
        json!({"attributes": {"site": "x".repeat(257)}}),
        json!({"attributes": {"site": ["x"]}}),
        json!({"attributes": many}),
        json!({"attributes": {}, "key": "00"}),
    ] {
        put("old", &bad).error(400, "bad_request");
    }
    assert_eq!(of("old"), json!({"site": "south: {1}"}));
}

#[test]
fn when_the_reload_fails_the_file_is_as_it_was() {
    let served = with_keys();
    let before = served.read("keys-a");
    std::fs::write(served.path("portcullis.toml"), "[node]\nname = 5\n").unwrap();
    send(
        served.address,
        "POST",
        "/api/v1/psk",
        &json!({"identity": "x", "listener": "a"}),
    )
    .error(409, "reload_failed");
    assert_eq!(served.read("keys-a"), before);
}

#[test]
fn a_file_that_others_can_read_is_not_touched() {
    let served = with_users();
    std::fs::set_permissions(served.path("users"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let body = json!({"name": "a", "password": "b"});
    let error = send(served.address, "POST", "/api/v1/users", &body).error(409, "unreadable");
    assert!(
        error["message"].as_str().unwrap().contains("chmod 600"),
        "{error}"
    );
}

#[test]
fn removing_the_last_listener_does_not_open_the_default_ones() {
    // The files that a DTLS listener has by default, beside a file that would start with them.
    let own = Pki::new().server;
    let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    let (cert, key) = (text(own.cert_pem()), text(own.key_pem()));
    let files = [
        ("server.pem", cert.as_str()),
        ("server.key", key.as_str()),
        ("psk.txt", "dev1:00112233445566778899aabbccddeeff\n"),
    ];
    let served = Served::with_files(PLAIN, &files);
    let error = delete(served.address, "/api/v1/listeners/udp/default").error(400, "invalid_config");
    assert!(
        error["message"].as_str().unwrap().contains("no listener"),
        "{error}"
    );
    let patch = json!({"listeners": {"udp": {"default": null}}});
    send(served.address, "PUT", "/api/v1/config", &patch).error(400, "invalid_config");
    assert_eq!(served.read("portcullis.toml"), PLAIN);
}
