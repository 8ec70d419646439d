//! Clients over the API: real CoAP clients on both workers.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::PLAIN;
use crate::http::{ask, delete, get, send};
use crate::site::Served;
use crate::support::coap::{Message, code, option, typ};
use crate::support::{Client, Request, wait_until};

const CONNECTED: &str =
    "[coap]\nconnection_required = true\n[listeners.udp.default]\nbind = \"127.0.0.1:0\"\n";

fn names(page: &Value) -> Vec<&str> {
    let clients = page["data"].as_array().unwrap();
    clients
        .iter()
        .filter_map(|client| client["clientid"].as_str())
        .collect()
}

/// Five connected clients: a0, b1, a2, b3, a4, turn by turn on the two workers.
fn five(served: &Served) -> Vec<(Client, String)> {
    (0..5)
        .map(|n| {
            let mut client = Client::udp(served.coap[n % 2]);
            let id = format!("{}{n}", ["a", "b"][n % 2]);
            let token = client.create(&id);
            (client, token)
        })
        .collect()
}

#[test]
fn pages_hold_every_client_of_every_worker_once() {
    let served = Served::start(CONNECTED);
    let clients = five(&served);
    let mut seen = Vec::new();
    for page in 1..=3 {
        let answer = get(served.address, &format!("/api/v1/clients?page={page}&limit=2"))
            .expect(200)
            .json();
        assert_eq!(answer["meta"]["hasnext"], page < 3, "{answer}");
        assert_eq!(
            answer["meta"]["count"],
            if page < 3 { Value::Null } else { json!(5) }
        );
        seen.extend(names(&answer).into_iter().map(str::to_owned));
    }
    seen.sort();
    assert_eq!(seen, ["a0", "a2", "a4", "b1", "b3"]);
    let beyond = get(served.address, "/api/v1/clients?page=9&limit=2")
        .expect(200)
        .json();
    assert_eq!(
        (names(&beyond).len(), &beyond["meta"]["hasnext"]),
        (0, &json!(false))
    );
    drop(clients);
}

#[test]
fn filters_narrow_the_list() {
    let served = Served::start(CONNECTED);
    let _clients = five(&served);
    let list = |query: &str| {
        let answer = get(served.address, &format!("/api/v1/clients?{query}"))
            .expect(200)
            .json();
        let mut found: Vec<String> = names(&answer).into_iter().map(str::to_owned).collect();
        found.sort();
        found
    };
    assert_eq!(list("clientid=b3"), ["b3"]);
    assert!(list("clientid=b").is_empty());
    assert_eq!(list("like_clientid=a"), ["a0", "a2", "a4"]);
    assert_eq!(list("listener=default&transport=udp").len(), 5);
    assert!(list("listener=other").is_empty());
    assert!(list("transport=dtls").is_empty());
    assert!(list("username=nobody").is_empty());
    for bad in [
        "page=0",
        "limit=0",
        "limit=10001",
        "page=x",
        "transport=sctp",
        "colour=red",
        "clientid=",
    ] {
        get(served.address, &format!("/api/v1/clients?{bad}")).error(400, "bad_request");
    }
}

