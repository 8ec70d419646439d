//! CoAP over WebSockets (RFC 8323, 4).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::coap::typ;
use crate::support::stream::{Stream, signal, signalling};
use crate::support::websocket::{self, COAP, frame, framed, upgrade};
use crate::support::{Config, Gateway, Kind, Message, Request, code, ms};

fn gateway(more: &str) -> Gateway {
    let own = format!("websocket = true\n{more}");
    Gateway::start(Config::new().tcp(&own).tls(&own))
}

/// A request as a WebSocket has it.
fn message(request: &Request) -> Vec<u8> {
    let datagram = Message {
        typ: typ::NON,
        code: request.code,
        id: 0,
        token: b"t".to_vec(),
        options: request.options.clone(),
        payload: request.payload.clone(),
    }
    .encode();
    [&[1, datagram[1]], &datagram[4..]].concat()
}

/// Waits for the end of a connection.
fn ends(tcp: &mut TcpStream) {
    let mut scrap = [0; 1024];
    while matches!(tcp.read(&mut scrap), Ok(1..)) {}
}

#[test]
fn web_sockets_say_and_hear_what_all_others_do_in_order() {
    let gateway = gateway("");
    let mut datagrams = gateway.client(Kind::Udp);
    let mut peers = [
        websocket::plain(gateway.udp_addr()),
        websocket::tls(gateway.dtls_addr()),
    ];
    let tokens = peers.each_mut().map(|peer| peer.observe("ps/a?qos=1"));
    gateway.metric_becomes("subscriptions", &[], 2.0);
    for n in 0..200 {
        datagrams.publish("ps/a", n.to_string());
    }
    for (peer, token) in peers.iter_mut().zip(&tokens) {
        for n in 0..200 {
            let told = peer.receive().expect("a notification");
            assert_eq!((&told.token, told.text()), (token, n.to_string()));
        }
    }
    gateway.metric_becomes("sessions", &["transport=\"tcp\""], 1.0);
    gateway.metric_becomes("sessions", &["transport=\"tls\""], 1.0);
    for mut peer in peers {
        let body = "x".repeat(40_000);
        peer.request(&Request::put("ps/long?retain=1").payload(&*body))
            .expect(code::CHANGED);
        // Of a peer that did not say more 1,152 bytes are taken as the most that it reads.
        let read = peer
            .request(&Request::get("ps/long"))
            .expect(code::CONTENT)
            .text();
        assert!(read.len() >= 1024 && body.starts_with(&read), "{}", read.len());
        let ping = Message {
            token: b"p".to_vec(),
            ..signalling(signal::PING, &[])
        };
        peer.send(&ping);
        let pong = peer.receive().expect("a pong");
        assert_eq!((pong.code, &*pong.token), (signal::PONG, &b"p"[..]));
        peer.send(&signalling(signal::RELEASE, &[]));
        assert!(peer.end().is_none(), "nothing is owed");
    }
    gateway.metric_becomes("subscriptions", &[], 0.0);
    gateway.metric_becomes("stream_closed_total", &["reason=\"stream_ended\""], 2.0);
    gateway.assert_serves();
}

