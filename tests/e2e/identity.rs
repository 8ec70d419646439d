//! What a DTLS handshake proves, and what that is used for.

use std::thread::sleep;

use crate::support::certs::{Recipe, authority};
use crate::support::gateway::psk_options;
use crate::support::pki::Pki;
use crate::support::{Client, Config, Gateway, Kind, Request, code, dtls, ms, wait_until};

/// `path` with clientid `a` and a token.
fn with(path: &str, token: &str) -> String {
    format!("{path}?clientid=a&token={token}")
}

fn client_as(gateway: &Gateway, identity: &str) -> Client {
    gateway.client_as(Kind::Dtls, identity)
}

#[test]
fn identity_clientid_makes_the_handshake_the_connection() {
    let gateway = Gateway::start(Config::new().connection_mode().dtls("identity = \"clientid\""));
    let mut client = client_as(&gateway, "dev1");
    let observation = client.observe("ps/t");
    client.publish("ps/t?retain=true", "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
    assert_eq!(client.read("ps/t"), b"x");
    // Plain UDP on the same gateway still needs its pair.
    let mut plain = gateway.client(Kind::Udp);
    plain.request(&Request::get("ps/t")).expect(code::BAD_REQUEST);
}

#[test]
fn a_silent_device_goes_on_in_its_session_after_its_heartbeat_ran_out() {
    for workers in ["workers = 1", "workers = 2"] {
        let config = Config::new()
            .connection_mode()
            .coap("heartbeat = \"200ms\"")
            .set("node", workers)
            .dtls("identity = \"clientid\"");
        let gateway = Gateway::start(config);
        let mut client = client_as(&gateway, "dev1");
        client.publish("ps/t?retain=true", "x");
        sleep(ms(700));
        assert_eq!(client.read("ps/t"), b"x");
    }
}

#[test]
fn identity_clientid_is_the_clientid_of_a_create() {
    let gateway = Gateway::start(Config::new().dtls("identity = \"clientid\""));
    let mut client = client_as(&gateway, "dev1");
    client
        .request(&Request::post("mqtt/connection"))
        .expect(code::CREATED);
    client
        .request(&Request::post("mqtt/connection?clientid=dev1"))
        .expect(code::CREATED);
    client
        .request(&Request::post("mqtt/connection?clientid=dev2"))
        .expect(code::UNAUTHORIZED);
    client
        .request(&Request::post("mqtt/connection?clientid=DEV1"))
        .expect(code::UNAUTHORIZED);
}

#[test]
fn identity_clientid_refuses_another_clientid_everywhere() {
    let config = Config::new()
        .coap("mountpoint = \"by/${clientid}/\"")
        .dtls("identity = \"clientid\"");
    let gateway = Gateway::start(config);
    let mut client = client_as(&gateway, "dev1");
    client.publish("ps/t?retain=true", "x");
    client.publish("ps/t?clientid=dev1&retain=true", "y");
    assert_eq!(client.read("ps/t"), b"y", "one and the same topic");
    for request in [
        Request::post("ps/t?clientid=dev2").payload("x"),
        Request::get("ps/t?clientid=dev2"),
        Request::get("ps/t?clientid=dev2").observe(0),
    ] {
        client.request(&request).expect(code::UNAUTHORIZED);
    }
}

#[test]
fn identity_username_is_the_user_name() {
    let config = Config::new()
        .coap("mountpoint = \"of/${username}/\"")
        .dtls("identity = \"username\"");
    let gateway = Gateway::start(config);
    let mut one = client_as(&gateway, "dev1");
    let mut two = client_as(&gateway, "dev2");
    one.publish("ps/t?retain=true", "of dev1");
    two.publish("ps/t?retain=true", "of dev2");
    assert_eq!(one.read("ps/t"), b"of dev1");
    assert_eq!(two.read("ps/t"), b"of dev2");
    assert_eq!(client_as(&gateway, "dev1").read("ps/t"), b"of dev1");
}

#[test]
fn identity_none_only_protects_the_channel() {
    let config = Config::new().connection_mode().dtls("identity = \"none\"");
    let gateway = Gateway::start(config);
    let mut client = client_as(&gateway, "dev1");
    client
        .request(&Request::get("ps/t"))
        .expect(code::BAD_REQUEST)
        .naming("Missing token or clientid");
    client
        .request(&Request::post("mqtt/connection"))
        .expect(code::BAD_REQUEST)
        .naming("clientid");
    let token = client.create("any name");
    assert_eq!(client.heartbeat("any name", &token), code::CHANGED);
}

#[test]
fn the_mountpoint_knows_identity_and_listener() {
    let gateway = Gateway::start(Config::new().coap("mountpoint = \"${listener}/${identity}/\""));
    let mut one = client_as(&gateway, "dev1");
    let mut two = client_as(&gateway, "dev2");
    let mut plain = gateway.client(Kind::Udp);
    one.publish("ps/t?retain=true", "1");
    two.publish("ps/t?retain=true", "2");
    plain.publish("ps/t?retain=true", "3");
    assert_eq!(one.read("ps/t"), b"1");
    assert_eq!(two.read("ps/t"), b"2");
    assert_eq!(plain.read("ps/t"), b"3", "who has no identity has an empty one");
}

/// The name that the gateway takes from the test certificate, seen through the mountpoint.
fn certificate_name(cert_identity: &str) -> String {
    let pki = Pki::new();
    let config = pki
        .install(Config::new())
        .coap("mountpoint = \"${clientid}/\"")
        .dtls(&format!(
            "verify = \"required\"\nidentity = \"clientid\"\ncert_identity = \"{cert_identity}\""
        ));
    let gateway = Gateway::start(config.udp("mountpoint = \"\""));
    let options = dtls::Options::certificate(Some(&pki.client), &pki.ca.certificate);
    let mut device = Client::dtls(gateway.dtls_addr(), &options);
    device.publish("ps/t?retain=true", "x");
    let mut plain = gateway.client(Kind::Udp);
    for name in ["device-7", "device-7.example", "urn:dev:7"] {
        if plain.request(&Request::get("ps").segment(name).segment("t")).code == code::CONTENT {
            return name.to_owned();
        }
    }
    panic!("none of the certificate's names");
}

#[test]
fn the_common_name_is_the_identity() {
    assert_eq!(certificate_name("cn"), "device-7");
}

#[test]
fn the_dns_name_is_the_identity() {
    assert_eq!(certificate_name("san_dns"), "device-7.example");
}

#[test]
fn the_uri_is_the_identity() {
    assert_eq!(certificate_name("san_uri"), "urn:dev:7");
}

#[test]
fn client_certificates_are_required_optional_or_not_asked_for() {
    let pki = Pki::new();
    let stranger = Recipe::client("device-8").make(Some(&authority("Another CA")));
    for (verify, none, foreign) in [
        ("none", true, true),
        ("optional", true, false),
        ("required", false, false),
    ] {
        let gateway = Gateway::start(pki.install(Config::new()).dtls(&format!("verify = \"{verify}\"")));
        let serves = |pair| {
            let options = dtls::Options::certificate(pair, &pki.ca.certificate).patience(ms(2000));
            let Ok(session) = dtls::connect(gateway.dtls_addr(), &options) else {
                return false;
            };
            let mut client = Client::over(Box::new(session));
            client
                .try_request(&Request::post("ps/t").payload("x"), ms(2000))
                .is_some()
        };
        assert!(serves(Some(&pki.client)), "{verify}: a good certificate");
        assert_eq!(serves(None), none, "{verify}: no certificate");
        assert_eq!(
            serves(Some(&stranger)),
            foreign,
            "{verify}: a foreign certificate"
        );
        gateway.assert_serves();
    }
}

#[test]
fn certificates_and_keys_are_served_side_by_side() {
    let pki = Pki::new();
    let gateway = Gateway::start(pki.install(Config::new()));
    for suite in ["ECDHE-ECDSA-AES128-CCM8", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        let options = dtls::Options::certificate(None, &pki.ca.certificate).ciphers(suite);
        Client::dtls(gateway.dtls_addr(), &options).publish("ps/t", "x");
    }
    for suite in ["PSK-AES128-CCM8", "PSK-AES128-GCM-SHA256", "PSK-AES128-CCM"] {
        Client::dtls(gateway.dtls_addr(), &psk_options("dev1").ciphers(suite)).publish("ps/t", "x");
    }
}

/// A connection with an observation, in a session of `dev1`.
fn observed(gateway: &Gateway) -> (Client, String, Vec<u8>) {
    let mut client = client_as(gateway, "dev1");
    let token = client.create("a");
    let observation = client.observe(&with("ps/t", &token));
    (client, token, observation.token)
}

#[test]
fn a_new_session_of_the_same_identity_takes_the_connection_over() {
    let gateway = Gateway::start(Config::new().connection_mode());
    let (mut client, token, observation) = observed(&gateway);
    let mut publisher = client_as(&gateway, "dev2");
    let other = publisher.create("b");
    // Several sessions, so that some live on another worker.
    for i in 0..8 {
        let mut next = client_as(&gateway, "dev1");
        assert_eq!(next.heartbeat("a", &token), code::CHANGED);
        publisher.publish(&format!("ps/t?clientid=b&token={other}"), format!("{i}"));
        assert_eq!(next.notification(&observation).text(), format!("{i}"));
        client.no_notification(&observation, ms(20));
        client = next;
    }
}

#[test]
fn three_short_sessions_share_a_connection() {
    let gateway = Gateway::start(Config::new().connection_mode());
    let mut client = client_as(&gateway, "dev1");
    let token = client.create("a");
    client.close();
    let mut client = client_as(&gateway, "dev1");
    client.publish(&format!("ps/t?clientid=a&token={token}&retain=true"), "x");
    client.close();
    let mut client = client_as(&gateway, "dev1");
    assert_eq!(client.read(&with("ps/t", &token)), b"x");
    client
        .request(&Request::delete(&with("mqtt/connection", &token)))
        .expect(code::DELETED);
}

#[test]
fn another_identity_or_a_plain_peer_cannot_take_it() {
    let gateway = Gateway::start(Config::new().connection_mode());
    let (mut client, token, observation) = observed(&gateway);
    for mut stranger in [client_as(&gateway, "dev2"), gateway.client(Kind::Udp)] {
        for request in [
            Request::put(&with("mqtt/connection", &token)),
            Request::delete(&with("mqtt/connection", &token)),
            Request::post(&with("ps/t", &token)).payload("stolen"),
            Request::get(&with("ps/t", &token)).observe(0),
        ] {
            stranger.request(&request).expect(code::UNAUTHORIZED);
        }
    }
    client.publish(&with("ps/t", &token), "x");
    assert_eq!(client.notification(&observation).text(), "x");
}

#[test]
fn on_close_detach_keeps_the_connection_for_its_identity() {
    let gateway = Gateway::start(Config::new().connection_mode().dtls("on_close = \"detach\""));
    let (client, token, observation) = observed(&gateway);
    client.close();
    wait_until("the session ends", || {
        gateway.metric("sessions", &["transport=\"dtls\""]) == 0.0
    });
    gateway.metric_becomes("connections", &[], 1.0);
    let mut stranger = client_as(&gateway, "dev2");
    assert_eq!(stranger.heartbeat("a", &token), code::UNAUTHORIZED);
    assert_eq!(
        gateway.client(Kind::Udp).heartbeat("a", &token),
        code::UNAUTHORIZED
    );
    let mut back = client_as(&gateway, "dev1");
    assert_eq!(back.heartbeat("a", &token), code::CHANGED);
    back.publish(&with("ps/t", &token), "x");
    assert_eq!(back.notification(&observation).text(), "x");
}

#[test]
fn a_detached_connection_ends_with_its_heartbeat() {
    let config = Config::new()
        .connection_mode()
        .coap("heartbeat = \"1s\"")
        .dtls("on_close = \"detach\"");
    let gateway = Gateway::start(config);
    let (client, token, _) = observed(&gateway);
    client.close();
    wait_until("the connection ends", || {
        gateway.metric("connections", &[]) == 0.0
    });
    assert_eq!(
        client_as(&gateway, "dev1").heartbeat("a", &token),
        code::UNAUTHORIZED
    );
}

#[test]
fn on_close_end_ends_the_connection_at_once() {
    let gateway = Gateway::start(Config::new().connection_mode().dtls("on_close = \"end\""));
    let (client, token, _) = observed(&gateway);
    client.close();
    wait_until("the connection ends", || {
        gateway.metric("connections", &[]) == 0.0
    });
    gateway.metric_becomes("subscriptions", &[], 0.0);
    assert_eq!(
        client_as(&gateway, "dev1").heartbeat("a", &token),
        code::UNAUTHORIZED
    );
}

#[test]
fn connectionless_subscriptions_end_with_the_session() {
    let gateway = Gateway::start(Config::new());
    let mut client = client_as(&gateway, "dev1");
    client.observe("ps/a");
    client.observe("ps/b");
    gateway.metric_becomes("subscriptions", &[], 2.0);
    client.close();
    wait_until("they end", || gateway.metric("subscriptions", &[]) == 0.0);
}

#[test]
fn an_idle_session_ends() {
    let gateway = Gateway::start(Config::new().dtls("idle_timeout = \"1s\""));
    let mut idle = client_as(&gateway, "dev1");
    let mut busy = client_as(&gateway, "dev2");
    idle.observe("ps/a?qos=0");
    for _ in 0..5 {
        sleep(ms(500));
        busy.publish("ps/b", "x");
    }
    gateway.metric_becomes("sessions", &["transport=\"dtls\""], 1.0);
    gateway.metric_becomes("subscriptions", &[], 0.0);
    assert_eq!(idle.ended().as_deref(), Some("close_notify"), "it is told");
    busy.publish("ps/b", "x");
}

#[test]
fn a_rebooted_device_on_the_same_port_is_served() {
    let gateway = Gateway::start(Config::new());
    let mut before = client_as(&gateway, "dev1");
    before.publish("ps/a", "x");
    let local = before.local_addr();
    // It crashes: no close_notify.
    drop(before);
    let mut after = Client::dtls(gateway.dtls_addr(), &psk_options("dev1").local(local));
    after.publish("ps/a", "y");
    gateway.metric_becomes("sessions", &["transport=\"dtls\""], 1.0);
}

#[test]
fn a_client_id_and_a_user_name_are_made_of_the_identity() {
    let lines = "clientid = \"fleet-${identity}\"\nclientid_pattern = \"(fleet-dev[0-2])\"\nusername = \"${identity}\"\n\
                 username_pattern = \"(dev).\"\nmountpoint = \"${clientid}/${username}/\"";
    let config = Config::new()
        .dtls(lines)
        .set("authorization", "acl_file = \"acl\"")
        .file("acl", "topic readwrite #\nuser dev\ntopic readwrite t/#\n");
    let gateway = Gateway::start(config);
    let mut watcher = gateway.client(Kind::Udp);
    let all = watcher.observe("ps/fleet-dev1/#");
    let mut client = client_as(&gateway, "dev1");
    client.publish("ps/t", "x");
    assert_eq!(watcher.notification(&all.token).text(), "x");
    client
        .request(&Request::put("ps/u").payload("x"))
        .expect(code::UNAUTHORIZED);
    let create = |id: &str| Request::post(&format!("mqtt/connection?c={id}"));
    client.request(&create("fleet-dev1")).expect(code::CREATED);
    client.request(&create("fleet-dev2")).expect(code::UNAUTHORIZED);
    client.request(&create("dev1")).expect(code::UNAUTHORIZED);
    // Who does not fit is nobody here.
    let mut other = client_as(&gateway, "dev4");
    let refused = other
        .request(&Request::put("ps/t").payload("x"))
        .expect(code::UNAUTHORIZED);
    assert!(refused.text().contains("no client id"), "{}", refused.text());
    // A key is no certificate.
    let certificates = Config::new().dtls("username = \"${cert.cn}\"\nauthentication = true");
    let gateway = Gateway::start(certificates);
    let mut client = client_as(&gateway, "dev1");
    client
        .request(&Request::put("ps/t").payload("x"))
        .expect(code::UNAUTHORIZED);
}

#[test]
fn the_handshake_of_a_made_client_id_is_its_connection() {
    let gateway = Gateway::start(
        Config::new()
            .connection_mode()
            .dtls("clientid_pattern = \"(.+)1\""),
    );
    let mut client = client_as(&gateway, "dev1");
    let observation = client.observe("ps/t");
    client.publish("ps/t", "x");
    assert_eq!(client.notification(&observation.token).text(), "x");
    client
        .request(&Request::post("mqtt/connection?c=dev"))
        .expect(code::CREATED);
    let mut other = client_as(&gateway, "dev2");
    other
        .request(&Request::put("ps/t").payload("x"))
        .expect(code::UNAUTHORIZED);
}
