//! `/api/v5/gateways/coap`: what tools that were written for EMQX ask for, in its JSON, where that is switched on.

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};

use crate::PLAIN;
use crate::clients::{answer, device};
use crate::http::{TOKEN, ask, delete, get, send};
use crate::site::Served;
use crate::support::Client;
use crate::support::coap::{Message, code, typ};

const ROOT: &str = "/api/v5/gateways/coap";

const SWITCHED: &str = "[coap]\nconnection_required = true\nheartbeat = \"40s\"\nmountpoint = \"plant/\"\n\
    [admin]\nemqx_aliases = true\n[listeners.udp.default]\nbind = \"127.0.0.1:0\"\n";

fn basic(secret: &str) -> String {
    format!(
        "Basic {}",
        Base64::encode_string(format!("some-key:{secret}").as_bytes())
    )
}

fn read(served: &Served, path: &str) -> Value {
    get(served.address, &format!("{ROOT}{path}")).expect(200).json()
}

fn names(page: &Value) -> Vec<&str> {
    let data = page["data"].as_array().unwrap();
    data.iter()
        .filter_map(|client| client["clientid"].as_str())
        .collect()
}

#[test]
fn there_is_nothing_at_the_paths_of_emqx_until_they_are_switched_on() {
    let served = Served::start(PLAIN);
    for path in [
        ROOT.to_owned(),
        format!("{ROOT}/clients"),
        "/api/v5/gateways".to_owned(),
    ] {
        get(served.address, &path).error(404, "not_found");
    }
    let key = basic(TOKEN);
    ask(served.address, "GET", ROOT, &[("Authorization", &key)], b"").error(401, "unauthorized");
}

#[test]
fn the_secret_of_an_api_key_is_a_token_and_opens_nothing_else() {
    let served = Served::start(SWITCHED);
    let status =
        |value: &str, path: &str| ask(served.address, "GET", path, &[("Authorization", value)], b"").status;
    assert_eq!(status(&basic(TOKEN), ROOT), 200);
    assert_eq!(status(&format!("Bearer {TOKEN}"), ROOT), 200);
    let bare = format!("Basic {}", Base64::encode_string(TOKEN.as_bytes()));
    for wrong in [
        &basic("wrong"),
        &basic(""),
        &bare,
        "Basic ???",
        &format!("Basic {TOKEN}"),
        "Basic",
    ] {
        assert_eq!(status(wrong, ROOT), 401, "{wrong}");
    }
    // The interface of this gateway itself knows bearers alone.
    assert_eq!(status(&basic(TOKEN), "/api/v1/status"), 401);
}

#[test]
fn gateway_and_listeners_are_shown_as_emqx_shows_them() {
    let served = Served::start(SWITCHED);
    let gateway = read(&served, "");
    for (key, value) in [
        ("name", json!("coap")),
        ("status", json!("running")),
        ("heartbeat", json!("40s")),
        ("mountpoint", json!("plant/")),
        ("notify_type", json!("qos")),
        ("connection_required", json!(true)),
    ] {
        assert_eq!(gateway[key], value, "{gateway}");
    }
    let all = get(served.address, "/api/v5/gateways?status=running")
        .expect(200)
        .json();
    assert_eq!(
        (&all[0]["name"], &all[0]["max_connections"]),
        (&json!("coap"), &json!("infinity")),
        "{all}"
    );
    assert_eq!(
        get(served.address, "/api/v5/gateways?status=stopped")
            .expect(200)
            .json(),
        json!([])
    );
    get(served.address, "/api/v5/gateways?status=odd").error(400, "BAD_REQUEST");
    let listeners = read(&served, "/listeners");
    assert_eq!(listeners[0]["id"], "coap:udp:default");
    assert_eq!(listeners[0]["bind"], served.coap[0].to_string());
    assert_eq!(read(&served, "/listeners/coap:udp:default"), listeners[0]);
    get(served.address, &format!("{ROOT}/listeners/coap:dtls:default")).error(404, "NOT_FOUND");
    assert_eq!(get(served.address, &format!("{ROOT}/authentication")).status, 204);
}

