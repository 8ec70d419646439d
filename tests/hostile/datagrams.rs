//! Datagrams of every size, of random bytes, from impossible sources.

use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Noise;
use crate::support::{Client, Config, Gateway, Kind, Message, Request, code, ms, typ, wait_until};

/// A socket that says what it likes and reads nothing.
fn sender(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket
}

#[test]
fn datagrams_of_every_size() {
    let gateway = Gateway::start(Config::new());
    let mut noise = Noise(1);
    let sizes = (0..64)
        .chain([
            100, 127, 128, 255, 256, 511, 512, 1023, 1024, 1152, 1279, 1280, 1281,
        ])
        .chain([
            1471, 1472, 1473, 1500, 2047, 2048, 2049, 4096, 9000, 16_383, 16_384, 16_385, 32_768, 65_506,
            65_507,
        ]);
    let sizes: Vec<usize> = sizes.collect();
    for to in [gateway.udp_addr(), gateway.dtls_addr()] {
        let socket = sender(to);
        for size in &sizes {
            let mut bytes = noise.bytes(*size);
            let _ = socket.send(&bytes);
            // The same as something that begins well: a CON, a handshake record, a record of data.
            for head in [
                &[0x40, 2][..],
                &[22, 0xfe, 0xfd, 0, 0],
                &[23, 0xfe, 0xfd, 0, 1],
                &[25, 0xfe, 0xfd],
            ] {
                let n = head.len().min(*size);
                bytes[..n].copy_from_slice(&head[..n]);
                let _ = socket.send(&bytes);
            }
        }
        gateway.assert_serves();
    }
}

#[test]
fn the_largest_datagram_is_a_request_like_any_other() {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(Kind::Udp);
    let head = client
        .message(&Request::post("ps/a?retain=1").payload("x"))
        .encode()
        .len()
        - 1;
    let payload = vec![b'x'; 65_507 - head];
    let answer = client.request(&Request::post("ps/a?retain=1").payload(&payload));
    assert!(
        [code::CHANGED, code::TOO_LARGE].contains(&answer.code),
        "{answer:?}"
    );
    if answer.code == code::CHANGED {
        assert!(client.read("ps/a") == payload, "what was taken is whole");
    }
    gateway.assert_serves();
}

#[test]
fn ten_thousand_random_datagrams_on_each_port() {
    let gateway = Gateway::start(Config::new().set("log", "level = \"warn\""));
    gateway.assert_serves();
    let before = gateway.rss_kib();
    let mut noise = Noise(2);
    let mut good = gateway.client(Kind::Udp);
    let valid = good
        .message(
            &Request::post("ps/a?qos=1")
                .observe(0)
                .block1(0, false, 64)
                .payload("x"),
        )
        .encode();
    let hello = crate::handshakes::client_hello();
    for (to, template) in [(gateway.udp_addr(), valid), (gateway.dtls_addr(), hello)] {
        let sockets: Vec<UdpSocket> = (0..20).map(|_| sender(to)).collect();
        for i in 0..10_000 {
            let bytes = if i % 2 == 0 {
                let length = noise.below(300);
                noise.bytes(length)
            } else {
                mutated(&template, &mut noise)
            };
            let _ = sockets[i % sockets.len()].send(&bytes);
            if i % 250 == 0 {
                // Let it read, so that the socket's buffer does not swallow the rest.
                std::thread::sleep(ms(1));
            }
        }
    }
    gateway.assert_serves();
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more than before");
}

/// The template with some bytes changed, cut or doubled.
fn mutated(template: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut bytes = template.to_vec();
    for _ in 0..=noise.below(4) {
        let at = noise.below(bytes.len());
        match noise.below(4) {
            0 => bytes[at] ^= 1 << noise.below(8),
            1 => bytes[at] = noise.next().to_be_bytes()[0],
            2 => bytes.truncate(at.max(1)),
            _ => bytes.insert(at, 0xff),
        }
    }
    bytes
}

