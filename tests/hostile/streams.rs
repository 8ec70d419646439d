//! What the peers of streams can do to the others: nothing. Each case ends with the peers that were there being served, over DTLS and over
//! TCP, and with new ones.

use std::net::TcpStream;

use openssl::ssl::SslVersion;
use socket2::SockRef;

use crate::Noise;
use crate::support::stream::{Stream, frame, signal, signalling};
use crate::support::{Client, Config, Gateway, Kind, Request, code, ms, psk_of, wait_until};

/// A gateway with peers that must go on being served.
struct Standing {
    gateway: Gateway,
    session: Client,
    stream: Stream,
    token: Vec<u8>,
    rss: u64,
}

impl Standing {
    fn start(tcp: &str, tls: &str) -> Self {
        let config = Config::new().set("log", "level = \"warn\"");
        let gateway = Gateway::start(config.tcp(tcp).tls(tls));
        gateway.assert_serves();
        let session = gateway.client(Kind::Dtls);
        let mut stream = Stream::tcp(gateway.udp_addr());
        let token = stream.observe("ps/standing");
        Self {
            rss: gateway.rss_kib(),
            gateway,
            session,
            stream,
            token,
        }
    }

    fn ended(&self, reason: &str) -> f64 {
        let reason = format!("reason=\"{reason}\"");
        self.gateway.metric("stream_closed_total", &[&reason])
    }

    /// Those of before publish and observe, and so do new ones.
    #[track_caller]
    fn are_served(mut self, most_kib: u64) {
        self.session.publish("ps/standing", "still");
        let told = self.stream.receive().expect("a notification");
        assert_eq!((&told.token, told.text()), (&self.token, "still".to_owned()));
        let mut new = Stream::tcp(self.gateway.udp_addr());
        new.request(&Request::put("ps/standing").payload("new"))
            .expect(code::CHANGED);
        assert_eq!(self.stream.receive().expect("a notification").text(), "new");
        let mut new = Stream::psk(
            self.gateway.dtls_addr(),
            "dev1",
            &psk_of("dev1"),
            SslVersion::TLS1_2,
        )
        .unwrap();
        new.request(&Request::put("ps/standing").payload("too"))
            .expect(code::CHANGED);
        assert_eq!(self.stream.receive().expect("a notification").text(), "too");
        self.gateway.assert_serves();
        let grown = self.gateway.rss_kib().saturating_sub(self.rss);
        assert!(grown < most_kib, "{grown} KiB more than before");
    }
}

#[test]
fn messages_that_are_never_finished_end_their_connections() {
    let standing = Standing::start("message_timeout = \"1s\"", "message_timeout = \"1s\"");
    let whole = {
        let mut peer = Stream::tcp(standing.gateway.udp_addr());
        let message = peer.message(&Request::put("ps/half").payload([b'x'; 3_000]));
        frame(&message)
    };
    let half: Vec<Stream> = [1, 2, 3, 4, 5, 20, 2_000, whole.len() - 1]
        .into_iter()
        .flat_map(|len| {
            let gateway = &standing.gateway;
            let mut both = [Stream::tcp(gateway.udp_addr()), Stream::dev1(gateway.dtls_addr())];
            both.iter_mut().for_each(|peer| peer.write(&whole[..len]));
            both
        })
        .collect();
    for mut peer in half {
        let last = peer.end().expect("a last word");
        assert_eq!(last.code, signal::ABORT, "{last:?}");
    }
    wait_until("all are gone", || standing.ended("unfinished_message") >= 16.0);
    standing.are_served(32 << 10);
}

#[test]
fn bytes_that_come_one_by_one_are_a_message_as_long_as_it_is_done_in_time() {
    let standing = Standing::start("", "");
    let mut slow = Stream::silent(standing.gateway.udp_addr());
    let publish = slow.message(&Request::put("ps/slow?retain=1").payload("slow"));
    for byte in [frame(&signalling(signal::CSM, &[])), frame(&publish)].concat() {
        slow.write(&[byte]);
        std::thread::sleep(ms(5));
    }
    assert_eq!(slow.receive().unwrap().code, signal::CSM);
    slow.receive().unwrap().expect(code::CHANGED);
    standing.are_served(32 << 10);
}

