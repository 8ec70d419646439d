//! Steps against overload, as the scrape shows them.

use crate::support::gateway::psk_options;
use crate::support::{Client, Config, Gateway, Kind, Request, code, dtls, ms, option, wait_until};

fn held(gateway: &Gateway) -> Vec<&'static str> {
    let actions = ["short_idle", "no_unproven", "no_qos0", "no_publish", "refuse_all"];
    let is_held =
        |action: &&str| gateway.metric("overload_active", &[&format!("action=\"{action}\"")]) == 1.0;
    actions.into_iter().filter(is_held).collect()
}

#[track_caller]
fn becomes(gateway: &Gateway, wanted: &[&str]) {
    wait_until(&format!("{wanted:?}"), || held(gateway) == wanted);
}

/// Twenty sessions are all that the listener has room for.
#[test]
fn sessions_raise_the_steps_and_new_handshakes_are_refused_until_some_end() {
    let config = Config::new().set("node", "workers = 1").dtls("max_sessions = 20");
    let gateway = Gateway::start(config);
    let mut sessions: Vec<Client> = Vec::new();
    while sessions.len() < 12 {
        sessions.push(gateway.client(Kind::Dtls));
    }
    becomes(&gateway, &["short_idle"]);
    while sessions.len() < 15 {
        sessions.push(gateway.client(Kind::Dtls));
    }
    becomes(&gateway, &["short_idle", "no_unproven"]);
    let stranger = psk_options("dev2").patience(ms(1500));
    assert!(dtls::connect(gateway.dtls_addr(), &stranger).is_err());
    assert!(gateway.metric("limits_rejected_total", &["limit=\"overload\""]) >= 1.0);
    // Those who are there, and plain peers, go on.
    sessions[0].publish("ps/t", "x");
    gateway.client(Kind::Udp).publish("ps/t", "x");
    for session in sessions.drain(10..) {
        session.close();
    }
    becomes(&gateway, &[]);
    sessions.push(gateway.client_as(Kind::Dtls, "dev2"));
    sessions.pop().unwrap().publish("ps/t", "x");
}

/// The broker is away, and the spool takes what comes until it is nearly full.
#[test]
fn a_spool_that_fills_raises_one_step_after_the_other_until_publishes_are_refused_and_nothing_else() {
    const ROOM: f64 = 1024.0 * 1024.0;
    let nobody = crate::support::ports::reserve();
    let config = Config::new()
        .set("node", "workers = 1")
        .set("broker", &format!("url = \"mqtt://127.0.0.1:{}\"", nobody.number))
        .set("broker.spool", "max_bytes = \"1MiB\"");
    let gateway = Gateway::start(config);
    let mut client = gateway.client(Kind::Udp);
    let publish = Request::post("ps/t?qos=1").payload(vec![b'x'; 1000]);
    let steps = ["no_qos0", "no_publish"];
    for (level, fullness) in [(0, 0.80), (1, 0.88)] {
        while gateway.metric("spool_bytes", &[]) < fullness * ROOM {
            for _ in 0..8 {
                client.request(&publish).expect(code::CHANGED);
            }
        }
        becomes(&gateway, &steps[..level]);
    }
    let mut answer = client.request(&publish);
    while answer.code == code::CHANGED {
        answer = client.request(&publish);
    }
    let fullness = gateway.metric("spool_bytes", &[]) / ROOM;
    assert!(fullness > 0.94, "{fullness}");
    becomes(&gateway, &steps);
    assert_eq!(answer.code, code::UNAVAILABLE, "{answer:?}");
    assert!(
        answer.uint(option::MAX_AGE).is_some_and(|age| age > 0),
        "{answer:?}"
    );
    let clear = Request::delete("ps/t");
    client.request(&clear).expect(code::UNAVAILABLE);
    let discovery = Request::get(".well-known/core");
    client.request(&discovery).expect(code::CONTENT);
    // Strangers still get their handshake.
    let token = gateway.client_as(Kind::Dtls, "dev2").create("meter");
    assert_eq!(
        gateway.client_as(Kind::Dtls, "dev2").heartbeat("meter", &token),
        code::CHANGED
    );
}