/// Sends a UDP datagram with any source over a raw socket; `false` when that is not permitted.
fn send_as(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> bool {
    let Ok(socket) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) else {
        return false;
    };
    socket.bind(&SocketAddr::new(from.ip(), 0).into()).unwrap();
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = vec![];
    for field in [from.port(), to.port(), length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    socket
        .send_to(&datagram, &SocketAddr::new(to.ip(), 0).into())
        .unwrap();
    true
}

#[test]
fn a_datagram_from_source_port_0() {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(Kind::Udp);
    let request = client
        .message(&Request::post("ps/a?retain=1").payload("from nowhere"))
        .encode();
    let from = "127.0.0.1:0".parse().unwrap();
    for to in [gateway.udp_addr(), gateway.dtls_addr()] {
        for payload in [
            &request[..],
            &crate::handshakes::client_hello(),
            b"",
            &[0x40, 0, 0, 1],
        ] {
            if !send_as(from, to, payload) {
                eprintln!("raw sockets need root: not tested");
                return;
            }
        }
    }
    wait_until("all eight are counted", || {
        gateway.metric("datagrams_dropped_total", &["reason=\"source_port_zero\""]) == 8.0
    });
    client.request(&Request::get("ps/a")).expect(code::NOT_FOUND);
    gateway.assert_serves();
}

#[test]
fn datagrams_that_claim_to_come_from_the_gateway_itself() {
    let gateway = Gateway::start(Config::new());
    let mut client = gateway.client(Kind::Udp);
    let request = client.message(&Request::get("ps/a")).encode();
    let observe = client.message(&Request::get("ps/loop").observe(0)).encode();
    let ping = Message::empty(typ::CON, 1).encode();
    let own = [gateway.udp_addr(), gateway.dtls_addr()];
    for from in own {
        for to in own {
            for payload in [&request, &observe, &ping] {
                if !send_as(from, to, payload) {
                    eprintln!("raw sockets need root: not tested");
                    return;
                }
            }
        }
    }
    client.publish("ps/loop", "x");
    std::thread::sleep(ms(100));
    // A loop would go on for ever: what is counted must come to rest.
    let received = || gateway.metric("coap_messages_received_total", &[]);
    wait_until("rest", || {
        let before = received();
        std::thread::sleep(ms(300));
        received() == before
    });
    gateway.assert_serves();
}

#[test]
fn observers_that_vanish() {
    let gateway = Gateway::start(Config::new().transmission(100, 1));
    for i in 0..50 {
        let mut gone = gateway.client(if i % 5 == 0 { Kind::Dtls } else { Kind::Udp });
        gone.observe(&format!("ps/a?qos={}", i % 2));
    }
    let mut good = gateway.client(Kind::Udp);
    let observation = good.observe("ps/a");
    for i in 0..20 {
        good.publish("ps/a", format!("{i}"));
        assert_eq!(good.notification(&observation.token).text(), format!("{i}"));
    }
    wait_until("those that never acknowledged are gone", || {
        gateway.metric("subscriptions", &[]) <= 26.0
    });
    gateway.assert_serves();
}

#[test]
fn garbage_between_the_messages_of_a_good_peer() {
    let gateway = Gateway::start(Config::new());
    let mut noise = Noise(3);
    for kind in [Kind::Udp, Kind::Dtls] {
        let mut client: Client = gateway.client(kind);
        let observation = client.observe("ps/g");
        let socket = client.socket();
        for i in 0..100 {
            let length = 1 + noise.below(80);
            let mut bytes = noise.bytes(length);
            // No well-formed message by accident: another version of CoAP, and no record type of DTLS.
            bytes[0] = 0xc0;
            let _ = socket.send(&bytes);
            client.publish("ps/g", format!("{i}"));
            assert_eq!(client.notification(&observation.token).text(), format!("{i}"));
        }
    }
    gateway.assert_serves();
}
