//! The scrape: what is there, and that it counts.

use std::process::{Command, Stdio};

use crate::support::{Config, Gateway, Kind, Message, Reaction, Request, code, http, ms, typ, wait_until};

/// Every family that the gateway itself must show without anything having happened yet.
const FAMILIES: &[&str] = &[
    "sessions",
    "dtls_handshakes_total",
    "dtls_handshake_seconds",
    "dtls_half_open",
    "dtls_cid_sessions",
    "dtls_address_changes_total",
    "dtls_alerts_total",
    "dtls_records_dropped_total",
    "connections",
    "connections_total",
    "authentications_total",
    "authorizations_total",
    "subscriptions",
    "coap_messages_received_total",
    "coap_messages_sent_total",
    "coap_retransmissions_total",
    "coap_duplicates_total",
    "datagrams_dropped_total",
    "publishes_total",
    "notifications_total",
    "request_seconds",
    "broker_connected",
    "broker_messages_total",
    "spool_messages",
    "spool_bytes",
    "spool_dropped_total",
    "limits_rejected_total",
    "build_info",
];

#[test]
fn every_family_is_there() {
    let gateway = Gateway::start(Config::new());
    gateway.assert_serves();
    let metrics = gateway.metrics();
    let missing: Vec<_> = FAMILIES
        .iter()
        .filter(|family| !metrics.contains(&format!("# TYPE portcullis_{family} ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    for family in [
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
    ] {
        assert!(metrics.contains(&format!("# TYPE {family} ")), "{family}");
    }
}

#[test]
fn promtool_has_nothing_to_say() {
    let gateway = Gateway::start(Config::new());
    gateway.assert_serves();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus");
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), gateway.metrics().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn health_and_readiness_answer() {
    let gateway = Gateway::start(Config::new());
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(http::get(gateway.metrics_addr(), path).unwrap().0, 200, "{path}");
    }
    assert_eq!(http::get(gateway.metrics_addr(), "/nothing").unwrap().0, 404);
}

#[test]
fn messages_are_counted_by_listener_type_and_code() {
    let gateway = Gateway::start(Config::new());
    for kind in [Kind::Udp, Kind::Dtls] {
        let transport = if kind == Kind::Udp { "udp" } else { "dtls" };
        let transport = format!("transport=\"{transport}\"");
        let count = |name: &str, labels: &[&str]| gateway.metric(name, &[labels, &[&transport]].concat());
        let mut client = gateway.client(kind);
        for _ in 0..3 {
            client.publish("ps/a", "x");
        }
        client
            .request(&Request::get("ps/a").non())
            .expect(code::NOT_FOUND);
        let received = |labels: &[&str]| count("coap_messages_received_total", labels);
        assert_eq!(
            received(&["type=\"con\"", "code=\"0.02\""]),
            3.0,
            "{}",
            gateway.metrics()
        );
        assert_eq!(received(&["type=\"non\"", "code=\"0.01\""]), 1.0);
        let sent = |labels: &[&str]| count("coap_messages_sent_total", labels);
        assert_eq!(sent(&["code=\"2.04\""]), 3.0);
        assert_eq!(sent(&["type=\"non\"", "code=\"4.04\""]), 1.0);
    }
}

#[test]
fn every_datagram_of_a_flood_has_one_end_in_the_metrics() {
    let gateway = Gateway::start(Config::new().set("log", "level = \"info\""));
    // Deterministic noise, some of which looks like CoAP or DTLS.
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    for kind in [Kind::Udp, Kind::Dtls] {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for n in 0..2_000_u64 {
            let mut bytes: Vec<u8> = (0..next(40)).map(|_| next(256) as u8).collect();
            let head: &[u8] = match next(4) {
                0 => &[0x40, 1, 0, 9, 0xb2, b'p', b's', 0x01, b'a'],
                1 => &[0x60, 0x00, 0, 7],
                2 => &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4],
                _ => &[],
            };
            if !head.is_empty() {
                bytes.truncate(if next(2) == 0 { 0 } else { bytes.len() });
                bytes.splice(0..0, head.iter().copied());
            }
            socket.send_to(&bytes, gateway.addr(kind)).unwrap();
            if n % 100 == 0 {
                std::thread::sleep(ms(2));
            }
        }
        let transport = if kind == Kind::Udp { "udp" } else { "dtls" };
        let transport = format!("transport=\"{transport}\"");
        let count = |name: &str, labels: &[&str]| gateway.metric(name, &[labels, &[&transport]].concat());
        wait_until("all are read", || {
            count("udp_datagrams_received_total", &[]) + count("udp_socket_drops_total", &[]) == 2_000.0
        });
        let of_messages: f64 = [
            "unmatched",
            "unexpected_response",
            "critical_option",
            "duplicate",
            "send_failed",
        ]
        .iter()
        .map(|reason| count("datagrams_dropped_total", &[&format!("reason=\"{reason}\"")]))
        .sum();
        let ends =
            count("coap_messages_received_total", &[]) + count("datagrams_dropped_total", &[]) - of_messages;
        assert_eq!(
            ends,
            count("udp_datagrams_received_total", &[]),
            "{}",
            gateway.metrics()
        );
        if kind == Kind::Dtls {
            assert!(count("datagrams_dropped_total", &["reason=\"dtls\""]) > 1_000.0);
        }
    }
    gateway.assert_serves();
}

#[test]
fn sessions_and_handshakes_are_counted() {
    let gateway = Gateway::start(Config::new());
    let udp = gateway.client(Kind::Udp).request(&Request::get("ps/a"));
    assert_eq!(udp.code, code::NOT_FOUND);
    let mut clients: Vec<_> = (0..3).map(|_| gateway.client(Kind::Dtls)).collect();
    for client in &mut clients {
        client.publish("ps/a", "x");
    }
    gateway.metric_becomes("sessions", &["transport=\"dtls\""], 3.0);
    gateway.metric_becomes("sessions", &["transport=\"udp\""], 1.0);
    gateway.metric_becomes("dtls_handshakes_total", &["result=\"ok\""], 3.0);
    gateway.metric_becomes("dtls_handshake_seconds_count", &[], 3.0);
    gateway.metric_becomes("dtls_half_open", &[], 0.0);
    clients.pop().unwrap().close();
    wait_until("the session ends", || {
        gateway.metric("sessions", &["transport=\"dtls\""]) == 2.0
    });
}

#[test]
fn publishes_and_notifications_are_counted_by_result() {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(Kind::Udp);
    let observation = client.observe("ps/a?qos=1");
    for i in 0..4 {
        client.publish("ps/a", format!("{i}"));
        client.notification(&observation.token);
    }
    client
        .request(&Request::post("ps/+").payload("x"))
        .expect(code::BAD_REQUEST);
    wait_until("they are counted", || {
        gateway.metric("notifications_total", &["type=\"con\""]) >= 4.0
    });
    gateway.metric_becomes("notifications_total", &["type=\"con\""], 4.0);
    assert!(gateway.metric("publishes_total", &[]) >= 4.0);
    assert!(gateway.metric("request_seconds_count", &[]) >= 5.0);
    gateway.metric_becomes("broker_connected", &[], 1.0);
    client.reaction = Reaction::Ignore;
    client.publish("ps/a", "reset");
    let last = client.notification(&observation.token);
    client.send(&Message::empty(typ::RST, last.id));
    wait_until("the observation ends", || {
        gateway.metric("subscriptions", &[]) == 0.0
    });
    client.silence(ms(50));
}
