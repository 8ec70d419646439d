//! Requests that wait for devices that sleep.

use serde_json::{Value, json};

use crate::PLAIN;
use crate::commands::start;
use crate::http::{get, send};
use crate::site::Served;
use crate::support::client::PATIENCE;
use crate::support::{Client, Config, Kind, Message, Reaction, Request, code, ms, option, typ, wait_until};

fn served(sleep: &str) -> Served {
    let text = format!(
        "{PLAIN}[coap.transmission]\nack_timeout = \"50ms\"\nmax_retransmit = 1\n[coap.sleep]\n{sleep}\n"
    );
    Served::start(&text)
}

/// A device that is known and answers nothing.
fn asleep(served: &Served, id: &str) -> Client {
    let mut client = Client::udp(served.coap[0]);
    client.publish(&format!("ps/hello?clientid={id}"), "1");
    client.reaction = Reaction::Ignore;
    client
}

/// It is awake and says so.
fn wakes(client: &mut Client, id: &str) {
    while client.recv(ms(100)).is_some() {}
    client.publish(&format!("ps/hello?clientid={id}"), "2");
}

/// Takes the next request that is not `before`, and answers it; what it asks for.
fn serves(client: &mut Client, before: &mut Vec<u16>, code: u8, payload: &[u8]) -> String {
    loop {
        let request = client.recv(PATIENCE).expect("a request");
        if request.typ != typ::CON || request.code > code::IPATCH || before.contains(&request.id) {
            continue;
        }
        before.push(request.id);
        let path = request
            .options
            .iter()
            .filter(|(number, _)| *number == option::URI_PATH);
        let path: Vec<_> = path
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect();
        client.send(&Message {
            typ: typ::ACK,
            code,
            id: request.id,
            token: request.token.clone(),
            options: Vec::new(),
            payload: payload.to_vec(),
        });
        return path.join("/");
    }
}

fn asks(served: &Served, id: &str, body: &Value, status: u16) -> Value {
    let uri = format!("/api/v1/clients/{id}/request");
    send(served.address, "POST", &uri, body).expect(status).json()
}

fn status(served: &Served, id: &str, request: &Value) -> Value {
    let request = request.as_str().unwrap();
    let uri = format!("/api/v1/clients/{id}/requests/{request}");
    get(served.address, &uri).expect(200).json()
}

#[test]
fn requests_wait_for_a_device_that_sleeps_and_go_out_in_order_when_it_wakes() {
    let served = served("");
    let mut device = asleep(&served, "d");
    let ask = |path: &str| {
        let body = json!({"method": "put", "path": path, "payload": "on", "timeout": "400ms", "wait": "1h"});
        let told = asks(&served, "d", &body, 202);
        assert_eq!(
            (&told["status"], &told["clientid"]),
            (&json!("queued"), &json!("d"))
        );
        told["request"].clone()
    };
    let names: Vec<Value> = ["/lamp/1", "/lamp/2", "/lamp/3"].into_iter().map(ask).collect();
    for name in &names {
        assert_eq!(status(&served, "d", name)["status"], "queued");
    }
    wakes(&mut device, "d");
    let mut before = Vec::new();
    for path in ["lamp/1", "lamp/2", "lamp/3"] {
        assert_eq!(serves(&mut device, &mut before, code::CHANGED, b"done"), path);
    }
    for name in &names {
        wait_until("it was delivered", || {
            status(&served, "d", name)["status"] == "delivered"
        });
        assert_eq!(status(&served, "d", name)["answer"]["payload"], "done");
    }
    get(served.address, "/api/v1/clients/other/requests/1").error(404, "not_found");
}

#[test]
fn a_device_that_wakes_in_time_is_answered_for_at_once() {
    let served = served("");
    let mut device = asleep(&served, "d");
    let waker = std::thread::spawn(move || {
        let mut before = Vec::new();
        // Not heard the first time, nor the second.
        for _ in 0..2 {
            before.push(device.recv(PATIENCE).unwrap().id);
        }
        std::thread::sleep(ms(500));
        wakes(&mut device, "d");
        serves(&mut device, &mut before, code::CONTENT, b"21")
    });
    let body = json!({"method": "get", "path": "/temperature", "timeout": "1m", "wait": "1m"});
    let answer = asks(&served, "d", &body, 200);
    assert_eq!(
        (&answer["code"], &answer["payload"]),
        (&json!("2.05"), &json!("21"))
    );
    assert_eq!(waker.join().unwrap(), "temperature");
}

#[test]
fn a_request_that_waited_in_vain_is_expired_and_nothing_else_is() {
    let served = served("queue_messages = 2");
    let _device = asleep(&served, "d");
    let uri = "/api/v1/clients/d/request";
    let short = json!({"method": "get", "timeout": "1m", "wait": "500ms"});
    send(served.address, "POST", uri, &short).error(504, "expired");
    let long = json!({"method": "get", "timeout": "300ms", "wait": "2s"});
    let first = asks(&served, "d", &long, 202)["request"].clone();
    let unending = json!({"method": "get", "timeout": "300ms", "wait": "1h"});
    let second = asks(&served, "d", &unending, 202)["request"].clone();
    send(served.address, "POST", uri, &unending).error(409, "unavailable");
    // One that may not wait does not.
    let now = json!({"method": "get", "timeout": "300ms"});
    send(served.address, "POST", uri, &now).error(504, "timeout");
    wait_until("it expired", || {
        status(&served, "d", &first)["status"] == "expired"
    });
    assert_eq!(status(&served, "d", &first)["error"]["code"], "expired");
    assert_eq!(status(&served, "d", &second)["status"], "queued");
    send(
        served.address,
        "POST",
        uri,
        &json!({"method": "get", "wait": "25h"}),
    )
    .error(400, "bad_request");
}