#[test]
fn giant_lengths_long_tokens_and_garbage_take_no_memory_and_end_their_connections() {
    let standing = Standing::start("", "");
    let mut noise = Noise(11);
    let mut bad: Vec<Vec<u8>> = vec![
        vec![0xf0, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0xf8, 0x7f, 0xff, 0xff, 0xff, 0x01, 1, 2, 3, 4, 5, 6, 7, 8],
        vec![0xf0, 0x00, 0x01, 0x00, 0x00, 0xe1],
        vec![0xe0, 0xff, 0xff, 0x02],
        // An option that is longer than the message, one with the reserved length, a marker without payload, a number beyond 65535.
        vec![0x20, 0x03, 0xbd, 0xff],
        vec![0x20, 0x03, 0xbf, 0x00],
        vec![0x20, 0x03, 0xb0, 0xff],
        vec![0x60, 0x03, 0xe0, 0xff, 0xff, 0xe0, 0xff, 0xff],
        // A Ping with a critical option, a Release with one, a CSM that ends in the middle of an option.
        vec![0x10, 0xe2, 0x10],
        vec![0x10, 0xe4, 0x70],
        vec![0x20, 0xe1, 0x2d, 0xff],
    ];
    bad.extend((9..16).map(|token| vec![token, 0x01]));
    let known = bad.len();
    for bytes in &bad {
        for greets in [true, false] {
            let mut peer = Stream::silent(standing.gateway.udp_addr());
            if greets {
                peer = peer.greeted();
            }
            peer.write(bytes);
            while let Some(message) = peer.receive() {
                assert!(
                    [signal::CSM, signal::ABORT].contains(&message.code),
                    "{message:?} to {bytes:x?}"
                );
            }
        }
    }
    assert!(standing.ended("malformed_stream") >= 2.0 * known as f64 - 4.0);
    for _ in 0..200 {
        let length = 1 + noise.below(3_000);
        let bytes = noise.bytes(length);
        let mut peer = Stream::tcp(standing.gateway.udp_addr());
        peer.write(&bytes);
        peer.close();
        if let Ok(tcp) = TcpStream::connect(standing.gateway.dtls_addr()) {
            use std::io::Write as _;
            let _ = (&tcp).write_all(&bytes);
        }
    }
    standing.are_served(32 << 10);
}

#[test]
fn an_observer_that_never_reads_holds_what_is_its_own_and_loses_its_connection() {
    let limits = "message_timeout = \"2s\"\nmax_queued = \"1MiB\"";
    let mut standing = Standing::start(limits, limits);
    let deaf: Vec<Stream> = (0..8)
        .map(|n| {
            let gateway = &standing.gateway;
            let mut peer = match n % 2 {
                0 => Stream::tcp(gateway.udp_addr()),
                _ => Stream::dev1(gateway.dtls_addr()),
            };
            SockRef::from(&peer.tcp).set_recv_buffer_size(4096).unwrap();
            peer.observe("ps/big");
            peer
        })
        .collect();
    let token = standing.stream.observe("ps/big");
    for n in 0..600_u32 {
        let mut body = vec![b'x'; 1_000];
        body[..4].copy_from_slice(&n.to_be_bytes());
        standing.session.publish("ps/big", &body);
        let told = standing.stream.receive().expect("a notification");
        assert_eq!(told.token, token);
        assert_eq!(
            told.payload[..4],
            n.to_be_bytes(),
            "in order, and none is missing"
        );
        let queued = standing.gateway.metric("standing_bytes", &["table=\"queues\""]);
        assert!(queued < f64::from(16 << 20), "{queued}");
    }
    wait_until("they are gone", || standing.ended("slow_reader") >= 8.0);
    drop(deaf);
    standing.are_served(48 << 10);
}

