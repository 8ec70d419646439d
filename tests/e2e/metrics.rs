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
    wait_until("the session ends", 3.0, || {
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
    wait_until("they are counted", 3.0, || {
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
    wait_until("the observation ends", 3.0, || {
        gateway.metric("subscriptions", &[]) == 0.0
    });
    client.silence(ms(50));
}
