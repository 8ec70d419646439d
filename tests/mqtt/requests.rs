//! Requests to devices that come over MQTT, and topics of the gateway that begin otherwise.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::harness::Mosquitto;
use crate::support::client::PATIENCE;
use crate::support::{Config, Gateway, Kind, Message, Reaction, Request, code, ms, option, typ, wait_until};

const RULES: &str = "mqtt_requests = [\"get sensors/#\", \"put lamps/+/state\"]";

fn config(mosquitto: &Mosquitto, more: &str) -> Config {
    let broker = format!(
        "url = \"mqtt://127.0.0.1:{}\"\nkeep_alive = \"5s\"\n{more}",
        mosquitto.port
    );
    Config::new().set("broker", &broker).transmission(100, 1)
}

/// A device that answers each request with its method, path and payload, from the time on when it is told to.
fn device(gateway: &Gateway, id: &str) -> mpsc::Sender<()> {
    let mut client = gateway.client(Kind::Udp);
    client.publish(&format!("ps/hello?clientid={id}"), "1");
    client.reaction = Reaction::Ignore;
    let (wake, woken) = mpsc::channel();
    let id = id.to_owned();
    std::thread::spawn(move || {
        if woken.recv().is_err() {
            return;
        }
        while client.recv(ms(100)).is_some() {}
        client.publish(&format!("ps/hello?clientid={id}"), "2");
        while let Some(request) = client.recv(PATIENCE) {
            if request.typ != typ::CON {
                continue;
            }
            let path = request
                .options
                .iter()
                .filter(|(number, _)| *number == option::URI_PATH);
            let path: Vec<_> = path
                .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
                .collect();
            let said = format!("{} {} {}", request.code, path.join("/"), request.text());
            client.send(&Message {
                typ: typ::ACK,
                code: code::CONTENT,
                id: request.id,
                token: request.token.clone(),
                options: Vec::new(),
                payload: said.into_bytes(),
            });
        }
    });
    wake
}

