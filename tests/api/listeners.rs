//! Listeners that come and go while the built gateway runs.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;

use serde_json::{Value, json};

use crate::commands::{Managed, start};
use crate::http::{delete, get, send};
use crate::support::{Client, Config, Request, dtls, gateway, http, ms, ports, wait_until};

fn file(managed: &Managed) -> String {
    std::fs::read_to_string(managed.gateway.path("portcullis.toml")).unwrap()
}

fn listed(managed: &Managed) -> Vec<String> {
    let all = get(managed.admin, "/api/v1/listeners").json();
    let name = |one: &Value| {
        format!(
            "{}:{}",
            one["kind"].as_str().unwrap(),
            one["name"].as_str().unwrap()
        )
    };
    all.as_array().unwrap().iter().map(name).collect()
}

fn add(managed: &Managed, kind: &str, name: &str, settings: &Value) -> crate::http::Answer {
    let body = json!({"kind": kind, "name": name, "settings": settings});
    send(managed.admin, "POST", "/api/v1/listeners", &body)
}

fn at(port: &ports::Port) -> SocketAddr {
    ([127, 0, 0, 1], port.number).into()
}

fn answers(server: SocketAddr) -> bool {
    let mut client = Client::udp(server);
    client
        .try_request(&Request::get(".well-known/core"), ms(300))
        .is_some()
}

#[test]
fn a_listener_of_either_kind_is_added_serves_and_is_removed() {
    let managed = start(Config::new());
    managed.gateway.write(
        "portcullis.toml",
        format!("# mine\n{}", file(&managed)).as_bytes(),
    );
    let (udp, secure) = (ports::reserve(), ports::reserve());
    let bind = at(&udp).to_string();
    let added = add(
        &managed,
        "udp",
        "second",
        &json!({"bind": bind, "mountpoint": "b/"}),
    )
    .expect(201)
    .json();
    assert_eq!(
        (&added["bind"], &added["enabled"], &added["restart_required"]),
        (&json!(bind), &json!(true), &json!([]))
    );
    let settings = json!({"bind": at(&secure).to_string(), "psk_file": "psk.txt", "identity": "clientid"});
    add(&managed, "dtls", "second", &settings).expect(201);
    assert_eq!(
        listed(&managed),
        ["udp:default", "dtls:default", "udp:second", "dtls:second"]
    );

    // Enough peers that every worker has some; one publishes where the mountpoint of the other listener leads.
    let mut main = managed.gateway.client(crate::support::Kind::Udp);
    let watching = main.observe("ps/b/t");
    for _ in 0..8 {
        let mut client = Client::udp(at(&udp));
        client.publish("ps/t", "over udp");
        assert_eq!(main.notification(&watching.token).payload, b"over udp");
    }
    let options = dtls::Options::psk("dev1", gateway::psk_of("dev1").as_bytes());
    let mut devices: Vec<Client> = (0..8).map(|_| Client::dtls(at(&secure), &options)).collect();
    for device in &mut devices {
        device.publish("ps/b/t", "over dtls");
        assert_eq!(main.notification(&watching.token).payload, b"over dtls");
    }
    let (_, metrics) = http::get(managed.gateway.metrics_addr(), "/metrics").unwrap();
    for line in [
        "portcullis_sessions{listener=\"second\",transport=\"dtls\"} 8",
        "portcullis_sessions{listener=\"second\",transport=\"udp\"} 8",
        "portcullis_dtls_handshakes_total{listener=\"second\",result=\"ok\"} 8",
    ] {
        assert!(metrics.contains(line), "{line} in:\n{metrics}");
    }
    let clients = get(managed.admin, "/api/v1/clients?listener=second&transport=dtls").json();
    assert_eq!(clients["data"].as_array().unwrap().len(), 8);
    let text = file(&managed);
    assert!(
        text.contains("# mine") && text.contains("[listeners.dtls.second]"),
        "{text}"
    );

    add(&managed, "udp", "second", &json!({"bind": bind})).error(409, "exists");
    delete(managed.admin, "/api/v1/listeners/dtls/second").expect(204);
    wait_until("close_notify at a device of the listener", || {
        devices[0].ended().is_some()
    });
    delete(managed.admin, "/api/v1/listeners/udp/second").expect(204);
    assert!(!answers(at(&udp)));
    // Both ports are free again, and the rest serves on.
    drop((
        UdpSocket::bind(at(&udp)).unwrap(),
        UdpSocket::bind(at(&secure)).unwrap(),
    ));
    main.publish("ps/b/t", "on");
    assert_eq!(main.notification(&watching.token).payload, b"on");
    assert_eq!(listed(&managed), ["udp:default", "dtls:default"]);
    delete(managed.admin, "/api/v1/listeners/udp/second").error(404, "not_found");

    // It comes back with its counters.
    add(&managed, "dtls", "second", &settings).expect(201);
    let mut again = Client::dtls(at(&secure), &options);
    again.publish("ps/b/t", "back");
    let (_, metrics) = http::get(managed.gateway.metrics_addr(), "/metrics").unwrap();
    assert!(
        metrics.contains("portcullis_dtls_handshakes_total{listener=\"second\",result=\"ok\"} 9"),
        "{metrics}"
    );
}

