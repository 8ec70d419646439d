//! What a UDP address gets that has not proved itself: little.

use crate::support::{Client, Config, Gateway, Kind, Message, Reaction, Request, code, ms, option, typ};

/// A gateway with a long retained message.
fn gateway(config: Config) -> (Gateway, Vec<u8>) {
    let gateway = Gateway::start(config);
    let body: Vec<u8> = (0..900).map(|i| u8::try_from(i % 251).unwrap()).collect();
    gateway.client(Kind::Dtls).publish("ps/long?retain=1", &body);
    (gateway, body)
}

/// Makes the client prove its address: it acknowledges a confirmable notification.
fn prove(client: &mut Client) {
    let observation = client.observe("ps/prove?qos=1");
    client.publish("ps/prove", "x");
    assert_eq!(client.notification(&observation.token).typ, typ::CON);
    client
        .request(&Request::get("ps/prove").observe(1).token(&observation.token))
        .expect(code::NO_CONTENT);
}

#[test]
fn an_answer_to_an_unproven_address_is_small() {
    let (gateway, body) = gateway(Config::new());
    for request in [
        Request::get("ps/long"),
        Request::get("ps/long").observe(0),
        Request::get("ps/long").non(),
        Request::get("ps/long").block2(0, 1024),
        Request::get(".well-known/core"),
    ] {
        let mut client = gateway.client(Kind::Udp);
        let message = client.message(&request);
        let asked = message.encode();
        client.send_raw(&asked);
        let answer = client.recv_raw(ms(5000)).expect("an answer");
        assert!(
            answer.len() <= 136.max(3 * asked.len()),
            "{} bytes for {}",
            answer.len(),
            asked.len()
        );
    }
    let mut client = gateway.client(Kind::Udp);
    assert_eq!(client.read("ps/long"), body, "and any client can fetch the rest");
}

#[test]
fn an_answer_to_a_proven_address_is_whole() {
    let (gateway, body) = gateway(Config::new());
    let mut client = gateway.client(Kind::Udp);
    prove(&mut client);
    let answer = client.request(&Request::get("ps/long")).expect(code::CONTENT);
    assert_eq!(answer.payload, body);
    // A DTLS handshake proves the address too.
    let answer = gateway
        .client(Kind::Dtls)
        .request(&Request::get("ps/long"))
        .expect(code::CONTENT);
    assert_eq!(answer.payload, body);
}

#[test]
fn a_token_proves_no_address() {
    let (gateway, body) = gateway(Config::new());
    let mut owner = gateway.client(Kind::Udp);
    prove(&mut owner);
    let token = owner.create("a");
    let uri = format!("ps/long?clientid=a&token={token}");
    assert_eq!(owner.read(&uri), body);
    let mut elsewhere = gateway.client(Kind::Udp);
    let heartbeat = Request::put(&format!("mqtt/connection?clientid=a&token={token}"));
    let (mut asked, mut answered) = (0, 0);
    for request in [heartbeat, Request::get(&uri)] {
        let request = elsewhere.message(&request).encode();
        elsewhere.send_raw(&request);
        asked += request.len();
        answered += elsewhere.recv_raw(ms(5000)).expect("an answer").len();
    }
    assert!(answered <= 136.max(3 * asked), "{answered} bytes for {asked}");
}

#[test]
fn an_unproven_address_must_acknowledge_one_of_the_first_notifications() {
    let (gateway, _) = gateway(Config::new());
    let mut client = gateway.client(Kind::Udp);
    let observation = client.observe("ps/a?qos=0");
    client.reaction = Reaction::Ignore;
    let mut publisher = gateway.client(Kind::Dtls);
    for i in 0..30 {
        publisher.publish("ps/a", format!("{i}"));
    }
    let mut got: Vec<Message> = vec![];
    while let Some(message) = client.try_notification(&observation.token, ms(400)) {
        got.push(message);
    }
    let sent: usize = got.iter().map(|message| message.encode().len()).sum();
    assert!(sent <= 136, "{sent} bytes");
    let con = got.pop().unwrap();
    assert_eq!(con.typ, typ::CON);
    assert!(got.iter().all(|message| message.typ == typ::NON), "one question");
    client.reaction = Reaction::Acknowledge;
    client.send(&Message::empty(typ::ACK, con.id));
    let mut last = con.text();
    while last != "29" {
        last = client.notification(&observation.token).text();
    }
}

#[test]
fn many_reads_of_one_socket_are_answered_each() {
    let (gateway, body) = gateway(Config::new());
    let mut publisher = gateway.client(Kind::Dtls);
    for n in 0..9 {
        publisher.publish(&format!("ps/r/{n}?retain=1"), "v".repeat(20 * n));
    }
    let mut client = gateway.client(Kind::Udp);
    for n in 1..9 {
        let answer = client
            .request(&Request::get(&format!("ps/r/{n}")))
            .expect(code::CONTENT);
        let first = answer.payload.len() < 20 * n;
        assert!(
            !first || answer.block(option::BLOCK2).is_some(),
            "{n}: {answer:?}"
        );
    }
    assert_eq!(client.read("ps/long"), body);
}

#[test]
fn a_dtls_peer_is_not_asked_to_acknowledge() {
    let (gateway, _) = gateway(Config::new());
    let mut client = gateway.client(Kind::Dtls);
    let observation = client.observe("ps/a?qos=0");
    for i in 0..30 {
        client.publish("ps/a", format!("{i}"));
        assert_eq!(client.notification(&observation.token).typ, typ::NON);
    }
}

#[test]
fn a_strict_site_asks_for_echo() {
    let (gateway, body) = gateway(Config::new().set("limits", "unproven = \"echo\""));
    let mut client = gateway.client(Kind::Udp);
    let request = Request::get("ps/long");
    let challenge = client.request(&request).expect(code::UNAUTHORIZED);
    let echo = challenge.option(option::ECHO).expect("Echo").to_vec();
    assert!((1..=40).contains(&echo.len()));
    let answer = client
        .request(&request.clone().option(option::ECHO, &echo))
        .expect(code::CONTENT);
    assert_eq!(answer.payload, body);
    client.request(&request).expect(code::CONTENT);
    // Another address cannot use it, nor a made-up one.
    let mut stranger = gateway.client(Kind::Udp);
    stranger
        .request(&request.clone().option(option::ECHO, &echo))
        .expect(code::UNAUTHORIZED);
    stranger
        .request(&request.clone().option(option::ECHO, &[7; 16]))
        .expect(code::UNAUTHORIZED);
    gateway.client(Kind::Dtls).request(&request).expect(code::CONTENT);
}
