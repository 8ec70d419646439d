//! CoAP over TCP and TLS (RFC 8323).

use std::net::TcpStream;

use openssl::ssl::{SslFiletype, SslVersion};

use crate::support::coap::uint_bytes;
use crate::support::gateway::hex;
use crate::support::pki::Pki;
use crate::support::stream::{Stream, frame, signal, signalling};
use crate::support::{Config, Gateway, Kind, Request, code, ms, option, psk_of, wait_until};

fn both() -> Gateway {
    Gateway::start(Config::new().tcp("").tls(""))
}

/// A peer over TCP, and one over TLS as `dev1`.
fn peers(gateway: &Gateway) -> [Stream; 2] {
    [Stream::tcp(gateway.udp_addr()), Stream::dev1(gateway.dtls_addr())]
}

#[test]
fn what_one_publishes_all_observe_whatever_they_speak_and_in_order() {
    let gateway = both();
    let mut datagrams = gateway.client(Kind::Udp);
    let told = datagrams.observe("ps/a");
    let mut streams = peers(&gateway);
    let tokens: Vec<_> = streams
        .iter_mut()
        .map(|peer| peer.observe("ps/a?qos=1"))
        .collect();
    gateway.metric_becomes("subscriptions", &[], 3.0);
    for n in 0..300 {
        datagrams.publish("ps/a", n.to_string());
        assert_eq!(datagrams.notification(&told.token).text(), n.to_string());
    }
    for (peer, token) in streams.iter_mut().zip(&tokens) {
        let mut number = 0;
        for n in 0..300 {
            let notification = peer.receive().unwrap();
            assert_eq!(notification.token, *token);
            assert_eq!(notification.text(), n.to_string());
            assert!(notification.observe() > Some(number), "{notification:?}");
            number = notification.observe().unwrap();
        }
    }
    for peer in &mut streams {
        peer.request(&Request::put("ps/a").payload("back"))
            .expect(code::CHANGED);
        assert_eq!(datagrams.notification(&told.token).text(), "back");
    }
    gateway.metric_becomes("sessions", &["transport=\"tcp\""], 1.0);
    gateway.metric_becomes("sessions", &["transport=\"tls\""], 1.0);
    streams.into_iter().for_each(Stream::close);
    gateway.metric_becomes("sessions", &["transport=\"tcp\""], 0.0);
    gateway.metric_becomes("subscriptions", &[], 1.0);
    gateway.metric_becomes("stream_closed_total", &["reason=\"stream_ended\""], 2.0);
}

#[test]
fn the_same_request_twice_is_two_requests() {
    let gateway = both();
    for mut peer in peers(&gateway) {
        let token = peer.observe("ps/twice");
        let publish = Request::put("ps/twice").payload("again").token(b"same");
        for _ in 0..3 {
            let request = peer.message(&publish);
            peer.send(&request);
            // Answer and notification, in whichever order.
            let both = [peer.receive().unwrap(), peer.receive().unwrap()];
            assert!(
                both.iter()
                    .any(|it| it.token == b"same" && it.code == code::CHANGED),
                "{both:?}"
            );
            assert!(
                both.iter().any(|it| it.token == token && it.text() == "again"),
                "{both:?}"
            );
        }
    }
}

#[test]
fn a_connection_begins_with_a_csm_that_can_be_obeyed() {
    let gateway = both();
    let mut early = Stream::silent(gateway.udp_addr());
    let request = early.message(&Request::get("ps/a"));
    early.send(&request);
    let last = early.end().unwrap();
    assert_eq!(last.code, signal::ABORT, "{last:?}");
    assert!(last.text().contains("CSM"), "{last:?}");
    let mut demanding = Stream::silent(gateway.udp_addr());
    demanding.send(&signalling(signal::CSM, &[(2, uint_bytes(2_000)), (9, vec![1])]));
    let last = demanding.end().unwrap();
    assert_eq!((last.code, last.uint(2)), (signal::ABORT, Some(9)), "{last:?}");
    let mut modest = Stream::silent(gateway.udp_addr());
    modest.send(&signalling(
        signal::CSM,
        &[(2, uint_bytes(2_000)), (4, vec![]), (10, vec![1])],
    ));
    let csm = modest.receive().unwrap();
    assert_eq!(
        (csm.code, csm.uint(2), csm.option(4)),
        (signal::CSM, Some(65_536), Some(&[][..]))
    );
    modest
        .request(&Request::put("ps/a").payload("1"))
        .expect(code::CHANGED);
    gateway.metric_becomes("stream_closed_total", &["reason=\"malformed_stream\""], 2.0);
    gateway.assert_serves();
}

