//! Messages past the devices: published, retained, listened to, over the API and by command.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::PLAIN;
use crate::commands::{Managed, fails, run, said, start};
use crate::http::{delete, get, send};
use crate::site::Served;
use crate::support::{Config, Kind, Request, code, wait_until};

fn publish(managed: &Managed, body: &Value) -> u16 {
    send(managed.admin, "POST", "/api/v1/publish", body).status
}

#[test]
fn what_is_published_here_reaches_who_observes_and_what_is_retained_is_listed_and_cleared() {
    let managed = start(Config::new());
    let mut device = managed.gateway.client(Kind::Udp);
    let observed = device.observe("ps/fleet/+");
    assert_eq!(
        publish(&managed, &json!({"topic": "fleet/all", "payload": "hello"})),
        204
    );
    assert_eq!(device.notification(&observed.token).payload, b"hello");
    for number in 0..5 {
        let body = json!({"topic": format!("kept/{number}"), "payload_base64": "AP8=", "retain": true, "qos": 1, "expiry": 900});
        assert_eq!(publish(&managed, &body), 204);
    }
    device
        .request(&Request::put("ps/kept/from-a-device?retain=1").payload("21"))
        .expect(code::CHANGED);
    let page = get(managed.admin, "/api/v1/retained?topic=kept/%23&page=2&limit=4")
        .expect(200)
        .json();
    assert_eq!(page["meta"]["count"], 6);
    let topics: Vec<_> = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["topic"].clone())
        .collect();
    assert_eq!(topics, ["kept/4", "kept/from-a-device"]);
    assert_eq!(page["data"][0]["payload_base64"], "AP8=");
    assert!(page["data"][0]["expires_in_seconds"].as_u64().unwrap() <= 900);
    assert_eq!(page["data"][1]["payload"], "21");
    delete(managed.admin, "/api/v1/retained?topic=kept/4").expect(204);
    delete(managed.admin, "/api/v1/retained/kept/3").expect(204);
    delete(managed.admin, "/api/v1/retained?topic=kept/4").error(404, "not_found");
    device.request(&Request::get("ps/kept/4")).expect(code::NOT_FOUND);
    let page = get(managed.admin, "/api/v1/retained").expect(200).json();
    assert_eq!(page["meta"]["count"], 4);
}

#[test]
fn what_is_no_message_is_refused_in_words() {
    let served = Served::start(PLAIN);
    for body in [
        json!({"topic": "a/#"}),
        json!({"topic": ""}),
        json!({"topic": "$SYS/x"}),
        json!({"topic": "$portcullis/x"}),
        json!({"topic": "a", "qos": 3}),
        json!({"topic": "a", "payload": "x", "payload_base64": "eA=="}),
        json!({"topic": "a", "payload": "x".repeat(2 << 20)}),
        json!({"topic": "x/".repeat(40)}),
        json!({"topic": "a", "payload": "x", "content_type": "text/plain\u{0}"}),
        json!({"topic": "a", "payload": "x", "content_type": "text\u{ffff}"}),
        json!({"topic": "a", "payload": "x", "content_type": "x".repeat(65_536)}),
        json!({"topic": "a", "payload": "x", "correlation_data": "x".repeat(65_536)}),
    ] {
        let answer = send(served.address, "POST", "/api/v1/publish", &body);
        assert!(matches!(answer.status, 400 | 413), "{answer:?}");
    }
    get(served.address, "/api/v1/retained?topic=a/%23/b").error(400, "bad_request");
    get(served.address, "/api/v1/retained?limit=0").error(400, "bad_request");
    delete(served.address, "/api/v1/retained?topic=a/%2B").error(400, "bad_request");
    get(served.address, "/api/v1/messages").error(400, "bad_request");
}

#[test]
fn pub_and_sub_carry_messages_both_ways() {
    let managed = start(Config::new());
    assert_eq!(
        publish(
            &managed,
            &json!({"topic": "room/1", "payload": "old", "retain": true})
        ),
        204
    );
    let mut listening = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["sub", "room/+", "--count", "3", "--config"])
        .arg(managed.gateway.path("portcullis.toml"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "room/1 (retained) old");
    said(&run(&managed, &["pub", "room/2", "hi there"]));
    assert_eq!(lines.next().unwrap().unwrap(), "room/2 hi there");
    let mut device = managed.gateway.client(Kind::Dtls);
    device.publish("ps/room/3", [0, 255]);
    assert_eq!(lines.next().unwrap().unwrap(), "room/3 0x00ff");
    assert!(listening.wait().unwrap().success());
    fails(&run(&managed, &["pub", "room/#", "x"]), 65, "topic");
}

#[test]
fn reload_says_what_came_of_it_and_commands_go_on_while_the_file_is_broken() {
    let managed = start(Config::new());
    let file = managed.gateway.path("portcullis.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let changed = before
        .replace("workers = 2", "workers = 3")
        .replace("[limits]\n", "[limits]\nrequests_per_second = 900\n");
    std::fs::write(&file, changed).unwrap();
    let said_by_reload = said(&run(&managed, &["reload"]));
    assert!(
        said_by_reload.contains("Reloaded.") && said_by_reload.contains("node.workers"),
        "{said_by_reload}"
    );
    let shown: Value = serde_json::from_str(&said(&run(&managed, &["config", "show", "--json"]))).unwrap();
    let key = |name: &str| {
        let keys = shown["keys"].as_array().unwrap();
        keys.iter().find(|key| key["key"] == name).unwrap().clone()
    };
    assert_eq!(key("limits.requests_per_second")["value"], 900);
    assert!(key("limits.requests_per_second")["line"].is_number());
    assert_eq!(key("node.workers")["restart_required"], true);
    assert_eq!(key("coap.heartbeat")["source"], "default");
    let text = said(&run(&managed, &["config", "show", "--changed"]));
    assert!(
        text.contains("requests_per_second = 900") && !text.contains("# default"),
        "{text}"
    );

    for broken in ["zzz = 1\n", "max_bytes = 8MiB\n", "[broken\n"] {
        std::fs::write(&file, format!("{before}\n{broken}")).unwrap();
        for command in [&["status"][..], &["clients", "list"], &["config", "show"]] {
            let output = run(&managed, command);
            said(&output);
            let warned = String::from_utf8_lossy(&output.stderr).contains("portcullis.toml");
            assert!(warned, "{broken} {command:?}: {output:?}");
        }
        let output = run(&managed, &["reload"]);
        fails(&output, 78, "not reloaded, the old configuration stays in force");
    }
    wait_until("the gateway to serve as before", || managed.gateway.is_ready());
}