/// Asks as a backend does; the correlation data that came back, and the answer.
fn asks(mosquitto: &Mosquitto, topic: &str, body: &str) -> (String, Value) {
    let output = Command::new("mosquitto_rr")
        .args([
            "-V",
            "mqttv5",
            "-p",
            &mosquitto.port.to_string(),
            "-W",
            "60",
            "-q",
            "1",
        ])
        .args(["-t", topic, "-e", "backend/answers", "-m", body])
        .args(["-D", "publish", "correlation-data", "no-17", "-F", "%D %p"])
        .output()
        .expect("mosquitto_rr is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let (correlation, answer) = text
        .trim()
        .split_once(' ')
        .unwrap_or_else(|| panic!("{text:?} {output:?}"));
    (correlation.to_owned(), serde_json::from_str(answer).unwrap())
}

/// What is published to a filter, each as its topic and its payload.
struct Listener(Child, mpsc::Receiver<(String, String)>);

impl Listener {
    fn new(mosquitto: &Mosquitto, filter: &str) -> Self {
        let mut child = Command::new("mosquitto_sub")
            .args(["-V", "mqttv5", "-p", &mosquitto.port.to_string(), "-q", "1"])
            .args(["-t", filter, "-F", "%t %p"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub is installed");
        let (to, heard) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((topic, payload)) = line.split_once(' ') {
                    _ = to.send((topic.to_owned(), payload.to_owned()));
                }
            }
        });
        wait_until("it subscribes", || {
            mosquitto.log().contains(&format!("{filter} (QoS 1)"))
        });
        Self(child, heard)
    }

    fn next(&self, topic: &str) -> String {
        loop {
            let (heard, payload) = self.1.recv_timeout(PATIENCE).expect("a message");
            if heard == topic {
                return payload;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_backend_asks_devices_over_mqtt_for_what_is_listed_and_for_nothing_else() {
    let mosquitto = Mosquitto::start();
    let gateway = Gateway::start(config(&mosquitto, RULES));
    device(&gateway, "d/1").send(()).unwrap();
    let topic = "$portcullis/portcullis/clients/d%2F1/request";
    let ask = |body: Value| asks(&mosquitto, topic, &body.to_string());
    wait_until("it is listened for", || {
        mosquitto
            .log()
            .contains("$portcullis/portcullis/clients/+/request")
    });
    let (correlation, answer) = ask(json!({"method": "GET", "path": "/sensors/1", "wait": "1m"}));
    assert_eq!(correlation, "no-17");
    assert_eq!(
        (&answer["code"], &answer["payload"]),
        (&json!("2.05"), &json!("1 sensors/1 "))
    );
    assert_eq!(answer["clientid"], "d/1");
    let (_, answer) = ask(json!({"method": "put", "path": "lamps/7/state", "payload": "on", "wait": "1m"}));
    assert_eq!(answer["payload"], "3 lamps/7/state on");
    for (method, path) in [
        ("put", "sensors/1"),
        ("delete", "lamps/7/state"),
        ("get", "lamps/7/state"),
        ("get", ""),
    ] {
        let (correlation, answer) = ask(json!({"method": method, "path": path}));
        assert_eq!(
            (&*correlation, &answer["error"]["code"]),
            ("no-17", &json!("forbidden"))
        );
    }
    for body in [
        "",
        "[]",
        "{",
        "{\"method\": \"get\", \"path\": \"sensors/1\", \"pth\": 1}",
    ] {
        let (_, answer) = asks(&mosquitto, topic, body);
        assert_eq!(answer["error"]["code"], "bad_request", "{body}");
    }
    let nobody = "$portcullis/portcullis/clients/nobody/request";
    let (_, answer) = asks(
        &mosquitto,
        nobody,
        "{\"method\": \"get\", \"path\": \"sensors/1\"}",
    );
    assert_eq!(answer["error"]["code"], "not_found");
    gateway.metric_becomes("mqtt_requests_total", &["result=\"answered\""], 2.0);
    gateway.metric_becomes("mqtt_requests_total", &["result=\"refused\""], 8.0);
    gateway.metric_becomes("mqtt_requests_total", &["result=\"failed\""], 1.0);
    // What devices publish is none.
    let mut client = gateway.client(Kind::Udp);
    for topic in [
        topic,
        "$portcullis/portcullis/clients/d%2F1/response",
        "$portcullis/x",
    ] {
        let request = Request::put(&format!("ps/{topic}")).payload("{}");
        client.request(&request).expect(code::UNAUTHORIZED);
    }
    gateway.assert_serves();
}

#[test]
fn a_request_over_mqtt_waits_for_its_device_and_answers_where_it_may() {
    let mosquitto = Mosquitto::start();
    // MQTT 3.1.1 has no properties: they are in the body.
    let gateway = Gateway::start(config(&mosquitto, &format!("protocol = 4\n{RULES}")));
    let wake = device(&gateway, "d");
    let answers = Listener::new(&mosquitto, "backend/#");
    let own = Listener::new(&mosquitto, "$portcullis/portcullis/clients/d/#");
    wait_until("it is listened for", || {
        mosquitto
            .log()
            .contains("$portcullis/portcullis/clients/+/request")
    });
    let publish = |body: Value| {
        let status = Command::new("mosquitto_pub")
            .args(["-p", &mosquitto.port.to_string(), "-q", "1"])
            .args([
                "-t",
                "$portcullis/portcullis/clients/d/request",
                "-m",
                &body.to_string(),
            ])
            .status();
        assert!(status.unwrap().success());
    };
    publish(
        json!({"method": "get", "path": "sensors/1", "wait": "1h", "response_topic": "backend/here", "correlation_data": 17}),
    );
    gateway.metric_becomes("queued_requests", &[], 1.0);
    wake.send(()).unwrap();
    let answer: Value = serde_json::from_str(&answers.next("backend/here")).unwrap();
    assert_eq!(
        (&answer["payload"], &answer["correlation_data"]),
        (&json!("1 sensors/1 "), &json!(17))
    );
    // Without a topic, and with one that is closed, the answer is at the client's own.
    for closed in [
        Value::Null,
        json!("$SYS/x"),
        json!("$portcullis/portcullis/clients/d/request"),
        json!("a/+"),
    ] {
        let mut body = json!({"method": "get", "path": "sensors/2"});
        if !closed.is_null() {
            body["response_topic"] = closed.clone();
        }
        publish(body);
        let answer = own.next("$portcullis/portcullis/clients/d/response");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        match closed {
            Value::Null => assert_eq!(answer["payload"], "1 sensors/2 "),
            _ => assert_eq!(answer["error"]["code"], "bad_request", "{closed}"),
        }
    }
}

#[test]
fn nothing_is_listened_for_where_nothing_is_listed() {
    let mosquitto = Mosquitto::start();
    let gateway = Gateway::start(config(&mosquitto, ""));
    gateway.metric_becomes("broker_connected", &[], 1.0);
    device(&gateway, "d").send(()).unwrap();
    let mut client = gateway.client(Kind::Udp);
    client.observe("ps/later");
    assert!(!mosquitto.log().contains("/request"), "{}", mosquitto.log());
}

#[test]
fn the_topics_of_the_gateway_begin_as_the_operator_says_and_stay_its_own() {
    let mosquitto = Mosquitto::start();
    let more = format!("events_prefix = \"gw/coap\"\n{RULES}");
    let listener = Listener::new(&mosquitto, "gw/#");
    let gateway = Gateway::start(config(&mosquitto, &more));
    let online: Value = serde_json::from_str(&listener.next("gw/coap/portcullis/status")).unwrap();
    assert_eq!(online["status"], "online");
    let mut client = gateway.client(Kind::Udp);
    let everything = client.observe("ps/#");
    let hidden = client.observe("ps/+/coap/#");
    let told = client.request(&Request::get("ps/gw/coap/portcullis/status").observe(0));
    told.expect(code::UNAUTHORIZED);
    let token = client.create("m-1");
    let come: Value =
        serde_json::from_str(&listener.next("gw/coap/portcullis/clients/m-1/connected")).unwrap();
    assert_eq!(come["clientid"], "m-1");
    client
        .request(&Request::delete(&format!(
            "mqtt/connection?clientid=m-1&token={token}"
        )))
        .expect(code::DELETED);
    listener.next("gw/coap/portcullis/clients/m-1/disconnected");
    for topic in [
        "gw/coap",
        "gw/coap/portcullis/clients/m-1/request",
        "$portcullis/x",
        "$SYS/x",
    ] {
        client
            .request(&Request::put(&format!("ps/{topic}")).payload("{}"))
            .expect(code::UNAUTHORIZED);
    }
    // What only looks like it is anybody's, and the first that observers are told of.
    client
        .request(&Request::put("ps/gw/coapish").payload("1"))
        .expect(code::CHANGED);
    assert_eq!(client.notification(&everything.token).text(), "1");
    client.no_notification(&hidden.token, ms(300));
    device(&gateway, "d").send(()).unwrap();
    wait_until("it is listened for", || {
        mosquitto.log().contains("gw/coap/portcullis/clients/+/request")
    });
    let request = json!({"method": "get", "path": "sensors/1", "wait": "1m"}).to_string();
    let (_, answer) = asks(&mosquitto, "gw/coap/portcullis/clients/d/request", &request);
    assert_eq!(answer["payload"], "1 sensors/1 ");
    assert!(!mosquitto.log().contains("$portcullis"), "{}", mosquitto.log());
}

#[test]
fn requests_that_are_retained_aliased_or_endless_reach_no_device() {
    let mosquitto = Mosquitto::start();
    let gateway = Gateway::start(config(&mosquitto, RULES));
    device(&gateway, "plc-1").send(()).unwrap();
    wait_until("it is listened for", || {
        mosquitto.log().contains("clients/+/request")
    });
    let endless = format!("{{\"x\":[{}1]}}", "1,".repeat(200_000));
    let body = r#"{"method":"get","path":"sensors/1"}"#;
    let topic = |client: &str| format!("$portcullis/portcullis/clients/{client}/request");
    for (client, body, more) in [
        ("plc-1", body, &["-r"][..]),
        ("%70lc-1", body, &[]),
        ("plc-1", &*endless, &[]),
    ] {
        let mut publisher = Command::new("mosquitto_pub")
            .args([
                "-p",
                &mosquitto.port.to_string(),
                "-q",
                "1",
                "-t",
                &topic(client),
                "-s",
            ])
            .args(more)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        publisher
            .stdin
            .take()
            .unwrap()
            .write_all(body.as_bytes())
            .unwrap();
        assert!(publisher.wait().unwrap().success());
    }
    // A retained message that is new to a subscription that stands comes as any other; one that stood is not asked for again.
    gateway.metric_becomes("mqtt_requests_total", &["result=\"refused\""], 2.0);
    let (_, answer) = asks(&mosquitto, &topic("plc-1"), body);
    assert_eq!(answer["payload"], "1 sensors/1 ");
}

#[test]
fn a_mountpoint_leads_nobody_to_where_the_gateway_is_at_home() {
    let mosquitto = Mosquitto::start();
    let more = format!("events_prefix = \"gateways/coap\"\n{RULES}");
    let gateway = Gateway::start(config(&mosquitto, &more).coap("mountpoint = \"${clientid}/\""));
    gateway.metric_becomes("broker_connected", &[], 1.0);
    let mut client = gateway.client(Kind::Udp);
    for path in ["coap/portcullis/clients/%23", "coap/%23"] {
        let request = Request::get(&format!("ps/{path}?clientid=gateways")).observe(0);
        client.request(&request).expect(code::UNAUTHORIZED);
    }
    let wide = client.observe("ps/+/portcullis/%23?clientid=gateways&qos=1");
    let mut other = gateway.client(Kind::Udp);
    other.create("m-1");
    client.no_notification(&wide.token, ms(300));
}

/// Publishes the same line over and over to the requests of a client.
fn flood(mosquitto: &Mosquitto, client: &str, line: &str) -> Child {
    let topic = format!("$portcullis/portcullis/clients/{client}/request");
    let mut publisher = Command::new("mosquitto_pub")
        .args(["-p", &mosquitto.port.to_string(), "-q", "1", "-t", &topic, "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub is installed");
    let mut lines = publisher.stdin.take().unwrap();
    let line = format!("{line}\n");
    std::thread::spawn(move || {
        for _ in 0..FLOOD {
            lines.write_all(line.as_bytes()).unwrap();
        }
    });
    publisher
}

/// Messages of one flood.
const FLOOD: usize = 1500;

#[test]
fn requests_over_mqtt_by_the_thousand_are_bounded_and_everybody_else_is_served() {
    let mosquitto = Mosquitto::start();
    let gateway = Gateway::start(config(&mosquitto, RULES));
    device(&gateway, "good").send(()).unwrap();
    let _never_woken = device(&gateway, "mute");
    let mut session = gateway.client(Kind::Dtls);
    let observed = session.observe("ps/standing?qos=1");
    wait_until("it is listened for", || {
        mosquitto.log().contains("clients/+/request")
    });
    let before = gateway.rss_kib();
    let nested = "[".repeat(4000);
    let own = "$portcullis/portcullis/clients/mute/request";
    let looped = json!({"method": "get", "path": "sensors/1", "response_topic": own, "correlation_data": "x".repeat(4000)});
    let floods = [
        ("mute", r#"{"method":"get","path":"sensors/1","wait":"1h"}"#),
        ("mute", &nested),
        ("mute", &looped.to_string()),
        ("nobody", r#"{"method":"get","path":"sensors/1","wait":"1h"}"#),
        ("mute%2f", r#"{"method":"get","path":"sensors/1"}"#),
    ];
    let floods = floods.map(|(client, line)| flood(&mosquitto, client, line));
    let sent = FLOOD * floods.len();
    for mut flood in floods {
        assert!(flood.wait().unwrap().success());
    }
    let waiting = || gateway.metric("queued_requests", &[]);
    wait_until("all are judged but those that wait", || {
        gateway.metric("mqtt_requests_total", &[]) + 256.0 >= sent as f64
    });
    assert!((1.0..=256.0).contains(&waiting()), "{} wait", waiting());
    // Whoever was there is served, and so are new ones.
    session.publish("ps/standing", "still");
    assert_eq!(session.notification(&observed.token).text(), "still");
    gateway.client(Kind::Dtls).publish("ps/standing", "new");
    assert_eq!(session.notification(&observed.token).text(), "new");
    gateway.assert_serves();
    let request = r#"{"method":"get","path":"sensors/7","wait":"1m"}"#;
    let (_, answer) = asks(&mosquitto, "$portcullis/portcullis/clients/good/request", request);
    assert_eq!(answer["payload"], "1 sensors/7 ");
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more than before");
}