#[test]
fn a_ping_is_answered_with_its_token_and_its_custody() {
    let gateway = both();
    for mut peer in peers(&gateway) {
        for options in [vec![], vec![(2, vec![])]] {
            let mut ping = signalling(signal::PING, &options);
            ping.token = b"tok".to_vec();
            peer.send(&ping);
            let pong = peer.receive().unwrap();
            assert_eq!(
                (pong.code, &pong.token, &pong.options),
                (signal::PONG, &ping.token, &ping.options)
            );
        }
        // An empty message keeps a connection alive and is answered by nothing; a Pong of the peer likewise.
        peer.write(&[0, 0]);
        peer.send(&signalling(signal::PONG, &[]));
        peer.request(&Request::put("ps/a").payload("1"))
            .expect(code::CHANGED);
    }
}

#[test]
fn a_released_connection_has_its_answers_first_and_an_aborted_one_ends() {
    let gateway = both();
    for mut peer in peers(&gateway) {
        let publish = Request::put("ps/a?retain=1").payload("last");
        let [first, second] = [peer.message(&publish), peer.message(&Request::get("ps/a"))];
        let all = [first, second, signalling(signal::RELEASE, &[])];
        peer.write(&all.iter().flat_map(frame).collect::<Vec<_>>());
        // In whichever order they are done.
        let both = [peer.receive().unwrap(), peer.receive().unwrap()];
        assert!(both.iter().any(|it| it.code == code::CHANGED), "{both:?}");
        assert!(
            both.iter()
                .any(|it| [code::CONTENT, code::NOT_FOUND].contains(&it.code)),
            "{both:?}"
        );
        assert!(peer.end().is_none());
    }
    for mut peer in peers(&gateway) {
        peer.observe("ps/b");
        peer.send(&signalling(signal::ABORT, &[]));
        assert!(peer.end().is_none());
    }
    gateway.metric_becomes("subscriptions", &[], 0.0);
    gateway.metric_becomes("stream_closed_total", &["reason=\"aborted\""], 2.0);
}

#[test]
fn bodies_go_whole_as_far_as_messages_may_be_and_beyond_in_several_blocks_each() {
    let gateway = both();
    let body: Vec<u8> = (0..150_000_u32).map(|n| (n % 251) as u8).collect();
    for mut peer in peers(&gateway) {
        let short = &body[..60_000];
        peer.request(&Request::put("ps/short?retain=1").payload(short))
            .expect(code::CHANGED);
        let whole = peer.request(&Request::get("ps/short")).expect(code::CONTENT);
        // The peer said nothing of longer messages, so it gets blocks.
        assert_eq!(
            whole.block(option::BLOCK2).map(|block| (block.num, block.more)),
            Some((0, true))
        );
        peer.send(&signalling(signal::CSM, &[(2, uint_bytes(100_000)), (4, vec![])]));
        // Several blocks of 1024 in each message (RFC 8323, 6).
        let bert = |number: usize, more: bool| uint_bytes((number as u32) << 4 | u32::from(more) << 3 | 7);
        let pieces: Vec<_> = body.chunks(50 * 1024).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let more = at + 1 < pieces.len();
            let put = Request::put("ps/long?retain=1").option(option::BLOCK1, &bert(at * 50, more));
            let answer = peer.request(&put.payload(piece));
            assert_eq!(answer.option(option::BLOCK1), Some(&bert(at * 50, more)[..]));
            answer.expect(if more { code::CONTINUE } else { code::CHANGED });
        }
        let mut got = Vec::new();
        loop {
            let get = Request::get("ps/long").option(option::BLOCK2, &bert(got.len() / 1024, false));
            let answer = peer.request(&get).expect(code::CONTENT);
            let value = answer.uint(option::BLOCK2).unwrap();
            assert_eq!(
                (value & 7, (value >> 4) as usize),
                (7, got.len() / 1024),
                "{answer:?}"
            );
            got.extend_from_slice(&answer.payload);
            if value & 8 == 0 {
                break;
            }
            assert!(answer.payload.len() >= 1024 && answer.payload.len() % 1024 == 0);
        }
        assert!(got == body);
    }
    let refused = gateway
        .client(Kind::Udp)
        .request(&Request::get("ps/long").option(option::BLOCK2, &[7]));
    refused.expect(code::BAD_REQUEST);
}