#[test]
fn a_request_comes_through_the_embedded_broker_too() {
    let served = Served::start(&format!("[broker]\nmqtt_requests = [\"get sensors/#\"]\n{PLAIN}"));
    let mut device = asleep(&served, "d");
    let mut backend = Client::udp(served.coap[1]);
    // It shows that it receives, or it would get answers in small blocks.
    let proof = backend.observe("ps/proof?qos=1");
    backend.publish("ps/proof", "1");
    backend.notification(&proof.token);
    let answers = backend.observe("ps/answers/1");
    let publish = |topic: &str, path: &str| {
        let request = json!({"method": "get", "path": path, "wait": "1m"}).to_string();
        let message = json!({"topic": topic, "payload": request, "qos": 1, "response_topic": "answers/1"});
        send(served.address, "POST", "/api/v1/publish", &message)
    };
    let topic = "$portcullis/portcullis/clients/d/request";
    let mut heard = None;
    wait_until("requests are listened for", || {
        publish(topic, "lamps").expect(204);
        heard = backend.try_notification(&answers.token, ms(200));
        heard.is_some()
    });
    let read = |message: &Message| -> Value { serde_json::from_slice(&message.payload).unwrap() };
    assert_eq!(read(&heard.unwrap())["error"]["code"], "forbidden");
    publish(topic, "sensors/1").expect(204);
    wakes(&mut device, "d");
    assert_eq!(
        serves(&mut device, &mut Vec::new(), code::CONTENT, b"21"),
        "sensors/1"
    );
    let answer = std::iter::repeat_with(|| read(&backend.notification(&answers.token)));
    let answer = answer
        .into_iter()
        .find(|answer| answer["error"].is_null())
        .unwrap();
    assert_eq!(
        (&answer["payload"], &answer["clientid"]),
        (&json!("21"), &json!("d"))
    );
    for closed in [
        "$portcullis/portcullis/clients/d/response",
        "$portcullis/portcullis/clients/d/e/request",
        "$portcullis/x/clients/d/request",
    ] {
        publish(closed, "sensors/1").error(400, "bad_request");
    }
}

#[test]
fn a_request_follows_its_device_to_another_worker() {
    let text = format!(
        "[coap]\nconnection_required = true\n{PLAIN}[coap.transmission]\nack_timeout = \"50ms\"\nmax_retransmit = 1\n"
    );
    let served = Served::start(&text);
    let mut device = Client::udp(served.coap[0]);
    device.create("d");
    let ask = |path: &str, wait: &str| {
        let body = json!({"method": "get", "path": path, "timeout": "400ms", "wait": wait});
        asks(&served, "d", &body, 202)["request"].clone()
    };
    let names = [ask("a", "1h"), ask("b", "1h")];
    let short = ask("c", "3s");
    // It slept so deeply that it begins anew, and so does not answer at once.
    let mut device = Client::udp(served.coap[1]);
    device.reaction = Reaction::Ignore;
    device.create("d");
    wait_until("it expired", || {
        status(&served, "d", &short)["status"] == "expired"
    });
    let mut before = Vec::new();
    while let Some(message) = device.recv(ms(200)) {
        before.push(message.id);
    }
    let sign = device.next_id();
    device.send(&Message::empty(typ::CON, sign));
    for path in ["a", "b"] {
        assert_eq!(serves(&mut device, &mut before, code::CONTENT, b"1"), path);
    }
    for name in &names {
        wait_until("it was delivered", || {
            status(&served, "d", name)["status"] == "delivered"
        });
    }
}

#[test]
fn what_waits_for_a_device_is_not_for_another_one_that_takes_its_name() {
    let managed = start(
        Config::new()
            .connection_mode()
            .coap("heartbeat = \"1s\"")
            .dtls("identity = \"clientid\"")
            .set("node", "workers = 1")
            .transmission(50, 1),
    );
    let mut device = managed.gateway.client_as(Kind::Dtls, "dev1");
    assert_eq!(
        device.request(&Request::put("mqtt/connection")).code,
        code::CHANGED
    );
    let body =
        json!({"method": "put", "path": "config/key", "payload": "secret", "timeout": "200ms", "wait": "1h"});
    device.reaction = Reaction::Ignore;
    let queued = send(managed.admin, "POST", "/api/v1/clients/dev1/request", &body)
        .expect(202)
        .json();
    device.close();
    managed.gateway.metric_becomes("connections", &[], 0.0);
    let mut stranger = managed.gateway.client(Kind::Udp);
    stranger.create("dev1");
    while let Some(message) = stranger.recv(ms(300)) {
        assert!(!message.text().contains("secret"), "{message:?}");
    }
    let uri = format!(
        "/api/v1/clients/dev1/requests/{}",
        queued["request"].as_str().unwrap()
    );
    wait_until("it is not for who has the name now", || {
        get(managed.admin, &uri).expect(200).json()["status"] == "failed"
    });
}

#[test]
fn no_segment_of_a_path_leads_up() {
    let served = served("");
    let _device = asleep(&served, "d");
    for path in ["sensors/../admin", ".", "a/.."] {
        let body = json!({"method": "get", "path": path});
        send(served.address, "POST", "/api/v1/clients/d/request", &body).error(400, "bad_request");
    }
}