#[test]
fn clients_are_filtered_paged_shown_and_kicked() {
    let served = Served::start(SWITCHED);
    let mut all: Vec<Client> = (0..5).map(|n| Client::udp(served.coap[n % 2])).collect();
    for (n, client) in all.iter_mut().enumerate() {
        client.create(&format!("{}-{n}", ["pump", "valve"][n % 2]));
    }
    let list = |query: &str| read(&served, &format!("/clients?{query}"));
    let page = list("page=2&limit=2");
    assert_eq!(names(&page), ["pump-4", "valve-1"], "{page}");
    assert_eq!(
        page["meta"],
        json!({ "page": 2, "limit": 2, "count": 5, "hasnext": true })
    );
    for (query, found) in [
        ("like_clientid=pump", 3),
        ("clientid=valve-3", 1),
        ("username=ann", 0),
        ("like_username=a", 0),
        ("ip_address=127.0.0.1", 5),
        ("ip_address=192.0.2.1", 0),
        ("conn_state=connected", 5),
        ("conn_state=disconnected", 0),
        ("node=portcullis", 5),
        ("node=other", 0),
        ("gte_connected_at=2020-01-01T00:00:00Z", 5),
        ("lte_created_at=1577836800000", 0),
        ("proto_ver=1&clean_start=true", 5),
    ] {
        let page = list(query);
        assert_eq!(
            (names(&page).len(), &page["meta"]["count"]),
            (found, &json!(found)),
            "{query}: {page}"
        );
    }
    for bad in [
        "page=0",
        "limit=0",
        "conn_state=odd",
        "ip_address=x",
        "gte_created_at=soon",
    ] {
        get(served.address, &format!("{ROOT}/clients?{bad}")).error(400, "BAD_REQUEST");
    }
    let one = read(&served, "/clients/pump-4");
    assert_eq!(
        (&one["ip_address"], &one["port"]),
        (&json!("127.0.0.1"), &json!(all[4].local_addr().port()))
    );
    assert_eq!(
        (&one["proto_name"], &one["connected"], &one["keepalive"]),
        (&json!("CoAP"), &json!(true), &json!(40))
    );
    assert_eq!(one["listener"], "coap:udp:default");
    delete(served.address, &format!("{ROOT}/clients/pump-4")).expect(204);
    get(served.address, &format!("{ROOT}/clients/pump-4")).error(404, "RESOURCE_NOT_FOUND");
    delete(served.address, &format!("{ROOT}/clients/pump-4")).error(404, "RESOURCE_NOT_FOUND");
    assert_eq!(names(&list("like_clientid=pump")), ["pump-0", "pump-2"]);
}

#[test]
fn observations_are_made_with_the_token_that_is_named_as_text() {
    let served = Served::start(SWITCHED);
    let mut client = Client::udp(served.coap[1]);
    let token = client.create("lamp");
    let uri = format!("{ROOT}/clients/lamp/subscriptions");
    assert_eq!(get(served.address, &uri).expect(200).json(), json!([]));
    let wanted = json!({ "topic": "plant/lamp/cmd", "qos": 1, "nl": 0, "sub_props": { "token": "tok1" } });
    let made = send(served.address, "POST", &uri, &wanted).expect(201).json();
    assert_eq!(
        (&made["topic"], &made["qos"], &made["rh"]),
        (&json!("plant/lamp/cmd"), &json!(1), &json!(0))
    );
    client.publish(&format!("ps/lamp/cmd?c=lamp&t={token}"), "on");
    let told = client.notification(b"tok1");
    assert_eq!(told.text(), "on");
    let all = get(served.address, &uri).expect(200).json();
    assert_eq!(
        (&all[0]["topic"], &all[0]["qos"], &all[0]["nl"]),
        (&json!("plant/lamp/cmd"), &json!(1), &json!(0))
    );
    send(
        served.address,
        "POST",
        &uri,
        &json!({ "topic": "a", "sub_props": { "token": "nine bytes" } }),
    )
    .error(400, "BAD_REQUEST");
    send(served.address, "POST", &uri, &json!({ "qos": 1 })).error(400, "BAD_REQUEST");
    delete(served.address, &format!("{uri}/plant%2Flamp%2Fcmd")).expect(204);
    delete(served.address, &format!("{uri}/plant/lamp/cmd")).error(404, "RESOURCE_NOT_FOUND");
    let nobody = format!("{ROOT}/clients/nobody/subscriptions");
    send(served.address, "POST", &nobody, &json!({ "topic": "a" })).error(404, "RESOURCE_NOT_FOUND");
}