#[test]
fn a_critical_option_that_is_not_known_is_refused_and_a_method_too() {
    let gateway = both();
    for mut peer in peers(&gateway) {
        peer.request(&Request::get("ps/a").option(9, b"x"))
            .expect(code::BAD_OPTION);
        peer.request(&Request::new(31, "ps/a"))
            .expect(code::METHOD_NOT_ALLOWED);
        peer.request(&Request::put("ps/a").payload("1"))
            .expect(code::CHANGED);
    }
}

#[test]
fn a_tls_handshake_proves_who_is_there_in_both_versions() {
    let pki = Pki::new();
    let keys = "psk_file = \"psk.txt\"\ncert_file = \"server.pem\"\nkey_file = \"server.key\"\nca_file = \"ca.pem\"\n\
                verify = \"optional\"\nidentity = \"clientid\"\nconnection_required = true";
    let config = pki
        .install(Config::new())
        .tls(keys)
        .dtls("psk_file = \"psk.txt\"");
    let gateway = Gateway::start(
        config
            .file("client.pem", pki.client.cert_pem())
            .file("client.key", pki.client.key_pem()),
    );
    let addr = gateway.dtls_addr();
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        // The handshake is the connection: nothing names a client or a token.
        let mut device = Stream::psk(addr, "dev2", &psk_of("dev2"), version).unwrap();
        device
            .request(&Request::put("ps/a").payload("1"))
            .expect(code::CHANGED);
        let other = device.request(&Request::put("ps/a?clientid=dev3").payload("1"));
        other.expect(code::UNAUTHORIZED);
        let wrong = Stream::psk(addr, "dev2", "another-key-of-dev2-1234", version);
        assert!(wrong.is_err(), "{version:?}");
        assert!(
            Stream::psk(addr, "nobody", &psk_of("dev2"), version).is_err(),
            "{version:?}"
        );
        let certificate = Stream::tls(addr, |builder| {
            builder.set_min_proto_version(Some(version)).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
            let file = |name| gateway.path(name);
            builder
                .set_certificate_file(file("client.pem"), SslFiletype::PEM)
                .unwrap();
            builder
                .set_private_key_file(file("client.key"), SslFiletype::PEM)
                .unwrap();
        });
        let mut device = certificate.unwrap();
        device
            .request(&Request::put("ps/a").payload("1"))
            .expect(code::CHANGED);
        device
            .request(&Request::put("ps/a?clientid=dev3").payload("1"))
            .expect(code::UNAUTHORIZED);
        let mut nobody = Stream::tls(addr, |builder| {
            builder.set_min_proto_version(Some(version)).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
        })
        .unwrap();
        nobody
            .request(&Request::put("ps/a").payload("1"))
            .expect(code::BAD_REQUEST);
    }
    gateway.metric_becomes("tls_handshakes_total", &["result=\"wrong_key\""], 2.0);
    gateway.metric_becomes("tls_handshakes_total", &["result=\"unknown_identity\""], 2.0);
    gateway.says("dev2");
    gateway.says("device-7");
    assert!(!gateway.log().contains("key-of-"));
    assert!(
        Stream::tls(addr, |builder| builder.set_alpn_protos(b"\x02h2").unwrap()).is_err(),
        "another protocol"
    );
}

#[test]
fn of_two_keys_the_one_that_a_device_has_is_found_by_its_next_handshake() {
    let gateway = both();
    let keys = ["first-key-of-dev2-1234", "other-key-of-dev2-1234"];
    let lines = keys.map(|key| format!("dev2:{}\n", hex(key.as_bytes())));
    gateway.write("psk.txt", lines.concat().as_bytes());
    gateway.reload();
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for key in [keys[0], keys[1], keys[0]] {
            let mut tries = (0..3).map(|_| Stream::psk(gateway.dtls_addr(), "dev2", key, version));
            let mut device = tries.find_map(Result::ok).expect("one of them is right");
            device
                .request(&Request::put("ps/a").payload("1"))
                .expect(code::CHANGED);
        }
    }
}

#[test]
fn whom_a_reload_no_longer_lets_in_is_out() {
    let gateway = both();
    let mut going = Stream::dev1(gateway.dtls_addr());
    let mut staying = Stream::psk(gateway.dtls_addr(), "dev2", &psk_of("dev2"), SslVersion::TLS1_3).unwrap();
    let keys = std::fs::read_to_string(gateway.path("psk.txt")).unwrap();
    let keys: String = keys
        .lines()
        .filter(|line| !line.starts_with("dev1:"))
        .map(|line| format!("{line}\n"))
        .collect();
    gateway.write("psk.txt", keys.as_bytes());
    gateway.reload();
    assert_eq!(going.end().map(|last| last.code), Some(signal::RELEASE));
    staying
        .request(&Request::put("ps/a").payload("1"))
        .expect(code::CHANGED);
    assert!(Stream::psk(gateway.dtls_addr(), "dev1", &psk_of("dev1"), SslVersion::TLS1_3).is_err());
    gateway.metric_becomes("stream_closed_total", &["reason=\"revoked\""], 1.0);
}