#[test]
fn a_client_is_shown_with_what_is_known_of_it() {
    let served = Served::start(CONNECTED);
    let mut client = Client::udp(served.coap[1]);
    let token = client.create("né/w 1");
    client.observe(&format!("ps/t/+?clientid=né/w 1&token={token}&qos=1"));
    let shown = get(served.address, "/api/v1/clients/n%C3%A9%2Fw%201")
        .expect(200)
        .json();
    assert_eq!(shown["clientid"], "né/w 1");
    assert_eq!(shown["address"], client.local_addr().to_string());
    assert_eq!(
        (&shown["transport"], &shown["listener"]),
        (&json!("udp"), &json!("default"))
    );
    assert_eq!(
        (&shown["connection"], &shown["online"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(shown["subscriptions"], 1);
    assert_eq!(shown["observations"][0]["topic"], "t/+");
    assert_eq!(shown["observations"][0]["qos"], 1);
    assert!(shown["age_seconds"].as_u64().unwrap() < 60);
    assert!(shown["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(
        !shown.to_string().contains(&token),
        "the token of the connection is a secret"
    );
    get(served.address, "/api/v1/clients/nobody").error(404, "not_found");
    get(served.address, &format!("/api/v1/clients/{}", "x".repeat(129))).error(400, "bad_request");
    get(served.address, "/api/v1/clients/%FF").error(400, "bad_request");
}

#[test]
fn a_peer_without_a_connection_is_listed_too() {
    let served = Served::start(PLAIN);
    let mut client = Client::udp(served.coap[0]);
    client.observe("ps/t?clientid=quiet");
    let mut nameless = Client::udp(served.coap[1]);
    nameless.publish("ps/t", "1");
    let page = get(served.address, "/api/v1/clients").expect(200).json();
    assert_eq!(page["data"].as_array().unwrap().len(), 2);
    assert_eq!(names(&page), ["quiet"]);
    let shown = get(served.address, "/api/v1/clients/quiet").expect(200).json();
    assert_eq!(
        (&shown["connection"], &shown["subscriptions"]),
        (&json!(false), &json!(1))
    );
}

#[test]
fn a_client_whose_connection_ended_is_no_longer_shown_as_online() {
    let served = Served::start(CONNECTED);
    let mut client = Client::udp(served.coap[0]);
    let token = client.create("k");
    let who = format!("clientid=k&token={token}");
    client.observe(&format!("ps/t?{who}"));
    client.publish(&format!("ps/t?{who}"), "1");
    get(served.address, "/api/v1/clients/k").expect(200);
    let close = Request::delete(&format!("mqtt/connection?{who}"));
    client.request(&close).expect(code::DELETED);
    get(served.address, "/api/v1/clients/k").error(404, "not_found");
    let page = get(served.address, "/api/v1/clients").expect(200).json();
    assert_eq!(names(&page), Vec::<String>::new());
}

#[test]
fn a_kicked_client_is_gone_with_its_token_and_observations() {
    let served = Served::start(CONNECTED);
    let mut client = Client::udp(served.coap[1]);
    let token = client.create("k");
    client.observe(&format!("ps/t?clientid=k&token={token}"));
    delete(served.address, "/api/v1/clients/k").expect(204);
    assert_eq!(client.heartbeat("k", &token), code::UNAUTHORIZED);
    delete(served.address, "/api/v1/clients/nobody").error(404, "not_found");
    let status = get(served.address, "/api/v1/status").json();
    assert_eq!(
        (&status["connections"], &status["subscriptions"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn an_operator_subscribes_a_client_and_ends_it() {
    let served = Served::start(PLAIN);
    let mut client = Client::udp(served.coap[1]);
    client.publish("ps/hello?clientid=s", "1");
    let uri = "/api/v1/clients/s/subscriptions";
    let made = send(
        served.address,
        "POST",
        uri,
        &json!({"topic": "a/b", "qos": 1, "token": "c0ffee"}),
    );
    assert_eq!(
        made.expect(201).json(),
        json!({"topic": "a/b", "qos": 1, "token": "c0ffee"})
    );
    let mut other = Client::udp(served.coap[0]);
    other.publish("ps/a/b", "news");
    let news = client.notification(&[0xc0, 0xff, 0xee]);
    assert_eq!(news.text(), "news");
    let list = get(served.address, uri).expect(200).json();
    assert_eq!(
        (&list[0]["topic"], &list[0]["token"]),
        (&json!("a/b"), &json!("c0ffee"))
    );
    // Slashes may stand as they are, or be encoded.
    delete(served.address, &format!("{uri}/a/b")).expect(204);
    delete(served.address, &format!("{uri}/a%2Fb")).error(404, "not_found");
    let generated = send(served.address, "POST", uri, &json!({"topic": "x/#"}))
        .expect(201)
        .json();
    assert_eq!(generated["token"].as_str().unwrap().len(), 16);
    delete(served.address, &format!("{uri}/x%2F%23")).expect(204);
    assert_eq!(get(served.address, uri).json(), json!([]));
    for bad in [
        json!({"topic": "a/#/b"}),
        json!({"topic": "a/b\u{2}"}),
        json!({"topic": "\u{9ffff}/#"}),
        json!({"topic": "d/".repeat(32)}),
        json!({"topic": "d".repeat(1025)}),
        json!({"topic": ""}),
        json!({"topic": "a", "qos": 3}),
        json!({"topic": "a", "token": "xyz"}),
        json!({"topic": "a", "colour": "red"}),
        json!({}),
        json!([]),
    ] {
        send(served.address, "POST", uri, &bad).error(400, "bad_request");
    }
    ask(served.address, "POST", uri, &[], b"{\"topic\":\"a\"}").error(400, "bad_request");
    let nobody = "/api/v1/clients/nobody/subscriptions";
    get(served.address, nobody).error(404, "not_found");
    send(served.address, "POST", nobody, &json!({"topic": "a"})).error(404, "not_found");
    delete(served.address, &format!("{nobody}/a")).error(404, "not_found");
    for odd in ["a%01", "%EF%BF%BF"] {
        let odd = format!("/api/v1/clients/{odd}/subscriptions");
        send(served.address, "POST", &odd, &json!({"topic": "a"})).error(400, "bad_request");
    }
}

/// A device that answers each request with what `respond` makes of it; `None` leaves it unanswered.
pub(crate) fn device(
    server: SocketAddr,
    id: &str,
    mut respond: impl FnMut(&Message) -> Option<Message> + Send + 'static,
) -> JoinHandle<()> {
    let mut client = Client::udp(server);
    client.publish(&format!("ps/hello?clientid={id}"), "1");
    thread::spawn(move || {
        while let Some(message) = client.recv(Duration::from_secs(3)) {
            if message.typ == typ::CON
                && let Some(answer) = respond(&message)
            {
                client.send(&answer);
            }
        }
    })
}

pub(crate) fn answer(to: &Message, code: u8, payload: &[u8]) -> Message {
    Message {
        typ: typ::ACK,
        code,
        id: to.id,
        token: to.token.clone(),
        options: Vec::new(),
        payload: payload.to_vec(),
    }
}

#[test]
fn a_device_answers_a_request() {
    let served = Served::start(PLAIN);
    device(served.coap[1], "d", |request| {
        let paths: Vec<String> = request
            .options
            .iter()
            .filter(|(number, _)| *number == option::URI_PATH || *number == option::URI_QUERY)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect();
        let said = format!(
            "{} {} {:?} {}",
            request.code,
            paths.join(","),
            request.format(),
            request.text()
        );
        Some(answer(request, code::CONTENT, said.as_bytes()))
    });
    let uri = "/api/v1/clients/d/request";
    let body =
        json!({"method": "put", "path": "/lamp/1", "query": ["on=1"], "content_format": 50, "payload": "{}"});
    let said = send(served.address, "POST", uri, &body).expect(200).json();
    assert_eq!(said["code"], "2.05");
    assert_eq!(said["payload"], "3 lamp,1,on=1 Some(50) {}");
    send(served.address, "POST", uri, &json!({"method": "dance"})).error(400, "bad_request");
    send(
        served.address,
        "POST",
        "/api/v1/clients/no/request",
        &json!({"method": "get"}),
    )
    .error(404, "not_found");
}

#[test]
fn a_long_answer_is_fetched_block_by_block() {
    let served = Served::start(PLAIN);
    let body: Vec<u8> = (0..1000_u32).map(|n| (n % 251) as u8).collect();
    let whole = body.clone();
    device(served.coap[0], "long", move |request| {
        let at = request
            .block(option::BLOCK2)
            .map_or(0, |block| block.num as usize);
        let end = (at * 64 + 64).min(whole.len());
        let mut message = answer(request, code::CONTENT, &whole[at * 64..end]);
        let block = crate::support::coap::Block::new(at as u32, end < whole.len(), 64);
        message
            .options
            .push((option::BLOCK2, crate::support::coap::uint_bytes(block.value())));
        Some(message)
    });
    let said = send(
        served.address,
        "POST",
        "/api/v1/clients/long/request",
        &json!({"method": "get", "path": "x"}),
    );
    let said = said.expect(200).json();
    let encoded = said["payload_base64"].as_str().unwrap();
    assert_eq!(openssl::base64::decode_block(encoded).unwrap(), body);
    assert!(said.get("payload").is_none(), "it is no text");
}

#[test]
fn silence_is_504_and_a_reset_is_502() {
    let served = Served::start(PLAIN);
    device(served.coap[0], "mute", |_| None);
    device(served.coap[1], "angry", |request| {
        Some(Message::empty(typ::RST, request.id))
    });
    let body = json!({"method": "get", "timeout": "300ms"});
    send(served.address, "POST", "/api/v1/clients/mute/request", &body).error(504, "timeout");
    send(served.address, "POST", "/api/v1/clients/angry/request", &body).error(502, "reset");
}

#[test]
fn status_counts_what_there_is() {
    let served = Served::start(CONNECTED);
    let _clients = five(&served);
    wait_until("five connections", || {
        get(served.address, "/api/v1/status").json()["connections"] == 5
    });
    let status = get(served.address, "/api/v1/status").expect(200).json();
    assert_eq!((&status["ready"], &status["workers"]), (&json!(true), &json!(2)));
    assert_eq!(status["broker"]["state"], "embedded");
    assert_eq!(status["connection_required"], true);
    assert_eq!(status["sessions"]["udp"], 5);
    *served.site.ready.lock().unwrap() = Err("stuck workers: [1]".to_owned());
    let status = get(served.address, "/api/v1/status").json();
    assert_eq!(
        (&status["ready"], &status["not_ready"]),
        (&json!(false), &json!("stuck workers: [1]"))
    );
    let metrics = get(served.address, "/api/v1/metrics").expect(200).json();
    assert_eq!(metrics["samples"]["portcullis_connections"][0]["value"], 5.0);
}

#[test]
fn a_thousand_clients_are_walked_in_steps() {
    let served = Served::start(CONNECTED);
    let mut clients: Vec<Client> = served.coap.iter().map(|address| Client::udp(*address)).collect();
    for n in 0..1000 {
        clients[n % 2].create(&format!("c{n:04}"));
    }
    let mut all = Vec::new();
    for page in 1.. {
        let answer = get(served.address, &format!("/api/v1/clients?page={page}&limit=300"))
            .expect(200)
            .json();
        all.extend(names(&answer).into_iter().map(str::to_owned));
        if answer["meta"]["hasnext"] == false {
            assert_eq!(answer["meta"]["count"], 1000);
            break;
        }
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 1000);
}

#[test]
fn what_each_client_and_listener_sent_and_got_is_counted_wherever_it_is() {
    let served = Served::start(CONNECTED);
    let mut client = Client::udp(served.coap[0]);
    let token = client.create("meter-9");
    for number in 0..3 {
        client.publish(&format!("ps/meters/{number}?c=meter-9&t={token}"), "21.5");
    }
    client.observe(&format!("ps/cmd?c=meter-9&t={token}"));
    client.publish(&format!("ps/cmd?c=meter-9&t={token}"), "on");
    let shown = get(served.address, "/api/v1/clients/meter-9").expect(200).json();
    let traffic = &shown["traffic"];
    assert_eq!(
        (
            &traffic["publishes_received"],
            &traffic["publishes_sent"],
            &traffic["last_topic"]
        ),
        (&json!(4), &json!(1), &json!("cmd")),
        "{shown}"
    );
    assert!(
        traffic["messages_received"].as_u64() >= Some(6) && traffic["bytes_received"].as_u64() > Some(100)
    );
    assert!(traffic["messages_sent"].as_u64() >= Some(6), "{shown}");
    // It goes on at the other worker, which counts what comes to it.
    let mut moved = Client::udp(served.coap[1]);
    moved.publish(&format!("ps/elsewhere?c=meter-9&t={token}"), "1");
    let shown = get(served.address, "/api/v1/clients/meter-9").expect(200).json();
    assert_eq!(shown["traffic"]["last_topic"], "elsewhere", "{shown}");

    let managed = crate::commands::start(crate::support::Config::new());
    let mut client = managed.gateway.client(crate::support::Kind::Udp);
    client.publish("ps/t", "x");
    let udp = || {
        let listeners = get(managed.admin, "/api/v1/listeners").expect(200).json();
        let mut listeners = listeners.as_array().unwrap().iter();
        listeners
            .find(|listener| listener["kind"] == "udp")
            .unwrap()
            .clone()
    };
    // The answer may be here before it is counted as sent.
    wait_until("one datagram came and one went", || {
        let udp = udp();
        let counts = (
            &udp["sessions"],
            &udp["datagrams_received"],
            &udp["datagrams_sent"],
        );
        counts == (&json!(1), &json!(1), &json!(1))
    });
    let udp = udp();
    assert!(
        udp["bytes_received"].as_u64() > Some(4) && udp["bytes_sent"].as_u64() >= Some(4),
        "{udp}"
    );
}

#[test]
fn a_list_had_no_order_no_total_and_no_search() {
    let served = Served::start(PLAIN);
    let mut clients = Vec::new();
    // Turn by turn on the two workers, in no order of their names; the more of them the more they ask.
    for (n, id) in ["m-20", "m-3", "x-1", "m-100", "m-1"].into_iter().enumerate() {
        let mut client = Client::udp(served.coap[n % 2]);
        for _ in 0..=n {
            client.request(&Request::post(&format!("ps/t?clientid={id}")).payload("1"));
        }
        clients.push(client);
    }
    let list = |query: &str| {
        let answer = get(served.address, &format!("/api/v1/clients?{query}"))
            .expect(200)
            .json();
        let found: Vec<String> = names(&answer).into_iter().map(str::to_owned).collect();
        (found, answer["meta"].clone())
    };
    let (sorted, meta) = list("sort=clientid&limit=3");
    assert_eq!(sorted, ["m-1", "m-100", "m-20"]);
    assert_eq!((&meta["count"], &meta["hasnext"]), (&json!(5), &json!(true)));
    let (rest, meta) = list("sort=clientid&limit=3&page=2");
    assert_eq!(rest, ["m-3", "x-1"]);
    assert_eq!((&meta["count"], &meta["hasnext"]), (&json!(5), &json!(false)));
    assert_eq!(list("sort=clientid&order=desc&limit=1").0, ["x-1"]);
    assert_eq!(
        list("sort=messages_received&order=desc").0,
        ["m-1", "m-100", "x-1", "m-3", "m-20"]
    );
    assert_eq!(list("sort=created_at").0, ["m-20", "m-3", "x-1", "m-100", "m-1"]);
    assert_eq!(list("sort=clientid&page=9").0.len(), 0);
    assert_eq!(list("sort=clientid&search=M-1").0, ["m-1", "m-100"]);
    let port = clients[2].local_addr().port();
    assert_eq!(list(&format!("search=:{port}")).0, ["x-1"]);
    for by in [
        "username",
        "identity",
        "listener",
        "address",
        "seen_at",
        "subscriptions",
        "retransmissions",
    ] {
        assert_eq!(list(&format!("sort={by}")).0.len(), 5, "{by}");
    }
    for bad in [
        "sort=colour",
        "sort=clientid&order=up",
        "sort=clientid&limit=10000&page=6",
    ] {
        get(served.address, &format!("/api/v1/clients?{bad}")).error(400, "bad_request");
    }
}

#[test]
fn a_peer_without_a_name_could_not_be_shown_or_kicked() {
    let served = Served::start(PLAIN);
    let mut nameless = Client::udp(served.coap[1]);
    nameless.observe("ps/quiet/+");
    let mut named = Client::udp(served.coap[0]);
    named.observe("ps/quiet/+?clientid=good");
    let address = nameless.local_addr();
    let path = format!("/api/v1/clients/{address}");
    let shown = get(served.address, &path).expect(200).json();
    assert_eq!(shown["clientid"], Value::Null);
    assert_eq!(shown["address"], address.to_string());
    assert_eq!(shown["observations"][0]["topic"], "quiet/+");
    assert!(shown["traffic"]["messages_received"].as_u64().unwrap() > 0);
    delete(served.address, &path).expect(204);
    get(served.address, &path).error(404, "not_found");
    delete(served.address, &path).error(404, "not_found");
    // Of one with a name the name is asked for: an address may be that of several.
    let other = format!("/api/v1/clients/{}", named.local_addr());
    get(served.address, &other).error(404, "not_found");
    let good = get(served.address, "/api/v1/clients/good").expect(200).json();
    assert_eq!(good["subscriptions"], 1);
}