#[test]
fn who_asks_for_another_thing_or_from_a_page_that_is_not_listed_is_refused() {
    let listed = "websocket = [\"https://console.example.net\"]";
    let gateway = Gateway::start(Config::new().tcp(listed));
    let at = |path: &str, more: &str| {
        let mut tcp = websocket::silent(gateway.udp_addr());
        let answer = websocket::ask(&mut tcp, &upgrade(path, more));
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let here = "/.well-known/coap";
    for (path, more, status) in [
        (here, COAP, "101"),
        (here, "Sec-WebSocket-Protocol: mqtt, coap\r\n", "101"),
        (
            here,
            "Sec-WebSocket-Protocol: coap\r\nOrigin: https://console.example.net\r\n",
            "101",
        ),
        ("/", COAP, "404"),
        ("/.well-known/core", COAP, "404"),
        (here, "", "400"),
        (here, "Sec-WebSocket-Protocol: mqtt\r\n", "400"),
        (
            here,
            "Sec-WebSocket-Protocol: coap\r\nOrigin: https://evil.example\r\n",
            "403",
        ),
        (here, "Sec-WebSocket-Protocol: coap\r\nOrigin: null\r\n", "403"),
    ] {
        assert_eq!(at(path, more), status, "{path} {more:?}");
    }
    // Who speaks CoAP over TCP, or HTTP that asks for nothing.
    for other in [
        &b"\x00\xe1\x31\x01\xb1a"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
    ] {
        let mut tcp = websocket::silent(gateway.udp_addr());
        tcp.write_all(other).unwrap();
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        ends(&mut tcp);
    }
    gateway.metric_becomes("stream_refused_total", &["reason=\"websocket\""], 9.0);
    gateway.assert_serves();
}

#[test]
fn what_is_no_message_ends_its_web_socket_and_no_other() {
    let gateway = gateway("max_message_size = 2048");
    let mut standing = websocket::plain(gateway.udp_addr());
    let token = standing.observe("ps/a?qos=1");
    let publish = message(&Request::put("ps/a").payload("no"));
    let long = [&publish[..], &[b'x'; 4096]].concat();
    let unmasked = [&[0x82, u8::try_from(publish.len()).unwrap()], &publish[..]].concat();
    for broken in [
        framed(frame::TEXT, true, b"hello"),
        framed(frame::BINARY, true, b""),
        framed(frame::BINARY, true, b"\x00"),
        framed(frame::BINARY, true, b"\x10\x01x"),
        framed(frame::BINARY, true, b"\x09\x01123456789"),
        framed(frame::BINARY, true, b"\x08\x01123"),
        framed(frame::BINARY, true, &long),
        framed(0x3, true, b"x"),
        framed(frame::PING, true, &[0; 200]),
        framed(frame::CONTINUATION, true, &publish),
        unmasked,
    ] {
        let (mut tcp, _greeted) = websocket::by_hand(gateway.udp_addr());
        tcp.write_all(&broken).unwrap();
        ends(&mut tcp);
    }
    gateway.metric_becomes("stream_closed_total", &["reason=\"malformed_stream\""], 11.0);
    gateway.client(Kind::Udp).publish("ps/a", "still");
    let told = standing.receive().expect("a notification");
    assert_eq!((&told.token, told.text()), (&token, "still".to_owned()));
    gateway.assert_serves();
}

#[test]
fn a_message_in_fragments_is_whole_in_time_or_ends_its_web_socket() {
    let gateway = gateway("message_timeout = \"1s\"");
    let request = message(&Request::put("ps/a").payload([b'x'; 600]));
    let (start, end) = request.split_at(300);
    let (mut tcp, mut stream) = websocket::by_hand(gateway.udp_addr());
    tcp.write_all(&framed(frame::BINARY, false, start)).unwrap();
    tcp.write_all(&framed(frame::PING, true, b"are you there"))
        .unwrap();
    tcp.write_all(&framed(frame::CONTINUATION, true, end)).unwrap();
    assert_eq!(stream.receive().expect("an answer").code, code::CHANGED);
    // With pings alone it lives on; with a message that is never whole it does not, whatever it pings.
    for _ in 0..5 {
        tcp.write_all(&framed(frame::PING, true, b"")).unwrap();
        std::thread::sleep(ms(600));
    }
    stream
        .request(&Request::put("ps/a").payload("1"))
        .expect(code::CHANGED);
    tcp.write_all(&framed(frame::BINARY, false, start)).unwrap();
    let mut pings = 0;
    while tcp.write_all(&framed(frame::PING, true, b"")).is_ok() && pings < 200 {
        std::thread::sleep(ms(300));
        pings += 1;
    }
    gateway.metric_becomes("stream_closed_total", &["reason=\"unfinished_message\""], 1.0);
    gateway.assert_serves();
}

#[test]
fn a_message_that_begins_right_behind_a_whole_one_is_whole_in_time_or_ends_its_web_socket() {
    let gateway = gateway("message_timeout = \"1s\"");
    let request = message(&Request::put("ps/a").payload([b'x'; 600]));
    let whole = framed(frame::BINARY, true, &request);
    let (mut tcp, mut stream) = websocket::by_hand(gateway.udp_addr());
    tcp.write_all(&[&whole[..], &whole[..100]].concat()).unwrap();
    assert_eq!(stream.receive().expect("an answer").code, code::CHANGED);
    gateway.metric_becomes("stream_closed_total", &["reason=\"unfinished_message\""], 1.0);
    gateway.assert_serves();
}

#[test]
fn pings_whose_pongs_nobody_takes_are_read_no_further() {
    const ENOUGH: usize = 96 << 20;
    let gateway = gateway("message_timeout = \"1s\"");
    let (mut tcp, _greeted) = websocket::by_hand(gateway.udp_addr());
    tcp.set_write_timeout(Some(ms(5_000))).unwrap();
    let pings = framed(frame::PING, true, &[b'p'; 125]).repeat(1_000);
    let mut sent = 0;
    while sent < ENOUGH && tcp.write_all(&pings).is_ok() {
        sent += pings.len();
    }
    assert!(sent < ENOUGH, "all of them were read");
    gateway.metric_becomes("stream_closed_total", &["reason=\"slow_reader\""], 1.0);
    // Who takes them may ping as much as it likes.
    let (mut tcp, mut stream) = websocket::by_hand(gateway.udp_addr());
    for few in pings.chunks(pings.len() / 10) {
        tcp.write_all(few).unwrap();
        stream
            .request(&Request::put("ps/a").payload("1"))
            .expect(code::CHANGED);
    }
    gateway.assert_serves();
}

#[test]
fn messages_of_the_longest_length_that_is_announced_are_taken_and_of_no_more_after_a_reload_too() {
    let gateway = gateway("max_message_size = 2048");
    let at_most = |most: usize| {
        let head = message(&Request::put("ps/a").payload("")).len() + 1;
        message(&Request::put("ps/a").payload(vec![b'x'; most - head]))
    };
    let (mut tcp, mut stream) = websocket::by_hand(gateway.udp_addr());
    tcp.write_all(&framed(frame::BINARY, true, &at_most(2048)))
        .unwrap();
    assert_eq!(stream.receive().expect("an answer").code, code::CHANGED);
    let own = "websocket = true\nmax_message_size = 8192";
    gateway.configure(&Config::new().tcp(own).tls(own));
    assert!(gateway.reloaded());
    let csm = stream.receive().expect("it is told of it");
    assert_eq!(csm.code, signal::CSM);
    let longest = at_most(8192);
    let (start, end) = longest.split_at(3_000);
    tcp.write_all(&framed(frame::BINARY, false, start)).unwrap();
    tcp.write_all(&framed(frame::CONTINUATION, true, end)).unwrap();
    assert_eq!(stream.receive().expect("an answer").code, code::CHANGED);
    tcp.write_all(&framed(frame::BINARY, true, &at_most(8193)))
        .unwrap();
    gateway.metric_becomes("stream_closed_total", &["reason=\"malformed_stream\""], 1.0);
    gateway.assert_serves();
}

#[test]
fn web_sockets_that_are_never_asked_for_keep_nobody_out_for_long() {
    let gateway = gateway("max_connections = 20\nhandshake_timeout = \"2s\"");
    let mut standing = gateway.client(Kind::Dtls);
    let observed = standing.observe("ps/a?qos=1");
    let half: Vec<TcpStream> = (0..60)
        .map(|n| {
            let mut tcp = websocket::silent(gateway.udp_addr());
            let request = upgrade("/.well-known/coap", COAP);
            let _ended = tcp.write_all(&request.as_bytes()[..n % request.len()]);
            tcp
        })
        .collect();
    gateway.metric_becomes("stream_refused_total", &["reason=\"max_connections\""], 40.0);
    gateway.metric_becomes("stream_refused_total", &["reason=\"websocket\""], 20.0);
    drop(half);
    let mut new: Stream = websocket::plain(gateway.udp_addr());
    new.request(&Request::put("ps/a").payload("new"))
        .expect(code::CHANGED);
    assert_eq!(standing.notification(&observed.token).text(), "new");
    gateway.assert_serves();
}