#[test]
fn a_reload_opens_and_closes_listeners_for_streams() {
    let gateway = Gateway::start(Config::new());
    let connects = || TcpStream::connect(gateway.udp_addr()).is_ok();
    let takes = |peer: &mut Stream, most: u32| {
        while peer.receive().expect("a CSM").uint(2) != Some(most) {}
    };
    assert!(!connects());
    let config = Config::new().tcp("max_message_size = 2048");
    gateway.configure(&config);
    gateway.reload();
    wait_until("it listens", connects);
    let mut peer = Stream::silent(gateway.udp_addr());
    takes(&mut peer, 2048);
    peer = peer.greeted_after_csm();
    peer.request(&Request::put("ps/a").payload("1"))
        .expect(code::CHANGED);
    gateway.configure(&config.replace("listeners.tcp.default", "max_message_size", "4096"));
    gateway.reload();
    takes(&mut peer, 4096);
    takes(&mut Stream::silent(gateway.udp_addr()), 4096);
    peer.request(&Request::put("ps/a").payload("2"))
        .expect(code::CHANGED);
    gateway.configure(&Config::new());
    gateway.reload();
    assert_eq!(peer.end().map(|last| last.code), Some(signal::RELEASE));
    wait_until("it listens no more", || !connects());
    gateway.assert_serves();
}

#[test]
fn a_connection_of_connection_mode_lives_by_pings_and_may_end_with_its_stream() {
    let config = Config::new().coap("connection_required = true\nheartbeat = \"1s\"");
    let gateway = Gateway::start(config.tcp("on_close = \"end\""));
    let mut device = Stream::tcp(gateway.udp_addr());
    let created = device
        .request(&Request::post("mqtt/connection?clientid=dev7"))
        .expect(code::CREATED);
    let publish = Request::put(&format!("ps/a?clientid=dev7&token={}", created.text())).payload("1");
    device.request(&publish).expect(code::CHANGED);
    for _ in 0..12 {
        std::thread::sleep(ms(250));
        device.send(&signalling(signal::PING, &[]));
        assert_eq!(device.receive().unwrap().code, signal::PONG);
    }
    device.request(&publish).expect(code::CHANGED);
    gateway.metric_becomes("connections", &[], 1.0);
    device.close();
    gateway.metric_becomes("connections", &[], 0.0);
    gateway.metric_becomes("connections_total", &["result=\"ended\""], 1.0);
}

#[test]
fn what_is_only_meant_now_is_asked_for_its_echo_here_too() {
    let gateway = both();
    for mut peer in peers(&gateway) {
        let open = Request::put("ps/valve?fresh=1").payload("open");
        let asked = peer.request(&open).expect(code::UNAUTHORIZED);
        let echo = asked.option(option::ECHO).unwrap();
        peer.request(&open.option(option::ECHO, echo))
            .expect(code::CHANGED);
    }
}

#[test]
fn a_stop_says_goodbye() {
    let mut gateway = both();
    let mut streams = peers(&gateway);
    for peer in &mut streams {
        // Who is not served yet is not told either.
        peer.request(&Request::put("ps/a").payload("x"))
            .expect(code::CHANGED);
    }
    assert!(gateway.stop().success());
    for mut peer in streams {
        assert_eq!(peer.end().map(|last| last.code), Some(signal::RELEASE));
    }
}

#[test]
fn access_rules_and_a_rate_keep_connections_out() {
    let gateway = Gateway::start(
        Config::new()
            .tcp("access_rules = [\"deny 127.0.0.0/8\"]")
            .tls("max_handshakes_per_second = 1"),
    );
    assert!(Stream::silent(gateway.udp_addr()).end().is_none());
    gateway.metric_becomes("datagrams_dropped_total", &["reason=\"access_denied\""], 1.0);
    let came = (0..8)
        .filter(|_| Stream::psk(gateway.dtls_addr(), "dev1", &psk_of("dev1"), SslVersion::TLS1_3).is_ok());
    assert!(came.count() >= 1);
    gateway.assert_serves();
}