#[test]
fn a_device_is_asked_and_its_answer_is_told_as_emqx_tells_it() {
    let served =
        Served::start(&SWITCHED.replace("connection_required = true", "connection_required = false"));
    device(served.coap[1], "d", |request| {
        let said = format!("{} {:?} {}", request.code, request.format(), request.text());
        Some(answer(request, code::CONTENT, said.as_bytes()))
    });
    device(served.coap[0], "mute", |_| None);
    device(served.coap[0], "angry", |request| {
        Some(Message::empty(typ::RST, request.id))
    });
    let uri = |id: &str| format!("{ROOT}/clients/{id}/request");
    let request = |id: &str, body: Value| send(served.address, "POST", &uri(id), &body);
    let said = request(
        "d",
        json!({ "token": "t1", "method": "put", "content_type": "application/json", "payload": "{}", "timeout": "10s" }),
    )
    .expect(200)
    .json();
    assert_eq!(
        (&said["method"], &said["code"], &said["token"]),
        (&json!("{ok,content}"), &json!("2.05"), &json!("t1"))
    );
    assert_eq!(said["payload"], "3 Some(50) {}");
    // Without a method it reads; octets go and come in Base64.
    let octets =
        json!({ "content_type": "application/octet-stream", "payload": Base64::encode_string(b"hi") });
    let said = request("d", octets).expect(200).json();
    let payload = Base64::decode_vec(said["payload"].as_str().unwrap()).unwrap();
    assert_eq!(String::from_utf8(payload).unwrap(), "1 Some(42) hi");
    request("d", json!({ "content_type": "image/png" })).error(400, "BAD_REQUEST");
    request("d", json!({ "method": "dance" })).error(400, "BAD_REQUEST");
    request("no", json!({})).error(404, "CLIENT_NOT_FOUND");
    request("angry", json!({})).error(502, "CLIENT_BAD_RESPONSE");
    request("mute", json!({ "timeout": "500ms" })).error(504, "CLIENT_NOT_RESPONSE");
}

#[test]
fn users_are_kept_by_the_paths_of_emqx() {
    let config = format!(
        "{PLAIN}authentication = false\n[authentication]\nbackend = \"file\"\nfile = \"users\"\n[admin]\nemqx_aliases = true\n"
    );
    let served = Served::with_files(&config, &[("users", "# people\n")]);
    let users = format!("{ROOT}/authentication/users");
    let add = |body: Value| send(served.address, "POST", &users, &body);
    let made = add(json!({ "user_id": "ann", "password": "s3cret-1" }))
        .expect(201)
        .json();
    assert_eq!(made, json!({ "user_id": "ann", "is_superuser": false }));
    add(json!({ "user_id": "ann", "password": "s3cret-2" })).error(409, "ALREADY_EXISTS");
    let refused = add(json!({ "user_id": "root", "password": "s3cret-3", "is_superuser": true }))
        .error(400, "BAD_REQUEST");
    assert!(
        refused["message"].as_str().unwrap().contains("acl_file"),
        "{refused}"
    );
    let wrong = add(json!({ "user_id": "eve", "password": 77_123_456 })).error(400, "BAD_REQUEST");
    assert!(!wrong.to_string().contains("77123456"), "{wrong}");
    add(json!({ "user_id": "bob", "password": "s3cret-4" })).expect(201);
    let page = get(served.address, &format!("{users}?like_user_id=b&limit=1"))
        .expect(200)
        .json();
    assert_eq!(page["data"], json!([{ "user_id": "bob", "is_superuser": false }]));
    assert_eq!(
        page["meta"],
        json!({ "page": 1, "limit": 1, "count": 1, "hasnext": false })
    );
    let before = served.read("users");
    send(
        served.address,
        "PUT",
        &format!("{users}/bob"),
        &json!({ "password": "s3cret-5" }),
    )
    .expect(200);
    assert_ne!(before, served.read("users"));
    send(
        served.address,
        "PUT",
        &format!("{users}/eve"),
        &json!({ "password": "x" }),
    )
    .error(404, "NOT_FOUND");
    assert_eq!(
        get(served.address, &format!("{users}/bob")).expect(200).json()["user_id"],
        "bob"
    );
    delete(served.address, &format!("{users}/bob")).expect(204);
    get(served.address, &format!("{users}/bob")).error(404, "NOT_FOUND");
    let shown = get(served.address, &format!("{ROOT}/authentication"))
        .expect(200)
        .json();
    assert_eq!(
        (&shown["mechanism"], &shown["backend"]),
        (&json!("password_based"), &json!("built_in_database"))
    );
}
