//! Every subscriber sees every message, whichever worker and transport it and the publisher are on.

use crate::support::{Client, Config, Gateway, Kind, Request, code, ms};

const OBSERVERS: usize = 16;

/// Observers of `ps/w/+` on both transports, on as many ports, so that every worker has some.
fn observers(gateway: &Gateway, query: &str) -> Vec<(Client, Vec<u8>)> {
    (0..OBSERVERS)
        .map(|i| {
            let kind = if i % 2 == 0 { Kind::Udp } else { Kind::Dtls };
            let mut client = gateway.client(kind);
            let observation = client.observe(&format!("ps/w/+{query}"));
            (client, observation.token)
        })
        .collect()
}

#[test]
fn every_subscriber_sees_every_message() {
    let gateway = Gateway::start(Config::new().set("node", "workers = 4"));
    let mut observers = observers(&gateway, "");
    gateway.metric_becomes("subscriptions", &[], 16.0);
    for i in 0..8 {
        let kind = if i % 2 == 0 { Kind::Dtls } else { Kind::Udp };
        gateway.client(kind).publish(&format!("ps/w/{i}"), format!("{i}"));
    }
    for (client, token) in &mut observers {
        let mut got: Vec<String> = (0..8).map(|_| client.notification(token).text()).collect();
        assert_eq!(
            got,
            ["0", "1", "2", "3", "4", "5", "6", "7"],
            "each was acknowledged before the next"
        );
        got.clear();
        client.no_notification(token, ms(5));
    }
}

#[test]
fn retained_messages_reach_every_worker() {
    let gateway = Gateway::start(Config::new().set("node", "workers = 4"));
    gateway.client(Kind::Udp).publish("ps/w/a?retain=1", "kept");
    for i in 0..OBSERVERS {
        let kind = if i % 2 == 0 { Kind::Udp } else { Kind::Dtls };
        let mut client = gateway.client(kind);
        assert_eq!(client.observe("ps/w/a").first.text(), "kept");
        assert_eq!(client.read("ps/w/a"), b"kept");
    }
}

#[test]
fn a_connection_is_found_from_every_worker() {
    // Wrong tokens of one address are counted over all workers, and there are many here.
    let config = Config::new()
        .connection_mode()
        .set("node", "workers = 4")
        .set("limits", "failed_logins_per_minute = 0");
    let gateway = Gateway::start(config);
    for kind in [Kind::Udp, Kind::Dtls] {
        let token = gateway.client(kind).create("a");
        for _ in 0..OBSERVERS {
            let mut client = gateway.client(kind);
            assert_eq!(client.heartbeat("a", &token), code::CHANGED);
            assert_eq!(client.heartbeat("a", "wrong"), code::UNAUTHORIZED);
        }
        let mut last = gateway.client(kind);
        let close = format!("mqtt/connection?clientid=a&token={token}");
        last.request(&Request::delete(&close)).expect(code::DELETED);
        assert_eq!(gateway.client(kind).heartbeat("a", &token), code::UNAUTHORIZED);
        gateway.metric_becomes("connections", &[], 0.0);
    }
}

#[test]
fn a_clientid_is_connected_once_over_all_workers() {
    let gateway = Gateway::start(Config::new().connection_mode().set("node", "workers = 4"));
    let mut tokens = vec![];
    for _ in 0..OBSERVERS {
        tokens.push(gateway.client(Kind::Udp).create("a"));
    }
    gateway.metric_becomes("connections", &[], 1.0);
    let last = tokens.pop().unwrap();
    for old in tokens {
        assert_eq!(gateway.client(Kind::Udp).heartbeat("a", &old), code::UNAUTHORIZED);
    }
    assert_eq!(gateway.client(Kind::Udp).heartbeat("a", &last), code::CHANGED);
}

#[test]
fn a_gateway_with_one_worker_serves_the_same() {
    let gateway = Gateway::start(Config::new().set("node", "workers = 1"));
    gateway.assert_serves();
}

#[test]
fn several_listeners_of_each_kind_serve_side_by_side() {
    let more = [crate::support::ports::reserve(), crate::support::ports::reserve()];
    let config = Config::new()
        .set(
            "listeners.udp.six",
            &format!("bind = \"[::1]:{}\"", more[0].number),
        )
        .set(
            "listeners.dtls.six",
            &format!("bind = \"[::1]:{}\"\npsk_file = \"psk.txt\"", more[1].number),
        );
    let gateway = Gateway::start(config);
    let mut four = gateway.client(Kind::Udp);
    let observation = four.observe("ps/a");
    let mut udp = Client::udp(format!("[::1]:{}", more[0].number).parse().unwrap());
    udp.publish("ps/a", "six");
    assert_eq!(four.notification(&observation.token).text(), "six");
    let options = crate::support::gateway::psk_options("dev1");
    let mut dtls = Client::dtls(format!("[::1]:{}", more[1].number).parse().unwrap(), &options);
    dtls.publish("ps/a", "six, sealed");
    assert_eq!(four.notification(&observation.token).text(), "six, sealed");
}