#[test]
fn who_asks_and_never_reads_is_read_no_more() {
    let mut standing = Standing::start("message_timeout = \"2s\"", "");
    standing.session.publish("ps/large?retain=1", vec![b'y'; 1_000]);
    let mut greedy: Vec<Stream> = (0..8).map(|_| Stream::tcp(standing.gateway.udp_addr())).collect();
    let answered = || {
        let labels = ["code=\"2.05\"", "transport=\"tcp\""];
        standing.gateway.metric("coap_messages_sent_total", &labels)
    };
    let before = answered();
    for peer in &mut greedy {
        SockRef::from(&peer.tcp).set_recv_buffer_size(4096).unwrap();
        peer.tcp.set_write_timeout(Some(ms(500))).unwrap();
        let asks = peer.message(&Request::get("ps/large"));
        // 100,000 requests, as far as they are taken.
        let many = frame(&asks).repeat(1_000);
        for _ in 0..100 {
            use std::io::Write as _;
            if (&peer.tcp).write_all(&many).is_err() {
                break;
            }
        }
    }
    assert!(answered() - before < 8.0 * 20_000.0, "{}", answered() - before);
    wait_until("they are gone", || standing.ended("slow_reader") >= 8.0);
    drop(greedy);
    standing.are_served(48 << 10);
}

#[test]
fn idle_connections_by_the_thousand_are_bounded_and_keep_nobody_out_for_long() {
    let limits = "max_connections = 300\nmax_connections_per_source = 200\nhandshake_timeout = \"3s\"";
    let standing = Standing::start(limits, limits);
    let gateway = &standing.gateway;
    let idle: Vec<TcpStream> = (0..2_000)
        .filter_map(|n| {
            let to = if n % 2 == 0 {
                gateway.udp_addr()
            } else {
                gateway.dtls_addr()
            };
            TcpStream::connect(to).ok()
        })
        .collect();
    wait_until("those beyond the limits are closed", || {
        gateway.metric("stream_refused_total", &[]) >= 1_500.0
    });
    assert!(gateway.metric("tls_half_open", &[]) <= 200.0);
    wait_until("the others are, as they say nothing", || {
        standing.ended("no_csm") >= 190.0 && gateway.metric("tls_half_open", &[]) == 0.0
    });
    drop(idle);
    standing.are_served(64 << 10);
}

#[test]
fn tls_handshakes_that_stop_half_way_are_capped_and_forgotten() {
    let standing = Standing::start("", "max_half_open = 8\nhandshake_timeout = \"1s\"");
    let gateway = &standing.gateway;
    let mut noise = Noise(12);
    let half: Vec<TcpStream> = (0..64)
        .map(|n| {
            use std::io::Write as _;
            let tcp = TcpStream::connect(gateway.dtls_addr()).unwrap();
            // The head of a record with a hello, and then nothing, or garbage.
            let _ = (&tcp).write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc]);
            if n % 2 == 0 {
                let _ = (&tcp).write_all(&noise.bytes(100));
            }
            tcp
        })
        .collect();
    wait_until("the others are closed", || {
        gateway.metric("stream_refused_total", &["reason=\"max_half_open\""]) >= 1.0
    });
    assert!(gateway.metric("tls_half_open", &[]) <= 8.0);
    wait_until("all are forgotten", || {
        gateway.metric("tls_half_open", &[]) == 0.0
    });
    drop(half);
    standing.are_served(32 << 10);
}

#[test]
fn a_flood_of_messages_on_one_connection_leaves_the_others_their_turn() {
    let mut standing = Standing::start("", "");
    let gateway_addr = standing.gateway.udp_addr();
    let flood = std::thread::spawn(move || {
        let mut peer = Stream::tcp(gateway_addr);
        let publish = peer.message(&Request::put("ps/flood").payload("x"));
        let many = frame(&publish).repeat(100);
        for _ in 0..300 {
            peer.write(&many);
            for _ in 0..100 {
                peer.receive().expect("an answer");
            }
        }
    });
    for n in 0..100 {
        standing.session.publish("ps/standing", n.to_string());
        assert_eq!(
            standing.stream.receive().expect("a notification").text(),
            n.to_string()
        );
    }
    flood.join().unwrap();
    standing.are_served(32 << 10);
}