#[test]
fn what_cannot_listen_changes_nothing() {
    let managed = start(Config::new());
    let before = file(&managed);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let answer = add(&managed, "udp", "second", &json!({"bind": taken}));
    let problem = answer.error(409, "reload_failed")["problems"][0].clone();
    assert_eq!(problem["key"], "listeners.udp.second.bind");
    assert!(
        problem["message"]
            .as_str()
            .unwrap()
            .contains("the port is in use"),
        "{problem}"
    );
    let answer = add(
        &managed,
        "dtls",
        "second",
        &json!({"bind": "127.0.0.1:0", "psk_file": "nowhere", "mtu": 1}),
    );
    let problems = answer.error(400, "invalid_config")["problems"].clone();
    let keys: Vec<&str> = problems
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["key"].as_str().unwrap())
        .collect();
    assert!(keys.contains(&"listeners.dtls.second.mtu"), "{keys:?}");
    add(&managed, "sctp", "second", &json!({})).error(400, "bad_request");
    assert_eq!(file(&managed), before);
    assert_eq!(listed(&managed), ["udp:default", "dtls:default"]);
    assert!(answers(managed.gateway.udp_addr()));
}

#[test]
fn a_reload_moves_adds_and_removes_listeners() {
    let port = ports::reserve();
    let managed = start(Config::new());
    let mut device = managed.gateway.client(crate::support::Kind::Dtls);
    device.publish("ps/t", "1");
    let old = managed.gateway.udp_addr();
    let text = file(&managed).replace(&old.to_string(), &at(&port).to_string());
    managed.gateway.write("portcullis.toml", text.as_bytes());
    managed.gateway.reload();
    wait_until("an answer at the new address", || answers(at(&port)));
    assert!(!answers(old));
    // Who came through the other listener notices nothing.
    device.publish("ps/t", "2");
    assert!(
        !managed.gateway.log().contains("takes effect at the next start"),
        "{}",
        managed.gateway.log()
    );
}

#[test]
fn new_sockets_are_kept_by_the_service_manager_and_old_ones_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(ms(200))).unwrap();
    let (told, words) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            // Read without room for descriptors: the kernel closes those that come along, as the barrier wants.
            let text = match manager.recv(&mut buffer) {
                Ok(len) => String::from_utf8_lossy(&buffer[..len]).into_owned(),
                Err(_) => String::new(),
            };
            if told.send(text).is_err() {
                return;
            }
        }
    });
    let managed = start(Config::new().env("NOTIFY_SOCKET", path.to_str().unwrap()));
    let said = |wanted: &str| {
        let end = std::time::Instant::now() + ms(5000);
        let mut all = String::new();
        while std::time::Instant::now() < end {
            all.push_str(&words.recv().unwrap());
            if all.contains(wanted) {
                return;
            }
        }
        panic!("{wanted} was not said:\n{all}");
    };
    let port = ports::reserve();
    add(&managed, "udp", "more", &json!({"bind": at(&port).to_string()})).expect(201);
    said("FDSTORE=1\nFDNAME=udp.more.0");
    delete(managed.admin, "/api/v1/listeners/udp/more").expect(204);
    said("FDSTOREREMOVE=1\nFDNAME=udp.more.0");
}
