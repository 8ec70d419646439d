//! What a listener is told of its sockets, its peers and its health.

use std::net::UdpSocket;

use crate::support::{Client, Config, Gateway, Kind, Reaction, Request, code, ms, typ, wait_until};

#[test]
fn a_health_request_is_answered_on_both_kinds_and_what_is_near_to_it_is_not() {
    let keys = "health_request = \"are you there?\"\nhealth_reply = \"hex:01ff\"";
    let gateway = Gateway::start(Config::new().udp(keys).dtls(keys));
    for (kind, transport) in [(Kind::Udp, "udp"), (Kind::Dtls, "dtls")] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(gateway.addr(kind)).unwrap();
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(30)))
            .unwrap();
        let mut answer = [0; 64];
        for _ in 0..3 {
            socket.send(b"are you there?").unwrap();
            let len = socket.recv(&mut answer).unwrap();
            assert_eq!(&answer[..len], [0x01, 0xff]);
        }
        socket.set_read_timeout(Some(ms(200))).unwrap();
        for near in [&b"are you there"[..], b"are you there??"] {
            socket.send(near).unwrap();
            assert!(socket.recv(&mut answer).is_err());
        }
        let transport = format!("transport=\"{transport}\"");
        gateway.metric_becomes("health_requests_total", &[&transport], 3.0);
    }
    gateway.assert_serves();
}

#[test]
fn health_requests_from_where_access_is_denied_get_no_answer() {
    let keys = "access_rules = [\"deny all\"]\nhealth_request = \"ping\"\nhealth_reply = \"pong\"";
    let gateway = Gateway::start(Config::new().udp(keys));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(gateway.udp_addr()).unwrap();
    socket.send(b"ping").unwrap();
    gateway.metric_becomes("datagrams_dropped_total", &["reason=\"access_denied\""], 1.0);
    gateway.metric_becomes("health_requests_total", &[], 0.0);
}

#[test]
fn where_a_listener_is_full_strangers_give_way_and_proven_peers_do_not() {
    let config = Config::new().set("node", "workers = 1").udp("max_peers = 8");
    let gateway = Gateway::start(config);
    let mut proven = gateway.client(Kind::Udp);
    let observation = proven.observe("ps/a?qos=1");
    proven.publish("ps/a", "1");
    assert_eq!(proven.notification(&observation.token).typ, typ::CON);
    proven.publish("ps/b", "proven by its ACK");
    for number in 0..40 {
        let mut stranger = gateway.client(Kind::Udp);
        let answer = stranger.request(&Request::put("ps/c").payload(number.to_string()));
        answer.expect(code::CHANGED);
    }
    assert!(gateway.metric("sessions", &["transport=\"udp\""]) <= 8.0);
    assert!(gateway.metric("limits_rejected_total", &["limit=\"max_peers\""]) >= 32.0);
    gateway.client(Kind::Udp).publish("ps/a", "2");
    assert_eq!(proven.notification(&observation.token).text(), "2");
    // A standing DTLS session is another listener's.
    gateway.client(Kind::Dtls).publish("ps/a", "3");
    assert_eq!(proven.notification(&observation.token).text(), "3");
}

#[test]
fn where_all_peers_are_proven_a_new_one_finds_no_room_until_one_goes() {
    let config = Config::new().set("node", "workers = 1").udp("max_peers = 2");
    let gateway = Gateway::start(config);
    let mut clients: Vec<Client> = (0..2).map(|_| gateway.client(Kind::Udp)).collect();
    for client in &mut clients {
        let observation = client.observe("ps/a?qos=1");
        client.publish("ps/a", "1");
        client.notification(&observation.token);
    }
    let mut late = gateway.client(Kind::Udp);
    late.reaction = Reaction::Ignore;
    let refused = late.try_request(&Request::put("ps/b").payload("x"), ms(500));
    assert!(refused.is_none(), "{refused:?}");
    for client in &mut clients {
        client.publish("ps/b", "still served");
    }
    wait_until("what found no room is counted", || {
        gateway.metric("datagrams_dropped_total", &["reason=\"limit\""]) > 0.0
    });
}

#[test]
fn buffers_are_what_the_file_says() {
    let keys = "receive_buffer = \"64KiB\"\nsend_buffer = \"32KiB\"";
    let gateway = Gateway::start(Config::new().udp(keys));
    // The kernel doubles it for its own use.
    let granted = gateway.metric("udp_receive_buffer_bytes", &["transport=\"udp\""]);
    assert!(granted > 0.0 && granted <= 2.0 * 65_536.0 * 8.0, "{granted}");
    assert!(granted < gateway.metric("udp_receive_buffer_bytes", &["transport=\"dtls\""]));
    gateway.assert_serves();
}
